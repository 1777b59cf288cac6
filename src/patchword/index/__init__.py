"""A folder that stores the vectors of images, and searches them."""

from patchword.index.exact_search import Hit
from patchword.index.index import AddReport, Index, open_index

__all__ = ["AddReport", "Hit", "Index", "open_index"]
