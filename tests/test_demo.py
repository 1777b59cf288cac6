"""The samples and the demo: real, small, reproducible; one page that holds everything."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA
from PIL import Image
from scipy.ndimage import distance_transform_edt
from shrunk import tiny_bundle, tiny_clip

import patchword
from patchword import checkpoints, images
from patchword.checkpoints import EMBEDDED
from patchword.cli import main
from patchword.cli.demo import jobs
from patchword.scenes import WAFER_CLASSES, Scene, scene, stated
from patchword.scenes.captions import DEFECT_NAMES
from patchword.train import recipe

SAMPLES = jobs.samples()
PHOTOS = sorted((SAMPLES / "clothing").glob("*.jpg"))
WAFERS = sorted((SAMPLES / "wafers").glob("*.jpg"))
SEED = 2026


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to stand in, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("socket.socket.connect", refuse)


def refuse(*arguments: object) -> None:
    raise OSError("this test forbids the network")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.save(tiny_bundle(tiny_clip()), tmp_path_factory.mktemp("m") / "tiny"))


def demo(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *arguments])
    assert ended.value.code == 0


# --- samples --------------------------------------------------------------------------------------


def test_samples_are_about_forty_and_small() -> None:
    assert (len(PHOTOS), len(WAFERS)) == (22, 18)
    files = [path for path in SAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2e6
    others = {path.name for path in files} - {p.name for p in PHOTOS + WAFERS}
    assert others == {"README.md", "captions.csv"}
    rows = (SAMPLES / "captions.csv").read_text().splitlines()[1:]
    assert {SAMPLES / row.split(",")[0] for row in rows} == set(PHOTOS + WAFERS)
    for path in PHOTOS + WAFERS:
        assert min(images.open(path).shape[:2]) >= 150


def test_every_class_is_there() -> None:
    for group, words, template in jobs.GROUPS:
        stems = {path.stem.rpartition("-")[0] for path in (SAMPLES / group).glob("*.jpg")}
        assert stems == set(words)
        assert "{}" in template


def test_photos_are_validation_photos_of_their_class_and_not_for_training() -> None:
    def digests(part: str, name: str) -> set[str]:
        files = (DATA / "clothing" / part / name).iterdir()
        return {hashlib.md5(path.read_bytes()).hexdigest() for path in files}

    for path in PHOTOS:
        name, own = path.stem.rpartition("-")[0], hashlib.md5(path.read_bytes()).hexdigest()
        assert own in digests("validation", name)
        assert own not in digests("train", name)


def drawing(path: Path) -> Scene:
    """The scene that a sample was drawn from."""
    name, _, number = path.stem.rpartition("-")
    label = list(jobs.WAFERS).index(name)
    return scene(SEED, 8 * label + int(number), size=256, label=WAFER_CLASSES[label])


@pytest.mark.parametrize("path", WAFERS, ids=lambda path: path.stem)
def test_wafers_are_the_scenes_that_the_readme_says(path: Path) -> None:
    drawn = drawing(path)
    stored = np.asarray(Image.open(path).convert("RGB"))
    # Of 255: JPEG smooths the sensor noise; the nearest other wafer is 17 off.
    assert np.abs(drawn.image.astype(int) - stored).mean() < 7
    assert jobs.WAFERS[path.stem.rpartition("-")[0]] == drawn.label
    assert str(SEED) in (SAMPLES / "README.md").read_text()


def test_the_embedded_model_was_trained_on_other_scenes() -> None:
    recipes = [recipe.load(path) for path in SAMPLES.parent.glob("demo*/*.toml")]
    assert {path.parent.name for path in SAMPLES.parent.glob("demo*/*.toml")} == set(EMBEDDED)
    assert SEED not in [source.seed for plan in recipes for source in plan.data]


# --- the demo -------------------------------------------------------------------------------------


def test_the_page_is_whole_by_itself(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    demo("--model", model)
    page = Path("demo-report/index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|<script|url\(|@import|https?:', page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    for sentence in jobs.SENTENCES:
        assert sentence in page
    shown = page.count("data:image/jpeg;base64,")
    maps = 2 * (len(jobs.POINTED) + len(jobs.DEFECTS))  # with the photos
    hits = jobs.HITS * len(jobs.SENTENCES)
    assert shown == 40 + hits + maps + len(jobs.ABOUT) + len(jobs.COMPARED)
    assert len(page) < 3e6
    printed = capsys.readouterr()
    assert "of 22 right" in printed.out
    assert "index.html" in printed.err
    assert max(map(len, printed.out.splitlines())) <= 60


def test_a_second_run_finds_the_index_and_says_the_same(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for _ in range(2):
        demo("--model", model, "--out", "report", "--json")
        *records, last = map(json.loads, capsys.readouterr().out.splitlines())
        runs.append(records)
        assert last["report"] == "report/index.html"
    assert runs[0] == runs[1]
    jobs = {"classify", "search", "heatmap", "caption", "ask", "match", "similarity"}
    assert {record["job"] for record in runs[0]} == jobs
    bundle = patchword.load(model)
    store = patchword.open_index(jobs.index_of(Path("report"), bundle))
    assert len(store) == 40
    assert store.add(SAMPLES, bundle).unchanged == 40


def test_the_embedded_model_does_well(capsys: pytest.CaptureFixture[str]) -> None:
    demo("--json")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    named = [record for record in records if record.get("job") == "classify"]
    right = [record["image"] for record in named if record["label"] == record["truth"]]
    assert sum(name.startswith("wafers") for name in right) >= 17  # of 18
    assert sum(name.startswith("clothing") for name in right) >= 16  # of 22


def test_the_embedded_blip_does_well() -> None:
    model = patchword.load("demo-blip")
    named = dict(zip(jobs.WAFERS, DEFECT_NAMES, strict=True))
    right = said = 0
    for path in WAFERS:
        defect = named[path.stem.rpartition("-")[0]]
        right += model.ask(path, "what defect does the wafer have?").text == defect
        said += f"defect={defect}" in stated(model.caption([path])[0].text).facts
    assert right >= 17  # of 18
    assert said >= 17
    true = model.match(WAFERS, WAFER_CLASSES).probabilities
    own = [list(jobs.WAFERS).index(path.stem.rpartition("-")[0]) for path in WAFERS]
    assert np.mean(true.argmax(axis=1) == own) > 0.9


def test_the_embedded_blip_shows_where_defects_are() -> None:
    """The brightest place is on the defect, or within a patch of it, a twelfth of the side."""
    model = patchword.load("demo-blip")
    near, chance = [], []
    for path in WAFERS:
        seen = drawing(path)
        values = model.heatmap(path, [seen.label]).values[0]
        for thing in seen.objects:
            away = distance_transform_edt(~thing.mask) * 12 / len(thing.mask)
            near.append(away[np.unravel_index(np.nanargmax(values), values.shape)] <= 1)
            chance.append(np.mean(away <= 1))
    assert np.mean(chance) < 0.15
    assert sum(near) >= 12  # of 15
