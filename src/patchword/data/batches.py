"""Batches for training: made ahead, in order, in processes of their own or in a thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from patchword.data.plan import Place, Plan
from patchword.data.sample import Facts, Sample, Source
from patchword.errors import ImageError, PatchwordError, RecipeError
from patchword.text.tokenizer import Tokenizer

TRIES = 1000  # broken samples in a row before their source is given up
SHOWN = 3  # of them in the message

Made = Generator["Batch | PatchwordError", None, None]


@dataclass
class Batch:
    """What one step, or a part of one, is trained on."""

    pixels: Tensor  # (n, 3, H, W) float32
    ids: Tensor | None  # (n, L) int64, as long as the longest; None without a tokenizer
    captions: Tensor | None  # (n, K, L) int64: all of each image, of which ids are the first
    labels: Tensor  # (n,) int64; -1 where a source has none
    says: list[Facts]
    truths: list[Facts]
    mix: Tensor  # (n,) bool
    broken: list[ImageError]  # passed over while this batch was made
    questions: Tensor | None  # (n, K, L) int64; None too where no sample has a question
    answers: Tensor | None  # (n, K, L) int64, to the questions
    asked: Tensor  # (n, K) bool: which there are; the ids of others are those of no text
    wrong: Tensor | None  # (n, L) int64: captions that are not true; None where no sample has one
    misled: Tensor  # (n,) bool: which there are

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: slice) -> Batch:
        """Some of its rows; the broken samples are the whole batch's."""
        whole = {each.name: getattr(self, each.name) for each in fields(self)}
        some = {k: v[rows] for k, v in whole.items() if v is not None and k != "broken"}
        return replace(self, **some)

    def to(self, device: torch.device | str) -> Batch:
        """The same with its tensors on `device`."""
        whole = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in whole.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def batches(
    sources: Sequence[Source],
    plan: Plan,
    tokenizer: Tokenizer | None,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """This process's part of every step from `start` to before `stop`, in order.

    Rank r of a world of w has rows r * n to (r + 1) * n of the global batch of w * n, which is the
    same for any world and any number of workers. workers: processes that make batches; 0: a
    thread makes the next one. Closing the iterator ends them.

    A sample that cannot be used is replaced by another of its source and listed in `.broken`.
    Raises RecipeError for a batch that the world does not divide, and for a source of which
    nothing can be used.
    """
    if plan.batch % world:
        raise RecipeError(f"batch is {plan.batch}, which {world} processes cannot share evenly")
    steps = _Steps(sources, plan, tokenizer, rank, world)
    made = _in_processes if workers else _in_a_thread
    with closing(made(steps, start, stop, workers)) as each:
        for batch in each:
            if not isinstance(batch, Batch):
                raise batch
            yield batch


class _Steps(Dataset["Batch | PatchwordError"]):
    """This rank's batch of a step, by the step's number. What is raised on purpose is returned: a
    DataLoader would wrap it in a traceback."""

    def __init__(
        self,
        sources: Sequence[Source],
        plan: Plan,
        tokenizer: Tokenizer | None,
        rank: int,
        world: int,
    ) -> None:
        self.sources = sources
        self.plan = plan
        self.tokenizer = tokenizer
        count = plan.batch // world
        self.rows = slice(rank * count, (rank + 1) * count)

    def __getitem__(self, step: int) -> Batch | PatchwordError:
        try:
            return self.batch(step)
        except PatchwordError as error:
            return error

    def batch(self, step: int) -> Batch:
        broken: dict[str, ImageError] = {}
        samples = [self.sample(place, broken) for place in self.plan.at(step)[self.rows]]
        words = [sample.words for sample in samples]
        asked = torch.tensor([[bool(each.question) for each in some] for some in words])
        captions = self.ids([[each.caption for each in some] for some in words])
        misled = torch.tensor([bool(sample.wrong) for sample in samples])
        questions = answers = wrong = None
        if misled.any():
            wrong = self.ids([[sample.wrong] for sample in samples])
        if asked.any():
            questions = self.ids([[each.question for each in some] for some in words])
            answers = self.ids([[each.answer for each in some] for some in words])
        return Batch(
            pixels=torch.from_numpy(np.stack([sample.pixels for sample in samples])),
            ids=None if captions is None else captions[:, 0],
            captions=captions,
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            says=[sample.says for sample in samples],
            truths=[sample.truths for sample in samples],
            mix=torch.tensor([sample.mix for sample in samples]),
            broken=list(broken.values()),
            questions=questions,
            answers=answers,
            asked=asked,
            wrong=None if wrong is None else wrong[:, 0],
            misled=misled,
        )

    def ids(self, texts: list[list[str]]) -> Tensor | None:
        """(n, K, L) int64 of K texts for each of n images; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        ids = torch.from_numpy(self.tokenizer([text for some in texts for text in some]))
        return ids.view(len(texts), -1, ids.shape[1])

    def sample(self, place: Place, broken: dict[str, ImageError]) -> Sample:
        """The sample at a place, or the first usable spare. Adds the others to `broken`."""
        source = self.sources[place.source]
        failed: dict[int, ImageError] = {}
        for attempt in range(1, TRIES + 1):
            if place.sample not in failed:
                try:
                    return source.sample(place.sample, self.plan.rng(place))
                except ImageError as error:
                    failed[place.sample] = broken[error.image] = error
            if len(failed) == len(source):
                break
            place = self.plan.spare(place, attempt)
        count = f"all {len(source)}" if len(failed) == len(source) else f"{len(failed)} in a row"
        shown = "; ".join(str(error) for error in list(failed.values())[:SHOWN])
        raise RecipeError(f"data {place.source}: {count} samples cannot be used: {shown}")


def _in_a_thread(steps: _Steps, start: int, stop: int, _: int) -> Made:
    with ThreadPoolExecutor(1, "batches") as thread:
        ahead = thread.submit(steps.__getitem__, start) if start < stop else None
        for step in range(start, stop):
            assert ahead is not None
            batch = ahead.result()
            ahead = thread.submit(steps.__getitem__, step + 1) if step + 1 < stop else None
            yield batch


def _in_processes(steps: _Steps, start: int, stop: int, workers: int) -> Made:
    forks = "fork" in multiprocessing.get_all_start_methods()  # data is shared, not copied
    loader: DataLoader[Any] = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=min(workers, max(1, stop - start)),
        multiprocessing_context="fork" if forks else None,
        worker_init_fn=_Begin(os.getpid()),
    )
    with _serial_tokenizers():
        each = iter(loader)  # the workers start here
    yield from each  # its end, or the end of this generator, lets go of it, and so of the workers


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Keep the tokenizers library from threads of its own in the processes started meanwhile: the
    parent's do not survive the fork, and it would warn of that."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Begin:
    """What a worker does first.

    Ctrl-C and, in a batch system, SIGTERM reach every process of a job at once. A worker goes on
    then, so that its parent can end the step and save; only its parent's own SIGTERM ends it.
    """

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait, daemon=True).start()
        else:  # macOS cannot tell who sent it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _wait(self) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self.parent:
            pass
        os._exit(0)
