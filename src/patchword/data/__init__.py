"""Training data: where samples come from, in which order, and batches of them.

config         the data section of a recipe
opening        opens the sources that a recipe describes
folders        class folders and metadata files
tables         csv_files, json_files; parquet and the hub
tars           webdataset: tar_files lists what is in a tar, tar_samples groups it
scene_source   generated scenes
table_source   images of a table with captions and classes
augment        random changes to images
plan           which samples are in the batch of each step, a function of (seed, step)
batch          the types of batches
batches        prefetched, in processes or a thread
"""

from patchword.data.batch import (
    Batch,
    ClassBatch,
    Collate,
    PairBatch,
    RegionBatch,
    TextBatch,
    collate_classes,
    collate_images,
    collate_pairs,
    collate_regions,
    collate_texts,
)
from patchword.data.batches import batches, explain_worker_errors
from patchword.data.config import AugmentConfig, SourceConfig
from patchword.data.plan import Place, Plan
from patchword.data.sample import Facts, Region, Sample, Source, positives
from patchword.data.sources import open_sources

__all__ = [
    "AugmentConfig",
    "Batch",
    "ClassBatch",
    "Collate",
    "Facts",
    "PairBatch",
    "Place",
    "Plan",
    "Region",
    "RegionBatch",
    "Sample",
    "Source",
    "SourceConfig",
    "TextBatch",
    "batches",
    "collate_classes",
    "collate_images",
    "collate_pairs",
    "collate_regions",
    "collate_texts",
    "explain_worker_errors",
    "open_sources",
    "positives",
]
