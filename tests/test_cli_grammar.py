"""Arguments and options of commands: images and texts, common mistakes, CSV, --quiet, pipes."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_runner import Run

import patchword
from patchword.cli import app, main
from patchword.cli.output import adapt_advice
from patchword.cli.output_options import COLUMNS

SHAPES = Path(patchword.__file__).parent / "assets" / "samples" / "shapes"
RING, STAR = "red-ring.jpg", "purple-star.jpg"


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in (RING, STAR):
        shutil.copy(SHAPES / name, name)
    return tmp_path


def test_images_come_first_and_labels_follow(run: Run) -> None:
    ran = run("classify", RING, STAR, "red ring", "purple star", "--json")
    best = [(r["image"], r["scores"][0]["label"]) for r in ran.records]
    assert best == [(RING, "red ring"), (STAR, "purple star")]
    for option in ("-l", "-t"):
        by_option = run("classify", RING, STAR, option, "red ring,purple star", "--json")
        assert by_option.out == ran.out
    ran = run("segment", RING, "red ring,purple star", "--json")
    for option in ("-l", "-t", "--text"):
        assert run("segment", RING, option, "red ring,purple star", "--json").out == ran.out


@pytest.mark.parametrize("command", ["similarity", "match"])
def test_images_come_first_and_texts_follow(run: Run, command: str) -> None:
    ran = run(command, RING, STAR, "a red ring", "a hat", "--json")
    by_option = run(command, RING, STAR, "-t", "a red ring", "--text", "a hat", "--json")
    assert ran.records == by_option.records
    assert [r["image"] for r in ran.records] == [RING, STAR]
    assert [t["text"] for t in ran.records[0]["texts"]] == ["a red ring", "a hat"]


def test_pictures_of_several_images_have_names(run: Run, workdir: Path) -> None:
    ran = run("heatmap", RING, STAR, "a red ring", "--json")
    assert [(r["image"], r["text"]) for r in ran.records] == [
        (RING, "a red ring"), (STAR, "a red ring"),
    ]  # fmt: skip
    assert {*ran.records[0]} == set(COLUMNS["heatmap"]) - {"outside", "error"}
    assert [record["found"] for record in ran.records] == [True, False]
    assert (workdir / "red-ring-heatmap.png").stat().st_size
    assert (workdir / "purple-star-heatmap.png").stat().st_size

    ran = run("ask", RING, STAR, "which shape is it?", "--save", "new/asked.png", "--json")
    blip = patchword.load("demo-blip")
    expected = [(name, blip.ask(name, "which shape is it?").text) for name in (RING, STAR)]
    assert [(r["image"], r["answer"]) for r in ran.records] == expected
    ran = run("attention", RING, STAR, "--save", "new/seen.png", "--rollout")
    assert ran.code == 0
    assert ran.out.count(f"{STAR}, rollout: most on x") == 1
    names = sorted(path.name for path in (workdir / "new").iterdir())
    assert names == ["asked.png", "seen-purple-star.png", "seen-red-ring.png"]


def test_images_from_lists_globs_tars_and_stdin(
    run: Run, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open("photos.tgz", "w:gz") as tar:
        tar.add(RING, f"deep/{RING}")
        tar.add(__file__, "notes.txt")
    (workdir / "list.txt").write_text(f"{STAR}\nphotos.tgz\n")
    stdin = SimpleNamespace(buffer=io.BytesIO(SHAPES.joinpath(STAR).read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    ran = run("classify", "-", "@list.txt", "red*.jpg", "gone.jpg", "red ring, star", "--json")
    assert ran.code == 1
    assert "gone.jpg: no such file" in ran.err
    assert [r["image"] for r in ran.records] == [
        "stdin", STAR, f"photos.tgz/deep/{RING}", RING, "gone.jpg",
    ]  # fmt: skip
    labels = [r["scores"][0]["label"] for r in ran.records[:-1]]
    assert labels == ["star", "star", "red ring", "red ring"]
    assert ran.records[-1] == {"image": "gone.jpg", "error": "no such file"}
    (workdir / "cut.tar").write_bytes(b"nothing")
    ran = run("caption", "cut.tar")
    assert ran.code == 2
    assert "cut.tar: not a tar that can be read" in ran.err
    ran = run("embed", "-", "-")
    assert ran.code == 2
    assert "standard input holds one image" in ran.err


def test_a_damaged_tar_is_read_up_to_the_damage(run: Run, workdir: Path) -> None:
    """Python's tarfile takes a damaged header for the end of a tar, and ignores a second tar that
    is appended to the first."""
    with tarfile.open("photos.tar", "w") as tar:
        for name in ("0.jpg", "1.jpg", "2.jpg"):
            tar.add(RING, name)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with tarfile.open("photos.tar") as tar:
        offset = tar.getmember("2.jpg").offset
    content = bytearray((workdir / "photos.tar").read_bytes())
    (workdir / "joined.tar").write_bytes(content + content)
    content[offset + 150] ^= 255
    (workdir / "photos.tar").write_bytes(content)
    ran = run("classify", "photos.tar", STAR, "-l", "red ring,hat", "--json")
    assert ran.code == 1
    names = ["photos.tar/0.jpg", "photos.tar/1.jpg", "photos.tar", STAR]
    assert [r["image"] for r in ran.records] == names
    assert re.search("damaged: the header at byte .*; what stands", ran.records[2]["error"])
    ran = run("embed", "joined.tar", "--json")
    assert [r["image"][-5:] for r in ran.records] == ["0.jpg", "1.jpg", "2.jpg", "k.jpg"] * 2
    assert [r.get("error", "")[:9] for r in ran.records] == ["", "", "", "is a link"] * 2


@pytest.mark.parametrize("comma", [",", "，", "、", " ， "])
def test_labels_are_separated_by_commas_of_any_script(run: Run, comma: str) -> None:
    ran = run("classify", RING, "-l", comma.join(["red ring", "hat", "shoe"]), "--json")
    labels = [score["label"] for score in ran.records[0]["scores"]]
    assert labels[0] == "red ring"
    assert set(labels) == {"red ring", "hat", "shoe"}


WRONG = [
    (["classify", RING, "-l", "labels.txt"], "labels.txt: did you mean @labels.txt"),
    (["classify", RING, "-l", "@gone.txt"], "@gone.txt: no such file"),
    (["classify", RING, "--labels", "hat", "dress", "shirt"], '--labels "hat,dress,shirt"'),
    (["classify", RING, "-l", "hat,hot", "dog,cat"], '--labels "hat,hot dog,cat"'),
    (["classify", RING, "red ring", "-l", "hat,dress"], '--labels "hat,dress,red ring"'),
    (["classify", RING, "", "-l", "hat,dress"], "an empty name is given among the images"),
    (["caption", ""], "an empty name is given among the images"),
    (["ask", RING, "is it red?", "-a", "yes,no", "--max-length", "4"], "leave out --max-length or"),
    (["search", "x", "a hat", "--image-weight", "3"], "--image-weight needs --image"),
    (["search", "x", "a hat", "--text-weight", "3"], "--text-weight needs --image or --without"),
    (["search", "x", "a hat", "--without-weight", "3"], "--without-weight needs --without"),
    (["match", RING, "-t", "hat", "dress"], 'are written --text "hat" --text "dress"'),
    (["match", RING, "-t", "a", "red", "ring"], 'stands in quotes: --text "a red ring"'),
    (["heatmap", RING, "a", "red", "ring"], 'one text stand in quotes: "a red ring"'),
    (["classify", "red-rin.jpg", "hat"], f"red-rin.jpg: no such file (do you mean {RING}?)"),
    (["classify", RING, "hat", "red-rin.jpg"], f"red-rin.jpg: no such file (do you mean {RING}?)"),
    (["classify", RING, "-l", "@commented.txt"], "line 2: '# shoes': lists have no comments"),
    (["heatmap", RING, ""], "an empty text is given"),
    (["segment", RING, "--labels", "hat,,dress"], "an empty text is given: 'hat,,dress'"),
    (["heatmap", RING, STAR], "give texts after the images"),
    (["ask", RING], "give questions after the images"),
    (["heatmap", RING, "a hat", STAR], f"{STAR} is a file and comes after a text"),
    (["match", RING, "-t", STAR], f"{STAR} is a file and stands where a text is wanted"),
    (["train", "probe", "steps=5", "--show"], "as it is written: leave out steps=5"),
    (["train", "probe", "--show", "--json"], "as it is written: leave out --json"),
    (["export", "demo"], "give one model and one folder"),
    (["verify", "demo-blip"], "give one model and one receipt"),
    (["export", "demo", "folder", "--dtype", "int8"], "to write it in int8 give --int8"),
    (["export", "-o", "folder"], "-o is no option here: DIR is the second argument"),
    (["export", "demo", "--out=folder"], "--out is no option here: DIR is the second argument"),
    (["caption", RING, "--num_beams", "3"], "--num_beams is called --beams here"),
    (["caption", RING, "--do-sample"], "texts are sampled where temperature"),
    (["caption", RING, "--beams", "3", "--beams=1"], "--beams is given twice; it takes one value"),
    (["embed", RING, "-m", "demo", "--model", "demo"], "--model is given twice; it takes one"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_common_mistakes(run: Run, workdir: Path, arguments: list[str], message: str) -> None:
    (workdir / "commented.txt").write_text("hat\n# shoes\n")
    ran = run(*arguments)
    assert ran.code == 2
    assert not ran.out
    assert message in ran.message


def test_an_error_is_one_line(run: Run) -> None:
    ran = run("classify", RING, "-l", "hat,hat")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "twice there: 'hat'" in ran.err
    ran = run("heatmap", RING, "--like", "10,10", "--like-image", "gone.jpg")
    assert (ran.code, ran.err) == (2, "error: gone.jpg: no such file\n")


def test_csv_of_tiles_has_their_boxes(run: Run) -> None:
    arguments = ["classify", RING, "-l", "red ring,hat", "--tile-size", "128", "--each-tile"]
    table = list(csv.DictReader(io.StringIO(run(*arguments, "--csv").out)))
    records = run(*arguments, "--json").records
    for key in ("box", "tile"):
        values = [score.get(key, r.get(key, "")) for r in records for score in r["scores"]]
        assert [row[key] for row in table] == [str(value) for value in values]
    assert len({row["tile"] for row in table}) == 11


def test_hints_at_ambiguous_arguments(run: Run, workdir: Path) -> None:
    ran = run("classify", RING, "-l", "hat")
    assert "warning: one label is always 100%" in ran.err
    assert "100.0%" in ran.out
    assert "always 100%" not in run("classify", RING, "-l", "hat", "--multi-label").err
    (workdir / "tags.txt").write_text("#hat\n#shoe\n")
    ran = run("classify", RING, "-l", "@tags.txt", "--json")
    assert "'#hat' is taken as a text" in ran.err
    assert {s["label"] for s in ran.records[0]["scores"]} == {"#hat", "#shoe"}
    (workdir / "star").mkdir()
    shutil.copy(STAR, "star/one.jpg")
    ran = run("similarity", RING, "star", "a star", "--json")
    assert "star: taken as the folder of that name; as a text: --text" in ran.err
    assert [json.loads(line)["image"] for line in ran.out.splitlines()] == [RING, "star/one.jpg"]


def test_a_page_is_written_although_nobody_reads_stdout(workdir: Path) -> None:
    """As `patchword classify ... --json --save page.html | head -n 1`, of many images."""
    command = [sys.executable, "-m", "patchword", "classify", *[RING] * 40, "-l", "hat,red ring"]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        saved = subprocess.run([*command, "--json", "--save", "new/page.html"], stdout=stdout)
    assert saved.returncode == 0
    assert "</html>" in (workdir / "new" / "page.html").read_text()


def test_training_prints_lines_without_a_terminal(run: Run, workdir: Path) -> None:
    (workdir / "data.csv").write_text(f"file_name,caption\n{RING},a ring\n{STAR},a star\n")
    table = ["data.0.kind=table", "data.0.path=data.csv", "engine.workers=0", "engine.device=cpu"]
    done = run("train", "clip", *table, "steps=2", "batch=2", "warmup=0", "out=out")
    assert done.code == 0, done.err
    lines = done.err.splitlines()
    assert lines[0] == "starting: the model and the data are read before step 1 of 2"
    assert [line.split(":")[0] for line in lines[1:3]] == ["step 1/2", "step 2/2"]
    assert re.fullmatch(r"trained on 2 images in 0:\d\d:\d\d, last loss \d\.\d+", lines[3])
    assert lines[4:] == [f"wrote {Path('out/curves.png')}"]
    assert done.out.endswith("index PHOTOS --into photos.index --model out/model\n")


def class_folders() -> None:
    """Make data/ring and data/star, with a picture each."""
    for name, picture in (("ring", RING), ("star", STAR)):
        Path("data", name).mkdir(parents=True)
        shutil.copy(picture, Path("data", name))


def test_zero_shot_by_folder_names_hints_at_labels(run: Run) -> None:
    class_folders()
    assert "--template" in run("eval", "data", "--task", "zero-shot").err
    ran = run("eval", "data", "--task", "zero-shot", "--labels", "a red ring，a purple star")
    assert "--template" not in ran.err
    assert "100.0%" in ran.out


def test_csv_has_a_row_for_each_result(run: Run) -> None:
    """And one for each image that failed; the numbers are those of --json."""
    Path("photos").mkdir()
    for name in (RING, STAR):
        shutil.copy(name, "photos")
    for command, *texts in (
        ("classify", "red ring, hat"), ("similarity", "a ring, a hat", "a star"),
        ("ask", "which shape is it?"),
    ):  # fmt: skip
        arguments = (command, RING, "gone.jpg", *texts)
        as_csv, as_json = run(*arguments, "--csv"), run(*arguments, "--json")
        assert (as_csv.code, as_json.code) == (1, 1)
        rows = list(csv.DictReader(as_csv.out.splitlines()))
        assert tuple(rows[0]) == COLUMNS[command]
        assert (rows[-1]["image"], rows[-1]["error"]) == ("gone.jpg", "no such file")
        record = as_json.records[0]
        items = record.get("scores") or record.get("texts") or [record]
        assert len(rows) == len(items) + 1
        for row, item in zip(rows[:-1], items, strict=True):
            values = {**record, **item}
            assert row == {c: str(values.get(c, "")) for c in COLUMNS[command]}
    ran = run("search", "photos", "a ring", "--csv", "--quiet")
    rows = list(csv.DictReader(ran.out.splitlines()))
    assert [(row["rank"], Path(row["image"]).name) for row in rows] == [("1", RING), ("2", STAR)]
    assert "give --json or --csv" in run("caption", RING, "--csv", "--json").err


def test_missing_quotes_are_understood(run: Run) -> None:
    quoted = run("ask", RING, "which shape is it?", "--json")
    ran = run("ask", RING, "which", "shape", "is", "it?", "--json")
    assert ran.records == quoted.records
    assert 'taken as one question: "which shape is it?"' in ran.err
    Path("photos").mkdir()
    shutil.copy(RING, "photos")
    assert run("search", "photos", "a", "red", "ring", "--json").records == (
        run("search", "photos", "a red ring", "--json").records
    )


def test_csv_of_measures_and_lists(run: Run) -> None:
    class_folders()
    Path("data", "star", "broken.jpg").write_bytes(b"no image")
    arguments = ("eval", "data", "--task", "zero-shot")
    (record, _) = run(*arguments, "--json").records
    rows = list(csv.DictReader(run(*arguments, "--csv").out.splitlines()))
    assert tuple(rows[0]) == COLUMNS["eval"]
    measures = {row["measure"]: row["value"] for row in rows if not row["error"]}
    assert float(measures["acc1"]) == record["acc1"]
    assert float(measures["per_class star"]) == record["per_class"]["star"]
    assert Path(rows[-1]["image"]).name == "broken.jpg"
    (row,) = csv.DictReader(run("index", RING, "--csv").out.splitlines())
    assert (row["index"], row["images"], row["added"]) == ("patchword.index", "1", "1")
    run("receipt", "-o", "receipt.json")
    for arguments in (("verify", "receipt.json"), ("models", "siglip")):
        rows = list(csv.DictReader(run(*arguments, "--csv").out.splitlines()))
        records = run(*arguments, "--json").records
        for row, record in zip(rows, records, strict=True):
            values = {c: record.get(c) for c in COLUMNS[arguments[0]]}
            assert row == {c: "" if value is None else str(value) for c, value in values.items()}


def test_quiet_leaves_errors_and_warnings(run: Run) -> None:
    loud = run("classify", RING, "gone.jpg", "hat", "--save", "a.png")
    assert "wrote a.png" in loud.err
    ran = run("classify", RING, "gone.jpg", "hat", "--save", "a.png", "-q")
    assert ran.out == loud.out
    assert ran.err == loud.err.replace("wrote a.png\n", "")
    assert "error: gone.jpg: no such file" in ran.err
    assert "warning: one label" in ran.err


def test_messages_name_options_of_the_command_line(run: Run) -> None:
    assert '--labels "a hat, a shoe"' in run("classify", RING).err
    assert "The embedded models are demo and demo-blip" in run("models", "demo").message


def test_an_image_that_evaluation_cannot_open_is_a_record(run: Run, workdir: Path) -> None:
    class_folders()
    (workdir / "data" / "star" / "cut.jpg").write_bytes(b"nothing")
    ran = run("eval", "data", "--task", "zero-shot", "--json")
    assert ran.code == 1
    assert [r.get("task") for r in ran.records] == ["zero-shot", None]
    assert set(ran.records[1]) == {"image", "error"}
    assert ran.records[1]["image"].endswith("star/cut.jpg")


def test_every_key_is_documented() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
    for command, keys in COLUMNS.items():
        assert f"| `{command.replace('_', ' ')}` |" in docs
        assert all(f"`{key}`" in docs for key in keys)


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        ("heatmap --device ", {"auto", "cpu", "cuda", "mps"}),
        ("heatmap --method sc", {"sclip", "scclip"}),
        ("segment --method ma", {"maskclip", "maskclip-paper", "maskclip-keys"}),
        ("inspect --method m", {"memory", "mutual"}),
        ("embed --long-text m", {"mean"}),
        ("embed --on-error ", {"nan", "error"}),
    ],
)
def test_the_shell_completes_choices(
    words: str,
    choices: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"patchword {words}"
    monkeypatch.setenv("_PATCHWORD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        app(prog_name="patchword")
    assert set(capsys.readouterr().out.split()) == choices


def test_a_terminal_gets_a_summary_of_vectors(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("embed", RING, STAR, "--json")
    assert [len(record["vector"]) for record in ran.records] == [192, 192]
    assert run("embed", RING, STAR).out == ran.out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = run("embed", RING, STAR)
    assert run("embed", RING, STAR, "--json").out == ran.out
    first = " ".join(f"{value:.3f}" for value in ran.records[0]["vector"][:4])
    assert f"{RING} {first} ..." in " ".join(shown.out.split())
    assert "2 x 192, unit vectors" in shown.out
    assert "-o vectors.npz, or --json" in shown.err


UNREAD = [
    ["models"], ["models", "--json"], ["--help"], ["embed", "--help"], ["embed", RING],
    ["classify", RING, "a ring, a star"], ["train", "lora", "--show"], ["--version"],
]  # fmt: skip


@pytest.mark.parametrize("words", UNREAD, ids=" ".join)
def test_a_command_ends_in_silence_where_nobody_reads(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As `ls | head` does, with the exit code that shells give to it."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert ended.value.code == 141
    assert capfd.readouterr().err == ""


def test_outputs_make_their_folders_and_say_so(run: Run) -> None:
    ran = run("similarity", RING, "a ring", "--save", "new/deep/a.png")
    assert ran.err.splitlines() == ["made folder new/deep", "wrote new/deep/a.png"]
    assert Path("new/deep/a.png").stat().st_size
    assert "made folder" not in run("similarity", RING, "a ring", "--save", "new/deep/b.png").err
    assert "made folder runs" in run("index", RING, "--into", "runs/a").err
    Path("file").touch()
    ran = run("embed", RING, "-o", "file/vectors.npy")
    assert ran.code == 2
    assert "its folder cannot be made" in ran.message


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which nobody may write")
@pytest.mark.parametrize(
    "words",
    [
        ["classify", RING, "a ring, a star", "--save", "/proc/a.png"],
        ["embed", RING, "-o", "/proc/a/b.npz"],
        ["index", RING, "--into", "/proc/a"],
        ["receipt", "-o", "/proc/a.json"],
        ["blend", "demo", "demo", "-o", "/proc/a"],
        ["capfilt", "data.csv", "/proc/a"],
        ["train", "probe", "out=/proc/a"],
        ["inspect", RING, STAR, "--save", "/proc/a"],
        ["demo", "--out", "/proc/a"],
    ],
    ids=lambda words: words[0],
)
def test_a_place_that_takes_no_files_is_refused_before_any_work(
    run: Run,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("patchword.api.load", None)  # no model is loaded
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    deep = words[-1].startswith("/proc/a/")
    assert ("its folder cannot be made" if deep else "nothing can be written there") in ran.message


def test_a_run_is_not_written_into_its_training_photos(run: Run, workdir: Path) -> None:
    for name in "ab":
        (workdir / "photos" / name).mkdir(parents=True)
    data = ["data.0.kind=folder", "data.0.path=photos"]
    done = run("train", "probe", *data, "out=photos/run")
    assert (done.code, "photos/run: lies in photos" in done.message) == (2, True)
    assert not (workdir / "photos" / "run").exists()


def test_advice_is_for_the_command_line() -> None:
    message = adapt_advice('load a CLIP, or the embedded model: patchword.load("demo")')
    assert message == "load a CLIP, or the embedded model: -m demo"
    message = adapt_advice(
        'give the name that it was trained as, architecture="ViT-B-32" (--architecture)'
    )
    assert message == "give the name that it was trained as, --architecture ViT-B-32"
    assert adapt_advice('image; method="cosine" works') == "image; --method cosine works"
