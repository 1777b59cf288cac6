"""Heatmaps: where in a photo each text applies, or what looks like one of its patches."""

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

GRADCAM = "gradcam"  # of a BLIP's matching head
RELEVANCE = {"legrad": legrad, "chefer": chefer}
SURGERY = "surgery-features"  # the edit "surgery", less what texts have in common
ROLLOUT = "rollout"  # of no text
METHODS = (*EDITS, SURGERY, *RELEVANCE, GRADCAM, HEAD, ROLLOUT)
READ: dict[tuple[str, str, str], Vector] = {}  # vectors, by a model's fingerprint, state and text
Probable = tuple[float, ...] | Callable[[], tuple[float, ...]] | None


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap(GridMaps):
    """A map for each text, kept as a grid until its pixels are asked for.

    grid    (T, h, w) float32: cosines; of the methods by gradients values of 0 or above, which
            have no unit
    method  that made it
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    texts: tuple[str, ...]
    grid: NDArray[np.float32]
    geometry: Geometry
    cell: int | None  # pixels of the network's input a side of what a value is of
    method: str
    probable: Probable = None  # how probable each text is in the photo, or what computes that
    least: float = 0.0  # where it is less probable, no map is drawn
    background: NDArray[np.float32] | None = None  # (h, w): of a head its map of the background

    @property
    def present(self) -> tuple[float, ...] | None:
        """How probable each text is in the photo, 0 to 1, computed when it is first asked for: it
        takes one more encoding of the photo. None where there is no text to look for."""
        return self.probable() if callable(self.probable) else self.probable

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles, without the model that computes `present`."""
        return {**self.__dict__, "probable": self.present}

    @property
    def found(self) -> tuple[bool, ...]:
        """Which texts are probable enough to be in the photo; all where that was not asked."""
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
        """The photo and each text's map over it, on one colour scale; `each`: every map stretched
        over its own, which then stands under it. Of a text that was not found there is no map. A
        line runs around where the text is, as `locate` has it (see `extent.parts`).

        colours  "inferno", "viridis", "turbo", "jet" or "gray"
        scale    the values at its ends instead, (low, high): to compare pictures of several images
        """
        return plots.maps_beside(self._tiles(each, known(colours), scale_of(scale)), title)

    def _tiles(
        self, each: bool, colours: str, scale: tuple[float, float] | None
    ) -> list[plots.Tile]:
        photo, values = self._drawn
        own = " (own scale)" if each and len(self.texts) > 1 and scale is None else ""
        titles = list(self.texts)
        for number, probability in enumerate(self.present or ()):
            state = "" if self.found[number] else ", not found"
            titles[number] += f": {share(probability)}{state}"
        titles = [f"{text}{own}" for text in titles]
        numbers = self.method in (*EDITS, HEAD)
        return plots.heatmap_tiles(
            photo, values, titles, self.found, each, numbers, scale, colours,
            [self._extent(number, drawn) for number, drawn in enumerate(values)],
        )  # fmt: skip

    def _extent(self, number: int, drawn: NDArray[np.float32]) -> Mask | None:
        """Where a text is that was found, in its map as it is drawn."""
        if self.method == ROLLOUT or not self.found[number]:
            return None
        below = None
        if self.background is not None:
            size = replace(self.geometry, source=(drawn.shape[0], drawn.shape[1]))
            below = size.to_source(self.background, self.cell)
        return extent(drawn, self.grid[number], below)


def first_tile(found: Heatmap) -> plots.Tile:
    """The first map over its photo, as `Heatmap.picture` draws it."""
    return found._tiles(False, MAP, None)[0]


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
    """A heatmap of each text, of the whole image.

    method  one of `dense.EDITS`, which says whose they are: "cosine" is the unchanged network; or
            by gradients "legrad" and "chefer" (see `gradients`), and "gradcam" for a BLIP with a
            matching head (see `relevance`); "head" of a model that has one, trained with masks.
            "auto": see `auto.usual`
    words   of "gradcam": each text's map is followed by those of its words
    layer   of "gradcam": the block whose cross-attention it is, by default the 8th of 12; of
            "legrad" and "chefer": the first of the blocks that count, by default the last but one
            and the last
    scale   at which the photo is seen; None: at the network's own, in as many windows as its shape
            takes
    refine  maps follow the photo's edges (see `pamr`), at most `mapping.REFINED` pixels long
    like    (x, y) of a pixel: instead of texts, what looks like the patch there, of this image or
            of `like_image`. For a model without words, too
    present    a probability from which on a text counts as found; else its map is not drawn. None:
               0.7 of "head", which has learned what is absent; 0.5 against `negatives`; else 0.1,
               among the words that a photo may show (see `present.present`)
    negatives  other texts that it is compared with
    tiles   instead of a scale: the whole photo, and tiles of it, True or their side in pixels; the
            greatest counts, at each place (see `mapping.tiled`) and of how probable a text is

    Raises ImageError, or UnsupportedError for an unknown method or a model that reads no text.
    """
    texts = text_list(texts)
    if method == "auto" and model.config.matching and (words or layer is not None):
        method = GRADCAM  # of a text's words, of a layer
    method = resolve(model, method, like is not None, scale)
    _check(texts, method, words, layer, like, like_image)
    checked_probability("present", present)
    of_none = "like" if like is not None else ROLLOUT if method == ROLLOUT else ""
    if of_none and (present is not None or negatives is not None):
        raise UnsupportedError(f"present and negatives are of texts, not of {of_none}")
    Check(model.scope, model.name).places(texts)
    photo = model.opener(image, exact=True)
    if like is not None:
        other = photo if like_image is None else model.opener(like_image, exact=True)
        names, run = [f"like {like[0]}, {like[1]}"], _alike(model, other, like, method)
    elif method == ROLLOUT:
        names = texts or [ROLLOUT]
        run = partial(_whatever, model, len(names))
    elif method == GRADCAM:
        names, run = gradcam(model, texts, words, layer)
    else:
        names, run = texts, of_texts(model, texts, method, layer)
    head = model.config.dense_head if method == HEAD else None
    found = mapped(model, image, photo, run, scale, refine and not head, progress, method, tiles)
    probable: Probable = None
    background = None
    if negatives is not None or (not head and _asked(present, method, like, words)):
        probable = cache(partial(_probable, model, photo, names, negatives, tiles))
    if head:
        probable = probable or likely(found.values[:-1], found.values[-1], head.scale)
        found = refined(photo, found) if refine else found
        background, found = found.values[-1], replace(found, values=found.values[:-1])
    limit = LEAST if head and negatives is None else least(negatives)
    return Heatmap(
        photo,
        tuple(names),
        found.values,
        found.geometry,
        found.cell,
        method,
        probable,
        limit if present is None else present,
        background,
    )


def _asked(present: float | None, method: str, like: tuple[int, int] | None, words: bool) -> bool:
    """Whether texts are looked for in the photo: single words are not unless told to."""
    return present is not None or not (words or like or method == ROLLOUT)


def _probable(
    model: Bundle,
    photo: NDArray[np.uint8],
    texts: Sequence[str],
    negatives: str | Sequence[str] | None,
    tiles: bool | int,
) -> tuple[float, ...]:
    parts: list[NDArray[np.uint8]] = []
    if tiles is not False:
        found = views(photo, model.preprocess.config.size, tile_size(tiles))
        parts = [each.pixels for each in found[1:]]
    with untold():  # the whole photo, as the maps show it
        return probabilities(model.opening(squash=True), photo, texts, negatives, parts)


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
    """Pixels (B, 3, H, W) -> maps (B, T, h, w) of texts."""
    vectors = torch.from_numpy(model.embed_texts(texts)).to(model.device)
    if method in RELEVANCE:
        return partial(_relevance, model, vectors, method, layer)
    if method == SURGERY:
        return partial(_without_common, model, vectors, _kept(model, "")[0])
    if method == HEAD and model.config.dense_head:  # the last map is the background's
        vectors = torch.cat([vectors, _kept(model, model.config.dense_head.background)])
    return partial(cosines, model, vectors, method)


def _kept(model: Bundle, text: str) -> Tensor:
    """The unit vector (1, D) of a text that is asked for again and again; of a model with a
    fingerprint read once."""
    key = (model.fingerprint, state(model), text)
    if key not in READ or not model.fingerprint:
        READ[key] = label_features(model, [text], ["{}"])
    return torch.from_numpy(READ[key]).to(model.device)


def _relevance(
    model: Bundle, vectors: Tensor, method: str, layer: int | None, pixels: Tensor
) -> Tensor:
    return RELEVANCE[method](model, vectors, pixels, layer)


def cosines(model: Bundle, vectors: Tensor, method: str, pixels: Tensor) -> Tensor:
    """Of the patches of images (B, 3, H, W) with unit texts (T, D), by a method of EDITS, or of the
    places of a head's map: (B, T, h, w)."""
    network = model.own_network
    if method == HEAD and isinstance(network, DenseNetwork):
        with inference(model.own_network):
            return network.dense_cosines(pixels, vectors)
    edit = edit_of(method)
    if edit.refined:
        found = by_keys(model, pixels, edit, edit.refined, vectors)
    else:
        found = dense(model, pixels, edit, vectors) @ vectors.mT
    return on_grid(model, found, pixels)


def _without_common(model: Bundle, vectors: Tensor, empty: Tensor, pixels: Tensor) -> Tensor:
    with inference(model.own_network):
        both = model.image_tower.dense_pooled(pixels, EDITS["surgery"])
        patches, image = (F.normalize(each.float(), dim=-1) for each in both)
        found = without_common(patches, image, vectors, empty)
    return on_grid(model, found, pixels)


def _whatever(model: Bundle, count: int, pixels: Tensor) -> Tensor:
    return rollout(model, pixels)[:, None].expand(-1, count, -1, -1)


def _alike(model: Bundle, photo: NDArray[np.uint8], like: tuple[int, int], method: str) -> Mapper:
    """What compares patches with that of a photo at a pixel (x, y): pixels -> (B, 1, h, w)."""
    (x, y), (height, width) = like, photo.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise UnsupportedError(f"no pixel {x}, {y}: the photo is {width} x {height}")
    joint = model.config.embed_dim > 0

    def features(pixels: Tensor) -> Tensor:
        return on_grid(model, dense(model, pixels, edit_of(method), project=joint), pixels)

    grid = seen_whole(model, photo, features, Scale())
    geometry, shape = grid.geometry, grid.values.shape[1:]
    at = []
    for axis, place in ((0, y), (1, x)):
        centre = (place + 0.5) * geometry.resized[axis] / geometry.source[axis]
        side = grid.cell or geometry.size[axis] / shape[axis]
        at.append(min(int((centre - geometry.crop[axis]) / side), shape[axis] - 1))
    wanted = torch.from_numpy(grid.values[:, at[0], at[1]]).to(model.device)
    wanted = F.normalize(wanted, dim=0)
    return lambda pixels: torch.einsum("bdhw,d->bhw", features(pixels), wanted)[:, None]


def resolve(model: Bundle, method: str, like: bool = False, scale: Scale | None = None) -> str:
    """The method that a name stands for; like: of patches with each other; scale: at which photos
    are seen. Gives a MethodWarning for one that is known to fail with the model so. Raises
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
    window = scale.window if scale else None
    if method in (*RISKY, SURGERY) and (said := warning(model.config, window)):
        warn(said, MethodWarning)
    return method


def pixel(place: Sequence[int] | None) -> tuple[int, int] | None:
    """A place in a photo as (x, y). Raises UnsupportedError for what is not two whole numbers."""
    if place is None:
        return None
    if len(place) != 2:
        raise UnsupportedError(f"like is {place!r}; it is x and y of a pixel")
    return place[0], place[1]
