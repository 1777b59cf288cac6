"""Heatmaps: where in a photo each text applies, or which places look like one of its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.errors import MethodWarning, SameMapWarning, UnsupportedError, warn
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.images.views import views
from patchword.models.protocols import DenseNetwork
from patchword.nn.inference_mode import inference
from patchword.options import checked, checked_probability, text_list
from patchword.scope import Check
from patchword.show import plots
from patchword.show.colours import MAP, known, scale_of
from patchword.show.percent import share
from patchword.tasks.grid_maps import GridMaps
from patchword.tasks.label_cache import label_features, state
from patchword.tasks.tiled import tile_size
from patchword.visible_area import untold
from patchword.where.auto import RISKY, usual, warning
from patchword.where.dense import EDITS, OF_PATCHES, dense, edit_of, on_grid
from patchword.where.gradients import chefer, legrad
from patchword.where.maskclip import by_keys
from patchword.where.photo_maps import HEAD, mapped, refined
from patchword.where.presence import LEAST, least, likely
from patchword.where.presence import present as probabilities
from patchword.where.regions import Mask, extent
from patchword.where.relevance import gradcam
from patchword.where.rollout import rollout
from patchword.where.surgery import without_common
from patchword.where.windows import Mapper, Progress, Scale, seen_whole

GRADCAM = "gradcam"  # by a BLIP's matching head
RELEVANCE = {"legrad": legrad, "chefer": chefer}
SURGERY = "surgery-features"  # the edit "surgery", then what texts have in common is subtracted
ROLLOUT = "rollout"  # takes no text
METHODS = (*EDITS, SURGERY, *RELEVANCE, GRADCAM, HEAD, ROLLOUT)
TEXT_VECTORS: dict[tuple[str, str, str], Vector] = {}  # by fingerprint and state of the model, text
Probable = tuple[float, ...] | Callable[[], tuple[float, ...]] | None


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap(GridMaps):
    """A map for each text, stored as a grid and interpolated to pixels on demand.

    grid    (T, h, w) float32: cosines; by gradient methods values of 0 or above without a unit
    method  the method that made it
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    texts: tuple[str, ...]
    grid: NDArray[np.float32]
    geometry: Geometry
    cell: int | None  # side of a value's cell in pixels of the network's input
    method: str
    probable: Probable = None  # probability that each text is in the photo, or a function of it
    least: float = 0.0  # no map is drawn of a text that is less probable
    background: NDArray[np.float32] | None = None  # (h, w): a head's map of the background

    @property
    def present(self) -> tuple[float, ...] | None:
        """The probability, 0 to 1, that each text is in the photo. It is computed on first use and
        takes one more encoding of the photo. None for maps without texts."""
        return self.probable() if callable(self.probable) else self.probable

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles: `present` as numbers, without the model that computes it."""
        return {**self.__dict__, "probable": self.present}

    @property
    def found(self) -> tuple[bool, ...]:
        """Whether each text is probable enough to be in the photo; True if that is not known."""
        if self.present is None:
            return (True,) * len(self.texts)
        return tuple(value >= self.least for value in self.present)

    @checked
    def picture(
        self,
        each: bool = False,
        title: str = "",
        colours: str = MAP,
        scale: Sequence[float] | None = None,
    ) -> Image.Image:
        """The photo, and the map of each text over it. Maps of texts that were not found are not
        drawn. A line surrounds the regions of a text, those of `locate` (see `regions.parts`).

        each     give each map a colour scale of its own, printed under it; else all share one
        colours  "inferno", "viridis", "turbo", "jet" or "gray"
        scale    (low, high), the values at the ends of the colour scale, for comparing pictures of
                 several images
        """
        return plots.maps_beside(self._tiles(each, known(colours), scale_of(scale)), title)

    def _tiles(
        self, each: bool, colours: str, scale: tuple[float, float] | None
    ) -> list[plots.Tile]:
        photo, values = self._drawn
        titles = list(self.texts)
        for number, probability in enumerate(self.present or ()):
            titles[number] += f": {share(probability, self.least)}"
            if not self.found[number]:
                titles[number] += ", not found"
        if each and len(self.texts) > 1 and scale is None:
            titles = [f"{title} (own scale)" for title in titles]
        has_cosines = self.method in (*EDITS, HEAD)
        return plots.heatmap_tiles(
            photo, values, titles, self.found, each, has_cosines, scale, colours,
            [self._extent(number, drawn) for number, drawn in enumerate(values)],
        )  # fmt: skip

    def _extent(self, number: int, drawn: NDArray[np.float32]) -> Mask | None:
        """The regions (H, W) of a text in its map as it is drawn; None if it was not found."""
        if self.method == ROLLOUT or not self.found[number]:
            return None
        background = None
        if self.background is not None:
            geometry = replace(self.geometry, source=(drawn.shape[0], drawn.shape[1]))
            background = geometry.to_source(self.background, self.cell)
        return extent(drawn, self.grid[number], background)


def first_tile(result: Heatmap) -> plots.Tile:
    """The first map over its photo, as `Heatmap.picture` draws it."""
    return result._tiles(False, MAP, None)[0]


def heatmap(
    model: Bundle,
    image: ImageLike,
    texts: str | Sequence[str] = (),
    method: str = "auto",
    words: bool = False,
    layer: int | None = None,
    scale: Scale | None = None,
    refine: bool = False,
    like: tuple[int, int] | None = None,
    like_image: ImageLike | None = None,
    present: float | None = None,
    negatives: str | Sequence[str] | None = None,
    progress: Progress | None = None,
    tiles: bool | int = False,
) -> Heatmap:
    """A heatmap of each text over the whole image.

    method     one of `dense.EDITS`, where the papers are named ("cosine" is the unchanged network);
               "legrad" or "chefer", by gradients (see `gradients`); "gradcam", for a BLIP with a
               matching head (see `relevance`); "head", of a model with a head for maps, trained
               with masks; "rollout", without texts. "auto": see `auto.usual`
    words      for "gradcam": the map of each text is followed by those of its words
    layer      for "gradcam": the block whose cross-attention is used, by default the 8th of 12; for
               "legrad" and "chefer": the first block that counts, by default the last but one and
               the last
    scale      the scale and the windows at which the photo is seen; None: those of the network,
               with as many windows as the photo's shape needs
    refine     maps follow the photo's edges (see `pamr`), at most `photo_maps.REFINED` pixels long
    like       (x, y) of a pixel: instead of texts, what looks like the patch there, in this image
               or in `like_image`. This works without a text tower
    present    the probability from which a text counts as found; of others no map is drawn. None:
               0.65 for "head", which has learned what is absent; 0.5 against `negatives`; else 0.1,
               among the words that a photo may show (see `presence.present`)
    negatives  texts that the texts are compared with
    tiles      instead of a scale: the whole photo and tiles of it, True or their side in pixels.
               The greatest value counts at each place (see `photo_maps.tiled`), and the greatest
               probability of each text

    Raises ImageError, or UnsupportedError for an unknown method or a model without a text tower.
    """
    texts = text_list(texts)
    if method == "auto" and model.config.matching and (words or layer is not None):
        method = GRADCAM
    method = resolve(model, method, like is not None, scale)
    _check(texts, method, words, layer, like, like_image)
    checked_probability("present", present)
    without_texts = like is not None or method == ROLLOUT
    if without_texts and (present is not None or negatives is not None):
        name = "like" if like is not None else ROLLOUT
        raise UnsupportedError(f"present and negatives are of texts, not of {name}")
    Check(model.scope, model.name).places(texts)
    photo = model.opener(image, exact=True)
    if like is not None:
        other = photo if like_image is None else model.opener(like_image, exact=True)
        titles, run = [f"like {like[0]}, {like[1]}"], _similarity(model, other, like, method)
    elif method == ROLLOUT:
        titles = texts or [ROLLOUT]
        run = partial(_rollout, model, len(titles))
    elif method == GRADCAM:
        titles, run = gradcam(model, texts, words, layer)
    else:
        titles, run = texts, of_texts(model, texts, method, layer)
    head = model.config.dense_head if method == HEAD else None
    refine_now = refine and not head  # with a head probabilities come first
    maps = mapped(model, image, photo, run, scale, refine_now, progress, method, tiles)
    probable: Probable = None
    background = None
    # The probability of the words of a text takes an option.
    by_default = not (head or words or without_texts)
    if negatives is not None or by_default or (present is not None and not head):
        probable = cache(partial(_probable, model, photo, titles, negatives, tiles))
    if head:
        probable = probable or likely(maps.values[:-1], maps.values[-1], head.scale)
        maps = refined(photo, maps) if refine else maps
        background, maps = maps.values[-1], replace(maps, values=maps.values[:-1])
    threshold = LEAST if head and negatives is None else least(negatives)
    return Heatmap(
        photo,
        tuple(titles),
        maps.values,
        maps.geometry,
        maps.cell,
        method,
        probable,
        threshold if present is None else present,
        background,
    )


def _probable(
    model: Bundle,
    photo: NDArray[np.uint8],
    texts: Sequence[str],
    negatives: str | Sequence[str] | None,
    tiles: bool | int,
) -> tuple[float, ...]:
    """See `presence.present`, of the whole photo and of its tiles."""
    tile_pixels: list[NDArray[np.uint8]] = []
    if tiles is not False:
        _, *cut = views(photo, model.preprocess.config.size, tile_size(tiles))
        tile_pixels = [tile.pixels for tile in cut]
    with untold():  # `mapped` has warned of the photo
        return probabilities(model.opening(squash=True), photo, texts, negatives, tile_pixels)


def _check(
    texts: Sequence[str],
    method: str,
    words: bool,
    layer: int | None,
    like: tuple[int, int] | None,
    like_image: ImageLike | None,
) -> None:
    """Raise UnsupportedError for options that contradict each other."""
    if like is not None and (texts or method not in OF_PATCHES):
        raise UnsupportedError(
            f"like is a place in a photo and takes no texts, and one of {', '.join(OF_PATCHES)}"
        )
    if like is None and like_image is not None:
        raise UnsupportedError("like_image needs like, the (x, y) of a pixel in it")
    if like is None and not texts and method != ROLLOUT:
        raise UnsupportedError("a heatmap needs at least one text, or like, the (x, y) of a pixel")
    if texts and method == ROLLOUT:
        warn(
            "rollout is of no text: it shows where the image tower looks, the same for every text",
            SameMapWarning,
        )
    if empty := [text for text in texts if not text.strip()]:
        raise UnsupportedError(f"a text without words has no heatmap: {empty[0]!r}")
    if words and method != GRADCAM:
        raise UnsupportedError(f"words is of method {GRADCAM!r}, not of {method!r}")
    if layer is not None and method not in (GRADCAM, *RELEVANCE):
        able = ", ".join([GRADCAM, *RELEVANCE])
        raise UnsupportedError(f"layer is of methods {able}, not of {method!r}")


def of_texts(model: Bundle, texts: Sequence[str], method: str, layer: int | None) -> Mapper:
    """The function from pixels (B, 3, H, W) to maps (B, T, h, w) of the texts; with a head the last
    map is the background's."""
    vectors = torch.from_numpy(model.embed_texts(texts)).to(model.device)
    if method in RELEVANCE:
        return partial(_relevance, model, vectors, method, layer)
    if method == SURGERY:
        return partial(_feature_surgery, model, vectors, _text_vector(model, "")[0])
    if method == HEAD and model.config.dense_head:
        vectors = torch.cat([vectors, _text_vector(model, model.config.dense_head.background)])
    return partial(cosines, model, vectors, method)


def _text_vector(model: Bundle, text: str) -> Tensor:
    """The unit vector (1, D) of a text that is needed in every call; kept in memory for a model
    with a fingerprint."""
    key = (model.fingerprint, state(model), text)
    if key not in TEXT_VECTORS or not model.fingerprint:
        TEXT_VECTORS[key] = label_features(model, [text], ["{}"])
    return torch.from_numpy(TEXT_VECTORS[key]).to(model.device)


def _relevance(
    model: Bundle, vectors: Tensor, method: str, layer: int | None, pixels: Tensor
) -> Tensor:
    return RELEVANCE[method](model, vectors, pixels, layer)


def cosines(model: Bundle, vectors: Tensor, method: str, pixels: Tensor) -> Tensor:
    """Cosines (B, T, h, w) of images (B, 3, H, W) with unit texts (T, D): of patches, by a method
    of EDITS, or of the places of a head's map."""
    network = model.own_network
    if method == HEAD and isinstance(network, DenseNetwork):
        with inference(model.own_network):
            return network.dense_cosines(pixels, vectors)
    edit = edit_of(method)
    if edit.refined:
        values = by_keys(model, pixels, edit, edit.refined, vectors)
    else:
        values = dense(model, pixels, edit, vectors) @ vectors.mT
    return on_grid(model, values, pixels)


def _feature_surgery(model: Bundle, vectors: Tensor, empty: Tensor, pixels: Tensor) -> Tensor:
    with inference(model.own_network):
        patches, image = model.image_tower.dense_pooled(pixels, EDITS["surgery"])
        patches, image = F.normalize(patches.float(), dim=-1), F.normalize(image.float(), dim=-1)
        values = without_common(patches, image, vectors, empty)
    return on_grid(model, values, pixels)


def _rollout(model: Bundle, count: int, pixels: Tensor) -> Tensor:
    """The same map for each of `count` titles."""
    return rollout(model, pixels)[:, None].expand(-1, count, -1, -1)


def _similarity(
    model: Bundle, photo: NDArray[np.uint8], like: tuple[int, int], method: str
) -> Mapper:
    """The function from pixels to the cosines (B, 1, h, w) of their patches with the patch at the
    pixel (x, y) of a photo."""
    (x, y), (height, width) = like, photo.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise UnsupportedError(f"no pixel {x}, {y}: the photo is {width} x {height}")
    joint = model.config.embed_dim > 0

    def features(pixels: Tensor) -> Tensor:
        return on_grid(model, dense(model, pixels, edit_of(method), project=joint), pixels)

    grid = seen_whole(model, photo, features, Scale())
    geometry, shape = grid.geometry, grid.values.shape[1:]
    cell = []  # row and column of the patch
    for axis, place in ((0, y), (1, x)):
        centre = (place + 0.5) * geometry.resized[axis] / geometry.source[axis]
        side = grid.cell or geometry.size[axis] / shape[axis]
        cell.append(min(int((centre - geometry.crop[axis]) / side), shape[axis] - 1))
    patch = torch.from_numpy(grid.values[:, cell[0], cell[1]]).to(model.device)
    patch = F.normalize(patch, dim=0)
    return lambda pixels: torch.einsum("bdhw,d->bhw", features(pixels), patch)[:, None]


def resolve(model: Bundle, method: str, like: bool = False, scale: Scale | None = None) -> str:
    """The method of that name, "auto" resolved. like: for comparing patches with each other. Gives
    a MethodWarning for a method that is known to fail with the model at that scale. Raises
    UnsupportedError for an unknown one, or for a model without an image tower."""
    if method == "auto":
        return usual(model, like)[0]
    if method not in METHODS:
        raise UnsupportedError(f"no heatmap method {method!r}; there are {', '.join(METHODS)}")
    if method == HEAD and model.config.dense_head is None:
        raise UnsupportedError(
            f"{model.name} has no head for maps; {usual(model, like)[0]} works, and a recipe with "
            'objective = "dense" trains one'
        )
    if method in (*RISKY, SURGERY):
        message = warning(model.config, scale.window if scale else None)
        if message:
            warn(message, MethodWarning)
    return method


def pixel(place: Sequence[int] | None) -> tuple[int, int] | None:
    """(x, y) of a pixel. Raises UnsupportedError for another number of numbers."""
    if place is None:
        return None
    if len(place) != 2:
        raise UnsupportedError(f"like is {place!r}; it is x and y of a pixel")
    return place[0], place[1]
