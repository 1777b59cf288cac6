"""A folder that stores the vectors of images, and searches them."""

from patchword.index.adding import AddReport
from patchword.index.approximate import Recall
from patchword.index.duplicates import Copy, Group
from patchword.index.explore import Cluster
from patchword.index.index import Index, open_index
from patchword.index.nearest import Explained, Hit

__all__ = [
    "AddReport",
    "Cluster",
    "Copy",
    "Explained",
    "Group",
    "Hit",
    "Index",
    "Recall",
    "open_index",
]
