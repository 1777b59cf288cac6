"""Methods that find defects equal the original code of each, on given patch features."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from golden import arrays, options
from torch import Tensor
from torch.testing import assert_close

from patchword.images.preprocess import Geometry
from patchword.inspect import memory as memories
from patchword.inspect import subspace as subspaces
from patchword.inspect.conformal import benjamini_hochberg, p_values, rank, threshold
from patchword.inspect.coreset import coreset, distances
from patchword.inspect.features import Patches
from patchword.inspect.foreground import first_component, foreground
from patchword.inspect.memory import Memory, reweighted
from patchword.inspect.rotations import rotated
from patchword.inspect.scores import smooth_map, top_share
from patchword.inspect.subspace import Subspace

GRID = Geometry((14, 14), (14, 14), (0, 0), (14, 14))


@pytest.fixture(autouse=True)
def given_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are their own patch features."""

    def patches(model: object, photos: Iterable[Tensor], view: object) -> Iterator[Patches]:
        for photo in photos:
            yield Patches(photo[None], GRID)

    for module in (memories, subspaces):
        monkeypatch.setattr(module, "patches_each", patches)
        monkeypatch.setattr(module, "with_layers", lambda model, view: view)


def inputs(name: str) -> Tensor:
    return arrays("anomaly/inputs")[name]


@pytest.mark.parametrize("neighbours", [1, 3])
def test_memory(neighbours: int) -> None:
    expected, method = arrays("anomaly/anomalydino"), Memory(neighbours=neighbours)
    found = list(method.score(None, method.fit(None, inputs("a_train")), inputs("a_test")))
    key = f"a.L2_normalized.nn{neighbours}"
    grids = np.stack([each.grid for each in found])
    assert_close(torch.from_numpy(grids), expected[f"{key}.patch"], rtol=0, atol=1e-5)
    scores = torch.tensor([each.score for each in found])
    assert_close(scores, expected[f"{key}.score"], rtol=0, atol=1e-5)
    maps = np.stack([smooth_map(grid, 84, 84)[::2, ::2] for grid in grids])
    assert_close(torch.from_numpy(maps), expected[f"{key}.map"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("of_good", [False, True])
def test_the_mask_of_the_object(of_good: bool) -> None:
    expected = arrays("anomaly/anomalydino")
    method = Memory(foreground=10, mask_good=of_good)
    key = "m.L2_normalized.nn1.mask" + ".maskref" * of_good
    good, seen = inputs("m_train"), inputs("m_test")
    for photo, mask, component in zip(
        seen, expected[f"{key}.mask"], expected[f"{key}.pc1"], strict=True
    ):
        rows = photo.flatten(0, 1)
        assert_close(first_component(rows).float(), component.flatten(), rtol=1e-4, atol=1e-3)
        assert torch.equal(foreground(rows, (14, 14), 10), mask.flatten() > 0)
    found = list(method.score(None, method.fit(None, good), seen))
    grids = torch.from_numpy(np.stack([each.grid for each in found]))
    assert_close(grids, expected[f"{key}.patch"], rtol=0, atol=1e-5)
    scores = torch.tensor([each.score for each in found])
    assert_close(scores, expected[f"{key}.score"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [99, 100, 199, 250])
def test_the_top_percent(count: int) -> None:
    golden = arrays("anomaly/anomalydino")
    expected = float(golden[f"top1p.n{count}.score"])
    assert top_share(golden[f"top1p.n{count}.x"]) == pytest.approx(expected, abs=1e-6)


def test_rotations() -> None:
    golden = arrays("anomaly/anomalydino")
    found = np.stack(list(rotated(golden["rotate.in"].numpy())))
    off = np.abs(found.astype(int) - golden["rotate.out"].numpy().astype(int))
    assert off.max() <= 6  # OpenCV's weights are multiples of 1/32: up to 255 / 32, and rounding
    assert off.mean() < 0.75


ANOMALIB = [key[: -len(".coreset")] for key in options("patchcore_anomalib") if "coreset" in key]


def embedded(layers: str) -> tuple[Tensor, Tensor]:
    """PatchCore's features of the good photos and of the others, (N, 32), as anomalib makes them:
    3 x 3 means with zeros beyond the border, a second layer enlarged to the first."""

    def made(photos: Tensor) -> Tensor:
        x = photos.movedim(-1, 1)
        if layers == "two":
            small = torch.nn.functional.avg_pool2d(x[:, 20:], 2)
            parts = [x[:, :20], small]
        else:
            parts = [x]
        pooled = [torch.nn.functional.avg_pool2d(part, 3, 1, 1) for part in parts]
        whole = [pooled[0]] + [
            torch.nn.functional.interpolate(part, (14, 14), mode="bilinear") for part in pooled[1:]
        ]
        return torch.cat(whole, dim=1).movedim(1, -1).reshape(-1, 32)

    return made(inputs("a_train")), made(inputs("a_test"))


@pytest.mark.parametrize("name", ANOMALIB)
def test_coreset_and_reweighting_of_anomalib(name: str) -> None:
    golden = arrays("anomaly/patchcore_anomalib")
    stated = options("patchcore_anomalib")[f"{name}.coreset"]
    good, seen = embedded(name.split(".")[1])
    assert_close(seen[:196], golden[f"a.{name.split('.')[1]}.embedding_test0"])
    chosen = golden[f"{name}.coreset"]
    rows = good @ golden[f"{name}.projection"].T if stated["coreset"] == "proj" else good
    found = coreset(rows, len(chosen), distances(rows, rows[stated["first"]]))
    assert torch.equal(found.int(), chosen)
    bank = good[found]
    apart = torch.cdist(seen.double(), bank.double())
    least = apart.min(dim=1)
    grids = least.values.reshape(4, 14, 14)
    assert_close(grids.float(), golden[f"{name}.patch"], rtol=2e-3, atol=1e-5)
    for number, score in enumerate(golden[f"{name}.score"].tolist()):
        worst = int(grids[number].argmax()) + 196 * number
        value = reweighted(seen[worst], bank, int(least.indices[worst]), stated["num_neighbors"])
        assert value == pytest.approx(score, rel=1e-4)


def amazon(pretrain: int, target: int) -> tuple[Tensor, Tensor]:
    """PatchCore's features (N, target) as the authors' code makes them: 3 x 3 patches, zeros
    beyond the border, the second layer's enlarged to the first's grid, each adaptively averaged."""

    def patches(x: Tensor) -> Tensor:
        unfolded = torch.nn.functional.unfold(x, 3, padding=1)
        return unfolded.unflatten(2, x.shape[-2:])  # (B, C * 9, h, w)

    def made(photos: Tensor) -> Tensor:
        x = photos.movedim(-1, 1)
        second = patches(torch.nn.functional.avg_pool2d(x[:, 20:], 2))
        second = torch.nn.functional.interpolate(second, (14, 14), mode="bilinear")
        layers = [part.movedim(1, -1).flatten(0, 2) for part in (patches(x[:, :20]), second)]
        mean = torch.nn.functional.adaptive_avg_pool1d
        return mean(torch.cat([mean(each, pretrain) for each in layers], dim=1), target)

    return made(inputs("a_train")), made(inputs("a_test"))


@pytest.mark.parametrize("name", ["greedy.24_32", "greedy.20_40", "approx.24_32"])
def test_coreset_of_the_authors(name: str) -> None:
    golden = arrays("anomaly/patchcore_amazon")
    kind, dimensions = name.split(".")
    good, seen = amazon(*map(int, dimensions.split("_")))
    if kind == "greedy":
        assert_close(seen[:196], golden[f"a.{name}.embedding_test0"])
        apart = torch.cdist(good, good).norm(dim=1)
    else:
        starts = golden[f"a.{name}.start"].long()
        apart = torch.stack([distances(good, good[one]) for one in starts]).mean(dim=0)
    chosen = golden[f"a.{name}.coreset"]
    found = coreset(good, len(chosen), apart)
    assert torch.equal(found.int(), chosen)
    squared = torch.cdist(seen.double(), good[found].double()).min(dim=1).values.square()
    grids = squared.reshape(4, 14, 14).float()
    assert_close(grids, golden[f"a.{name}.patch"], rtol=1e-4, atol=1e-6)
    assert_close(grids.amax(dim=(1, 2)), golden[f"a.{name}.score"], rtol=1e-4, atol=1e-6)


SUBSPACES = {
    "ev0.99_kNone": Subspace(),
    "ev0.9_kNone": Subspace(variance=0.9),
    "evNone_k8": Subspace(components=8),
}


@pytest.mark.parametrize("name", SUBSPACES)
def test_subspace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden, method = arrays("anomaly/subspacead"), SUBSPACES[name]
    whole = Geometry((84, 84), (84, 84), (0, 0), (84, 84))
    monkeypatch.setattr(f"{__name__}.GRID", whole)
    state = method.fit(None, inputs("a_train"))
    assert state["components"].shape[1] == len(golden[f"a.{name}.eigvals"])
    found = list(method.score(None, state, inputs("a_test")))
    key = f"a.{name}.reconstruction"
    grids = torch.from_numpy(np.stack([each.grid for each in found]))
    assert_close(grids, golden[f"{key}.patch"], rtol=1e-4, atol=1e-6)
    scores = torch.tensor([each.score for each in found])
    assert_close(scores, golden[f"{key}.score"], rtol=1e-4, atol=1e-6)
    if f"{key}.map" in golden:
        maps = [smooth_map(g, 84, 84, 0.25, "mirror")[::2, ::2] for g in grids.numpy()]
        assert_close(torch.from_numpy(np.stack(maps)), golden[f"{key}.map"], rtol=1e-4, atol=1e-6)


CALIBRATIONS = ["c19", "c20", "c99", "c199", "c60_ties", "c299"]


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_conformal_thresholds_and_p_values(name: str) -> None:
    golden = arrays("metrics/metrics")
    scores, new = golden[f"{name}.calibration"].numpy(), golden[f"{name}.new"].numpy()
    assert np.array_equal(p_values(scores, new), golden[f"{name}.p"].numpy())
    for rate, k, tau in golden[f"{name}.table"].tolist():
        assert rank(len(scores), rate) == k
        assert threshold(scores, rate, None) == tau


def test_ranks_with_confidence_and_rejected_lists() -> None:
    golden = arrays("metrics/metrics")
    for count, k in golden["tolerance_table"].int().tolist():
        found = rank(count, 0.01, 0.95)
        assert found == (k if k > 0 else count + 1)
    for rate in (0.05, 0.1, 0.2):
        expected = golden[f"bh.reject_{rate}"].bool().numpy()
        assert np.array_equal(benjamini_hochberg(golden["bh.p"].numpy(), rate), expected)
