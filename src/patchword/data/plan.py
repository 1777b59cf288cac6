"""Which samples are in the batch of each step, computed from seed and step alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.errors import RecipeError

# First numbers of the random streams, so that no two streams are the same.
_ORDER, _SAMPLE, _SPARE, _SHUFFLE = range(4)


class Place(NamedTuple):
    """One place in a batch."""

    source: int
    position: int  # number of earlier samples of that source, over all epochs
    sample: int  # its number in the source


class Plan:
    """The samples of every step: a function of (seed, step) alone, the same in every process.

    After any number of steps each source has given its share of the samples, to within about one
    sample, however small the share is. Every epoch of a source has all its samples in a new order.
    Raises RecipeError for a batch, seed, share or length that makes no sense.
    """

    def __init__(
        self, lengths: Sequence[int], shares: Sequence[float], batch: int, seed: int
    ) -> None:
        if not lengths or min(lengths) < 1:
            raise RecipeError("no data: give one [[data]] or more, with a sample or more each")
        if len(lengths) != len(shares) or not all(0 < share < np.inf for share in shares):
            raise RecipeError(f"data.share is {list(shares)}; each source needs one above 0")
        if batch < 1 or seed < 0:
            raise RecipeError(f"batch is {batch} and seed {seed}; at least 1 and 0 are needed")
        self.lengths = tuple(lengths)
        self.batch = batch
        self.seed = seed
        self._shares = [Fraction(str(share)) for share in shares]
        # The source with the largest share comes last and gets the rest.
        self._by_share = sorted(range(len(shares)), key=lambda k: (self._shares[k], k))
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def counts_before(self, step: int) -> list[int]:
        """The number of samples of each source before that step."""
        left, total = step * self.batch, sum(self._shares)
        counts = [0] * len(self._shares)
        # floor(left * share / total) never decreases when `left` rises, and rises by one at most:
        # so no source has a negative number of samples in a step.
        for source in self._by_share:
            counts[source] = left * self._shares[source] // total
            left -= counts[source]
            total -= self._shares[source]
        return counts

    def at(self, step: int) -> list[Place]:
        """The `batch` places of a step, shuffled."""
        places = []
        before, after = self.counts_before(step), self.counts_before(step + 1)
        for source, length in enumerate(self.lengths):
            for position in range(before[source], after[source]):
                epoch, index = divmod(position, length)
                sample = int(self._order(source, epoch)[index])
                places.append(Place(source, position, sample))
        shuffled = self._rng(_SHUFFLE, step).permutation(len(places))
        return [places[i] for i in shuffled.tolist()]

    def rng(self, place: Place) -> np.random.Generator:
        """The random numbers of the sample at a place."""
        return self._rng(_SAMPLE, place.source, place.position)

    def spare(self, place: Place, attempt: int) -> Place:
        """A replacement, after `attempt` samples at this place that could not be used."""
        rng = self._rng(_SPARE, place.source, place.position, attempt)
        return place._replace(sample=int(rng.integers(self.lengths[place.source])))

    def _order(self, source: int, epoch: int) -> NDArray[np.int64]:
        """The order of a source's samples in an epoch. The last order of each source is cached."""
        cached = self._orders.get(source)
        if cached is None or cached[0] != epoch:
            order = self._rng(_ORDER, source, epoch).permutation(self.lengths[source])
            cached = self._orders[source] = (epoch, order)
        return cached[1]

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])
