"""The records of a run: each step once, correct evaluations, readable curves."""

import errno
import itertools
import json
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from PIL import Image
from scipy.signal import medfilt
from sklearn.metrics import balanced_accuracy_score
from small_models import tiny_bundle, tiny_clip, tiny_vit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from patchword import models
from patchword.bundle import Bundle, make
from patchword.cli.train import (
    RunSummary,
    evaluation_sentences,
    finish_run,
    step_line,
    trained_objective,
)
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import ConfigError, ImageError, RecipeError
from patchword.train import curves as drawing
from patchword.train.loop import Trained
from patchword.train.monitor import EvaluateConfig, ForgettingConfig, Monitor, MonitorConfig
from patchword.train.recipe import load

pytestmark = pytest.mark.slow

COLOURS = {"dark": 0, "light": 180}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Splits with two classes. One training image is broken."""
    for split, count in (("train", 6), ("validation", 5)):
        for name, colour in COLOURS.items():
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng(i).integers(0, 70, (40, 40, 3))
                path = tmp_path / "photos" / split / name / f"{i}.png"
                Image.fromarray((noise + colour).astype(np.uint8)).save(path)
    (tmp_path / "photos" / "train" / "dark" / "broken.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture
def captions(tmp_path: Path, photos: Path) -> Path:
    """Seven images with two captions each. The last image is broken."""
    shutil.copytree(photos / "train" / "dark", tmp_path / "words")
    names = [*(f"{i}.png" for i in range(6)), "broken.png"]
    rows = [{"file_name": n, "caption": ["a cat", f"{i} dogs"]} for i, n in enumerate(names)]
    (tmp_path / "words" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "words"


@pytest.fixture
def model() -> Bundle:
    return tiny_bundle(tiny_clip())


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Rows


PLAIN = MonitorConfig()


def run_steps(out: Path, start: int, stop: int, config: MonitorConfig = PLAIN) -> Monitor:
    """Record the steps start + 1 to stop. Their loss shows in which part of the run they were
    made."""
    monitor = Monitor(out, config, start, stop)
    for step in range(start + 1, stop + 1):
        monitor.step(step, {"loss": step + start / 1000, "learning_rate": 0.1})
    return monitor


def test_each_step_stands_once_after_a_resume(tmp_path: Path) -> None:
    run_steps(tmp_path, 0, 9)  # killed: not closed
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()[:6]
    with (tmp_path / "metrics.jsonl").open() as old:
        run_steps(tmp_path, 6, 8).close()
        assert old.read().count("\n") == 9  # replaced atomically
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["loss"] for row in rows] == [1, 2, 3, 4, 5, 6, 7.006, 8.006]
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[:6] == before
    run_steps(tmp_path, 0, 2).close()
    assert [row["loss"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    monitor = run_steps(tmp_path, 0, 1)
    monitor.step(2, {"loss": float("nan"), "grad_norm": float("inf"), "learning_rate": 0.25})
    assert read(tmp_path / "metrics.jsonl")[1] == {
        "step": 2, "loss": None, "grad_norm": None, "learning_rate": 0.25
    }  # fmt: skip
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n[2]\n{"step": 3}\n')
    with pytest.raises(RecipeError, match=r"metrics\.jsonl, line 2: not a JSON object; remove"):
        Monitor(tmp_path, MonitorConfig(), 3, 5)


def test_a_full_disk_leaves_the_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_steps(tmp_path, 0, 4).close()
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecipeError, match=r"metrics\.jsonl: No space left"):
        Monitor(tmp_path, MonitorConfig(), 2, 4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_row_that_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, MonitorConfig(), 0, 2)
    monitor.metrics.close()
    monitor.metrics.file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(RecipeError, match=r"metrics\.jsonl: No space left"):
        monitor.step(1, {"loss": 1.0})
    monitor.close()


def test_broken_samples_are_named_once_across_resumes(tmp_path: Path) -> None:
    errors = [ImageError(name, "not an image") for name in ("a.png", "b.png", "a.png")]
    monitor = Monitor(tmp_path, MonitorConfig(), 0, 9)
    monitor.broken(errors)
    monitor.broken(errors[:1])
    assert len(monitor.recorded) == 2
    with (tmp_path / "broken.jsonl").open("a") as file:
        file.write('{"name": "c')
    monitor = Monitor(tmp_path, MonitorConfig(), 5, 9)
    assert len(monitor.recorded) == 2
    monitor.broken([errors[1], ImageError("c.png", "empty")])
    assert len(monitor.recorded) == 3
    rows = [{"name": n, "reason": "not an image"} for n in ("a.png", "b.png")]
    assert read(tmp_path / "broken.jsonl") == [*rows, {"name": "c.png", "reason": "empty"}]
    assert not Monitor(tmp_path, MonitorConfig(), 0, 9).recorded


# TensorBoard


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_has_the_same_steps(tmp_path: Path, photos: Path, model: Bundle) -> None:
    data = EvaluateConfig(str(photos / "validation"), name="colours")
    config = MonitorConfig(evaluate=(data,), tensorboard=True)
    killed = run_steps(tmp_path / "run", 0, 9, config)
    assert killed.board is not None
    assert len(scalars(tmp_path / "run" / "tensorboard", "train/learning_rate")) == 9
    monitor = run_steps(tmp_path / "run", 6, 8, config)
    metrics = monitor.evaluate(8, model)
    monitor.close()
    steps = scalars(tmp_path / "run" / "tensorboard", "train/loss")
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert_allclose([loss for _, loss in steps], [1, 2, 3, 4, 5, 6, 7.006, 8.006], rtol=1e-6)
    tag = "eval/colours zero-shot acc1"
    assert scalars(tmp_path / "run" / "tensorboard", tag) == [(8, pytest.approx(metrics[tag]))]


def test_tensorboard_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RecipeError, match=r'not installed: pip install "patchword\[train\]"'):
        Monitor(tmp_path / "run", MonitorConfig(tensorboard=True), 0, 1)
    Monitor(tmp_path / "run", MonitorConfig(), 0, 1).close()
    assert not (tmp_path / "run" / "tensorboard").exists()


# Evaluations


def test_an_evaluation_is_what_the_model_does(
    tmp_path: Path, photos: Path, captions: Path, model: Bundle
) -> None:
    sets = (
        EvaluateConfig(str(photos / "validation"), labels=("a cat", "a wafer"), templates=("{}",)),
        EvaluateConfig(str(captions)),
    )
    monitor = Monitor(tmp_path / "run", MonitorConfig(every=5, evaluate=sets), 0, 10)
    monitor.check(model)
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"left out of the evaluation: .*broken\.png"):
        metrics = monitor.evaluate(5, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics_again = monitor.evaluate(10, model)
    assert torch.equal(torch.get_rng_state(), before)
    assert metrics == metrics_again

    files = sorted((photos / "validation").glob("*/*.png"))
    targets = [list(COLOURS).index(file.parent.name) for file in files]
    texts = model.embed_texts(["a cat", "a wafer"])
    predicted = (model.embed_images(files) @ texts.T).argmax(axis=1)
    assert metrics["eval/validation zero-shot acc1"] == np.mean(predicted == targets)
    recall = balanced_accuracy_score(targets, predicted)
    assert metrics["eval/validation zero-shot mean_per_class_recall"] == recall
    assert metrics["eval/words retrieval text_retrieval_recall@10"] == 1
    texts = [text for i in range(6) for text in ("a cat", f"{i} dogs")]
    images = model.embed_images([captions / f"{i}.png" for i in range(6)])
    first = (model.embed_texts(texts) @ images.T).argmax(axis=1)
    expected = np.mean(first == np.arange(6).repeat(2))
    assert metrics["eval/words retrieval image_retrieval_recall@1"] == expected
    assert len(metrics) == 2 + 6
    assert read(tmp_path / "run" / "metrics.jsonl") == [{"step": n, **metrics} for n in (5, 10)]


def test_when_an_evaluation_is_due(tmp_path: Path, photos: Path, model: Bundle) -> None:
    data = (EvaluateConfig(str(photos / "validation")),)
    config = MonitorConfig(every=4, evaluate=data)

    def due(monitor: Monitor) -> list[int]:
        return [step for step in range(11) if monitor.due(step)]

    monitor = run_steps(tmp_path, 0, 4, config)
    monitor.total = 10
    assert due(monitor) == [4, 8, 10]
    assert due(Monitor(tmp_path / "other", replace(config, every=0), 0, 10)) == [10]
    assert due(Monitor(tmp_path / "none", MonitorConfig(every=4), 0, 10)) == []
    # Killed before the evaluation of step 4, and after it.
    assert due(Monitor(tmp_path, config, 4, 10)) == [4, 8, 10]
    monitor = Monitor(tmp_path, config, 4, 10)
    monitor.evaluate(4, model)
    assert due(monitor) == [8, 10]
    assert due(Monitor(tmp_path, config, 4, 10)) == [8, 10]
    assert due(Monitor(tmp_path, config, 3, 10)) == [4, 8, 10]
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_data_that_is_gone_stops_no_training(tmp_path: Path, photos: Path, model: Bundle) -> None:
    data = (EvaluateConfig(str(photos / "validation")),)
    monitor = Monitor(tmp_path / "run", MonitorConfig(evaluate=data), 0, 10)
    monitor.check(model)
    shutil.rmtree(photos / "validation")
    with pytest.warns(UserWarning, match=r"step 10: the evaluation is not complete: .*no such fol"):
        assert monitor.evaluate(10, model) == {}
    monitor.step(10, {"loss": 1.0})
    assert read(tmp_path / "run" / "metrics.jsonl") == [{"step": 10, "loss": 1.0}]


class Untouched(nn.Module):
    """A network that must not be run."""

    image = text = None  # stands for a network with both towers

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        raise AssertionError("a check runs no network")

    encode_image = encode_text = forward


@pytest.mark.parametrize(
    ("where", "options", "message"),
    [
        ("nowhere", {}, "no such folder"),
        ("validation/dark", {}, "no images in folders"),
        ("validation", {"tasks": ("guess",)}, "no task 'guess'"),
        ("validation", {"tasks": ("retrieval",)}, "no metadata.jsonl"),
        ("validation", {"tasks": ("knn",)}, "need images to learn from"),
        ("validation", {"train": "nowhere"}, "nowhere: no such folder"),
        ("validation", {"labels": ("one",)}, "1 label for 2 classes"),
        ("validation", {"templates": ("no braces",)}, "has no {}"),
        ("bad", {}, "none of 1 images can be opened"),
    ],
)
def test_what_cannot_be_evaluated_is_said_at_the_start(
    where: str, options: dict[str, Any], message: str, tmp_path: Path, photos: Path, model: Bundle
) -> None:
    (photos / "bad" / "dark").mkdir(parents=True)
    (photos / "bad" / "dark" / "0.png").write_bytes(b"no image")
    if "train" in options:
        options = options | {"train": str(photos / options["train"])}
    data = EvaluateConfig(str(photos / where), name="colours", **options)
    untouched = replace(model, engine=TorchEngine(Untouched()))
    monitor = Monitor(tmp_path / "run", MonitorConfig(evaluate=(data,)), 0, 1)
    with pytest.raises(RecipeError, match=r"\[\[monitor.evaluate\]\] colours: ") as failed:
        monitor.check(untouched)
    assert message in str(failed.value)


def test_what_can_be_evaluated_passes_the_check(
    tmp_path: Path, photos: Path, captions: Path, model: Bundle
) -> None:
    sets = (
        EvaluateConfig(str(photos / "validation"), train=str(photos / "train")),
        EvaluateConfig(str(photos), name="splits", tasks=("zero-shot", "probe")),
        EvaluateConfig(str(captions / "metadata.jsonl")),
        EvaluateConfig(str(photos / "validation"), name="more", labels=("a", "b")),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor = Monitor(tmp_path / "run", MonitorConfig(evaluate=sets), 0, 1)
        monitor.check(replace(model, engine=TorchEngine(Untouched())))
    with pytest.raises(RecipeError, match=r"two of \[\[monitor.evaluate\]\] are called validation"):
        Monitor(tmp_path, MonitorConfig(evaluate=(sets[0],) * 2), 0, 1).check(model)


def test_a_rhythm_of_evaluations_of_nothing_is_told(tmp_path: Path, model: Bundle) -> None:
    with pytest.warns(UserWarning, match=r"monitor.every is 5, and nothing is evaluated"):
        Monitor(tmp_path, MonitorConfig(every=5), 0, 1).check(model)


def test_a_model_that_reads_nothing(tmp_path: Path, photos: Path) -> None:
    config = tiny_vit("learned")
    torch.manual_seed(0)
    network = models.build(config)
    models.initialise(network)
    vit = make(network, config, None, "tiny vit")
    path = str(photos / "validation")
    zero_shot = (EvaluateConfig(path, tasks=("zero-shot",)),)
    with pytest.raises(RecipeError, match="has an image tower only"):
        Monitor(tmp_path / "b", MonitorConfig(evaluate=zero_shot), 0, 1).check(vit)
    knn = EvaluateConfig(path, train=str(photos / "train"), tasks=("knn",))
    monitor = Monitor(tmp_path / "c", MonitorConfig(evaluate=(knn,)), 0, 1)
    monitor.check(vit)
    with pytest.warns(UserWarning, match=r"broken\.png"):
        assert monitor.evaluate(1, vit)["eval/validation knn acc1"] == 1


def test_bad_settings(tmp_path: Path, photos: Path, model: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"monitor\.every is -1"):
        MonitorConfig(every=-1)
    data = ForgettingConfig(str(photos / "validation"))
    monitor = Monitor(tmp_path, MonitorConfig(forgetting=data), 0, 1)
    with pytest.raises(RecipeError, match=r"\[monitor\.forgetting\] .*give init"):
        monitor.check(model)


# Curves


def rows(count: int, evaluate_every: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    out: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        loss = 6 * np.exp(-4 * step / count) + rng.normal(0.8, 0.2)
        out.append(
            {"step": step, "loss": loss, "learning_rate": 1e-4, "samples_per_s": 80 + rng.normal()}
        )
        if evaluate_every and step % evaluate_every == 0:
            share = step / count
            wafers = {f"eval/wafers zero-shot {k}": share for k in ("acc1", "acc5")}
            recalls = {
                f"eval/{'words ' * 20}retrieval {way}_retrieval_recall@{k}": share
                for way in ("image", "text")
                for k in (1, 5, 10)
            }
            forgetting = {
                "forgetting/quality": 0.7,
                "forgetting/initial": 0.8,
                "forgetting/alpha": 0.3,
            }
            out.append({"step": step, **wafers, **recalls, **forgetting})
    return out


@pytest.mark.parametrize(("count", "every"), [(1, 0), (20, 0), (20, 20), (5000, 0), (5000, 500)])
def test_nothing_overlaps_in_the_curves(count: int, every: int) -> None:
    figure = drawing.draw(drawing.collect(rows(count, every)))
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    boxes = []
    for ax in figure.axes:
        assert ax.get_yscale() == ax.get_xscale() == "linear"
        labels = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label]
        legend = ax.get_legend()
        assert legend is not None
        assert not legend.get_window_extent().overlaps(ax.get_window_extent().padded(-1))
        parts = [ax.title, ax._left_title, legend, *labels]  # type: ignore[attr-defined]
        hidden = [
            label
            for axis in (ax.xaxis, ax.yaxis)
            for label, at in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
            if not min(axis.get_view_interval()) <= at <= max(axis.get_view_interval())
        ]
        boxes += [
            part.get_window_extent().padded(-1)
            for part in parts
            if part not in hidden and getattr(part, "get_text", lambda: "legend")()
        ]
    width, height = figure.canvas.get_width_height()
    assert width == 1200
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y0 >= 0
        assert box.y1 <= height
        assert not box.count_overlaps(boxes[number + 1 :]), (number, box)
    assert len(figure.axes) == (6 if every else 3)


def test_the_curves_show_what_the_rows_say(tmp_path: Path) -> None:
    series = drawing.collect([*rows(20, 10), {"step": 21, "loss": None}])
    loss, rate, speed, wafers, _, forgetting = drawing.draw(series).axes
    assert [ax.get_title("left") for ax in (loss, rate, speed)] == [
        "loss", "learning rate", "speed (samples/s)",
    ]  # fmt: skip
    assert_allclose(loss.lines[0].get_ydata()[:20], series["loss"].values[:20])
    assert np.isnan(loss.lines[0].get_ydata()[20])
    assert wafers.get_title("left") == "wafers zero-shot (%)"
    assert [line.get_label() for line in wafers.lines] == ["acc1 100.0", "acc5 100.0"]
    assert wafers.lines[0].get_xdata().tolist() == [10, 20]
    assert wafers.lines[0].get_ydata().tolist() == [50, 100]
    assert [line.get_label() for line in forgetting.lines] == ["quality 70.0", "initial 80.0"]


def test_curves_of_a_run(tmp_path: Path) -> None:
    monitor = run_steps(tmp_path / "run", 0, 20)
    monitor.close()
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.width == 1200
        assert np.asarray(picture.convert("L")).mean() > 235  # a light background
    Monitor(tmp_path / "empty", MonitorConfig(), 0, 1).close()
    assert not (tmp_path / "empty" / "curves.png").exists()
    odd = [{"step": 1, "eval/$x_1$ 晶圆 zero-shot acc1": 0.5}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawing.curves(tmp_path / "odd.png", odd) == tmp_path / "odd.png"


def test_the_moving_median_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=400)
    at, median = drawing.moving_median(values, 15)
    assert at.tolist() == list(range(400))
    assert_allclose(median[7:-7], medfilt(values, 15)[7:-7])
    assert_allclose(median[0], np.median(values[:8]))
    values[100:110] = np.nan
    at, median = drawing.moving_median(np.tile(values, 10), 15)
    assert len(at) == drawing.POINTS
    assert at[-1] == 3999
    assert np.isfinite(median).all()


def test_a_thinned_curve_keeps_its_peaks() -> None:
    values = np.random.default_rng(0).normal(size=12345)
    values[777], values[9000] = 50, -50
    values[:40] = np.nan
    x, y = drawing.thinned(np.arange(12345.0), values)
    assert len(x) == len(y) == 2 * drawing.POINTS
    assert (np.diff(x) >= 0).all()
    assert np.nanmax(y[:200]) == 50
    assert np.nanmin(y) == -50


# The line on the terminal


@pytest.mark.parametrize("total", [20, 2000, 1_000_000])
def test_the_line_fits(total: int) -> None:
    metrics = {"loss": 1.23456, "samples_per_s": 85.2, "memory_gb": 1.23}
    for width, step in itertools.product(range(20, 121, 4), (1, total // 2, total)):
        text = step_line(width, step, total, metrics, 754.2).plain
        assert len(text) <= width
        if width >= 56:
            parts = (f"step {step}/{total}", "loss 1.235", "85", "1.2 GB", "0:12:34")
            assert all(part in text for part in parts), text
        if width >= 80:
            assert "85 samples/s" in text
            assert text.count("━") >= 10
    assert (
        step_line(79, 2, 4, {"loss": 0.5}, None).plain
        == f"step 2/4 {'━' * 30}  loss 0.5000  -:--:--"
    )
    assert "---- " in step_line(79, 2, 4, {"loss": 0.5}, 100000, ascii_only=True).plain
    assert "27:46:40" in step_line(79, 2, 4, {"loss": 0.5}, 100000).plain


def test_evaluations_in_words() -> None:
    metrics = {
        "loss": 1.0, "eval/wafers zero-shot acc1": 0.972, "eval/wafers zero-shot acc5": 1.0,
        "forgetting/quality": 0.5, "forgetting/alpha": 0.3,
    }  # fmt: skip
    assert evaluation_sentences(metrics) == [
        "wafers zero-shot: acc1 97.2%, acc5 100.0%",
        "forgetting: quality 50.0%, alpha 0.3",
    ]


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        ("clip", "index PHOTOS --into photos.index"),
        ("blip", "caption PHOTOS"),
        ("vqa", "ask PHOTO QUESTION"),
        ("mae", "info out/model"),
    ],
)
def test_the_end_of_a_run_names_a_command_that_the_model_can_do(recipe: str, command: str) -> None:
    summary = RunSummary(trained_objective(load(recipe)))
    assert summary.next_command(Path("out/model")).startswith(f"patchword {command}")


def test_the_end_says_what_a_run_leaves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(trained: Trained, rank: str | None = None) -> tuple[int, str, str]:
        monkeypatch.delenv("RANK", raising=False)
        if rank is not None:
            monkeypatch.setenv("RANK", rank)
        code = 0
        try:
            finish_run(trained, Path("out"), as_json=False, summary=run_summary)
        except typer.Exit as error:
            code = error.exit_code
        return code, *capsys.readouterr()

    run_summary = RunSummary("classification")
    for accuracy_of_batch in (0.0, *[0.75] * 10):  # the last ten are averaged
        run_summary.update({"loss": 0.25, "accuracy": accuracy_of_batch})
    finished = Trained(Path("out/model"), 9, 90, images=40, classes=5)
    next_command = "out/model: patchword classify PHOTOS --model out/model\n"
    summary = "trained on 40 images of 5 classes in 0:00:00, last loss 0.2500; "
    accuracy = "75.0% right in the last 10 batches of training, none held out\n"
    assert ended(finished) == (0, next_command, summary + accuracy)
    run_summary.update({"eval/wafers zero-shot acc1": 0.972})
    assert ended(finished) == (0, next_command, f"{summary}wafers zero-shot: acc1 97.2%\n")
    stopped = replace(finished, stopped=True)
    assert ended(stopped) == (1, "", "stopped after step 9: the same command continues\n")
    errors = [ImageError(f"{i}.png", "not an image") for i in range(30)]
    code, out, err = ended(replace(finished, broken=errors))
    assert (code, out) == (1, next_command)
    assert err.count("not an image") == 20
    assert "30 broken samples were skipped: out/broken.jsonl" in err
    # torchrun treats any other exit code as a crash. Only its first process prints.
    assert ended(stopped, "0") == (0, "", "stopped after step 9: the same command continues\n")
    assert ended(finished, "1") == (0, "", "")
