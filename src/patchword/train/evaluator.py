"""Evaluation while a model is trained, by the same `Evaluation` as `patchword eval`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from patchword.bundle import Bundle
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import ImageError, PatchwordError, RecipeError, warn
from patchword.evaluate import Answer, Evaluation, Options, folders, quality

# The numbers of a task's result that are metrics, named as in `patchword eval --json`.
METRICS = (
    "acc1",
    "acc5",
    "mean_per_class_recall",
    "image_retrieval_recall@1",
    "image_retrieval_recall@5",
    "image_retrieval_recall@10",
    "text_retrieval_recall@1",
    "text_retrieval_recall@5",
    "text_retrieval_recall@10",
)


@dataclass(frozen=True)
class EvaluateConfig:
    """Data to evaluate on; see `patchword eval --help`."""

    path: str  # a folder of class folders or of splits, or a file of captions or its folder
    train: str = ""  # class folders that probe and k-NN learn from
    tasks: tuple[str, ...] = ()  # of evaluate.TASKS; empty: all that fit the data
    name: str = ""  # in the metrics; empty: the last part of the path
    labels: tuple[str, ...] = ()  # words for the classes, in the order of their folders
    templates: tuple[str, ...] = ()  # sentences with {} for the label, or names of sets of them

    @property
    def title(self) -> str:
        """Its name in the metrics."""
        return self.name or Path(self.path).name or self.path


class Evaluator:
    """Evaluates models on data, and warns of each broken image once."""

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def answers(
        self, model: Bundle, config: EvaluateConfig, most: int | None = None
    ) -> list[Answer]:
        """The results of the tasks, of the first `most` tasks alone if it is given. Images that
        cannot be opened are left out. Raises PatchwordError for data or a model that cannot be
        used."""
        run = _evaluation(replace(model, fingerprint=""), config)  # caches no label features
        answers = list(islice(_results(run, config), most))
        self._warn(run.broken)
        return answers

    def quality(self, model: Bundle, configs: Sequence[EvaluateConfig]) -> float:
        """One number to compare models by: the mean of `evaluate.quality` over the tasks of each
        data set, then the mean over the data sets."""
        return fmean(mean_quality(self.answers(model, config)) for config in configs)

    def check(self, model: Bundle, config: EvaluateConfig, where: str) -> None:
        """Raise RecipeError, beginning with `where`, for an evaluation that would fail later:
        missing data, a task that the model cannot do, labels that do not fit. It opens the first
        images and does not run the network."""
        run = _evaluation(replace(model, engine=TorchEngine(_Stub())), config)
        try:
            _until_network(lambda: list(_results(run, config)))
            test = folders.splits(Path(config.path))[0]
            zero_shot = "zero-shot" in config.tasks
            if not config.tasks and model.config.text is not None and model.config.embed_dim > 0:
                zero_shot = folders.captions_in(test) is None
            if zero_shot:
                vector = np.zeros((1, model.dim), np.float32)
                names = folders.labelled(test).names
                _until_network(lambda: run.zero_shot(vector, np.zeros(1, np.int64), names))
        except PatchwordError as error:
            raise RecipeError(f"{where}: {error}") from error

    def _warn(self, broken: Sequence[ImageError]) -> None:
        for error in broken:
            if error.image not in self.warned:
                self.warned.add(error.image)
                warn(f"left out of the evaluation: {error}")


def numbers(config: EvaluateConfig, answer: Answer) -> dict[str, float]:
    """The metrics of a result, such as "eval/wafers zero-shot acc1", as shares from 0 to 1."""
    record = answer.record()
    keys = [key for key in METRICS if record.get(key) is not None]
    return {f"eval/{config.title} {answer.task} {key}": record[key] for key in keys}


def mean_quality(answers: Sequence[Answer]) -> float:
    """The mean of `evaluate.quality` over tasks."""
    return fmean(quality(answer) for answer in answers)


def _evaluation(model: Bundle, config: EvaluateConfig) -> Evaluation:
    return Evaluation(model, Options(config.templates or None, config.labels or None))


def _results(run: Evaluation, config: EvaluateConfig) -> Iterator[Answer]:
    train = Path(config.train) if config.train else None
    return run.on(Path(config.path), train, config.tasks or None)


class _ReachedError(Exception):
    """The network would run now: all checks before that have passed."""


class _Stub(nn.Module):
    """Stands in for a network with both towers, and raises an error when it is run."""

    image = text = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor, taps: Sequence[str] = ()) -> Tensor:
        raise _ReachedError

    encode_image = encode_text = forward


def _until_network(job: Callable[[], object]) -> None:
    """Run a job of a model with a `_Stub`, until the network would run."""
    try:
        job()
    except _ReachedError:
        return
