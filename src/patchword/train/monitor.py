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

    metrics.jsonl   a row for each step, {"step": 1, "loss": ...}, counted from 1, and a row for
    each
                    evaluation, {"step": 500, "eval/wafers zero-shot acc1": ...}
    broken.jsonl    {"name", "reason"} of each sample that cannot be read
    tensorboard/    the same metrics, if the recipe says so
    forgetting.json, blend/    see `ForgettingMonitor`
    curves.png      drawn by `close`
    """

    def __init__(self, out: Path, config: MonitorConfig, start: int, total: int) -> None:
        """Continue the records after step `start` of `total`. Rows of later steps are deleted; for
        a start of 0, all rows.

        Raises RecipeError if they cannot be read or written, or TensorBoard is missing.
        """
        self.out, self.config, self.start, self.total = out, config, start, total
        self.evaluator = Evaluator()
        self.forgetting: ForgettingMonitor | None = None
        self.evaluated: set[int] = set()
        self.recorded: set[str] = set()  # names of broken samples
        self.board = _board(out / TENSORBOARD, start) if config.tensorboard else None
        try:
            make_folder(out)
        except OSError as error:
            raise RecipeError(f"out is {out}: {error.strerror}") from error
        self.metrics = Journal(out / METRICS, self._keeps_metrics)
        self.broken_samples = Journal(out / BROKEN, self._keeps_broken)

    def check(self, model: Bundle, initial: Bundle | None = None) -> None:
        """Raise RecipeError for an evaluation that would fail later. To be called before training.
        With [monitor.forgetting] it evaluates `initial` on all data, once in a run.

        model: the model that is trained, with any weights. initial: the model before the first
        step, for [monitor.forgetting]; its network must not be the one that is trained.
        """
        sets, forgetting = self.config.evaluate, self.config.forgetting
        if self.config.every and not sets and forgetting is None:
            warn(
                f"monitor.every is {self.config.every}, and nothing is evaluated: "
                "[[monitor.evaluate]] and [monitor.forgetting] say what is"
            )
        titles = set()
        for data in sets:
            if data.title in titles:
                raise RecipeError(
                    f"two of [[monitor.evaluate]] are called {data.title}: give each a name"
                )
            titles.add(data.title)
        for data in sets:
            self.evaluator.check(model, data, f"[[monitor.evaluate]] {data.title}")
        if forgetting is None:
            return
        if initial is None:
            raise RecipeError(
                "[monitor.forgetting] measures what the model that training starts from could do: "
                "give init, or leave it out"
            )
        self.evaluator.check(model, forgetting.data, "[monitor.forgetting]")
        self.evaluator.check(initial, forgetting.data, "[monitor.forgetting]")
        difference = next(differences(initial, model), None)
        if difference:
            warn(
                "[monitor.forgetting] keeps no blend: the configs of the initial and the trained "
                f"model are different, {difference}",
            )
            sets = ()
        self.forgetting = ForgettingMonitor(
            forgetting, initial, self.out, self.evaluator, sets, fresh=self.start == 0
        )

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step."""
        self._write(step, metrics, "train/")

    def due(self, step: int) -> bool:
        """Whether this step has to be evaluated and was not yet. To be called after each step, and
        when a run continues: it may have been killed before an evaluation."""
        every = self.config.every
        evaluates = bool(self.config.evaluate or self.config.forgetting)
        at_step = step == self.total or (every > 0 and step > 0 and step % every == 0)
        return evaluates and at_step and step not in self.evaluated

    def evaluate(self, step: int, model: Bundle) -> dict[str, float]:
        """Evaluate the model as the recipe says; write and return the metrics.

        Data that can no longer be read is left out with a warning: it does not stop training.
        Torch's random number generator is not used.
        """
        metrics: dict[str, float] = {}
        qualities: list[float] = []
        try:
            for data in self.config.evaluate:
                answers = self.evaluator.answers(model, data)
                qualities.append(mean_quality(answers))
                for answer in answers:
                    metrics |= numbers(data, answer)
            if self.forgetting:
                quality = fmean(qualities) if qualities else None
                metrics |= self.forgetting.evaluate(step, model, quality)
        except PatchwordError as error:
            warn(f"step {step}: the evaluation is not complete: {error}")
        self.evaluated.add(step)
        if metrics:
            self._write(step, metrics, "")
        return metrics

    def broken(self, errors: Iterable[ImageError]) -> None:
        """Record samples that were skipped, each name once, also after a resume."""
        for error in errors:
            if error.image not in self.recorded:
                self.recorded.add(error.image)
                self.broken_samples.write({"name": error.image, "reason": error.reason})

    def close(self) -> None:
        """Draw the curves and close the files."""
        self.metrics.close()
        self.broken_samples.close()
        if self.board:
            self.board.close()
        curves(self.out / CURVES, read(self.out / METRICS))

    def _write(self, step: int, values: Mapping[str, float], group: str) -> None:
        self.metrics.write({"step": step, **values})
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(group + name, value, step)
            self.board.flush()  # if a run is killed, what is not on disk is lost

    def _keeps_metrics(self, row: Row) -> bool:
        """Whether a row of metrics is kept when the run continues."""
        step = row.get("step")
        if not isinstance(step, int) or step > self.start or self.start == 0:
            return False
        if any(key.startswith(("eval/", "forgetting/")) for key in row):
            self.evaluated.add(step)
        return True

    def _keeps_broken(self, row: Row) -> bool:
        """Whether a row of broken samples is kept when the run continues."""
        if self.start == 0 or not isinstance(row.get("name"), str):
            return False
        self.recorded.add(row["name"])
        return True


def _board(folder: Path, start: int) -> Any:
    """TensorBoard's writer. It hides what was written for steps after `start`."""
    # Imported first: without it, the import of torch's writer fails without a clear reason.
    optional("tensorboard", "train", "monitor.tensorboard", RecipeError)
    boards = optional("torch.utils.tensorboard", "train", "monitor.tensorboard", RecipeError)
    return boards.SummaryWriter(str(folder), purge_step=start + 1)
