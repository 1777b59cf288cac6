"""eval and blend on the command line: results, tables, exit codes and messages."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import Run
from PIL import Image
from small_models import tiny_bundle, tiny_clip, tiny_clip_resnet

import patchword
from patchword import checkpoints, evaluate, models
from patchword.bundle import make
from patchword.cli import eval_inspect
from patchword.errors import warn

SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, 120 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two models of one shape."""
    folder = tmp_path_factory.mktemp("pair")
    first = tiny_bundle(tiny_clip())
    torch.manual_seed(9)
    network = models.build(first.config)
    models.initialise(network)
    second = make(network, first.config, first.tokenizer, "second")
    return str(checkpoints.save(first, folder / "a")), str(checkpoints.save(second, folder / "b"))


@pytest.fixture
def data(workdir: Path) -> Path:
    """Splits of two classes with a broken image in one of them."""
    for split, count in (("train", 6), ("validation", 4)):
        for name, colour in (("dark", 0), ("light", 180)):
            (workdir / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng(i).integers(0, 70, (36, 36, 3))
                path = workdir / "data" / split / name / f"{i}.png"
                Image.fromarray((noise + colour).astype(np.uint8)).save(path)
    (workdir / "data" / "validation" / "dark" / "broken.jpg").write_bytes(b"nothing")
    return workdir / "data"


def test_eval_says_which_sentence_it_used_and_advises_no_default(run: Run, data: Path) -> None:
    (data / "validation" / "dark" / "broken.jpg").unlink()
    for name in ("blue", "green", "red"):
        shutil.copytree(data / "validation" / "light", data / "validation" / name)
    told = run("eval", data / "validation", "--task", "zero-shot")
    assert 'labels (blue, dark, green, light and 1 more), in the sentence "a photo of a {}"' in (
        told.err
    )
    given = ("--template", "a photo of a {}")
    same = run("eval", data / "validation", "--task", "zero-shot", *given)
    assert same.out == told.out  # it is the default
    assert '--template "a photo of a {}"' not in told.err
    assert "zero-shot used" not in same.err


def test_eval_of_the_embedded_model(run: Run) -> None:
    ran = run("eval", SAMPLES, "--json")
    (record,) = ran.records
    assert ran.code == 0
    assert record["model"] == "demo"
    assert record["task"] == "zero-shot"
    assert record["acc1"] == np.trace(record["confusion"]) / record["images"]
    assert set(record["classes"]) == {p.name for p in SAMPLES.iterdir() if p.is_dir()}


def test_eval_tasks_table_picture_and_broken_images(
    run: Run, pair: tuple[str, str], data: Path
) -> None:
    ran = run("eval", pair[0], data, "--save", "confusion.png")
    assert ran.code == 1
    assert "broken.jpg: not an image" in ran.err
    assert "1 of 21 images failed" in ran.err  # 12 of them are learned from
    for word in ("zero-shot", "probe", "knn", "100.0%", "mean per class", "dark", "else taken for"):
        assert word in ran.out
    with Image.open("confusion.png") as picture:
        assert picture.height > picture.width


def test_eval_tasks_in_json(run: Run, pair: tuple[str, str], data: Path) -> None:
    (data / "validation" / "dark" / "broken.jpg").unlink()
    arguments = (data / "validation", "--train", data / "train", "--task", "knn,probe", "-k", 3)
    ran = run("eval", "-m", pair[0], *arguments, "--json")
    assert ran.code == 0
    linear, near = ran.records
    assert (linear["task"], linear["acc1"], linear["images"]) == ("probe", 1.0, 8)
    assert (near["task"], near["k"], near["train_images"]) == ("knn", 3, 12)
    assert near["per_class"] == {"dark": 1.0, "light": 1.0}
    assert near["fingerprint"] == checkpoints.load(pair[0]).fingerprint


def test_evaluating_on_the_training_photos_is_a_warning(
    run: Run, pair: tuple[str, str], data: Path
) -> None:
    train = data / "train"
    ran = run("eval", pair[0], train, "--train", f"{data}/validation/../train", "--task", "knn")
    assert ran.code == 0
    assert "is also the evaluated data: these numbers say nothing about other photos" in ran.err


def test_eval_retrieval(run: Run, pair: tuple[str, str], data: Path) -> None:
    folder = data / "train" / "dark"
    rows = [{"file_name": f"{i}.png", "caption": ["a cat", f"{i} dogs"]} for i in range(7)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for source in (folder, folder / "metadata.jsonl"):
        ran = run("eval", pair[0], source, "--json")
        assert ran.code == 1  # there is no 6.png
        record, failed = ran.records
        assert set(failed) == {"image", "error"}
        assert (record["images"], record["captions"]) == (6, 12)
        assert record["text_retrieval_recall@10"] == 1
        assert 0 <= record["image_retrieval_recall@1"] <= 0.5
    ran = run("eval", pair[0], folder, "--save", "none.png")
    assert "recall@5" in ran.out
    assert "12 captions" in ran.out
    assert "no confusion matrix" in ran.err
    assert not Path("none.png").exists()


def test_eval_templates_and_labels(run: Run, pair: tuple[str, str], data: Path) -> None:
    (data / "validation" / "dark" / "broken.jpg").unlink()
    arguments = ("eval", pair[0], data / "validation", "--json")
    default = run(*arguments).records[0]
    imagenet = run(*arguments, "--template", "imagenet").records[0]
    labelled = run(*arguments, "-l", "a cat, a dog").records[0]
    assert (default["templates"], imagenet["templates"]) == (1, 80)
    assert labelled["labels"] == ["a cat", "a dog"]
    assert labelled["classes"] == ["dark", "light"]


def test_eval_two_views(run: Run, pair: tuple[str, str], data: Path) -> None:
    for path in data.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((36, 90)).save(path)
    (data / "validation" / "dark" / "broken.jpg").unlink()
    ran = run("eval", pair[0], data, "--two-views", "--json")
    assert [(row["task"], row["two_views"]) for row in ran.records] == [
        ("zero-shot", True),
        ("probe", True),
        ("knn", True),
    ]
    assert "seen in part" not in ran.err
    one = run("eval", pair[0], data, "--json")
    assert "two_views" not in one.records[0]
    assert "--squash shows the whole, --two-views too" in one.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("data", "--task", "guess"), "no task 'guess'"),
        (("data/validation", "--task", "probe"), "need images to learn from"),
        (("data", "--task", "zero-shot", "-l", "one"), "1 label for 2 classes"),
        (("data", "--task", "zero-shot", "--template", "no braces"), "has no {}"),
        (("data", "--save", "a.txt"), "must end in .png"),
        (("data", "--two-views", "--squash"), "leave --squash out"),
        (("a", "b", "c"), "give one model and one folder"),
        (("data/validation/dark",), "no images in folders"),
    ],
)
def test_eval_refuses(
    arguments: tuple[str, ...], message: str, run: Run, pair: tuple[str, str], data: Path
) -> None:
    ran = run("eval", *arguments, "-m", pair[0])
    assert ran.code == 2
    assert message in ran.message
    assert ran.out == ""


def test_eval_where_every_image_is_broken(run: Run, pair: tuple[str, str], workdir: Path) -> None:
    (workdir / "bad" / "cat").mkdir(parents=True)
    (workdir / "bad" / "cat" / "0.png").write_bytes(b"nothing")
    ran = run("eval", pair[0], "bad")
    assert ran.code == 2
    assert "0.png: not an image" in ran.err
    assert "none of 1 images can be opened" in ran.err


def test_blend_saves_a_model(run: Run, pair: tuple[str, str]) -> None:
    ran = run("blend", *pair, "--alpha", 0.5, "-o", "half", "--json")
    assert ran.code == 0
    first, second, half = (checkpoints.load(path) for path in (*pair, "half"))
    (record,) = ran.records
    assert record == {"model": "half", "alpha": 0.5, "fingerprint": half.fingerprint}
    name = "image.blocks.0.attn.qkv.weight"
    a, b, mixed = (m.network.state_dict()[name] for m in (first, second, half))
    assert torch.equal(mixed, ((a.double() + b.double()) / 2).float())
    assert len({first.fingerprint, second.fingerprint, half.fingerprint}) == 3


def test_blend_keeps_the_best(
    run: Run, pair: tuple[str, str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "validation" / "dark" / "broken.jpg").unlink()
    ran = run("blend", *pair, "--alpha", "0,0.5,1", "--eval", data, "-o", "best", "--json")
    assert ran.code == 0
    *tried, saved = ran.records
    assert [row["alpha"] for row in tried] == [0, 0.5, 1]
    assert {row["task"] for row in tried} == {"zero-shot"}
    best = max(tried, key=lambda row: row["acc1"])
    assert saved["alpha"] == best["alpha"]
    ends = [run("eval", model, data, "--task", "zero-shot", "--json").records[0] for model in pair]
    assert [row["acc1"] for row in ends] == [tried[0]["acc1"], tried[2]["acc1"]]
    blend = evaluate.blend

    def blend_with_warning(*arguments: Any) -> Any:
        warn("less exact")
        return blend(*arguments)

    monkeypatch.setattr(evaluate, "blend", blend_with_warning)
    ran = run("blend", *pair, "--alpha", "0,0.5,1", "--eval", data)
    assert ran.err.count("less exact") == 1  # not once for each alpha
    assert "zero-shot top-1" in ran.out
    assert ran.out.count("best") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--alpha", "0,1", "-o", "x"), "several alphas need --eval"),
        (("--alpha", "2", "-o", "x"), "numbers go from 0"),
        (("--alpha", "half", "-o", "x"), "give numbers"),
        ((), "give -o FOLDER"),
        (("--eval", "nowhere"), "no such file or folder"),
        (("-o", "data"), "holds something other"),
    ],
)
def test_blend_refuses(
    arguments: tuple[str, ...], message: str, run: Run, pair: tuple[str, str], data: Path
) -> None:
    ran = run("blend", *pair, *arguments)
    assert ran.code == 2
    assert message in ran.message


def test_blend_of_other_shapes_names_what_differs(run: Run, pair: tuple[str, str]) -> None:
    checkpoints.save(tiny_bundle(tiny_clip_resnet()), "resnet")
    ran = run("blend", pair[0], "resnet", "-o", "out")
    assert ran.code == 2
    assert "cannot be blended" in ran.err
    assert "their image towers are a ViT and a ResNet" in ran.err
    assert not Path("out").exists()


@pytest.mark.parametrize("written", [r"a\b.png", r"C:\photos\a\b.png", "file://{workdir}/a/b.png"])
def test_a_path_as_windows_or_a_browser_writes_it(run: Run, workdir: Path, written: str) -> None:
    (workdir / "a").mkdir()
    Image.new("RGB", (9, 9)).save(workdir / "a" / "b.png")
    folder = workdir / "a" if "C:" in written else workdir
    table = folder / "table.csv"
    table.write_text(f"file_name,caption\n{written.format(workdir=workdir)},a dog\n")
    ran = run("eval", "demo", table)
    assert ran.code == 2
    assert f"no such file (do you mean {workdir / 'a' / 'b.png'}?)" in ran.err


def test_a_name_in_another_form_of_unicode(run: Run, workdir: Path) -> None:
    Image.new("RGB", (9, 9)).save(workdir / "caf\u00e9.png")
    ran = run("classify", "cafe\u0301.png", "-l", "hat,dress")
    assert "stored in another form of Unicode?)" in ran.err


def test_options_that_no_task_uses_are_a_warning(run: Run) -> None:
    table = SAMPLES / "captions.csv"
    ran = run("eval", table, "--labels", "a,b", "--template", "a {}", "--train", table)
    assert ran.code == 0
    for option, tasks in (("labels", "zero-shot"), ("template", "zero-shot"), ("train", "knn and")):
        assert f"--{option} is for {tasks}" in ran.err
    assert "has no effect" not in run("eval", table, "--task", "retrieval").err


@pytest.mark.parametrize(("width", "rows"), [(200, 1), (60, 8)])
def test_the_table_of_eval_inspect_fits(width: int, rows: int) -> None:
    """In a narrow terminal it has a row for each measure."""
    done: Any = [SimpleNamespace(category="a", method="memory", values={"spro": 0.5}, seconds=1)]
    done[0].values |= dict.fromkeys(eval_inspect.MEASURES, 0.981)
    out = eval_inspect.measures_table(done, width)
    assert len(out.rows) == rows
