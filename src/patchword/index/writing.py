"""The methods of an index that change it: images are added, put, described and removed."""

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
from patchword.index.contents import IndexReader
from patchword.index.repair import Repaired, repair
from patchword.index.sources import Listing, listing
from patchword.options import checked


class IndexWriter(IndexReader):
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
        if not reindex and self._store.exists():
            self._check(model)
        failed: list[ImageError] = []
        listed = listing(several(paths), failed)
        if reindex and not listed.files:  # a mistyped name deletes nothing
            return AddReport(0, 0, failed)
        if reindex:
            self._store.clear()
        adding = Adding(
            self._store,
            self._failures,
            model,
            create_table=lambda: self._create(model),
            progress=progress,
            batch=batch,
            thumbnails=thumbnails,
            retry=retry,
            failed=failed,
        )
        report = adding.run(listed) if ray is None else self._add_on_cluster(ray, adding, listed)
        self._model = model
        return report

    def _add_on_cluster(self, address: str, adding: Adding, listed: Listing) -> AddReport:
        """Add the files of a listing on a Ray cluster. The table is created before the workers
        start: they check that they see the same table. It is deleted if it stays empty."""
        from patchword.index import cluster

        if self._load is None:
            raise IndexStoreError("to add on a cluster, open the index by patchword.open_index")
        load, new = self._load, not self._store.exists()

        def embed_remotely(todo: Sequence[File], listed: Listing, size: int) -> Iterator[Batch]:
            if new:
                self._create(adding.model)
            job = cluster.make_job(adding, load, self._store.metadata)
            return cluster.embed(address, job, todo, listed, size, adding.progress)

        adding.embed_remotely = embed_remotely
        try:
            return adding.run(listed)
        finally:
            if new and self._store.exists() and not len(self):
                self._store.clear()

    @checked
    def put(
        self,
        paths: Sequence[Path],
        vectors: NDArray[Any],
        model: Bundle | None = None,
        columns: Any = None,
    ) -> int:
        """Store vectors (N, D) that another program made, for N paths, or addresses on the web or
        in object storage. Rows of the same paths are replaced. The vectors need not have length 1,
        and the files need not exist.

        model: the one that made the vectors, optional where the index exists; up to eight of the
        files that exist are embedded and compared. columns: a pyarrow.Table, or {name: values}, of
        N rows to store too. Returns how many of the files exist. Raises IndexStoreError, and stores
        nothing, for a path named twice, a vector that is 0 or not finite, values that do not fit
        the type of a column, and for vectors of another model.
        """
        import pyarrow as pa  # type: ignore[import-untyped]

        try:
            numbers = np.asarray(vectors)
        except (TypeError, ValueError, RuntimeError) as error:  # lists in lists; a tensor elsewhere
            raise IndexStoreError(f"vectors are floats (N, D); these are none: {error}") from error
        if columns is not None and not isinstance(columns, pa.Table):
            columns = metadata.to_table(columns, len(paths))
        return self._put(paths, numbers, model, columns)

    def _put(
        self,
        paths: Sequence[Path],
        vectors: Any,
        model: Bundle | None,
        columns: Any,
        reindex: bool = False,
    ) -> int:
        putting.check_shape(vectors, paths)
        exists = not reindex and self._store.exists()
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
        files, columns = putting.prepare(paths, vectors, columns)
        if reindex:
            self._store.clear()
        table_metadata = {} if model is None else _model_metadata(model)
        return putting.put(self._store, files, vectors, columns, table_metadata)

    @checked
    def take_over(self, folder: Path, model: Bundle, *, reindex: bool = False) -> int:
        """Store the vectors and metadata that clip-retrieval or autofaiss wrote into a folder
        (img_emb/img_emb_*.npy, metadata/metadata_*.parquet), which `model` made. Returns how many.
        reindex: begin anew, whatever there is.
        """
        import pyarrow as pa

        parts = imports.read_parts(folder)
        if not parts:
            raise IndexStoreError(f"{folder}: no img_emb_*.npy in it, nor in its folder img_emb")
        paths = [path for part in parts for path in part.paths]
        vectors = imports.ConcatenatedVectors([part.vectors for part in parts])
        tables = [part.columns for part in parts]
        try:
            columns = pa.concat_tables(tables, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise IndexStoreError(f"{folder}: its metadata files do not fit: {error}") from error
        self._put(paths, vectors, model, columns, reindex)
        return len(paths)

    @checked
    def describe(self, table: Path) -> list[str]:
        """Store the columns of a table (.csv, .tsv, .parquet) for the images that one of its
        columns names by path or file name. Returns a line for each row that matches no image of the
        index, or several: its name, and why. Raises IndexStoreError for a table without a column of
        names."""
        name = os.path.realpath(table)
        if not members.is_table(name):
            wanted = "a .csv, .tsv or .parquet that is there"
            raise IndexStoreError(f"{table}: not a table, {wanted}{advice(table)}")
        described = metadata.read_table(name)
        key = metadata.path_column(described, members.PLACES, str(table))
        stored = self._store.files()
        rows, unmatched = metadata.join(described, key, os.path.dirname(name), stored)
        self._store.update(rows)
        self._store.compact()
        return unmatched

    @checked
    def fill(self, paths: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
        """Store values of columns, {name: N values}, for the rows of N paths. Columns that are new
        are added; paths that have no row are passed over."""
        table = metadata.to_index_columns(metadata.to_table(columns, len(paths)))
        self._store.update(metadata.with_path(paths, table))
        self._store.compact()

    @checked
    def remove(self, paths: Path | Iterable[Path]) -> int:
        """Drop files, and everything below folders and inside tars. Returns how many entries were
        dropped."""
        targets = {
            name.rstrip("/") if members.is_address(name) else os.path.realpath(name)
            for name in [os.fspath(path) for path in several(paths)]
        }
        below = tuple(os.path.join(target, "") for target in targets)
        stored = self._store.files()
        return self._drop([path for path in stored if path in targets or path.startswith(below)])

    @checked
    def prune(self) -> list[str]:
        """Drop the entries whose files are gone. Returns their paths."""
        gone = self.gone()
        self._drop(gone)
        self._failures.change([], [path for path in self._failures.known() if members.gone(path)])
        return gone

    @checked
    def repair(self) -> Repaired:
        """Make a damaged index one of its undamaged rows. Returns how many were kept, and of how
        many. What was lost is embedded again when its files are added."""
        self._store.close()
        return repair(self.path)

    def _drop(self, paths: Sequence[str]) -> int:
        self._store.delete(paths)
        self._store.compact()
        return len(paths)

    def _create(self, model: Bundle) -> None:
        """Create an empty table for vectors of the model, unless another process just made one."""
        self._store.create(model.dim, _model_metadata(model))
        self._check(model)

    @checked
    def check(self, model: Bundle) -> None:
        """Raise IndexStoreError unless `model`, with its weights as they are now, made the vectors
        of the index."""
        self._check(renewed(model))

    def _check(self, model: Bundle) -> None:
        """The same, without computing the model's fingerprint anew."""
        if model.fingerprint == self.fingerprint:
            return
        if model.name == self.model_name:
            difference = ", of other weights or options"
            wanted = "the weights and options that it was made with"
        else:
            difference, wanted = "", self.model_name
        raise IndexStoreError(
            f"{self.path}: holds vectors of {self.model_name} ({self.fingerprint}), which "
            f"cannot be compared with those of {model.name} ({model.fingerprint}){difference}; "
            f"use {wanted}, index into another folder, or begin anew: --reindex (reindex=True)"
        )


def _model_metadata(model: Bundle) -> dict[str, Any]:
    return {"model": model.name, "fingerprint": model.fingerprint, "options": dict(model.options)}
