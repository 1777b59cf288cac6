"""What is told of images, words and questions unlike those of a model's training."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from patchword.errors import ImageError, ScopeWarning, begun, listed, one_line, unsaid, warn
from patchword.scope.knowledge import Scope, Understood
from patchword.scope.summary import Once

if TYPE_CHECKING:  # commands import this, and --help does without NumPy
    import numpy as np
    from numpy.typing import NDArray

I = TypeVar("I")  # noqa: E741  # an image
R = TypeVar("R")  # its result

UNLIKE = "unlike the model's training: its answer says little"  # of an image, beside its answer
BRIEF = 2  # images that a brief warning names
IMAGES, GOOD, LISTED = "images", "good photos", "images listed"  # kinds, counted apart


def file_name(image: object) -> str:
    """The name of an image that is a file, or is inside one; "" for any other."""
    if isinstance(image, io.IOBase):
        image = getattr(image, "name", "")
    return str(image) if isinstance(image, (str, os.PathLike)) else ""


def same(name: str) -> str:
    """What the names of one file have in common, also of a link to it."""
    if not os.path.lexists(name):
        return name
    if os.path.islink(name) or ".." in name:
        return os.path.realpath(name)
    folder, file = os.path.split(os.path.abspath(name))
    return os.path.join(_real(folder), file)


@lru_cache(1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


class Told:
    """What one task, or many that are told together, found outside the scopes of models: each image
    once, by its name, and each remark on texts once."""

    def __init__(self, brief: bool = False) -> None:
        """brief: images are named without their folders, two at most, and what a model knows is
        said once."""
        self.called = ""  # the images that are noted now, where they have no names
        self._brief = brief
        self._advised: set[str] = set()
        self._scopes: dict[str, Scope] = {}
        self._images: dict[str, dict[str, dict[str, tuple[str, bool]]]] = {}  # model, kind, file
        self._texts: dict[str, None] = {}  # what was said of texts, in order
        self._words: set[tuple[str, str]] = set()  # by model
        self._combinations: set[tuple[str, str]] = set()  # and kind
        self._unplaced: set[tuple[str, str]] = set()  # and domain
        self._misasked: dict[tuple[str, str], tuple[Scope, dict[str, str]]] = {}

    def image(self, model: str, scope: Scope, name: str, outside: bool, kind: str = IMAGES) -> None:
        """An image that a model was shown; an empty name is one without. What is found of it later
        by its stored vector counts for less."""
        self._scopes[model] = scope
        kinds = self._images.setdefault(model, {})
        if kind == LISTED and any(same(name) in images for images in kinds.values()):
            return
        images = kinds.setdefault(kind, {})
        name = name or f"image {len(images) + 1}"
        images[same(name)] = (name, outside)

    def text(self, scope: Scope, what: str) -> None:
        """Say of a text what is outside, unless that was said."""
        if what not in self._texts:
            self._texts[what] = None
            self._warn(what, scope)

    def misasked(self, model: str, scope: Scope, question: str, name: str) -> None:
        """An image of another domain than the one that the model learned a question of."""
        self._misasked.setdefault((model, question), (scope, {}))[1][same(name)] = name

    def words(self, model: str, scope: Scope, texts: Sequence[str]) -> None:
        """Say which words of texts a model does not know, each word once."""
        unknown = [word for word in scope.unknown(texts) if (model, word) not in self._words]
        self._words.update((model, word) for word in unknown)
        if unknown:
            self.text(scope, f"{model} does not know {scope.named(unknown)}")
        self._combined(model, scope, texts)

    def _combined(self, model: str, scope: Scope, texts: Sequence[str]) -> None:
        """Say what of texts was never together in a model's training: of each kind once."""
        kinds: dict[str, dict[str, list[str]]] = {}
        for text in texts:
            if found := scope.unlearned(text):
                kinds.setdefault(found[0], {})[text] = found[1]
        for kind, found_in in kinds.items():
            if (model, kind) in self._combinations:
                continue
            self._combinations.add((model, kind))
            words = _quoted(word for each in found_in.values() for word in each)
            if kind:
                means = "means" if len(words) == 1 else "mean"
                said = f"{model} never learned {kind}: {listed(words)} {means} nothing to it in"
            else:
                said = f"{model} never learned {listed(words)} together, as they are in"
            self.text(scope, f"{said} {listed(_quoted(found_in))}")

    def places(self, model: str, scope: Scope, texts: Sequence[str]) -> None:
        """Say of which texts a model hardly knows where in an image they are: of each domain once,
        by the first texts."""
        for domain in sorted(scope.unplaced):
            named = [text for text in texts if domain in scope.by_domain(text)]
            if named and (model, domain) not in self._unplaced:
                self._unplaced.add((model, domain))
                self.text(
                    scope,
                    f"{model} hardly knows where {scope.called(domain)} is in a photo, for it "
                    f"never learned that: what it shows of {listed(_quoted(named))} says little",
                )

    def outside(self, name: str) -> bool:
        """True if an image of this name is unlike the training of a model that was shown it."""
        key = same(name)
        kinds = (images for kinds in self._images.values() for images in kinds.values())
        return any(key in images and images[key][1] for images in kinds)

    def sentences(self) -> list[str]:
        """What `tell` says of images, without folders and the advice."""
        unlike = self._unlike(_short_names)
        return [f"{said}. It knows {scope.knows}" for said, scope in unlike]

    def remarks(self) -> list[str]:
        """What a page carries: the sentences, and what was said of texts."""
        return [*self.sentences(), *self._texts]

    def tell(self) -> None:
        """Warn of the images that are outside, once for each model."""
        named = _short_names if self._brief else listed
        for said, scope in self._unlike(named):
            self._warn(said, scope)
        for (model, question), (scope, names) in self._misasked.items():
            called = scope.called(scope.asked_of[scope.form(question)])
            look = "looks" if len(names) == 1 else "look"
            self._warn(
                f"{model} learned to answer {begun(question)!r} of {called}, and "
                f"{named(list(names.values()))} {look} otherwise",
                scope,
            )

    def _warn(self, what: str, scope: Scope) -> None:
        advice = f". It knows {scope.knows}, in English; for others load a public checkpoint"
        said = self._brief and scope.knows in self._advised
        self._advised.add(scope.knows)
        warn(what if said else what + advice, ScopeWarning)

    def _unlike(self, named: Callable[[Sequence[str]], str]) -> Iterator[tuple[str, Scope]]:
        for model, kinds in self._images.items():
            said = ""
            for kind, images in sorted(kinds.items(), key=lambda each: each[0] != IMAGES):
                outside = [name for name, is_outside in images.values() if is_outside]
                share, one = _share(len(outside), len(images), kind), len(outside) == 1
                if outside and said:
                    said += f"; so {'does' if one else 'do'} {share}"
                elif outside:
                    said = (
                        f"{share} look{'s' * one} unlike what {model} was trained on: "
                        f"{named(outside)}"
                    )
            if said:
                yield said, self._scopes[model]


_once: Once[Told] = Once("told")


def together(brief: bool = False) -> AbstractContextManager[Told]:
    """What many tasks find outside is told once, at the end, instead of by each; within tasks that
    are told together, with them. brief: see `Told`."""
    return _once.together(Told(brief))


def apart() -> AbstractContextManager[None]:
    """What is outside here is told by each task, whoever is told `together` around it."""
    return _once.apart()


@contextmanager
def untold() -> Iterator[None]:
    """What is outside here is told elsewhere."""
    with _once.untold(Told()), unsaid(ScopeWarning):
        yield


def noted(told: Told) -> AbstractContextManager[None]:
    """What tasks find outside is noted in `told`, which whoever made it tells."""
    return _once.untold(told)


def current() -> Told:
    """What is told `together`, for commands that print or draw it; else nothing."""
    return _once.current or Told()


def stored(model: str, scope: Scope | None, outside: Mapping[str, bool]) -> None:
    """Warn of stored images that are outside, by their names; for whatever answers by their vectors
    (`Scope.outside`). A model without a scope says nothing."""
    if scope is not None:
        with together() as told:
            for name, is_outside in outside.items():
                told.image(model, scope, name, is_outside, LISTED)


class Check:
    """Collects what is outside a model's scope, and gives one ScopeWarning of each kind.
    Without a scope nothing does."""

    def __init__(
        self, scope: Scope | None, name: str, called: object = None, told: Told | None = None
    ) -> None:
        """told: where images are noted, which tells nothing by itself; None: what is told together,
        or else told by this check."""
        self.scope, self.name, self.kind = scope, name, IMAGES
        self._told = told
        self._called = file_name(called)  # the one image that is checked, where it comes as pixels
        self.outside = False  # whether the last image of `each` is
        self._domain = ""  # that it is most like, where questions are of one
        self._novelty: deque[float] = deque()
        self._domains: deque[str] = deque()
        self._asked: dict[str, str] = {}  # questions of one domain each

    def texts(self, texts: Sequence[str]) -> None:
        """Warn of words that the model does not know."""
        if self.scope is not None:
            current().words(self.name, self.scope, texts)

    def places(self, texts: Sequence[str]) -> None:
        """Warn, once, of texts that the model hardly knows where to find in an image."""
        if self.scope is not None:
            current().places(self.name, self.scope, texts)

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
        both = answers is None or sorted(a.strip().lower() for a in answers) == ["no", "yes"]
        for number, question in enumerate(questions):
            found = None if self.scope.known(question) else self.scope.understood(question)
            if found is not None and (both or not found.opposite):
                asked[number] = found
            if self.scope.known(asked[number].question):
                self._note(asked[number].question)
                continue
            unknown = self.scope.unknown([question])
            named = self.scope.named(unknown)
            are = "word {} is" if len(unknown) == 1 else "words {} are"
            words = f" (the {are.format(named)} unknown to it)" if unknown else ""
            self._text(
                f"{self.name} was not trained on questions like {begun(question)!r}{words}, but on "
                f"such as {self.scope.nearest(question)!r}"
            )
        return asked

    def knows(self, question: str) -> bool:
        """Whether a question is one of those of the training, where they are known."""
        return self.scope is None or not self.scope.questions or self.scope.known(question)

    def _note(self, question: str) -> None:
        assert self.scope is not None
        if domain := self.scope.asked_of.get(self.scope.form(question)):
            self._asked[question] = domain

    def is_asked_of(self, question: str) -> bool:
        """Whether the last image of `each` is most like those that a question was learned of; of a
        question of any image, too."""
        return self._domain == self._asked.get(question, self._domain)

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
            if self._asked:
                self._domains.extend(self.scope.nearest_domain(vectors))

    def judged(self, outside: bool, vector: NDArray[np.floating] | None = None) -> None:
        """The next image, which another check has judged; its unit vector (D,), if it is known."""
        self._novelty.append(2.0 if outside else 0.0)
        if self.scope is not None and self._asked and vector is not None:
            self._domains.extend(self.scope.nearest_domain(vector[None]))

    def each(self, found: Iterable[tuple[I, R | ImageError]]) -> Iterator[tuple[I, R | ImageError]]:
        """The same images and results; when the last was taken, or the iterator is closed, warn of
        those that are unlike the training images. The vectors of each must be known by then."""
        together = _once.current
        told = self._told or together or Told()
        try:
            for image, result in found:
                known = not isinstance(result, ImageError) or result.opened
                if self.scope is not None and known:
                    self.outside = self._novelty.popleft() > 1
                    name = file_name(image) or self._called or told.called
                    # What a command shows without a name is a part of an image.
                    if name or self._told is not None or together is None:
                        told.image(self.name, self.scope, name, self.outside, self.kind)
                    domain = self._domain = self._domains.popleft() if self._domains else ""
                    for question, of in self._asked.items():
                        if not self.outside and domain not in ("", of):
                            told.misasked(self.name, self.scope, question, name or "the image")
                yield image, result
        finally:
            if self._told is None and together is None:
                told.tell()

    def _text(self, what: str) -> None:
        assert self.scope is not None
        current().text(self.scope, what)


def _quoted(items: Iterable[str]) -> list[str]:
    """Words or texts for a message, each once."""
    return [repr(begun(item)) for item in dict.fromkeys(items)]


def _share(some: int, total: int, kind: str) -> str:
    """How many of a kind, for a sentence: "2 of 3 images listed", "the image listed"."""
    if total > 1:
        return f"{some} of {total} {kind}"
    return f"the {kind.replace('images', 'image').replace('photos', 'photo')}"


def _short_names(names: Sequence[str]) -> str:
    return listed([one_line(os.path.basename(name) or name) for name in names], BRIEF)
