"""What a person sees of a run: metrics as JSON Lines and in TensorBoard, evaluations, broken
samples, curves. Of the process of rank 0 alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from patchword.bundle import Bundle
from patchword.errors import ConfigError, ImageError, PatchwordError, RecipeError
from patchword.evaluate.blend import differences
from patchword.optional import optional
from patchword.train.curves import curves
from patchword.train.evaluator import EvaluateConfig, Judge, mean_quality, numbers
from patchword.train.forgetting import Guard, GuardConfig
from patchword.train.journal import Journal, Row, read

__all__ = ["EvaluateConfig", "GuardConfig", "Watch", "WatchConfig"]

METRICS, BROKEN, CURVES = "metrics.jsonl", "broken.jsonl", "curves.png"
TENSORBOARD = "tensorboard"  # a folder


@dataclass(frozen=True)
class WatchConfig:
    """[watch]: what a run is watched by."""

    every: int = 0  # steps between evaluations; 0: only at the end
    evaluate: tuple[EvaluateConfig, ...] = ()
    guard: GuardConfig | None = None  # needs a model to start from
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigError(f"watch.every is {self.every}; it is a number of steps, or 0")


class Watch:
    """The records of a run in its folder.

    metrics.jsonl   a row a step, {"step": 1, "loss": ...}; and a row an evaluation,
                    {"step": 500, "eval/wafers zero-shot acc1": ...}; steps count from 1
    broken.jsonl    {"name", "reason"} of each sample that cannot be read
    tensorboard/    the same metrics, where the recipe asks for it
    guard.json, blend/    see `guard.Guard`
    curves.png      drawn by `close`
    """

    def __init__(self, out: Path, config: WatchConfig, start: int, total: int) -> None:
        """Continue the records after step `start` of `total`: rows of later steps go; at 0 all.

        Raises RecipeError where they cannot be read or written, or TensorBoard is missing.
        """
        self.out, self.config, self.start, self.total = out, config, start, total
        self.judge = Judge()
        self.guard: Guard | None = None
        self.evaluated: set[int] = set()
        self.named: set[str] = set()
        self.board = _board(out / TENSORBOARD, start) if config.tensorboard else None
        out.mkdir(parents=True, exist_ok=True)
        self.metrics = Journal(out / METRICS, self._stays)
        self.broken_ones = Journal(out / BROKEN, self._known_broken)

    def check(self, model: Bundle, start: Bundle | None = None) -> None:
        """Raise RecipeError for what could not be evaluated later. To be called before training;
        with [watch.guard] it asks `start` on all data, once in a run.

        model: what is trained, its weights do not matter. start: what it was before the first
        step, for [watch.guard]; its network must not be the one that is trained.
        """
        sets, guard = self.config.evaluate, self.config.guard
        titles = [each.title for each in sets]
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            raise RecipeError(f"two of [[watch.evaluate]] are called {twice}: give each a name")
        for each in sets:
            self.judge.check(model, each, f"[[watch.evaluate]] {each.title}")
        if guard is None:
            return
        if start is None:
            raise RecipeError(
                "[watch.guard] asks what is forgotten of the model that training starts from: "
                "give init, or leave it out"
            )
        self.judge.check(model, guard.data, "[watch.guard]")
        self.judge.check(start, guard.data, "[watch.guard]")
        if found := next(differences(start, model), None):
            warnings.warn(
                f"[watch.guard] keeps no blend: start and end are of different configs, {found}",
                stacklevel=2,
            )
            sets = ()
        self.guard = Guard(guard, start, self.out, self.judge, sets, fresh=self.start == 0)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the metrics of one step."""
        self._note(step, metrics, "train/")

    def due(self, step: int) -> bool:
        """Whether an evaluation belongs to this step and has not been done: ask after each step,
        and, so that none is lost of a run that was killed, where a resumed run begins."""
        every = self.config.every
        wanted = bool(self.config.evaluate or self.config.guard)
        now = step == self.total or (every > 0 and step > 0 and step % every == 0)
        return wanted and now and step not in self.evaluated

    def evaluate(self, step: int, model: Bundle) -> dict[str, float]:
        """Evaluate the model as the recipe says; note and return the numbers.

        Data that can no longer be read is warned of and left out: it stops no training. Torch's
        random numbers are not touched. model: fingerprinted as it is now (`bundle.make`).
        """
        found: dict[str, float] = {}
        reached: list[float] = []
        try:
            for each in self.config.evaluate:
                answers = self.judge.answers(model, each)
                reached.append(mean_quality(answers))
                for answer in answers:
                    found |= numbers(each, answer)
            if self.guard:
                found |= self.guard.look(step, model, fmean(reached) if reached else None)
        except PatchwordError as error:
            warnings.warn(f"step {step}: the evaluation is not complete: {error}", stacklevel=2)
        self.evaluated.add(step)
        if found:
            self._note(step, found, "")
        return found

    def broken(self, errors: Iterable[ImageError]) -> None:
        """Note samples that were passed over, each name once, also after a resume."""
        for error in errors:
            if error.image not in self.named:
                self.named.add(error.image)
                self.broken_ones.write({"name": error.image, "reason": error.reason})

    @property
    def broken_count(self) -> int:
        """How many different samples were broken."""
        return len(self.named)

    def close(self) -> None:
        """Draw the curves and close the files."""
        self.metrics.close()
        self.broken_ones.close()
        if self.board:
            self.board.close()
        curves(self.out / CURVES, read(self.out / METRICS))

    def _note(self, step: int, values: Mapping[str, float], group: str) -> None:
        self.metrics.write({"step": step, **values})
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(group + name, value, step)
            self.board.flush()  # what is not on disk when a run is killed is never written again

    def _stays(self, row: Row) -> bool:
        """Whether a row of metrics is of a step that was kept."""
        step = row.get("step")
        if not isinstance(step, int) or step > self.start or self.start == 0:
            return False
        if any(key.startswith(("eval/", "guard/")) for key in row):
            self.evaluated.add(step)
        return True

    def _known_broken(self, row: Row) -> bool:
        if self.start == 0 or not isinstance(row.get("name"), str):
            return False
        self.named.add(row["name"])
        return True


def _board(folder: Path, start: int) -> Any:
    """TensorBoard's writer, in whose eyes the steps after `start` were never written."""
    optional("tensorboard", "train", "watch.tensorboard", RecipeError)  # or torch's has no reason
    boards = optional("torch.utils.tensorboard", "train", "watch.tensorboard", RecipeError)
    return boards.SummaryWriter(str(folder), purge_step=start + 1)
