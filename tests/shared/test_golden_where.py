"""Relevance by gradients and joined windows equal those of the original code."""

import pytest
import torch
import torch.nn.functional as F
from golden import arrays, image, model, options
from torch.testing import assert_close

from patchword.bundle import Bundle
from patchword.where.dense import EDITS, dense
from patchword.where.gradients import chefer, legrad
from patchword.where.windows import _starts, stitched


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return model("clip_v1", tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize(("variant", "layer"), [("default2", None), ("last6", 6), ("last1", 11)])
def test_legrad(clip: Bundle, variant: str, layer: int | None) -> None:
    golden, texts = arrays("relevance/legrad"), arrays("inputs")["text"]
    for name in ("img1", "img2"):
        key = f"v1.{name}.legrad_{variant}"
        if f"{key}.layers" in golden:
            found = legrad(clip, texts, image(name), layer)[0]
            assert_close(found, golden[f"{key}.layers"].sum(0), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("variant", "layer"), [("last", None), ("from6", 6), ("all", 0)])
def test_chefer(clip: Bundle, variant: str, layer: int | None) -> None:
    golden, texts = arrays("relevance/chefer"), arrays("inputs")["text"]
    for name in ("img1", "img2"):
        found = chefer(clip, texts, image(name), layer)[0].flatten(1)
        assert_close(found, golden[f"v1.{name}.chefer_{variant}.rel"])
    own = arrays("relevance/chefer")["v1.text_features"]
    unit = F.normalize(own, dim=-1)
    found = chefer(clip, unit, image("img1"), layer)[0].flatten(1)
    assert_close(found, golden[f"v1.img1.chefer_tokens_{variant}.rel"])


@pytest.mark.parametrize("stride", [48, 56])
def test_windows(clip: Bundle, stride: int) -> None:
    """SCLIP's, the last moved inward, resized to the photo."""
    golden, texts = arrays("dense/sclip"), arrays("inputs")["text"]
    pixels = image("ns1")[0]
    key = f"v1.ns1.sclip.predict_cls4_s{stride}.cos"
    size = (pixels.shape[-2], pixels.shape[-1])

    def run(batch: torch.Tensor) -> torch.Tensor:
        found = dense(clip, batch, EDITS["sclip"])
        return torch.unflatten((found @ texts.mT).mT, -1, (7, 7))

    values, cell = stitched(
        lambda top, left: pixels[:, top : top + 112, left : left + 112],
        run, size, (112, 112), _starts(size, (112, 112), stride),
    )  # fmt: skip
    assert cell == 1
    out = tuple(options("sclip")[key]["out_size"])
    found = F.interpolate(values[None], out, mode="bilinear")[0, :, ::4, ::4]
    assert_close(found, golden[key])
