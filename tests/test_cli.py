"""The command line: results, exit codes, failures, widths of screens, pipes and terminals."""

import gzip
import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import forked_processes
import numpy as np
import pytest
from cli_runner import Run
from numpy.testing import assert_allclose
from photos import FLOWER
from PIL import Image
from small_models import tiny_bundle, tiny_clip, tiny_clip_resnet
from tiny_runs import write

import patchword
from patchword import checkpoints
from patchword.cli import app, output
from patchword.cli.embed_classify_similarity import scores_table
from patchword.show import plots
from patchword.tasks.classify import Score
from patchword.where.heatmap import METHODS

pytestmark = pytest.mark.slow

SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"
SCRATCH = SAMPLES / "wafers" / "scratch-1.jpg"
COMMANDS = [
    *("classify", "embed", "similarity", "heatmap", "segment", "locate"),
    *("attention", "caption", "ask", "match", "inspect"),
    *("index", "search", "dedupe", "explore", "tag", "serve", "mcp"),
    *("train", "eval", "blend", "eval inspect", "eval segment", "capfilt", "export"),
    *("info", "models", "receipt", "verify", "demo"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a CLIP of random weights."""
    return str(checkpoints.save(tiny_bundle(tiny_clip()), tmp_path_factory.mktemp("m") / "tiny"))


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, no network, 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("socket.socket.connect", connect_locally)
    return tmp_path


def connect_locally(self: socket.socket, *arguments: object) -> None:
    """Forbids connections, except between processes of this machine."""
    if self.family != socket.AF_UNIX:
        raise OSError("this test forbids the network")
    CONNECT(self, *arguments)


CONNECT = socket.socket.connect


@pytest.fixture
def photos(workdir: Path) -> Path:
    """A folder with two good images, one at depth, and three that cannot be opened."""
    folder = workdir / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(FLOWER.read_bytes())
    (folder / "deep" / "b.jpg").write_bytes(SCRATCH.read_bytes())
    (folder / "cut.jpg").write_bytes(FLOWER.read_bytes()[:2000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "notes.txt").write_text("not an image, and not taken for one")
    return folder


SLOW = {"torch", "numpy", "PIL", "lancedb", "pyarrow", "matplotlib", "safetensors", "datasets"}
SLOW |= {"huggingface_hub", "regex", "transformers"}
BROKEN = ("cut.jpg", "empty.png", "text.jpg")

# --- every command --------------------------------------------------------------------------------


def test_help_answers_at_once() -> None:
    """Nothing that is slow to import is imported for it."""
    code = f"""
import sys
import patchword.cli
try:
    patchword.cli.main()
finally:
    print(*sorted({SLOW} & set(sys.modules)), file=sys.stderr)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, "--help"], check=True, capture_output=True, text=True
    )
    assert "heatmap" in ran.stdout
    assert not ran.stderr.strip()


def test_json_has_no_nan() -> None:
    """Python's own reader alone takes it."""
    record = {"a": float("nan"), "b": [1.5, float("-inf")], "c": {"d": "NaN"}}
    assert output.json_line(record) == '{"a": null, "b": [1.5, null], "c": {"d": "NaN"}}'


def test_a_probability_that_is_no_number_has_no_bar() -> None:
    table = scores_table([("a.jpg", [Score("x", float("nan")), Score("y", 0.5)])])
    assert [str(cell) for cell in table.columns[1].cells] == ["-", "50.0%"]
    assert [len(str(cell)) for cell in table.columns[2].cells] == [0, 12]


def test_bars_where_there_is_no_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, for a file."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    table = scores_table([("a.jpg", [Score("x", 0.5)])])
    assert [str(cell) for cell in table.columns[2].cells] == ["#" * 12]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(run: Run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        ran = run(command, "--help")
        assert ran.code == 0
        assert max(map(len, ran.out.splitlines())) <= columns
        assert not re.search(r"<\w|\blist\[|\b(str|bool|int|float)\b", ran.out)  # Python's types
        assert re.sub("[─│╭╮╰╯…]", "", ran.out).isascii()  # beside what rich adds
    assert "--json" in ran.out or command in ("serve", "mcp")  # which answer programs
    assert "--model" in ran.out or command in ("models", "blend")  # which takes two
    # models computes nothing, export writes graphs on the processor
    assert "--device" in ran.out or command in ("models", "export")


def test_every_command_is_tested_and_no_other_exists(run: Run) -> None:
    assert [command.name for command in app.registered_commands] == COMMANDS
    assert run("caption").code == 2


def test_version(run: Run) -> None:
    assert run("--version").out == f"patchword {patchword.__version__}\n"


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_screen_without_columns_has_as_many_as_it_needs(
    run: Run, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "openai/clip-vit-base-patch32" in run("models").out


def test_closed_streams_are_no_crash() -> None:
    command = f"{sys.executable} -m patchword"
    for shell, code in (("models >&-", 0), ("nonsense 2>&-", 2), ("classify - -l a,b <&-", 2)):
        ran = subprocess.run(["sh", "-c", f"{command} {shell}"], capture_output=True, text=True)
        assert ran.returncode == code
        assert "Traceback" not in ran.stderr
    assert "stdin: empty" in ran.stderr


def test_help_lists_the_choices(run: Run) -> None:
    assert "truncate|mean" in run("embed", "--help").out
    words = re.split(r"[^\w-]+", run("heatmap", "--help").out)
    assert {"auto", *METHODS} <= set(words)
    assert "classify [OPTIONS] IMAGES..." in run("classify", "--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify"],
        ["classify", FLOWER, "--labels", ","],
        ["classify", FLOWER, "--labels", "@missing.txt"],
        ["classify", FLOWER, "-l", "a,b", "--reject", "1.5"],
        ["classify", FLOWER, "-l", "a,b", "--save", "out.xyz"],
        ["classify", FLOWER, "-l", "a,b", "--template", "no place for the label"],
        ["classify", FLOWER],
        ["embed"],
        ["embed", FLOWER, "--text", "a flower"],
        ["embed", FLOWER, "-o", "out.csv"],
        ["similarity", FLOWER],
        ["similarity", FLOWER, "-t", "a flower", "--save", "page.html"],
        ["index"],
        ["search", "missing.index", "a flower"],
        ["search", "missing.index"],
        ["heatmap", FLOWER, "a flower", "--method", "unknown"],
        ["heatmap", "missing.jpg", "a flower"],
        ["attention", FLOWER, "--layer", "99"],
        ["attention", FLOWER, "--head", "99"],
        ["info", "organisation/model"],
        ["info", "--device", "nonsense"],
        ["train", "missing.toml"],
        ["classify", FLOWER, "-l", "a,b", "--device", "cuda:77"],
    ],
    ids=lambda arguments: " ".join(Path(str(a)).name for a in arguments),
)
def test_wrong_usage_is_2_with_a_message_and_no_traceback(
    run: Run, model: str, arguments: list[object]
) -> None:
    if arguments[0] not in ("index", "search", "info", "train"):
        arguments = [*arguments, "--model", model]
    ran = run(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.strip()
    assert "Traceback" not in ran.err
    assert len(ran.err) < 1500


def test_a_result_that_cannot_be_written_is_an_error(run: Run, model: str, workdir: Path) -> None:
    (workdir / "taken.png").mkdir()
    ran = run("heatmap", FLOWER, "a flower", "--save", "taken.png", "-m", model)
    assert ran.code == 2
    assert "taken.png" in ran.err
    assert "Traceback" not in ran.err


# --- images that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["classify", "-l", "cat,dog"],
        ["embed"],
        ["similarity", "-t", "a flower", "-t", "a wafer"],
    ],
    ids=lambda command: command[0],
)
def test_one_that_fails_is_named_and_the_rest_is_done(
    run: Run, model: str, photos: Path, command: list[str]
) -> None:
    ran = run(*command, photos, "--json", "-m", model)
    assert ran.code == 1
    done = [Path(r["image"]).name for r in ran.records if "error" not in r]
    assert done == ["a.jpg", "b.jpg"]
    assert {Path(r["image"]).name for r in ran.records if "error" in r} == set(BROKEN)
    for name in BROKEN:
        (line,) = (line for line in ran.err.splitlines() if name in line)
        assert len(line) > len(f"error: {photos / name}: ") + 5, "no reason given"
    assert "3 of 5 images failed" in ran.err
    alone = run(*command, photos / "text.jpg", "--json", "-m", model)
    (record,) = alone.records
    assert alone.code == 2
    assert record["image"] == str(photos / "text.jpg")
    assert record["error"].startswith("not an image")
    good = run(*command, photos / "a.jpg", "--json", "-m", model)
    lines = [line for line in good.err.splitlines() if " seen " not in line]  # cropped and small
    assert (good.code, lines) == (0, [])


def test_failures_do_not_hide_the_table(run: Run, model: str, photos: Path) -> None:
    ran = run("classify", photos, "missing.jpg", "-l", "flower,wafer", "-m", model)
    assert ran.code == 1
    assert "a.jpg" in ran.out
    assert "missing.jpg: no such file" in ran.err


def test_globs_folders_and_doubles(run: Run, model: str, photos: Path) -> None:
    for name in BROKEN:
        (photos / name).unlink()
    ran = run(
        "embed",
        photos / "*.jpg",
        photos,
        photos / "a.jpg",
        photos / "**/b.*",
        "--json",
        "-m",
        model,
    )
    a, b = f"{photos}/a.jpg", f"{photos}/deep/b.jpg"
    assert [r["image"] for r in ran.records] == [a, a, b, a, b]  # as often as they were asked for
    (photos / "none").mkdir()
    empty = run("embed", photos / "none", "-m", model)
    assert empty.code == 2
    assert "no images in" in empty.err


def test_names_that_look_like_markup_or_are_no_text(run: Run, model: str, workdir: Path) -> None:
    odd = os.fsdecode(b"[red]caf\xe9 :smile:.jpg")
    (workdir / odd).write_bytes(FLOWER.read_bytes())
    (workdir / "[bold]b.jpg").write_bytes(FLOWER.read_bytes())
    ran = run("classify", workdir, "-l", "flower,[red]wafer", "-m", model)
    assert ran.code == 0
    assert "[bold]b.jpg" in ran.out
    assert ":smile:" in ran.out
    assert "[red]wafer" in ran.out
    names = [r["image"] for r in run("embed", workdir, "-m", model).records]
    assert str(workdir / odd) in names
    saved = run("classify", workdir, "-l", "flower,[red]wafer", "-m", model, "--save", "page.html")
    assert saved.code == 0
    assert "[red]caf\\udce9 :smile:.jpg" in (workdir / "page.html").read_text(encoding="utf-8")


# --- each command ---------------------------------------------------------------------------------


def test_classify_gives_what_python_gives(run: Run, model: str) -> None:
    arguments = ["-l", "flower, wafer", "-l", "dress", "-m", model, "--json"]
    ran = run("classify", FLOWER, SCRATCH, *arguments, "--top", "2")
    expected = patchword.load(model).classify([FLOWER, SCRATCH], ["flower", "wafer", "dress"])
    for record, scores in zip(ran.records, expected, strict=True):
        assert [s["label"] for s in record["scores"]] == [s.label for s in scores[:2]]
        probabilities = [s["probability"] for s in record["scores"]]
        assert_allclose(probabilities, [s.probability for s in scores[:2]], rtol=1e-6)


def test_classify_options_reach_the_model(run: Run, model: str, workdir: Path) -> None:
    (workdir / "labels.txt").write_text("flower\nwafer, with a comma\n")
    arguments = ["classify", FLOWER, "-l", "@labels.txt", "-m", model, "--json"]
    labels = ["flower", "wafer, with a comma"]
    loaded = patchword.load(model)

    def same(options: list[str], **expected: Any) -> None:
        (record,) = run(*arguments, *options).records
        (scores,) = loaded.classify([FLOWER], labels, **expected)
        assert [s["label"] for s in record["scores"]] == [s.label for s in scores]
        probabilities = [s["probability"] for s in record["scores"]]
        assert_allclose(probabilities, [s.probability for s in scores], rtol=1e-6)

    same([])
    same(["--multi-label"], multi_label=True)
    same(["--reject", "0.999"], reject=0.999)
    same(["--template", "a {}", "--template", "the {}"], templates=["a {}", "the {}"])
    from patchword.text.templates import IMAGENET

    same(["--template", "imagenet"], templates=IMAGENET)


@pytest.mark.parametrize("columns", [60, 100])
def test_tables_fit_the_screen_and_lose_no_name(
    run: Run, model: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    labels = "dress,flower,long-sleeve shirt,jacket,a rather long label for a pair of pants"
    for command in (
        ["classify", SAMPLES, "-l", labels],
        ["classify", FLOWER, "-l", labels],
        ["similarity", SAMPLES / "wafers", "-t", "a flower", "-t", labels],
    ):
        ran = run(*command, "-m", model)
        assert max(map(len, ran.out.splitlines())) <= columns
    names = [path.name for path in (SAMPLES / "wafers").glob("*.jpg")]
    assert [name for name in names if name not in ran.out] == []


def test_classify_saves_a_picture_and_a_page(run: Run, model: str) -> None:
    arguments = ["classify", FLOWER, SCRATCH, "-l", "flower,<b>wafer", "-m", model]
    assert run(*arguments, "--save", "out.png").code == 0
    assert Image.open("out.png").width > 600
    assert run(*arguments, "--save", "out.html").code == 0
    page = Path("out.html").read_text()
    assert "&lt;b&gt;wafer" in page
    assert page.count("data:image/jpeg") == 2


def test_embed_writes_what_python_gives(run: Run, model: str) -> None:
    expected = patchword.load(model).embed_images([FLOWER, SCRATCH])
    for name in ("out.npz", "out.npy", "out.jsonl"):
        assert run("embed", FLOWER, SCRATCH, "-o", name, "-m", model).code == 0
    archive = np.load("out.npz")
    assert_allclose(archive["vectors"], expected, rtol=1e-6)
    assert archive["names"].tolist() == [str(FLOWER), str(SCRATCH)]
    assert str(archive["fingerprint"]) == patchword.load(model).fingerprint
    assert_allclose(np.load("out.npy"), expected, rtol=1e-6)
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert_allclose([line["vector"] for line in lines], expected, rtol=1e-6)
    texts = run("embed", "-t", "a flower", "-t", "a wafer", "-m", model).records
    assert [line["text"] for line in texts] == ["a flower", "a wafer"]
    want = patchword.load(model).embed_texts(["a flower", "a wafer"])
    assert_allclose([line["vector"] for line in texts], want, rtol=1e-6)


def test_one_long_name_does_not_make_the_others_large(run: Run, model: str) -> None:
    """NumPy's arrays of text are as wide as the longest."""
    Path("texts.txt").write_text("a ring\n" * 49 + "ring, wide, " * 10_000 + "red\n")
    assert run("embed", "--text", "@texts.txt", "-o", "out.npz", "-m", model).code == 0
    names = np.load("out.npz")["names"]
    assert names.tolist() == Path("texts.txt").read_text().splitlines()
    assert Path("out.npz").stat().st_size < names.nbytes / 50


@pytest.mark.parametrize("suffix", ["npy", "npz", "jsonl"])
def test_each_image_that_is_named_has_a_row(run: Run, model: str, suffix: str) -> None:
    """An image that is named twice has two rows, one that fails a row of NaN."""
    names = [str(name) for name in ("missing.jpg", FLOWER, SCRATCH, FLOWER)]
    ran = run("embed", *names, "-o", f"out.{suffix}", "-m", model)
    assert ran.code == 1
    assert "missing.jpg: no such file" in ran.err
    if suffix == "npy":
        rows, row_names = np.load("out.npy"), Path("out.paths.txt").read_text().splitlines()
    elif suffix == "npz":
        rows, row_names = np.load("out.npz")["vectors"], np.load("out.npz")["names"].tolist()
    else:
        lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        row_names = [line["image"] for line in lines]
        assert (lines[0]["vector"], lines[0]["error"]) == (None, "no such file")
        rows = np.array([line["vector"] or [np.nan] * len(lines[1]["vector"]) for line in lines])
    assert row_names == names
    assert np.isnan(rows).any(axis=1).tolist() == [True, False, False, False]
    assert np.isnan(rows[0]).all()
    assert (rows[1] == rows[3]).all()
    Path(f"out.{suffix}").unlink()
    ran = run("embed", *names, "-o", f"out.{suffix}", "--on-error", "error", "-m", model)
    assert (ran.code, Path(f"out.{suffix}").exists()) == (2, False)
    assert "missing.jpg: no such file" in ran.err


def test_a_list_has_an_entry_for_each_line(run: Run, model: str) -> None:
    odd = "a hat\u2028on a\x85table\x0c, red"
    for name, encoding in (("a", "utf-8"), ("b", "utf-8-sig"), ("c", "utf-16")):
        Path(f"{name}.txt").write_bytes(f"{odd}\r\nNA\r\n{odd}".encode(encoding))
        ran = run("embed", "-t", f"@{name}.txt", "-o", f"{name}.npy", "-m", model)
        assert ran.code == 0
        assert np.load(f"{name}.npy").shape[0] == 3
        assert Path(f"{name}.texts.txt").read_text().split("\n") == [odd, "NA", odd, ""]
    again = run("embed", "-t", "@a.texts.txt", "-o", "again.npy", "-m", model)
    assert again.code == 0
    assert (np.load("again.npy") == np.load("a.npy")).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a hat\n\na dress\n", "@list.txt, line 2: empty"),
        (b"a hat\n \t\n", "@list.txt, line 2: empty"),
        (b"", "@list.txt: empty"),
        (b"\xef\xbb\xbf", "@list.txt: empty"),
        (b"a hat\ra dress\r", "@list.txt, line 1: a carriage return"),
        (b"a\ncaf\xe9\n", "@list.txt, line 2: byte 4 of the line (0xe9) is not UTF-8"),
        ("a\nb".encode("utf-16-le"), "@list.txt, line 1: a zero byte"),
        (b"\xff\xfea\x00b", "@list.txt, after line 0: damaged UTF-16"),
        (gzip.compress(b"a\nb\n", mtime=0)[:-9], "@list.txt, after line 2: damaged gzip"),
        (None, "@list.txt: no such file"),
    ],
)
def test_lists_that_cannot_be_read(run: Run, content: bytes | None, message: str) -> None:
    if content is not None:
        Path("list.txt").write_bytes(content)
    ran = run("embed", "-t", "@list.txt")
    assert ran.code == 2
    assert message in ran.message
    assert "Errno" not in ran.err


def test_a_name_of_two_lines_has_no_place_in_a_list(run: Run, model: str) -> None:
    ran = run("embed", "-t", "a\nhat", "-o", "out.npy", "-m", model)
    assert (ran.code, Path("out.npy").exists()) == (2, False)
    assert "line break" in ran.err
    assert run("embed", "-t", "", "-m", model).code == 2


def test_similarity_gives_cosines(run: Run, model: str) -> None:
    arguments = ["-t", "a flower", "-t", "a flower, really", "-m", model]
    ran = run("similarity", FLOWER, SCRATCH, *arguments, "--json", "--save", "matrix.png")
    expected = patchword.load(model).similarity([FLOWER, SCRATCH], ["a flower", "a flower, really"])
    cosines = [[pair["cosine"] for pair in record["texts"]] for record in ran.records]
    assert_allclose(cosines, expected, rtol=1e-5)
    assert [pair["text"] for pair in ran.records[0]["texts"]] == ["a flower", "a flower, really"]
    assert Image.open("matrix.png").width > 300  # labels are as wide as their texts
    assert f"{expected[0, 0]:.3f}" in run("similarity", FLOWER, SCRATCH, *arguments).out


def test_index_then_search(run: Run, model: str, photos: Path) -> None:
    first = run("index", photos, "--into", "my.index", "-m", model, "--json")
    assert first.code == 1
    assert [name for name in BROKEN if name not in first.err] == []
    *failed, counts = first.records
    assert {Path(record["image"]).name for record in failed} == set(BROKEN)
    assert (counts["added"], counts["unchanged"], counts["failed"]) == (2, 0, 3)
    again = run("index", photos / "a.jpg", "--into", "my.index", "-m", model)
    assert again.code == 0
    assert "0 added, 1 unchanged" in again.out

    hits = run("search", "my.index", "--image", photos / "a.jpg", "--json").records
    assert [Path(hit["image"]).name for hit in hits] == ["a.jpg", "b.jpg"]
    assert hits[0]["cosine"] == pytest.approx(1, abs=1e-5)
    some = run("search", "my.index", "a flower", "--where", "path LIKE '%deep%'", "--json").records
    assert [Path(hit["image"]).name for hit in some] == ["b.jpg"]
    shown = run("search", "my.index", "a flower", "-k", "1", "--save", "hits.png")
    words = re.sub(r"\d{4}-\d\d-\d\d", "", shown.out).split()  # but the date beside a folded path
    assert ".jpg" in "".join(words)
    assert Image.open("hits.png").width > 200
    assert run("search", "my.index", "a flower", "--save", "hits.html").code == 0
    assert run("search", "my.index", "a flower", "--where", "1; drop").code == 2

    (photos / "deep" / "b.jpg").unlink()
    left = run("search", "my.index", "a flower", "--save", "left.html")
    assert left.code == 1
    page = Path("left.html").read_text()
    assert "b.jpg (cannot be opened)" in page
    assert [rank in page for rank in ("rank 1 · cosine", "rank 2 · cosine")] == [True, True]
    pruned = run("index", "--prune", "--into", "my.index", "--json")
    assert (pruned.code, pruned.records[0]["pruned"], pruned.records[0]["images"]) == (0, 1, 1)


def test_index_of_nothing_readable_is_2(run: Run, model: str, photos: Path) -> None:
    assert run("index", photos / "text.jpg", "--into", "my.index", "-m", model).code == 2


def test_search_refuses_another_model(run: Run, model: str, tmp_path: Path) -> None:
    assert run("index", FLOWER, "--into", "my.index", "-m", model).code == 0
    checkpoints.save(tiny_bundle(tiny_clip_resnet()), tmp_path / "other")
    ran = run("search", "my.index", "a flower", "-m", tmp_path / "other")
    assert ran.code == 2
    assert "cannot be compared" in ran.err


def test_heatmap_prints_the_peak_and_draws(run: Run, model: str) -> None:
    ran = run(
        "heatmap", FLOWER, "a flower", "the floor", "--method", "cosine", "-m", model, "--json"
    )
    found = patchword.load(model).heatmap(FLOWER, ["a flower", "the floor"], "cosine")
    # The value is the highest one of the drawn map; the place is in the upper quarter of values.
    drawn = found.at(*plots.shown(found.image).shape[:2])
    for record, drawn_values, values in zip(ran.records, drawn, found.values, strict=True):
        assert record["value"] == pytest.approx(drawn_values.max(), rel=1e-5)
        level = values.min() + 0.75 * np.ptp(values)
        assert values[record["y"], record["x"]] >= level
        assert record["method"] == "cosine"
    assert Image.open("flower-heatmap.png").width > 700
    assert "a flower" in run("heatmap", FLOWER, "a flower", "--save", "own.jpg", "-m", model).out
    assert Image.open("own.jpg").format == "JPEG"


def test_attention_draws(run: Run, model: str) -> None:
    ran = run("attention", FLOWER, "-m", model, "--json")
    assert [record["map"] for record in ran.records] == ["mean", "head 0", "head 1"]
    assert Image.open("flower-attention.png").width > 700
    one = run("attention", FLOWER, "--layer", "0", "--head", "1", "--save", "one.png", "-m", model)
    assert one.out.startswith("head 1")
    rolled = run("attention", FLOWER, "--rollout", "-m", model, "--json")
    assert [record["map"] for record in rolled.records] == ["rollout"]


def test_train_then_use(run: Run, workdir: Path) -> None:
    file = write(workdir)
    ran = run("train", file, "steps=2", "--json")
    assert ran.code == 0
    *steps, last = ran.records
    assert [record["step"] for record in steps] == [1, 2]
    assert all(np.isfinite(record["loss"]) for record in steps)
    assert run("info", last["model"]).code == 0
    more = run("train", file, "out=second", "steps=1", "-m", last["model"])
    assert "second/model" in more.out
    wrong = run("train", file, "stps=2")
    assert wrong.code == 2
    assert "stps" in wrong.err


# --- pipes and terminals --------------------------------------------------------------------------


def piped(out: Path, *arguments: object) -> str:
    """The stdout of a command that runs in its own process and writes to a pipe, made at `out`. Its
    stderr goes to the file or terminal of that name with .err."""
    os.mkfifo(out)
    here = {"COLUMNS": None, "PATCHWORD_CACHE": os.environ["PATCHWORD_CACHE"]}
    first = [partial(forked_processes.set_environment, here)]
    process = forked_processes.start_command(out.with_suffix(""), *arguments, first=first)
    with out.open() as pipe:
        output = pipe.read()
    process.join()
    assert process.exitcode == 0, output
    return output


def test_a_pipe_gets_whole_lines_and_no_progress(model: str, workdir: Path) -> None:
    labels = ",".join(f"a dog {i}" for i in range(5))
    stdout = piped(workdir / "run.out", "classify", SAMPLES, "-m", model, "-l", labels)
    assert (workdir / "run.err").read_text() == ""
    assert "\x1b" not in stdout
    lines = [line for line in stdout.splitlines() if ".jpg" in line]
    assert len(lines) == len(list(SAMPLES.rglob("*.jpg"))) > 30
    assert all(".jpg" in line and "%" in line for line in lines)


def test_a_terminal_gets_progress_and_a_pipe_beside_it_only_records(
    model: str, workdir: Path
) -> None:
    ours, theirs = pty.openpty()
    (workdir / "run.err").symlink_to(os.ttyname(theirs))
    stdout = piped(workdir / "run.out", "embed", SAMPLES / "wafers", "-m", model)
    os.close(theirs)
    assert len([json.loads(line) for line in stdout.splitlines()]) == 18
    assert "18/18" in os.read(ours, 1 << 16).decode()
    os.close(ours)


def test_what_is_printed_beside_a_bar_stands_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with output.progress("photos", 2) as advance, output.progress("windows", 1) as inner:
        advance(1, 2)
        inner(0, 1)
        output.notes().print("wrote x.png")
    before, _, after = terminal.getvalue().partition("wrote x.png")
    assert "photos" in before
    assert re.search(r"\x1b\[2K$", before)  # the line was erased
    assert after.startswith("\n")
