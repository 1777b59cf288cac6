"""Grad-CAM of a BLIP's matching head: which patches made it say that text and image match.

That is the GradCAM of ALBEF and LAVIS (Li et al. 2021, "Align before fuse", section 6.4): the
cross-attention of one block of BLIP's matching network, times the positive part of its gradient
with respect to the logit of a match. The attention is a tap, so that no hooks are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.models.protocols import Matcher
from patchword.tasks.match import matcher, read

LAYER = 7 / 12  # of the depth: the 8th of 12, as LAVIS draws BLIP's (its examples' block_num=7)
TOGETHER = 16  # texts in a batch


@torch.inference_mode(False)
def gradcam(
    model: Bundle,
    image: ImageLike,
    texts: Sequence[str],
    words: bool = False,
    layer: int | None = None,
) -> tuple[NDArray[np.uint8], list[str], Vector, Geometry]:
    """The photo; the title of each map; the maps (K, h, w) over the patches; the geometry that
    leads back to pixels.

    A map is the mean over its tokens, and over heads, of attention * max(gradient, 0) (LAVIS,
    models/blip_models/blip_image_text_matching.py `compute_gradcam`). One for each text, over all
    its tokens but the start and the end token; with `words`, followed by one for each of its words.

    layer: the block whose cross-attention it is, from 0 up to the last but one: in the last, only
    the first token reaches the head. None: the 8th of 12. Raises ImageError; UnsupportedError for a
    model without a matching head or that layer, and for a text without words.
    """
    network = matcher(model)
    tower = model.image_tower
    assert model.config.text is not None
    last = model.config.text.depth - 2
    number = min(int(LAYER * model.config.text.depth), last) if layer is None else layer
    if not 0 <= number <= last:
        raise UnsupportedError(
            f"no layer {number}: {model.name} has gradcam maps of layers 0 to {last}; in the one "
            "after them only the first token counts"
        )
    photo = model.opener(image, exact=True)
    pixels, geometry = model.preprocess(photo)
    batch = model.tensor(pixels)[None]
    rows = model.reader().pad(read(model, texts))  # (T, L)
    parts: list[Tensor] = []
    for start in range(0, len(rows), TOGETHER):
        ids = model.tensor(rows[start : start + TOGETHER])
        parts += products(network, batch, ids, number)
    names: list[str] = []
    maps: list[Tensor] = []
    for text, row, found in zip(texts, rows, parts, strict=True):
        length = int(model.reader().lengths(row[None])[0])
        inner = found[1 : length - 1, tower.patches(geometry.size)]  # (tokens, h * w)
        if not len(inner):
            raise UnsupportedError(f"a text without words has no heatmap: {text!r}")
        names.append(text)
        maps.append(inner.mean(dim=0))
        for word, place in split(model, row[1 : length - 1].tolist()) if words else ():
            names.append(word)
            maps.append(inner[place].mean(dim=0))
    grid = torch.stack(maps).reshape(-1, *tower.grid(geometry.size))
    return photo, names, grid.cpu().numpy(), geometry


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


def split(model: Bundle, ids: Sequence[int]) -> list[tuple[str, slice]]:
    """The words of ids, and the word that each id belongs to: a token that follows without a space
    belongs to the word before."""
    decode = model.reader().decode
    out: list[tuple[str, slice]] = []
    before = ""
    for place in range(len(ids)):
        text = decode(ids[: place + 1])
        new = text.removeprefix(before)
        if out and text.startswith(before) and not new.startswith(" "):
            word, where = out.pop()
            out.append((word + new, slice(where.start, place + 1)))
        else:
            out.append((new.strip() or decode([ids[place]]), slice(place, place + 1)))
        before = text
    return out
