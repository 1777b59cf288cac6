"""Methods that need no good photos, words, or one golden photo: against formulas in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.testing import assert_close

import patchword
from patchword.errors import ImageWarning, ScopeWarning, UnsupportedError
from patchword.inspect.features import quarters, window
from patchword.inspect.mutual import Mutual, mutual_scores, neighbourhood, rescored
from patchword.inspect.photos import found_each
from patchword.inspect.prompts import BAD, GOOD, TEMPLATES, sentences
from patchword.inspect.protocol import View
from patchword.inspect.reference import Reference, distance_around
from patchword.inspect.registration import Motion, correlation, register
from patchword.inspect.winclip import WinCLIP, prototypes
from patchword.inspect.windows import sliding
from patchword.scope import Check


@pytest.fixture(scope="module")
def model() -> patchword.Model:
    return patchword.load("demo")


def photo(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_neighbourhoods_are_means_of_normalised_tokens() -> None:
    values = torch.randn(4, 5, 6, generator=torch.manual_seed(0)).double()
    plain = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
    actual = neighbourhood(values, 3)
    around = torch.zeros(6, dtype=torch.double)
    for y, x in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)):
        around += plain[y, x] / 9
    assert_close(actual[0, 2], around / around.norm())


def test_mutual_scores_are_distances_to_the_nearest_photos() -> None:
    rng = torch.manual_seed(1)
    rows = [F.normalize(torch.randn(n, 8, generator=rng).double(), dim=1) for n in (5, 7, 4, 6, 5)]
    actual = mutual_scores(rows, 0.5)  # of the four others, two
    for i, own in enumerate(rows):
        for number, row in enumerate(own):
            others = [each for j, each in enumerate(rows) if j != i]
            nearest = sorted(float((other - row).norm(dim=1).min()) for other in others)
            assert actual[i][number].item() == pytest.approx(sum(nearest[:2]) / 2)


def test_scores_of_the_most_alike() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    scores = torch.tensor([1.0, 2.0, 4.0])
    actual = rescored(scores, vectors, (1, 2))
    first = (1 + (1 * 1 + 0.8 * 2) / 1.8) / 2
    assert_close(actual[0].item(), first, rtol=1e-6, atol=0)
    assert_close(rescored(scores, vectors, (9,))[2].item(), (0.6 * 2 + 4) / 1.6, rtol=1e-6, atol=0)


def test_the_photo_that_is_unlike_the_others_is_found(model) -> None:
    """Photos of two sizes, one with a mark."""
    plain = np.full((120, 120, 3), 90, np.uint8) + (photo(1, 120, 120) // 16)
    photos = [plain + (photo(seed, 120, 120) // 64) for seed in range(6)]
    photos[2] = np.ascontiguousarray(photos[2][:110])
    photos[4][30:50, 70:90] = (250, 30, 30)
    actual = list(Mutual().score(model, Mutual().fit(model, []), photos))
    assert np.argmax([each.score for each in actual]) == 4
    assert actual[2].geometry.source == (110, 120)
    place = np.unravel_index(actual[4].grid.argmax(), actual[4].grid.shape)
    assert (
        place[0] / actual[4].grid.shape[0],
        place[1] / actual[4].grid.shape[1],
    ) == pytest.approx((40 / 120, 80 / 120), abs=1.5 / 12)
    assert quarters(model) == (0, 2, 3, 5)
    with pytest.raises(UnsupportedError, match="at least two"):
        list(Mutual().score(model, {}, photos[:1]))
    assert list(Mutual().score(model, {}, [])) == []


def test_sentences_have_the_published_structure() -> None:
    assert (len(GOOD), len(BAD), len(TEMPLATES)) == (7, 4, 11)
    actual = sentences("wafer", GOOD)
    assert len(actual) == len(set(actual)) == 7 * 22
    assert actual[0] == "a photo of a wafer"
    assert "a photo of an intact wafer" in actual
    assert all("{" not in each for each in actual)


def test_prototypes_are_means_before_they_are_normalised(model) -> None:
    good, bad = ("clean {}",), ("{} with a scratch",)
    with pytest.warns(ScopeWarning, match="does not know"):
        actual = prototypes(model, "zebra", good, bad)
    ids = model.tokenizer(sentences("zebra", bad))
    want = model.engine.encode_text(ids).astype(np.float64).mean(axis=0)
    assert_close(actual[1].double(), torch.from_numpy(want), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::patchword.errors.ScopeWarning")
@pytest.mark.parametrize("exact", [True, False])
def test_winclip_by_hand(model, exact: bool, monkeypatch) -> None:
    """The value of one patch, in float64, without and with good photos, these block by block."""
    monkeypatch.setattr("patchword.inspect.windows.BLOCK", 50)
    method = WinCLIP(subject="wafer", exact=exact, temperature=0.5)
    size = window(model)
    good, seen = photo(3, *size), photo(4, *size)
    state = method.fit(model, [good])
    vectors = [
        method.vectors(model, model.tensor(model.preprocess(each)[0])[None])
        for each in (good, seen)
    ]
    texts = F.normalize(state["prototypes"].double(), dim=1)

    def bad(rows: torch.Tensor) -> torch.Tensor:
        rows = F.normalize(rows.double(), dim=-1)
        return torch.sigmoid((rows @ texts[1] - rows @ texts[0]) / 0.5)

    def unlike(rows: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        rows, known = F.normalize(rows.double(), dim=-1), F.normalize(known.double(), dim=-1)
        return torch.stack([min((1 - row @ other) / 2 for other in known) for row in rows])

    image, patch = bad(vectors[1].image[0]), 15  # row 1, column 3 of 12 x 12
    scales, known = [image], [unlike(vectors[1].patches[0, [patch]], vectors[0].patches[0])[0]]
    for place, side in enumerate((2, 3)):
        cover = (sliding((12, 12), side) == patch).any(dim=1)
        rows = vectors[1].windows[place][0, cover]
        scales.append(1 / (1 / bad(rows)).mean())
        known.append(1 / (1 / unlike(rows, vectors[0].windows[place][0])).mean())
    zero = 3 / sum(1 / each for each in scales)
    (actual,) = method.score(model, {"prototypes": state["prototypes"]}, [seen])
    assert_close(float(actual.score), float(image), rtol=1e-4, atol=0)
    assert_close(float(actual.grid[1, 3]), float(zero), rtol=1e-4, atol=0)
    (few,) = method.score(model, state, [seen])
    assert_close(float(few.grid[1, 3]), float((zero + sum(known) / 3) / 2), rtol=1e-4, atol=0)
    (own,) = method.score(model, state, [good])
    assert_close(own.score, float(bad(vectors[0].image[0])) / 2, rtol=1e-3, atol=0)


@pytest.mark.filterwarnings("ignore::patchword.errors.ScopeWarning")
def test_a_photo_of_several_tiles_has_the_score_of_the_worst(model) -> None:
    side = window(model)[0]
    whole = photo(5, side, 2 * side)
    method = WinCLIP(exact=False, view=View(short_side=side))
    state = method.fit(model, [])
    halves = [np.ascontiguousarray(whole[:, :side]), np.ascontiguousarray(whole[:, side:])]
    (both,) = method.score(model, state, [whole])
    alone = list(method.score(model, state, halves))
    assert both.score == pytest.approx(max(each.score for each in alone), rel=1e-5)
    np.testing.assert_allclose(
        both.grid, np.concatenate([each.grid for each in alone], axis=1), rtol=1e-5
    )


def board(seed: int, height: int = 200, width: int = 240) -> np.ndarray:
    """Lines of a few pixels, as of a circuit."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3), np.uint8)
    for _ in range(25):
        y, x, long = rng.integers(0, height), rng.integers(0, width), rng.integers(20, 120)
        if rng.random() < 0.5:
            out[y : y + 5, x : x + long] = 230
        else:
            out[y : y + long, x : x + 5] = 230
    return out


@pytest.mark.parametrize(
    "motion", [Motion(), Motion(0, 0.05, -0.1), Motion(1.2, -0.02, 0.03), Motion(-2.9, 0.01, 0)]
)
def test_a_motion_is_found_again(motion: Motion) -> None:
    photo = board(3)
    result = register(photo, motion.apply(photo))
    assert result.turn == pytest.approx(motion.turn, abs=0.15)
    assert result.down == pytest.approx(motion.down, abs=0.004)
    assert result.right == pytest.approx(motion.right, abs=0.004)
    if motion == Motion():
        assert result == motion


def test_photos_of_other_things_are_not_moved() -> None:
    plain = np.full((60, 80, 3), 120, np.uint8)
    assert register(plain, plain) == Motion()
    assert register(plain, board(1, 60, 80)) == Motion()


def test_values_are_those_of_the_most_like_place_around() -> None:
    rng = torch.manual_seed(2)
    rows, golden = (F.normalize(torch.randn(4, 5, 7, generator=rng), dim=-1) for _ in range(2))
    for radius in (0, 1, 9):
        actual = distance_around(rows, golden, radius)
        for y in range(4):
            for x in range(5):
                near = golden[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) :][
                    :, : min(x, radius) + radius + 1
                ]
                best = (near.double() @ rows[y, x].double()).max()
                assert_close(actual[y, x].double(), 1 - best, rtol=0, atol=1e-6)


def test_what_a_golden_photo_lacks_is_found_where_it_is(model, tmp_path: Path) -> None:
    """Also on a photo that lies elsewhere; a margin that the golden one does not show is good."""
    golden = board(5)
    bad = golden.copy()
    bad[120:132, 64:76] = 160  # in the middle of a patch
    method = Reference(view=View(layers=(0,)))
    state = method.fit(model, [golden])
    assert quarters(model)[:1] == (0,)
    (same,) = method.score(model, state, [golden])
    assert same.score == pytest.approx(0, abs=1e-6)
    moved = Motion(1.0, 0.04, -0.06)
    pictures = [tmp_path / "still.png", tmp_path / "moved.png"]
    for path, photo in zip(pictures, [bad, moved.apply(bad)], strict=True):
        Image.fromarray(photo).save(path)
    said = r"1 of 2 photos lies in part outside .* not compared: \d+% of moved.png"
    with pytest.warns(ImageWarning, match=said) as told:
        each = list(found_each(model, method, state, pictures, Check(None, "")))
    assert len(told) == 1
    (_, (_, still)), (_, (_, actual)) = each
    place = np.unravel_index(still.grid.argmax(), still.grid.shape)
    assert (place[0], place[1]) == (126 * 12 // 200, 70 * 12 // 240)
    square = np.zeros(golden.shape, np.uint8)
    square[120:132, 64:76] = 255
    there = moved.apply(square)[..., 0] > 128
    rows, columns = np.nonzero(there)
    place = np.unravel_index(actual.grid.argmax(), actual.grid.shape)
    assert abs(place[0] - int(rows.mean() * 12 / 200)) <= 1  # in a patch of the mark or beside it
    assert abs(place[1] - int(columns.mean() * 12 / 240)) <= 1
    assert (actual.grid[:, -1] == 0).all()  # what the golden photo does not show
    fixed = Reference(view=View(layers=(0,)), align=False)
    (loose,) = fixed.score(model, state, [moved.apply(bad)])
    assert loose.score > 2 * actual.score or loose.grid[:, -1].max() > 0


def test_a_shift_alone_blurs_nothing() -> None:
    """By whole pixels: 2.4 of 240 to the right is 2, and a turned photo is interpolated."""
    golden = board(5)
    moved = Motion(0.0, 0.0, 2.4 / 240).apply(golden)
    np.testing.assert_array_equal(moved[:, 2:], golden[:, :-2])
    assert not moved[:, :2].any()


def test_golden_photos_of_another_size_and_several(model) -> None:
    golden, other = board(5), board(6)
    method = Reference()
    state = method.fit(model, [other, golden])
    (actual,) = method.score(model, state, [golden])  # the one that is alike counts
    assert actual.score == pytest.approx(0, abs=1e-6)
    flat, state = [board(5, 150, 240)] * 4, method.fit(model, [golden])
    said = "4 of 4 photos have other proportions than the golden photo of 240 x 200 px: "
    with pytest.warns(ImageWarning, match=rf"{said}.* \(240 x 150 px\).* and 1 more") as told:
        list(found_each(model, method, state, flat, Check(None, "")))
    assert len(told) == 1
    with pytest.warns(ImageWarning) as told:
        list(found_each(model, method, state, [golden, other], Check(None, "")))
    said = [str(each.message) for each in told if "look like" in str(each.message)]
    assert said == [
        "1 of 2 photos does not look like the golden photo: <array 200x240x3>; "
        "its verdict means little"
    ]
    lit = (golden * 0.6 + 40).astype(np.uint8)  # another light
    assert correlation(golden, lit, Motion()) == pytest.approx(1, abs=1e-3)
    one, two = (np.asarray(each, float).mean(axis=2).ravel() for each in (golden, other))
    assert correlation(golden, other, Motion()) == pytest.approx(
        np.corrcoef(one, two)[0, 1], abs=1e-4
    )
    assert correlation(np.full_like(golden, 90), other, Motion()) == 1  # nothing to recognise


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"subject": " "}, "subject is empty"),
        ({"view": View(layers=(1,))}, "has no layers"),
        ({"bad": ()}, "at least one state"),
        ({"scales": (0,)}, "scales are"),
        ({"aggregate": "mean"}, "badness or goodness"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_wrong_options_of_winclip(options: dict[str, object], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        WinCLIP(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"neighbourhoods": (2,)}, "each is odd"),
        ({"share": 0.0}, "above 0 to 1"),
        ({"alike": (0,)}, "1 or more"),
    ],
)
def test_wrong_options_of_mutual(options: dict[str, object], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        Mutual(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"radius": -1}, "0 or more patches"), ({"turn": 90.0}, "0 to 45 degrees")],
)
def test_wrong_options_of_reference(options: dict[str, object], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        Reference(**options)
