"""What of a photo a network sees: the share that is cropped away, how small the rest becomes, and
whether there is anything to see.

A model answers as surely about a photo of which it saw the middle third, or one pixel in 41, or
where all pixels are white, as about any other. Whatever opens photos for a network notes how it saw
them; what a person would want to know is told once, in one warning of a kind.
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

CROPPED = 0.1  # share of a photo: what loses more is told
SMALL = 8.0  # pixels of a photo for one of the network's: what is seen smaller is told
NAMED = 3  # photos that a warning names


@dataclass(frozen=True)
class Remedies:
    """How whoever reads a warning gets more of a photo seen; empty where nothing does. named: how
    many photos it names; inspected: of photos that are searched for defects."""

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
    """How a photo of `source` (height, width) pixels is seen.

    name     of its file; empty where it has none
    cropped  the share of it that is cropped away, 0 to 1
    scale    how many of its pixels become one of the network's, along the side where they are most
    size     (height, width) of what the network is given
    colour   "#ffffff", of all its pixels; empty where they differ
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
        """geometry: from the size of the photo in its file. pixels: as they were opened, all of
        them."""
        shown = 1.0
        for whole, start, size in zip(geometry.resized, geometry.crop, geometry.size, strict=True):
            shown *= (min(start + size, whole) - max(start, 0)) / whole
        factors = [s / r for s, r in zip(geometry.source, geometry.resized, strict=True)]
        seen = cls(file_name(image), geometry.source, 1 - shown, max(factors), geometry.size)
        return seen if pixels is None else replace(seen, colour=_colour(image, pixels))

    @classmethod
    def whole(cls, image: object, pixels: RGB) -> Sight:
        """Of a photo whose parts are all looked at, pixel by pixel."""
        size = pixels.shape[0], pixels.shape[1]
        return cls(file_name(image), size, 0.0, 1.0, size, _colour(image, pixels))

    @property
    def in_part(self) -> bool:
        """True if so much is cropped away that it is told."""
        return self.cropped > CROPPED

    @property
    def small(self) -> bool:
        """True if it is seen so small that it is told."""
        return self.scale > SMALL


class Known(NamedTuple):
    """Data of a photo that was opened for a network. opener_data: from `Opener.recorded`."""

    geometry: Geometry
    sight: Sight
    opener_data: Any


@dataclass(frozen=True)
class Look:
    """Opens photos as a network sees them before they are normalised, uint8 (3, h, w): here, or in
    another process, see `images.processes`."""

    opener: Opener
    preprocess: Preprocess
    exact: bool

    def __call__(self, image: ImageLike) -> tuple[NDArray[np.uint8], Known]:
        photo = self.opener.sized(image, at_least=self.preprocess.at_least, exact=self.exact)
        pixels, geometry = self.preprocess.seen(photo)
        sight = Sight.of(image, geometry, photo.pixels)
        return pixels, Known(geometry, sight, self.opener.recorded(image))

    def to_send(self, image: ImageLike) -> ImageLike | None:
        return self.opener.to_send(image)

    def received(
        self, image: ImageLike, found: tuple[NDArray[np.uint8], Known]
    ) -> tuple[NDArray[np.uint8], Known]:
        pixels, known = found
        self.opener.record(image, known.opener_data)
        return pixels, known._replace(sight=replace(known.sight, name=file_name(image)))


class Sights:
    """How the photos of one task were seen, by their names; those without are numbered."""

    def __init__(self) -> None:
        self._of: dict[str, Sight] = {}
        self.remedies = advice.get()

    def note(self, sight: Sight) -> None:
        """A photo that was shown to a network."""
        name = sight.name or f"image {len(self._of) + 1}"
        self._of[canonical_name(name)] = replace(sight, name=name)

    @property
    def pixels(self) -> int:
        """Of all photos together, in their files."""
        return sum(each.source[0] * each.source[1] for each in self._of.values())

    def record(self, name: str) -> dict[str, float | str]:
        """Of a photo "cropped", "scale" and "one_colour" where they are told."""
        sight = self._of.get(canonical_name(name))
        if sight is None:
            return {}
        found: dict[str, float | str] = {"cropped": sight.cropped} if sight.in_part else {}
        found |= {"scale": sight.scale} if sight.small else {}
        return found | ({"one_colour": sight.colour} if sight.colour else {})

    def tell(self) -> None:
        """Warn of the photos that were seen in part, of those that were seen small, and of those
        with nothing to see."""
        sights = list(self._of.values())
        if in_part := sorted((s for s in sights if s.in_part), key=lambda s: -s.cropped):
            warn(_in_part(in_part, len(sights), self.remedies), UnseenWarning)
        if small := sorted((s for s in sights if s.small), key=lambda s: -s.scale):
            warn(_small(small, len(sights), self.remedies), UnseenWarning)
        if plain := [s for s in sights if s.colour]:
            warn(_plain(plain, len(sights), self.remedies), ImageWarning)


_once: CurrentCollector[Sights] = CurrentCollector("sights")


def together() -> AbstractContextManager[Sights]:
    """What many tasks see is told once, at the end, instead of by each; within tasks that are told
    together, with them."""
    return _once.together(Sights())


@contextmanager
def apart(remedies: Remedies) -> Iterator[None]:
    """What is seen here is told by each task, whoever is told `together` around it, with these
    remedies."""
    token = advice.set(remedies)
    try:
        with _once.apart():
            yield
    finally:
        advice.reset(token)


def untold() -> AbstractContextManager[None]:
    """What is seen here is told elsewhere."""
    return _once.untold(Sights())


@contextmanager
def noted() -> Iterator[Sights]:
    """Where a task notes what it sees: it is told at the end, unless it is told `together`."""
    outer = _once.current
    found = outer or Sights()
    try:
        yield found
    finally:
        if outer is None:
            found.tell()


def current() -> Sights:
    """The sights that are told `together`, of commands that print them; else empty ones."""
    return _once.current or Sights()


def _colour(image: object, pixels: RGB | Image.Image) -> str:
    """The one colour of an image; of numbers from 0 to 1 that is told where they are opened."""
    from patchword.images.photo import one_colour

    return "" if "float" in str(getattr(image, "dtype", "")) else one_colour(pixels)


def _in_part(found: Sequence[Sight], total: int, remedies: Remedies) -> str:
    remedy = remedies.whole
    lost = listed(
        [f"{sight.cropped:.0%} of {_short(sight.name)}" for sight in found], remedies.named
    )
    return f"{_count(found, total)} in part, {lost} is cropped away{remedy and ': '}{remedy}"


def _small(found: Sequence[Sight], total: int, remedies: Remedies) -> str:
    remedy = remedies.closer
    scales = listed(
        [f"{_short(sight.name)} at 1:{sight.scale:.0f}" for sight in found], remedies.named
    )
    return f"{_count(found, total)} very small, {scales}{remedy and ': '}{remedy}"


def _plain(found: Sequence[Sight], total: int, remedies: Remedies) -> str:
    many = f"{len(found)} of {total} photos {'has' if len(found) == 1 else 'have'}"
    named = listed([f"{_short(sight.name)} ({sight.colour})" for sight in found], remedies.named)
    who = "the photo has" if total == 1 else many
    return f"{who} one colour alone, about which no answer means anything: {named}"


def _short(name: str) -> str:
    """A photo's name without its folder."""
    return one_line(os.path.basename(name) or name)


def _count(found: Sequence[Sight], total: int) -> str:
    if total == 1:
        return "the photo is seen"
    return f"{len(found)} of {total} photos {'is' if len(found) == 1 else 'are'} seen"
