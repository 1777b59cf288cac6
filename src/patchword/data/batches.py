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

TRIES = 1000  # broken samples in a row until training is stopped
SHOWN = 3  # broken samples in the error

Batches = Generator[BatchT | PatchwordError, None, None]


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
    """This process's batches of all steps from `start` to before `stop`, in order.

    The whole batch of a step is the same for any number of processes and workers. Of `world`
    processes with n samples each, process `rank` has rows rank * n to (rank + 1) * n.

    collate  makes a batch of samples and the errors of broken ones
    workers  processes that make batches; 0: a thread makes the next one. Closing the iterator ends
             them
    pinned   whether worker processes' batches are put into pinned memory, for a GPU

    A sample that cannot be used is replaced by another one of its source and listed in `.broken`.
    Raises RecipeError for a batch that `world` does not divide, and for a source without usable
    samples.
    """
    if plan.batch % world:
        raise RecipeError(f"batch is {plan.batch}, which {world} processes cannot share evenly")
    steps = _StepBatches(sources, plan, collate, rank, world)
    if workers:
        iterator = _in_processes(steps, start, stop, workers, pinned)
    else:
        iterator = _in_a_thread(steps, start, stop)
    with closing(iterator):
        for batch in iterator:
            if isinstance(batch, PatchwordError):
                raise batch
            yield batch


class _StepBatches(Dataset[BatchT | PatchwordError], Generic[BatchT]):
    """This process's batch of each step. A PatchwordError is returned, not raised: a DataLoader
    would wrap it in a traceback."""

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
        return batch if get_worker_info() is None else _in_shared_memory(batch)

    def batch(self, step: int) -> BatchT:
        broken: dict[str, ImageError] = {}
        samples = [self.sample(place, broken) for place in self.plan.at(step)[self.rows]]
        return self.collate(samples, list(broken.values()))

    def sample(self, place: Place, broken: dict[str, ImageError]) -> Sample:
        """The sample at a place, or the first usable replacement. Adds broken ones to `broken`."""
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


def _in_shared_memory(batch: BatchT) -> BatchT | PatchwordError:
    """A worker's batch in shared memory. The DataLoader would move it there too, but in a thread
    whose errors are lost: the run would wait for ever."""
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
    """Context for all that runs while there are workers. If a worker ends, the DataLoader may raise
    a RuntimeError at any moment: this raises a RecipeError instead, which says why."""
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


def _in_a_thread(steps: _StepBatches[BatchT], start: int, stop: int) -> Batches[BatchT]:
    if start >= stop:
        return
    with threads(1) as thread:
        following = thread.submit(steps.__getitem__, start)
        for step in range(start + 1, stop):
            batch = following.result()
            following = thread.submit(steps.__getitem__, step)
            yield batch
        yield following.result()


def _in_processes(
    steps: _StepBatches[BatchT], start: int, stop: int, workers: int, pinned: bool
) -> Batches[BatchT]:
    # Forked workers share the data instead of copying it; on macOS forked processes may crash.
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    loader: DataLoader[Any] = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=min(workers, max(1, stop - start)),
        pin_memory=pinned,
        multiprocessing_context="fork" if forks else None,
        worker_init_fn=_WorkerSetup(os.getpid()),
    )
    with _serial_tokenizers():
        batches = iter(loader)  # the workers start here
    yield from batches  # when this ends, nothing refers to the iterator, and the workers end


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Context in which processes start whose tokenizers use no threads. The parent's threads do not
    survive the fork, and the tokenizers library would warn of that."""
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


class _WorkerSetup:
    """The set-up of a worker.

    Ctrl-C and, in a batch system, SIGTERM reach every process of a job at once. A worker ignores
    them, so that its parent can end the step and save. Only a SIGTERM from its parent ends it.
    """

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __call__(self, worker_id: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait_for_parent, daemon=True).start()
        else:  # macOS does not tell which process sent a signal
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _wait_for_parent(self) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self.parent:
            pass
        os._exit(0)
