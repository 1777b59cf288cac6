"""What a model shows of an image: where texts apply, which label each pixel has, what attends to
what."""

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
    """The methods of `Model` that answer with places in an image."""

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
        """A heatmap of each text: `.grid` (T, h, w), and `.values` (T, H, W) in the image's own
        pixels.

        method      "auto", "gradcam", "legrad", "chefer", one of `where.dense.EDITS`,
                    "surgery-features": its maps less what the texts have in common; or "rollout",
                    which is of no text
        words       of "gradcam": each text's map is followed by those of its words
        layer       of "gradcam": the block whose cross-attention it is; of "legrad" and "chefer":
                    the first block that counts
        window      pixels; the photo is seen in windows of that side, `stride` pixels apart,
                    overlaps averaged as papers do (None: half a window, each counting less towards
                    its border), after its shorter side was resized to `short_side` (None: it is
                    not). None: the whole photo, at the network's own size
        refine      maps follow the photo's edges (PAMR)
        like        instead of texts, (x, y) of a pixel: what looks like the patch there, of this
                    image or of `like_image`. For a model without words, too
        present     from which probability on a text counts as found, against `negatives`; below
                    it no map is drawn. None: 0.7 with "head", 0.5 against negatives, else 0.1 among
                    the words that a photo may show; 0: every map is
        progress    called with the windows done and all of them
        tiles       look at overlapping tiles too, True or their side in pixels, at each place the
                    greatest value counts; instead of window, stride and short_side

        Raises ImageError, and UnsupportedError for an unknown method or a model without a text
        tower. The formulas: `where.heatmap`.
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
    ) -> Segmentation:
        """The label of each pixel: `.map` (H, W), 0 the background, i the label number i; `.shares`
        and `.rle()`.

        labels       "dog|puppy" is a label of two words
        background   words for what no label fits; None: "background"; []: every pixel gets a label
        templates    sentences that words are put in, see `classify`
        method       "auto" or one of `where.dense.EDITS`
        logit_scale  by which cosines are multiplied before the softmax; None: the model's own
        threshold    0 to 1: where no label is as probable, there is background
        least_area   0 to 1: a label with no larger share of all labels' area is left out

        window, stride, short_side, refine, progress: see `heatmap`. Raises ImageError, and
        UnsupportedError for labels that cannot be or a model without a text tower. The formulas:
        `where.segment`.
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
        `.area`, `.mask`; none of a text that is not there.

        boxes      (x1, y1, x2, y2) in pixels: instead of looking for regions, score these: by the
                   dense features inside, `.score`, and cut out and encoded, `.crop`
        method     "auto" or one of `where.dense.EDITS`
        present    from which probability on a text is in the photo, against `negatives`, which say
                   what else there could be. None: 0.5 against them, else 0.1 among the words that a
                   photo may show; a model with a head for maps is not asked

        window, stride, short_side, refine, progress: see `heatmap`. Raises ImageError, and
        UnsupportedError for texts or boxes that cannot be or a model without a text tower. How a
        region is cut out of a map: `where.locate`.
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
        """How much the pooled token attends to each patch, `.maps` (K, H, W), and which patch to
        which, `.matrix`. With `text` instead of an image: which of its tokens attends to which.

        layer       0 to depth - 1, or counted from the end; None: the last
        head        one of them; None: their mean, then each
        rollout     the product of all layers instead (Abnar & Zuidema 2020)
        all_layers  of each layer the mean over heads, or that head

        Raises ImageError, and UnsupportedError for a layer or head that is not there, and for
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
        """Where a captioner looks for each word of the caption that it writes with beam search:
        `.words` and, of each of K layers and each word, `.maps` (K, words, H, W): the captioner's
        cross-attention as the word is predicted.

        prompt                   the caption's first words, to go on from
        layer, head, all_layers  as in `attention`, but of all heads only the mean

        Raises UnsupportedError for a model that does not caption, ImageError.
        """
        return caption_attention(
            self.opening(stretch, squash=squash), image, prompt, layer, head, all_layers
        )
