"""Metrics of anomaly maps, computed by hand and by scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from patchword.errors import PatchwordError
from patchword.evaluate.anomaly_metrics import (
    aupimo,
    aupro,
    auroc,
    auspro,
    average_precision,
    f1_max,
    pro_curve,
)
from patchword.evaluate.defect_masks import Defect


@pytest.mark.parametrize("levels", [3, 50, 100_000])
def test_metrics_of_scores_are_those_of_scikit_learn(levels: int) -> None:
    rng = np.random.default_rng(levels)
    bad = rng.random(400) < 0.3
    scores = np.floor((rng.random(400) + 0.4 * bad) * levels)
    assert_allclose(auroc(scores, bad), roc_auc_score(bad, scores), rtol=1e-12)
    assert_allclose(
        average_precision(scores, bad), average_precision_score(bad, scores), rtol=1e-12
    )
    precision, recall, thresholds = precision_recall_curve(bad, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best, threshold = f1_max(scores, bad)
    assert_allclose(best, f1.max(), rtol=1e-12)
    assert threshold == thresholds[np.flatnonzero(f1[:-1] >= f1.max() - 1e-12)[-1]]


def test_f1_max_by_hand() -> None:
    scores, bad = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert f1_max(scores, bad) == (0.8, 0.7)
    assert auroc(scores, bad) == 0.75


def test_aupro_by_hand() -> None:
    """Regions of 1 and 2 pixels that touch at a corner, two pixels of background."""
    maps = [np.array([[5.0, 1.0, 4.0], [2.0, 3.0, 3.0]])]
    masks = [np.array([[1, 0, 0], [0, 1, 1]], bool)]
    false, actual = pro_curve(maps, masks, diagonal=False)
    assert_allclose(false, [0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert_allclose(actual, [0, 1 / 2, 1 / 2, 1, 1, 1])
    _, actual = pro_curve(maps, masks)  # one region of 3 pixels
    assert_allclose(actual, [0, 1 / 3, 1 / 3, 1, 1, 1])
    assert_allclose(aupro(maps, masks, 0.3, diagonal=False), 0.5)
    assert_allclose(aupro(maps, masks, 0.5, diagonal=False), (1 / 3 * 0.5 + 1 / 6) / 0.5)
    assert_allclose(aupro(maps, masks, 1.0, diagonal=False), 1 / 3 * 0.5 + 2 / 3)


def test_what_rises_at_the_limit_has_no_area() -> None:
    """The last good pixel is above two defects, which are found at a rate of 1."""
    scores = [np.array([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])]
    masks = [np.array([[True, False, True, False, True, True]])]
    assert_allclose(aupro(scores, masks, 1.0), (1 / 3 + 2 / 3) / 2)
    # One of two good pixels is above a defect.
    assert_allclose(aupro(scores, masks, 0.5), 1 / 3)


def test_aupro_up_to_a_limit_is_a_part_of_the_whole_curve() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((12, 17)) < 0.1, np.zeros((9, 8), bool)]  # sizes may differ
    for levels in (7, 10_000):
        maps = [np.round(rng.random(mask.shape) * levels) + mask for mask in masks]
        false, actual = pro_curve(maps, masks)
        short = pro_curve(maps, masks, 0.3)
        assert short[0][-2] < 0.3 <= short[0][-1]
        count = len(short[0])
        assert_allclose(short, (false[:count], actual[:count]), rtol=0, atol=0)


@pytest.mark.parametrize("levels", [6, 10_000])
def test_of_a_defect_so_much_is_enough(levels: int) -> None:
    """The saturated overlap by its formula, one threshold after the other; two defects of the
    first image lie over each other."""
    rng = np.random.default_rng(levels)
    masks = [rng.random((9, 11)) < 0.15 for _ in range(3)]
    maps = [np.floor(rng.random((9, 11)) * levels) for _ in range(3)]
    defects = [Defect(mask, enough) for mask, enough in zip(masks, (4, 2.5, 100), strict=True)]
    images = [masks[0] | masks[1], masks[2], np.zeros((9, 11), bool)]
    places = [0, 0, 1]
    false, actual = [0.0], [0.0]
    outside = np.concatenate([m[~mask] for m, mask in zip(maps, images, strict=True)])
    for threshold in np.unique(maps)[::-1]:
        overlaps = [
            min((maps[place] >= threshold)[each.mask].sum() / each.enough, 1)
            for place, each in zip(places, defects, strict=True)
        ]
        false.append(float((outside >= threshold).mean()))
        actual.append(float(np.mean(overlaps)))
    end = next(i for i, rate in enumerate(false) if rate >= 0.3)
    last = np.interp(0.3, false[end - 1 : end + 1], actual[end - 1 : end + 1])
    area = np.trapezoid([*actual[:end], last], [*false[:end], 0.3]) / 0.3
    own = [defects[:2], defects[2:], []]
    assert_allclose(auspro(maps, images, own, 0.3), area, rtol=1e-9)


def test_perfect_and_chance() -> None:
    mask = np.zeros((50, 50), bool)
    mask[10:20, 30:45] = True
    assert aupro([mask.astype(float)], [mask]) == 1
    assert_allclose(aupro([np.zeros((50, 50))], [mask]), 0.15)
    assert auroc(np.zeros(9), np.arange(9) < 4) == 0.5


def test_aupimo_by_hand() -> None:
    """Two good images of 10 pixels; the rates at thresholds 1 and 2 are 0.5 and 0.1, so that half
    of the logarithm's way from 0.1 to 0.5 lies on each side of their geometric mean."""
    good = [np.repeat([0.0, 1.0, 2.0], [5, 4, 1])[None]] * 2
    bad = np.array([[0.5, 1.5, 2.5, 9.0, 0.0]])
    mask = np.array([[1, 1, 1, 1, 0]], bool)
    nothing = np.zeros((1, 10), bool)
    areas = aupimo([*good, bad], [nothing, nothing, mask], (0.1, 0.5), thresholds=3)
    assert_allclose(areas, [np.nan, np.nan, (0.75 + 0.5) / 2])


def test_what_cannot_be_measured_is_said() -> None:
    scores, maps = np.arange(4.0), [np.arange(6.0).reshape(2, 3)]
    none, every = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    for bad, count in ((np.zeros(4, bool), 0), (np.ones(4, bool), 4)):
        with pytest.raises(PatchwordError, match=f"needs good and bad: {count} of 4 are bad"):
            auroc(scores, bad)
    for metric in (average_precision, f1_max):
        with pytest.raises(PatchwordError, match="all 4 are good"):
            metric(scores, np.zeros(4, bool))
    with pytest.raises(PatchwordError, match="no masked pixel"):
        aupro(maps, [none])
    with pytest.raises(PatchwordError, match="no pixel outside of masks"):
        aupro(maps, [every])
    with pytest.raises(PatchwordError, match="each has a masked pixel"):
        aupimo(maps, [every])
    with pytest.raises(PatchwordError, match="6 pixels of good images have none below"):
        aupimo([*maps, *maps], [none, every])
    with pytest.raises(PatchwordError, match="none has a masked pixel"):
        aupimo(maps, [none])
    for value in (np.nan, np.inf):
        wrong = [np.where(maps[0] == 2, value, maps[0])]
        with pytest.raises(PatchwordError, match="1 of 6 scores are NaN or infinite"):
            aupro(wrong, [maps[0] > 4])
    with pytest.raises(PatchwordError, match="1 of 4 scores are NaN or infinite"):
        auroc(np.array([0, np.nan, 1, 2]), np.arange(4) < 2)


def parts_of(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The pixels of each part of a mask, connected by sides or corners: a flood, pixel by pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    actual = []
    while left:
        part, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            part.append((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge += near
        actual.append(part)
    return actual


@pytest.mark.parametrize("levels", [4, 10_000])
def test_aupro_one_threshold_after_the_other(levels: int) -> None:
    """Regions by a flood, overlaps by counting, the area by straight lines between the points."""
    rng = np.random.default_rng(levels)
    masks = [rng.random((11, 14)) < 0.2, rng.random((9, 10)) < 0.1, np.zeros((8, 8), bool)]
    maps = [np.floor((rng.random(m.shape) + 0.5 * m) * levels).astype(np.float32) for m in masks]
    regions = [
        (scores, part) for scores, m in zip(maps, masks, strict=True) for part in parts_of(m)
    ]
    assert len(regions) > 5
    good = [float(s) for scores, m in zip(maps, masks, strict=True) for s in scores[~m]]
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(s) for scores in maps for s in scores.flat}, reverse=True):
        hits = [
            sum(scores[place] >= threshold for place in part) / len(part)
            for scores, part in regions
        ]
        false = sum(score >= threshold for score in good) / len(good)
        curve.append((false, sum(hits) / len(hits)))
    for limit in (0.05, 0.3, 1.0):
        area = 0.0
        for (x0, y0), (x1, y1) in pairwise(curve):
            if x0 < limit and x1 > x0:
                end = min(x1, limit)
                area += (end - x0) * (y0 + (y0 + (y1 - y0) * (end - x0) / (x1 - x0))) / 2
        assert_allclose(aupro(maps, masks, limit), area / limit, rtol=1e-9)


def test_aupimo_one_threshold_after_the_other() -> None:
    """Rates by counting at each threshold; the area over the logarithm by straight lines."""
    rng = np.random.default_rng(3)
    masks = [np.zeros((40, 50), bool), np.zeros((30, 30), bool), rng.random((20, 20)) < 0.2]
    maps = [rng.normal(size=m.shape) + 2 * m for m in masks]
    good, bounds, count = maps[:2], (0.002, 0.1), 500
    low, high = min(m.min() for m in good), max(m.max() for m in good)
    curve = []
    for step in range(count):
        threshold = low + (high - low) * step / (count - 1)
        rate = sum((m >= threshold).mean() for m in good) / 2
        curve.append((rate, float((maps[2][masks[2]] >= threshold).mean())))
    first, last = (
        min(range(count), key=lambda n: (abs(curve[n][0] - bound), n)) for bound in bounds[::-1]
    )
    area = 0.0
    for (x1, y1), (x0, y0) in zip(curve[first:last], curve[first + 1 : last + 1], strict=True):
        area += (np.log(x1) - np.log(x0)) * (y0 + y1) / 2
    areas = aupimo(maps, masks, bounds, count)
    assert np.isnan(areas[:2]).all()
    assert_allclose(areas[2], area / np.log(bounds[1] / bounds[0]), rtol=1e-9)
    assert 0 < areas[2] < 1
