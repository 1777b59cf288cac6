"""Metrics of anomaly maps equal an exact float64 computation, and anomalib's AUPIMO."""

import numpy as np
import pytest
from golden import arrays, options
from numpy.testing import assert_allclose

from patchword.errors import PatchwordError
from patchword.evaluate.anomaly_metrics import (
    aupimo,
    aupro,
    auroc,
    average_precision,
    f1_max,
    pooled,
    pro_curve,
)

CASES = ("s1", "s2_ties", "s3_all_bad", "s4_weak", "s5_ties12")
METRICS = {key: value.numpy() for key, value in arrays("metrics/metrics").items()}


def values(case: str) -> dict[str, float]:
    names = options("metrics")[f"{case}.values"]["names"]
    return dict(zip(names, METRICS[f"{case}.values"].tolist(), strict=True))


def scene(case: str) -> tuple[np.ndarray, np.ndarray]:
    maps, masks = METRICS[f"{case}.maps"], METRICS[f"{case}.masks"].astype(bool)
    return (maps / 65536 if maps.dtype == np.uint16 else maps).astype(np.float32), masks


@pytest.mark.parametrize("case", CASES)
def test_pixels(case: str) -> None:
    maps, masks = scene(case)
    want, (scores, bad) = values(case), pooled(maps, masks)
    assert_allclose(auroc(scores, bad), want["pixel_auroc"], rtol=1e-12)
    assert_allclose(average_precision(scores, bad), want["pixel_ap"], rtol=1e-12)
    best = want["pixel_f1max"], want["pixel_f1max_threshold"]
    assert_allclose(f1_max(scores, bad), best, rtol=1e-12)
    for diagonal, name in ((True, "conn8"), (False, "conn4")):
        for limit in (0.05, 0.3, 1.0):
            found = aupro(maps, masks, limit, diagonal)
            assert_allclose(found, want[f"exact_aupro_{limit}_{name}"], rtol=0, atol=1e-12)
    assert_allclose(aupro(maps, masks), want["mvtec_code_aupro_0.3"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_curve(case: str) -> None:
    curve = np.stack(pro_curve(*scene(case)))
    assert curve.shape[1] == options("metrics")[f"{case}.exact_pro_curve"]["points"]
    found = curve[:, METRICS[f"{case}.exact_pro_index"]]
    assert_allclose(found, METRICS[f"{case}.exact_pro_curve"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case != "s3_all_bad"])
def test_images(case: str) -> None:
    want, bad = values(case), METRICS[f"{case}.labels"].astype(bool)
    for name in ("max", "top1p"):
        found = auroc(METRICS[f"{case}.image_{name}"], bad)
        assert_allclose(found, want[f"image_auroc_{name}"], rtol=1e-12)
    found = average_precision(METRICS[f"{case}.image_max"], bad)
    assert_allclose(found, want["image_ap_max"], rtol=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case != "s3_all_bad"])
@pytest.mark.parametrize("bounds", [(0.001, 0.1), (0.01, 0.3)])
def test_aupimo(case: str, bounds: tuple[float, float]) -> None:
    key = f"{case}.aupimo_{bounds[0]}_{bounds[1]}"
    found = aupimo(*scene(case), bounds, options("metrics")[key]["num_thresholds"])
    assert_allclose(found, METRICS[key], rtol=0, atol=1e-12)
    mean = values(case)[f"aupimo_mean_{bounds[0]}_{bounds[1]}"]
    assert_allclose(np.nanmean(found), mean, rtol=1e-12)
    with pytest.raises(PatchwordError, match="rate of 1e-05"):
        aupimo(*scene(case))


def test_aupimo_without_good_images() -> None:
    with pytest.raises(PatchwordError, match="needs good images"):
        aupimo(*scene("s3_all_bad"))


@pytest.mark.parametrize("case", ["vec1", "vec2_ties"])
def test_vectors(case: str) -> None:
    want = values(case)
    scores, bad = METRICS[f"{case}.scores"], METRICS[f"{case}.labels"].astype(bool)
    assert_allclose(auroc(scores, bad), want["auroc"], rtol=1e-12)
    assert_allclose(average_precision(scores, bad), want["ap"], rtol=1e-12)
    assert_allclose(f1_max(scores, bad), (want["f1max"], want["f1max_threshold"]), rtol=1e-12)
