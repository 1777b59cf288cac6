"""The data section of a recipe, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from patchword.options import in_range


@dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of a photo, new each time."""

    # share of the area of a random crop, sides 3:4 to 4:3 (Szegedy et al. 2015, section 6);
    # (1, 1): the whole image, preprocessed without a random crop
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
    """One source of samples, and its share of every batch. Relative paths are relative to the
    current folder; those in a table, to the folder of the table.

    The captions of images that only have a label are made of `templates` and `names`; with
    `class_questions`, questions with answers too.
    """

    kind: Literal["folder", "table", "webdataset", "hub", "scenes"]
    share: float = 1.0
    # folder: one folder per class, or a metadata.csv or .jsonl; table: .csv .tsv .json .jsonl
    # .parquet, or a pattern; webdataset: .tar, or a pattern; hub: organisation/name, or a folder
    # with such a repository
    path: str = ""
    split: str = ""  # folder, hub: "train", ...; "": that, where there are several
    subset: str = ""  # hub: of a dataset that has several
    image: str = ""  # column of images; "": the first with a usual name
    caption: str = ""  # column of captions, a text or a list of texts; the same
    # column of class names or numbers; the same. Scenes of shapes: "count" of them; of wafers: ""
    label: str = ""
    question: str = ""  # column of questions, a text or a list of texts; the same
    answer: str = ""  # column of answers: a text or several; of several questions, one each
    templates: tuple[str, ...] = ("a photo of a {}",)  # "{}" is the class's word
    names: tuple[tuple[str, ...], ...] = ()  # words for each class, in the order of the classes
    # questions that a word for the class answers: ["what is this?"]
    class_questions: tuple[str, ...] = ()
    augment: AugmentConfig | None = None
    stretch: bool = False  # each image from its own darkest to its brightest half percent
    max_pixels: int = 300_000_000  # files of more are broken samples
    count: int = 0  # scenes: how many
    only: Literal["", "wafer", "shapes"] = ""  # scenes: of one kind
    # scenes: colours of shapes; of few, captions of a batch differ in their shapes: hard negatives
    palette: tuple[str, ...] = ()
    # scenes: share of samples with a wrong caption too, a true one with one fact changed: a hard
    # negative of image-text matching
    wrong_captions: float = 0.0
    seed: int = 0  # scenes

    def __post_init__(self) -> None:
        in_range("data.share", self.share, 0, above=True)
        in_range("data.max_pixels", self.max_pixels, 1)
        in_range("data.count", self.count, 0)
        in_range("data.wrong_captions", self.wrong_captions, 0, 1)
        in_range("data.seed", self.seed, 0)
