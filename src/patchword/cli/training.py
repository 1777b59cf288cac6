"""train: run a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.common import JsonOption, emit, finish, notes, screen, wrong

if TYPE_CHECKING:
    from rich.progress import Progress


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]", help="steps=100, data.0.path=photos, ..."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Start from this model; the recipe's init.")
    ] = None,
    device: Annotated[str, typer.Option(help="Training runs on the cpu.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train a model, or continue an interrupted run.

    The same recipe gives the same weights, interrupted or not. With --json, one line per step.
    """
    if device != "cpu":
        wrong(f"--device {device}: training runs on the cpu")
    from patchword.train import recipe as recipes

    settings = [*(changes or ()), *([f"init={model}"] if model else [])]
    plan = recipes.load(recipe, settings)
    from patchword.train.loop import train as run

    with one_line() as bar:
        task = bar.add_task("", total=plan.until or plan.steps)

        def report(step: int, metrics: dict[str, float]) -> None:
            words = f"loss {metrics['loss']:.3f}  {metrics['samples_per_s']:.0f} samples/s"
            bar.update(task, completed=step, description=words)
            if as_json:
                emit({"step": step, **metrics})

        done = run(plan, report)
    if as_json:
        emit({"model": str(done.folder)})
    else:
        screen().print(f"{done.folder}: patchword info {done.folder}")
    finish(done.broken, done.photos)


def one_line() -> Progress:
    """Step, bar, loss, speed and time left, on a terminal."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("step"),
        bars.MofNCompleteColumn(),
        bars.BarColumn(bar_width=20),
        bars.TextColumn("{task.description}"),
        bars.TimeRemainingColumn(),
    )
    return bars.Progress(*columns, console=notes(), disable=not sys.stderr.isatty())


COMMANDS = (train,)
