"""Training data: where samples come from, in which order, and batches of them.

config     what a recipe says of its data
opening    sources as a recipe describes them
  folders  class folders and metadata files; tables  csv, JSON, parquet, the hub;
  tars     webdataset; drawn  scenes
photos     images of a table with captions and classes; augment  random changes to them
plan       which sample stands where, a function of (seed, step)
batches    made ahead, in processes or a thread
"""

from patchword.data.batches import Batch, batches
from patchword.data.config import AugmentConfig, SourceConfig
from patchword.data.opening import open_sources
from patchword.data.plan import Place, Plan
from patchword.data.sample import Facts, Sample, Source, positives

__all__ = [
    "AugmentConfig",
    "Batch",
    "Facts",
    "Place",
    "Plan",
    "Sample",
    "Source",
    "SourceConfig",
    "batches",
    "open_sources",
    "positives",
]
