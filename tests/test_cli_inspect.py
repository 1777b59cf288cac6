"""`patchword inspect`: verdicts, files, exit codes."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from PIL import Image

import patchword
from patchword import UnsupportedError
from patchword.cli.inspect_table import hint_at_one_good, mark_footnote, verdicts_table
from patchword.show.plain_number import plain

SIDE = 96


def plate(path: Path, seed: int, spot: tuple[int, int] | None = None) -> None:
    """A grey plate with a little noise, and a dark spot of 14 pixels at (x, y)."""
    grey = np.random.default_rng(seed).normal(150, 4, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    if spot:
        grey[spot[1] : spot[1] + 14, spot[0] : spot[0] + 14] = 20
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(grey).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good: 23 plates; test: two good ones, a bad one and a broken file."""
    root = tmp_path_factory.mktemp("plates")
    for seed in range(23):
        plate(root / "good" / f"{seed:02}.png", seed)
    plate(root / "test" / "a.png", 100)
    plate(root / "test" / "b.png", 101, (60, 20))
    (root / "test" / "c.png").write_bytes(b"no image")
    plate(root / "more" / "a.png", 102)
    return root


def test_json_report_csv_maps_and_exit_code(run: Run, folder: Path, tmp_path: Path) -> None:
    out, fitted = tmp_path / "out", tmp_path / "fitted"
    ran = run(
        "inspect", folder / "good", folder / "test", folder / "more", "--false-alarms", "0.05",
        "--layer", "0", "--json", "--save", out, "--save-fitted", fitted, "--check",
    )  # fmt: skip
    assert ran.code == 3
    found = ran.records
    assert [Path(each["path"]).name for each in found] == ["a.png", "b.png", "c.png", "a.png"]
    a, b, c, _ = found
    assert set(a) == {"path", "score", "p_value", "rejected", "boxes", "outside"}
    assert (a["rejected"], a["boxes"]) == (False, [])
    assert (b["rejected"], b["p_value"]) == (True, 0.05)
    x1, y1, x2, y2 = b["boxes"][0]
    assert 50 <= x1 <= 67 < x2 <= 84
    assert 10 <= y1 <= 27 < y2 <= 44
    assert set(c) == {"path", "error"}
    assert "c.png" in ran.err
    assert "At most 5.00% of good photos like the 19" in ran.err
    assert "1 of 4 images failed" in ran.err
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [row["rejected"] for row in rows] == ["False", "True", "", "False"]
    page = (out / "index.html").read_text()
    assert "1 of 3 photos rejected by memory" in page
    not_rejected = '<span class="">a: not rejected<'  # without the class that means "good"
    assert page.index("b: rejected") < page.index(not_rejected)
    assert "1 of 3 rejected; threshold " in ran.err
    assert ", learned from 4 good photos" in ran.err
    assert "At most 5.00%" in page
    assert "c.png" in page
    outside = [each["path"] for each in found if "outside" in each]
    assert len(outside) == page.count("· unlike the model&#39;s training: its answer says little<")
    assert outside[0] == a["path"]
    names = ", ".join(Path(each).name for each in outside)
    warning = ran.message[ran.message.index(f"{len(outside)} of 3 images look unlike what demo") :]
    assert f": {names}; so do " in warning
    assert ran.err.count(" unlike ") == 1
    assert f"Beware: {len(outside)} of 3 images look unlike what demo was trained on: a.png" in page
    maps = sorted(path.name for path in (out / "maps").iterdir())
    assert maps == ["a-2.tif", "a.tif", "b.tif"]
    with Image.open(out / "maps" / "b.tif") as opened:
        values = np.asarray(opened)
        full = float(opened.tag_v2[270].rsplit(" ", 1)[1])
    assert values.dtype == np.uint16
    assert values.shape == (SIDE, SIDE)
    assert values.max() / 65535 * full == pytest.approx(b["score"], rel=0.05)
    again = run("inspect", folder / "test" / "b.png", "--fitted", fitted, "--json")
    score = pytest.approx(b["score"], rel=1e-5)  # a batch of one rounds otherwise than one of four
    assert json.loads(again.out) == b | {"score": score}
    assert again.code == 0
    stream = json.loads((fitted / "drift.json").read_text())["scores"]
    assert [score, score] == [stream[1], stream[3]]
    other = run("inspect", folder / "test", "--fitted", fitted, "-m", "demo-blip")
    assert other.code == 2
    assert "was fitted with demo" in other.err


@pytest.mark.parametrize("method", ["winclip", "mutual"])
def test_without_good_photos(run: Run, folder: Path, method: str) -> None:
    photos = [folder / "test" / "b.png", folder / "test" / "a.png", folder / "more"]
    ran = run("inspect", "--without-good", "--method", method, *photos, "--json")
    assert ran.code == 0
    found = ran.records
    assert [each["rejected"] for each in found] == [None] * 3
    if method == "mutual":
        assert max(found, key=lambda each: each["score"])["path"] == str(photos[0])
    same = patchword.inspector(patchword.load("demo"), method=method).inspect(
        [each["path"] for each in found]
    )
    assert [each["score"] for each in found] == pytest.approx([each.score for each in same])
    judged = run("inspect", "--without-good", "--method", method, "--threshold", "0", *photos)
    assert "3 of 3 rejected; threshold 0" in judged.err


def test_windows_of_one_pass(run: Run, folder: Path, tmp_path: Path) -> None:
    """Beside one good photo, where a photo's score is of its windows, too."""
    photo, good = str(folder / "test" / "b.png"), tmp_path / "one"
    good.mkdir()
    shutil.copy(folder / "test" / "a.png", good)
    ran = run("inspect", good, photo, "--method", "winclip", "--one-pass", "--json")
    model = patchword.load("demo")
    cheap, dear = (
        patchword.inspector(model, good, "winclip", exact=exact).inspect(photo)[0].score
        for exact in (False, True)
    )
    assert json.loads(ran.out)["score"] == pytest.approx(cheap)
    assert cheap != pytest.approx(dear, rel=1e-3)
    wrong = run("inspect", folder / "good", photo, "--one-pass")
    assert wrong.code == 2
    assert "--one-pass is for winclip, not of memory" in wrong.err


def test_methods_that_need_good_photos_are_refused_without(run: Run, folder: Path) -> None:
    photo = folder / "test" / "a.png"
    ran = run("inspect", "--without-good", photo)
    assert ran.code == 2
    assert "memory needs 1 good photo, and there are 0; winclip and mutual need none" in ran.err
    assert "--without-good --method mutual" in run("inspect", photo).err.replace("\n", " ")
    with pytest.raises(UnsupportedError, match="winclip and mutual need neither"):
        patchword.inspector(patchword.load("demo"))


def test_a_table_names_the_folder_once_and_the_largest_box() -> None:
    row = {"path": "a/b/x-1.jpg", "score": 4.768e-07, "p_value": None, "rejected": False}
    boxes = [[1, 2, 3, 4], [150, 71, 190, 136]]
    rows = [row | {"boxes": [], "outside": True}, row | {"boxes": boxes, "rejected": True}]
    rows[1] |= {"path": "a/b/particles-3.jpg", "score": 0.69688}
    table = verdicts_table(rows)
    assert [column.header for column in table.columns] == [
        "in a/b", "score", "verdict", "boxes: largest"
    ]  # fmt: skip
    cells = [list(column.cells) for column in table.columns]
    assert cells[:2] == [["particles-3.jpg", "x-1.jpg"], ["0.697", "0"]]
    assert cells[2:] == [
        ["rejected", "not rejected *"],
        ["2: 150,71,190,136", ""],
    ]
    assert mark_footnote(rows, "demo").startswith("* unlike what demo knows")
    assert mark_footnote(rows[1:], "demo") == ""
    assert [plain(value) for value in (0.0000123, 12345.6, 1)] == ["0.0000123", "12300", "1"]
    hint = hint_at_one_good("a", [Path("a")], [Path("b"), Path("c")])
    assert hint.startswith("GOOD is one photo, a; 2 photos are inspected.")
    assert not hint_at_one_good("a", [Path("a")], [Path("b")])
    assert not hint_at_one_good("a*", [Path("a1"), Path("a2")], [Path("b"), Path("c")])


def test_the_guarantee_of_photos_judged_as_one_list(run: Run, folder: Path, tmp_path: Path) -> None:
    white = folder / "white" / "w.png"
    white.parent.mkdir(exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), "white").save(white)
    ran = run(
        "inspect", folder / "good", folder / "test" / "b.png", white, "--false-alarms", "0.05",
        "--false-discoveries", "0.1", "--save", tmp_path,
    )  # fmt: skip
    assert ran.code == 0
    assert "2 of 2 rejected; judged as one list" in ran.err
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["one_colour"] for row in rows] == ["", "#ffffff"]  # whether or not with --json
    page = (tmp_path / "index.html").read_text()
    for text in (ran.err, page):
        assert "at most 10.00% of those that are rejected are good" in text
        assert "At most 5.00%" not in text


def test_few_good_photos_give_no_calibrated_threshold(run: Run, folder: Path) -> None:
    ran = run("inspect", str(folder / "good" / "0[0-3].png"), folder / "test" / "b.png", "--json")
    assert json.loads(ran.out)["p_value"] is None
    assert json.loads(ran.out)["rejected"] is True
    assert "The threshold is not calibrated" in ran.err
    assert "takes 99 good photos" in ran.err
    ran = run("inspect", folder / "good" / "00.png", folder / "test" / "a.png", "--csv", "--check")
    assert ran.code == 2
    assert ran.out.splitlines()[0] == "path,score,p_value,rejected,boxes,outside,error"
    assert "photos without a verdict" in ran.err
    assert "There is no verdict" in ran.err
    assert "0 of 1 rejected, 1 without a verdict; no threshold, learned from 1 good p" in ran.err


def test_folders_without_good_photos_have_no_verdict(run: Run, folder: Path) -> None:
    ran = run("inspect", folder / "good" / "0[01].png", folder / "more", "--by-folder", "--json")
    assert json.loads(ran.out)["rejected"] is None
    assert "There is no verdict for more: too few good photos" in ran.err


@pytest.mark.parametrize("report", ["test", "test/report", "good/report"])
def test_no_report_is_written_into_a_folder_of_photos(run: Run, folder: Path, report: str) -> None:
    done = run("inspect", folder / "good", folder / "test", "--save", folder / report)
    assert (done.code, "a folder beside it" in done.message) == (2, True)
    assert not (folder / "good" / "report").exists()
    assert not (folder / "test" / "maps").exists()


def test_broken_good_photos_are_named(run: Run, folder: Path) -> None:
    ran = run("inspect", folder / "test", folder / "more")
    assert ran.code == 1
    assert "c.png" in ran.err
    assert "good" in ran.out or "rejected" in ran.out
    assert "1 of 3 good photos failed" in ran.err
    both = run("inspect", folder / "test", folder / "test" / "c.png", folder / "more")
    assert "1 of 2 images and 1 of 3 good photos failed" in both.err
    nothing = run("inspect", folder / "test" / "c.png", folder / "more")
    assert nothing.code == 2
    assert "c.png" in nothing.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["good"], "give a folder of good photos, and then the images to inspect"),
        (["good", "test", "--method", "memry"], "do you mean memory?"),
        (["good", "test", "--method", "subspace", "--coreset", "0.1"], "coreset is of memory"),
        (["good", "test", "--false-alarms", "2"], "more than 0 and less than 1"),
        (["good", "test", "--false-discoveries", "1"], "it is a share, between 0 and 1"),
        (["good", "test", "--false-discoveries", "0.1", "--threshold", "1"], "give one of them"),
        (["good", "test", "--layer", "99"], "no layer 99"),
        (["test", "--fitted", "nowhere"], "no fitted inspector is there"),
        (["test", "--fitted", "nowhere", "--method", "memory"], "--fitted replaces GOOD"),
        (["good", "test", "--short-side", "0"], "short_side is 0"),
        (["good", "test", "--save", "test/a.png"], "a.png: a file; give a folder"),
        (["good", "test", "--save-fitted", "good"], "good: it holds something other than a fitted"),
        (
            ["good", "test", "--calibration", "good"],
            "beside those of the calibration, and there are 0",
        ),
    ],
)
def test_wrong_usage(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    ran = run("inspect", *options)
    assert ran.code == 2
    assert message in ran.message


def test_the_report_tells_of_dark_photos(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dark").mkdir()
    for number in range(2):
        levels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 40
        Image.fromarray(levels).save(tmp_path / "dark" / f"{number}.png")
    run("inspect", str(folder), str(tmp_path / "dark"), "--save", str(tmp_path / "out"))
    page = (tmp_path / "out" / "index.html").read_text()
    # Photos are opened at the same time: either may be the first.
    (first,) = re.findall(r"(.)\.png: its samples reach 39 and 65535 is taken for white", page)
    assert f"1 more image is seen so dark or grey: {1 - int(first)}.png" in page
