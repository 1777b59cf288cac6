"""The records of a run: metrics as JSON Lines and in TensorBoard, evaluations, broken samples,
curves. Only the process of rank 0 writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from patchword.atomic_write import make_folder
from patchword.bundle import Bundle
from patchword.errors import ConfigError, ImageError, PatchwordError, RecipeError, warn
from patchword.evaluate.blend import differences
from patchword.optional import optional
from patchword.train.curves import curves
from patchword.train.evaluator import EvaluateConfig, Evaluator, mean_quality, numbers
from patchword.train.forgetting import ForgettingConfig, ForgettingMonitor
from patchword.train.journal import Journal, Row, read

__all__ = ["EvaluateConfig", "ForgettingConfig", "Monitor", "MonitorConfig"]

METRICS, BROKEN, CURVES = "metrics.jsonl", "broken.jsonl", "curves.png"
TENSORBOARD = "tensorboard"  # a folder


@dataclass(frozen=True)
class MonitorConfig:
    """[monitor]: how a run is evaluated and recorded."""

    every: int = 0  # steps between evaluations; 0: only at the end
    evaluate: tuple[EvaluateConfig, ...] = ()
    forgetting: ForgettingConfig | None = None  # needs init, a model to start from
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigError(f"monitor.every is {self.every}; it is a number of steps, or 0")


class Monitor:
    """The records of a run in its folder.

    metrics.jsonl   a row a step, {"step": 1, "loss": ...}; and a row an evaluation,
                    {"step": 500, "eval/wafers zero-shot acc1": ...}; steps count from 1
    broken.jsonl    {"name", "reason"} of each sample that cannot be read
    tensorboard/    the same metrics, where the recipe asks for it
    forgetting.json, blend/    see `ForgettingMonitor`
    curves.png      drawn by `close`
    """

    def __init__(self, out: Path, config: MonitorConfig, start: int, total: int) -> None:
        """Continue the records after step `start` of `total`: rows of later steps are deleted; at
        0 all are.

        Raises RecipeError where they cannot be read or written, or TensorBoard is missing.
        """
        self.out, self.config, self.start, self.total = out, config, start, total
        self.evaluator = Evaluator()
        self.forgetting: ForgettingMonitor | None = None
        self.evaluated: set[int] = set()
        self.named: set[str] = set()
        self.board = _board(out / TENSORBOARD, start) if config.tensorboard else None
        try:
            make_folder(out)
        except OSError as error:
            raise RecipeError(f"out is {out}: {error.strerror}") from error
        self.metrics = Journal(out / METRICS, self._stays)
        self.broken_ones = Journal(out / BROKEN, self._known_broken)

    def check(self, model: Bundle, initial: Bundle | None = None) -> None:
        """Raise RecipeError for an evaluation that would fail later. To be called before training;
        with [monitor.forgetting] it evaluates `initial` on all data, once in a run.

        model: what is trained, its weights do not matter. initial: what it was before the first
        step, for [monitor.forgetting]; its network must not be the one that is trained.
        """
        sets, forgetting = self.config.evaluate, self.config.forgetting
        if self.config.every and not sets and forgetting is None:
            warn(
                f"monitor.every is {self.config.every}, and nothing is evaluated: "
                "[[monitor.evaluate]] and [monitor.forgetting] say what is"
            )
        titles = [each.title for each in sets]
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            raise RecipeError(f"two of [[monitor.evaluate]] are called {twice}: give each a name")
        for each in sets:
            self.evaluator.check(model, each, f"[[monitor.evaluate]] {each.title}")
        if forgetting is None:
            return
        if initial is None:
            raise RecipeError(
                "[monitor.forgetting] measures what the model that training starts from could do: "
                "give init, or leave it out"
            )
        self.evaluator.check(model, forgetting.data, "[monitor.forgetting]")
        self.evaluator.check(initial, forgetting.data, "[monitor.forgetting]")
        if found := next(differences(initial, model), None):
            warn(
                "[monitor.forgetting] keeps no blend: the configs of the initial and the trained "
                f"model are different, {found}",
            )
            sets = ()
        self.forgetting = ForgettingMonitor(
            forgetting, initial, self.out, self.evaluator, sets, fresh=self.start == 0
        )

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step."""
        self._write(step, metrics, "train/")

    def due(self, step: int) -> bool:
        """Whether this step is to be evaluated and has not been. To be called after each step, and
        at the first step of a continued run, which may have been killed before its evaluation."""
        every = self.config.every
        wanted = bool(self.config.evaluate or self.config.forgetting)
        now = step == self.total or (every > 0 and step > 0 and step % every == 0)
        return wanted and now and step not in self.evaluated

    def evaluate(self, step: int, model: Bundle) -> dict[str, float]:
        """Evaluate the model as the recipe says; write and return the numbers.

        Data that can no longer be read is left out with a warning: it does not stop training.
        Torch's random number generator is not used.
        """
        found: dict[str, float] = {}
        qualities: list[float] = []
        try:
            for each in self.config.evaluate:
                answers = self.evaluator.answers(model, each)
                qualities.append(mean_quality(answers))
                for answer in answers:
                    found |= numbers(each, answer)
            if self.forgetting:
                quality = fmean(qualities) if qualities else None
                found |= self.forgetting.evaluate(step, model, quality)
        except PatchwordError as error:
            warn(f"step {step}: the evaluation is not complete: {error}")
        self.evaluated.add(step)
        if found:
            self._write(step, found, "")
        return found

    def broken(self, errors: Iterable[ImageError]) -> None:
        """Record samples that were skipped, each name once, also after a resume."""
        for error in errors:
            if error.image not in self.named:
                self.named.add(error.image)
                self.broken_ones.write({"name": error.image, "reason": error.reason})

    def close(self) -> None:
        """Draw the curves and close the files."""
        self.metrics.close()
        self.broken_ones.close()
        if self.board:
            self.board.close()
        curves(self.out / CURVES, read(self.out / METRICS))

    def _write(self, step: int, values: Mapping[str, float], group: str) -> None:
        self.metrics.write({"step": step, **values})
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(group + name, value, step)
            self.board.flush()  # what is not on disk when a run is killed is never written again

    def _stays(self, row: Row) -> bool:
        """Whether a row of metrics is kept when the run continues."""
        step = row.get("step")
        if not isinstance(step, int) or step > self.start or self.start == 0:
            return False
        if any(key.startswith(("eval/", "forgetting/")) for key in row):
            self.evaluated.add(step)
        return True

    def _known_broken(self, row: Row) -> bool:
        if self.start == 0 or not isinstance(row.get("name"), str):
            return False
        self.named.add(row["name"])
        return True


def _board(folder: Path, start: int) -> Any:
    """TensorBoard's writer, which hides what was written of steps after `start`."""
    # Imported first: torch's writer fails without a reason where it is missing.
    optional("tensorboard", "train", "monitor.tensorboard", RecipeError)
    boards = optional("torch.utils.tensorboard", "train", "monitor.tensorboard", RecipeError)
    return boards.SummaryWriter(str(folder), purge_step=start + 1)
