"""How probable it is that a text is in a photo at all: a number for each map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle, Vector
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.options import text_list
from patchword.scope import WORD
from patchword.tasks.label_cache import label_features
from patchword.tasks.match import match
from patchword.tasks.tiled import told_elsewhere

# Thresholds from which a text counts as found. By a head trained with masks it was chosen on scenes
# of seed 98; with `demo`, on 100 scenes of each kind of seed 97, it finds 99.5% of coloured shapes
# and all wafer defects, and of absent ones 9% and 12% (benchmarks/regions.py).
LEAST = 0.65
AMONG_WORDS = 0.1  # against the words that a photo may show; docs/benchmarks.md
AMONG_NEGATIVES = 0.5  # against given negatives
# What a photo may show instead of a text, for a model that does not say which words it knows.
ORDINARY = (
    "person", "face", "hand", "crowd", "animal", "dog", "cat", "bird", "horse", "insect", "car",
    "bus", "train", "bicycle", "boat", "aeroplane", "tree", "flower", "leaf", "grass", "sky",
    "cloud", "mountain", "river", "sea", "beach", "snow", "road", "street", "house", "building",
    "bridge", "room", "window", "door", "table", "chair", "bed", "sofa", "shelf", "book", "paper",
    "text", "logo", "screen", "phone", "computer", "lamp", "clock", "bottle", "cup", "plate",
    "food", "fruit", "bread", "cake", "shirt", "shoe", "hat", "bag", "toy", "ball", "knife", "tool",
    "machine", "wall", "floor", "stone", "sand", "water", "fire", "wood", "metal", "glass",
    "plastic", "cloth", "pattern", "drawing", "painting", "map",
)  # fmt: skip


def present(
    model: Bundle,
    photo: NDArray[np.uint8],
    texts: Sequence[str],
    negatives: str | Sequence[str] | None = None,
    tiles: Sequence[NDArray[np.uint8]] = (),
) -> tuple[float, ...]:
    """The probability, 0 to 1, that each text is in a photo (H, W, 3), independent of the other
    texts. With c the cosines of the photo, it is a softmax against the negatives n,

        p(t) = exp(scale c_t) / (exp(scale c_t) + sum over n of exp(scale c_n))

    Without `negatives` n are the words that the model was trained on, or `ORDINARY` if it does not
    say which, except the words of t. A SigLIP without `negatives` gives its sigmoid, and a BLIP
    without a joint space the probability of its matching head.

    tiles  parts of the photo, of any sizes; the greatest probability over photo and tiles counts
    """
    if negatives is None and not model.config.embed_dim:
        matches = _each_view(lambda views: match(model, views, texts).probabilities, photo, tiles)
        return tuple(matches.max(axis=0).tolist())
    images = _each_view(model.embed_images, photo, tiles).T  # (D, V)
    cosines = model.embed_texts(texts) @ images  # (T, V)
    if negatives is None and model.config.score == "sigmoid":
        logits = model.scale * cosines.max(axis=1) + model.bias
        return tuple((1 / (1 + np.exp(-logits))).tolist())
    if negatives is None:
        words = sorted(model.scope.words) if model.scope else ORDINARY
        others = label_features(model, words, ["{}"])
        counts = _is_other_word(words, texts)[..., None]
    else:
        others = model.embed_texts(_checked_negatives(negatives))
        counts = np.ones(1, np.bool_)
    odds = np.exp(model.scale * (others @ images - cosines[:, None]))  # (T, N, V)
    return tuple((1 / (1 + (counts * odds).sum(axis=1).min(axis=1))).tolist())


def _each_view(
    run: Callable[[list[ImageLike]], Vector],
    photo: NDArray[np.uint8],
    tiles: Sequence[NDArray[np.uint8]],
) -> Vector:
    """The rows of a photo and of its tiles; warnings about tiles are left out."""
    rows = run([photo])
    if not tiles:
        return rows
    with told_elsewhere(first=False):
        return np.concatenate([rows, run(list(tiles))])


def least(negatives: str | Sequence[str] | None) -> float:
    """The default threshold on `present`. Raises UnsupportedError for empty negatives."""
    if negatives is None:
        return AMONG_WORDS
    _checked_negatives(negatives)
    return AMONG_NEGATIVES


def likely(maps: Vector, background: Vector, scale: float) -> tuple[float, ...]:
    """The probability, 0 to 1, that each text is in a photo, from the cosines of a head trained
    with masks, maps (T, h, w) and the background's (h, w): sigmoid(scale * max over places of the
    text's cosine less the background's)."""
    highest = (maps - background).max(axis=(1, 2))
    return tuple((1 / (1 + np.exp(-scale * highest))).tolist())


def _checked_negatives(negatives: str | Sequence[str]) -> list[str]:
    texts = text_list(negatives)
    if not texts:
        raise UnsupportedError("negatives is empty; leave it out, or say what else there could be")
    return texts


def _is_other_word(words: Sequence[str], texts: Sequence[str]) -> NDArray[np.bool_]:
    """(T, N): True for each of N words that is not in a text."""
    rows = []
    for text in texts:
        own = set(WORD.findall(text.lower()))
        rows.append([word not in own for word in words])
    return np.array(rows)
