"""Opens images of any kind as RGB uint8 arrays, and preprocesses them for networks."""

from patchword.images.decode import MAX_PIXELS, ImageLike, Opener, name_of, open
from patchword.images.preprocess import Geometry, Preprocess

__all__ = ["MAX_PIXELS", "Geometry", "ImageLike", "Opener", "Preprocess", "name_of", "open"]
