"""Sources as a recipe describes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.config import PreprocessConfig
from patchword.data import folders, tables, tars
from patchword.data.augment import Transform
from patchword.data.config import SourceConfig
from patchword.data.rows import ArrowRows, Columns, listed
from patchword.data.sample import Source
from patchword.data.scene_source import SceneSource
from patchword.data.table import FAULT, Table, table_of
from patchword.data.table_source import TableSource
from patchword.data.tars import TarRows
from patchword.errors import PatchwordError, RecipeError, warn
from patchword.images import Opener
from patchword.images.files import UNPRINTABLE, shown

T = TypeVar("T")


def open_sources(
    configs: Sequence[SourceConfig],
    preprocess: PreprocessConfig,
    reads: Collection[str],
    texts: int = 1,
) -> list[Source]:
    """The sources that a recipe describes, their images as `preprocess` says.

    reads: what the objective needs beside images: any of "captions", "labels" and "questions".
    With "captions", some sources may be without questions, but not all.
    texts: how many captions, and questions, are sampled for each image at each visit.

    Raises RecipeError for data that is not there or empty, without what is read, or with classes,
    captions or answers that are all the same; and for sources whose classes differ, where classes
    are read. Warns of classes that differ in case alone.
    """
    wanted = frozenset(reads)
    opened = [_open(config, preprocess, wanted, texts) for config in configs]
    if "labels" in wanted:
        for config, source in zip(configs, opened, strict=True):
            _agree(configs[0], opened[0], config, source)
        if configs:
            _check_classes(configs[0], opened[0].labels)
    if "captions" in wanted and opened:
        facts = _different(chain.from_iterable(source.facts() for source in opened))
        if len(facts) < 2:
            shared = " ".join(sorted(next(iter(facts), frozenset())))
            raise RecipeError(
                f"all captions of the data say the same, {shared!r}: nothing can be learned from "
                "them; give images of several kinds"
            )
    if "questions" in wanted and opened:
        answers = _different(chain.from_iterable(source.answers() for source in opened))
        if not answers:
            raise RecipeError(
                "no data has questions with answers, which the objective reads; set question and "
                "answer, or class_questions, of one [[data]] or more"
            )
        if len(answers) < 2:
            raise RecipeError(
                f"all answers of the data are the same, {answers.pop()!r}: nothing can be learned "
                "from them; give questions with several answers"
            )
    return list(opened)


def _different(values: Iterable[T]) -> set[T]:
    """All distinct texts, or the first two."""
    different: set[T] = set()
    for each in values:
        different.add(each)
        if len(different) > 1:
            break
    return different


def _open(
    config: SourceConfig, preprocess: PreprocessConfig, reads: frozenset[str], texts: int
) -> TableSource | SceneSource:
    if config.kind == "scenes":
        return SceneSource(config, preprocess, reads, texts)
    if config.class_questions and (config.question or config.answer):
        raise RecipeError(
            f"data {_called(config)}: class_questions ask for the class, question and answer are "
            "columns; give one or the other"
        )
    try:
        table = _table(config, "questions" in reads and not config.class_questions)
    except RecipeError:
        raise
    except PatchwordError as error:
        raise RecipeError(str(error)) from error
    opener = Opener(config.stretch, config.max_pixels, urls=False)
    transform = Transform(preprocess, config.augment, opener)
    return TableSource(
        table, transform, reads, config.templates, config.names, config.class_questions, texts
    )


def _table(config: SourceConfig, questions: bool) -> Table:
    """questions: whether those of the table are read."""
    if config.split and config.kind not in ("folder", "hub"):
        raise RecipeError(
            f"data {_called(config)}: split is of folders and of the hub, and this is a "
            f"{config.kind}: name the file of the split"
        )
    named = Columns(config.image, config.caption, config.label, config.question, config.answer)
    if config.kind == "folder":
        return _folder(config, named, questions)
    if config.kind == "webdataset":
        found = tables.files(config.path, tars.SUFFIXES)
        return table_of(config.path, TarRows(found, named))
    if config.kind == "hub":
        split = tables.open_hub(config.path, config.subset, config.split)
        return tables.table_of(config.path, split, named)
    rows, base = tables.open_table(config.path)
    return tables.table_of(config.path, rows, named, base)


def _folder(config: SourceConfig, named: Columns, questions: bool) -> Table:
    root = Path(config.path)
    folder = split_folder(root, config.split)
    if file := folders.metadata_in(folder):
        return folders.as_table(folders.metadata(file, named), questions)
    if columns := [f"{key} = {name!r}" for key, name in named._asdict().items() if name]:
        raise RecipeError(
            f"{folder}: no {' or '.join(folders.METADATA)}, of which {', '.join(columns)} would be "
            "a column"
        )
    names, images, targets = folders.class_folders(folder)
    if images:
        rows = ArrowRows({**_paths(images), "label": pa.array(targets, pa.int64())})
        return Table(str(folder), rows, "image", label="label", names=names)
    if images := folders.pictures(folder):
        return Table(str(folder), ArrowRows(_paths(images)), "image")
    raise RecipeError(
        f"{folder}: no images; one folder per class, or a {' or '.join(folders.METADATA)}"
    )


def _paths(images: Sequence[str]) -> dict[str, pa.Array]:
    """Columns of paths, and of what is wrong with those that no table can hold."""
    names = [shown(path) for path in images]
    pairs = zip(names, images, strict=True)
    faults = [None if name == path else UNPRINTABLE for name, path in pairs]
    return {"image": pa.array(names, pa.string()), FAULT: pa.array(faults, pa.string())}


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split; "": of the training one where all folders are splits. Raises
    RecipeError where it is not there."""
    if split:
        there = {folder.name.lower(): folder for folder in folders.subfolders(root)}
        if split.lower() not in there:
            raise RecipeError(f"{root}: no folder {split!r}; it has {listed(list(there))}")
        return there[split.lower()]
    if folders.metadata_in(root):
        return root
    found = folders.splits(root)
    if not found:
        return root
    if known := next((found[name] for name in folders.TRAIN if name in found), None):
        return known
    raise RecipeError(f"{root}: no folder 'train', but {listed(list(found))}; set data.split")


def _agree(first: SourceConfig, known: Source, config: SourceConfig, source: Source) -> None:
    """Raise RecipeError unless two sources have the same classes."""
    if not source.labels:
        raise RecipeError(f"data {_called(config)} has no classes, which the objective reads")
    if source.labels != known.labels:
        theirs = [name for name in source.labels if name not in known.labels]
        ours = [name for name in known.labels if name not in source.labels]
        raise RecipeError(
            f"data {_called(first)} and {_called(config)} have other classes: "
            f"{listed(ours)} against {listed(theirs)}; all sources need the same"
        )


def _check_classes(config: SourceConfig, labels: Sequence[str]) -> None:
    """Raise RecipeError for less than two classes, and warn of those that differ in case alone."""
    if len(labels) == 1:
        raise RecipeError(
            f"data {_called(config)} has one class, {labels[0]!r}: nothing can be learned from it; "
            "give images of several classes"
        )
    known: dict[str, str] = {}
    for name in labels:
        if (like := known.setdefault(name.casefold(), name)) != name:
            warn(
                f"data {_called(config)}: {like!r} and {name!r} are two classes, for they differ "
                "in upper and lower case; write them alike if they are one"
            )


def _called(config: SourceConfig) -> str:
    return config.path or f"{config.kind} {config.only}".strip()
