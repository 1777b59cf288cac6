"""Batches for training, prefetched in order by worker processes or a thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Generic

from torch.utils.data import DataLoader, Dataset, get_worker_info

from patchword.data.batch import BatchT, Collate
from patchword.data.plan import Place, Plan
from patchword.data.sample import Sample, Source
from patchword.errors import ImageError, PatchwordError, RecipeError
from patchword.images.prefetch import threads

TRIES = 1000  # broken samples in a row before their source is given up
SHOWN = 3  # of them in the message

Made = Generator[BatchT | PatchwordError, None, None]


def batches(
    sources: Sequence[Source],
    plan: Plan,
    collate: Collate[BatchT],
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pinned: bool = False,
) -> Iterator[BatchT]:
    """This process's part of every step from `start` to before `stop`, in order.

    Rank r of a world of w has rows r * n to (r + 1) * n of the global batch of w * n, which is the
    same for any world and any number of workers. collate: samples, and the broken ones -> a batch.
    workers: processes that make batches; 0: a thread makes the next one. Closing the iterator ends
    them. pinned: of processes, batches in pinned memory, for a GPU.

    A sample that cannot be used is replaced by another of its source and listed in `.broken`.
    Raises RecipeError for a batch that the world does not divide, and for a source of which
    nothing can be used.
    """
    if plan.batch % world:
        raise RecipeError(f"batch is {plan.batch}, which {world} processes cannot share evenly")
    steps = _Steps(sources, plan, collate, rank, world)
    made = _in_processes if workers else _in_a_thread
    with closing(made(steps, start, stop, workers, pinned)) as each:
        for batch in each:
            if isinstance(batch, PatchwordError):
                raise batch
            yield batch


class _Steps(Dataset[BatchT | PatchwordError], Generic[BatchT]):
    """This rank's batch of a step, by the step's number. A PatchwordError is returned instead of
    raised: a DataLoader would wrap it in a traceback."""

    def __init__(
        self,
        sources: Sequence[Source],
        plan: Plan,
        collate: Collate[BatchT],
        rank: int,
        world: int,
    ) -> None:
        self.sources = sources
        self.plan = plan
        self.collate = collate
        count = plan.batch // world
        self.rows = slice(rank * count, (rank + 1) * count)

    def __getitem__(self, step: int) -> BatchT | PatchwordError:
        try:
            batch = self.batch(step)
        except PatchwordError as error:
            return error
        return batch if get_worker_info() is None else _shared(batch)

    def batch(self, step: int) -> BatchT:
        broken: dict[str, ImageError] = {}
        samples = [self.sample(place, broken) for place in self.plan.at(step)[self.rows]]
        return self.collate(samples, list(broken.values()))

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


def _shared(batch: BatchT) -> BatchT | PatchwordError:
    """A worker's batch, in the memory through which it goes. The DataLoader puts it there too, but
    in a thread whose errors nobody learns of: the run would wait for ever."""
    try:
        return batch.share_memory()
    except RuntimeError as error:
        return RecipeError(
            f"engine.workers: a batch finds no room in shared memory ({str(error).splitlines()[0]})"
            "; give more of it (docker run --shm-size=2g), or say engine.workers=0 or a smaller "
            "batch"
        )


@contextmanager
def explain_worker_errors() -> Iterator[None]:
    """Context of everything that is done while there are workers: in place of the DataLoader's
    error of one that ended, which may come at any moment, raises a RecipeError that says why."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RecipeError(
            f"engine.workers: a process that makes batches has ended ({error}). If memory was "
            "short, say engine.workers=1, or 0 for a thread. On macOS and Windows a script must "
            'train inside `if __name__ == "__main__":`, or with engine.workers=0'
        ) from error


def _in_a_thread(steps: _Steps[BatchT], start: int, stop: int, *_: int) -> Made[BatchT]:
    with threads(1) as thread:
        ahead = thread.submit(steps.__getitem__, start) if start < stop else None
        for step in range(start, stop):
            assert ahead is not None
            batch = ahead.result()
            ahead = thread.submit(steps.__getitem__, step + 1) if step + 1 < stop else None
            yield batch


def _in_processes(
    steps: _Steps[BatchT], start: int, stop: int, workers: int, pinned: bool
) -> Made[BatchT]:
    # Forked, they share the data instead of copying it; on macOS what is forked may crash.
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    loader: DataLoader[Any] = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=min(workers, max(1, stop - start)),
        pin_memory=pinned,
        multiprocessing_context="fork" if forks else None,
        worker_init_fn=_Begin(os.getpid()),
    )
    with _serial_tokenizers():
        each = iter(loader)  # the workers start here
    yield from each  # its end, or the end of this generator, lets go of it, and so of the workers


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Keep the tokenizers library from using threads of its own in processes that are started in
    this context: the parent's threads do not survive the fork, and it would warn of that."""
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
    """The set-up of a worker.

    Ctrl-C and, in a batch system, SIGTERM reach every process of a job at once. A worker ignores
    them, so that its parent can end the step and save; only its parent's own SIGTERM ends it.
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
