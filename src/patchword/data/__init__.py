"""Training data: sources of samples, the order of samples, and batches.

config         the data section of a recipe
sources        opens the sources that a recipe describes
folders        class folders and metadata files
tables         parquet and the hub; text_tables reads csv_files and json_files
tars           webdataset: tar_files lists the files of a tar, tar_samples groups them
table          a table of images with captions and classes; rows: its rows and cells
table_source   such a table as a source
scene_source   generated scenes, as a source
augment        random changes to images
plan           which samples are in the batch of each step, a function of (seed, step)
batch          the types of batches
batches        makes batches ahead of time, in processes or a thread
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
