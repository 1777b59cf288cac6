"""Zero-shot classification: which words fit a photo best."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike
from patchword.tasks.templates import named

NONE = "none of these"


@dataclass(frozen=True)
class Score:
    """A label and how probable it is, 0 to 1."""

    label: str
    probability: float


def classify(
    model: Bundle,
    images: Iterable[ImageLike],
    labels: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
) -> list[list[Score]]:
    """Per image, labels with probabilities, best first: a softmax of the scaled cosines (Radford et
    al. 2021, section 3.1.2).

    labels       words to choose from; None for a classifier's own
    templates    sentences with "{}" for the label; a label's text feature is the unit mean of its
                 sentences' (section 3.1.4). None is "a photo of a {}"; "imagenet" and "chinese"
                 stand for sets of them (`templates.NAMED`)
    multi_label  each label by itself; probabilities need not sum to one. A SigLIP was trained to
                 give them: the sigmoid of scale * cosine + bias (Zhai et al. 2023, section 3.2,
                 algorithm 1). Another model was not, and gives a softmax of the label's
                 cosine against that of the same sentences with no label in them
    reject       "none of these" comes first when even the best label, judged by itself as above,
                 is less probable than this

    Raises the ImageError of the first image that cannot be opened; `classify_each` never stops.
    """
    answers = []
    for _, scores in classify_each(model, images, labels, templates, multi_label, reject):
        if isinstance(scores, ImageError):
            raise scores
        answers.append(scores)
    return answers


def classify_each(
    model: Bundle,
    images: Iterable[ImageLike],
    labels: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
) -> Iterator[tuple[ImageLike, list[Score] | ImageError]]:
    """Each image in order with its scores as from `classify`, or the ImageError it raised."""
    if labels is None:
        yield from _own_labels(model, images)
        return
    if isinstance(labels, str) or not labels or len(set(labels)) < len(labels):
        raise UnsupportedError(f"labels must be a list of one or more different words: {labels!r}")
    sentences = named(templates)
    if bad := [sentence for sentence in sentences if "{}" not in sentence]:
        raise UnsupportedError(f"template {bad[0]!r} has no {{}} where the label goes")
    features = label_features(model, labels, sentences)  # (L, D)
    alone = multi_label or reject is not None
    judge = _judge(model, sentences) if alone else None
    for image, row in model.embed_each(images):
        if isinstance(row, ImageError):
            yield image, row
            continue
        cosines = features @ row
        single = judge(row, cosines) if judge is not None else None
        chosen = single if multi_label and single is not None else _softmax(model.scale * cosines)
        scores = _ranked(labels, chosen)
        if reject is not None and single is not None and single.max() < reject:
            scores.insert(0, Score(NONE, float(1 - single.max())))
        yield image, scores


def _judge(
    model: Bundle, sentences: Sequence[str]
) -> Callable[[Vector, NDArray[np.floating]], NDArray[np.floating]]:
    """From an image's unit vector (D,) and its cosines (L,) with labels to the probability of each
    label by itself."""
    scale, bias = model.scale, model.bias
    if model.config.score == "sigmoid":
        return lambda row, cosines: _sigmoid(scale * cosines + bias)
    neutral = label_features(model, [""], sentences)[0]
    return lambda row, cosines: _sigmoid(scale * (cosines - neutral @ row))


def label_features(model: Bundle, labels: Sequence[str], templates: Sequence[str]) -> Vector:
    """Unit vectors (L, D), each the mean over the templates; kept on disk by fingerprint, but for
    a model without one: it is asked once, and is another after the next step of its training."""
    if not model.fingerprint:
        return _mean_features(model, labels, templates)
    key = hashlib.sha256(repr((tuple(labels), tuple(templates))).encode()).hexdigest()[:32]
    return _cached(
        cache_folder() / model.fingerprint / f"{key}.npy",
        lambda: _mean_features(model, labels, templates),
    )


def _mean_features(model: Bundle, labels: Sequence[str], templates: Sequence[str]) -> Vector:
    sentences = [" ".join(t.format(label).split()) for label in labels for t in templates]
    vectors = model.embed_texts(sentences).reshape(len(labels), len(templates), -1)
    means = vectors.mean(axis=1)
    return means / np.linalg.norm(means, axis=-1, keepdims=True)  # type: ignore[no-any-return]


def cache_folder() -> Path:
    """Where label features are kept: $PATCHWORD_CACHE, or `patchword` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "patchword"
    return Path(os.environ.get("PATCHWORD_CACHE", default)) / "texts"


def _cached(path: Path, compute: Callable[[], Vector]) -> Vector:
    """The array in `path`, computed and written there first if need be.

    A cache is a convenience: a file that is damaged is computed again, a folder that cannot be
    written is done without.
    """
    try:
        return np.load(path)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError):
        values = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npy", delete=False) as file:
            np.save(file, values)
        os.replace(file.name, path)
    except OSError:
        pass
    return values


def _own_labels(
    model: Bundle, images: Iterable[ImageLike]
) -> Iterator[tuple[ImageLike, list[Score] | ImageError]]:
    """A classifier's softmax over the classes it was trained on."""
    if not model.config.classes:
        raise UnsupportedError(
            f"{model.name} has no classes of its own; give labels to choose from"
        )
    labels = model.config.labels or [f"class {i}" for i in range(model.config.classes)]
    for image, row in model.run_each(images, model.network):
        yield image, row if isinstance(row, ImageError) else _ranked(labels, _softmax(row))


def _ranked(labels: Sequence[str], probabilities: NDArray[np.floating]) -> list[Score]:
    order = np.argsort(-probabilities, kind="stable")
    return [Score(labels[i], float(probabilities[i])) for i in order]


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()  # type: ignore[no-any-return]


def _sigmoid(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1 / (1 + np.exp(-logits))  # type: ignore[no-any-return]
