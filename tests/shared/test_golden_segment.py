"""Whole predictions equal those of the original code: windows, softmax, synonyms, thresholds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import arrays, image, model, options
from torch import Tensor
from torch.testing import assert_close

from patchword.bundle import Bundle
from patchword.images.preprocess import Geometry
from patchword.where.heatmap import cosines
from patchword.where.pamr import pamr
from patchword.where.segment import Rule, Segmentation, probabilities
from patchword.where.windows import _starts, stitched

# ClearCLIP pads a photo that is smaller than a window with zeros; here it is enlarged to one.
CASES = [
    ("sclip", "v1.ns1.sclip.predict_cls4_s48"),
    ("sclip", "v1.ns1.sclip.predict_cls4_s56"),
    ("sclip", "v1.ns1.sclip.predict_syn3_s56"),
    ("sclip", "v1.img2.sclip.predict_cls4_s0"),
    ("sclip", "v1.img2.sclip.predict_syn3_s0"),
    ("clearclip", "v1.ns1.clearclip.predict"),
    ("naclip", "v1.ns1.naclip.predict_cls4"),
    ("naclip", "v1.ns1.naclip.predict_syn3"),
    ("naclip", "v1.img1.naclip.predict_cls4"),
    ("naclip", "v1.img1.naclip.predict_syn3"),
    ("scclip", "v1.ns1.scclip.predict"),
    ("resclip", "v1.ns1.resclip.predict"),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return model("clip_v1", tmp_path_factory.mktemp("golden"))


@torch.no_grad()
def seen(clip: Bundle, method: str, pixels: Tensor, texts: Tensor, plan: dict) -> Tensor:
    """Cosines (T, h, w) of preprocessed pixels, in windows as stated, or of the patches."""
    size, side = (pixels.shape[-2], pixels.shape[-1]), plan["slide_crop"]
    if not side:  # NACLIP enlarges twice, to its input and to the photo
        maps = cosines(clip, texts, method, pixels)
        return (F.interpolate(maps, size, mode="bilinear") if method == "naclip" else maps)[0]

    def crop(top: int, left: int) -> Tensor:
        return pixels[0, :, top : top + side, left : left + side]

    def run(windows: Tensor) -> Tensor:  # one by one: the mean that SC-CLIP takes is of a batch
        return torch.cat([cosines(clip, texts, method, one[None]) for one in windows])

    starts = _starts(size, (side, side), plan["slide_stride"])
    values, cell = stitched(crop, run, size, (side, side), starts)
    assert cell == 1
    return values


def owners_of(names: str) -> tuple[int, ...]:
    """The class of each of the four texts."""
    return (0, 1, 1, 2) if names.startswith("syn3") or "3 classes" in names else (0, 1, 2, 3)


@pytest.mark.parametrize(("method", "key"), CASES)
def test_whole_predictions(clip: Bundle, method: str, key: str) -> None:
    golden, plan = arrays(f"dense/{method}"), options(method)[f"{key}.prob"]
    pixels = image(key.split(".")[1])
    if "image_crop" in plan:
        rows, columns = plan["image_crop"]
        pixels = pixels[..., :rows, :columns]
    values = seen(clip, method, pixels, golden.get(f"{key}.text", arrays("inputs")["text"]), plan)
    out = tuple(golden[f"{key}.pred"].shape)
    size = (pixels.shape[-2], pixels.shape[-1])
    grid, geometry = values.numpy(), Geometry(out, size, (0, 0), size)
    if f"{key}.cos" in golden:
        found = torch.from_numpy(geometry.to_source(grid)[:, ::4, ::4])
        assert_close(found, golden[f"{key}.cos"], rtol=0, atol=2e-5)  # as the index suggests
    if plan.get("pamr_steps"):
        photo = F.interpolate(pixels, out, mode="bilinear")
        maps = torch.from_numpy(geometry.to_source(grid))[None]
        grid = pamr(photo, maps, plan["pamr_steps"])[0].numpy()
        geometry = Geometry(out, out, (0, 0), out)
    owners, count = owners_of(plan["names"]), golden[f"{key}.prob"].shape[0]
    rule = Rule(plan["logit_scale"], plan.get("prob_thd", 0.0), plan.get("area_thd") or 0.0)
    labels = tuple(f"label {n}" for n in range(1, count))
    black = np.zeros((*out, 3), np.uint8)
    drawn = Segmentation(black, labels, owners, grid, geometry, None, method, rule)
    expected = golden[f"{key}.pred"].numpy()
    assert len(np.unique(expected)) > 1
    assert (drawn.map != expected).mean() <= 0.001  # as the index suggests
    if not rule.least_area:
        shares = probabilities(geometry.to_source(grid), owners, count, rule.logit_scale)
        if method in ("naclip", "resclip"):  # which divide by the sum over classes afterwards
            shares /= shares.sum(axis=0)
        assert_close(
            torch.from_numpy(shares[:, ::4, ::4]), golden[f"{key}.prob"], rtol=0, atol=5e-4
        )
