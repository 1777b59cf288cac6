"""Grad-CAM of a BLIP's matching head: which patches speak for a match of text and image.

As in ALBEF and LAVIS (Li et al. 2021, "Align before fuse", section 6.4), with A the cross-attention
of one block of the matching network (heads, text tokens, patches) and y the logit of a match:

    map = mean over heads and text tokens of A * max(dy / dA, 0)
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

LAYER = 7 / 12  # of the depth: block 7 of 12, which LAVIS uses (block_num=7 in its examples)
BATCH = 16  # texts


def gradcam(
    model: Bundle, texts: Sequence[str], words: bool = False, layer: int | None = None
) -> tuple[list[str], Mapper]:
    """The K titles, and the function from images (B, 3, H, W) to maps (B, K, h, w) (LAVIS,
    models/blip_models/blip_image_text_matching.py `compute_gradcam`).

    There is a map of each text, over its tokens except the start and the end token; with `words`,
    a map of each of its words follows.

    layer  the block whose cross-attention is used, from 0 to the last but one: in the last block
           only the first token reaches the head. None: the 8th of 12

    Raises UnsupportedError for a model without a matching head or without that layer, and for a
    text without words.
    """
    network = matcher(model)
    assert model.config.text is not None
    last = model.config.text.depth - 2
    block = min(int(LAYER * model.config.text.depth), last) if layer is None else layer
    if not 0 <= block <= last:
        raise UnsupportedError(
            f"no layer {block}: {model.name} has gradcam maps of layers 0 to {last}; in the one "
            "after them only the first token counts"
        )
    ids = model.reader().pad(read(model, texts))  # (T, L)
    titles: list[str] = []
    tokens: list[tuple[int, slice]] = []  # of each map: the number of its text, and its tokens
    for number, (text, row) in enumerate(zip(texts, ids, strict=True)):
        length = int(model.reader().lengths(row[None])[0])
        if length < 3:
            raise UnsupportedError(f"a text without words has no heatmap: {text!r}")
        titles.append(text)
        tokens.append((number, slice(1, length - 1)))
        if words:
            for word, place in words_of(model.reader(), row[1 : length - 1].tolist()):
                titles.append(word)
                tokens.append((number, slice(1 + place.start, 1 + place.stop)))

    @torch.inference_mode(False)
    def run(pixels: Tensor) -> Tensor:
        return torch.stack([maps(image[None].clone()) for image in pixels])

    def maps(image: Tensor) -> Tensor:
        products: list[Tensor] = []
        for start in range(0, len(ids), BATCH):
            batch = model.tensor(ids[start : start + BATCH])
            products += weighted_attention(network, image, batch, block)
        size = (image.shape[-2], image.shape[-1])
        tower = model.image_tower
        rows = [products[text][places, tower.patches(size)].mean(dim=0) for text, places in tokens]
        return torch.unflatten(torch.stack(rows), -1, tower.grid(size))

    return titles, run


def weighted_attention(network: Matcher, pixels: Tensor, ids: Tensor, layer: int) -> Tensor:
    """The mean over heads of A * max(dy / dA, 0) for texts (T, L) and one image (1, 3, H, W):
    float32 (T, L, N)."""
    name = f"text.blocks.{layer}.cross.attn"
    with torch.no_grad():
        tokens = network.image_tokens(pixels)
    with torch.enable_grad():
        tokens.requires_grad_()
        # The image is repeated for each text, so that the tap holds the attention of each.
        image = tokens.expand(len(ids), -1, -1)
        logits, taps = network.match(image, ids, taps=[name])
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), taps[name])
    attention = taps[name].detach().float()
    product: Tensor = attention * gradient.float().clamp(min=0)
    return product.mean(dim=1)
