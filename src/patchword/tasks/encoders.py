"""Towers as encoders for other networks: text states for diffusion, patch features for LLMs.

Layers are numbered as in `hidden_states` of transformers: 0 is the input of the first block (with
position embeddings and, where there is one, the norm before it), i the output of block i, and -1,
the same as the depth, that of the last one, before the final norm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from patchword.bundle import Bundle, Vector, to_numpy
from patchword.errors import ImageError, UnsupportedError
from patchword.finite import finite_each
from patchword.images import ImageLike, tiles
from patchword.images.one_or_many import results
from patchword.images.tiles import Size, Tiling
from patchword.models.protocols import Pixels, TextNetwork
from patchword.nn.inference_mode import inference
from patchword.options import at_least, text_list
from patchword.show.result import Brief
from patchword.text import long_text


@dataclass(frozen=True, eq=False, repr=False)
class TextStates(Brief):
    """The encoded texts.

    ids     (N, L) int64, padded with the tokenizer's own padding token
    states  (N, L, D) float32, of every token
    pooled  (N, E) float32: at the end token after the final norm (`pooler_output`), projected where
            the model projects (`text_embeds`); not of unit length
    """

    ids: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    states: Vector
    pooled: Vector


def encode_texts(
    model: Bundle,
    texts: str | Sequence[str],
    layer: int = -1,
    norm: bool | None = None,
    pad: bool = True,
    batch_size: int = 32,
) -> TextStates:
    """Hidden states and pooled vectors of texts, for a network that they condition.

    layer, norm  which block, and whether the final norm follows; None: after the last block only.
                 (-1, None) is `last_hidden_state`, as Stable Diffusion 1 has it; (-2, None) is
                 `hidden_states[-2]`, as SDXL; (-2, True) is Stable Diffusion 2 from all 24 layers
    pad          to the model's context, as diffusion models expect; else to the longest text,
                 unless the model attends to its padding

    A text longer than the context is cut, keeps its end token, and gives a LongTextWarning. Raises
    UnsupportedError for a model without a text tower or without that layer, TokenizerError without
    a tokenizer.
    """
    tokenizer, config, network = model.reader(), model.config.text, model.own_network
    if config is None or not isinstance(network, TextNetwork):
        raise UnsupportedError(f"{model.name} writes texts but has no text tower to read them")
    at_least("batch_size", batch_size)
    final = layer in (-1, config.depth) if norm is None else norm
    rows = tokenizer.rows(text_list(texts))
    long_text.warn_of_long(tokenizer, rows)
    ids = tokenizer.pad(rows, to_context=pad)
    states: list[Vector] = []
    pooled: list[Vector] = []
    with inference(model.own_network):
        for start in range(0, len(ids), batch_size):
            batch = model.tensor(ids[start : start + batch_size])
            hidden, features = network.text.hidden_states(batch, layer, final)
            states.append(to_numpy(hidden))
            pooled.append(to_numpy(features))
    if not states:
        empty = np.empty((0, ids.shape[1], config.width), np.float32)
        return TextStates(ids, empty, np.empty((0, model.dim), np.float32))
    return TextStates(ids, np.concatenate(states), np.concatenate(pooled))


def patch_features_each(
    model: Bundle,
    sources: ImageLike | Iterable[ImageLike],
    layer: int = -2,
    class_token: bool = False,
    norm: bool = False,
    batch_size: int = 32,
    exact: bool = False,
) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
    """Each image in order with the features (tokens, D) of its patches, row by row, or with the
    ImageError of its own.

    layer        -2 is that of LLaVA (`vision_feature_layer`)
    class_token  with all tokens before the patches (LLaVA's "full" or "cls_patch")
    norm         with the final norm; (-1, True) is SigLIP's `last_hidden_state`
    exact        as in `Bundle.embed_images`

    Raises UnsupportedError for a model without patch tokens or without that layer.
    """
    read = _PatchReader(model, layer, class_token, norm)
    found = model.run_each(sources, read, batch_size, exact, finite=False)
    own = (
        (source, row if isinstance(row, ImageError) else row[: read.lengths.popleft()])
        for source, row in found
    )
    return finite_each(own, model.no_vector)


def patch_features(
    model: Bundle,
    sources: ImageLike | Iterable[ImageLike],
    layer: int = -2,
    class_token: bool = False,
    norm: bool = False,
    batch_size: int = 32,
    exact: bool = False,
) -> Vector:
    """Features (N, tokens, D) of the patches of images; see `patch_features_each`.

    Raises the ImageError of the first image that fails, and UnsupportedError also for a model that
    takes images in their own shapes, which gives each another number of tokens.
    """
    if model.config.preprocess.resize == "patches":
        raise UnsupportedError(
            f"{model.name} takes images in their own shapes, so that they have different numbers "
            "of patches; use tasks.encoders.patch_features_each"
        )
    found = patch_features_each(model, sources, layer, class_token, norm, batch_size, exact)
    rows = list(results(found))
    tower = model.image_tower
    rows_columns = tower.grid(model.config.preprocess.size)
    tokens = rows_columns[0] * rows_columns[1] + (tower.prefix if class_token else 0)
    width = model.config.image_tower.out_width
    return np.stack(rows) if rows else np.empty((0, tokens, width), np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class AnyRes(Brief):
    """The patch features of a photo as a whole and of its tiles.

    thumbnail  (h * w, D) of the whole photo, squashed
    tiles      (rows, columns, h * w, D)
    patches    (h, w) of the thumbnail and of each tile
    tiling     how the tiles lie on the photo
    """

    thumbnail: Vector
    tiles: Vector
    patches: Size
    tiling: Tiling

    @property
    def unpadded(self) -> Vector:
        """(H, W, D): the tiles as one grid, without what shows nothing of the photo."""
        return self.tiling.unpad(self.tiling.merge(self.tiles, self.patches))


def anyres_features(
    model: Bundle,
    image: ImageLike,
    layer: int = -2,
    norm: bool = False,
    candidates: Sequence[Sequence[int]] | None = None,
    exact: bool = False,
) -> AnyRes:
    """Patch features of a photo's thumbnail and tiles, as LLaVA-NeXT has them; see `tiles`.

    candidates: canvases (height, width) in pixels to choose from; None: LLaVA-NeXT's grids of
    tiles. exact: as in `Bundle.embed_images`. Raises ImageError and UnsupportedError.
    """
    read = _PatchReader(model, layer, class_token=False, norm=norm)
    pixels, plan = image_tiles(model, image, candidates, exact)
    with inference(model.own_network):
        features = to_numpy(read(model.tensor(pixels)))
    patches = model.image_tower.grid(plan.tile)
    return AnyRes(features[0], features[1:].reshape(*plan.grid, *features.shape[1:]), patches, plan)


def image_tiles(
    model: Bundle,
    image: ImageLike,
    candidates: Sequence[Sequence[int]] | None = None,
    exact: bool = False,
) -> tuple[Vector, Tiling]:
    """A photo as the model's tower takes it, thumbnail and tiles (1 + rows * columns, 3, S, S); see
    `tiles.cut`. Raises ImageError and UnsupportedError."""
    canvases = tiles.canvases(model.preprocess, candidates)
    least = max(map(min, canvases), default=1)  # pixels a shorter side can get on a canvas
    photo = model.opener(image, at_least=least, exact=exact)
    return tiles.cut(photo, model.preprocess, canvases)


class _PatchReader:
    """Runs an image tower and gives the tokens (B, N, D) of one layer."""

    def __init__(self, model: Bundle, layer: int, class_token: bool, norm: bool) -> None:
        self.tower, self.layer, self.norm = model.image_tower, layer, norm
        self.skipped = 0 if class_token else self.tower.prefix
        self.lengths: deque[int] = deque()  # tokens of each image that was run

    def __call__(self, pixels: Pixels) -> Tensor:
        x = self.tower.hidden_states(pixels, self.layer, self.norm)
        for image in pixels:
            rows, columns = self.tower.grid((image.shape[-2], image.shape[-1]))
            self.lengths.append(self.tower.prefix - self.skipped + rows * columns)
        return x[:, self.skipped :]
