"""How well scores and maps find what is bad, as the benchmarks of anomaly detection define it.

Scores are high for bad. Of images or of pixels: `auroc`, `average_precision`, `f1_max`. Of maps
with masks, as sequences of (H, W) of any sizes: `aupro`, `auspro` and `aupimo`. All are computed in
float64 from every distinct score, without a grid of thresholds; `aupimo` has one, which is part of
its definition.

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
    """The probability that a bad item is scored above a good one, plus half that of a tie. Raises
    PatchwordError if all items are good, or all bad."""
    _, hits, false = _counts(scores, bad)
    if not hits[-1] or not false[-1]:
        raise PatchwordError(f"AUROC needs good and bad: {hits[-1]} of {len(bad)} are bad")
    return _area(hits / hits[-1], false / false[-1])


def average_precision(scores: Scores, bad: Mask) -> float:
    """The sum over thresholds of (recall gained) * precision. Raises PatchwordError if no item is
    bad."""
    _, hits, false = _with_bad(scores, bad)
    gained = np.diff(hits) / hits[-1]
    return float(np.sum(gained * (hits / np.maximum(hits + false, 1))[1:]))


def f1_max(scores: Scores, bad: Mask) -> tuple[float, float]:
    """The largest F1 = 2 P R / (P + R) over all thresholds, and the highest threshold that gives
    it: what scores at least that much is called bad. It is chosen on the very items that it is
    measured on, so no threshold reaches more. Raises PatchwordError if no item is bad."""
    thresholds, hits, false = _with_bad(scores, bad)
    f1 = 2 * hits[1:] / (hits + false + hits[-1])[1:]
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def pro_curve(
    maps: Sequence[Scores], masks: Sequence[Mask], limit: float = 1.0, diagonal: bool = True
) -> tuple[Floats, Floats]:
    """The per-region overlap curve of a whole data set (Bergmann et al. 2020, section 4; the
    evaluation code of MVTec AD): for each distinct score as threshold, from high to low, after the
    point (0, 0),

    FPR  false pixels / all pixels outside the masks, those of good images too
    PRO  the mean over all regions, the connected parts of the masks, of the share that is found

    limit     how far: up to the first point whose FPR is that much
    diagonal  whether pixels that share only a corner are connected: 8 neighbours, as MVTec's

    Raises PatchwordError where there is no region, or no pixel outside of them.
    """
    regions, shares = [], 0
    for mask in masks:
        numbers, count = _connected(mask, diagonal)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)
        regions.append((1 / np.maximum(sizes, 1))[numbers].ravel() * mask.ravel())
        shares += count
    return _overlap_curve(maps, masks, regions, shares, limit)


def _overlap_curve(
    maps: Sequence[Scores], masks: Sequence[Mask], gains: Sequence[Floats], total: int, limit: float
) -> tuple[Floats, Floats]:
    """`pro_curve` of `total` regions, from what finding each pixel of each image (H * W,) adds to
    the sum of what is found of them."""
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
    found = np.cumsum(gained[order])[ends].clip(max=total) / total
    return np.append(0.0, false), np.append(0.0, found)


def aupro(
    maps: Sequence[Scores],
    masks: Sequence[Mask],
    limit: float = PRO_LIMIT,
    diagonal: bool = True,
) -> float:
    """The area under `pro_curve` from FPR 0 to `limit`, with linear interpolation there, divided by
    `limit`: 1 is perfect, limit / 2 is chance. Errors as in `pro_curve`."""
    return _up_to(limit, *pro_curve(maps, masks, limit, diagonal))


def auspro(
    maps: Sequence[Scores],
    masks: Sequence[Mask],
    defects: Sequence[Sequence[Defect]],
    limit: float = SPRO_LIMIT,
) -> float:
    """The area under the saturated per-region overlap up to FPR `limit`, divided by it (Bergmann et
    al. 2022, "Beyond dents and scratches", section 5): as `aupro`, but of each defect that is
    given, whether its parts are connected or not, and what is found of it counts as min(pixels that
    are found / pixels that are enough, 1). masks: all defects of each image together."""
    gains = []
    for scores, own in zip(maps, defects, strict=True):
        gained = np.zeros(scores.size)
        for defect in own:
            places = np.flatnonzero(defect.mask)
            order = places[np.argsort(-scores.ravel()[places], kind="stable")]
            until = np.minimum(np.arange(1, len(order) + 1) / defect.enough, 1)
            gained[order] += np.diff(until, prepend=0.0)
        gains.append(gained)
    total = sum(map(len, defects))
    return _up_to(limit, *_overlap_curve(maps, masks, gains, total, limit))


def _up_to(limit: float, false: Floats, found: Floats) -> float:
    """The area under a curve from FPR 0 to `limit`, by `limit`; of several points there the first
    ends it, for what rises upright has no area."""
    stop = int(np.searchsorted(false, limit)) + 1
    false, found = false[:stop], found[:stop]
    ends = np.append(found[:-1], np.interp(limit, false, found))
    return _area(ends, np.append(false[:-1], limit)) / limit


def aupimo(
    maps: Sequence[Scores],
    masks: Sequence[Mask],
    bounds: tuple[float, float] = PIMO_BOUNDS,
    thresholds: int = PIMO_THRESHOLDS,
) -> Floats:
    """The area under the per-image overlap of each image (Bertoldo et al. 2024, as in anomalib):
    the share of an image's masked pixels that is found, averaged over the logarithm of the false
    positive rate between `bounds`. That rate is of good images alone, those without a masked pixel:
    the mean of theirs. Thresholds are equally spaced between their lowest and highest score.

    Returns (N,), NaN for good images. Raises PatchwordError without good images or bad ones, and
    where so few good pixels cannot have so low a rate.
    """
    good = [each for each, mask in zip(maps, masks, strict=True) if not mask.any()]
    if not good:
        raise PatchwordError("AUPIMO needs good images: each has a masked pixel")
    if len(good) == len(maps):
        raise PatchwordError("AUPIMO needs bad images: none has a masked pixel")
    lowest, highest = min(each.min() for each in good), max(each.max() for each in good)
    levels = np.linspace(lowest, highest, thresholds, dtype=np.float64)
    rates = np.mean([_above(each.ravel(), levels) for each in good], axis=0)
    if rates[-1] > bounds[0]:
        pixels = sum(each.size for each in good)
        raise PatchwordError(
            f"AUPIMO needs a false positive rate of {bounds[0]:g}; {pixels:,} pixels of good images"
            f" have none below {rates[-1]:.2g}: more of them, or larger maps, are needed"
        )
    first, last = (int(np.argmin(np.abs(rates - bound))) for bound in bounds[::-1])
    inside = slice(first, last + 1)
    x = np.log(rates[inside][::-1])
    found = np.full(len(maps), np.nan)
    for number, (each, mask) in enumerate(zip(maps, masks, strict=True)):
        if mask.any():
            overlap = _above(each[mask], levels[inside])[::-1]
            found[number] = _area(overlap, x) / np.log(bounds[1] / bounds[0])
    return found.clip(0, 1)


def pooled(maps: Sequence[Scores], masks: Sequence[Mask]) -> tuple[Scores, Mask]:
    """Every pixel's score and whether it is masked, (P,) each, for `auroc` and the like."""
    return np.concatenate([each.ravel() for each in maps]), _flat(masks)


def _connected(mask: Mask, diagonal: bool) -> tuple[Integers, int]:
    """The number of each pixel's part of a mask (H, W), 0 outside, and how many parts there are."""
    from scipy.ndimage import label  # type: ignore[import-untyped]

    numbers, count = label(mask, np.ones((3, 3)) if diagonal else None)
    return numbers, count


def _flat(masks: Sequence[Mask]) -> Mask:
    return np.concatenate([each.ravel() for each in masks])


def _area(y: Floats, x: Floats) -> float:
    """Under the line through the points (x, y)."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def _above(scores: Scores, levels: Floats) -> Floats:
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
    """The distinct scores from high to low, and how many bad and good items score at least each,
    after a 0."""
    order, ends = _descending(scores)
    hits = np.cumsum(bad[order], dtype=np.int64)[ends]
    return scores[order][ends], np.append(0, hits), np.append(0, ends + 1 - hits)


def _with_bad(scores: Scores, bad: Mask) -> tuple[Scores, Integers, Integers]:
    """`_counts`. Raises PatchwordError if no item is bad."""
    if not bad.any():
        raise PatchwordError(f"precision and recall need something bad: all {len(bad)} are good")
    return _counts(scores, bad)
