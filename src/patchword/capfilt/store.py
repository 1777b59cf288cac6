"""The output folder of capfilt, which several processes may write, and which survives kill -9.

    capfilt.json            models, options and data of the run, written first
    judged-0-of-4.jsonl     a line per batch of images that shard 0 of 4 has scored
    images/                 images that were inside a table or a tar
    metadata.jsonl          the dataset: each image with the texts that were kept
    provenance.jsonl        every text with its source, its score, and whether it was kept
    report.html

A batch is one line, written whole and synced to disk before the next one begins. Batches are
numbered through the dataset and distributed over the shards, so that a batch has the same images
and the same scores whichever process runs it and whenever. The last three files are written, each
atomically, by the process that finds all batches done.
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
        """The numbers of its batches; total: of the dataset."""
        return range(self.number, total, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class Store:
    """The folder of a run, and the file of one of its shards."""

    def __init__(self, folder: Path, plan: Row, shard: Shard, batches: int) -> None:
        """plan: models, options and data of the run. batches: how many the dataset has.

        Raises PatchwordError for a folder of a run with another plan, or with other files in it.
        """
        self.folder, self.shard, self._batches = folder, shard, batches
        self._plan = plan
        self._size = 0  # of the shard's file, bytes
        if (folder / PLAN).exists():
            self._compare()
        elif folder.exists() and (not folder.is_dir() or _visible(folder)):
            raise PatchwordError(f"{folder}: not an empty folder, and not begun by capfilt")

    def resume(self) -> range:
        """The batches of the shard without scores yet; a half-written line is removed."""
        mine, path = self.shard.batches(self._batches), self._path(self.shard)
        done = 0
        if path.exists():
            with path.open("r+b") as file:
                for _, line in _scored(path, file, mine):
                    self._size += len(line)
                    done += 1
                file.truncate(self._size)
        return mine[done:]

    def append(self, batch: int, images: Sequence[Row], pictures: Mapping[str, bytes]) -> None:
        """Write a scored batch, and the files of its images that go into the folder."""
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
        shards = [Shard(number, self.shard.count) for number in range(self.shard.count)]
        return [shard for shard in shards if self._count(shard) < len(shard.batches(self._batches))]

    def own(self) -> Iterator[Row]:
        """The scored images of the shard."""
        for images, _ in self._lines(self.shard):
            yield from images

    def images(self) -> Iterator[Row]:
        """All scored images, in the order of the dataset, once no shard is unfinished."""
        shards = [Shard(number, self.shard.count) for number in range(self.shard.count)]
        files = [self._lines(shard) for shard in shards]
        for batch in range(self._batches):
            images, _ = next(files[batch % len(files)])
            yield from images

    def replace(self, name: str, lines: Iterable[str]) -> None:
        """Write a file of the folder atomically: a reader sees the old or the new one."""
        write(self.folder / name, lines)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"judged-{shard.number}-of-{shard.count}.jsonl"

    def _count(self, shard: Shard) -> int:
        return sum(1 for _ in self._lines(shard))

    def _lines(self, shard: Shard) -> Iterator[tuple[list[Row], bytes]]:
        path = self._path(shard)
        if path.exists():
            with path.open("rb") as file:
                yield from _scored(path, file, shard.batches(self._batches))

    def _begin(self) -> None:
        """Write the plan, unless another process was first: then its plan must be the same."""
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
        self._compare()

    def _compare(self) -> None:
        """Raise PatchwordError, with the differences, for a folder of a run with another plan."""
        path = self.folder / PLAN
        try:
            begun = json.loads(path.read_bytes())
        except ValueError as error:
            raise PatchwordError(f"{path}: not JSON ({error}); begin in another folder") from error
        different = [
            f"{name} was {_shown(begun.get(name))}, and is {_shown(value)}"
            for name, value in self._plan.items()
            if _known(begun.get(name)) != _known(value)
        ]
        if different:
            raise PatchwordError(
                f"{self.folder} was begun otherwise: {'; '.join(different)}. Give the same options "
                "as then, or name another folder"
            )


def _scored(path: Path, file: Any, batches: range) -> Iterator[tuple[list[Row], bytes]]:
    """The images and the line of each of these batches, up to the first that is missing or whose
    line is cut off."""
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


def _known(value: Any) -> Any:
    """The part of a value that must be equal: of a model or of data the digest."""
    return value.get("fingerprint") if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('name')} ({value.get('fingerprint')})"
    return json.dumps(value, ensure_ascii=False)


def _visible(folder: Path) -> bool:
    """Whether a folder contains more than the leftovers of a killed process."""
    left = (f".{PLAN}", PART)
    return any(not path.name.startswith(left) for path in folder.iterdir())
