"""The plan of samples: each once in an epoch, sources with their shares, the same everywhere."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from patchword.data import Plan, positives
from patchword.errors import RecipeError


def samples_in_order(plan: Plan, steps: range, source: int = 0) -> list[int]:
    """The samples of a source in these steps, by position."""
    places = [place for step in steps for place in plan.at(step) if place[0] == source]
    places.sort(key=lambda place: place[1])
    assert [position for _, position, _ in places] == list(range(len(places)))
    return [sample for _, _, sample in places]


@pytest.mark.parametrize(("length", "batch"), [(40, 8), (7, 16), (1, 3), (33, 8)])
def test_every_epoch_holds_every_sample_once(length: int, batch: int) -> None:
    seen = samples_in_order(Plan([length], [2.0], batch, 0), range(-(-3 * length // batch)))
    epochs = [seen[i : i + length] for i in range(0, 3 * length, length)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 5:
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_orders_are_of_the_seed_and_the_source() -> None:
    plans = [Plan([50, 50], [1, 1], 100, seed) for seed in (0, 0, 1)]
    orders = [[samples_in_order(plan, range(1), source) for source in (0, 1)] for plan in plans]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in chain(*orders)}) == 4


def test_a_step_does_not_depend_on_those_before() -> None:
    plan, other = (Plan([30, 11, 500], [0.5, 0.2, 0.3], 16, 5) for _ in range(2))
    steps = [plan.at(step) for step in range(40)]
    assert [other.at(step) for step in (39, 3, 17)] == [steps[step] for step in (39, 3, 17)]


def test_a_step_is_shuffled() -> None:
    """So a process with a slice of the batch has samples of every source."""
    plan = Plan([1000, 1000], [1, 1], 64, 0)
    halves = [[place[0] for place in plan.at(step)[:32]] for step in range(20)]
    assert all(5 < sum(half) < 27 for half in halves)
    assert len({tuple(half) for half in halves}) == 20


@pytest.mark.parametrize(
    ("shares", "batch"),
    [
        ([1.0], 4),
        ([0.99, 0.01], 8),
        ([0.01, 0.99], 8),
        ([0.34, 0.33, 0.33], 1),
        ([0.1] * 10, 3),
        ([5, 0.01, 0.02, 1e-3, 2], 7),
    ],
)
def test_shares_are_kept(shares: list[float], batch: int) -> None:
    """Every step is full. Of all samples each source has its share, up to rounding: once for
    itself, and once for each source with a smaller share."""
    plan = Plan([97] * len(shares), shares, batch, 0)
    total = np.zeros(len(shares))
    for step in range(1500):
        before, after = plan.counts_before(step), plan.counts_before(step + 1)
        counts = np.subtract(after, before)
        assert counts.min() >= 0
        assert counts.sum() == batch
        if step < 50:
            counted = Counter(place[0] for place in plan.at(step))
            assert [counted[source] for source in range(len(shares))] == counts.tolist()
        total += counts
        ideal = np.array(shares) / sum(shares) * (step + 1) * batch
        assert np.abs(total - ideal).max() <= len(shares)
    assert total.min() > 0


def test_a_hundredth_is_a_hundredth() -> None:
    plan = Plan([1000, 10], [0.99, 0.01], 10, 0)
    steps = [step for step in range(1000) if any(place[0] == 1 for place in plan.at(step))]
    assert len(steps) == 100
    assert set(np.diff(steps)) == {10}


def test_streams_differ() -> None:
    plan = Plan([1000], [1], 64, 3)
    places = plan.at(0) + plan.at(1)
    values = {plan.rng(place).random() for place in places}
    spares = {plan.spare(place, attempt).sample for place in places for attempt in (1, 2, 3)}
    assert len(values) == len(places)
    assert len(spares) > 250
    assert plan.spare(places[0], 1) == plan.spare(places[0], 1)
    assert plan.spare(places[0], 1)[:2] == places[0][:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 1, 0), "no data"),
        (([0], [1], 1, 0), "no data"),
        (([3], [0], 1, 0), "above 0"),
        (([3, 3], [1, -1], 1, 0), "above 0"),
        (([3], [float("inf")], 1, 0), "above 0"),
        (([3], [float("nan")], 1, 0), "above 0"),
        (([3], [1], 0, 0), "batch is 0"),
        (([3], [1], 1, -1), "seed -1"),
    ],
)
def test_plans_that_make_no_sense(arguments: tuple, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Plan(*arguments)


# Positives


def test_positives_as_subsets() -> None:
    """Against the definition, for the whole batch and for a part of its rows."""
    rng = np.random.default_rng(0)

    def facts(most: int) -> frozenset[str]:
        return frozenset(map(str, rng.integers(0, 8, rng.integers(0, most)).tolist()))

    images = [facts(9) for _ in range(30)]
    captions = [facts(3) for _ in range(30)]
    expected = np.array([[text <= image for text in captions] for image in images])
    assert 0.1 < expected.mean() < 0.9
    assert not expected.diagonal().all()
    expected_with_own = expected | np.eye(30, dtype=bool)
    assert (positives(captions, images) == expected_with_own).all()
    assert (positives(captions, images[10:20], 10) == expected_with_own[10:20]).all()
