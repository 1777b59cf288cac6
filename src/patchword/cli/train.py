"""train: run a recipe."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import check_beside
from patchword.cli.options import JsonOption
from patchword.cli.output import (
    emit,
    notes,
    prepare_output,
    print_error,
    refuse,
    screen,
    show_warnings,
)
from patchword.cli.suggestions import with_near_file
from patchword.errors import counted

if TYPE_CHECKING:
    from rich.text import Text

    from patchword.train.loop import Trained
    from patchword.train.recipe import Recipe

MAX_BAR, MIN_BAR = 30, 6  # columns of the progress bar
PRINT_EVERY = 30.0  # seconds between lines where stderr is no terminal
LAST_BATCHES = 10  # whose mean accuracy the end of a run tells
CURVES = "curves.png"
MAX_NAMED = 20  # broken samples that the end of a run names; its folder names all

Show = Callable[[int, Mapping[str, float]], None]


def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="A TOML file, or the name of a recipe in the package."
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to the recipe: steps=100, data.0.path=photos, ...",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Start from this model; the same as init=MODEL.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="auto|cpu|cuda", help="Where to train; the same as engine.device=..."),
    ] = None,
    show: Annotated[
        bool,
        typer.Option("--show", help="Print the recipe, to save and edit it, and do not train."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model, or continue an interrupted run.

    The same recipe gives the same weights, interrupted or not. The run's folder gets the model,
    metrics.jsonl and curves.png. With --json, one line per step and per evaluation.
    """
    from patchword.train import recipe as recipes

    if show:
        options = {"--model": model, "--device": device, "--json": as_json}
        unused = [*(changes or ()), *(name for name, value in options.items() if value)]
        if unused:
            refuse(f"--show prints the recipe as it is written: leave out {', '.join(unused)}")
        print(recipes.read_text(recipe), end="")
        return
    settings = list(changes or ())
    if model:
        settings.append(f"init={model}")
    if device:
        settings.append(f"engine.device={device}")
    plan = recipes.load(recipe, settings)
    if os.environ.get("RANK", "0") == "0":
        from patchword.data.sources import split_folder

        folders = [
            str(split_folder(Path(source.path), source.split))
            for source in plan.data
            if source.kind == "folder" and os.path.isdir(source.path)
        ]
        check_beside(Path(plan.out), folders)
        prepare_output(Path(plan.out), is_folder=True)
    from patchword.train.loop import train as run
    from patchword.train.malloc import keep_memory

    keep_memory()
    summary = RunSummary(trained_objective(plan))
    with progress_line(plan.last) as show_step:

        def report(step: int, metrics: dict[str, float]) -> None:
            show_step(step, metrics)
            summary.update(metrics)
            if as_json:
                emit({"step": step, **metrics})

        trained = run(plan, report)
    finish_run(trained, Path(plan.out), as_json, summary)


@dataclass
class RunSummary:
    """What the end of a run tells about it."""

    objective: str = ""  # see `trained_objective`
    started: float = field(default_factory=time.monotonic)
    loss: float | None = None  # of the last step
    accuracies: deque[float] = field(default_factory=lambda: deque(maxlen=LAST_BATCHES))
    results: list[str] = field(default_factory=list)  # of the last evaluation

    def update(self, metrics: Mapping[str, float]) -> None:
        """Note the metrics of a step, or of an evaluation."""
        self.loss = metrics.get("loss", self.loss)
        if "accuracy" in metrics:
            self.accuracies.append(metrics["accuracy"])
        self.results = evaluation_sentences(metrics) or self.results

    def sentence(self, trained: Trained) -> str:
        """What the model was trained on, for how long, and how good it is."""
        data = counted(trained.images, "image")
        if trained.classes:
            data += f" of {counted(trained.classes, 'class', 'classes')}"
        if not trained.samples:
            return f"had been trained on {data} before"
        if trained.samples < trained.images:
            data = f"{trained.samples} of {data}"
        sentence = f"trained on {data} in {clock(time.monotonic() - self.started)}"
        if self.loss is not None:
            sentence += f", last loss {self.loss:#.4g}"
        if self.results:
            return f"{sentence}; {'; '.join(self.results)}"
        if self.accuracies:
            accuracy = sum(self.accuracies) / len(self.accuracies)
            batches = counted(len(self.accuracies), "batch", "batches")
            sentence += f"; {accuracy:.1%} right in the last {batches} of training, none held out"
        return sentence

    def next_command(self, model: Path) -> str:
        """A command that uses the model."""
        arguments = {
            "classification": ("classify", "PHOTOS"),
            "contrastive": ("index", "PHOTOS", "--into", "photos.index"),
            "caption": ("caption", "PHOTOS"),
            "answer": ("ask", "PHOTO", "QUESTION"),
            "match": ("match", "PHOTOS", "TEXT"),
        }
        arguments["sigmoid"] = arguments["contrast"] = arguments["contrastive"]
        if self.objective not in arguments:
            return shlex.join(("patchword", "info", str(model)))
        return shlex.join(("patchword", *arguments[self.objective], "--model", str(model)))


def trained_objective(plan: Recipe) -> str:
    """The objective of a recipe; for a BLIP the first of its losses that tells its use."""
    if plan.objective != "blip":
        return plan.objective
    losses = ("caption", "answer", "match", "contrast")
    return next((name for name in losses if getattr(plan.blip, name)), "")


def finish_run(trained: Trained, out: Path, as_json: bool, summary: RunSummary) -> None:
    """Print how a run went and what it saved. Exit code 1 where samples were broken or the run was
    stopped; not under torchrun, which would take that for a crash and start again, and where only
    the first process prints."""
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        return
    if trained.stopped:
        notes().print(f"stopped after step {trained.step}: the same command continues")
    elif as_json:
        emit({"model": str(trained.folder)})
    else:
        notes().print(summary.sentence(trained))
        if (out / CURVES).exists():
            notes().print(f"wrote {out / CURVES}")
        command = summary.next_command(trained.folder)
        screen().print(f"{trained.folder}: {command}", soft_wrap=True)
    for error in trained.broken[:MAX_NAMED]:
        print_error(with_near_file(error))
    if trained.broken:
        samples = counted(len(trained.broken), "broken sample was", "broken samples were")
        notes().print(f"{samples} skipped: {out / 'broken.jsonl'}")
    if (trained.broken or trained.stopped) and rank is None:
        raise typer.Exit(1)


@contextmanager
def progress_line(total: int) -> Iterator[Show]:
    """One line with the last step on a terminal, below evaluations and warnings; elsewhere a line
    every PRINT_EVERY seconds."""
    from rich.live import Live
    from rich.text import Text

    console = notes()
    is_terminal = sys.stderr.isatty()
    live = Live(Text(), console=console)
    first: tuple[int, float] | None = None  # step and time
    last_print = -PRINT_EVERY

    def show(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal first, last_print
        for sentence in evaluation_sentences(metrics):
            console.print(f"step {step}: {sentence}")
        if "loss" not in metrics:
            return
        now = time.monotonic()
        first = first or (step, now)
        first_step, started = first
        left = None  # seconds
        if step > first_step:
            left = (now - started) / (step - first_step) * (total - step)
        if is_terminal:
            width, ascii_only = console.width - 1, console.options.ascii_only
            live.update(step_line(width, step, total, metrics, left, ascii_only))
        elif now - last_print >= PRINT_EVERY or step == total:
            last_print = now
            time_left = "" if left is None else f", {clock(left)} left"
            console.print(f"step {step}/{total}: loss {metrics['loss']:#.4g}{time_left}")

    with live if is_terminal else nullcontext(), show_warnings(console=console, once=True):
        message = f"starting: the model and the data are read before step 1 of {total}"
        if is_terminal:
            live.update(Text(message))
        elif os.environ.get("RANK", "0") == "0":
            console.print(message)
        yield show


def step_line(
    width: int,
    step: int,
    total: int,
    metrics: Mapping[str, float],
    left: float | None,
    ascii_only: bool = False,
) -> Text:
    """Step, bar, loss, samples a second, memory and time left, in `width` columns. left: seconds.

    In a narrower terminal the word "samples" is left out, then the bar, the memory, the speed and
    the time.
    """
    from rich.text import Text

    loss = f"loss {metrics['loss']:#.4g}"
    per_second = metrics.get("samples_per_s")
    long_speed = short_speed = memory = ""
    if per_second is not None:
        number = f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"
        long_speed, short_speed = f"{number} samples/s", f"{number}/s"
    gigabytes = metrics.get("memory_gb", math.nan)
    if not math.isnan(gigabytes):
        memory = f"{gigabytes:.1f} GB"
    time_left = "-:--:--" if left is None else clock(left)
    head = f"step {step}/{total}"
    layouts = [  # least columns of the bar, and the parts after it
        (MIN_BAR, [loss, long_speed, memory, time_left]),
        (MIN_BAR, [loss, short_speed, memory, time_left]),
        (0, [loss, short_speed, memory, time_left]),
        (0, [loss, short_speed, time_left]),
        (0, [loss, time_left]),
    ]
    for least, parts in layouts:
        tail = "  ".join(part for part in parts if part)
        bar = min(MAX_BAR, width - len(head) - len(tail) - 3)
        if bar >= least:
            break
    else:
        tail, bar = loss, 0
    if bar < MIN_BAR:
        return Text(f"{head}  {tail}"[: max(width, 0)])
    full = bar * step // max(total, 1)
    done, todo = ("-", " ") if ascii_only else ("━", "━")
    return Text.assemble(
        f"{head} ", (done * full, "bar.complete"), (todo * (bar - full), "bar.back"), f"  {tail}"
    )


def clock(seconds: float) -> str:
    """3723.4 -> 1:02:03"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def evaluation_sentences(metrics: Mapping[str, float]) -> list[str]:
    """The results of evaluations, one sentence for each task."""
    tasks: dict[str, list[str]] = {}
    for key, value in metrics.items():
        kind, slash, name = key.partition("/")
        if slash and kind in ("eval", "forgetting"):
            task, _, measure = name.rpartition(" ")
            number = f"{value:g}" if measure == "alpha" else f"{value:.1%}"
            tasks.setdefault(task or kind, []).append(f"{measure.replace('_', ' ')} {number}")
    return [f"{task}: {', '.join(numbers)}" for task, numbers in tasks.items()]


COMMANDS = (train,)
