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
MAX_ASPECT = 4 / 3  # of a random crop
NO_URLS = Opener(urls=False)  # training would fetch an image again in every epoch


class Transform:
    """Opens and preprocesses the images of one source, with or without random augmentation.

    Raises RecipeError for preprocessing that gives images of several sizes.
    """

    def __init__(
        self,
        config: PreprocessConfig,
        augment: AugmentConfig | None,
        opener: Opener = NO_URLS,
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
        self._preprocess = Preprocess(config)

    @property
    def at_least(self) -> int:
        """The shorter side (pixels) at which photos are decoded; the decoder gives twice that."""
        if self.augment is None or not self._crops(self.augment):
            return self._preprocess.at_least
        # The short side of a photo over that of its narrowest crop.
        ratio = math.sqrt(MAX_ASPECT / self.augment.crop[0])
        return max(self._preprocess.at_least, math.ceil(max(self._size) * ratio / 2))

    def open(self, image: ImageLike) -> NDArray[np.uint8]:
        """RGB (H, W, 3) of a photo, decoded at the size that is needed. Raises ImageError."""
        return self._opener(image, at_least=self.at_least)

    @property
    def mix(self) -> bool:
        """Whether the images may be mixed with others (CutMix, mixup)."""
        return self.augment is not None and self.augment.mix

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3) -> uint8 (3, *size), before normalisation. Without augmentation the
        result is that of `Preprocess.seen`."""
        augment = self.augment
        if augment is None:
            return self._preprocess.seen(Photo.whole(image))[0]
        if self._crops(augment):
            planes = random_crop(image, self._size, augment.crop, self._filter, rng)
        else:
            planes = self._preprocess.seen(Photo.whole(image))[0].astype(np.float32)
        if augment.mirror and rng.random() < 0.5:
            planes = planes[:, :, ::-1]
        if augment.colour:
            planes = colour_jitter(planes, augment.colour, rng)
        if rng.random() < augment.erase:
            planes = random_erasing(planes, rng)
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
    """A random crop of an image, resized to `size` (H, W), as planes.

    Its area is a share of the image's area within `area`. The ratio of its sides is 3:4 to 4:3
    (Szegedy et al. 2015, section 6), unless the image is too narrow.
    """
    height, width = image.shape[:2]
    pixels = height * width * rng.uniform(*area)
    ratio = math.exp(rng.uniform(-math.log(MAX_ASPECT), math.log(MAX_ASPECT)))
    crop_width = max(min(width, math.sqrt(pixels * ratio)), 1.0)
    crop_height = max(min(height, math.sqrt(pixels / ratio)), 1.0)
    left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
    box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
    crop = Image.fromarray(image).resize((size[1], size[0]), resample, box)
    return np.asarray(crop).transpose(2, 0, 1).astype(np.float32)


def colour_jitter(planes: Planes, strength: float, rng: np.random.Generator) -> Planes:
    """Multiply brightness, contrast (about the mean of all pixels) and saturation (about the mean
    of each pixel's channels), in this order, by random factors of 1 +- `strength`; clip to
    0..255."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).tolist()
    # All three are linear: one pass for the first two, one for the third.
    mean = float(planes.mean(dtype=np.float64)) * brightness
    out = planes * np.float32(brightness * contrast) + np.float32(mean * (1 - contrast))
    grey = out.mean(axis=0, keepdims=True)
    grey *= np.float32(1 - saturation)
    out *= np.float32(saturation)
    out += grey
    return np.clip(out, 0, 255, out=out)


def random_erasing(planes: Planes, rng: np.random.Generator) -> Planes:
    """Erase a random rectangle of 10 to 40% of each side: make it grey (Zhong et al. 2020)."""
    height, width = planes.shape[1:]
    tall, wide, y, x = rng.random(4).tolist()
    rows, columns = int(height * (0.1 + 0.3 * tall)), int(width * (0.1 + 0.3 * wide))
    top, left = int(y * (height - rows)), int(x * (width - columns))
    out = planes.copy()
    out[:, top : top + rows, left : left + columns] = GREY
    return out
