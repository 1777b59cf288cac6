"""The methods of `Model` for places in an image: heatmaps, segmentation, regions, attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from patchword.api.features import Features
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.options import checked
from patchword.tasks.attention import AttentionMap, attention
from patchword.tasks.caption_attention import CaptionAttention, caption_attention
from patchword.tasks.token_attention import TokenAttention, text_attention
from patchword.where.heatmap import Heatmap, heatmap, pixel
from patchword.where.locate import Located, locate
from patchword.where.segment import Segmentation, segment
from patchword.where.windows import Scale


class Places(Features):
    """A bundle with methods whose results are places in an image."""

    @checked
    def heatmap(
        self,
        image: ImageLike,
        texts: str | Sequence[str] = (),
        method: str = "auto",
        words: bool = False,
        layer: int | None = None,
        stretch: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        short_side: int | None = None,
        refine: bool = False,
        like: Sequence[int] | None = None,
        like_image: ImageLike | None = None,
        present: float | None = None,
        negatives: str | Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
        squash: bool | None = None,
        tiles: bool | int = False,
    ) -> Heatmap:
        """A heatmap for each text: `.grid` (T, h, w), and `.values` (T, H, W) in the image's
        pixels.

        method      "auto", "gradcam", "legrad", "chefer", one of `where.dense.EDITS`;
                    "surgery-features": its maps without what the texts have in common; "rollout",
                    which does not depend on a text
        words       for "gradcam": add a map for each word of a text after the text's map
        layer       for "gradcam": the block whose cross-attention is used; for "legrad" and
                    "chefer": the first block that is used
        window      side in pixels of windows in which the photo is seen; None: the whole photo, at
                    the network's size
        stride      pixels between windows, whose overlaps are averaged as in papers; None: half a
                    window, and windows count less towards their borders
        short_side  pixels to which the photo's shorter side is resized before; None: not resized
        refine      let maps follow the photo's edges (PAMR)
        like        instead of texts, (x, y) of a pixel: show what is similar to the patch there, of
                    this image or of `like_image`. Also for a model without text tower
        present     least probability, against `negatives`, with which a text counts as found; no
                    map is drawn below it. None: 0.65 with "head", 0.5 against negatives, else 0.1
                    among the words that a photo may show; 0: every map is drawn
        progress    called with the number of windows done and of all windows
        tiles       look at overlapping tiles too; True, or their side in pixels. Each place gets
                    the greatest value. Instead of window, stride and short_side

        Raises ImageError, and UnsupportedError for an unknown method or a model without a text
        tower. For the formulas see `where.heatmap`.
        """
        return heatmap(
            self.opening(stretch, squash=squash),
            image,
            texts,
            method,
            words,
            layer,
            Scale(window, stride, short_side),
            refine,
            pixel(like),
            like_image,
            present,
            negatives,
            progress,
            tiles,
        )

    @checked
    def segment(
        self,
        image: ImageLike,
        labels: str | Sequence[str],
        background: str | Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        method: str = "auto",
        logit_scale: float | None = None,
        threshold: float = 0.0,
        least_area: float = 0.0,
        stretch: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        short_side: int | None = None,
        refine: bool = False,
        progress: Callable[[int, int], None] | None = None,
        squash: bool | None = None,
        present: float | None = None,
    ) -> Segmentation:
        """The label of each pixel: `.map` (H, W), 0 for background and i for label number i;
        `.shares` and `.rle()`.

        labels       "dog|puppy" is a label of two words
        background   words for places where no label fits; None: "background"; []: every pixel gets
                     a label
        templates    sentences into which words are put, see `classify`; None: with the method
                     "head" the words as they are, else "a photo of a {}"
        method       "auto" or one of `where.dense.EDITS`
        logit_scale  factor of cosines before the softmax; None: the model's
        threshold    0 to 1: a pixel is background if no label has this probability
        least_area   0 to 1: leave out labels whose share of the labelled area is not larger
        present      0 to 1: leave out labels that are less probable in the photo. None: 0.65 with
                     the method "head" and words for the background; of other methods, which do not
                     tell it, all labels stay

        window, stride, short_side, refine, progress: see `heatmap`. Raises ImageError, and
        UnsupportedError for labels that are not possible or a model without a text tower. For the
        formulas see `where.segment`.
        """
        return segment(
            self.opening(stretch, squash=squash),
            image,
            labels,
            background,
            templates,
            method,
            Scale(window, stride, short_side),
            refine,
            logit_scale,
            threshold,
            least_area,
            present,
            progress,
        )

    @checked
    def locate(
        self,
        image: ImageLike,
        texts: str | Sequence[str],
        boxes: Sequence[Sequence[int]] | None = None,
        method: str = "auto",
        present: float | None = None,
        negatives: str | Sequence[str] | None = None,
        stretch: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        short_side: int | None = None,
        refine: bool = False,
        progress: Callable[[int, int], None] | None = None,
        squash: bool | None = None,
    ) -> Located:
        """Where each text is: `.regions`, the largest first, each with `.text`, `.score`, `.box`,
        `.area`, `.mask`; none for a text that is not in the photo.

        boxes      (x1, y1, x2, y2) in pixels: score these instead of searching for regions: by the
                   dense features inside, `.score`, and by encoding the crop, `.crop`
        method     "auto" or one of `where.dense.EDITS`
        present    a text with a lower probability has no regions. negatives: texts of what else
                   there could be. None: 0.5 against negatives, else 0.65 by a dense head, or 0.1
                   among the words that a photo may show

        window, stride, short_side, refine, progress: see `heatmap`. Raises ImageError, and
        UnsupportedError for texts or boxes that are not possible or a model without a text tower.
        For how regions are found in a map see `where.locate`.
        """
        return locate(
            self.opening(stretch, squash=squash),
            image,
            texts,
            boxes,
            method,
            Scale(window, stride, short_side),
            refine,
            present,
            negatives,
            progress,
        )

    @overload
    def attention(
        self, image: ImageLike, layer: int | None = None, head: int | None = None,
        rollout: bool = False, stretch: bool | None = None, squash: bool | None = None,
        text: None = None, all_layers: bool = False,
    ) -> AttentionMap: ...  # fmt: skip
    @overload
    def attention(
        self, image: None = None, layer: int | None = None, head: int | None = None,
        rollout: bool = False, stretch: bool | None = None, squash: bool | None = None,
        *, text: str, all_layers: bool = False,
    ) -> TokenAttention: ...  # fmt: skip
    @checked
    def attention(
        self,
        image: ImageLike | None = None,
        layer: int | None = None,
        head: int | None = None,
        rollout: bool = False,
        stretch: bool | None = None,
        squash: bool | None = None,
        text: str | None = None,
        all_layers: bool = False,
    ) -> AttentionMap | TokenAttention:
        """How much the pooled token attends to each patch, `.maps` (K, H, W), and every patch to
        every other, `.matrix`. With `text` instead of an image: the same for its tokens.

        layer       0 to depth - 1, or counted from the end; None: the last
        head        a head; None: the mean of all heads, then each head
        rollout     the product of all layers instead (Abnar & Zuidema 2020)
        all_layers  for each layer the mean over heads, or that head

        Raises ImageError, and UnsupportedError for a layer or head that does not exist, and for
        options that contradict each other.
        """
        if text is not None and image is None:
            return text_attention(self, text, layer, head, rollout, all_layers)
        if text is not None or image is None:
            raise UnsupportedError("attention is of an image or of a text; give one of them")
        return attention(
            self.opening(stretch, squash=squash), image, layer, head, rollout, all_layers
        )

    @checked
    def caption_attention(
        self,
        image: ImageLike,
        prompt: str = "",
        layer: int | None = None,
        head: int | None = None,
        all_layers: bool = False,
        stretch: bool | None = None,
        squash: bool | None = None,
    ) -> CaptionAttention:
        """The cross-attention of a captioner when it predicts each word of its caption by beam
        search: `.words`, and `.maps` (K, words, H, W) for K layers.

        prompt                   the caption's first words, which the model continues
        layer, head, all_layers  as in `attention`, but for head None only the mean

        Raises UnsupportedError for a model that does not caption, ImageError.
        """
        return caption_attention(
            self.opening(stretch, squash=squash), image, prompt, layer, head, all_layers
        )
