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
    complain,
    emit,
    make_folder,
    notes,
    screen,
    warnings_said,
    with_near_file,
    wrong,
)
from patchword.errors import counted

if TYPE_CHECKING:
    from rich.text import Text

    from patchword.train.loop import Trained
    from patchword.train.recipe import Recipe

LONGEST, SHORTEST = 30, 6  # of the bar, columns
SAID_EVERY = 30.0  # seconds between lines where stderr is no terminal
LAST = 10  # batches whose accuracy the end of a run says
CURVES = "curves.png"
NAMED = 20  # broken samples that the end of a run names; the others are in its folder

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
            help="Changes of the recipe: steps=100, data.0.path=photos, ...",
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
        given = {"--model": model, "--device": device, "--json": as_json}
        if unused := [*(changes or ()), *(name for name, value in given.items() if value)]:
            wrong(f"--show prints the recipe as it is written: leave out {', '.join(unused)}")
        print(recipes.read_text(recipe), end="")
        return
    settings = list(changes or ())
    settings += [f"init={model}"] if model else []
    settings += [f"engine.device={device}"] if device else []
    plan = recipes.load(recipe, settings)
    if os.environ.get("RANK", "0") == "0":
        from patchword.data.sources import split_folder

        folders = [each for each in plan.data if each.kind == "folder" and os.path.isdir(each.path)]
        read = [split_folder(Path(each.path), each.split) for each in folders]
        check_beside(Path(plan.out), map(str, read))
        make_folder(Path(plan.out), itself=True)
    from patchword.train.loop import train as run
    from patchword.train.malloc import keep_memory

    keep_memory()
    course = Course(learned(plan))
    with progress_line(plan.last) as follow:

        def report(step: int, metrics: dict[str, float]) -> None:
            follow(step, metrics)
            course.note(metrics)
            if as_json:
                emit({"step": step, **metrics})

        done = run(plan, report)
    end(done, Path(plan.out), as_json, course)


@dataclass
class Course:
    """What is known of a run when it ends."""

    learned: str = ""  # see `learned`
    begun: float = field(default_factory=time.monotonic)
    loss: float | None = None  # of the last step
    accuracies: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))
    found: list[str] = field(default_factory=list)  # by the last evaluation

    def note(self, metrics: Mapping[str, float]) -> None:
        """Follow a step, or an evaluation."""
        self.loss = metrics.get("loss", self.loss)
        if "accuracy" in metrics:
            self.accuracies.append(metrics["accuracy"])
        self.found = results(metrics) or self.found

    def sentence(self, done: Trained) -> str:
        """What was trained on what, for how long, and how well it does."""
        words = counted(done.images, "image")
        words += f" of {counted(done.classes, 'class', 'classes')}" if done.classes else ""
        if not done.samples:
            return f"had been trained on {words} before"
        words = f"{done.samples} of {words}" if done.samples < done.images else words
        words = f"trained on {words} in {clock(time.monotonic() - self.begun)}"
        if self.loss is not None:
            words += f", last loss {self.loss:#.4g}"
        if self.found:
            return f"{words}; {'; '.join(self.found)}"
        if self.accuracies:
            right = sum(self.accuracies) / len(self.accuracies)
            batches = counted(len(self.accuracies), "batch", "batches")
            words += f"; {right:.1%} right in the last {batches} of training, none held out"
        return words

    def next(self, model: Path) -> str:
        """The command that uses the model."""
        words = {
            "classification": ("classify", "PHOTOS", "--model", str(model)),
            "contrastive": ("index", "PHOTOS", "--into", "photos.index", "--model", str(model)),
            "caption": ("caption", "PHOTOS", "--model", str(model)),
            "answer": ("ask", "PHOTO", "QUESTION", "--model", str(model)),
            "match": ("match", "PHOTOS", "TEXT", "--model", str(model)),
        }
        words["sigmoid"] = words["contrast"] = words["contrastive"]
        return shlex.join(("patchword", *words.get(self.learned, ("info", str(model)))))


def learned(plan: Recipe) -> str:
    """The objective of a recipe; of a BLIP the first of its losses that says what it is for."""
    if plan.objective != "blip":
        return plan.objective
    losses = ("caption", "answer", "match", "contrast")
    return next((name for name in losses if getattr(plan.blip, name)), "")


def end(done: Trained, out: Path, as_json: bool, course: Course) -> None:
    """Say how the run went and what it leaves. Exit code 1 where samples were broken, or it was
    stopped; not under torchrun, which would take that for a crash and start again. Its first
    process alone speaks."""
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        return
    if done.stopped:
        notes().print(f"stopped after step {done.step}: the same command continues")
    elif as_json:
        emit({"model": str(done.folder)})
    else:
        notes().print(course.sentence(done))
        if (out / CURVES).exists():
            notes().print(f"wrote {out / CURVES}")
        screen().print(f"{done.folder}: {course.next(done.folder)}", soft_wrap=True)
    for error in done.broken[:NAMED]:
        complain(with_near_file(error))
    if done.broken:
        count = len(done.broken)
        words = "sample was" if count == 1 else "samples were"
        notes().print(f"{count} broken {words} skipped: {out / 'broken.jsonl'}")
    if (done.broken or done.stopped) and rank is None:
        raise typer.Exit(1)


@contextmanager
def progress_line(total: int) -> Iterator[Show]:
    """One line that shows the last step, on a terminal; evaluations and warnings are above it."""
    from rich.live import Live
    from rich.text import Text

    console = notes()
    first: list[tuple[int, float]] = []
    drawn = sys.stderr.isatty()
    live = Live(Text(), console=console)
    with live if drawn else nullcontext(), warnings_said(console=console, once=True):
        said = [-SAID_EVERY]

        def show(step: int, metrics: Mapping[str, float]) -> None:
            for sentence in results(metrics):
                console.print(f"step {step}: {sentence}")
            if "loss" not in metrics:
                return
            now = time.monotonic()
            first[:] = first or [(step, now)]
            begun, since = first[0]
            left = (now - since) / (step - begun) * (total - step) if step > begun else None
            width = console.width - 1
            if drawn:
                live.update(line(width, step, total, metrics, left, console.options.ascii_only))
            elif now - said[0] >= SAID_EVERY or step == total:
                said[0] = now
                still = "" if left is None else f", {clock(left)} left"
                console.print(f"step {step}/{total}: loss {metrics['loss']:#.4g}{still}")

        begins = f"begins: the model and the data are read before step 1 of {total}"
        if drawn:
            live.update(Text(begins))
        elif os.environ.get("RANK", "0") == "0":
            console.print(begins)

        yield show


def line(
    width: int,
    step: int,
    total: int,
    metrics: Mapping[str, float],
    left: float | None,
    ascii_only: bool = False,
) -> Text:
    """Step, bar, loss, samples a second, memory and time left in seconds, in `width` columns.

    Where that is too narrow, first words go, then the bar, the memory, the speed, the time.
    """
    from rich.text import Text

    speed, memory = metrics.get("samples_per_s"), metrics.get("memory_gb")
    loss = f"loss {metrics['loss']:#.4g}"
    per_s = "" if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
    long, short = (per_s and f"{per_s} samples/s"), (per_s and f"{per_s}/s")
    room = "" if memory is None or math.isnan(memory) else f"{memory:.1f} GB"
    still = "-:--:--" if left is None else clock(left)
    head = f"step {step}/{total}"
    choices = [
        (SHORTEST, [loss, long, room, still]),
        (SHORTEST, [loss, short, room, still]),
        (0, [loss, short, room, still]),
        (0, [loss, short, still]),
        (0, [loss, still]),
    ]
    for least, parts in choices:
        words = "  ".join(part for part in parts if part)
        bar = min(LONGEST, width - len(head) - len(words) - 3)
        if bar >= least:
            break
    else:
        words, bar = loss, 0
    if bar < SHORTEST:
        return Text(f"{head}  {words}"[: max(width, 0)])
    full = bar * step // max(total, 1)
    sign = "-" if ascii_only else "━"
    rest = " " if ascii_only else sign
    return Text.assemble(
        f"{head} ", (sign * full, "bar.complete"), (rest * (bar - full), "bar.back"), f"  {words}"
    )


def clock(seconds: float) -> str:
    """3723.4 -> 1:02:03"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def results(metrics: Mapping[str, float]) -> list[str]:
    """What evaluations found, one sentence for each task."""
    groups: dict[str, list[str]] = {}
    for key, value in metrics.items():
        kind, slash, name = key.partition("/")
        if slash and kind in ("eval", "forgetting"):
            title, _, number = name.rpartition(" ")
            found = f"{value:g}" if number == "alpha" else f"{value:.1%}"
            said = groups.setdefault(title or kind, [])
            said.append(f"{number.replace('_', ' ')} {found}")
    return [f"{title}: {', '.join(said)}" for title, said in groups.items()]


COMMANDS = (train,)
