"""Features for other networks: text states for diffusion models, patch features for LLMs.

Layers are numbered as in `hidden_states` of transformers: 0 is the input of the first block, after
position embeddings and the first norm, if any; i is the output of block i; -1, the same as the
depth, is the output of the last block before the final norm.
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

    ids     (N, L) int64, padded with the tokenizer's padding token
    states  (N, L, D) float32, of every token
    pooled  (N, E) float32: the state of the end token after the final norm (`pooler_output`),
            projected if the model has a projection (`text_embeds`); not of unit length
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
    """Hidden states and pooled vectors of texts, for a network that is conditioned on them.

    layer, norm  the block, and whether the final norm is applied; None: only after the last block.
                 (-1, None) is `last_hidden_state`, used by Stable Diffusion 1; (-2, None) is
                 `hidden_states[-2]`, used by SDXL; (-2, True) is used by Stable Diffusion 2
    pad          True: to the model's context, as diffusion models expect; False: to the longest
                 text, unless the model attends to padding

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
    """Each image in order with the features (tokens, D) of its patches, row by row, or with its
    ImageError.

    layer        -2 is used by LLaVA (`vision_feature_layer`)
    class_token  include all tokens before the patches (LLaVA's "full" or "cls_patch")
    norm         apply the final norm; layer -1 with norm is SigLIP's `last_hidden_state`
    exact        see `Bundle.embed_images`

    Raises UnsupportedError for a model without patch tokens or without that layer.
    """
    read = _PatchReader(model, layer, class_token, norm)
    padded = model.run_each(sources, read, batch_size, exact, finite=False)
    unpadded = (
        (source, row if isinstance(row, ImageError) else row[: read.lengths.popleft()])
        for source, row in padded
    )
    return finite_each(unpadded, model.no_vector)


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
    takes images in their own shapes, so that they have different numbers of tokens.
    """
    if model.config.preprocess.resize == "patches":
        raise UnsupportedError(
            f"{model.name} takes images in their own shapes, so that they have different numbers "
            "of patches; use tasks.encoders.patch_features_each"
        )
    each = patch_features_each(model, sources, layer, class_token, norm, batch_size, exact)
    features = list(results(each))
    if features:
        return np.stack(features)
    tower = model.image_tower
    rows, columns = tower.grid(model.config.preprocess.size)
    tokens = rows * columns + (tower.prefix if class_token else 0)
    return np.empty((0, tokens, model.config.image_tower.out_width), np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class AnyRes(Brief):
    """The patch features of a photo as a whole and of its tiles.

    thumbnail  (h * w, D) of the whole photo, squashed
    tiles      (rows, columns, h * w, D)
    patches    (h, w): the grid of the thumbnail and of each tile
    tiling     the layout of the tiles on the photo
    """

    thumbnail: Vector
    tiles: Vector
    patches: Size
    tiling: Tiling

    @property
    def unpadded(self) -> Vector:
        """(H, W, D): the tiles as one grid, without the patches that show only padding."""
        return self.tiling.unpad(self.tiling.merge(self.tiles, self.patches))


def anyres_features(
    model: Bundle,
    image: ImageLike,
    layer: int = -2,
    norm: bool = False,
    candidates: Sequence[Sequence[int]] | None = None,
    exact: bool = False,
) -> AnyRes:
    """Patch features of a photo's thumbnail and tiles, as in LLaVA-NeXT; see `images.tiles`.

    candidates: canvases (height, width) in pixels to choose from; None: LLaVA-NeXT's grids of
    tiles. exact: see `Bundle.embed_images`. Raises ImageError and UnsupportedError.
    """
    read = _PatchReader(model, layer, class_token=False, norm=norm)
    pixels, tiling = image_tiles(model, image, candidates, exact)
    with inference(model.own_network):
        features = to_numpy(read(model.tensor(pixels)))
    of_tiles = features[1:].reshape(*tiling.grid, *features.shape[1:])
    return AnyRes(features[0], of_tiles, model.image_tower.grid(tiling.tile), tiling)


def image_tiles(
    model: Bundle,
    image: ImageLike,
    candidates: Sequence[Sequence[int]] | None = None,
    exact: bool = False,
) -> tuple[Vector, Tiling]:
    """The input of the tower for a photo, thumbnail and tiles (1 + rows * columns, 3, S, S); see
    `tiles.cut`. Raises ImageError and UnsupportedError."""
    canvases = tiles.canvases(model.preprocess, candidates)
    least = max(map(min, canvases), default=1)  # pixels of the shorter side on a canvas, at most
    photo = model.opener(image, at_least=least, exact=exact)
    return tiles.cut(photo, model.preprocess, canvases)


class _PatchReader:
    """Runs an image tower and returns the tokens (B, N, D) of one layer."""

    def __init__(self, model: Bundle, layer: int, class_token: bool, norm: bool) -> None:
        self.tower, self.layer, self.norm = model.image_tower, layer, norm
        self.skipped = 0 if class_token else self.tower.prefix
        self.lengths: deque[int] = deque()  # tokens of each image so far

    def __call__(self, pixels: Pixels) -> Tensor:
        x = self.tower.hidden_states(pixels, self.layer, self.norm)
        for image in pixels:
            rows, columns = self.tower.grid((image.shape[-2], image.shape[-1]))
            self.lengths.append(self.tower.prefix - self.skipped + rows * columns)
        return x[:, self.skipped :]
