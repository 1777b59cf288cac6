"""The protocol of methods that find defects: one file and one class per method."""

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
    """What a method requires.

    good   the fewest good photos that it learns from; 0: none are needed
    most   the most good photos that it learns from; None: all
    batch  True if it compares photos with each other: all of them come in one call of `score`, and
           scores of two calls cannot be compared
    words  True if the model must have a text tower
    """

    good: int = 1
    most: int | None = None
    batch: bool = False
    words: bool = False


@dataclass(frozen=True)
class View:
    """The layers and the resolution at which photos are compared.

    layers      blocks whose output tokens are used, 0 the first and -1 the last; (): the method's
                default
    short_side  pixels to which a photo's shorter side is resized; the photo is then cut into tiles
                of the size that the network was trained at. None: the side of one tile
    """

    layers: tuple[int, ...] = ()
    short_side: int | None = None

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise UnsupportedError(f"short_side is {self.short_side}; it is 1 pixel or more")


DEFAULT_VIEW = View()


@dataclass(frozen=True)
class Finding:
    """The result of a method for one photo; larger values are worse.

    grid         (h, w) float32: a value for each place, comparable between photos

    Of the method "reference", which compares photos with a golden one place by place:

    golden_size  (height, width) of a golden photo whose proportions differ; None: none does
    uncovered    the share of the photo, 0 to 1, that no golden photo covers; it is not compared
    correlation  with the golden photo, -1 to 1; 1 also where it cannot be measured
    """

    score: float
    grid: NDArray[np.float32]
    geometry: Geometry  # from the grid to the photo's pixels
    golden_size: tuple[int, int] | None = None
    uncovered: float = 0.0
    correlation: float = 1.0


class Method(Protocol):
    """A method that finds defects: a frozen dataclass whose fields are its options, JSON values
    except for `view`. The caller opens the photos, each once; they come as an iterator, and may be
    more than memory holds."""

    name: ClassVar[str]
    needs: ClassVar[Needs]

    @property
    def view(self) -> View:
        """The layers and the resolution at which it compares photos."""

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """Learn from good photos. Raises UnsupportedError for a model that the method cannot
        use."""

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """A finding for each photo, in order. Photos are read one batch ahead, or all of them at
        once if `needs.batch`."""
