"""Methods that find defects, against formulas in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import patchword
from patchword.errors import UnsupportedError
from patchword.inspect.features import layout, patches_each, tiles, window
from patchword.inspect.memory import Memory, nearest, unit
from patchword.inspect.protocol import View
from patchword.inspect.scores import top_share


@pytest.fixture(scope="module")
def model() -> patchword.Model:
    return patchword.load("demo")


def photo(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_patches_of_one_tile_are_the_networks_own_after_the_final_norm(model) -> None:
    size = window(model)
    seen = photo(1, *size)
    pixels = model.tensor(model.preprocess(seen)[0])[None]
    with torch.inference_mode():
        tower = model.image_tower
        expected = tower.hidden_states(pixels, -1, norm=True)[0, tower.patches(size)]
        third = tower.hidden_states(pixels, 3, norm=False)[0, tower.patches(size)]
    (found,) = patches_each(model, [seen], View())
    assert_close(found.rows, expected)
    (found,) = patches_each(model, [seen], View(layers=(2, -1)))
    assert_close(found.values[0].flatten(0, 1), third)
    assert found.rows.shape == (len(expected), 2 * expected.shape[1])


def test_a_photo_of_several_tiles_is_one_grid_without_gap(model) -> None:
    side = window(model)[0]
    seen = photo(2, 2 * side, 3 * side)
    view = View(short_side=2 * side)
    (found,) = patches_each(model, [seen], view)
    h, w = model.image_tower.grid(window(model))
    assert found.values.shape[1:3] == (2 * h, 3 * w)
    part = np.ascontiguousarray(seen[side:, side : 2 * side])
    (alone,) = patches_each(model, [part], View())
    assert_close(found.values[:, h:, w : 2 * w], alone.values)
    assert found.geometry.source == found.geometry.size == seen.shape[:2]


def test_photos_of_all_sizes_come_in_order_and_as_alone(model) -> None:
    several = [photo(i, 30 + 50 * (i % 3), 40 + 20 * i) for i in range(12)]
    together = list(patches_each(model, iter(several), View()))
    for seen, found in zip(several, together, strict=True):
        (alone,) = patches_each(model, [seen], View())
        assert_close(found.values, alone.values)
        assert found.geometry.source == seen.shape[:2]


def test_a_photo_of_too_many_tiles_and_a_layer_that_is_not_there_are_refused(model) -> None:
    with pytest.raises(UnsupportedError, match=r"1 x 2000 px take 2,000 tiles"):
        tiles(model, photo(0, 2000, 1), View())
    with pytest.raises(UnsupportedError, match=r"no layer 99"):
        list(patches_each(model, [photo(0)], View(layers=(99,))))
    assert layout(model, 1000, 10, View()) == (100, 1)


def test_memory_is_the_distance_to_the_nearest_good_patch(model) -> None:
    good, seen = [photo(i) for i in range(3)], photo(9)
    (own,) = patches_each(model, [seen], View())
    bank = torch.cat([each.rows for each in patches_each(model, good, View())]).double()
    rows = own.rows.double()
    cosines = (rows / rows.norm(dim=1, keepdim=True)) @ (bank / bank.norm(dim=1, keepdim=True)).mT
    for method in (Memory(), Memory(neighbours=3)):
        state = method.fit(model, good)
        (found,) = method.score(model, state, [seen])
        expected = (1 - cosines).sort(dim=1).values[:, : method.neighbours].mean(dim=1)
        assert_close(torch.from_numpy(found.grid).flatten().double(), expected, rtol=0, atol=1e-5)
        assert found.score == pytest.approx(float(expected.max()), abs=1e-5)
    (same,) = Memory().score(model, Memory().fit(model, good), [good[1]])
    assert same.score < 1e-5


def test_nearest_is_the_same_in_parts(model, monkeypatch) -> None:
    rows, bank = unit(torch.randn(50, 8)), unit(torch.randn(30, 8))
    whole = nearest(rows, bank, 4)
    monkeypatch.setattr("patchword.inspect.memory.ROWS", 100)
    parts = nearest(rows, bank, 4)
    assert_close(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert (1 - rows @ bank.mT).min(dim=1).values.sub(whole[0][:, 0]).abs().max() < 1e-6


def test_the_top_share_counts_down(model) -> None:
    values = torch.arange(400.0)
    assert top_share(values) == (399 + 398 + 397 + 396) / 4
    assert top_share(values[:199]) == 198
    assert top_share(values[:250]) == (249 + 248) / 2
    assert replace(Memory(), neighbours=2).view == View()
