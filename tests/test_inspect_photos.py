"""From a folder of good photos to verdicts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchword
from patchword.errors import CheckpointError, ImageError, UnseenWarning, UnsupportedError
from patchword.images.preprocess import Geometry
from patchword.inspect.boxes import boxes_around
from patchword.inspect.calibration import Calibration, Judge, Rule, changed
from patchword.inspect.fitting import fit
from patchword.inspect.inspector import Inspector, reopened
from patchword.inspect.maps import full_scale, save_map
from patchword.inspect.memory import Memory
from patchword.inspect.methods import chosen, options_of, with_options
from patchword.inspect.reference import Reference
from patchword.inspect.subspace import Subspace

SIDE = 96


@pytest.fixture(scope="module")
def model() -> patchword.Model:
    return patchword.load("demo")


def plate(seed: int, spot: tuple[int, int] | None = None) -> np.ndarray:
    """A grey plate with a little noise, and a dark spot of 14 pixels at (x, y)."""
    random = np.random.default_rng(seed)
    out = random.normal(150, 4, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    if spot:
        out[spot[1] : spot[1] + 14, spot[0] : spot[0] + 14] = 20
    return np.repeat(out[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 good plates."""
    place = tmp_path_factory.mktemp("good")
    for seed in range(30):
        Image.fromarray(plate(seed)).save(place / f"{seed:02}.png")
    return place


@pytest.fixture(scope="module")
def inspector(model, folder: Path) -> patchword.Inspector:
    """19 of the good plates held out, 11 learned from."""
    return fit(model, paths(folder), Memory(), Rule(0.05))


def paths(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("*.png")))


def test_a_spot_is_found_where_it_is(inspector) -> None:
    calibration = inspector.calibration
    assert (calibration.kind, len(calibration.scores), inspector.learned) == ("held out", 19, 11)
    good, bad = inspector.inspect([plate(100), plate(101, (60, 20))])
    assert not good.rejected
    assert good.boxes == ()
    assert bad.rejected
    assert bad.p_value == 1 / 20
    x1, y1, x2, y2 = bad.boxes[0]
    assert x1 <= 67 < x2
    assert y1 <= 27 < y2
    assert bad.map.shape == (SIDE, SIDE)
    assert bad.map is bad.values
    assert good.scale == bad.scale
    y, x = np.unravel_index(bad.values.argmax(), bad.values.shape)
    assert abs(x - 67) < 14
    assert abs(y - 27) < 14
    assert set(bad.record()) == {"path", "score", "p_value", "rejected", "boxes"}
    assert "0.05" in repr(bad)


def test_what_is_held_out_is_never_learned_from(model, folder: Path, monkeypatch) -> None:
    learned_from: list[np.ndarray] = []
    scored: list[np.ndarray] = []
    monkeypatch.setattr(Memory, "fit", lambda self, m, good: learned_from.extend(good))

    def score(self, model, state, photos):
        scored.extend(photos)
        return iter(())

    monkeypatch.setattr(Memory, "score", score)
    fit(model, paths(folder), Memory(), Rule(0.05))
    learned = [photo.tobytes() for photo in learned_from]
    held = [photo.tobytes() for photo in scored]
    assert len(learned) == 11
    assert len(held) == 19
    assert not set(learned) & set(held)


def test_a_photo_that_is_named_twice_is_not_learned_from_and_held_out(model, folder: Path) -> None:
    files = paths(folder)[:6]
    progress_calls = []
    inspector = fit(
        model, [*files, *files], Memory(coreset=0.5), Rule(0.5),
        progress=lambda *each: progress_calls.append(each),
    )  # fmt: skip
    assert progress_calls == [(done, 6) for done in range(1, 7)]  # each photo counts once
    assert inspector.learned + len(inspector.calibration.scores) == 6
    with_calibration = fit(model, files, Memory(), Rule(0.5), calibration=files[:2])
    assert (with_calibration.learned, len(with_calibration.calibration.scores)) == (4, 2)
    assert min(with_calibration.calibration.scores) > 1e-5


def test_the_golden_photos_are_few_where_others_are_held_out(model, folder: Path) -> None:
    """As many as without: the first four, not all that are not named for the calibration."""
    files = paths(folder)[:9]
    inspector = fit(model, files, Reference(), Rule(0.2), calibration=files[5:])
    assert (inspector.learned, len(inspector.state), len(inspector.calibration.scores)) == (4, 4, 4)
    assert inspector.calibration.kind == "held out"


def test_few_good_photos_give_a_threshold_that_is_called_uncalibrated(model, folder: Path) -> None:
    inspector = fit(model, paths(folder)[:4], Memory(), Rule())
    assert inspector.calibration.kind == "cross-validated"
    assert len(inspector.calibration.scores) == 4
    assert inspector.learned == 4
    (bad,) = inspector.inspect(plate(101, (60, 20)))
    assert bad.rejected
    assert bad.p_value is None
    words = " ".join(inspector.judges()[""].guarantee())
    assert "not calibrated" in words
    assert "takes 99 good photos" in words
    assert inspector.calibration.worst in map(str, paths(folder)[:4])
    assert f"It is that of {inspector.calibration.worst}: make sure" in words
    with pytest.raises(UnsupportedError, match="there are none: no good photos were held out"):
        inspector.listed([bad], 0.1)


def test_one_good_photo_gives_scores_and_no_verdict(model) -> None:
    inspector = fit(model, [plate(1)], Memory(), Rule())
    (bad,) = inspector.inspect(plate(101, (60, 20)))
    assert (bad.rejected, bad.p_value, bad.scale, bad.boxes) == (None, None, None, ())
    assert bad.verdict == "no verdict"
    assert bad.picture().size[0] > 300
    with_threshold = fit(model, [plate(1)], Memory(), Rule(threshold=bad.score / 2))
    assert with_threshold.inspect(plate(101, (60, 20)))[0].rejected
    assert with_threshold.inspect(plate(101, (60, 20)))[0].boxes
    why = "memory needs 1 good photo, and there are 0; winclip and mutual need none"
    with pytest.raises(UnsupportedError, match=why):
        fit(model, [], Memory(), Rule())


def test_cross_validation_scores_each_photo_after_learning_from_others(model) -> None:
    good = [plate(i) for i in range(3)]
    inspector = fit(model, good, Memory(), Rule())
    for number, score in enumerate(inspector.calibration.scores):
        rest = [photo for n, photo in enumerate(good) if n != number]
        (alone,) = Memory().score(model, Memory().fit(model, rest), [good[number]])
        assert alone.score == pytest.approx(score, abs=1e-6)


def test_broken_good_photos_are_named_and_the_rest_is_split_anew(
    model, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    files = [str(broken), *paths(folder)[:23]]
    failed: list[ImageError] = []
    inspector = fit(model, files, Memory(), Rule(0.05), failed=failed)
    assert [error.image for error in failed] == [str(broken)]
    assert (len(inspector.calibration.scores), inspector.learned) == (19, 4)
    with pytest.raises(ImageError, match="broken"):
        fit(model, files, Memory(), Rule(0.05))
    results = list(inspector.inspect_each([plate(1), str(broken), plate(2)]))
    assert [isinstance(result, ImageError) for _, result in results] == [False, True, False]
    with pytest.raises(ImageError, match="broken"):
        inspector.inspect([str(broken)])


def test_photos_of_any_kind_and_size(model, folder: Path, tmp_path: Path) -> None:
    inspector = fit(model, paths(folder), Subspace(), Rule(0.05))
    grey16 = tmp_path / "grey.tif"
    Image.fromarray(plate(50)[..., 0].astype(np.uint16) * 257).save(grey16)
    wide = np.concatenate([plate(51), plate(52), plate(53)], axis=1)
    tiny = plate(54)[:2, :3]
    *inspections, same = inspector.inspect([str(grey16), wide, tiny, plate(50)])
    assert [each.values.shape for each in inspections] == [(SIDE, SIDE), (SIDE, 3 * SIDE), (2, 3)]
    assert inspections[0].score == same.score
    assert inspections[1].grid.shape[1] == 3 * inspections[1].grid.shape[0]


def test_groups_have_thresholds_of_their_own(model, tmp_path: Path) -> None:
    for name, count, noise in (("a", 22, 0), ("b", 22, 1), ("c", 3, 0)):
        (tmp_path / name).mkdir()
        for seed in range(count):
            shade = plate(seed, (40, 40) if noise and seed % 2 else None)
            Image.fromarray(shade).save(tmp_path / name / f"{seed}.png")
    good = sorted(map(str, tmp_path.glob("*/*.png")))
    inspector = fit(model, good, Memory(), Rule(0.05), grouped=True)
    judges = inspector.judges()
    assert set(judges) == {"a", "b"}
    assert len(judges["a"].calibration.scores) == 19
    a, c = inspector.inspect([str(tmp_path / "a" / "1.png"), str(tmp_path / "c" / "1.png")])
    assert a.limit == judges["a"].limit
    assert (a.group, c.group, c.rejected) == ("a", "c", None)
    names = [str(tmp_path / name / "1.png") for name in "cac"]
    listed = inspector.inspect(names, false_discoveries=0.5)  # c has no p-values, a has
    assert [each.rejected for each in listed] == [None, False, None]


def test_a_fitted_inspector_is_the_same_again(model, folder: Path, tmp_path: Path) -> None:
    method = Memory(coreset=0.5, half=True, neighbours=2)
    inspector = fit(model, paths(folder)[:3], method, Rule(0.05))
    inspector.save(tmp_path / "fitted")
    inspector.save(tmp_path / "fitted")  # over itself
    again = reopened(model, tmp_path / "fitted")
    assert again.method == method
    photo = plate(101, (60, 20))
    assert again.inspect(photo)[0].record() == inspector.inspect(photo)[0].record()
    for numbers, rule in (
        ({"false_alarms": 0.1}, Rule(0.1)),
        ({"confidence": 0.9}, Rule(0.05, 0.9)),
        ({"threshold": 0.3}, Rule(0.05, threshold=0.3)),
    ):
        assert reopened(model, tmp_path / "fitted", numbers).rule == rule
    assert changed(Rule(0.05, threshold=0.3), {"confidence": 0.9}) == Rule(0.05, 0.9)
    about = json.loads((tmp_path / "fitted" / "inspect.json").read_text())
    for key, value in (
        ("calibration", about["calibration"] | {"scores": ["high"]}),
        ("calibration", about["calibration"] | {"peaks": None}),
        ("calibration", about["calibration"] | {"scores": []}),
        ("calibration", about["calibration"] | {"scores": [math.inf, *[1.0] * 9]}),
        ("calibration", about["calibration"] | {"peaks": [10**400]}),
        ("options", about["options"] | {"neighbours": math.nan}),
        ("options", about["options"] | {"view": {"layers": math.inf}}),
        ("options", about["options"] | {"rotations": "x"}),
        ("learned", [1]),
        ("rule", {"threshold": 10**400}),
        ("rule", {"false_alarms": 2}),
        ("options", {"neighbour": 1}),
        ("method", "memories"),
    ):
        (tmp_path / "fitted" / "inspect.json").write_text(json.dumps(about | {key: value}))
        with pytest.raises(CheckpointError, match=r"a damaged inspector \(inspect.json: "):
            reopened(model, tmp_path / "fitted")
    (tmp_path / "fitted" / "inspect.json").write_text(json.dumps(about))
    assert about["fingerprint"] == model.fingerprint
    assert about["preprocess"]["size"] == list(model.preprocess.config.size)
    (tmp_path / "fitted" / "drift.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"drift.json: damaged .*delete it"):
        reopened(model, tmp_path / "fitted")
    (tmp_path / "fitted" / "drift.json").unlink()
    state = (tmp_path / "fitted" / "state.safetensors").read_bytes()
    for other_method in (Memory(), Subspace()):  # an undamaged file of another inspector
        fit(model, paths(folder)[3:6], other_method, Rule(0.05)).save(tmp_path / "other")
        (tmp_path / "other" / "state.safetensors").rename(tmp_path / "fitted" / "state.safetensors")
        with pytest.raises(CheckpointError, match="is not the file that"):
            reopened(model, tmp_path / "fitted")
    (tmp_path / "fitted" / "state.safetensors").write_bytes(state)
    other = patchword.load("demo", image_size=64)
    with pytest.raises(CheckpointError, match=r"was fitted with demo .*scores of two models"):
        reopened(other, tmp_path / "fitted")
    (tmp_path / "fitted" / "state.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="a damaged inspector"):
        reopened(model, tmp_path / "fitted")
    (tmp_path / "fitted" / "inspect.json").write_text("{")
    with pytest.raises(CheckpointError, match="a damaged inspector"):
        reopened(model, tmp_path / "fitted")
    with pytest.raises(CheckpointError, match="no fitted inspector is there"):
        reopened(model, tmp_path)
    with pytest.raises(UnsupportedError, match="holds something other"):
        inspector.save(folder)


def test_a_folder_without_photos_is_named(model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"no images in {tmp_path}"):
        patchword.inspector(model, tmp_path)


def test_methods_are_chosen_by_name_and_refuse_options_of_others() -> None:
    method = chosen(
        "memory", {"coreset": 0.1, "layers": [3, 5], "short_side": 448, "variance": None}
    )
    assert method == Memory(method.view, coreset=0.1)
    assert method.view.layers == (3, 5)
    assert with_options("memory", json.loads(json.dumps(options_of(method)))) == method
    with pytest.raises(UnsupportedError, match="coreset is of memory, not of subspace"):
        chosen("subspace", {"coreset": 0.1})
    with pytest.raises(UnsupportedError, match=r"no method 'memori' \(do you mean memory\?\)"):
        chosen("memori", {})


def test_boxes_are_around_what_stands_out_the_worst_first() -> None:
    grid = np.zeros((8, 8), np.float32)
    grid[1, 1], grid[6, 5:7] = 1, 2
    geometry = Geometry((80, 160), (8, 8), (0, 0), (8, 8))
    (worst, other) = boxes_around(grid, geometry, 0.5)
    # At half of its height above 0.5: between cells it falls from 2 to 0, to 1.25 after 3/8.
    assert np.abs(np.array(worst) - (102.5, 61.25, 137.5, 68.75)).max() <= 1
    assert other[0] < 30 < other[2] <= 40
    assert boxes_around(grid, geometry, 5) == ((100, 60, 120, 70),)  # the cell
    grid[0, 7] = 0.55  # above the edge by less than a tenth of what the worst is
    assert boxes_around(grid, geometry, 0.5) == (worst, other)
    # The other is higher than a tenth of the worst here, but its box is a fiftieth of a cell.
    assert len(boxes_around(grid, geometry, 0.85)) == 1


def test_what_a_threshold_guarantees_is_said() -> None:
    scores = tuple(float(n) for n in range(99))
    judge = Judge(Calibration("held out", scores, scores), Rule())
    assert (judge.limit, judge.rate, judge.p_value(98.5)) == (98, 0.01, 0.01)
    assert "At most 1.00%" in judge.guarantee()[0]
    # The largest of 99: its rate is below 2.98% with 95% confidence, as 0.9702 ** 99 = 0.05.
    assert "at most 2.98%, with 95% confidence" in judge.guarantee()[1]
    few = Judge(Calibration("held out", scores[:9], scores[:9]), Rule())
    assert (few.limit, few.rate) == (8, 0.1)
    assert "At most 10.00%" in few.guarantee()[0]
    assert "A rate of 0.01 takes 99" in " ".join(few.guarantee())
    sure = Judge(Calibration("held out", scores, scores), Rule(0.05, 0.95))
    assert "With 0.95 confidence" in sure.guarantee()[0]
    assert sure.limit > Judge(Calibration("held out", scores, scores), Rule(0.05)).limit
    none = Judge(Calibration("none"), Rule())
    assert none.rejected(1e9) is None
    assert "no verdict" in none.guarantee()[0]
    given = Judge(Calibration("held out", scores, scores), Rule(threshold=3.5))
    assert (given.rejected(3.6), given.rate) == (True, None)
    with pytest.raises(UnsupportedError, match="it is a finite number"):
        Rule(threshold=math.inf)
    with pytest.raises(UnsupportedError, match="false_alarms is 1"):
        Rule(1)


def test_a_list_is_rejected_as_a_whole(inspector) -> None:
    several = [plate(200 + i, (10 * i, 40)) for i in range(5)] + [plate(300 + i) for i in range(3)]
    inspections = inspector.inspect(several, false_discoveries=0.1)
    assert [each.rejected for each in inspections] == [True] * 5 + [False] * 3
    assert all(each.boxes for each in inspections[:5])
    for each in inspections:  # as one by one: what is rejected is above the limit
        assert each.rejected == (each.score > each.limit)
    said = " ".join(inspector.guarantee(0.1, len(several)))
    assert "at most 10.00% of those that are rejected are good" in said
    assert "of 8 photos 4 or more are rejected, or none: to reject a single one takes 79" in said
    assert "5.00%" not in said  # the rate of a photo that is judged by itself
    assert "of 30 photos none can be rejected" in " ".join(inspector.guarantee(0.01, 30))
    assert len(inspector.guarantee(0.5, 8)) == 2  # a single one can be: 8 / (0.5 * 20)
    none = inspector.inspect(several[5:], false_discoveries=0.1)
    assert [(each.rejected, each.limit) for each in none] == [(False, math.inf)] * 3
    given = Inspector(
        model=inspector.model, method=inspector.method, state=inspector.state,
        calibration=inspector.calibration, rule=Rule(threshold=0.3),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="by p-values, not by a threshold"):
        given.inspect(several, false_discoveries=0.1)
    few = fit(inspector.model, several[5:], Memory(), Rule())
    with pytest.raises(UnsupportedError, match="held out; give more good photos"):
        few.inspect(["gone.png"], false_discoveries=0.1)  # before any is opened
    batch = patchword.inspector(inspector.model, method="mutual")
    with pytest.raises(UnsupportedError, match="held out; give more good photos"):
        batch.inspect(["gone.png", "lost.png"], false_discoveries=0.1)


def test_a_map_that_is_written_is_not_kept(inspector, tmp_path: Path) -> None:
    """A report keeps the 60 worst photos, of each of which the map may have 16 million values."""
    (actual,) = inspector.inspect([plate(99)])
    assert save_map(actual, tmp_path / "map.tiff")
    assert "values" not in vars(actual)
    written = np.asarray(Image.open(tmp_path / "map.tiff")) / 65535 * full_scale(actual.edge)
    np.testing.assert_allclose(written, actual.values, atol=full_scale(actual.edge) / 65535)


def test_photos_that_are_seen_small_are_told(model) -> None:
    inspector = fit(model, [plate(1), plate(2)], Memory(), Rule())
    large = np.repeat(np.repeat(plate(3), 20, axis=0), 20, axis=1)
    with pytest.warns(UnseenWarning, match=r"seen at 1:20: .*160 pixels .*--short-side"):
        inspector.inspect(large)
