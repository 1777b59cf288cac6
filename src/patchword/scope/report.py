"""Collect and report images, words and questions that are unlike those of a model's training."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache

from patchword.errors import ScopeWarning, begun, listed, one_line, unsaid, warn
from patchword.scope.knowledge import Scope
from patchword.scope.summary import CurrentCollector

UNLIKE = "unlike the model's training: its answer says little"  # of an image, beside its answer
BRIEF = 2  # images that a brief warning names
IMAGES, GOOD, LISTED = "images", "good photos", "images listed"  # kinds, counted separately


def file_name(image: object) -> str:
    """The name of an image that is a file, or is inside one; "" for any other."""
    if isinstance(image, io.IOBase):
        image = getattr(image, "name", "")
    return str(image) if isinstance(image, (str, os.PathLike)) else ""


def canonical_name(name: str) -> str:
    """The absolute path of a file without symbolic links; the name itself if there is none."""
    if not os.path.lexists(name):
        return name
    if os.path.islink(name) or ".." in name:
        return os.path.realpath(name)
    folder, file = os.path.split(os.path.abspath(name))
    return os.path.join(_real_folder(folder), file)


@lru_cache(1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


class ScopeReport:
    """What one task, or several together, found outside the scopes of models: each image once, by
    its name, and each remark about texts once."""

    def __init__(self, brief: bool = False) -> None:
        """brief: warnings name at most two images, without their folders, and say once what a model
        knows."""
        self.called = ""  # the name of images that have none of their own
        self._brief = brief
        self._advised: set[str] = set()  # what models know, where it was said
        self._scopes: dict[str, Scope] = {}  # by model
        # By model, kind and canonical name: the name, and whether the image is outside.
        self._images: dict[str, dict[str, dict[str, tuple[str, bool]]]] = {}
        self._remarks: dict[str, None] = {}  # about texts, in order
        # What was said already: (model, word), (model, kind) and (model, domain).
        self._words: set[tuple[str, str]] = set()
        self._combinations: set[tuple[str, str]] = set()
        self._unplaced: set[tuple[str, str]] = set()
        # By (model, question): the scope, and names by canonical name of images of other domains.
        self._misasked: dict[tuple[str, str], tuple[Scope, dict[str, str]]] = {}

    def add_image(
        self, model: str, scope: Scope, name: str, outside: bool, kind: str = IMAGES
    ) -> None:
        """Add an image that a model has seen; name: "" for an image without one. An image of the
        kind `LISTED`, judged by its stored vector alone, is left out if it was added before."""
        self._scopes[model] = scope
        kinds = self._images.setdefault(model, {})
        key = canonical_name(name)
        if kind == LISTED and any(key in images for images in kinds.values()):
            return
        images = kinds.setdefault(kind, {})
        name = name or f"image {len(images) + 1}"
        images[canonical_name(name)] = (name, outside)

    def add_misasked(self, model: str, scope: Scope, question: str, name: str) -> None:
        """Add an image of another domain than the one that the model learned a question for."""
        _, names = self._misasked.setdefault((model, question), (scope, {}))
        names[canonical_name(name)] = name

    def remark(self, scope: Scope, remark: str) -> None:
        """Warn of a text, unless the same was said before."""
        if remark not in self._remarks:
            self._remarks[remark] = None
            self._warn(remark, scope)

    def check_words(self, model: str, scope: Scope, texts: Sequence[str]) -> None:
        """Warn of words that a model does not know, each word once, and of words that it never
        learned together."""
        unknown = scope.unknown_words(texts)
        unknown = [word for word in unknown if (model, word) not in self._words]
        self._words.update((model, word) for word in unknown)
        if unknown:
            self.remark(scope, f"{model} does not know {scope.list_words(unknown)}")
        self._check_combinations(model, scope, texts)

    def _check_combinations(self, model: str, scope: Scope, texts: Sequence[str]) -> None:
        """Warn of words that a model never learned together: of each kind of combination once."""
        words_by_kind: dict[str, dict[str, list[str]]] = {}  # kind, text, words
        for text in texts:
            if combination := scope.unlearned_combination(text):
                kind, words = combination
                words_by_kind.setdefault(kind, {})[text] = words
        for kind, words_by_text in words_by_kind.items():
            if (model, kind) in self._combinations:
                continue
            self._combinations.add((model, kind))
            words = _quoted(word for words in words_by_text.values() for word in words)
            if kind:
                means = "means" if len(words) == 1 else "mean"
                remark = f"{model} never learned {kind}: {listed(words)} {means} nothing to it in"
            else:
                remark = f"{model} never learned {listed(words)} together, as they are in"
            self.remark(scope, f"{remark} {listed(_quoted(words_by_text))}")

    def check_places(self, model: str, scope: Scope, texts: Sequence[str]) -> None:
        """Warn of texts about domains whose places in images a model hardly knows: of each domain
        once, with the first texts."""
        for domain in sorted(scope.unplaced):
            about = [text for text in texts if domain in scope.words_by_domain(text)]
            if about and (model, domain) not in self._unplaced:
                self._unplaced.add((model, domain))
                self.remark(
                    scope,
                    f"{model} hardly knows where {scope.called(domain)} is in a photo, for it "
                    f"never learned that: what it shows of {listed(_quoted(about))} says little",
                )

    def outside(self, name: str) -> bool:
        """Whether an image of this name is unlike the training of a model that has seen it."""
        key = canonical_name(name)
        kinds = (images for kinds in self._images.values() for images in kinds.values())
        return any(key in images and images[key][1] for images in kinds)

    def sentences(self) -> list[str]:
        """The warnings about images, without folders and advice."""
        return [
            f"{sentence}. It knows {scope.knows}" for sentence, scope in self._unlike(_short_names)
        ]

    def remarks(self) -> list[str]:
        """For a page: `sentences`, and the remarks about texts."""
        return [*self.sentences(), *self._remarks]

    def tell(self) -> None:
        """Warn of the images that are outside, once for each model."""
        list_names = _short_names if self._brief else listed
        for sentence, scope in self._unlike(list_names):
            self._warn(sentence, scope)
        for (model, question), (scope, names) in self._misasked.items():
            domain = scope.called(scope.asked_of[scope.form(question)])
            look = "looks" if len(names) == 1 else "look"
            self._warn(
                f"{model} learned to answer {begun(question)!r} of {domain}, and "
                f"{list_names(list(names.values()))} {look} otherwise",
                scope,
            )

    def _warn(self, message: str, scope: Scope) -> None:
        if not (self._brief and scope.knows in self._advised):
            message += f". It knows {scope.knows}, in English; for others load a public checkpoint"
        self._advised.add(scope.knows)
        warn(message, ScopeWarning)

    def _unlike(self, list_names: Callable[[Sequence[str]], str]) -> Iterator[tuple[str, Scope]]:
        """For each model with images outside its scope: a sentence about them, and the scope."""
        for model, kinds in self._images.items():
            sentence = ""
            for kind, images in sorted(kinds.items(), key=lambda item: item[0] != IMAGES):
                outside = [name for name, is_outside in images.values() if is_outside]
                if not outside:
                    continue
                share = _share(len(outside), len(images), kind)
                if sentence:
                    do = "does" if len(outside) == 1 else "do"
                    sentence += f"; so {do} {share}"
                else:
                    look = "looks" if len(outside) == 1 else "look"
                    sentence = (
                        f"{share} {look} unlike what {model} was trained on: {list_names(outside)}"
                    )
            if sentence:
                yield sentence, self._scopes[model]


collector: CurrentCollector[ScopeReport] = CurrentCollector("scope report")


def together(brief: bool = False) -> AbstractContextManager[ScopeReport]:
    """Many tasks warn once, at the end, of what they find outside. Inside another `together` they
    warn with the outer one. brief: see `ScopeReport`."""
    return collector.together(ScopeReport(brief))


def apart() -> AbstractContextManager[None]:
    """Each task warns by itself, also inside `together`."""
    return collector.apart()


@contextmanager
def untold() -> Iterator[None]:
    """Tasks do not warn: the caller does."""
    with collector.untold(ScopeReport()), unsaid(ScopeWarning):
        yield


def noted(report: ScopeReport) -> AbstractContextManager[None]:
    """Tasks add what they find outside to `report`, and the caller warns."""
    return collector.untold(report)


def current() -> ScopeReport:
    """The report of the `together` around, for commands that show it; else an empty report."""
    return collector.current or ScopeReport()


def warn_of_stored(model: str, scope: Scope | None, outside: Mapping[str, bool]) -> None:
    """Warn of images that are outside by their stored vectors (`Scope.outside`), given by their
    names. scope: None for a model without one, which does not warn."""
    if scope is not None:
        with together() as report:
            for name, is_outside in outside.items():
                report.add_image(model, scope, name, is_outside, LISTED)


def _quoted(items: Iterable[str]) -> list[str]:
    """Words or texts for a message, each once."""
    return [repr(begun(item)) for item in dict.fromkeys(items)]


def _share(count: int, total: int, kind: str) -> str:
    """How many of a kind, for a sentence: "2 of 3 images listed", "the image listed"."""
    if total > 1:
        return f"{count} of {total} {kind}"
    return f"the {kind.replace('images', 'image').replace('photos', 'photo')}"


def _short_names(names: Sequence[str]) -> str:
    return listed([one_line(os.path.basename(name) or name) for name in names], BRIEF)
