"""Images of any kind as RGB uint8 arrays, and from there to what a network sees."""

from patchword.images.decode import MAX_PIXELS, ImageLike, Opener, name_of, open
from patchword.images.preprocess import Geometry, Preprocess

__all__ = ["MAX_PIXELS", "Geometry", "ImageLike", "Opener", "Preprocess", "name_of", "open"]
