"""Records which part of each photo a network sees, and warns about it: the share that is cropped
away, how small the rest becomes, and whether all pixels have one colour.

A model's answer looks equally sure if it saw only the middle third of a photo, or one pixel in 41,
or white pixels only. All code that opens photos for a network records how they were seen, and gives
at most one warning of each kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from patchword.errors import ImageWarning, UnseenWarning, listed, one_line, warn
from patchword.scope import canonical_name, file_name
from patchword.scope.summary import CurrentCollector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from patchword.images import Geometry, ImageLike, Opener, Preprocess
    from patchword.images.photo import RGB

CROPPED = 0.1  # share of a photo; a warning if more is cropped away
SMALL = 8.0  # pixels of a photo for one pixel of the input; a warning if there are more
NAMED = 3  # photos that a warning names


@dataclass(frozen=True)
class Remedies:
    """Advice for the warnings: how to let the model see more of a photo; "" if that is not
    possible. named: how many photos a warning names. inspected: advice for `inspect`."""

    whole: str = (
        "squash=True shows the whole, tiles=True of classify, ask, caption and match all parts"
    )
    closer: str = (
        "tiles=True of classify, ask, caption, match and heatmap, or its window, looks closer"
    )
    named: int = NAMED
    inspected: str = "a larger short_side (--short-side) looks closer"


_PYTHON = Remedies()
advice: ContextVar[Remedies] = ContextVar("advice", default=_PYTHON)


@dataclass(frozen=True)
class Sight:
    """How a network sees a photo.

    name     of its file; "" without one
    source   (height, width) of the photo in pixels
    cropped  the share that is cropped away, 0 to 1
    scale    pixels of the photo that become one pixel of the input, along the side with more
    size     (height, width) of the network's input
    colour   the colour of all its pixels, such as "#ffffff"; "" if they differ
    """

    name: str
    source: tuple[int, int]
    cropped: float
    scale: float
    size: tuple[int, int]
    colour: str = ""

    @classmethod
    def of(
        cls, image: object, geometry: Geometry, pixels: RGB | Image.Image | None = None
    ) -> Sight:
        """geometry: its source is the size in the file. pixels: all pixels of the opened photo."""
        visible = 1.0
        for whole, start, size in zip(geometry.resized, geometry.crop, geometry.size, strict=True):
            visible *= (min(start + size, whole) - max(start, 0)) / whole
        scale = max(
            source / resized
            for source, resized in zip(geometry.source, geometry.resized, strict=True)
        )
        colour = "" if pixels is None else _colour(image, pixels)
        return cls(file_name(image), geometry.source, 1 - visible, scale, geometry.size, colour)

    @classmethod
    def whole(cls, image: object, pixels: RGB) -> Sight:
        """Of a photo that is seen completely and at its full size."""
        size = pixels.shape[0], pixels.shape[1]
        return cls(file_name(image), size, 0.0, 1.0, size, _colour(image, pixels))

    @property
    def in_part(self) -> bool:
        """True if enough is cropped away for a warning."""
        return self.cropped > CROPPED

    @property
    def small(self) -> bool:
        """True if it is seen small enough for a warning."""
        return self.scale > SMALL


class Known(NamedTuple):
    """Data of a photo that was opened for a network. opener_data: from `Opener.recorded`. box: of
    the photo in its pixels, which are still to be resized; None if they are the input."""

    geometry: Geometry
    sight: Sight
    opener_data: Any
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Look:
    """Opens and preprocesses photos up to normalisation: uint8 (3, h, w). It is a `Work` of
    `images.worker`, of which another process can do the first part.

    exact    as the reference processors: JPEGs are decoded at their full size, Pillow resizes
    shrinks  `shrink` makes JPEGs smaller, not Pillow, unless `exact`. Another process returns them
             as it decoded them, so that it need not import torch
    """

    opener: Opener
    preprocess: Preprocess
    exact: bool
    shrinks: bool = False

    @classmethod
    def here(cls, opener: Opener, preprocess: Preprocess, exact: bool = False) -> Look:
        """With `shrinks` if this processor is fast at it."""
        from patchword.shrink import AVAILABLE

        return cls(opener, preprocess, exact, AVAILABLE)

    def __call__(self, image: ImageLike) -> tuple[NDArray[np.uint8], Known]:
        return self._resized(*self.begin(image))

    def begin(self, image: ImageLike) -> tuple[NDArray[np.uint8], Known]:
        photo = self.opener.sized(image, at_least=self.preprocess.at_least, exact=self.exact)
        geometry = self.preprocess.geometry(*photo.size)
        sight = Sight.of(image, geometry, photo.pixels)
        known = Known(geometry, sight, self.opener.recorded(image))
        exact = self.exact or self.opener.exact
        if self.shrinks and not exact and self.preprocess.shrinks(photo, geometry):
            return photo.array, known._replace(box=photo.box)
        return self.preprocess.seen(photo)[0], known

    def to_send(self, image: ImageLike) -> ImageLike | None:
        return self.opener.to_send(image)

    def received(
        self, image: ImageLike, result: tuple[NDArray[np.uint8], Known]
    ) -> tuple[NDArray[np.uint8], Known]:
        pixels, known = result
        self.opener.record(image, known.opener_data)
        named = known._replace(sight=replace(known.sight, name=file_name(image)))
        return self._resized(pixels, named)

    def _resized(self, pixels: NDArray[np.uint8], known: Known) -> tuple[NDArray[np.uint8], Known]:
        if known.box is None:
            return pixels, known
        from patchword.images.photo import Photo
        from patchword.shrink import shrunk

        photo = Photo(pixels, known.geometry.source, known.box)
        return self.preprocess.seen(photo, shrunk)[0], known._replace(box=None)


class Sights:
    """How the photos of one task were seen, by name; photos without a name are numbered."""

    def __init__(self) -> None:
        self._by_name: dict[str, Sight] = {}
        self.remedies = advice.get()

    def note(self, sight: Sight) -> None:
        """Record a photo that a network saw."""
        name = sight.name or f"image {len(self._by_name) + 1}"
        self._by_name[canonical_name(name)] = replace(sight, name=name)

    @property
    def pixels(self) -> int:
        """The number of pixels of all photos in their files."""
        return sum(sight.source[0] * sight.source[1] for sight in self._by_name.values())

    def record(self, name: str) -> dict[str, float | str]:
        """The fields "cropped", "scale" and "one_colour" of a photo, as far as there is a warning
        about them."""
        sight = self._by_name.get(canonical_name(name))
        fields: dict[str, float | str] = {}
        if sight is None:
            return fields
        if sight.in_part:
            fields["cropped"] = sight.cropped
        if sight.small:
            fields["scale"] = sight.scale
        if sight.colour:
            fields["one_colour"] = sight.colour
        return fields

    def tell(self) -> None:
        """Warn about photos that are cropped, photos that are seen small, and photos of one
        colour."""
        sights = list(self._by_name.values())
        in_part = sorted((s for s in sights if s.in_part), key=lambda s: -s.cropped)
        if in_part:
            warn(_in_part(in_part, len(sights), self.remedies), UnseenWarning)
        small = sorted((s for s in sights if s.small), key=lambda s: -s.scale)
        if small:
            warn(_small(small, len(sights), self.remedies), UnseenWarning)
        plain = [sight for sight in sights if sight.colour]
        if plain:
            warn(_plain(plain, len(sights), self.remedies), ImageWarning)


_once: CurrentCollector[Sights] = CurrentCollector("sights")


def together() -> AbstractContextManager[Sights]:
    """A context that collects the warnings of several tasks and gives them once, at the end. Nested
    contexts join the outer one."""
    return _once.together(Sights())


@contextmanager
def apart(remedies: Remedies) -> Iterator[None]:
    """A context in which each task gives its own warnings, with this advice, even inside
    `together`."""
    token = advice.set(remedies)
    try:
        with _once.apart():
            yield
    finally:
        advice.reset(token)


def untold() -> AbstractContextManager[None]:
    """A context without warnings: the caller gives them."""
    return _once.untold(Sights())


@contextmanager
def noted() -> Iterator[Sights]:
    """A context in which a task records photos. It warns at the end, unless it is inside
    `together`."""
    outer = _once.current
    sights = outer or Sights()
    try:
        yield sights
    finally:
        if outer is None:
            sights.tell()


def current() -> Sights:
    """The photos recorded inside `together`; without it, an empty record."""
    return _once.current or Sights()


def _colour(image: object, pixels: RGB | Image.Image) -> str:
    """The colour of all pixels of an image; "" for floats, for which `images.open` warns."""
    from patchword.images.photo import one_colour

    return "" if "float" in str(getattr(image, "dtype", "")) else one_colour(pixels)


def _in_part(sights: Sequence[Sight], total: int, remedies: Remedies) -> str:
    shares = [f"{sight.cropped:.0%} of {_short(sight.name)}" for sight in sights]
    lost = listed(shares, remedies.named)
    message = f"{_are_seen(len(sights), total)} in part, {lost} is cropped away"
    return f"{message}: {remedies.whole}" if remedies.whole else message


def _small(sights: Sequence[Sight], total: int, remedies: Remedies) -> str:
    scales = [f"{_short(sight.name)} at 1:{sight.scale:.0f}" for sight in sights]
    message = f"{_are_seen(len(sights), total)} very small, {listed(scales, remedies.named)}"
    return f"{message}: {remedies.closer}" if remedies.closer else message


def _plain(sights: Sequence[Sight], total: int, remedies: Remedies) -> str:
    colours = listed([f"{_short(sight.name)} ({sight.colour})" for sight in sights], remedies.named)
    verb = "has" if len(sights) == 1 else "have"
    subject = "the photo has" if total == 1 else f"{len(sights)} of {total} photos {verb}"
    return f"{subject} one colour alone, about which no answer means anything: {colours}"


def _short(name: str) -> str:
    """A photo's name without its folder."""
    return one_line(os.path.basename(name) or name)


def _are_seen(count: int, total: int) -> str:
    if total == 1:
        return "the photo is seen"
    verb = "is" if count == 1 else "are"
    return f"{count} of {total} photos {verb} seen"
