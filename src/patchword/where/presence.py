"""Whether a text is in a photo at all: a number beside each map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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

# From which on a text counts as found by a head trained with masks. Of `demo`, on 100 unseen scenes
# of each kind: 99.5% of coloured shapes, all wafer defects; of absent ones 5% and 16%.
LEAST = 0.7
AMONG_WORDS = 0.1  # the same among the words that a photo may show; docs/benchmarks.md
AMONG_NEGATIVES = 0.5  # and among negatives that were named
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
    """How probable each text is in a photo (H, W, 3), 0 to 1, whatever the other texts are.

    A softmax of the text's scaled cosine against those of `negatives`. Without: against the words
    that the model was trained on, where it says which, else `ORDINARY`, in both less the text's
    own. Of a SigLIP, which was trained for that, the sigmoid; of a BLIP without a joint space the
    probability of its matching head. tiles: parts of the photo, of any sizes, which are asked by
    themselves; the greatest probability counts.
    """
    if negatives is None and not model.config.embed_dim:
        found = _each(lambda parts: match(model, parts, texts).probabilities, photo, tiles)
        return tuple(found.max(axis=0).tolist())
    rows = _each(model.embed_images, photo, tiles).T  # (D, P)
    cosines = model.embed_texts(texts) @ rows  # (T, P)
    if negatives is None and model.config.score == "sigmoid":
        return tuple((1 / (1 + np.exp(-(model.scale * cosines.max(axis=1) + model.bias)))).tolist())
    counted = np.array(list(_counted(model, texts)))[..., None] if negatives is None else 1.0
    logits = model.scale * (_others(model, negatives) @ rows - cosines[:, None])  # (T, others, P)
    return tuple((1 / (1 + (counted * np.exp(logits)).sum(axis=1).min(axis=1))).tolist())


def _each(
    run: Callable[[list[ImageLike]], Vector],
    photo: NDArray[np.uint8],
    tiles: Sequence[NDArray[np.uint8]],
) -> Vector:
    """What is said of a photo and of each of its tiles, a row each; of these nothing is told."""
    found = run([photo])
    if not tiles:
        return found
    with told_elsewhere(first=False):
        return np.concatenate([found, run(list(tiles))])


def least(negatives: str | Sequence[str] | None) -> float:
    """From which probability on `present` counts as found. Raises UnsupportedError for negatives
    that are none."""
    if negatives is None:
        return AMONG_WORDS
    _some(negatives)
    return AMONG_NEGATIVES


def likely(maps: Vector, background: Vector, scale: float) -> tuple[float, ...]:
    """How probable each text is in a photo, 0 to 1, from the cosines of a head trained with masks:
    maps (T, h, w), and those of the background (h, w). At the place where it is most probable, the
    sigmoid of `scale` times a text's cosine less the background's."""
    highest = (maps - background).max(axis=(1, 2))
    return tuple((1 / (1 + np.exp(-scale * highest))).tolist())


def _words(model: Bundle) -> Sequence[str]:
    return sorted(model.scope.words) if model.scope else ORDINARY


def _others(model: Bundle, negatives: str | Sequence[str] | None) -> Vector:
    """Unit vectors of what else there could be."""
    if negatives is not None:
        return model.embed_texts(_some(negatives))
    return label_features(model, _words(model), ["{}"])


def _some(negatives: str | Sequence[str]) -> list[str]:
    if found := text_list(negatives):
        return found
    raise UnsupportedError("negatives is empty; leave it out, or say what else there could be")


def _counted(model: Bundle, texts: Sequence[str]) -> Iterator[list[bool]]:
    """Of each text the words that are not its own."""
    words = _words(model)
    for text in texts:
        own = set(WORD.findall(text.lower()))
        yield [word not in own for word in words]
