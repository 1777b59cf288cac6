"""The index: a folder that stores the vector of every image that was added.

Files are embedded batch by batch, and every batch is one atomic commit: a process killed at any
moment loses at most the batch it was working on, and adding again continues where it stopped.

Paths are stored absolute with symbolic links resolved: the index may be moved while the pictures
stay. Pictures that were moved are recognised by their content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images.files import Path
from patchword.index import explore, tags
from patchword.index.adding import Progress
from patchword.index.duplicates import KEEP, Group, find_groups
from patchword.index.explore import Cluster, Named
from patchword.index.searching import IndexSearcher, warn_of_hits
from patchword.options import at_least, checked, in_range, nearest, text_list


def open_index(
    path: Path,
    load: Callable[..., Bundle] | None = None,
    load_for_texts: Callable[..., Bundle] | None = None,
) -> Index:
    """The index in the folder `path`, which need not exist before something is added.

    load: loads a model by the name and the options that the index stores, for searches without
    `model`. load_for_texts: loads one that only embeds texts, by default the same.
    """
    return Index(path, load, load_for_texts)


class Index(IndexSearcher):
    """Vectors of picture files, made by one model.

    Several processes may add and search at once; every search sees the newest commit. Each method
    raises IndexStoreError where the folder cannot be read or written or, but for `add` and `len`,
    holds no index.
    """

    @checked
    def duplicates(
        self,
        threshold: float | None = None,
        *,
        keep: str = "largest",
        where: str | None = None,
        progress: Progress | None = None,
        seconds: float | None = None,
    ) -> list[Group]:
        """Groups of near-duplicates, the largest first: one to keep, and its copies: the same
        photo resized, compressed again, or cropped by a few percent.

        threshold  None: the stored thumbnails are compared, whatever the model; a number: a group
                   has all entries whose cosine with the one to keep is at least this, copies or not
        keep       which entry of a group to keep: the "largest" (pixels, then bytes), the "oldest",
                   or the "first" by path
        where      a condition, see `search`: only entries that meet it are compared
        progress   is called with (done, total) of the entries
        seconds    a time limit: the groups found until then are returned, with a SampledWarning;
                   None: no limit

        Every entry that may be kept is compared with all others; above 100,000 entries, with those
        in neighbouring parts of the index, which misses few. Nothing is deleted. Raises
        IndexStoreError.
        """
        if keep not in KEEP:
            raise UnsupportedError(
                f"keep is {keep!r}{nearest(keep, KEEP)}; there are {', '.join(KEEP)}"
            )
        if seconds is not None:
            in_range("seconds", seconds, 0, above=True)
        if threshold is not None and not 0 < threshold <= 1:
            raise UnsupportedError(f"threshold is {threshold}; it must be above 0, and at most 1")
        return self._nearest.on_rows(
            lambda table, matrix, rows: find_groups(
                table, matrix, rows, threshold, keep, progress, seconds
            ),
            where,
        )

    @checked
    def explore(
        self,
        clusters: int | None = None,
        *,
        words: Sequence[str] | Named | None = None,
        examples: int = 12,
        where: str | None = None,
        model: Bundle | None = None,
    ) -> list[Cluster]:
        """Clusters of similar entries, the largest first, each named by the word that fits it
        clearly better than the others; where there is none, after one of its files.

        clusters  how many at most; None: the square root of half the entries, from 2 to 64
        words     candidates for the names; None: what photos often show, or what a model says it
                  knows; Named: what `patchword.index.explore.named` returned
        examples  how many entries of each cluster are returned, those nearest to its centre
        where, model  see `search`

        Raises IndexStoreError.
        """
        if clusters is not None:
            at_least("clusters", clusters)
        at_least("examples", examples)
        searcher = self._searcher(model, texts_alone=True)
        if isinstance(words, Named):
            names: Named | None = words
        else:
            names = explore.named(searcher, None if words is None else text_list(words))
        result: list[Cluster] = self._nearest.on_rows(
            lambda table, matrix, rows: explore.clusters(
                table, matrix, rows, clusters, examples, names, searcher
            ),
            where,
            searcher.fingerprint,
        )
        warn_of_hits(searcher, (hit for cluster in result for hit in cluster.examples))
        return result

    @checked
    def tag(
        self,
        choose: Callable[[NDArray[np.float32]], Sequence[str]],
        *,
        where: str | None = None,
        store: bool = True,
        progress: Progress | None = None,
    ) -> dict[str, list[str]]:
        """Choose tags for each entry from its unit vector (D,). Returns them by path, and stores
        them in the column `tags`, replacing earlier ones, unless `store` is False.

        choose    for example from the scores of `tasks.classify.scorer`
        where     see `search`: only entries that meet it are tagged
        progress  is called with (done, total)
        """
        chosen: dict[str, list[str]] = self._nearest.on_rows(
            lambda table, matrix, rows: tags.choose_all(table, matrix, rows, choose, progress),
            where,
        )
        if store and chosen:
            self._store.update(tags.to_table(chosen))
            self._store.compact()
        return chosen
