"""The samples, which are generated, small and reproducible; the demo and its page."""

import csv
import html
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scene_captions import stated
from scipy.ndimage import distance_transform_edt
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword import checkpoints, images
from patchword.checkpoints import EMBEDDED
from patchword.cli import main, program
from patchword.cli.demo import findings, samples
from patchword.scenes import WAFER_CLASSES, Scene, holds, scene
from patchword.scenes.captions import DEFECT_NAMES
from patchword.scenes.shapes import COLOURS
from patchword.scenes.shapes import SHAPES as FORMS
from patchword.train import recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TOOL, BENCHMARKS = ROOT / "tools" / "samples.py", ROOT / "benchmarks"
SAMPLES = samples.folder()
SHAPES = sorted((SAMPLES / "shapes").glob("*.jpg"))
WAFERS = sorted((SAMPLES / "wafers").glob("*.jpg"))
SEED, SHAPES_SEED = 2026, 2027


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("socket.socket.connect", refuse_connection)


def refuse_connection(*arguments: object) -> None:
    raise OSError("this test forbids the network")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.save(tiny_bundle(tiny_clip()), tmp_path_factory.mktemp("m") / "tiny"))


def demo(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *arguments])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def demo_run(
    model: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which a demo wrote `report`, and its records."""
    folder, stdout = tmp_path_factory.mktemp("demo"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout):
        patch.chdir(folder)
        patch.setenv("PATCHWORD_CACHE", str(folder / "cache"))
        demo("--model", model, "--out", "report", "--json")
    *records, last = map(json.loads, stdout.getvalue().splitlines())
    assert last["report"] == "report/index.html"
    return folder, records


# --- samples --------------------------------------------------------------------------------------


def captions() -> dict[str, str]:
    with (SAMPLES / "captions.csv").open(encoding="utf-8", newline="") as file:
        return {row["file_name"]: row["caption"] for row in csv.DictReader(file)}


def test_samples_are_forty_and_small() -> None:
    assert (len(SHAPES), len(WAFERS)) == (22, 18)
    files = [path for path in SAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2e6
    others = {path.name for path in files} - {p.name for p in SHAPES + WAFERS}
    assert others == {"README.md", "captions.csv"}
    assert {SAMPLES / name for name in captions()} == set(SHAPES + WAFERS)
    for path in SHAPES + WAFERS:
        assert images.open(path).shape == (256, 256, 3)


def test_samples_have_every_class() -> None:
    assert {path.stem.rpartition("-")[0] for path in WAFERS} == set(samples.WAFERS)
    alone = [path.stem.split("-") for path in SHAPES if path.stem.count("-") == 1]
    assert {colour for colour, _ in alone} == set(COLOURS)
    assert {shape for _, shape in alone} == set(FORMS)


def test_the_tool_writes_the_samples_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOOL, tmp_path / "again"], check=True)
    again = sorted(path for path in (tmp_path / "again").rglob("*") if path.is_file())
    names = [path.relative_to(tmp_path / "again").as_posix() for path in again]
    assert names == sorted(["captions.csv", *captions()])
    for name, path in zip(names, again, strict=True):
        if path.suffix == ".csv":
            assert path.read_bytes() == (SAMPLES / name).read_bytes()
            continue
        new, old = (np.asarray(Image.open(p), int) for p in (path, SAMPLES / name))
        # Other processors and other versions of the JPEG library may give slightly other bytes.
        assert np.abs(new - old).mean() < 0.1, name


@lru_cache
def labels() -> list[str]:
    """The labels of the first scenes of shapes, without articles and commas."""
    drawn = (scene(SHAPES_SEED, n, 32, "shapes") for n in range(1000))
    return [re.sub(r"\ban? |,", "", each.label) for each in drawn]


def drawing(path: Path) -> Scene:
    """The scene that a sample was drawn from, as the README of the samples says."""
    if path in SHAPES:
        return scene(SHAPES_SEED, labels().index(path.stem.replace("-", " ")), 256, "shapes")
    name, _, number = path.stem.rpartition("-")
    label = list(samples.WAFERS).index(name)
    return scene(SEED, 8 * label + int(number), size=256, label=WAFER_CLASSES[label])


@pytest.mark.parametrize("path", SHAPES + WAFERS, ids=lambda path: path.stem)
def test_samples_are_the_scenes_that_the_readme_says(path: Path) -> None:
    drawn = drawing(path)
    stored = np.asarray(Image.open(path).convert("RGB"))
    # Of 255. JPEG smooths the sensor noise; the most similar other wafer differs by 17.
    assert np.abs(drawn.image.astype(int) - stored).mean() < 7
    if path in WAFERS:
        assert f"a {samples.WAFERS[path.stem.rpartition('-')[0]]}" == drawn.label


@pytest.mark.parametrize("path", SHAPES + WAFERS, ids=lambda path: path.stem)
def test_captions_are_true(path: Path) -> None:
    """A caption of shapes names all of them."""
    facts = drawing(path).facts
    caption = stated(captions()[f"{path.parent.name}/{path.name}"])
    assert not caption.unread
    assert holds(caption.meaning, facts)
    if path in SHAPES:
        assert len(caption.names) == facts["count"]
    else:
        assert f"defect={facts['defect']}" in caption.facts


def test_the_embedded_models_were_trained_and_measured_on_other_scenes() -> None:
    recipes = [recipe.load(path) for path in SAMPLES.parent.glob("demo*/*.toml")]
    assert {path.parent.name for path in SAMPLES.parent.glob("demo*/*.toml")} == set(EMBEDDED)
    trained = {source.seed for plan in recipes for source in plan.data}
    measured = re.findall(r"SEED = (\d+)", (BENCHMARKS / "embedded_model.py").read_text())
    measured += re.findall(r"--seed (\d+)", (BENCHMARKS / "run_all.py").read_text())
    assert len(measured) == 2
    assert not {SEED, SHAPES_SEED} & {*trained, *map(int, measured)}


# --- the demo -------------------------------------------------------------------------------------


def test_the_page_needs_no_other_file(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    demo("--model", model)
    page = Path("demo-report/index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|<script|url\(|@import|https?:', page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    for sentence in samples.SENTENCES:
        assert sentence in page
    pictures = page.count("data:image/jpeg;base64,")
    maps = 2 * (len(samples.POINTED) + len(samples.MATCHED))  # with the photos
    hits = findings.HITS * len(samples.SENTENCES)
    assert pictures == 40 + hits + maps + len(samples.ABOUT) + len(samples.COMPARED)
    assert len(page) < 3e6
    printed = capsys.readouterr()
    assert "of 22 right" in printed.out
    assert "index.html" in printed.err
    assert max(map(len, printed.out.splitlines())) <= 60


def facts(job: str, record: dict, query: str = "") -> Iterator[tuple[tuple[str, ...], object]]:
    """What each fact in a record of the demo or of a command is about, and its value."""
    about = job, Path(record["image"]).name
    if job == "classify":
        best = record.get("scores", [record])[0]
        yield (*about, best["label"]), best["probability"]
    elif job == "search":
        yield (*about, record.get("query", query)), record["cosine"]
    elif job == "heatmap":
        yield (*about, record["text"], str(record["x"]), str(record["y"])), 0
    elif job == "similarity":
        yield from (((*about, pair["text"]), pair["cosine"]) for pair in record["texts"])
    elif job == "match":
        for pair in record.get("texts", [record]):
            yield (*about, pair["text"]), pair.get("match", pair.get("probability"))
    else:
        yield (*about, record.get("question", "")), record.get("answer") or record["caption"]


def test_the_commands_of_the_page_give_what_it_shows(
    demo_run: tuple[Path, list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They give all numbers and words of the page, and no others."""
    folder, records = demo_run
    monkeypatch.chdir(folder)
    page = Path("report/index.html").read_text()
    lines = [html.unescape(each) for each in re.findall(r"<pre><code>([^<]*)</code>", page)]
    printed_facts: dict[tuple[str, ...], object] = {}
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "patchword" or Path(program).exists()
        words = words[2:] if words[0] == "-m" else words
        job = words[0] if words[0] in {record["job"] for record in records} else ""
        with pytest.raises(SystemExit) as ended:
            main([*words, *(["--json"] if job else [])])
        printed = capsys.readouterr()
        assert ended.value.code == 0, (line, printed.err)
        for record in map(json.loads, printed.out.splitlines() if job else ()):
            printed_facts.update(facts(job, record, words[2] if job == "search" else ""))
    page_facts = dict(fact for record in records for fact in facts(record["job"], record))
    assert printed_facts == {
        key: pytest.approx(value, abs=1e-4) for key, value in page_facts.items()
    }


def test_a_command_names_the_program_as_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / ".venv" / "bin" / "patchword"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [".venv/bin/patchword", "demo"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert program.command("search", "a b") == ".venv/bin/patchword search 'a b'"
    monkeypatch.setenv("PATH", str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])
    assert program.command("models") == "patchword models"
    assert program.near(tmp_path / "a" / "b.jpg") == "a/b.jpg"
    assert program.near("/elsewhere/b.jpg") == "/elsewhere/b.jpg"


def coloured(values: np.ndarray, mask: np.ndarray) -> float:
    """The share of a map's colour that lies on a mask (H, W) or within half a patch of it."""
    unit = (values - values.min()) / np.ptp(values)
    step = ((unit - 0.2) / 0.8).clip(0, 1)
    colour = step * step * (3 - 2 * step)
    near = distance_transform_edt(~mask) <= len(mask) / 24
    return float((colour * near).sum() / colour.sum())


@lru_cache
def defect_map(path: Path) -> np.ndarray:
    """The heatmap of demo-blip for the label of a wafer."""
    return patchword.load("demo-blip").heatmap(path, [drawing(path).label]).values[0]


def test_the_maps_of_the_page_lie_best_on_their_objects() -> None:
    """The page has one map by demo-blip for each kind of defect, and two by demo for shapes beside
    others. Their shares may be slightly below the best ones: another processor, or a small change
    of the method, may prefer a map that is as good."""
    clip = patchword.load("demo")
    shares: dict[str, dict[tuple[str, str], float]] = {}
    for path in WAFERS + SHAPES:
        drawn, name = drawing(path), path.relative_to(SAMPLES).as_posix()
        is_wafer = path in WAFERS
        if not drawn.objects or (not is_wafer and len(drawn.objects) == 1):
            continue
        if is_wafer:
            mask = np.any([each.mask for each in drawn.objects], axis=0)
            targets = [(drawn.label, mask)]
        else:
            targets = [(each.name, each.mask) for each in drawn.objects]
        for text, mask in targets:
            values = defect_map(path) if is_wafer else clip.heatmap(path, [text]).values[0]
            kind = shares.setdefault(text if is_wafer else "shapes", {})
            kind[name, text] = coloured(values, mask)
    chosen = [*samples.MATCHED, *samples.POINTED]
    for kind, found in shares.items():
        count = 2 if kind == "shapes" else 1
        best = sorted(found.items(), key=lambda item: -item[1])
        chosen_shares = [found[each] for each in chosen if each in found]
        assert len(chosen_shares) == count
        assert min(chosen_shares) >= best[count - 1][1] - 0.02, (kind, best[:3])


def test_a_second_run_finds_the_index_and_says_the_same(
    demo_run: tuple[Path, list[dict[str, Any]]],
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, first = demo_run
    monkeypatch.chdir(folder)
    demo("--model", model, "--out", "report", "--json")
    *again, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert again == first
    done = {"classify", "search", "heatmap", "caption", "ask", "match", "similarity"}
    assert {record["job"] for record in first} == done
    bundle = patchword.load(model)
    store = patchword.open_index(findings.index_path(Path("report"), bundle, SAMPLES))
    assert len(store) == 40
    assert store.add(SAMPLES, bundle).unchanged == 40


def test_the_embedded_model_does_well(capsys: pytest.CaptureFixture[str]) -> None:
    demo("--json")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    named = [record for record in records if record.get("job") == "classify"]
    right = [record["image"] for record in named if record["label"] == record["truth"]]
    assert sum(name.startswith("wafers") for name in right) >= 17  # of 18
    assert sum(name.startswith("shapes") for name in right) >= 20  # of 22
    first = [r["image"] for r in records if r.get("query") == "a green heart"][:2]
    assert all("green-heart" in path for path in first)
    maps = [record for record in records if record.get("job") == "heatmap"]
    assert len(maps) == 6
    for record in maps:  # the brightest place is on the object, or within a patch of it
        objects = drawing(SAMPLES / record["image"]).objects
        mask = next(o.mask for o in objects if o.name == record["text"] or len(objects) == 1)
        assert distance_transform_edt(~mask)[record["y"], record["x"]] <= 256 / 12, record


def test_none_of_these() -> None:
    """The numbers that the README has for --reject."""
    model, labels = patchword.load("demo"), list(samples.WAFERS.values())
    for paths, rejected in ((SHAPES, 16), (WAFERS, 0)):
        best = [scores[0].label for scores in model.classify(paths, labels, reject=0.9)]
        assert best.count("none of these") == rejected


def test_the_embedded_blip_does_well() -> None:
    model = patchword.load("demo-blip")
    named = dict(zip(samples.WAFERS, DEFECT_NAMES, strict=True))
    right_answers = right_captions = 0
    for path in WAFERS:
        defect = named[path.stem.rpartition("-")[0]]
        right_answers += model.ask(path, "what defect does the wafer have?").text == defect
        right_captions += f"defect={defect}" in stated(model.caption([path])[0].text).facts
    assert right_answers >= 17  # of 18
    assert right_captions >= 17
    matches = model.match(WAFERS, WAFER_CLASSES).probabilities
    truths = [list(samples.WAFERS).index(path.stem.rpartition("-")[0]) for path in WAFERS]
    assert np.mean(matches.argmax(axis=1) == truths) > 0.9


def test_the_embedded_blip_shows_where_defects_are() -> None:
    """The brightest place is on the defect, or within a patch of it, a twelfth of the side."""
    hits, chances = [], []
    for path in WAFERS:
        values = defect_map(path)
        for defect in drawing(path).objects:
            distance = distance_transform_edt(~defect.mask) * 12 / len(defect.mask)  # in patches
            brightest = np.unravel_index(np.nanargmax(values), values.shape)
            hits.append(distance[brightest] <= 1)
            chances.append(np.mean(distance <= 1))  # of a random place
    assert np.mean(chances) < 0.15
    assert sum(hits) >= 12  # of 15
