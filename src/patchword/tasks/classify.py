"""Zero-shot classification: which labels fit a photo best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, tee
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle, Vector, embed_checked
from patchword.embedding import unit
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike
from patchword.images.one_or_many import as_images, results
from patchword.images.views import Box
from patchword.options import checked_probability, text_list
from patchword.scope import Check
from patchword.tasks.label_cache import label_features
from patchword.text.templates import resolve_templates
from patchword.visible_area import untold

NONE = "none of these"  # the label of a rejected image


# An image's unit vector (D,) and its cosines (L,) with labels -> probabilities (L,).
Probability = Callable[[Vector, NDArray[np.floating]], NDArray[np.floating]]


@dataclass(frozen=True)
class Score:
    """A label and its probability, 0 to 1.

    box      of the tile with that probability, (left, top, right, bottom) in pixels; None without
             tiles
    outside  of "none of these": True if the photo is rejected because it is unlike the model's
             training images
    """

    label: str
    probability: float
    box: Box | None = field(default=None, repr=False)
    outside: bool = field(default=False, repr=False)


class Scorer(Protocol):
    """The function that `scorer` returns."""

    def __call__(self, row: Vector, outside: bool | None = None) -> list[Score]: ...


def classify(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    labels: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
    two_views: bool = False,
) -> list[list[Score]]:
    """For each image the labels with their probabilities, best first: with c_l the cosine of the
    image and label l, the softmax over l of scale * c_l (Radford et al. 2021, section 3.1.2).

    labels       to choose from; None: a classifier's own classes
    templates    sentences with "{}" for the label; a label's vector is the unit mean of its
                 sentences' vectors (section 3.1.4). None: "a photo of a {}"; "imagenet" and
                 "chinese" name sets of sentences (`templates.NAMED`)
    multi_label  judge each label by itself, so that probabilities need not sum to 1. For a SigLIP,
                 which was trained for this, it is sigmoid(scale * c_l + bias) (Zhai et al. 2023,
                 section 3.2, algorithm 1); for others sigmoid(scale * (c_l - c_0)), with c_0 the
                 cosine of the sentences without a label
    reject       "none of these" comes first if the best label is less probable than this. The
                 probabilities are then a softmax over the labels and c_0; with multi_label, and for
                 a SigLIP, those of multi_label. An image unlike the model's training images
                 (`Scope.novelty`) is always rejected: "none of these" is 1, and its `outside` True
    two_views    classify the unit mean of two vectors, of the centre crop and of the whole image
                 squashed, which is twice the work. Raises UnsupportedError for a model that does
                 not crop

    Raises the ImageError of the first image that cannot be opened; `classify_each` continues after
    it.
    """
    return list(
        results(classify_each(model, images, labels, templates, multi_label, reject, two_views))
    )


def classify_each(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    labels: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
    two_views: bool = False,
) -> Iterator[tuple[ImageLike, list[Score] | ImageError]]:
    """Each image in order with its scores as from `classify`, or the ImageError it raised."""
    if labels is None:
        scores = _own_classes(model, images)
        _check_unset(
            templates=bool(templates),
            multi_label=multi_label,
            reject=reject is not None,
            two_views=two_views,
        )
        return scores
    score = scorer(model, labels, templates, multi_label, reject)
    check = Check(model.scope, model.name)
    embed = embed_two_views if two_views else embed_checked
    return (
        (image, row if isinstance(row, ImageError) else score(row, check.outside))
        for image, row in embed(model, check, images)
    )


def _check_unset(**is_set: bool) -> None:
    """Raise UnsupportedError for options that need labels."""
    if names := [name for name, value in is_set.items() if value]:
        raise UnsupportedError(
            f"{' and '.join(names)} can only be given with labels: the probabilities of a "
            "classifier's own classes are as they are"
        )


def embed_two_views(
    model: Bundle, check: Check, images: ImageLike | Iterable[ImageLike]
) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
    """Like `embed_checked`, but the unit mean of the vectors of the crop and of the whole image."""
    whole = replace(model.opening(squash=True), scope=None)
    if whole.preprocess.config == model.preprocess.config:
        raise UnsupportedError(
            f"{model.name} is shown the whole of each image already; leave two_views out"
        )
    first, second = tee(as_images(images))

    def rows() -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        cropped = embed_checked(model, check, first)
        # The warning that the crop leaves something out is settled when the first row is computed.
        with untold():
            begun = list(islice(cropped, 1))
        squashed = embed_checked(whole, Check(None, model.name), second)
        for (image, row), (_, other) in zip(chain(begun, cropped), squashed, strict=True):
            if isinstance(row, ImageError):
                yield image, row
            elif isinstance(other, ImageError):
                yield image, other
            else:
                yield image, unit((row + other)[None])[0]

    return rows()


def scorer(
    model: Bundle,
    labels: Sequence[str],
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
) -> Scorer:
    """The function from an image's unit vector (D,) to its scores, see `classify`. Its `outside`
    says whether the image is unlike the model's training images; None: computed from the vector."""
    labels = _checked_labels(labels)
    sentences = resolve_templates(templates)
    checked_probability("reject", reject)
    if reject is not None and NONE in labels:
        raise UnsupportedError(
            f"{NONE!r} is what reject answers by itself; leave it out of labels, or reject"
        )
    Check(model.scope, model.name).texts(labels)
    features = label_features(model, labels, sentences)  # (L, D)
    if multi_label or (reject is not None and model.config.score == "sigmoid"):
        probability = _independent(model, sentences)
    elif reject is not None:
        probability = _against_none(model, sentences)
    else:
        probability = _exclusive(model)

    def score(row: Vector, outside: bool | None = None) -> list[Score]:
        probabilities = probability(row, features @ row)
        scores = _ranked(labels, probabilities)
        if reject is None:
            return scores
        if outside is None:
            outside = model.scope is not None and model.scope.outside(row[None])[0]
        if outside:
            return [Score(NONE, 1.0, outside=True), *scores]
        best = probabilities.max()
        if best < reject or best == 0:
            return [Score(NONE, float(1 - best)), *scores]
        return scores

    return score


def _checked_labels(labels: Sequence[str]) -> list[str]:
    """Labels as a list. Raises UnsupportedError for no labels, a string, and repeated labels."""
    if isinstance(labels, str):
        meant = [each.strip() for each in labels.split(",")]
        raise UnsupportedError(f"labels must be a list, not one string: labels={meant}")
    labels = text_list(labels)
    words = [" ".join(label.split()) for label in labels]
    if not labels or "" in words:
        raise UnsupportedError(f"labels must be a list of one or more different words: {labels!r}")
    if twice := [word for word, count in Counter(words).items() if count > 1]:
        raise UnsupportedError(
            f"labels must be a list of one or more different words; twice there: {twice[0]!r}. "
            "Leave one out"
        )
    return labels


def _exclusive(model: Bundle) -> Probability:
    """The probability of each label among all labels."""
    return lambda row, cosines: _softmax(model.scale * cosines)


def _independent(model: Bundle, sentences: Sequence[str]) -> Probability:
    """The probability of each label by itself, of `multi_label`."""
    scale, bias = model.scale, model.bias
    if model.config.score == "sigmoid":
        return lambda row, cosines: _sigmoid(scale * cosines + bias)
    neutral = label_features(model, [""], sentences)[0]
    return lambda row, cosines: _sigmoid(scale * (cosines - neutral @ row))


def _against_none(model: Bundle, sentences: Sequence[str]) -> Probability:
    """The probability of each label among all labels and no label, of `reject`."""
    neutral = label_features(model, [""], sentences)[0]
    return lambda row, cosines: _softmax(model.scale * np.append(cosines, neutral @ row))[:-1]


def _own_classes(
    model: Bundle, images: ImageLike | Iterable[ImageLike]
) -> Iterator[tuple[ImageLike, list[Score] | ImageError]]:
    """The softmax over the classes that a classifier was trained on; for one that gives several
    classes at a time, the sigmoid of each."""
    if not model.config.classes:
        raise UnsupportedError(
            f"{model.name} has no classes of its own; give labels to choose from "
            '(on the command line --labels "a hat, a shoe")'
        )
    labels = model.config.labels or [f"class {i}" for i in range(model.config.classes)]
    activation = _sigmoid if model.config.score == "sigmoid" else _softmax
    logits_each = model.run_each(images, model.own_network, parallel=True)
    return (
        (image, row if isinstance(row, ImageError) else _ranked(labels, activation(row)))
        for image, row in logits_each
    )


def _ranked(labels: Sequence[str], probabilities: NDArray[np.floating]) -> list[Score]:
    order = np.argsort(-probabilities, kind="stable")
    return [Score(labels[i], float(probabilities[i])) for i in order]


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()  # type: ignore[no-any-return]


def _sigmoid(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.exp(-np.logaddexp(0, -logits))  # type: ignore[no-any-return]
