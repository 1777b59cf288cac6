"""The fixed inputs: two test cards, some texts, and noise for image towers.

They are computed from integers, so that they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

CARDS = ((607, 901), (803, 611))  # (H, W): landscape, portrait; odd, so that half margins round
TEXTS = (
    "a photo of a cat",
    "",
    "?!... (no-one’s) #1, 50% of “AT&amp;T” <b>",
    "A Small RED Bird",
    "café naïve Ångström",
    "dog 🐕 ☃",
    "一只猫 和 two dogs",
    "0 1 2 3 4 5 6 7 8 9 " * 55,  # longer than any context
)


@cache
def card(height: int, width: int) -> NDArray[np.uint8]:
    """A test card, RGB uint8 (H, W, 3), read-only.

    It has three gradients, as in a photo; circles that grow finer outwards, which show differences
    of resampling filters; and lines of strokes and gaps with hard edges, as in text.
    """
    y, x = np.mgrid[:height, :width].astype(np.int64)
    ramps = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)])
    circles = ((2 * x - width) ** 2 + (2 * y - height) ** 2) // 150 % 256
    picture = (2 * ramps + circles) // 3
    line, letter = y // 13, x // 5
    strokes = (line % 5 == 2) & (hashed(line * 9973 + letter) % 3 == 0)
    picture[:, strokes] = (hashed(line) % 256)[strokes]
    drawn = np.ascontiguousarray(picture.transpose(1, 2, 0).astype(np.uint8))
    drawn.setflags(write=False)
    return drawn


def noise(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Pixels for an image tower: 256 values between -2 and 2, exact in float32 and in bfloat16."""
    count = int(np.prod(shape))
    values = hashed(np.arange(count) + (seed << 24)) % 256
    return ((2 * values - 255).astype(np.float32) / np.float32(128)).reshape(shape)


def shuffled(count: int) -> NDArray[np.float32]:
    """0, 1, ..., count - 1 in a fixed random order, in which a masked autoencoder hides patches."""
    return np.argsort(np.argsort(hashed(np.arange(count)))).astype(np.float32)


def hashed(values: NDArray[Any]) -> NDArray[np.int64]:
    """Pseudo-random integers below 2**32 from integers (a multiply-xorshift hash)."""
    x: NDArray[np.uint32] = values.astype(np.uint32)
    for _ in range(2):
        x = (x ^ x >> np.uint32(16)) * np.uint32(0x45D9F3B)  # modulo 2**32
    return (x ^ x >> np.uint32(16)).astype(np.int64)
