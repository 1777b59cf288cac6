"""Features inside the towers, for other models to go on with: diffusion, language models."""

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
        """Hidden states (N, L, D), float32, of every token of texts; arguments and errors are
        those of `encode_texts`."""
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
        """Ids, hidden states and pooled vectors of texts, for a network that they condition.

        layer  0 is what enters the first block, i leaves block i, -1 leaves the last
        norm   whether the final norm follows; None: after the last block only
        pad    to the model's context, else to the longest text

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

        layer        as for `encode_texts`; -2 is that of LLaVA
        class_token  with all tokens before the patches
        norm         with the final norm

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
        """Patch features of a photo's thumbnail and of its tiles, as LLaVA-NeXT has them.

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
        """A photo's thumbnail and tiles (1 + rows * columns, 3, S, S), float32, and how they lie.
        Raises ImageError and UnsupportedError as `anyres_features` does."""
        return image_tiles(self.opening(stretch), image, candidates, exact)
