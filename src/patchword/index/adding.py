"""Embed what is new or changed into an index's table, batch by batch.

Every batch is one commit: a process killed at any moment loses the batch it was working on, and
adding again continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError
from patchword.images.files import File, hashed
from patchword.images.reading import Reader
from patchword.index import members
from patchword.index.failures import Failure, Failures
from patchword.index.metadata import differing, told_table
from patchword.index.schema import renamed
from patchword.index.sources import Listing
from patchword.index.table import Store

BATCH = 128  # files a commit, of a small index
SHARE = 64  # a commit is this part of a large one, so that merging all stays as cheap per file
MOST = 8192  # files a commit
COPIED = 1000  # rows that are copied in one commit
HASHERS = 4  # threads that hash files

Progress = Callable[[int, int], None]  # (done, total)
Batch = tuple[list[File], list[ImageError]]  # files of a commit, and errors of some of them


@dataclass(frozen=True)
class AddReport:
    """The result of `add`.

    added        how many files were embedded, new or changed
    unchanged    how many were as they had been
    failed       an error for each that could not be read
    moved        how many had the content of one that was there, and got its vector
    not_retried  how many of `failed` are as they were when they failed before, and were not tried
                 again
    """

    added: int
    unchanged: int
    failed: list[ImageError]
    moved: int = 0
    not_retried: int = 0


@dataclass
class Adding:
    """One run of `add`.

    begin      creates the table
    elsewhere  how files are embedded and stored in other processes: (files, listing, files in a
               commit) -> batches; None: here
    """

    store: Store
    failures: Failures
    model: Bundle
    begin: Callable[[], None]
    progress: Progress | None = None
    batch: int | None = None
    thumbnails: bool = True
    retry: bool = False
    failed: list[ImageError] = field(default_factory=list)
    elsewhere: Callable[[Sequence[File], Listing, int], Iterator[Batch]] | None = None
    _waiting: list[Failure] = field(default_factory=list)  # until there is a table

    def run(self, found: Listing) -> AddReport:
        """Add the files of a listing."""
        exists = self.store.open()
        if not exists:
            self.store.check_own()
        known = self.store.known() if exists else {}
        same = self._unchanged(found.files, known)
        before = self.failures.known() if exists else {}
        left = [
            before[file.path]
            for file in found.files
            if not self.retry and file.path in before and before[file.path].is_of(file)
        ]
        done = same | {each.path for each in left}
        moved = self._moved([file for file in found.files if file.path not in done], known)
        done |= moved
        todo = [file for file in found.files if file.path not in done]
        bad = self._embed(todo, found, known, before)
        if self.store.open():
            self._tell(found)
            self.store.compact()
        old = [ImageError(each.path, each.reason) for each in left]
        return AddReport(
            len(todo) - bad, len(same), self.failed + old, len(moved), not_retried=len(left)
        )

    def _unchanged(self, files: Sequence[File], known: Mapping[str, File]) -> set[str]:
        """Paths of the files that need no new vector. Where only the time differs, the content
        hash decides, and the new time is stored."""
        pairs = [(file, known[file.path]) for file in files if file.path in known]
        same = {new.path for new, old in pairs if (new.size, new.mtime) == (old.size, old.mtime)}
        later = [new for new, old in pairs if new.path not in same and new.size == old.size]
        touched = [f for f in _hashed(later) if f.digest and f.digest == known[f.path].digest]
        if touched:
            self.store.touch(touched)
        return same | {file.path for file in touched}

    def _moved(self, files: Sequence[File], known: Mapping[str, File]) -> set[str]:
        """Paths of the new files with the content of one in the index: they get all that is stored
        of it. The entries of files that are gone are dropped."""
        sizes = {file.size for file in known.values() if file.digest}
        likely = [f for f in files if f.path not in known and f.size in sizes]
        contents = {file.digest: file.path for file in known.values() if file.digest}
        pairs = [(f, contents[f.digest]) for f in _hashed(likely) if f.digest in contents]
        if pairs:
            _copy(self.store, pairs)
            self.store.delete(sorted({old for _, old in pairs if members.gone(old)}))
        return {new.path for new, _ in pairs}

    def _embed(
        self,
        todo: Sequence[File],
        found: Listing,
        known: Collection[str],
        before: Collection[str],
    ) -> int:
        """Embed and commit; returns how many failed. Entries in `known` of files that cannot be
        read any more are dropped. before: paths of those that failed before."""
        bad = 0
        if self.elsewhere and todo:
            batches = self.elsewhere(todo, found, self._size(len(known)))
        else:
            batches = self.here(todo, found, len(known))
        for files, errors in batches:
            if self.store.open():
                self.store.compact()
            self._fail(files, errors, known, before)
            bad += len(errors)
        return bad

    def here(self, todo: Sequence[File], found: Listing, rows: int = 0) -> Iterator[Batch]:
        """Embed and commit in this process. rows: of the table."""
        opener = self.model.opener
        reader = Reader(
            opener.stretch,
            opener.max_pixels,
            opener.urls,
            opener.exact,
            self.thumbnails,
            found.read,
        )
        results = replace(self.model, opener=reader).embed_each(file.path for file in todo)
        start = 0
        while files := list(todo[start : start + self._size(rows + start)]):
            good: list[File] = []
            vectors: list[Vector] = []
            errors: list[ImageError] = []
            for file, result in self._results(files, results, start, len(todo)):
                if isinstance(result, ImageError):
                    errors.append(result)
                else:
                    good.append(file)
                    vectors.append(result)
            if good:
                if not self.store.open():
                    self.begin()
                self.store.put(_hashed(good), np.stack(vectors), reader.seen)
            yield files, errors
            for file in files:
                reader.seen.pop(file.path, None)
            start += len(files)

    def _size(self, rows: int) -> int:
        """Files of the next commit."""
        return self.batch or max(BATCH, min(MOST, rows // SHARE))

    def _results(
        self,
        files: Sequence[File],
        results: Iterator[tuple[object, Vector | ImageError]],
        start: int,
        total: int,
    ) -> Iterator[tuple[File, Vector | ImageError]]:
        """The next results, those of these files."""
        for done, (file, (_, result)) in enumerate(
            zip(files, islice(results, len(files)), strict=True), start + 1
        ):
            yield file, result
            if self.progress:
                self.progress(done, total)

    def _fail(
        self,
        files: Sequence[File],
        errors: Sequence[ImageError],
        known: Collection[str],
        before: Collection[str],
    ) -> None:
        """Keep the errors of a batch, and forget those that files had before."""
        self.failed += errors
        reasons = {error.image: error.reason for error in errors}
        self._waiting += [
            Failure(file.path, file.size, file.mtime, reasons[file.path])
            for file in files
            if file.path in reasons
        ]
        if not self.store.open():  # nothing is made of nothing
            return
        self.store.delete([error.image for error in errors if error.image in known])
        mended = [f.path for f in files if f.path in before and f.path not in reasons]
        self.failures.change(self._waiting, mended)
        self._waiting = []

    def _tell(self, found: Listing) -> None:
        """Store what tables and tars say of their images, where it is not stored yet."""
        if not found.told:
            return
        told = told_table(found.told, [file.path for file in found.files])
        stored = self.store.values(told.schema.names)
        self.store.update(told.filter(differing(told, stored)))


def _hashed(files: Sequence[File]) -> list[File]:
    with ThreadPoolExecutor(HASHERS) as pool:
        return list(pool.map(hashed, files))


def _copy(store: Store, pairs: Sequence[tuple[File, str]]) -> None:
    """Store for each file all that is stored for a path."""
    for start in range(0, len(pairs), COPIED):
        some = pairs[start : start + COPIED]
        store.put_rows(renamed(store.whole(sorted({old for _, old in some})), some))
