"""A folder that remembers the vector of every picture it was given, and searches them."""

from patchword.index.index import AddReport, Hit, Index, open_index

__all__ = ["AddReport", "Hit", "Index", "open_index"]
