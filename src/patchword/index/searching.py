"""The methods of an index that search it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.errors import IndexStoreError, PatchwordError, in_threads
from patchword.fingerprint import renewed
from patchword.images import ImageLike
from patchword.images.files import Path
from patchword.index.approximate import Recall
from patchword.index.common_labels import COMMON_LABELS
from patchword.index.nearest import Explained, Hit, Nearest
from patchword.index.query import WITHOUT, as_array, combined, texts_of, unit
from patchword.index.writing import IndexWriter
from patchword.options import at_least, checked, text_list
from patchword.scope import warn_of_stored


def warn_of_hits(model: Bundle, hits: Iterable[Hit]) -> None:
    """Warn of hits that are unlike the images that the model was trained on."""
    warn_of_stored(model.name, model.scope, {hit.path: hit.outside for hit in hits})


def warn_of_rows(index: IndexSearcher, model: Bundle, ids: Sequence[int]) -> None:
    """`warn_of_hits` for rows of an index, given by their ids."""
    if model.scope is not None and ids:
        rows = index.rows(ids, ["path", "vector"])
        outside = model.scope.outside(np.array([row["vector"] for row in rows], np.float32))
        paths = [row["path"] for row in rows]
        warn_of_stored(model.name, model.scope, dict(zip(paths, outside, strict=True)))


class IndexSearcher(IndexWriter):
    """An index that is searched."""

    def __init__(
        self,
        path: Path,
        load: Callable[..., Bundle] | None = None,
        load_for_texts: Callable[..., Bundle] | None = None,
    ) -> None:
        super().__init__(path, load, load_for_texts)
        self._nearest = Nearest(self._store)

    @checked
    def search(
        self,
        query: str | NDArray[Any] | None = None,
        k: int = 10,
        *,
        offset: int = 0,
        image: ImageLike | None = None,
        without: str | Sequence[str] = (),
        text_weight: float = 1.0,
        image_weight: float = 1.0,
        without_weight: float = WITHOUT,
        where: str | None = None,
        exact: bool = False,
        model: Bundle | None = None,
        long_text: str = "truncate",
    ) -> list[Hit]:
        """The k entries nearest to a text or a vector (D,), an image, or both, best first, equal
        scores by path, after the first `offset` of them.

        without       what is not wanted, in words
        ..._weight    weights of the unit vectors of the text, of the image, and of the mean of
                      `without`, which is subtracted: by half, because all texts share a part of
                      their vectors. Each score is the cosine with the sum
        where         a condition in SQL on columns of the index (`columns`), such as
                      "path LIKE '%wafer%' AND modified >= date '2026-01-01' AND width > 640"
        exact         compare every vector, also in an index that is so large that an approximate
                      search was built; `explain` says which it is
        model         the one that made the index; by default the one last used here, else the one
                      that `load` opens by its name
        long_text     of a query beyond the model's context, see `Bundle.embed_texts`

        Raises IndexStoreError, ImageError, and UnsupportedError for a text without a text tower.
        """
        at_least("k", k)
        at_least("offset", offset, 0)
        searcher = self._searcher(model, texts_alone=image is None)
        weights = text_weight, image_weight, without_weight
        others = text_list(without)
        unit = combined(searcher, query, image, others, weights, long_text)
        return self._search(searcher, unit[None], k, where, offset, exact)[0]

    @checked
    def search_many(
        self,
        queries: Sequence[str] | NDArray[Any],
        k: int = 10,
        *,
        offset: int = 0,
        where: str | None = None,
        exact: bool = False,
        model: Bundle | None = None,
        long_text: str = "truncate",
    ) -> list[list[Hit]]:
        """For each of Q texts, or of the rows of an array (Q, D), what `search` finds."""
        at_least("k", k)
        at_least("offset", offset, 0)
        searcher = self._searcher(model, texts_alone=True)
        if isinstance(queries, np.ndarray) and queries.dtype.kind in "fiu" and queries.ndim:
            vectors = queries
        else:
            texts: Any = queries  # an array of texts too
            vectors = searcher.embed_texts(texts_of(texts), long_text=long_text)
        units = [unit(as_array(vector), searcher.dim) for vector in vectors]
        if not units:
            return []
        return self._search(searcher, np.stack(units), k, where, offset, exact)

    def _search(
        self,
        model: Bundle,
        queries: NDArray[np.float64],
        k: int,
        where: str | None,
        offset: int,
        exact: bool,
    ) -> list[list[Hit]]:
        answers = self._nearest.find(
            queries, k, where, offset, exact, model.scope, model.fingerprint
        )
        warn_of_hits(model, (hit for hits in answers for hit in hits))
        return answers

    @checked
    def count(self, where: str) -> int:
        """How many entries meet a condition, see `search`. Raises IndexStoreError."""
        return self._nearest.count(where)

    @checked
    def explain(self, k: int = 10, *, where: str | None = None, exact: bool = False) -> Explained:
        """How `search` searches with these options, and why; of an approximate search, what share
        of the true 10 nearest it found when it was measured."""
        at_least("k", k)
        return self._nearest.explain(where, k, exact)

    def approximate_due(self) -> bool:
        """Whether the index is so large that `build_approximate` is worth its time, or has grown
        much since it was last called."""
        return self._nearest.due()

    @checked
    def build_approximate(self, model: Bundle | None = None) -> Recall:
        """Make searches of a large index approximate, or update what they read. Rows that are added
        later are found too. For 1,000,000 vectors of 512 numbers this takes a minute.

        Returns the recall, measured with stored images and with texts. model: embeds these texts,
        if it can; None: their vectors are random.
        """
        texts = None
        if model is not None and model.config.embed_dim:
            self.check(model)
            texts = model.embed_texts([f"a photo of a {name}" for name in COMMON_LABELS])
        return self._nearest.build(texts)

    def read_ahead(self) -> None:
        """Read what searches need in a thread, for example while the model is loaded. Errors are
        not raised here: they come again in a search."""

        def read(nearest: Nearest) -> None:
            with suppress(PatchwordError):
                nearest.on_rows(lambda table, matrix, rows: None)

        Thread(target=in_threads(read), args=(self._nearest,), daemon=True).start()

    def _searcher(self, model: Bundle | None, texts_alone: bool = False) -> Bundle:
        """The model that embeds queries. texts_alone: the queries are texts or vectors, no
        images."""
        searcher = model or self._model or (self._text_model if texts_alone else None)
        if searcher is None:
            searcher = self._load_model(self._load_for_texts if texts_alone else self._load)
        searcher = renewed(searcher)
        self._check(searcher)
        self._text_model = searcher
        if model or not texts_alone:
            self._model = searcher
        return searcher

    def _load_model(self, load: Callable[..., Bundle] | None) -> Bundle:
        """The model that made the index."""
        name, options = self.model_name, self.options
        if load is None:
            raise IndexStoreError(f"{self.path}: made by {name}; pass model=load({name!r})")
        self.read_ahead()
        return load(name, **options)
