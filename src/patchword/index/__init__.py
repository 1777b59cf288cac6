"""A folder that stores the vectors of images, and searches them."""

from patchword.index.adding import AddReport
from patchword.index.index import Index, open_index
from patchword.index.nearest import Hit

__all__ = ["AddReport", "Hit", "Index", "open_index"]
