"""The output folder of capfilt. Several processes may write it, and it survives kill -9.

    capfilt.json            models, options and data of the run, written first
    judged-0-of-4.jsonl     a line for each batch of images that shard 0 of 4 has scored
    images/                 images that were inside a table or a tar
    metadata.jsonl          the dataset: each image with the texts that were kept
    provenance.jsonl        every text with its source, its score, and whether it was kept
    report.html

The line of a batch is written and synced to disk before the next batch begins. Batches are numbered
over the whole dataset and distributed over the shards: a batch has the same images and scores
whichever process runs it. The last three files are written, each atomically, by the process that
finds that all batches are done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchword.atomic_write import PART, make_folder, write
from patchword.errors import PatchwordError

Row = dict[str, Any]

PLAN, DATASET, PROVENANCE = "capfilt.json", "metadata.jsonl", "provenance.jsonl"
REPORT, IMAGES = "report.html", "images"


@dataclass(frozen=True)
class Shard:
    """A part of the batches: every `count`-th, starting with `number`."""

    number: int = 0
    count: int = 1

    def batches(self, total: int) -> range:
        """The numbers of its batches. total: the number of batches of the dataset."""
        return range(self.number, total, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class Store:
    """The folder of a run, and the file of one of its shards."""

    def __init__(self, folder: Path, plan: Row, shard: Shard, batches: int) -> None:
        """plan: models, options and data of the run. batches: the number of the dataset's batches.

        Raises PatchwordError for the folder of a run with another plan, and for a folder with other
        files.
        """
        self.folder, self.shard, self._batches = folder, shard, batches
        self._plan = plan
        self._size = 0  # bytes of the shard's file
        if (folder / PLAN).exists():
            self._check_plan()
        elif folder.exists() and (not folder.is_dir() or _has_files(folder)):
            raise PatchwordError(f"{folder}: not an empty folder, and not begun by capfilt")

    def resume(self) -> range:
        """The batches of the shard that have no scores yet. A half-written line is removed."""
        batches, path = self.shard.batches(self._batches), self._path(self.shard)
        done = 0
        if path.exists():
            with path.open("r+b") as file:
                for _, line in _scored(path, file, batches):
                    self._size += len(line)
                    done += 1
                file.truncate(self._size)
        return batches[done:]

    def append(self, batch: int, images: Sequence[Row], pictures: Mapping[str, bytes]) -> None:
        """Write a scored batch. pictures: files to write into the folder, by name."""
        if not self._size:
            self._begin()
        for name, content in pictures.items():
            write(self.folder / name, content)
        path = self._path(self.shard)
        line = json.dumps({"batch": batch, "images": images}).encode() + b"\n"
        if (path.stat().st_size if path.exists() else 0) != self._size:
            raise PatchwordError(f"{path}: another process writes it; start each shard once")
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(line)

    def unfinished(self) -> list[Shard]:
        """The shards that have batches without scores."""
        unfinished = []
        for shard in self._shards():
            done = sum(1 for _ in self._lines(shard))
            if done < len(shard.batches(self._batches)):
                unfinished.append(shard)
        return unfinished

    def shard_images(self) -> Iterator[Row]:
        """The scored images of this shard."""
        for images, _ in self._lines(self.shard):
            yield from images

    def images(self) -> Iterator[Row]:
        """All scored images, in the order of the dataset. All shards must be finished."""
        files = [self._lines(shard) for shard in self._shards()]
        for batch in range(self._batches):
            images, _ = next(files[batch % len(files)])
            yield from images

    def replace(self, name: str, lines: Iterable[str]) -> None:
        """Write a file of the folder atomically: a reader sees the old or the new one."""
        write(self.folder / name, lines)

    def _shards(self) -> list[Shard]:
        return [Shard(number, self.shard.count) for number in range(self.shard.count)]

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"judged-{shard.number}-of-{shard.count}.jsonl"

    def _lines(self, shard: Shard) -> Iterator[tuple[list[Row], bytes]]:
        """The images and the line of each scored batch of a shard."""
        path = self._path(shard)
        if path.exists():
            with path.open("rb") as file:
                yield from _scored(path, file, shard.batches(self._batches))

    def _begin(self) -> None:
        """Write the plan. If another process has written one, it must be the same."""
        make_folder(self.folder)
        if not (self.folder / PLAN).exists():
            part = self.folder / f".{PLAN}.{self.shard.number}"
            write(part, json.dumps(self._plan, indent=1) + "\n")
            try:
                with suppress(FileExistsError):
                    os.link(part, self.folder / PLAN)
            except OSError:  # a file system without links, as on a memory card
                part.replace(self.folder / PLAN)
            part.unlink(missing_ok=True)
        self._check_plan()

    def _check_plan(self) -> None:
        """Raise PatchwordError, with the differences, for the folder of a run with another plan."""
        path = self.folder / PLAN
        try:
            saved = json.loads(path.read_bytes())
        except ValueError as error:
            raise PatchwordError(f"{path}: not JSON ({error}); begin in another folder") from error
        different = [
            f"{name} was {_shown(saved.get(name))}, and is {_shown(value)}"
            for name, value in self._plan.items()
            if _identity(saved.get(name)) != _identity(value)
        ]
        if different:
            raise PatchwordError(
                f"{self.folder} was begun otherwise: {'; '.join(different)}. Give the same options "
                "as then, or name another folder"
            )


def _scored(path: Path, file: Any, batches: range) -> Iterator[tuple[list[Row], bytes]]:
    """The images and the line of each of these batches, up to the first batch that is missing or
    whose line is cut off."""
    for number, (batch, line) in enumerate(zip(batches, file, strict=False), start=1):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if row is None and not file.read(1):
            return
        if not isinstance(row, dict) or row.get("batch") != batch:
            raise PatchwordError(
                f"{path}, line {number}: not batch {batch}; delete the file and run the shard again"
            )
        yield row["images"], line


def _identity(value: Any) -> Any:
    """The part of a value that must be equal: the fingerprint of a model or of data."""
    return value.get("fingerprint") if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    """A value in an error."""
    if isinstance(value, dict):
        return f"{value.get('name')} ({value.get('fingerprint')})"
    return json.dumps(value, ensure_ascii=False)


def _has_files(folder: Path) -> bool:
    """Whether a folder contains anything but the temporary files of a killed process."""
    temporary = (f".{PLAN}", PART)
    return any(not path.name.startswith(temporary) for path in folder.iterdir())
