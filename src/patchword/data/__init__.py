"""Training data: where samples come from, in which order, and batches of them.

config     what a recipe says of its data
opening    sources as a recipe describes them
  folders  class folders and metadata files; tables  csv, JSON, parquet, the hub;
  tars     webdataset; scene_source  generated scenes
table_source  images of a table with captions and classes; augment  random changes to them
plan       which sample stands where, a function of (seed, step)
batch      the types of batches; batches  made ahead, in processes or a thread
"""

from patchword.data.batch import (
    Batch,
    ClassBatch,
    Collate,
    PairBatch,
    TextBatch,
    collate_classes,
    collate_images,
    collate_pairs,
    collate_texts,
)
from patchword.data.batches import batches
from patchword.data.config import AugmentConfig, SourceConfig
from patchword.data.opening import open_sources
from patchword.data.plan import Place, Plan
from patchword.data.sample import Facts, Sample, Source, positives

__all__ = [
    "AugmentConfig",
    "Batch",
    "ClassBatch",
    "Collate",
    "Facts",
    "PairBatch",
    "Place",
    "Plan",
    "Sample",
    "Source",
    "SourceConfig",
    "TextBatch",
    "batches",
    "collate_classes",
    "collate_images",
    "collate_pairs",
    "collate_texts",
    "open_sources",
    "positives",
]
