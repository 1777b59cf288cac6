"""MuSc and WinCLIP equal their original code."""

import pytest
import torch
import torch.nn.functional as F
from golden import arrays, image, model
from torch.testing import assert_close

from patchword.bundle import Bundle
from patchword.inspect.mutual import largest, mutual_maps, mutual_scores, neighbourhood, rescored
from patchword.inspect.winclip import Vectors, WinCLIP
from patchword.inspect.windows import (
    badness,
    harmonic,
    harmonic_over,
    mean_over,
    sliding,
    unlikeness,
)


def musc() -> list[torch.Tensor]:
    """Patch tokens (L, 8, 8, C) of six photos."""
    tokens = arrays("anomaly/inputs")["musc6"][:, :, 1:]  # (L, n, N, C), without the class token
    return [tokens[:, i].unflatten(1, (8, 8)) for i in range(tokens.shape[1])]


def test_musc() -> None:
    golden, photos = arrays("anomaly/musc"), musc()
    for layer in range(3):
        found = torch.stack([neighbourhood(photo[layer], 3) for photo in photos]).flatten(1, 2)
        if layer == 0:
            assert_close(found, golden["musc6.r3.features_l0"])
        for side in (1, 3, 5):
            rows = [neighbourhood(photo[layer], side).flatten(0, 1) for photo in photos]
            scores = torch.stack(mutual_scores(rows, 0.3))
            assert_close(scores, golden[f"musc6.r{side}.msm"][layer])
    maps = mutual_maps(photos, (1, 3, 5), 0.3)
    assert_close(torch.stack(maps), golden["musc6.map"])
    up = F.interpolate(torch.stack(maps)[:, None], (56, 56), mode="bilinear", align_corners=True)
    assert_close(up[:, 0, ::3, ::3], golden["musc6.map_up"])
    scores = torch.stack([largest(grid, (56, 56)) for grid in maps])
    assert_close(scores, golden["musc6.score"])
    # The original scales scores to 0 ... 1 first. The weights of each photo sum to 1, so that what
    # comes of it is the same but for that scale.
    vectors, low, high = arrays("anomaly/inputs")["musc6_cls"], scores.min(), scores.max()
    found = (rescored(scores, vectors, (1, 2, 3)) - low) / (high - low)
    assert_close(found, golden["musc6.rscin_1_2_3"])


def test_windows() -> None:
    golden = arrays("anomaly/winclip")
    for grid, side, stride in (((15, 15), 2, 1), ((15, 15), 3, 1), ((7, 7), 2, 1), ((7, 7), 3, 1)):
        want = golden[f"masks.{grid[0]}x{grid[1]}_k{side}_s{stride}"]
        assert torch.equal(sliding(grid, side, stride).mT, want)
    assert torch.equal(sliding((5, 6), 2, 2).mT, golden["masks.5x6_k2_s2"])
    for grid in ((15, 15), (7, 9)):
        name, maps = f"harm.{grid[0]}x{grid[1]}", []
        for side in (2, 3):
            scores = golden[f"{name}_k{side}.in"]
            maps.append(harmonic_over(scores, sliding(grid, side), grid))
            assert_close(maps[-1], golden[f"{name}_k{side}.out"])
        image = golden[f"{name}.image_score"][:, None, None]
        assert_close(harmonic([image, *maps]), golden[f"{name}.multi"])
    found = badness(golden["part.x"], golden["part.text"], 0.07)
    assert_close(found, golden["part.class_scores"])
    found = unlikeness(golden["part.x"], golden["part.ref"].flatten(0, 1))
    assert_close(found, golden["part.association"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return model("clip_v1", tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize(("name", "references"), [("img1", ["img2"]), ("img2", ["img1", "ns1"])])
def test_winclip(clip: Bundle, name: str, references: list[str]) -> None:
    golden, method = arrays("anomaly/winclip"), WinCLIP()
    seen = method.vectors(clip, image(name))
    assert_close(seen.image[0], golden[f"v1.{name}.image_embedding"])
    for place, side in enumerate((2, 3)):
        assert_close(seen.windows[place][0], golden[f"v1.{name}.windows_k{side}"])
    assert_close(seen.patches[0], golden[f"v1.{name}.patch_embedding"])
    texts = arrays("inputs")["text"][:2] * torch.tensor([[1.7], [0.6]])
    good = [method.vectors(clip, image(each)[..., :112, :112]) for each in references]
    state = {
        "prototypes": texts,
        "patches": torch.cat([each.patches[0] for each in good]),
        "windows.2": torch.cat([each.windows[0][0] for each in good]),
        "windows.3": torch.cat([each.windows[1][0] for each in good]),
    }
    for kind, known in (("zero", {"prototypes": texts}), ("few", state)):
        scores, maps = method.scores_and_maps(seen, known)
        assert_close(scores, golden[f"v1.{name}.{kind}.score"])
        pixels = F.interpolate(maps[:, None], (112, 112), mode="bilinear")
        assert_close(pixels[0, 0, ::4, ::4], golden[f"v1.{name}.{kind}.map"])
    _, zero = method.scores_and_maps(seen, {"prototypes": texts})
    assert_close(zero[0], golden[f"v1.{name}.zero.grid"])
    assert_close(2 * maps[0] - zero[0], golden[f"v1.{name}.few.grid"])


def test_winclip_of_goodness() -> None:
    golden, grid = arrays("anomaly/winclip_caoyunkang"), (7, 7)
    places = sliding(grid, 2), sliding(grid, 3)
    features = golden["7x7.features"].transpose(0, 1)  # (B, 36 + 25 + 49, D)
    two, three, patches = features.split([36, 25, 49], dim=1)
    seen = Vectors(patches[:, 0], (two, three), patches, places, grid)
    method = WinCLIP(aggregate="goodness")
    _, maps = method.scores_and_maps(seen, {"prototypes": golden["7x7.text"]})
    assert_close(maps, golden["7x7.textual"])
    gallery = golden["7x7.gallery"]
    state = dict(zip(("windows.2", "windows.3", "patches"), gallery, strict=True))
    _, fused = method.scores_and_maps(seen, {"prototypes": golden["7x7.text"], **state})
    # The original compares the first window of each scale with the photos of the scale before it:
    # the nine patches in that corner are others.
    elsewhere = torch.ones(grid, dtype=torch.bool)
    elsewhere[:3, :3] = False
    assert_close(fused[:, elsewhere], golden["7x7.fused"][:, elsewhere])
    windows, alone = [unlikeness(two, gallery[0]), unlikeness(three, gallery[1])], patches[:, :1]
    windows[1][:, 0] = unlikeness(three[:, 0], gallery[0])
    single = torch.cat(
        [unlikeness(alone, gallery[1]), unlikeness(patches[:, 1:], gallery[2])], dim=1
    )
    spread = [mean_over(*each, grid) for each in zip(windows, places, strict=True)]
    visual = torch.stack([single.unflatten(1, grid), *spread]).mean(dim=0)
    assert_close(visual, golden["7x7.visual"])
    assert_close(harmonic([maps, visual]) / 2, golden["7x7.fused"])
