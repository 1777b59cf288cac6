"""The data section of a recipe, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from patchword.options import in_range


@dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of a photo, new each time."""

    # area of a random crop, as a share of the image's; its sides are 3:4 to 4:3 (Szegedy et al.
    # 2015, section 6); (1, 1): the whole image, preprocessed without a random crop
    crop: tuple[float, float] = (0.3, 1.0)
    mirror: bool = True  # half of the photos, left to right
    colour: float = 0.4  # brightness, contrast and saturation times 1 +- this, each
    erase: float = 0.5  # probability of a grey rectangle (Zhong et al. 2020)
    mix: bool = True  # may take part in mixup and CutMix

    def __post_init__(self) -> None:
        in_range("augment.crop", self.crop[0], 0, above=True)
        in_range("augment.crop", self.crop[1], self.crop[0], 1)
        in_range("augment.colour", self.colour, 0, 0.99)
        in_range("augment.erase", self.erase, 0, 1)


@dataclass(frozen=True)
class SourceConfig:
    """One source of samples. Relative paths start at the current folder; those in a table, at the
    folder of the table.

    For images that only have a label, captions are made from `templates` and `names`, and with
    `class_questions` also questions with answers.
    """

    kind: Literal["folder", "table", "webdataset", "hub", "scenes"]
    share: float = 1.0  # of the samples, relative to the other sources
    # folder: one folder per class, or a metadata.csv or .jsonl; table: .csv .tsv .json .jsonl
    # .parquet, or a pattern; webdataset: .tar, or a pattern; hub: organisation/name, or a folder
    # with such a repository
    path: str = ""
    split: str = ""  # folder, hub: "" is "train" if there are several
    subset: str = ""  # hub: of a dataset with several subsets
    # the names of columns; "": the first column with a usual name
    image: str = ""
    caption: str = ""  # a text or a list of texts
    label: str = ""  # names or numbers of classes; for scenes of shapes: "", or "count" of shapes
    question: str = ""  # a text or a list of texts
    answer: str = ""  # a text or several; for several questions, one entry for each
    templates: tuple[str, ...] = ("a photo of a {}",)  # "{}" is replaced by a word for the class
    names: tuple[tuple[str, ...], ...] = ()  # words for each class, in the order of the classes
    # questions whose answer is a word for the class: ["what is this?"]
    class_questions: tuple[str, ...] = ()
    augment: AugmentConfig | None = None
    stretch: bool = False  # contrast of each image from its darkest to its brightest half percent
    max_pixels: int = 300_000_000  # larger images are broken samples
    count: int = 0  # scenes: number of scenes
    only: Literal["", "wafer", "shapes"] = ""  # scenes: of one kind
    # scenes: colours of shapes, empty: all; with few colours, captions of a batch differ mostly in
    # their shapes, and are hard negatives
    palette: tuple[str, ...] = ()
    # scenes: share of samples that also have a wrong caption: a true one with one fact changed, as
    # a hard negative for image-text matching
    wrong_captions: float = 0.0
    seed: int = 0  # scenes

    def __post_init__(self) -> None:
        in_range("data.share", self.share, 0, above=True)
        in_range("data.max_pixels", self.max_pixels, 1)
        in_range("data.count", self.count, 0)
        in_range("data.wrong_captions", self.wrong_captions, 0, 1)
        in_range("data.seed", self.seed, 0)
