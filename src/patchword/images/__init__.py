"""Images of any kind as RGB uint8 arrays, and from there to what a network sees."""

from patchword.images.decode import Geometry, ImageLike, Preprocess, name_of, open

__all__ = ["Geometry", "ImageLike", "Preprocess", "name_of", "open"]
