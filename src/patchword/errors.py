"""Everything patchword raises on purpose.

    PatchwordError
    ├── ImageError        an image that cannot be opened or used: names the image and the reason
    ├── CheckpointError   a checkpoint that is missing, unknown, unsafe, or does not fit
    ├── ConfigError       a configuration that contradicts itself
    ├── TokenizerError    a tokenizer that is missing or does not fit the model
    ├── UnsupportedError  a job or option that a model does not have: names one that does
    ├── IndexStoreError   an index that is missing, damaged, or made by another model
    │   ├── NoIndexError  no index at a path
    │   ├── NoRowError    no entry of an id
    │   └── SameIdError   two entries of one id
    └── RecipeError       a training recipe, or its data, that cannot be run

Each message says what is wrong, where, and what to do. The warnings:

    LongTextWarning       texts that do not fit the context and are cut
    ImageWarning          an image that may not be opened as expected
        DarkWarning       an image that becomes nearly black, or nearly grey
    SkippedFilesWarning   files of a folder that are or contain photos, and are not opened
    ScopeWarning          images and texts unlike those that a model was trained on
    UnseenWarning         photos that are cropped, or made very small, for a model
    CheckpointWarning     a checkpoint that can be read in two ways
    FontWarning           characters of a text that no font can draw
    SameMapWarning        texts for a heatmap method that does not depend on a text
    SameLabelsWarning     labels that a model cannot tell apart
    MethodWarning         a heatmap method that is known to fail with a model
    SampledWarning        more patches of good photos than are kept

`warn` attributes them to the line of the user's code that called patchword.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
U = TypeVar("U")

PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


class PatchwordError(Exception):
    """Base of every error that patchword raises on purpose."""


class ImageError(PatchwordError):
    """An image that cannot be opened or used. `.image` is its name, `.reason` the reason. `.opened`
    is True if it was opened and a model fails for it."""

    opened = False

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"{one_line(image)}: {reason}")
        self.image = image
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.image, self.reason)


class CheckpointError(PatchwordError):
    """A checkpoint that is missing, of an unknown format, unsafe to read, or does not fit."""


class ConfigError(PatchwordError):
    """A configuration that contradicts itself or names something unknown."""


class TokenizerError(PatchwordError):
    """A tokenizer that is missing or does not fit the model."""


class UnsupportedError(PatchwordError):
    """A job or an option that a model does not have."""


class IndexStoreError(PatchwordError):
    """An index that is missing, damaged, or holds vectors of another model."""


class NoIndexError(IndexStoreError):
    """There is no index at the path."""


class NoRowError(IndexStoreError):
    """An index has no entry of an id."""


class SameIdError(IndexStoreError):
    """Two entries of an index have the same id, so none of them can be read by it."""


class RecipeError(PatchwordError):
    """A training recipe, or the data it names, that cannot be run."""


class LongTextWarning(UserWarning):
    """Texts longer than the model's context, whose ends are cut off."""


class ImageWarning(UserWarning):
    """An image that may not be opened as expected: only its first page, or so dark that its range
    is probably wrong; or an image of one colour, with nothing to see."""


class DarkWarning(ImageWarning):
    """An image so dark, or so nearly of one grey, that the range of its samples is probably
    wrong."""


class SkippedFilesWarning(UserWarning):
    """Files of a folder that look like photos and cannot be opened, or that may contain photos and
    were not read: how many, by kind."""


class ScopeWarning(UserWarning):
    """Images, words or questions unlike those that the model was trained on."""


class UnseenWarning(UserWarning):
    """Photos of which parts are cropped away, or that are made very small, for a model. Its answer
    does not depend on what it did not see."""


class CheckpointWarning(UserWarning):
    """A checkpoint that can be read in two ways. The message names the one that was chosen, and how
    to get the other."""


class FontWarning(UserWarning):
    """Characters that no font of the system has: pictures show boxes instead."""


class SampledWarning(UserWarning):
    """More patches of good photos than are kept: a random sample is used."""


class SameMapWarning(UserWarning):
    """Texts for a heatmap method that does not depend on a text: all have the same map."""


class SameLabelsWarning(UserWarning):
    """Labels that are the same for the model: they get equal scores."""


class MethodWarning(UserWarning):
    """A heatmap method that is known to fail with a model. The message names better ones."""


class Line(NamedTuple):
    """A line of code, as the arguments of `warnings.warn_explicit`."""

    filename: str
    lineno: int
    module: str
    registry: dict[Any, Any]  # the warnings that were shown for its file


# The line that called patchword, for work in another thread.
_line: ContextVar[Line | None] = ContextVar("line", default=None)
_unsaid: ContextVar[tuple[type[Warning], ...]] = ContextVar("unsaid", default=())


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 image", "1,200 images". plural: if it is not formed by an s."""
    if count == 1:
        return f"{count:,} {noun}"
    return f"{count:,} {plural or noun + 's'}"


def one_line(name: str) -> str:
    """The name of a file on one line of a message: line ends and tabs are escaped."""
    return name.replace("\n", "\\n").replace("\t", "\\t")


def begun(text: str, most: int = 60) -> str:
    """A text for a message, cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def listed(items: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """Items for a message: the first `most`, and how many more there are."""
    shown = between.join(items[:most])
    if len(items) > most:
        shown += f" and {len(items) - most} more"
    return shown


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a warning at the line of the user's code that called patchword."""
    if issubclass(category, _unsaid.get()):
        return
    warnings.warn_explicit(message, category, *(_line.get() or callers_line()))


@contextmanager
def unsaid(*kinds: type[Warning]) -> Iterator[None]:
    """Suppress warnings of these kinds. Python's filters belong to all threads: if several threads
    change and restore them, they may stay changed."""
    token = _unsaid.set((*_unsaid.get(), *kinds))
    try:
        yield
    finally:
        _unsaid.reset(token)


def callers_line() -> Line:
    """The line that called the outermost function of patchword on the stack."""
    frame: FrameType | None = sys._getframe(1)
    caller = frame
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            caller = frame.f_back or frame
        frame = frame.f_back
    assert caller is not None
    values = caller.f_globals
    module, registry = values.get("__name__", ""), values.setdefault("__warningregistry__", {})
    return Line(caller.f_code.co_filename, caller.f_lineno, module, registry)


def in_threads(work: Callable[[T], U]) -> Callable[[T], U]:
    """`work` for other threads, in a copy of this thread's context: its warnings name the line that
    called patchword in this thread, and are recorded where this thread's warnings are."""
    context = copy_context()
    context.run(_line.set, _line.get() or callers_line())

    def run(item: T) -> U:
        return context.copy().run(work, item)  # one context runs in one thread at a time

    return run
