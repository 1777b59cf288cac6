"""Measures of anomaly detection, as its benchmarks define them.

High scores mean bad. For images or pixels: `auroc`, `average_precision`, `f1_max`. For maps with
masks, as sequences of (H, W) of any sizes: `aupro`, `auspro` and `aupimo`. All are computed in
float64 with every distinct score as a threshold; only `aupimo` has a grid of thresholds, which is
part of its definition.

scikit-learn's `roc_auc_score`, `average_precision_score` and `precision_recall_curve` give the same
numbers, and the tests compare with them; patchword does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchword.errors import PatchwordError
from patchword.evaluate.defect_masks import Defect

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Scores = NDArray[np.floating]
Mask = NDArray[np.bool_]

PRO_LIMIT = 0.3  # false positive rate up to which the area is taken
SPRO_LIMIT = 0.05
PIMO_BOUNDS = (1e-5, 1e-4)
PIMO_THRESHOLDS = 300_000


def auroc(scores: Scores, bad: Mask) -> float:
    """P(score of a bad item > score of a good one) + P(they are equal) / 2, the area under the ROC
    curve. Raises PatchwordError if all items are good, or all bad."""
    _, true, false = _counts(scores, bad)
    if not true[-1] or not false[-1]:
        raise PatchwordError(f"AUROC needs good and bad: {true[-1]} of {len(bad)} are bad")
    return _area(true / true[-1], false / false[-1])


def average_precision(scores: Scores, bad: Mask) -> float:
    """sum over thresholds n of (R_n - R_(n-1)) P_n, with recall R and precision P. Raises
    PatchwordError if no item is bad."""
    _, true, false = _counts_with_bad(scores, bad)
    recall_gain = np.diff(true) / true[-1]
    precision = true / np.maximum(true + false, 1)
    return float(np.sum(recall_gain * precision[1:]))


def f1_max(scores: Scores, bad: Mask) -> tuple[float, float]:
    """The largest F1 = 2 P R / (P + R) over all thresholds, and the highest threshold that gives
    it: items with at least that score count as bad. The threshold is chosen on the items that it is
    measured on, so that this is an upper bound. Raises PatchwordError if no item is bad."""
    thresholds, true, false = _counts_with_bad(scores, bad)
    f1 = 2 * true[1:] / (true + false + true[-1])[1:]
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def pro_curve(
    maps: Sequence[Scores], masks: Sequence[Mask], limit: float = 1.0, diagonal: bool = True
) -> tuple[Floats, Floats]:
    """The per-region overlap curve of a data set, (FPR, PRO) (Bergmann et al. 2020, section 4; the
    evaluation code of MVTec AD): (0, 0), then a point for each distinct score as threshold, from
    high to low,

    FPR  pixels found outside the masks / all pixels outside the masks, good images included
    PRO  the mean over all regions of pixels found in the region / pixels of the region; regions are
         the connected parts of the masks

    limit     the curve ends at the first point with this FPR or more
    diagonal  True: pixels that share only a corner are connected (8 neighbours), as in MVTec's code

    Raises PatchwordError if there is no region, or no pixel outside of them.
    """
    gains, regions = [], 0
    for mask in masks:
        numbers, count = _connected(mask, diagonal)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)
        gains.append((1 / np.maximum(sizes, 1))[numbers].ravel() * mask.ravel())
        regions += count
    return _overlap_curve(maps, masks, gains, regions, limit)


def _overlap_curve(
    maps: Sequence[Scores], masks: Sequence[Mask], gains: Sequence[Floats], total: int, limit: float
) -> tuple[Floats, Floats]:
    """The overlap curve of `total` regions. gains: for each image what each of its pixels (H * W,)
    adds to the sum of the regions' overlaps when it is found."""
    scores = _finite(np.concatenate([each.ravel() for each in maps]))
    gained, outside = np.concatenate(gains), ~_flat(masks)
    background = int(outside.sum())
    if not total or not background:
        lacks = "pixel outside of masks" if total else "masked pixel"
        raise PatchwordError(f"PRO needs pixels inside and outside of masks; there is no {lacks}")
    if limit < 1:
        rank = background - max(int(np.ceil(limit * background)), 1)
        reached = scores >= np.partition(scores[outside], rank)[rank]
        scores, gained, outside = scores[reached], gained[reached], outside[reached]
    order, ends = _descending(scores)
    false = np.cumsum(outside[order])[ends] / background
    overlap = np.cumsum(gained[order])[ends].clip(max=total) / total
    return np.append(0.0, false), np.append(0.0, overlap)


def aupro(
    maps: Sequence[Scores],
    masks: Sequence[Mask],
    limit: float = PRO_LIMIT,
    diagonal: bool = True,
) -> float:
    """The area under `pro_curve` from FPR 0 to `limit`, with linear interpolation at the limit,
    divided by `limit`: 1 is perfect, limit / 2 is chance. Raises as `pro_curve`."""
    return _area_up_to(limit, *pro_curve(maps, masks, limit, diagonal))


def auspro(
    maps: Sequence[Scores],
    masks: Sequence[Mask],
    defects: Sequence[Sequence[Defect]],
    limit: float = SPRO_LIMIT,
) -> float:
    """The area under the saturated per-region overlap curve from FPR 0 to `limit`, divided by
    `limit` (Bergmann et al. 2022, "Beyond dents and scratches", section 5): as `aupro`, but a
    region is a defect, connected or not, and its overlap is min(pixels found / `enough`, 1).

    masks  of each image, the union of its defects
    """
    gains = []
    for scores, of_image in zip(maps, defects, strict=True):
        gain = np.zeros(scores.size)
        for defect in of_image:
            places = np.flatnonzero(defect.mask)
            order = places[np.argsort(-scores.ravel()[places], kind="stable")]
            overlap = np.minimum(np.arange(1, len(order) + 1) / defect.enough, 1)
            gain[order] += np.diff(overlap, prepend=0.0)
        gains.append(gain)
    total = sum(map(len, defects))
    return _area_up_to(limit, *_overlap_curve(maps, masks, gains, total, limit))


def _area_up_to(limit: float, false: Floats, overlap: Floats) -> float:
    """The area under a curve from FPR 0 to `limit`, divided by `limit`. Of several points at the
    limit the first ends the curve, for a vertical step has no area."""
    stop = int(np.searchsorted(false, limit)) + 1
    false, overlap = false[:stop], overlap[:stop]
    ends = np.append(overlap[:-1], np.interp(limit, false, overlap))
    return _area(ends, np.append(false[:-1], limit)) / limit


def aupimo(
    maps: Sequence[Scores],
    masks: Sequence[Mask],
    bounds: tuple[float, float] = PIMO_BOUNDS,
    thresholds: int = PIMO_THRESHOLDS,
) -> Floats:
    """The area under the per-image overlap curve of each image (Bertoldo et al. 2024, as in
    anomalib): with TPR the share of the image's masked pixels that is found and (l, u) = `bounds`,

        1 / log(u / l) * integral of TPR d log(FPR) over FPR from l to u

    FPR is the mean of the false positive rates of the good images, those without a masked pixel.
    Thresholds are equally spaced between the lowest and the highest score of good images.

    Returns (N,), NaN for good images. Raises PatchwordError without good or without bad images, and
    for so few good pixels that no threshold has so low an FPR.
    """
    good = [scores for scores, mask in zip(maps, masks, strict=True) if not mask.any()]
    if not good:
        raise PatchwordError("AUPIMO needs good images: each has a masked pixel")
    if len(good) == len(maps):
        raise PatchwordError("AUPIMO needs bad images: none has a masked pixel")
    lowest, highest = min(map(np.min, good)), max(map(np.max, good))
    levels = np.linspace(lowest, highest, thresholds, dtype=np.float64)
    rates = np.mean([_share_above(scores.ravel(), levels) for scores in good], axis=0)
    if rates[-1] > bounds[0]:
        pixels = sum(scores.size for scores in good)
        raise PatchwordError(
            f"AUPIMO needs a false positive rate of {bounds[0]:g}; {pixels:,} pixels of good images"
            f" have none below {rates[-1]:.2g}: more of them, or larger maps, are needed"
        )
    # Rates fall as levels rise.
    first, last = (int(np.argmin(np.abs(rates - bound))) for bound in bounds[::-1])
    inside = slice(first, last + 1)
    log_rates = np.log(rates[inside][::-1])
    areas = np.full(len(maps), np.nan)
    for number, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        if mask.any():
            overlap = _share_above(scores[mask], levels[inside])[::-1]
            areas[number] = _area(overlap, log_rates) / np.log(bounds[1] / bounds[0])
    return areas.clip(0, 1)


def pooled(maps: Sequence[Scores], masks: Sequence[Mask]) -> tuple[Scores, Mask]:
    """The scores of all pixels, and whether each is masked, (P,) each."""
    return np.concatenate([each.ravel() for each in maps]), _flat(masks)


def _connected(mask: Mask, diagonal: bool) -> tuple[Integers, int]:
    """The connected parts of a mask (H, W): the number of each pixel's part, 0 outside, and the
    count of parts."""
    from scipy.ndimage import label  # type: ignore[import-untyped]

    numbers, count = label(mask, np.ones((3, 3)) if diagonal else None)
    return numbers, count


def _flat(masks: Sequence[Mask]) -> Mask:
    return np.concatenate([each.ravel() for each in masks])


def _area(y: Floats, x: Floats) -> float:
    """The area under the line through the points (x, y), by the trapezoidal rule."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def _share_above(scores: Scores, levels: Floats) -> Floats:
    """The share of scores that are at least each of `levels`."""
    return 1 - np.searchsorted(np.sort(_finite(scores)), levels, side="left") / scores.size


def _finite(scores: Scores) -> Scores:
    """The scores as they are. Raises PatchwordError where one is NaN or infinite."""
    wrong = np.count_nonzero(~np.isfinite(scores))
    if wrong:
        raise PatchwordError(f"{wrong} of {scores.size} scores are NaN or infinite")
    return scores


def _descending(scores: Scores) -> tuple[Integers, Integers]:
    """The order of scores from high to low, and where in it each distinct score ends."""
    order = np.argsort(-_finite(scores))
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    return order, ends


def _counts(scores: Scores, bad: Mask) -> tuple[Scores, Integers, Integers]:
    """The distinct scores from high to low, and the true and the false positives at each as
    threshold. Counts begin with a 0 more."""
    order, ends = _descending(scores)
    true = np.cumsum(bad[order], dtype=np.int64)[ends]
    return scores[order][ends], np.append(0, true), np.append(0, ends + 1 - true)


def _counts_with_bad(scores: Scores, bad: Mask) -> tuple[Scores, Integers, Integers]:
    """`_counts`. Raises PatchwordError if no item is bad."""
    if not bad.any():
        raise PatchwordError(f"precision and recall need something bad: all {len(bad)} are good")
    return _counts(scores, bad)
