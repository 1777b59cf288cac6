"""Methods that find defects, against formulas in float64."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import patchword
from patchword.errors import SampledWarning, UnsupportedError
from patchword.inspect.bank import Bank
from patchword.inspect.coreset import coreset, start_distances
from patchword.inspect.features import layout, patches_each, tiles, window, with_layers
from patchword.inspect.foreground import first_component, foreground
from patchword.inspect.memory import Memory, nearest, reweighted, unit
from patchword.inspect.protocol import View
from patchword.inspect.rotations import rotated
from patchword.inspect.scores import smooth_map, top_share
from patchword.inspect.subspace import Subspace, principal


@pytest.fixture(scope="module")
def model() -> patchword.Model:
    return patchword.load("demo")


def photo(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_patches_of_one_tile_are_the_networks_own_after_the_final_norm(model) -> None:
    size = window(model)
    image = photo(1, *size)
    pixels = model.tensor(model.preprocess(image)[0])[None]
    with torch.inference_mode():
        tower = model.image_tower
        expected = tower.hidden_states(pixels, -1, norm=True)[0, tower.patches(size)]
        third = tower.hidden_states(pixels, 3, norm=False)[0, tower.patches(size)]
    (patches,) = patches_each(model, [image], View())
    assert_close(patches.rows, expected)
    (patches,) = patches_each(model, [image], View(layers=(2, -1)))
    assert_close(patches.values[0].flatten(0, 1), third)
    assert patches.rows.shape == (len(expected), 2 * expected.shape[1])


def test_a_photo_of_several_tiles_is_one_grid_without_gap(model) -> None:
    side = window(model)[0]
    image = photo(2, 2 * side, 3 * side)
    view = View(short_side=2 * side)
    (patches,) = patches_each(model, [image], view)
    h, w = model.image_tower.grid(window(model))
    assert patches.values.shape[1:3] == (2 * h, 3 * w)
    tile = np.ascontiguousarray(image[side:, side : 2 * side])
    (alone,) = patches_each(model, [tile], View())
    assert_close(patches.values[:, h:, w : 2 * w], alone.values)
    assert patches.geometry.source == patches.geometry.size == image.shape[:2]


def test_photos_of_all_sizes_come_in_order_and_as_alone(model) -> None:
    images = [photo(i, 30 + 50 * (i % 3), 40 + 20 * i) for i in range(12)]
    together = list(patches_each(model, iter(images), View()))
    for image, patches in zip(images, together, strict=True):
        (alone,) = patches_each(model, [image], View())
        assert_close(patches.values, alone.values)
        assert patches.geometry.source == image.shape[:2]


def test_a_photo_of_too_many_tiles_and_a_layer_that_is_not_there_are_refused(model) -> None:
    with pytest.raises(UnsupportedError, match=r"1 x 2000 px take 2,000 tiles"):
        tiles(model, photo(0, 2000, 1), View())
    with pytest.raises(UnsupportedError, match=r"no layer 99"):
        list(patches_each(model, [photo(0)], View(layers=(99,))))
    assert layout(model, 1000, 10, View()) == (100, 1)


def test_memory_is_the_distance_to_the_nearest_good_patch(model) -> None:
    good, image = [photo(i) for i in range(3)], photo(9)
    view = with_layers(model, View())
    (own,) = patches_each(model, [image], view)
    bank = torch.cat([each.rows for each in patches_each(model, good, view)]).double()
    rows = own.rows.double()
    cosines = (rows / rows.norm(dim=1, keepdim=True)) @ (bank / bank.norm(dim=1, keepdim=True)).mT
    for method in (Memory(), Memory(neighbours=3)):
        state = method.fit(model, good)
        (finding,) = method.score(model, state, [image])
        expected = (1 - cosines).sort(dim=1).values[:, : method.neighbours].mean(dim=1)
        assert_close(torch.from_numpy(finding.grid).flatten().double(), expected, rtol=0, atol=1e-5)
        assert finding.score == pytest.approx(float(expected.max()), abs=1e-5)
    (finding_of_good,) = Memory().score(model, Memory().fit(model, good), [good[1]])
    assert finding_of_good.score < 1e-5


def test_nearest_is_the_same_in_parts(model, monkeypatch) -> None:
    rows, bank = unit(torch.randn(50, 8)), unit(torch.randn(30, 8))
    whole = nearest(rows, bank, 4)
    monkeypatch.setattr("patchword.inspect.memory.BLOCK", 100)
    in_blocks = nearest(rows, bank, 4)
    assert_close(whole[0], in_blocks[0])
    assert torch.equal(whole[1], in_blocks[1])
    assert (1 - rows @ bank.mT).min(dim=1).values.sub(whole[0][:, 0]).abs().max() < 1e-6


def test_the_top_share_counts_down(model) -> None:
    values = torch.arange(400.0)
    assert top_share(values) == (399 + 398 + 397 + 396) / 4
    assert top_share(values[:199]) == 198
    assert top_share(values[:250]) == (249 + 248) / 2
    assert replace(Memory(), neighbours=2).view == View()


def test_the_coreset_takes_the_farthest_each_time_and_bounds_the_memory(model, monkeypatch) -> None:
    rows = torch.randn(300, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    start = start_distances(rows)
    chosen, nearest_so_far = [], start.double().clone()
    for _ in range(40):
        chosen.append(int(nearest_so_far.argmax()))
        nearest_so_far = torch.minimum(nearest_so_far, (rows - rows[chosen[-1]]).norm(dim=1))
    assert coreset(rows, 40, start).tolist() == chosen
    good = [photo(i) for i in range(4)]
    full = Memory().fit(model, good)["bank"]
    small = Memory(coreset=0.25, half=True)
    assert small.fit(model, good)["bank"].shape == (len(full) // 4, full.shape[1])
    monkeypatch.setattr("patchword.inspect.bank.BLOCK", full.nbytes // 8)
    bank = small.fit(model, good)["bank"]
    assert bank.dtype == torch.float16
    assert len(bank) == len(full) // 4
    assert_close(Memory().fit(model, good)["bank"], full)


def test_of_more_patches_than_are_kept_each_has_the_same_chance(monkeypatch) -> None:
    monkeypatch.setattr("patchword.inspect.bank.BLOCK", 40)
    rows, counts = torch.arange(60.0)[:, None], torch.zeros(60)
    for seed in range(400):
        monkeypatch.setattr("patchword.inspect.bank.SEED", seed)
        bank = Bank(1.0, 20, False)
        for part in rows.split(15):
            bank.add(part)
            assert sum(map(len, bank.sample)) <= 20 + 10
        with pytest.warns(SampledWarning, match="of 60 good patches 20 are kept"):
            sample = bank.rows()[:, 0]
        assert sample.tolist() == sorted({*sample.tolist()})
        assert len(sample) == 20
        counts[sample.long()] += 1
    # Binomial(400, 1/3): 133.3, standard deviation 9.4.
    assert (counts - 400 / 3).abs().max() < 4.5 * 9.43


def test_what_is_not_the_object_does_not_count(model) -> None:
    """The first component by numpy, the mask by hand."""
    rows = torch.randn(30, 7, generator=torch.manual_seed(2)) * torch.arange(1.0, 8)
    centred = rows.double().numpy() - rows.double().numpy().mean(axis=0)
    axis = np.linalg.svd(centred)[2][0]
    expected = centred @ axis * np.sign(axis[np.abs(axis).argmax()])
    assert np.allclose(first_component(rows), expected)
    # Four of the nine patches in the middle (3 to 11 of the first row) are on, and one at the end.
    line = torch.zeros(30, 1)
    line[[3, 5, 7, 9, 14]] = 100.0
    assert foreground(line, (2, 15), 50).nonzero().flatten().tolist() == list(range(2, 16))
    # On are those around the middle: the object is what is below.
    around = torch.full((100, 1), 10.0)
    around.view(10, 10)[3:7, 3:7] = 0.0
    mask = foreground(around, (10, 10), 3).reshape(10, 10)
    assert mask[5].nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7]
    assert not mask[:2].any()
    good, image = [photo(i) for i in range(2)], photo(9)
    state = Memory().fit(model, good)
    (plain,) = Memory().score(model, state, [image])
    (masked_finding,) = Memory(foreground=0).score(model, state, [image])
    is_object = masked_finding.grid > 0
    assert 0 < is_object.sum() < is_object.size
    assert np.array_equal(masked_finding.grid[is_object], plain.grid[is_object])
    # Of good photos as of those: what is cut off is not learned from.
    masked = Memory(foreground=0, mask_good=True).fit(model, good)["bank"]
    (first, second) = ({row.tobytes() for row in bank.numpy()} for bank in (masked, state["bank"]))
    other = Memory().fit(model, [image])
    object_masks = [each.grid > 0 for each in Memory(foreground=0).score(model, other, good)]
    assert first < second
    assert len(masked) == sum(map(np.sum, object_masks))
    # Where nothing is the object, a photo scores 0 by each of the two scores.
    for weighted in (False, True):
        method = Memory(foreground=1e9, reweight=weighted)
        (nothing,) = method.score(model, state, [image])
        assert (nothing.score, nothing.grid.any()) == (0.0, False)
    with pytest.raises(UnsupportedError, match="no patch of the good photos is the object"):
        Memory(foreground=1e9, mask_good=True).fit(model, good)


def test_the_score_is_reweighted_by_the_neighbours_of_the_nearest(model) -> None:
    rows = torch.randn(40, 5, dtype=torch.float64, generator=torch.manual_seed(1))
    row, closest = rows[0], int((rows[1:] - rows[0]).norm(dim=1).argmin())
    bank = rows[1:]
    around = (bank - bank[closest]).norm(dim=1).argsort()[:9]
    powers = (bank[around] - row).norm(dim=1).exp()
    expected = (1 - powers[0] / powers.sum()) * (bank[closest] - row).norm()
    assert reweighted(row, bank, closest) == pytest.approx(float(expected), rel=1e-9)
    assert reweighted(row, bank, closest, 1) == pytest.approx(float((bank[closest] - row).norm()))
    alone = float((bank[3] - row).norm())  # of a single patch there are no others to weigh it by
    assert reweighted(row, bank[3:4], 0) == pytest.approx(alone)
    (finding,) = Memory(reweight=True).score(model, Memory().fit(model, [photo(0)]), [photo(1)])
    assert 0 < finding.score < (2 * float(finding.grid.max())) ** 0.5
    broken = {"bank": Memory().fit(model, [photo(0)])["bank"] * np.nan}
    (finding,) = Memory(reweight=True).score(model, broken, [photo(1)])
    assert np.isnan(finding.score)  # what is no number is not as good as can be


def test_a_photo_in_rotations_turns_about_its_middle() -> None:
    image = photo(3, 33, 33)
    rotations = list(rotated(image))
    assert len(rotations) == 8
    assert np.array_equal(rotations[0], image)
    # About (16.5, 16.5): a half turn takes pixel 17 + d to 16 - d.
    assert np.array_equal(rotations[4][1:, 1:], image[:0:-1, :0:-1])


def test_patches_that_are_all_alike_have_no_components() -> None:
    assert principal(torch.zeros(5, 5, dtype=torch.float64), 0.99).shape == (5, 0)


def test_what_the_principal_components_leave_over(model) -> None:
    good, image = [photo(i) for i in range(3)], photo(9)
    view = with_layers(model, View())
    rows = torch.cat([each.rows for each in patches_each(model, good, view)]).double().numpy()
    (patches,) = patches_each(model, [image], view)
    centred = rows - rows.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    shares = np.cumsum(values**2) / np.sum(values**2)
    for method in (Subspace(variance=0.8), Subspace(components=5)):
        count = method.components or int(np.searchsorted(shares, 0.8)) + 1
        residual = patches.rows.double().numpy() - rows.mean(axis=0)
        residual = residual - residual @ axes[:count].T @ axes[:count]
        state = method.fit(model, good)
        assert state["components"].shape[1] == count
        (finding,) = method.score(model, state, [image])
        expected = (residual**2).sum(axis=1).reshape(finding.grid.shape)
        assert np.allclose(finding.grid, expected, rtol=1e-4, atol=1e-6)
        pixels = smooth_map(finding.grid, *finding.geometry.size, 0.25, "mirror")
        highest = np.sort(pixels.astype(float).ravel())[-int(0.01 * pixels.size) :]
        assert finding.score == pytest.approx(highest.mean())
    for options in ({"components": 192}, {"components": 1000}):
        with pytest.raises(
            UnsupportedError, match=r"components is 1\d+: that is all 192 .*take less"
        ):
            Subspace(**options).fit(model, good)


def test_options_that_cannot_be_are_refused() -> None:
    for make in (
        lambda: Memory(coreset=0),
        lambda: Memory(neighbours=0),
        lambda: Memory(patches=0),
        lambda: Memory(foreground=-1),
        lambda: Memory(mask_good=True),
        lambda: Subspace(variance=1.5),
        lambda: Subspace(components=0),
    ):
        with pytest.raises(UnsupportedError, match=r"it is|needs foreground"):
            make()


def test_samples_with_a_defect_are_found_from_three_without(model) -> None:
    """The numbers that the README has for inspect."""
    samples = patchword.find_images("samples/wafers")
    good = [path for path in samples if "perfect" in path]
    inspections = patchword.inspector(model, good).inspect([p for p in samples if p not in good])
    missed = [Path(each.path).stem for each in inspections if not each.rejected]
    assert (len(good), len(inspections), missed) == (3, 15, ["scratch-2"])


def test_a_network_of_words_is_read_in_its_middle_unless_measured(model) -> None:
    depth = len(model.image_tower.layer_names)
    other = replace(model, config=replace(model.config, defect_layers=()))
    assert with_layers(other, View(short_side=200)) == View((depth // 2 - 1,), 200)
    assert with_layers(model, View(short_side=200)) == View((0,), 200)
    assert with_layers(model, View((0,))) == View((0,))
