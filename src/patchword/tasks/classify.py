"""Zero-shot classification: which labels fit a photo best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, tee
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle, Vector, embed_checked, unit
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike
from patchword.images.one_or_many import as_images, results
from patchword.images.views import Box
from patchword.options import checked_probability, text_list
from patchword.scope import Check
from patchword.tasks.label_cache import label_features
from patchword.text.templates import resolve_templates
from patchword.visible_area import untold

NONE = "none of these"


@dataclass(frozen=True)
class Score:
    """A label and how probable it is, 0 to 1. box: of the tile where it is so, (left, top, right,
    bottom) in pixels, if the photo was looked at in tiles. outside: of "none of these", whether the
    photo is rejected because it is unlike what the model was trained on."""

    label: str
    probability: float
    box: Box | None = field(default=None, repr=False)
    outside: bool = field(default=False, repr=False)


class Scorer(Protocol):
    """What `scorer` gives."""

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
    reject       "none of these" comes first when even the best label is less probable than this:
                 of a softmax over the labels and the same sentences with no label in them, so
                 that of labels that exclude each other at most one is above 0.5. With
                 multi_label, and of a SigLIP, each label is scored by itself as above, and several
                 may be near 1. Those are then the probabilities that are given. An image unlike
                 all that the model was trained on (`Scope.novelty`) is rejected whatever they are:
                 "none of these" is 1, and its `outside` True
    two_views    judge by the unit mean of two vectors, of the centre crop and of the whole image,
                 squashed: twice the work. Raises UnsupportedError for a model that crops nothing

    Raises the ImageError of the first image that cannot be opened; `classify_each` never stops.
    """
    found = classify_each(model, images, labels, templates, multi_label, reject, two_views)
    return list(results(found))


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
        found = _own_labels(model, images)
        _without_labels(
            templates=bool(templates),
            multi_label=multi_label,
            reject=reject is not None,
            two_views=two_views,
        )
        return found
    score = scorer(model, labels, templates, multi_label, reject)
    check = Check(model.scope, model.name)
    rows = (_twice if two_views else embed_checked)(model, check, images)
    return (
        (image, row if isinstance(row, ImageError) else score(row, check.outside))
        for image, row in rows
    )


def _without_labels(**given: bool) -> None:
    """Raise UnsupportedError for options that are of labels, where there are none."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise UnsupportedError(
            f"{' and '.join(names)} can only be given with labels: the probabilities of a "
            "classifier's own classes are as they are"
        )


def _twice(
    model: Bundle, check: Check, images: ImageLike | Iterable[ImageLike]
) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
    """As `embed_checked`, the unit mean of the vectors of what is cropped and of the whole."""
    whole = replace(model.opening(squash=True), scope=None)
    if whole.preprocess.config == model.preprocess.config:
        raise UnsupportedError(
            f"{model.name} is shown the whole of each image already; leave two_views out"
        )
    first, second = tee(as_images(images))

    def rows() -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        cropped = embed_checked(model, check, first)
        with untold():  # what the crop leaves out is seen by the other view
            begun = list(islice(cropped, 1))
        squashed = embed_checked(whole, Check(None, model.name), second)
        for (image, row), (_, other) in zip(chain(begun, cropped), squashed, strict=True):
            if isinstance(row, ImageError) or isinstance(other, ImageError):
                yield image, row if isinstance(row, ImageError) else other
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
    """The function to an image's scores from its unit vector (D,), and from whether it is unlike
    what the model was trained on, which is else told by the vector; see `classify`."""
    labels = _checked(labels)
    sentences = resolve_templates(templates)
    checked_probability("reject", reject)
    if reject is not None and NONE in labels:
        raise UnsupportedError(
            f"{NONE!r} is what reject answers by itself; leave it out of labels, or reject"
        )
    Check(model.scope, model.name).texts(labels)
    features = label_features(model, labels, sentences)  # (L, D)
    probability = None
    if multi_label or (reject is not None and model.config.score == "sigmoid"):
        probability = _alone(model, sentences)
    elif reject is not None:
        probability = _beside_none(model, sentences)

    def score(row: Vector, outside: bool | None = None) -> list[Score]:
        cosines = features @ row
        single = probability(row, cosines) if probability is not None else None
        chosen = _softmax(model.scale * cosines) if single is None else single
        scores = _ranked(labels, chosen)
        if reject is None:
            return scores
        if _outside(model, row) if outside is None else outside:
            return [Score(NONE, 1.0, outside=True), *scores]
        none = chosen.max() < reject or not chosen.any()
        return [Score(NONE, float(1 - chosen.max()))] * bool(none) + scores

    return score


def _checked(labels: Sequence[str]) -> list[str]:
    """Labels as a list. Raises UnsupportedError for none, one string, and the same one twice."""
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


def _outside(model: Bundle, row: Vector) -> bool:
    """True if an image's unit vector (D,) is unlike those that the model was trained on."""
    return model.scope is not None and model.scope.outside(row[None])[0]


def _alone(
    model: Bundle, sentences: Sequence[str]
) -> Callable[[Vector, NDArray[np.floating]], NDArray[np.floating]]:
    """The function from an image's unit vector (D,) and its cosines (L,) with labels to the
    probability of each label by itself."""
    scale, bias = model.scale, model.bias
    if model.config.score == "sigmoid":
        return lambda row, cosines: _sigmoid(scale * cosines + bias)
    neutral = label_features(model, [""], sentences)[0]
    return lambda row, cosines: _sigmoid(scale * (cosines - neutral @ row))


def _beside_none(
    model: Bundle, sentences: Sequence[str]
) -> Callable[[Vector, NDArray[np.floating]], NDArray[np.floating]]:
    """Like `_alone`, but to the probability of each label among all of them and none of them."""
    neutral = label_features(model, [""], sentences)[0]
    return lambda row, cosines: _softmax(model.scale * np.append(cosines, neutral @ row))[:-1]


def _own_labels(
    model: Bundle, images: ImageLike | Iterable[ImageLike]
) -> Iterator[tuple[ImageLike, list[Score] | ImageError]]:
    """A classifier's softmax over the classes it was trained on; of one for several classes at a
    time the sigmoid of each."""
    if not model.config.classes:
        raise UnsupportedError(
            f"{model.name} has no classes of its own; give labels to choose from "
            '(on the command line --labels "a hat, a shoe")'
        )
    labels = model.config.labels or [f"class {i}" for i in range(model.config.classes)]
    probable = _sigmoid if model.config.score == "sigmoid" else _softmax
    found = model.run_each(images, model.own_network)
    return (
        (image, row if isinstance(row, ImageError) else _ranked(labels, probable(row)))
        for image, row in found
    )


def _ranked(labels: Sequence[str], probabilities: NDArray[np.floating]) -> list[Score]:
    order = np.argsort(-probabilities, kind="stable")
    return [Score(labels[i], float(probabilities[i])) for i in order]


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()  # type: ignore[no-any-return]


def _sigmoid(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.exp(-np.logaddexp(0, -logits))  # type: ignore[no-any-return]
