"""Grad-CAM of a BLIP's matching head: which patches made it say that text and image match.

That is the GradCAM of ALBEF and LAVIS (Li et al. 2021, "Align before fuse", section 6.4): the
cross-attention of one block of BLIP's matching network, times the positive part of its gradient
with respect to the logit of a match. The attention is a tap, so that no hooks are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.protocols import Matcher
from patchword.tasks.match import matcher, read
from patchword.text.words import words_of
from patchword.where.windows import Mapper

LAYER = 7 / 12  # of the depth: the 8th of 12, as LAVIS draws BLIP's (its examples' block_num=7)
TOGETHER = 16  # texts in a batch


def gradcam(
    model: Bundle, texts: Sequence[str], words: bool = False, layer: int | None = None
) -> tuple[list[str], Mapper]:
    """The title of each map, and what makes the maps (B, K, h, w) of images (B, 3, H, W).

    A map is the mean over its tokens, and over heads, of attention * max(gradient, 0) (LAVIS,
    models/blip_models/blip_image_text_matching.py `compute_gradcam`). One for each text, over all
    its tokens but the start and the end token; with `words`, followed by one for each of its words.

    layer: the block whose cross-attention it is, from 0 up to the last but one: in the last, only
    the first token reaches the head. None: the 8th of 12. Raises UnsupportedError for a model
    without a matching head or that layer, and for a text without words.
    """
    network = matcher(model)
    assert model.config.text is not None
    last = model.config.text.depth - 2
    number = min(int(LAYER * model.config.text.depth), last) if layer is None else layer
    if not 0 <= number <= last:
        raise UnsupportedError(
            f"no layer {number}: {model.name} has gradcam maps of layers 0 to {last}; in the one "
            "after them only the first token counts"
        )
    rows = model.reader().pad(read(model, texts))  # (T, L)
    names: list[str] = []
    places: list[tuple[int, slice]] = []  # text, and which of its ids, of each map
    for which, (text, row) in enumerate(zip(texts, rows, strict=True)):
        length = int(model.reader().lengths(row[None])[0])
        if length < 3:
            raise UnsupportedError(f"a text without words has no heatmap: {text!r}")
        names.append(text)
        places.append((which, slice(1, length - 1)))
        for word, place in words_of(model.reader(), row[1 : length - 1].tolist()) if words else ():
            names.append(word)
            places.append((which, slice(1 + place.start, 1 + place.stop)))

    @torch.inference_mode(False)
    def run(pixels: Tensor) -> Tensor:
        return torch.stack([maps(image[None].clone()) for image in pixels])

    def maps(image: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for start in range(0, len(rows), TOGETHER):
            parts += products(network, image, model.tensor(rows[start : start + TOGETHER]), number)
        size = (image.shape[-2], image.shape[-1])
        tower = model.image_tower
        found = [parts[text][ids, tower.patches(size)].mean(dim=0) for text, ids in places]
        return torch.unflatten(torch.stack(found), -1, tower.grid(size))

    return names, run


def products(network: Matcher, pixels: Tensor, ids: Tensor, layer: int) -> Tensor:
    """Attention * max(gradient, 0), mean over heads, of texts (T, L) that attend to one image
    (1, 3, H, W): float32 (T, L, N)."""
    name = f"text.blocks.{layer}.cross.attn"
    with torch.no_grad():
        tokens = network.image_tokens(pixels)
    with torch.enable_grad():
        tokens.requires_grad_()
        # A row of the image for each text, so that the tap has the attention of each.
        seen = tokens.expand(len(ids), -1, -1)
        logits, taps = network.match(seen, ids, taps=[name])
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), taps[name])
    attention = taps[name].detach().float()
    product: Tensor = attention * gradient.float().clamp(min=0)
    return product.mean(dim=1)
