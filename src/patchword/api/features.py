"""Features from inside the towers, for other models: diffusion models, language models."""

from __future__ import annotations

from collections.abc import Sequence

from patchword.bundle import Bundle, Vector
from patchword.images import ImageLike
from patchword.images.one_or_many import Images
from patchword.images.tiles import Tiling
from patchword.options import checked
from patchword.tasks.encoders import (
    AnyRes,
    TextStates,
    anyres_features,
    encode_texts,
    image_tiles,
    patch_features,
)


class Features(Bundle):
    """A bundle with methods for the features before pooling."""

    @checked
    def text_states(
        self,
        texts: str | Sequence[str],
        layer: int = -1,
        norm: bool | None = None,
        pad: bool = True,
        batch_size: int = 32,
    ) -> Vector:
        """Hidden states (N, L, D), float32, of all tokens of texts. Arguments and errors are those
        of `encode_texts`."""
        return encode_texts(self, texts, layer, norm, pad, batch_size).states

    @checked
    def encode_texts(
        self,
        texts: str | Sequence[str],
        layer: int = -1,
        norm: bool | None = None,
        pad: bool = True,
        batch_size: int = 32,
    ) -> TextStates:
        """Ids, hidden states and pooled vectors of texts, to condition another network.

        layer  0: the input of the first block; i: the output of block i; -1: that of the last
        norm   apply the final norm; None: after the last block only
        pad    True: to the model's context; False: to the longest text

        Raises UnsupportedError for a model without a text tower or that layer, TokenizerError for
        one without a tokenizer.
        """
        return encode_texts(self, texts, layer, norm, pad, batch_size)

    @checked
    def patch_features(
        self,
        images: Images,
        layer: int = -2,
        class_token: bool = False,
        norm: bool = False,
        batch_size: int = 32,
        exact: bool = False,
        stretch: bool | None = None,
        squash: bool | None = None,
    ) -> Vector:
        """Features (N, tokens, D), float32, of the patches of images, row by row.

        layer        see `encode_texts`; LLaVA uses -2
        class_token  include the tokens before the patches
        norm         apply the final norm

        Raises the ImageError of the first image that fails, and UnsupportedError for a model
        without that layer, or whose images have different numbers of patches.
        """
        model = self.opening(stretch, squash=squash)
        return patch_features(model, images, layer, class_token, norm, batch_size, exact)

    @checked
    def anyres_features(
        self,
        image: ImageLike,
        layer: int = -2,
        norm: bool = False,
        candidates: Sequence[Sequence[int]] | None = None,
        exact: bool = False,
        stretch: bool | None = None,
    ) -> AnyRes:
        """Patch features of a photo's thumbnail and of its tiles, as in LLaVA-NeXT.

        candidates: canvases (height, width) in pixels to choose from; None: LLaVA-NeXT's grids.
        Raises ImageError, and UnsupportedError for canvases that tiles do not fill.
        """
        return anyres_features(self.opening(stretch), image, layer, norm, candidates, exact)

    @checked
    def tiles(
        self,
        image: ImageLike,
        candidates: Sequence[Sequence[int]] | None = None,
        exact: bool = False,
        stretch: bool | None = None,
    ) -> tuple[Vector, Tiling]:
        """A photo's thumbnail and tiles (1 + rows * columns, 3, S, S), float32, and their
        positions. Raises the errors of `anyres_features`."""
        return image_tiles(self.opening(stretch), image, candidates, exact)
