"""What finds defects, as the rest of this room sees it: one file and one class per method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images.preprocess import Geometry

RGB = NDArray[np.uint8]  # (H, W, 3), a photo as `model.opener(source, exact=True)` opens it
State = dict[str, Tensor]  # what a method has learned; saved as safetensors
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Needs:
    """What a method has to be given.

    good   at least so many good photos; 0: none
    most   good photos that it learns from at most; None: all
    batch  whether photos are compared with each other: all of them come in one call of `score`,
           and a score is of its batch alone
    words  whether the model must read texts
    """

    good: int = 1
    most: int | None = None
    batch: bool = False
    words: bool = False


@dataclass(frozen=True)
class View:
    """How a model looks at photos.

    layers      blocks whose patch tokens are taken, 0 the first and -1 the last, as they leave it;
                empty: what the method takes by itself
    short_side  pixels to which a photo's shorter side is resized, in tiles of the size that the
                network was trained at; None: one tile
    """

    layers: tuple[int, ...] = ()
    short_side: int | None = None

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise UnsupportedError(f"short_side is {self.short_side}; it is 1 pixel or more")


WHOLE = View()  # the photo at once


@dataclass(frozen=True)
class Finding:
    """What a method says of one photo; large is bad.

    grid     (h, w) float32, a value for each place, comparable between photos
    golden   (height, width) of a photo that it was compared with place by place, where that has
             other proportions
    outside  the share of the photo, 0 to 1, that no such photo shows, so that it is not compared
    alike    how well it correlates with such a photo where that is laid on it, -1 to 1; 1 also
             where that cannot be told
    """

    score: float
    grid: NDArray[np.float32]
    geometry: Geometry  # from the grid, which covers all of its input, to the photo's pixels
    golden: tuple[int, int] | None = None
    outside: float = 0.0
    alike: float = 1.0


class Method(Protocol):
    """A way to find defects: a frozen dataclass whose fields are its options, JSON values but for
    `view`. Photos are opened once, by whoever calls; they come as they are needed, and may be more
    than memory holds."""

    name: ClassVar[str]
    needs: ClassVar[Needs]

    @property
    def view(self) -> View:
        """How it looks at photos."""

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """What there is to learn from good photos. Raises UnsupportedError for a model that it
        cannot use."""

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """A finding for each photo, in order; photos are consumed as far ahead as a batch is
        large, or all of them where `needs.batch`."""
