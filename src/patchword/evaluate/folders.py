"""Data to evaluate on: folders of classes, or a table of images with captions or classes, such as
the metadata file of Hugging Face's imagefolder, or a tar of webdataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from patchword.data import folders, tables, tars
from patchword.data.folders import METADATA, NAME, TEST, TRAIN
from patchword.data.rows import CAPTIONS, USUAL, advice, class_of, listed, suffix_of, texts_of
from patchword.data.table import FAULT, Table, resolved, table_of
from patchword.data.text_tables import CSV, JSON
from patchword.errors import ImageError, PatchwordError
from patchword.images import ImageLike

READERS = (*tables.READERS, *tars.SUFFIXES)
TEXT = (*CSV, *JSON)  # read without the `datasets` library


class TableImages(Sequence[ImageLike]):
    """The images of some rows of a table, as paths or bytes, each read on access."""

    def __init__(self, table: Table, rows: Sequence[int]) -> None:
        self.table = table
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageLike:  # type: ignore[override]  # no slices
        return self.table.read_row(self.rows[index])[1]

    def name(self, index: int) -> str:
        """The name of image `index` in messages."""
        return self.table.read_row(self.rows[index])[0]

    def broken(self, index: int, reason: str) -> ImageError:
        """The error of image `index`, which cannot be opened for that reason; if its row has a
        fault, that is the reason."""
        name, image, row = self.table.read_row(self.rows[index])
        return ImageError(name, row.get(FAULT) or (reason if image else "no image in this row"))


@dataclass(frozen=True)
class Labelled:
    """Images of classes."""

    path: Path
    names: tuple[str, ...]  # of classes: their folders, sorted; in a table, see `Table.classes`
    images: Sequence[ImageLike]
    targets: NDArray[np.int64]  # (N,)
    faults: tuple[ImageError, ...] = ()  # rows of a table without a class, which are left out


@dataclass(frozen=True)
class Captioned:
    """Images, each with one or more captions."""

    path: Path
    images: Sequence[ImageLike]
    captions: tuple[tuple[str, ...], ...]  # of each image
    faults: tuple[ImageError, ...] = ()  # rows without image or caption, which are left out


Data = TypeVar("Data", Labelled, Captioned)


def error_of(images: Sequence[ImageLike], index: int, error: ImageError) -> ImageError:
    """The error of image `index`, which for an image of a table names its row."""
    return images.broken(index, error.reason) if isinstance(images, TableImages) else error


def splits(path: Path) -> tuple[Path, Path | None]:
    """(folder to evaluate on, folder to train a probe on): two of the splits ("train",
    "validation", ...) in a folder; else the folder itself and None."""
    split_folders = folders.splits(path)
    train = next((split_folders[name] for name in TRAIN if name in split_folders), None)
    test = next((split_folders[name] for name in TEST if name in split_folders), None)
    if test:
        return test, train
    return next(iter(split_folders.values()), path), None


def table_in(path: Path) -> Path | None:
    """The table: `path` itself, or the metadata file in the folder; None if there is none."""
    return path if suffix_of(path) in READERS else folders.metadata_in(path)


def captions_in(path: Path) -> Path | None:
    """The table with captions: `path` itself, or the metadata file in the folder; None if there is
    none, or if it has only classes. Raises PatchwordError for one that cannot be read."""
    file = table_in(path)
    if file is None:
        return None
    if suffix_of(file) in TEXT:
        entries = folders.metadata(file).entries
        has_captions = any(entry.captions for entry in entries)
        has_labels = any(entry.label for entry in entries)
    else:
        table = _table(file)
        has_captions, has_labels = table.caption is not None, table.label is not None
    return None if has_labels and not has_captions else file


def labelled(path: Path) -> Labelled:
    """The images and classes of a table; or of a folder with one folder per class, whose images may
    lie at any depth. Raises PatchwordError if there are none, and for a table without a class in
    any row."""
    file = table_in(path)
    if file is not None:
        return _labelled_table(file)
    if path.exists() and not path.is_dir():
        raise PatchwordError(f"{path}: no folder, and no file of {' '.join(READERS)}{advice(path)}")
    names, images, targets = folders.class_folders(path)
    if not images:
        raise PatchwordError(
            f"{path}: no images in folders, one folder per class, and no {' or '.join(METADATA)}"
        )
    return Labelled(path, names, images, np.array(targets, np.int64))


def captioned(path: Path) -> Captioned:
    """The images and captions of a table, or of the metadata file in a folder.

    Every row must have an image, with a path relative to the table's folder, and one or more
    captions; a row without is a fault. The captions of rows with the same image are joined. Raises
    PatchwordError, with the number of the line or row, if all rows are faults."""
    file = table_in(path)
    if file is None:
        raise PatchwordError(f"{path}: no {' or '.join(METADATA)} with captions")
    if suffix_of(file) in TEXT:
        return _captioned_text(file)
    table, faults = _table(file), []
    rows: dict[bytes, int] = {}
    captions: dict[bytes, list[str]] = {}
    for row, (image, texts) in enumerate(_captions(table)):
        if isinstance(texts, ImageError):
            faults.append(texts)
            continue
        content = image if isinstance(image, bytes) else image.encode("utf-8", "surrogateescape")
        digest = blake2b(content, digest_size=16).digest()
        captions.setdefault(digest, []).extend(texts)
        rows.setdefault(digest, row)
    images = TableImages(table, list(rows.values()))
    return _not_empty(Captioned(file, images, tuple(map(tuple, captions.values())), tuple(faults)))


def _captioned_text(file: Path) -> Captioned:
    """`captioned` for a table that is a text file."""
    captions: dict[str, list[str]] = {}
    faults = []
    table = folders.metadata(file)
    for entry in table.entries:
        if entry.image and entry.captions:
            captions.setdefault(resolved(entry.image, file.parent), []).extend(entry.captions)
            continue
        if entry.image:
            reason = f"no {_either(CAPTIONS[:4])}"
            has_column = bool(table.used.captions)
        else:
            reason = f"no {NAME!r}; it names the image"
            has_column = bool(table.used.image)
        if not has_column:
            columns = listed(table.columns)
            reason += f"; there are the columns {columns}: rename the one that is meant"
        faults.append(ImageError(f"{file}, {entry.place}", reason))
    texts = tuple(map(tuple, captions.values()))
    return _not_empty(Captioned(file, tuple(captions), texts, tuple(faults)))


def agreeing(train: Labelled, test: Labelled) -> NDArray[np.int64]:
    """The targets of `test` as numbers of the classes of `train`. Raises PatchwordError for a class
    that `train` does not have."""
    if missing := [name for name in test.names if name not in train.names]:
        raise PatchwordError(
            f"{train.path} has no class {', '.join(missing)}, which {test.path} has; both need "
            "the same classes"
        )
    numbers = np.array([train.names.index(name) for name in test.names], np.int64)
    return numbers[test.targets]


def _table(file: Path) -> Table:
    if suffix_of(file) in TEXT:
        return folders.as_table(folders.metadata(file))
    if suffix_of(file) in tars.SUFFIXES:
        return table_of(str(file), tars.TarRows([file], USUAL))
    rows, base = tables.open_table(str(file))
    return tables.table_of(str(file), rows, base=base)


def _labelled_table(file: Path) -> Labelled:
    table = _table(file)
    if table.label is None:
        raise PatchwordError(f"{file}: no column of classes; it has {listed(table.columns)}")
    names, numbers = table.classes()
    cells = map(class_of, table.rows.column(table.label))
    targets = [-1 if cell is None else numbers.get(cell, -1) for cell in cells]
    images = TableImages(table, range(len(targets)))
    rows, faults = [], []
    for row, target in enumerate(targets):
        if target >= 0:
            rows.append(row)
        else:
            faults.append(ImageError(images.name(row), "no class in this row"))
    with_class = np.array([targets[row] for row in rows], np.int64)
    return _not_empty(Labelled(file, names, TableImages(table, rows), with_class, tuple(faults)))


def _not_empty(data: Data) -> Data:
    """The data. Raises PatchwordError, with the first fault, if it has no images."""
    if not data.images:
        raise PatchwordError(str(data.faults[0]))
    return data


def _captions(table: Table) -> Iterator[tuple[str | bytes, list[str] | ImageError]]:
    """(image, captions or the row's error) of each row."""
    if table.caption is None:
        raise PatchwordError(
            f"{table.where}: no column of captions; it has {listed(table.columns)}"
        )
    for number in range(len(table.rows)):
        name, image, row = table.read_row(number)
        texts = texts_of(row[table.caption])
        if row.get(FAULT):
            yield image, ImageError(name, row[FAULT])
        elif image and texts:
            yield image, texts
        else:
            lacks = "caption" if image else "image"
            yield image, ImageError(f"{table.where}, row {number + 1}", f"no {lacks}")


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))
