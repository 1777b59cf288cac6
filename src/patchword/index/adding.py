"""Embed new and changed files into an index, batch by batch.

Every batch is one commit: a process that is killed loses the batch it was working on, and adding
again continues where it stopped.
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
from patchword.index.metadata import changed_rows, table_by_path
from patchword.index.schema import rows_for_new_paths
from patchword.index.sources import Listing
from patchword.index.table import Store

BATCH = 128  # files in one commit of a small index
SHARE = 64  # a commit is 1/64 of a large index: merging all its files stays as cheap per image
MAX_BATCH = 8192
COPY_BATCH = 1000  # rows that are copied in one commit
HASH_THREADS = 4

Progress = Callable[[int, int], None]  # (done, total)
Batch = tuple[list[File], list[ImageError]]  # the files of a commit, and the errors of some of them


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

    create_table    creates the table of the index
    embed_remotely  embeds and stores files in other processes: (files, listing, files in a commit)
                    -> batches; None: this process does it
    failed          the errors so far
    """

    store: Store
    failures: Failures
    model: Bundle
    create_table: Callable[[], None]
    progress: Progress | None = None
    batch: int | None = None
    thumbnails: bool = True
    retry: bool = False
    failed: list[ImageError] = field(default_factory=list)
    embed_remotely: Callable[[Sequence[File], Listing, int], Iterator[Batch]] | None = None
    # Failures that are stored as soon as there is a table.
    _unsaved_failures: list[Failure] = field(default_factory=list)

    def run(self, listing: Listing) -> AddReport:
        """Add the files of a listing."""
        exists = self.store.exists()
        if not exists:
            self.store.check_folder()
        stored = self.store.files() if exists else {}
        unchanged = self._unchanged(listing.files, stored)
        failed_before = self.failures.known() if exists else {}
        not_retried = [
            failed_before[file.path]
            for file in listing.files
            if not self.retry
            and file.path in failed_before
            and failed_before[file.path].is_of(file)
        ]
        done = unchanged | {failure.path for failure in not_retried}
        moved = self._moved([file for file in listing.files if file.path not in done], stored)
        done |= moved
        todo = [file for file in listing.files if file.path not in done]
        failed_now = self._embed(todo, listing, stored, failed_before)
        if self.store.exists():
            self._store_columns(listing)
            self.store.compact()
        old_errors = [ImageError(failure.path, failure.reason) for failure in not_retried]
        return AddReport(
            added=len(todo) - failed_now,
            unchanged=len(unchanged),
            failed=self.failed + old_errors,
            moved=len(moved),
            not_retried=len(not_retried),
        )

    def _unchanged(self, files: Sequence[File], stored: Mapping[str, File]) -> set[str]:
        """Paths of the files that need no new vector. Where only the time differs, the hash of the
        content decides, and the new time is stored."""
        unchanged = set()
        same_size = []
        for file in files:
            old = stored.get(file.path)
            if old is None or old.size != file.size:
                continue
            if old.mtime == file.mtime:
                unchanged.add(file.path)
            else:
                same_size.append(file)
        touched = [f for f in _hashed(same_size) if f.digest and f.digest == stored[f.path].digest]
        if touched:
            self.store.touch(touched)
        return unchanged | {file.path for file in touched}

    def _moved(self, files: Sequence[File], stored: Mapping[str, File]) -> set[str]:
        """Paths of the new files with the content of one in the index: they get all that is stored
        of it. The entries of files that are gone are dropped."""
        sizes = {file.size for file in stored.values() if file.digest}
        candidates = [f for f in files if f.path not in stored and f.size in sizes]
        path_by_digest = {file.digest: file.path for file in stored.values() if file.digest}
        pairs = [
            (file, path_by_digest[file.digest])
            for file in _hashed(candidates)
            if file.digest in path_by_digest
        ]
        if pairs:
            _copy_rows(self.store, pairs)
            self.store.delete(sorted({old for _, old in pairs if members.gone(old)}))
        return {file.path for file, _ in pairs}

    def _embed(
        self,
        todo: Sequence[File],
        listing: Listing,
        stored: Collection[str],
        failed_before: Collection[str],
    ) -> int:
        """Embed and commit; returns how many failed. Entries in `stored` whose files cannot be read
        any more are dropped. failed_before: paths of the files that failed in an earlier run."""
        if self.embed_remotely and todo:
            batches = self.embed_remotely(todo, listing, self._commit_size(len(stored)))
        else:
            batches = self.embed_here(todo, listing, len(stored))
        failed = 0
        for files, errors in batches:
            if self.store.exists():
                self.store.compact()
            self._record_errors(files, errors, stored, failed_before)
            failed += len(errors)
        return failed

    def embed_here(
        self, todo: Sequence[File], listing: Listing, table_rows: int = 0
    ) -> Iterator[Batch]:
        """Embed and commit in this process."""
        opener = self.model.opener
        reader = Reader(
            opener.stretch,
            opener.max_pixels,
            opener.urls,
            opener.exact,
            self.thumbnails,
            listing.readers,
        )
        results = replace(self.model, opener=reader).embed_each(file.path for file in todo)
        done = 0
        while done < len(todo):
            files = list(todo[done : done + self._commit_size(table_rows + done)])
            embedded: list[File] = []
            vectors: list[Vector] = []
            errors: list[ImageError] = []
            for file, (_, result) in zip(files, islice(results, len(files)), strict=True):
                if isinstance(result, ImageError):
                    errors.append(result)
                else:
                    embedded.append(file)
                    vectors.append(result)
                done += 1
                if self.progress:
                    self.progress(done, len(todo))
            if embedded:
                if not self.store.exists():
                    self.create_table()
                rows, model = np.stack(vectors), self.model.fingerprint
                self.store.put(_hashed(embedded), rows, reader.seen, model)
            yield files, errors
            for file in files:
                reader.seen.pop(file.path, None)

    def _commit_size(self, table_rows: int) -> int:
        """How many files the next commit has."""
        return self.batch or max(BATCH, min(MAX_BATCH, table_rows // SHARE))

    def _record_errors(
        self,
        files: Sequence[File],
        errors: Sequence[ImageError],
        stored: Collection[str],
        failed_before: Collection[str],
    ) -> None:
        """Store the errors of a batch, and forget those of files that can be read now."""
        self.failed += errors
        reasons = {error.image: error.reason for error in errors}
        self._unsaved_failures += [
            Failure(file.path, file.size, file.mtime, reasons[file.path])
            for file in files
            if file.path in reasons
        ]
        if not self.store.exists():  # no index is made for files that all failed
            return
        self.store.delete([error.image for error in errors if error.image in stored])
        mended = [f.path for f in files if f.path in failed_before and f.path not in reasons]
        self.failures.change(self._unsaved_failures, mended)
        self._unsaved_failures = []

    def _store_columns(self, listing: Listing) -> None:
        """Store what tables and tars say of their images, where it is not stored yet."""
        if not listing.columns:
            return
        new = table_by_path(listing.columns, [file.path for file in listing.files])
        stored = self.store.values(new.schema.names)
        self.store.update(new.filter(changed_rows(new, stored)))


def _hashed(files: Sequence[File]) -> list[File]:
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return list(pool.map(hashed, files))


def _copy_rows(store: Store, pairs: Sequence[tuple[File, str]]) -> None:
    """Store for each file all that is stored for a path. pairs: (file, path)."""
    for start in range(0, len(pairs), COPY_BATCH):
        batch = pairs[start : start + COPY_BATCH]
        old_rows = store.full_rows(sorted({old for _, old in batch}))
        store.put_rows(rows_for_new_paths(old_rows, batch))
