"""Opens the sources that a recipe describes."""

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
    """The sources that a recipe describes, with images preprocessed as `preprocess` says.

    reads  what the objective needs besides images: any of "captions", "labels", "questions" and
           "regions". With "captions", some sources may have no questions, but not all
    texts  number of captions, and of questions, that are sampled for an image in each epoch

    Raises RecipeError for data that is missing or empty, that lacks what is read, or whose classes,
    captions or answers are all the same; and, if labels are read, for sources whose classes differ.
    Warns of classes that differ only in upper and lower case.
    """
    parts = frozenset(reads)
    sources = [_open(config, preprocess, parts, texts) for config in configs]
    if "labels" in parts and sources:
        for config, source in zip(configs, sources, strict=True):
            _check_same_classes(configs[0], sources[0], config, source)
        _check_class_names(configs[0], sources[0].labels)
    if "captions" in parts and sources:
        facts = _first_two(chain.from_iterable(source.facts() for source in sources))
        if len(facts) < 2:
            shared = " ".join(sorted(next(iter(facts), frozenset())))
            raise RecipeError(
                f"all captions of the data say the same, {shared!r}: nothing can be learned from "
                "them; give images of several kinds"
            )
    if "questions" in parts and sources:
        answers = _first_two(chain.from_iterable(source.answers() for source in sources))
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
    return list(sources)


def _first_two(values: Iterable[T]) -> set[T]:
    """The first two distinct values, or all if there are fewer."""
    distinct: set[T] = set()
    for value in values:
        distinct.add(value)
        if len(distinct) > 1:
            break
    return distinct


def _open(
    config: SourceConfig, preprocess: PreprocessConfig, reads: frozenset[str], texts: int
) -> TableSource | SceneSource:
    if config.kind == "scenes":
        return SceneSource(config, preprocess, reads, texts)
    if config.class_questions and (config.question or config.answer):
        raise RecipeError(
            f"data {_name(config)}: class_questions ask for the class, question and answer are "
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
    """The table of a source. questions: whether its columns of questions are read."""
    if config.split and config.kind not in ("folder", "hub"):
        raise RecipeError(
            f"data {_name(config)}: split is of folders and of the hub, and this is a "
            f"{config.kind}: name the file of the split"
        )
    named = Columns(config.image, config.caption, config.label, config.question, config.answer)
    if config.kind == "folder":
        return _folder(config, named, questions)
    if config.kind == "webdataset":
        paths = tables.files(config.path, tars.SUFFIXES)
        return table_of(config.path, TarRows(paths, named))
    if config.kind == "hub":
        dataset = tables.open_hub(config.path, config.subset, config.split)
        return tables.table_of(config.path, dataset, named)
    rows, base = tables.open_table(config.path)
    return tables.table_of(config.path, rows, named, base)


def _folder(config: SourceConfig, named: Columns, questions: bool) -> Table:
    root = Path(config.path)
    folder = split_folder(root, config.split)
    file = folders.metadata_in(folder)
    if file:
        return folders.as_table(folders.metadata(file, named), questions)
    columns = [f"{key} = {name!r}" for key, name in named._asdict().items() if name]
    if columns:
        raise RecipeError(
            f"{folder}: no {' or '.join(folders.METADATA)}, of which {', '.join(columns)} would be "
            "a column"
        )
    names, images, targets = folders.class_folders(folder)
    if images:
        rows = ArrowRows({**_paths(images), "label": pa.array(targets, pa.int64())})
        return Table(str(folder), rows, "image", label="label", names=names)
    images = folders.pictures(folder)
    if images:
        return Table(str(folder), ArrowRows(_paths(images)), "image")
    raise RecipeError(
        f"{folder}: no images; one folder per class, or a {' or '.join(folders.METADATA)}"
    )


def _paths(images: Sequence[str]) -> dict[str, pa.Array]:
    """A column of paths, and one of the errors of paths that are not valid Unicode."""
    names = [shown(path) for path in images]
    pairs = zip(names, images, strict=True)
    faults = [None if name == path else UNPRINTABLE for name, path in pairs]
    return {"image": pa.array(names, pa.string()), FAULT: pa.array(faults, pa.string())}


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split. For "" it is the training split if all folders are splits, else
    `root`. Raises RecipeError if there is no such folder."""
    if split:
        existing = {folder.name.lower(): folder for folder in folders.subfolders(root)}
        if split.lower() not in existing:
            raise RecipeError(f"{root}: no folder {split!r}; it has {listed(list(existing))}")
        return existing[split.lower()]
    if folders.metadata_in(root):
        return root
    splits = folders.splits(root)
    if not splits:
        return root
    for name in folders.TRAIN:
        if name in splits:
            return splits[name]
    raise RecipeError(f"{root}: no folder 'train', but {listed(list(splits))}; set data.split")


def _check_same_classes(
    first_config: SourceConfig, first: Source, config: SourceConfig, source: Source
) -> None:
    """Raise RecipeError unless a source has the same classes as the first one."""
    if not source.labels:
        raise RecipeError(f"data {_name(config)} has no classes, which the objective reads")
    if source.labels != first.labels:
        only_here = [name for name in source.labels if name not in first.labels]
        only_first = [name for name in first.labels if name not in source.labels]
        raise RecipeError(
            f"data {_name(first_config)} and {_name(config)} have other classes: "
            f"{listed(only_first)} against {listed(only_here)}; all sources need the same"
        )


def _check_class_names(config: SourceConfig, labels: Sequence[str]) -> None:
    """Raise RecipeError for a single class, and warn of classes that differ only in case."""
    if len(labels) == 1:
        raise RecipeError(
            f"data {_name(config)} has one class, {labels[0]!r}: nothing can be learned from it; "
            "give images of several classes"
        )
    names: dict[str, str] = {}  # by lower case
    for name in labels:
        similar = names.setdefault(name.casefold(), name)
        if similar != name:
            warn(
                f"data {_name(config)}: {similar!r} and {name!r} are two classes, for they differ "
                "in upper and lower case; write them alike if they are one"
            )


def _name(config: SourceConfig) -> str:
    """The name of a source in errors."""
    return config.path or f"{config.kind} {config.only}".strip()
