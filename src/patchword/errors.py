"""Everything patchword raises on purpose.

    PatchwordError
    ├── ImageError        an image that cannot be opened or used: names the image and the reason
    ├── CheckpointError   a checkpoint that is missing, unknown, unsafe, or does not fit
    ├── ConfigError       a configuration that contradicts itself
    ├── TokenizerError    a tokenizer that is missing or does not fit the model
    ├── UnsupportedError  a job or option that a model does not have: names one that does
    ├── IndexStoreError   an index that is missing, damaged, or made by another model
    └── RecipeError       a training recipe, or its data, that cannot be run

Each message says what was found, where, and what to do. Beside them, warnings:

    LongTextWarning       texts that do not fit the context and are cut
    ImageWarning          an image that may not be opened as expected
        DarkWarning       one that is seen nearly black, or nearly grey
    SkippedFilesWarning   files of a folder that are or hold photos, and are not opened
    ScopeWarning          images and texts that a model knows nothing about
    UnseenWarning         photos of which a model does not see all, or all very small
    CheckpointWarning     a checkpoint that can be read in two ways
    FontWarning           characters of a text that no font can draw
    SameMapWarning        texts given to a heatmap method that is of no text
    SameLabelsWarning     labels that a model cannot tell apart
    MethodWarning         a heatmap method that is known to fail with a model
    SampledWarning        more patches of good photos than are kept

`warn` shows them with the line of the caller's own code.
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
    """An image that cannot be opened or used. `.image` names it, `.reason` says why, `.opened` is
    True where it was opened and a model fails at it."""

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


class RecipeError(PatchwordError):
    """A training recipe, or the data it names, that cannot be run."""


class LongTextWarning(UserWarning):
    """Texts longer than the model's context, whose ends are cut off."""


class ImageWarning(UserWarning):
    """An image that may not be opened as expected: its first page alone, or so dark that its range
    is probably another; or one with nothing to see, of one colour."""


class DarkWarning(ImageWarning):
    """An image so dark, or so nearly of one grey, that the range of its samples is probably
    another."""


class SkippedFilesWarning(UserWarning):
    """Files of a folder that look like photos and cannot be opened, or may hold photos and were not
    looked into: how many, by kind."""


class ScopeWarning(UserWarning):
    """Images, words or questions unlike those that the model was trained on."""


class UnseenWarning(UserWarning):
    """Photos that a model sees in part, because the rest is cropped away, or very small: an answer
    says nothing of what was not seen."""


class CheckpointWarning(UserWarning):
    """A checkpoint that can be read in two ways: says which was taken, and how to get the other."""


class FontWarning(UserWarning):
    """Characters of a text that no font of the system has: pictures show boxes in their place."""


class SampledWarning(UserWarning):
    """More patches of good photos than are kept: a random sample of them."""


class SameMapWarning(UserWarning):
    """Texts given to a heatmap method that is of no text: each has the same map."""


class SameLabelsWarning(UserWarning):
    """Labels that the model reads as the same: it scores them alike."""


class MethodWarning(UserWarning):
    """A heatmap method that is known to fail with a model: says which do not."""


class Line(NamedTuple):
    """A line of somebody's code, as `warnings.warn_explicit` takes it."""

    filename: str
    lineno: int
    module: str
    registry: dict[Any, Any]  # the warnings that were shown of its file


_line: ContextVar[Line | None] = ContextVar("line", default=None)  # of a thread's work
_unsaid: ContextVar[tuple[type[Warning], ...]] = ContextVar("unsaid", default=())


def counted(count: int, thing: str, several: str = "") -> str:
    """A number and what there are so many of: "1 image", "1,200 images". several: its plural, where
    that is not with an s."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {several or thing + 's'}"


def one_line(name: str) -> str:
    """The name of a file on one line of a message: line ends and tabs in it are written out."""
    return name.replace("\n", "\\n").replace("\t", "\\t")


def begun(text: str, most: int = 60) -> str:
    """A text for a message: one that is longer than `most` characters is cut."""
    return text if len(text) <= most else f"{text[:most]}..."


def listed(items: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """Items for a message: the first few, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return between.join(items[:most]) + more


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning of the line that called patchword, however deep in it this is."""
    if issubclass(category, _unsaid.get()):
        return
    warnings.warn_explicit(message, category, *(_line.get() or callers_line()))


@contextmanager
def unsaid(*kinds: type[Warning]) -> Iterator[None]:
    """Warnings of these kinds are not given here. Python's own filters are those of all threads:
    changed and put back by several, they stay changed."""
    token = _unsaid.set((*_unsaid.get(), *kinds))
    try:
        yield
    finally:
        _unsaid.reset(token)


def callers_line() -> Line:
    """The line that called the outermost of patchword's functions on the stack."""
    frame: FrameType | None = sys._getframe(1)
    found = frame
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found = frame.f_back or frame
        frame = frame.f_back
    assert found is not None
    values = found.f_globals
    module, registry = values.get("__name__", ""), values.setdefault("__warningregistry__", {})
    return Line(found.f_code.co_filename, found.f_lineno, module, registry)


def in_threads(work: Callable[[T], U]) -> Callable[[T], U]:
    """`work` for other threads, in the context of this one: its warnings name the line that called
    patchword here, and whoever hears those of this thread hears them."""
    context = copy_context()
    context.run(_line.set, _line.get() or callers_line())

    def run(item: T) -> U:
        return context.copy().run(work, item)  # one context runs in one thread at a time

    return run
