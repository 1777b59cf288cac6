"""What is in an index: clusters of its entries, named by words."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.index.cluster_names import Phrase, name, phrases
from patchword.index.clusters import centres, nearest_centres
from patchword.index.common_labels import THINGS
from patchword.index.matrix import Half, Matrix
from patchword.index.nearest import Hit, best
from patchword.index.query import units
from patchword.index.table import Table
from patchword.scope import Check

FEWEST, MOST = 2, 64  # clusters, where their number is not given
BAND = 0.3  # by how much less, in deviations over all words, a name's cosine may be than the best
MOSTLY = 0.7  # share of a cluster's members that a name must fit, each by itself
CLEAR = 0.05  # by how much a name must fit better than the next word that means another thing
SAMPLE = 1000  # members of a cluster that are asked
SAME = 0.9  # cosine of two words from which on they mean the same


@dataclass(frozen=True)
class Cluster:
    """Entries that are alike.

    name      the word that fits it, and most of its entries, clearly better than others; where none
              does "unnamed, like cat.jpg"; of photos that the model does not know "unlike what demo
              knows, like cat.jpg"; "cluster 3" of a model that reads no texts
    count     entries in it
    examples  those nearest to its centre, with their cosines with it
    """

    name: str
    count: int
    examples: list[Hit]


def how_many(rows: int) -> int:
    """Clusters for so many entries."""
    return min(MOST, max(FEWEST, round(math.sqrt(rows / 2))))


@dataclass(frozen=True)
class Named:
    """Words that clusters may be named by, or sentences that give names, and their unit vectors
    (W, D)."""

    words: list[str]
    vectors: NDArray[np.float32]
    phrases: list[Phrase]


def named(model: Bundle, words: list[str] | None) -> Named | None:
    """Words to name clusters by: those given, sentences of a model of few words, or what photos
    show; None of a model that reads no texts. Raises UnsupportedError for words that it cannot
    read, and for none."""
    reads = bool(model.config.embed_dim) and model.tokenizer is not None
    if words is not None and not (reads and words):
        why = "give one or more" if reads else f"{model.name} reads no texts"
        raise UnsupportedError(f"words to name clusters by: {why}")
    if not reads:
        return None
    if words:
        Check(model.scope, model.name).texts(words)
    said = phrases(model.scope) if words is None and model.scope is not None else []
    words = words or list(THINGS)
    texts = [each.sentence for each in said] or [f"a photo of a {word}" for word in words]
    return Named(words, model.embed_rows(model.reader().rows(texts)), said)


def clusters(
    table: Table,
    matrix: Matrix,
    rows: NDArray[np.intp] | None,
    count: int | None,
    examples: int,
    names: Named | None,
    model: Bundle,
) -> list[Cluster]:
    """Clusters of entries, the largest first. rows: those of the matrix; None: all."""
    half = matrix.read(rows)
    if not len(half):
        return []
    middle = centres(half, count or how_many(len(half)))
    cells, cosines = nearest_centres(half, middle)
    own, near = cells[:, 0], cosines.numpy()[:, 0]
    counts = np.bincount(own, minlength=len(middle))
    order = [int(cell) for cell in np.argsort(-counts, kind="stable") if counts[cell]]
    words = _words(middle[order], [half[own == cell][:SAMPLE] for cell in order], names)
    out: list[Cluster] = []
    for number, cell in enumerate(order):
        inside = np.flatnonzero(own == cell)
        first = inside[np.argsort(-near[inside], kind="stable")[:examples]]
        ids = matrix.ids[first if rows is None else rows[first]]
        centre = middle[cell].numpy().astype(np.float64)
        hits = best(table, ids, centre, examples, model.scope)
        title = f"cluster {number + 1}"
        if names:
            title = _title(words[number], hits, model.name, {each.name for each in out})
        out.append(Cluster(title, int(counts[cell]), hits))
    return out


def _title(word: str, hits: list[Hit], model: str, taken: set[str]) -> str:
    """What a cluster of these examples is called; word: what it shows, "" if that is not clear."""
    like = f"like {os.path.basename(hits[0].path)}"
    if sum(hit.outside for hit in hits) > len(hits) / 2:
        return f"unlike what {model} knows, {like}"
    if not word:
        return f"unnamed, {like}"
    return word if word not in taken else f"{word}, {like}"


def _words(middle: Tensor, members: Sequence[Half], names: Named | None) -> list[str]:
    """The word for each centre (C, D) whose vector points most where the centre lies from the mean
    of all, of those that are themselves about as near as the nearest; "" where another word, that
    does not mean the same, fits nearly as well, or where it does not fit most of the members
    (N, D). Of a model of few words, what most of the members show by its sentences."""
    if names is None:
        return [""] * len(members)
    if names.phrases:
        cosines = (each.astype(np.float64) @ names.vectors.T for each in members)
        return [name(each, names.phrases, MOSTLY) for each in cosines]
    rows = middle.numpy().astype(np.float64)
    counts = [len(each) for each in members]
    mean = np.average(rows, axis=0, weights=counts) if len(rows) > 1 else 0.0
    vectors = names.vectors.astype(np.float64)
    alike = vectors @ vectors.T >= SAME
    fit = units(rows - mean) @ units(vectors - vectors.mean(axis=0)).T  # (C, W)
    out: list[str] = []
    for row, fits, inside in zip(rows, fit, members, strict=True):
        fits = np.where(_near(row[None] @ vectors.T)[0], fits, -np.inf)
        first = int(fits.argmax())
        rest = fits[~alike[first]]
        fitting = _near(inside.astype(np.float64) @ vectors.T)[:, alike[first]].any(axis=1).mean()
        clear = not len(rest) or fits[first] - rest.max() >= CLEAR
        out.append(names.words[first] if clear and fitting >= MOSTLY else "")
    return out


def _near(cosines: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which words are about as near as the nearest of each row (N, W)."""
    least = cosines.max(axis=1) - BAND * cosines.std(axis=1)
    near: NDArray[np.bool_] = cosines >= least[:, None]
    return near
