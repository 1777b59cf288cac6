"""The scope of a small model: which images, words and questions are like those of its training.

A model answers every question, also about things that it was never trained on, where its answers
mean nothing. One with a scope warns of them.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from patchword.errors import ImageError, ScopeWarning

if TYPE_CHECKING:  # commands import this, and --help does without NumPy
    import numpy as np
    from numpy.typing import NDArray

SHOWN = 3  # items that a warning names
WORD = re.compile(r"[^\W_]+")
BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")

I = TypeVar("I")  # noqa: E741  # an image
R = TypeVar("R")  # its result


@dataclass(frozen=True, eq=False)
class Domain:
    """One kind of image that a model was trained on, as a subspace of its vectors.

    mean   (D,) of their unit vectors
    basis  (K, D), orthonormal: the K main directions in which they vary
    limit  the share of a vector's squared distance from the mean that lies outside the subspace,
           above which an image counts as another kind
    noise  the squared length of what rounding takes out of the subspace, which does not count
    """

    name: str
    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    limit: float
    noise: float = 0.0

    def novelty(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) of unit vectors (N, D): that share over the limit."""
        import numpy as np

        away = vectors.astype(np.float64) - self.mean
        inside = np.square(away @ self.basis.astype(np.float64).T).sum(axis=1)
        whole = np.maximum(np.square(away).sum(axis=1), 1e-12)
        return (1 - (inside + self.noise) / whole) / self.limit  # type: ignore[no-any-return]


class Rewording(NamedTuple):
    """A rule: questions that mean the same as a known one.

    pattern   of the whole question, words that each end in a space
    known     what is asked instead, with {names} of the pattern's groups
    opposite  True if yes and no change places
    """

    pattern: re.Pattern[str]
    known: str
    opposite: bool


class Understood(NamedTuple):
    """The known question that is asked in the place of another one; see `Rewording`."""

    question: str
    opposite: bool


@dataclass(frozen=True, eq=False)
class Boundary:
    """A perceptron with one hidden layer, trained to tell other images from those of the model's
    training.

    weight (H, D), bias (H,): from unit vectors, or from what `layer` gives, to the hidden units
           (ReLU)
    out    (H,): from there to the logit of another image
    limit  the logit above which an image counts as another
    layer  of the image tower, whose summary (`bundle.summarised`) is judged; "": the unit vectors
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    out: NDArray[np.float32]
    limit: float
    layer: str = ""

    def novelty(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) of vectors (N, D): the odds of another image, over those at the limit."""
        import numpy as np

        hidden = np.maximum(vectors.astype(np.float64) @ self.weight.T + self.bias, 0)
        return np.exp((hidden @ self.out - self.limit).clip(-50, 50))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Scope:
    """What a model was trained on.

    knows      a summary in a few words, for messages
    domains    its kinds of images
    words      every word of its training texts, in lower case
    questions  the forms of its questions, each with an example; none for a model that answers none
    slots      words that can replace each other in a question, by the name of their kind
    substitutions  made in the words of an unknown question, in this order, before
    rewordings     say which known question it is
    boundary what tells other images from those of the domains by their vectors
    inner      what tells them better, by a layer in the middle, where that is known
    """

    knows: str
    domains: tuple[Domain, ...]
    words: frozenset[str]
    questions: Mapping[str, str]
    slots: Mapping[str, str]
    substitutions: tuple[tuple[re.Pattern[str], str], ...] = ()
    rewordings: tuple[Rewording, ...] = ()
    boundary: Boundary | None = None
    inner: Boundary | None = None

    @property
    def layer(self) -> str:
        """The layer of the image tower that `inner` looks at; "" for none."""
        return self.inner.layer if self.inner else ""

    def novelty(
        self, vectors: NDArray[np.floating], summaries: NDArray[np.floating] | None = None
    ) -> NDArray[np.float64]:
        """How unlike the training images each unit vector (N, D) is, (N,): above 1 it is outside
        of every domain, or beyond the boundary. Of a domain it is the residual of its principal
        components (Ndiour et al. 2020).

        summaries: (N, S) of `layer`; None where vectors are all that there is."""
        import numpy as np

        least: NDArray[np.float64] = np.min(
            [each.novelty(vectors) for each in self.domains], axis=0
        )
        if self.inner and summaries is not None:
            return np.maximum(least, self.inner.novelty(summaries))
        return np.maximum(least, self.boundary.novelty(vectors)) if self.boundary else least

    def rounded(self, epsilon: float) -> Scope:
        """The same for vectors of a network whose numbers have this relative spacing. The last
        layer's weights and what it gives are each rounded by half of it at most, so its square is
        more than what leaves the subspace of a domain by that: 2e-6 of 6e-5 in bfloat16."""
        domains = tuple(replace(domain, noise=epsilon**2) for domain in self.domains)
        return replace(self, domains=domains)

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """The words that are in none of the training texts, each once, in order."""
        words = (word for text in texts for word in WORD.findall(text.lower()))
        return list(dict.fromkeys(word for word in words if word not in self.words))

    def form(self, question: str) -> str:
        """A question with the names of kinds in place of their words: two questions of one form
        differ in nothing but, say, a colour."""
        words = WORD.findall(question.lower())
        return " ".join(self.slots.get(word, word) for word in words)

    def known(self, question: str) -> bool:
        """True if a question is one of those of the training, but for its colours and shapes."""
        return self.form(question) in self.questions and not self.unknown([question])

    def understood(self, question: str) -> Understood | None:
        """The known question that means the same; None where no rule says so."""
        words = " ".join(WORD.findall(question.lower()))
        for pattern, words_instead in self.substitutions:
            words = pattern.sub(words_instead, words)
        for rule in self.rewordings:
            if found := rule.pattern.fullmatch(words + " "):
                asked = rule.known.format(**found.groupdict())
                asked = BEFORE_VOWEL.sub("an ", asked)
                if self.known(asked):
                    return Understood(asked, rule.opposite)
        return None

    def nearest(self, question: str) -> str:
        """The example of the known form that is most like a question."""
        near = difflib.get_close_matches(self.form(question), self.questions, 1, cutoff=0)
        return self.questions[near[0]]


def same(name: str) -> str:
    """What the names of one file have in common, also of a link to it."""
    return os.path.realpath(name) if os.path.lexists(name) else name


class Told:
    """What one task, or many that are told together, found outside the scopes of models: each image
    once, by its name, and each remark on texts once."""

    def __init__(self) -> None:
        self._scopes: dict[str, Scope] = {}
        self._images: dict[str, dict[str, tuple[str, bool]]] = {}  # by model and file
        self._texts: set[str] = set()
        self._words: set[tuple[str, str]] = set()  # by model

    def image(self, model: str, scope: Scope, name: str, outside: bool) -> None:
        """An image that a model was shown; an empty name is one without."""
        self._scopes[model] = scope
        images = self._images.setdefault(model, {})
        name = name or f"image {len(images) + 1}"
        images[same(name)] = (name, outside)

    def text(self, scope: Scope, what: str) -> None:
        """Say of a text what is outside, unless that was said."""
        if what not in self._texts:
            self._texts.add(what)
            _warn(what, scope)

    def words(self, model: str, scope: Scope, texts: Sequence[str]) -> None:
        """Say which words of texts a model does not know, each word once."""
        unknown = [word for word in scope.unknown(texts) if (model, word) not in self._words]
        self._words.update((model, word) for word in unknown)
        if unknown:
            self.text(scope, f"{model} does not know {_listed(unknown)}")

    def outside(self, name: str) -> bool:
        """True if an image of this name is unlike the training of a model that was shown it."""
        key = same(name)
        return any(key in images and images[key][1] for images in self._images.values())

    def sentences(self) -> list[str]:
        """What `tell` says, without folders and the advice."""
        unlike = self._unlike(os.path.basename)
        return [f"{said}. It knows {scope.knows}" for said, scope in unlike]

    def tell(self) -> None:
        """Warn of the images that are outside, once for each model."""
        for said, scope in self._unlike():
            _warn(said, scope)

    def _unlike(self, named: Callable[[str], str] = str) -> Iterator[tuple[str, Scope]]:
        for model, images in self._images.items():
            if outside := [name for name, is_outside in images.values() if is_outside]:
                verb = "looks" if len(outside) == 1 else "look"
                yield (
                    f"{len(outside)} of {len(images)} images {verb} unlike what {model} was "
                    f"trained on: {_listed([named(name) for name in outside])}",
                    self._scopes[model],
                )


_together: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def together() -> Iterator[Told]:
    """What many tasks find outside is told once, at the end, instead of by each."""
    found = Told()
    token = _together.set(found)
    try:
        yield found
    finally:
        _together.reset(token)
        found.tell()


@contextmanager
def untold() -> Iterator[None]:
    """What is outside here is told elsewhere."""
    token = _together.set(Told())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScopeWarning)
            yield
    finally:
        _together.reset(token)


def current() -> Told:
    """What is told `together`, for commands that print or draw it; else nothing."""
    return _together.get() or Told()


class Check:
    """Collects what is outside a model's scope, and gives one ScopeWarning of each kind.
    Without a scope nothing does."""

    def __init__(self, scope: Scope | None, name: str, called: object = None) -> None:
        self.scope, self.name = scope, name
        self._called = _called(called)  # the one image that is checked, where it comes as pixels
        self.outside = False  # whether the last image of `each` is
        self._novelty: deque[float] = deque()

    def texts(self, texts: Sequence[str]) -> None:
        """Warn of words that the model does not know."""
        if self.scope is not None:
            current().words(self.name, self.scope, texts)

    def questions(
        self, questions: Sequence[str], answers: Sequence[str] | None = None
    ) -> list[Understood]:
        """What is asked of the model: known questions that mean the same, where rules say so; else
        the questions as they are, with a warning of words, or of questions, that it does not know.

        answers: to choose from, if any; yes and no can only change places where they are both."""
        asked = [Understood(question, False) for question in questions]
        if self.scope is None or not self.scope.questions:
            self.texts(questions)
            return asked
        both = answers is None or {answer.strip().lower() for answer in answers} == {"yes", "no"}
        for number, question in enumerate(questions):
            if self.scope.known(question):
                continue
            found = self.scope.understood(question)
            if found is not None and (both or not found.opposite):
                asked[number] = found
                continue
            unknown = self.scope.unknown([question])
            words = f" (the words {_listed(unknown)} are unknown to it)" if unknown else ""
            self._text(
                f"{self.name} was not trained on questions like {question!r}{words}, but on such "
                f"as {self.scope.nearest(question)!r}"
            )
        return asked

    @property
    def layer(self) -> str:
        """The layer whose summaries `vectors` needs; "" for none."""
        return self.scope.layer if self.scope else ""

    def vectors(
        self, vectors: NDArray[np.floating], summaries: NDArray[np.floating] | None = None
    ) -> None:
        """Unit vectors (N, D) of the next images, and the summaries (N, S) of `layer`."""
        if self.scope is not None:
            self._novelty.extend(self.scope.novelty(vectors, summaries).tolist())

    def judged(self, outside: bool) -> None:
        """The next image, which another check has judged."""
        self._novelty.append(2.0 if outside else 0.0)

    def each(self, found: Iterable[tuple[I, R | ImageError]]) -> Iterator[tuple[I, R | ImageError]]:
        """The same images and results; when the last was taken, or the iterator is closed, warn of
        those that are unlike the training images. The vectors of each must be known by then."""
        together = _together.get()
        told = together or Told()
        try:
            for image, result in found:
                if self.scope is not None and not isinstance(result, ImageError):
                    self.outside = self._novelty.popleft() > 1
                    name = _called(image) or self._called
                    if name or together is None:  # what a command shows without one is a part
                        told.image(self.name, self.scope, name, self.outside)
                yield image, result
        finally:
            if together is None:
                told.tell()

    def _text(self, what: str) -> None:
        assert self.scope is not None
        current().text(self.scope, what)


def _warn(what: str, scope: Scope) -> None:
    warnings.warn(
        f"{what}. It knows {scope.knows}, in English; for others load a public checkpoint",
        ScopeWarning,
        stacklevel=5,
    )


def _called(image: object) -> str:
    return str(image) if isinstance(image, (str, os.PathLike)) else ""


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
