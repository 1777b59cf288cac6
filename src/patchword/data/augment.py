"""From a decoded photo to the pixels that a network is trained on."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.config import PreprocessConfig
from patchword.data.config import AugmentConfig
from patchword.errors import RecipeError
from patchword.images import ImageLike, Opener
from patchword.images.photo import Photo
from patchword.images.preprocess import FILTERS, Preprocess

Planes = NDArray[np.float32]  # (3, H, W), 0..255
GREY = 127.5  # of an erased rectangle
ASPECT = 4 / 3  # of a random crop, at most
NO_ADDRESSES = Opener(urls=False)  # training would fetch an image again at every visit


class Transform:
    """How the images of one source are opened and preprocessed, with random augmentation or
    without.

    Raises RecipeError for preprocessing that gives images of several sizes.
    """

    def __init__(
        self,
        config: PreprocessConfig,
        augment: AugmentConfig | None,
        opener: Opener = NO_ADDRESSES,
    ) -> None:
        if config.resize == "patches":
            raise RecipeError(
                "training needs images of one size, but preprocess.resize is 'patches'; "
                "set it to 'squash' or 'shortest'"
            )
        self.augment = augment
        self._opener = opener
        self._size = config.size
        self._filter = FILTERS[config.interpolation]
        self._whole = Preprocess(config)

    @property
    def at_least(self) -> int:
        """The shorter side (pixels) to decode a photo at; the decoder gives twice that."""
        if self.augment is None or not self._crops(self.augment):
            return self._whole.at_least
        narrowest = math.sqrt(ASPECT / self.augment.crop[0])  # short side of a photo over a crop's
        return max(self._whole.at_least, math.ceil(max(self._size) * narrowest / 2))

    def open(self, image: ImageLike) -> NDArray[np.uint8]:
        """RGB (H, W, 3) of a photo, at the size that is needed. Raises ImageError."""
        return self._opener(image, at_least=self.at_least)

    @property
    def mix(self) -> bool:
        """True if the images may be mixed with others (CutMix, Mixup)."""
        return self.augment is not None and self.augment.mix

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3) -> uint8 (3, *size), before it is normalised. Without augmentation
        what `Preprocess.seen` gives."""
        augment = self.augment
        if augment is None:
            return self._whole.seen(Photo.whole(image))[0]
        if self._crops(augment):
            planes = random_crop(image, self._size, augment.crop, self._filter, rng)
        else:
            planes = self._whole.seen(Photo.whole(image))[0].astype(np.float32)
        if augment.mirror and rng.random() < 0.5:
            planes = planes[:, :, ::-1]
        if augment.colour:
            planes = recoloured(planes, augment.colour, rng)
        if rng.random() < augment.erase:
            planes = erased(planes, rng)
        return np.ascontiguousarray((planes + np.float32(0.5)).astype(np.uint8))

    @staticmethod
    def _crops(augment: AugmentConfig) -> bool:
        return augment.crop != (1.0, 1.0)


def random_crop(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    area: tuple[float, float],
    resample: Image.Resampling,
    rng: np.random.Generator,
) -> Planes:
    """A random part of an image, resized to `size` (H, W), as planes.

    Its area is a share of the image's within `area`, its sides 3:4 to 4:3 (Szegedy et al. 2015,
    section 6) as far as they fit.
    """
    height, width = image.shape[:2]
    pixels = height * width * rng.uniform(*area)
    ratio = math.exp(rng.uniform(-math.log(ASPECT), math.log(ASPECT)))
    across, down = min(width, math.sqrt(pixels * ratio)), min(height, math.sqrt(pixels / ratio))
    across, down = max(across, 1.0), max(down, 1.0)
    left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
    box = (left, top, min(left + across, width), min(top + down, height))
    part = Image.fromarray(image).resize((size[1], size[0]), resample, box)
    return np.asarray(part).transpose(2, 0, 1).astype(np.float32)


def recoloured(planes: Planes, strength: float, rng: np.random.Generator) -> Planes:
    """Brightness, then contrast (about the mean of all), then saturation (about the mean of each
    pixel's channels) times 1 +- `strength` each; clipped to 0..255."""
    light, contrast, colour = rng.uniform(1 - strength, 1 + strength, 3).tolist()
    # All three are linear: one pass for the first two, one for the third.
    mean = float(planes.mean(dtype=np.float64)) * light
    out = planes * np.float32(light * contrast) + np.float32(mean * (1 - contrast))
    grey = out.mean(axis=0, keepdims=True)
    grey *= np.float32(1 - colour)
    out *= np.float32(colour)
    out += grey
    return np.clip(out, 0, 255, out=out)


def erased(planes: Planes, rng: np.random.Generator) -> Planes:
    """With a grey rectangle of 10 to 40% of each side somewhere (Zhong et al. 2020)."""
    height, width = planes.shape[1:]
    tall, wide, down, across = rng.random(4).tolist()
    rows, columns = int(height * (0.1 + 0.3 * tall)), int(width * (0.1 + 0.3 * wide))
    top, left = int(down * (height - rows)), int(across * (width - columns))
    out = planes.copy()
    out[:, top : top + rows, left : left + columns] = GREY
    return out
