"""The demo on a user's own photos: its page, its records and its errors."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from photos import encoded
from small_models import tiny_bundle, tiny_clip, tiny_vit

import patchword
from patchword import checkpoints, models
from patchword.bundle import make
from patchword.cli import main, output
from patchword.cli.demo import findings, own_photos

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.save(tiny_bundle(tiny_clip()), tmp_path_factory.mktemp("m") / "tiny"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos, two of them in a subfolder, and two files that are no photos."""
    folder = tmp_path / "my photos"
    (folder / "more").mkdir(parents=True)
    for i in range(10):
        (folder / ("more" if i > 7 else ".") / f"{i}.png").write_bytes(encoded(i))
    (folder / "broken.jpg").write_text("no photo")
    (folder / "notes.txt").write_text("no photo either")
    return folder


def demo(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def records(printed: str) -> Iterator[dict]:
    return map(json.loads, printed.splitlines())


def test_the_page_of_ones_own_photos(
    photos: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo("--photos", photos, "-l", "dog,cat", "-l", "a car", "-m", model) == 1
    printed = capsys.readouterr()
    assert "broken.jpg: not an image" in printed.err
    assert "1 of 11 images failed" in printed.err
    assert "writes no captions" in printed.err
    assert "right" not in printed.out
    page = Path("photos-report/index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|<script|url\(|@import|https?:', page)
    pictures = page.count("data:image/jpeg;base64,")
    assert pictures == 10 + 3 * findings.HITS + 2 * 3 + own_photos.COMPARED
    assert all(f"“{label}”" in page for label in ("dog", "cat", "a car"))
    assert "wafer" not in page
    assert "What is there?" not in page
    assert "✓" not in page
    assert "it is:" not in page
    assert "--labels" in page


def test_the_records_are_what_the_model_gives(
    photos: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """For every photo that can be read."""
    assert demo("--photos", photos, "-l", "dog,cat", "-m", model, "--json") == 1
    *found, last = records(capsys.readouterr().out)
    assert last["report"] == "photos-report/index.html"
    bundle = patchword.load(model)
    named = {record["image"]: record for record in found if record["job"] == "classify"}
    assert set(named) == {*(f"{i}.png" for i in range(8)), "more/8.png", "more/9.png"}
    for name, record in named.items():
        (scores,) = bundle.classify([photos / name], ["dog", "cat"])
        assert record["label"] == scores[0].label
        assert record["probability"] == pytest.approx(scores[0].probability, abs=1e-5)
        assert "truth" not in record
    hits = [record["image"] for record in found if record.get("query") == "dog"]
    cosines = {str(photos / name): bundle.similarity([photos / name], ["dog"]) for name in named}
    assert hits == sorted(cosines, key=lambda path: -cosines[path].item())[: findings.HITS]
    where = {r["text"]: r["image"] for r in found if r["job"] == "heatmap"}
    assert str(photos / where["dog"]) == hits[0]


def test_each_label_gets_its_own_photo_while_there_is_one() -> None:
    near = {"cat": ["a", "b", "c"], "dog": ["a", "b", "c"], "bird": ["b", "a", "c"], "hat": ["a"]}
    assert own_photos.nearest_photos(near) == {"cat": "a", "dog": "b", "bird": "c", "hat": "a"}


def test_two_folders_have_two_indexes(
    photos: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on another folder does not find photos of the first."""
    assert demo("--photos", photos, "-l", "dog,cat", "-m", model, "--json") == 1
    capsys.readouterr()
    assert demo("--photos", photos / "more", "-l", "dog,cat", "-m", model, "--json") == 0
    hits = [r["image"] for r in records(capsys.readouterr().out) if "query" in r]
    assert {Path(path).parent for path in hits} == {photos / "more"}


def test_a_blip_captions_and_matches_them(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--photos", photos / "more", "-l", "dog,cat", "-m", "demo-blip", "--json") == 0
    printed = capsys.readouterr()
    found = list(records(printed.out))
    assert sum(record.get("job") == "caption" for record in found) == 2
    assert sum(record.get("job") == "match" for record in found) == 4
    assert "demo-blip knows shapes, wafers and clothes alone" in printed.err
    assert "What is there?" in Path("photos-report/index.html").read_text()


def test_one_warning_names_all_labels_whose_places_are_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not only the first; and a heatmap's probability is not called a match."""
    samples = Path(patchword.__file__).parent / "assets" / "samples" / "shapes"
    (tmp_path / "two").mkdir()
    for path in sorted(samples.iterdir())[:2]:
        shutil.copy(path, tmp_path / "two")
    assert demo("--photos", "two", "-l", "dress,hat") == 0
    warning = "what it shows of 'dress', 'hat' says little"
    assert capsys.readouterr().err.count(warning) == 1
    page = Path("photos-report/index.html").read_text()
    assert warning.replace("'", "&#39;") in page
    assert re.findall(r": (\w+) [<0-9.]+%, ", page.replace("&lt;", "<")) == ["probability"] * 2


def test_the_page_names_what_it_leaves_out(
    photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_photos, "SHOWN", 4)
    labels = ",".join(f"label {i}" for i in range(9))
    assert demo("--photos", photos, "-l", labels, "-m", model) == 1
    page = Path("photos-report/index.html").read_text()
    assert "The first 4 of 10 photos; all are in the index." in page
    assert page.count("The first 6 of 9 labels.") == 2
    assert "The first 8 of 9 labels." in page
    assert output.SHOWN == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--photos", "my photos"), "--photos needs --labels"),
        (("--photos", "my photos", "-l", " , "), "an empty text is given"),
        (("--labels", "dog,cat"), "--labels needs --photos"),
        (("--photos", "nowhere", "-l", "dog,cat"), "--photos nowhere: no such folder"),
        (("--photos", "my photos/0.png", "-l", "dog,cat"), "0.png: no such folder"),
        (("--photos", "my photos", "-l", "dog,cat,dog"), "--labels: 'dog' comes twice"),
        (("--photos", "empty", "-l", "dog,cat"), "no images in empty"),
    ],
)  # fmt: skip
def test_refused_photos_and_labels(
    arguments: tuple[str, ...], message: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused before a model is loaded and before anything is written."""
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no photo")
    assert demo(*arguments, "-m", "no/model") == 2
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in printed
    assert not Path("photos-report").exists()


def test_broken_photos_alone(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken").mkdir()
    for i in range(2):
        Path(f"broken/{i}.jpg").write_text("no photo")
    assert demo("--photos", "broken", "-l", "dog,cat", "-m", model) == 2
    printed = capsys.readouterr().err
    assert printed.count("not an image") == 2
    assert "2 of 2 images failed" in printed
    assert not Path("photos-report/index.html").exists()


def test_a_model_that_reads_no_text(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_vit("learned")
    network = models.build(config)
    models.initialise(network)
    vit = checkpoints.save(make(network, config, None, "tiny vit"), tmp_path / "vit")
    assert demo("--photos", photos, "-l", "dog,cat", "-m", vit) == 2
    assert "has an image tower only" in capsys.readouterr().err
    assert not Path("photos-report").exists()
