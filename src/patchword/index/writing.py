"""What changes an index: images are added, put, described and removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.data.rows import advice
from patchword.errors import ImageError, IndexStoreError
from patchword.fingerprint import renewed
from patchword.images.files import File, Path, several
from patchword.index import imports, members, metadata, putting
from patchword.index.adding import Adding, AddReport, Batch, Progress
from patchword.index.contents import Stored
from patchword.index.repair import Repaired, repair
from patchword.index.sources import Listing, listing
from patchword.options import checked


class Writing(Stored):
    """An index that is written."""

    @checked
    def add(
        self,
        paths: Path | Iterable[Path],
        model: Bundle,
        progress: Progress | None = None,
        *,
        batch: int | None = None,
        thumbnails: bool = True,
        retry: bool = False,
        reindex: bool = False,
        ray: str | None = None,
    ) -> AddReport:
        """Embed what is new or changed: files, the pictures in folders and in theirs, those at
        s3://bucket/folder, those in tars (.tar, .tar.gz), and those that the rows of tables (.csv,
        .tsv, .parquet) name or hold.

        In a folder or tar a picture is known by its suffix; a file named itself is always tried. A
        file is unchanged when its size and modification time are what they were, or its size and
        content. One that was moved keeps its vector, known by its content. What a table says of its
        images, in its other columns, and a tar, in .txt and .json beside them, is stored too.

        progress(done, total) counts the files to embed. Files that cannot be read are reported and
        everything else is indexed; one that could be read before is dropped. They are not tried
        again before they change, but with `retry`. batch: files in one commit; by default 128, and
        more in a large index. thumbnails: store a JPEG of 256 pixels of each. reindex: begin anew,
        whatever there is. ray: the cluster that embeds them, "auto", "local" or an address, see
        `cluster`; all its machines must see the files, the index, and the model by its name.
        Raises IndexStoreError when the index is another model's.
        """
        model = renewed(model)
        if not reindex and self._store.open():
            self._check(model)
        failed: list[ImageError] = []
        found = listing(several(paths), failed)
        if reindex and not found.files:  # a name that was mistyped costs nothing
            return AddReport(0, 0, failed)
        if reindex:
            self._store.clear()
        run = Adding(
            self._store, self._failures, model, lambda: self._create(model), progress, batch,
            thumbnails, retry, failed,
        )  # fmt: skip
        report = run.run(found) if ray is None else self._run_on(ray, run, found)
        self._model = model
        return report

    def _run_on(self, address: str, run: Adding, found: Listing) -> AddReport:
        """Add the files of a listing on a cluster. The table is there from the beginning, so that
        its workers can see that it is the same; what stays empty goes again."""
        from patchword.index import cluster

        if self._load is None:
            raise IndexStoreError("to add on a cluster, open the index by patchword.open_index")
        load, new = self._load, not self._store.open()

        def elsewhere(todo: Sequence[File], found: Listing, size: int) -> Iterator[Batch]:
            if new:
                self._create(run.model)
            job = cluster.job_of(run, load, self._store.about)
            return cluster.embedded(address, job, todo, found, size, run.progress)

        run.elsewhere = elsewhere
        try:
            return run.run(found)
        finally:
            if new and self._store.open() and not len(self):
                self._store.clear()

    @checked
    def put(
        self,
        paths: Sequence[Path],
        vectors: NDArray[Any],
        model: Bundle | None = None,
        columns: Any = None,
    ) -> int:
        """Store vectors (N, D) that were made elsewhere for N paths, or addresses on the web or in
        object storage; rows of the same paths are replaced. They need not have length 1, nor the
        files be there.

        model: the one that made them, which may be left out where an index is there; eight of the
        files that are there are embedded and compared. columns: a pyarrow.Table, or {name: values},
        of N rows to store too. Returns how many of the files are there. Raises IndexStoreError, and
        stores nothing, for a path named twice, a vector that is 0 or not finite, values that do not
        fit a column that is there, and for vectors of another model.
        """
        import pyarrow as pa  # type: ignore[import-untyped]

        try:
            numbers = np.asarray(vectors)
        except (TypeError, ValueError, RuntimeError) as error:  # lists in lists; a tensor elsewhere
            raise IndexStoreError(f"vectors are floats (N, D); these are none: {error}") from error
        if columns is not None and not isinstance(columns, pa.Table):
            columns = metadata.table_of(columns, len(paths))
        return self._put(paths, numbers, model, columns)

    def _put(
        self,
        paths: Sequence[Path],
        vectors: Any,
        model: Bundle | None,
        columns: Any,
        reindex: bool = False,
    ) -> int:
        putting.check_form(vectors, paths)
        exists = not reindex and self._store.open()
        if exists and vectors.shape[1] != self.dim:
            raise IndexStoreError(
                f"{self.path}: holds vectors of {self.dim} numbers, and these have "
                f"{vectors.shape[1]}"
            )
        if model is None and not exists:
            raise IndexStoreError("name the model that made the vectors: model=load(NAME)")
        if model is not None:
            model = renewed(model)
            if exists:
                self._check(model)
            putting.check_model(model, paths, vectors)
            self._model = model
        files, told = putting.ready(paths, vectors, columns)
        if reindex:
            self._store.clear()
        about = {} if model is None else _about(model)
        return putting.put(self._store, files, vectors, told, about)

    @checked
    def take_over(self, folder: Path, model: Bundle, *, reindex: bool = False) -> int:
        """Store the vectors and metadata that clip-retrieval or autofaiss wrote into a folder
        (img_emb/img_emb_*.npy, metadata/metadata_*.parquet), which `model` made. Returns how many.
        reindex: begin anew, whatever there is.
        """
        import pyarrow as pa

        parts = imports.parts(folder)
        if not parts:
            raise IndexStoreError(f"{folder}: no img_emb_*.npy in it, nor in its folder img_emb")
        paths = [path for part in parts for path in part.paths]
        vectors = imports.Joined([part.vectors for part in parts])
        columns = [part.columns for part in parts]
        try:
            told = pa.concat_tables(columns, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise IndexStoreError(f"{folder}: its metadata files do not fit: {error}") from error
        self._put(paths, vectors, model, told, reindex)
        return len(paths)

    @checked
    def describe(self, table: Path) -> list[str]:
        """Store the columns of a table (.csv, .tsv, .parquet) for the images that its column of
        paths or file names names. Returns a line for each row that names none here, or several:
        its name, and why. Raises IndexStoreError for a table without such a column."""
        name = os.path.realpath(table)
        if not members.is_table(name):
            wanted = "a .csv, .tsv or .parquet that is there"
            raise IndexStoreError(f"{table}: not a table, {wanted}{advice(table)}")
        read = metadata.read_table(name)
        key = metadata.key_of(read, members.PLACES, str(table))
        known = self._store.known()
        rows, lost = metadata.joined(read, key, os.path.dirname(name), known)
        self._store.update(rows)
        self._store.compact()
        return lost

    @checked
    def fill(self, paths: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
        """Store values of columns, {name: N values}, for the rows of N paths. Columns that are new
        are added; paths that have no row are passed over."""

        found = metadata.columns_of(metadata.table_of(columns, len(paths)))
        self._store.update(metadata.with_path(paths, found))
        self._store.compact()

    @checked
    def remove(self, paths: Path | Iterable[Path]) -> int:
        """Drop files, and everything below folders and inside tars. Returns how many entries that
        were."""
        targets = {
            name.rstrip("/") if members.is_address(name) else os.path.realpath(name)
            for name in [os.fspath(path) for path in several(paths)]
        }
        below = tuple(os.path.join(target, "") for target in targets)
        known = self._store.known()
        return self._drop([path for path in known if path in targets or path.startswith(below)])

    @checked
    def prune(self) -> list[str]:
        """Drop the entries whose files are gone. Returns their paths."""
        lost = self.gone()
        self._drop(lost)
        self._failures.change([], [path for path in self._failures.known() if members.gone(path)])
        return lost

    @checked
    def repair(self) -> Repaired:
        """Make a damaged index one of its whole rows; returns how many were kept, and of how many.
        What was lost is embedded again when its files are added."""
        self._store.close()
        return repair(self.path)

    def _drop(self, paths: Sequence[str]) -> int:
        self._store.delete(paths)
        self._store.compact()
        return len(paths)

    def _create(self, model: Bundle) -> None:
        """An empty table that remembers the model; unless another process just made one."""
        self._store.create(model.dim, _about(model))
        self._check(model)

    @checked
    def check(self, model: Bundle) -> None:
        """Raise IndexStoreError unless `model`, with its weights as they are now, made the vectors
        of the index."""
        self._check(renewed(model))

    def _check(self, model: Bundle) -> None:
        """The same, by the fingerprint that it has."""
        if model.fingerprint != self.fingerprint:
            same = model.name == self.model_name
            rather = "the weights and options that it was made with" if same else self.model_name
            raise IndexStoreError(
                f"{self.path}: holds vectors of {self.model_name} ({self.fingerprint}), which "
                f"cannot be compared with those of {model.name} ({model.fingerprint})"
                f"{', of other weights or options' * same}; use {rather}, index into another "
                "folder, or begin anew: --reindex (reindex=True)"
            )


def _about(model: Bundle) -> dict[str, Any]:
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "options": dict(model.options),
    }
