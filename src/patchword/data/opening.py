"""Sources as a recipe describes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.config import PreprocessConfig
from patchword.data import folders, tables
from patchword.data.augment import Look
from patchword.data.config import SourceConfig
from patchword.data.drawn import ScenesSource
from patchword.data.photos import PhotosSource, Table, meant
from patchword.data.rows import ArrowRows, listed
from patchword.data.sample import Facts, Source
from patchword.data.tars import TarRows
from patchword.errors import PatchwordError, RecipeError


def open_sources(
    configs: Sequence[SourceConfig], preprocess: PreprocessConfig, reads: Collection[str]
) -> list[Source]:
    """The sources that a recipe describes, their images as `preprocess` says.

    reads: what the objective looks at beside images: "captions", "labels", both or none. Raises
    RecipeError for data that is not there or empty, without what is read, or with captions that
    all say the same; and for sources whose classes differ, where classes are read.
    """
    wanted = frozenset(reads)
    opened = [_open(config, preprocess, wanted) for config in configs]
    if "labels" in wanted:
        for config, source in zip(configs, opened, strict=True):
            _agree(configs[0], opened[0], config, source)
    if "captions" in wanted and opened:
        different: set[Facts] = set()
        for source in opened:
            for facts in source.facts():
                different.add(facts)
                if len(different) > 1:
                    break
        if len(different) < 2:
            said = " ".join(sorted(next(iter(different), frozenset())))
            raise RecipeError(
                f"all captions of the data say the same, {said!r}: nothing can be learned from "
                "them; give images of several kinds"
            )
    return list(opened)


def _open(
    config: SourceConfig, preprocess: PreprocessConfig, reads: frozenset[str]
) -> PhotosSource | ScenesSource:
    if config.kind == "scenes":
        return ScenesSource(config, preprocess, reads)
    try:
        table = _table(config)
    except RecipeError:
        raise
    except PatchwordError as error:
        raise RecipeError(str(error)) from error
    look = Look(preprocess, config.augment)
    return PhotosSource(table, look, reads, config.templates, config.names)


def _table(config: SourceConfig) -> Table:
    asked = (config.image, config.caption, config.label)
    if config.kind == "folder":
        return _folder(config, asked)
    if config.kind == "webdataset":
        tars = tables.files(config.path, (".tar",))
        return meant(config.path, TarRows(tars, asked[1:]))
    if config.kind == "hub":
        rows = tables.open_hub(config.path, config.subset, config.split)
        return tables.meant(config.path, rows, None, asked)
    return tables.meant(config.path, *tables.open_table(config.path), asked)


def _folder(config: SourceConfig, asked: tuple[str, str, str]) -> Table:
    root = Path(config.path)
    folder = _split(root, config.split)
    if file := folders.metadata_in(folder):
        return folders.as_table(folders.metadata(file, asked))
    names, images, targets = folders.class_folders(folder)
    if images:
        rows = ArrowRows({"image": pa.array(images), "label": pa.array(targets, pa.int64())})
        return Table(str(folder), rows, "image", None, "label", None, names)
    if images := folders.pictures(folder):
        return Table(str(folder), ArrowRows({"image": pa.array(images)}), "image")
    raise RecipeError(
        f"{folder}: no images; one folder per class, or a {' or '.join(folders.METADATA)}"
    )


def _split(root: Path, split: str) -> Path:
    """The folder of a split; "": of the training one where all folders are splits."""
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


def _called(config: SourceConfig) -> str:
    return config.path or f"{config.kind} {config.only}".strip()
