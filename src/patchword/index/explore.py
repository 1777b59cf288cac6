"""Clusters of the entries of an index, named by words."""

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
from patchword.index.cluster_names import Phrase, name, names_of, naming, phrases
from patchword.index.clusters import centres, nearest_centres
from patchword.index.common_labels import COMMON_LABELS
from patchword.index.matrix import Half, Matrix
from patchword.index.nearest import Hit, top_hits
from patchword.index.query import units
from patchword.index.table import Table
from patchword.scope import Check

MIN_CLUSTERS, MAX_CLUSTERS = 2, 64  # where their number is not given
BAND = 0.3  # standard deviations over all words, by which a fitting word may be below the best one
MIN_SHARE = 0.7  # of a cluster's members, that a name must fit
CLEAR = 0.05  # by how much a name must fit better than the next word of another meaning
SAMPLE = 1000  # members of a cluster that names are compared with
HALF_SPACING = 2.0**-10  # the relative spacing of float16, to which members' vectors are rounded
SYNONYMS = 0.9  # the least cosine of two words that mean the same


@dataclass(frozen=True)
class Cluster:
    """Entries that are alike.

    name      the word that fits the cluster and most of its entries clearly better than others;
              "unnamed, like cat.jpg" if there is none; "unlike what demo knows, like cat.jpg" where
              the model does not know most of them; "cluster 3" for a model that reads no texts
    count     how many entries it has
    examples  the entries nearest to its centre, with their cosines with the centre
    """

    name: str
    count: int
    examples: list[Hit]


def default_count(rows: int) -> int:
    """How many clusters to make of so many entries."""
    return min(MAX_CLUSTERS, max(MIN_CLUSTERS, round(math.sqrt(rows / 2))))


@dataclass(frozen=True)
class Named:
    """Words to name clusters by, and their unit vectors (W, D). phrases: sentences that give names
    instead; the vectors are then those of the sentences."""

    words: list[str]
    vectors: NDArray[np.float32]
    phrases: list[Phrase]


def named(model: Bundle, words: list[str] | None) -> Named | None:
    """Words to name clusters by: the given ones; None: sentences that a model with a scope knows,
    else what photos often show. A model whose sentences name all the given words that it knows is
    asked in these too. Warns of words that it does not know. Returns None for a model that reads no
    texts. Raises UnsupportedError for words that the model cannot read, and for an empty list."""
    reads_texts = bool(model.config.embed_dim) and model.tokenizer is not None
    if words is not None and not (reads_texts and words):
        reason = "give one or more" if reads_texts else f"{model.name} reads no texts"
        raise UnsupportedError(f"words to name clusters by: {reason}")
    if not reads_texts:
        return None
    sentences = phrases(model.scope) if model.scope else []
    if words is None:
        words = list(COMMON_LABELS)
    elif model.scope:
        names = names_of(sentences)
        others = [word for word in words if word not in names]
        Check(model.scope, model.name).texts(others)
        unknown = [word for word in others if model.scope.unknown_words([word])]
        sentences = naming(sentences, words) if others == unknown else []
    texts = [phrase.sentence for phrase in sentences] or [f"a photo of a {word}" for word in words]
    return Named(words, model.embed_rows(model.reader().rows(texts)), sentences)


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
    middles = centres(half, count or default_count(len(half)))
    nearest, cosines = nearest_centres(half, middles)
    cluster_of, cosine = nearest[:, 0], cosines.numpy()[:, 0]
    sizes = np.bincount(cluster_of, minlength=len(middles))
    order = [int(number) for number in np.argsort(-sizes, kind="stable") if sizes[number]]
    samples = [half[cluster_of == number][:SAMPLE] for number in order]
    words = _words(middles[order], samples, names)
    scope = model.scope.rounded(HALF_SPACING) if model.scope else None
    result: list[Cluster] = []
    for number, word, sample in zip(order, words, samples, strict=True):
        members = np.flatnonzero(cluster_of == number)
        first = members[np.argsort(-cosine[members], kind="stable")[:examples]]
        ids = matrix.ids[first if rows is None else rows[first]]
        centre = middles[number].numpy().astype(np.float64)
        hits = top_hits(table, ids, centre, examples, model.scope)
        title = f"cluster {len(result) + 1}"
        if names:
            outside = scope is not None and np.mean(scope.outside(sample)) > 0.5
            like = f"like {os.path.basename(hits[0].path)}"
            taken = {cluster.name for cluster in result}
            title = f"unlike what {model.name} knows, {like}"
            if not outside:
                title = _title(word, like, taken)
        result.append(Cluster(title, int(sizes[number]), hits))
    return result


def _title(word: str, like: str, taken: set[str]) -> str:
    """The name of a cluster that the model knows. word: what it shows, "" if that is not clear;
    like: its best example, in words; taken: names of other clusters."""
    if not word:
        return f"unnamed, {like}"
    return word if word not in taken else f"{word}, {like}"


def _words(middles: Tensor, members: Sequence[Half], names: Named | None) -> list[str]:
    """The word for each of C clusters, "" for none. middles (C, D); members: some of each, (N, D).

    Candidates are the words that are about as near to the centre as the nearest one. The best one
    points most in the direction in which the centre lies from the mean of all centres. It must fit
    clearly better than any word of another meaning, and fit most of the members. A model with
    phrases instead: what its sentences name in most of the members.
    """
    if names is None:
        return [""] * len(members)
    if names.phrases:
        cosines = (rows.astype(np.float64) @ names.vectors.T for rows in members)
        return [name(member_cosines, names.phrases, MIN_SHARE) for member_cosines in cosines]
    centre_rows = middles.numpy().astype(np.float64)
    sizes = [len(rows) for rows in members]
    mean = np.average(centre_rows, axis=0, weights=sizes) if len(centre_rows) > 1 else 0.0
    vectors = names.vectors.astype(np.float64)
    synonyms = vectors @ vectors.T >= SYNONYMS
    scores = units(centre_rows - mean) @ units(vectors - vectors.mean(axis=0)).T  # (C, W)
    result: list[str] = []
    for centre, score, rows in zip(centre_rows, scores, members, strict=True):
        score = np.where(_near(centre[None] @ vectors.T)[0], score, -np.inf)
        best = int(score.argmax())
        others = score[~synonyms[best]]
        is_clear = not len(others) or score[best] - others.max() >= CLEAR
        fits = _near(rows.astype(np.float64) @ vectors.T)[:, synonyms[best]].any(axis=1)
        result.append(names.words[best] if is_clear and fits.mean() >= MIN_SHARE else "")
    return result


def _near(cosines: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which words (N, W) are about as near as the nearest one of their row."""
    threshold = cosines.max(axis=1) - BAND * cosines.std(axis=1)
    near: NDArray[np.bool_] = cosines >= threshold[:, None]
    return near
