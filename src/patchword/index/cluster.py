"""Embed the images of an index on a Ray cluster.

The driver lists the images and leaves out what the table holds, as `adding` does. Ray Data gives
the rest, in blocks of one commit each, to actors: one for each CPU, or, where there are GPUs, for
each two CPUs, since Python's lock keeps one process from decoding with more. An actor loads the
model once; it opens and embeds the images of a block, and puts the rows into the table. A worker
that dies costs the blocks it was working on, which others do again; a driver that dies continues
when it is run again. Errors of images, and the merging of the table's files, are the driver's.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError, PatchwordError
from patchword.images import Opener, processes
from patchword.images.files import File
from patchword.index import members
from patchword.index.adding import Adding, Batch, Progress
from patchword.index.failures import Failures
from patchword.index.sources import Listing
from patchword.index.table import Store
from patchword.optional import optional

FEWEST = 2  # blocks for each actor, so that all have work to the end
DECODERS, SHARED = 2, 8  # CPUs of an actor beside a GPU; actors of one GPU at most
PATIENCE = 10.0  # seconds for a cluster to answer
_STORE = "AWS_"  # begins the variables of the environment that object storage needs


@dataclass(frozen=True)
class Job:
    """What all actors are told.

    index, mark   the index, and what tells its table from any other
    model, load, options, fingerprint   how the model is loaded, and which one that must give
    opener, thumbnails   how images are opened
    environment   variables with the driver's access to object storage
    """

    index: str
    mark: str
    model: str
    load: Callable[..., Bundle]
    options: dict[str, Any]
    fingerprint: str
    opener: Opener
    thumbnails: bool
    environment: dict[str, str]


class Actor:
    """Embeds blocks of files; one of these runs in each worker process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._adding: Adding | PatchwordError | None = None  # the error: why it can do nothing

    def __call__(self, block: Any) -> Any:
        """What became of a pyarrow.Table of files: a pickled list of `_row`. Of a block that could
        not be done it has one row, of no path."""
        import pyarrow as pa  # type: ignore[import-untyped]

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                rows = self._embedded(block)
            except PatchwordError as error:
                rows = [_row(File("", 0, 0), f"{error} (worker {socket.gethostname()})", False)]
        rows[0]["said"] = [(each.category.__name__, str(each.message)) for each in said]
        return pa.table({"result": [pickle.dumps(rows)]})

    def _embedded(self, block: Any) -> list[dict[str, Any]]:
        adding = self._ready()
        files = [File(*row) for row in zip(*(block[n].to_pylist() for n in _FILE), strict=True)]
        reads = zip(files, block["read"].to_pylist(), strict=True)
        found = Listing(files, {file.path: pickle.loads(read) for file, read in reads if read})
        adding.batch = len(files)
        reasons = {
            error.image: error.reason for _, errors in adding.here(files, found) for error in errors
        }
        hidden = {path for path in reasons if path not in found.read and members.gone(path)}
        return [_row(file, reasons.get(file.path, ""), file.path in hidden) for file in files]

    def _ready(self) -> Adding:
        """What the first block makes, the model with it. Raises again what that raised."""
        if self._adding is None:
            try:
                self._adding = self._begun()
            except PatchwordError as error:
                self._adding = error
        if isinstance(self._adding, PatchwordError):
            raise self._adding
        return self._adding

    def _begun(self) -> Adding:
        job = self.job
        os.environ.update(job.environment)
        processes.disable()  # each CPU of the cluster has an actor
        store = Store(job.index)
        if not store.open() or store.about.get("mark") != job.mark:
            raise IndexStoreError(
                f"{job.index}: not the index that this worker sees there: put it on a disk that "
                "all machines of the cluster share, or at s3://bucket/name"
            )
        model = job.load(job.model, **job.options)
        if model.fingerprint != job.fingerprint:
            raise IndexStoreError(
                f"{job.model} is another model here ({model.fingerprint}) than where the work was "
                f"begun ({job.fingerprint})"
            )
        model = replace(model, opener=job.opener)
        return Adding(store, Failures(job.index), model, _never, thumbnails=job.thumbnails)


_FILE = ("path", "size", "mtime")


def _row(file: File, reason: str, hidden: bool) -> dict[str, Any]:
    return {"file": file, "reason": reason, "hidden": hidden, "said": []}


def _never() -> None:
    raise IndexStoreError("the index was deleted while it was added to")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The library of Ray, connected to a cluster: "auto", the one that this machine is part of;
    "local", a new one of this machine alone; or the address of one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = optional("ray", "ray", "--ray", IndexStoreError)
    if ray.is_initialized():
        yield ray
        return
    try:
        _reach(address)
        with warnings.catch_warnings():  # of forks; Ray's processes are programs of their own
            warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        if "AuthToken" in f"{error} {error.__cause__} {error.__context__}":
            raise IndexStoreError(
                f"--ray {address}: the cluster wants its token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to a file with it where it is not ~/.ray/auth_token"
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise IndexStoreError(
            f"--ray {address}: no cluster of Ray there: {first.rstrip('.')}; start one (ray start "
            "--head), or use this machine alone: --ray local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def access() -> dict[str, str]:
    """The variables of this machine's environment that give access to object storage."""
    return {name: value for name, value in os.environ.items() if name.startswith(_STORE)}


def _reach(address: str) -> None:
    """Raise OSError at once where nobody listens at a host and port; Ray would try for minutes."""
    found = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), PATIENCE).close()


def job_of(run: Adding, load: Callable[..., Bundle], about: Mapping[str, Any]) -> Job:
    """What the actors of a run are told. about: of the index's table."""
    name = run.model.name
    return Job(
        index=run.store.path,
        mark=str(about["mark"]),
        model=os.path.abspath(name) if os.path.exists(name) else name,
        load=load,
        options={"device": "auto", "dtype": "float32", **run.model.options},
        fingerprint=run.model.fingerprint,
        opener=run.model.opener,
        thumbnails=run.thumbnails,
        environment=access(),
    )


def embedded(
    address: str,
    job: Job,
    todo: Sequence[File],
    found: Listing,
    size: int,
    progress: Progress | None,
) -> Iterator[Batch]:
    """Blocks of files, in any order, as they were embedded and stored. size: of a block, at most.
    Raises IndexStoreError, when all is done that can be, where a worker does not see the index, the
    model or the photos."""
    with connected(address) as ray:
        yield from _embedded(ray, job, todo, found, size, progress)


def _embedded(
    ray: Any, job: Job, todo: Sequence[File], found: Listing, size: int, progress: Progress | None
) -> Iterator[Batch]:
    actors, each = _resources(ray)
    size = max(1, min(size, len(todo) // (FEWEST * actors)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = [_block(todo[start : start + size], found) for start in range(0, len(todo), size)]
    results = ray.data.from_arrow(blocks).map_batches(
        Actor,
        fn_constructor_args=[job],
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        **each,
    )
    done = 0
    faults: list[str] = []
    said: Counter[str] = Counter()
    first: dict[str, str] = {}
    for result in results.iter_rows():
        rows = pickle.loads(result["result"])
        if wrong := _wrong(rows):
            faults.append(wrong)
            continue
        for kind, text in rows[0]["said"]:
            said[kind] += 1
            first.setdefault(kind, text)
        done += len(rows)
        if progress:
            progress(done, len(todo))
        yield (
            [row["file"] for row in rows],
            [ImageError(row["file"].path, row["reason"]) for row in rows if row["reason"]],
        )
    for kind, text in first.items():
        more = f" (of one batch; {said[kind] - 1} more said the like)" if said[kind] > 1 else ""
        warnings.warn(text + more, stacklevel=2)
    if faults:
        more = f"; {len(faults)} blocks of images were not done" if len(faults) > 1 else ""
        raise IndexStoreError(faults[0] + more)


def _resources(ray: Any) -> tuple[int, dict[str, Any]]:
    """How many actors there are to be, and what each needs."""
    have = ray.cluster_resources()
    cpus, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
    if gpus:
        share = max(1, min(SHARED, cpus // gpus // DECODERS))
        return gpus * share, {"num_gpus": 1 / share, "num_cpus": max(1, cpus // gpus // share)}
    if not cpus:
        raise IndexStoreError("--ray: the cluster has neither CPUs nor GPUs")
    return cpus, {"num_cpus": 1}


def _block(files: Sequence[File], found: Listing) -> Any:
    import pyarrow as pa

    reads = [found.read.get(file.path) for file in files]
    return pa.table(
        {
            **{name: [getattr(file, name) for file in files] for name in _FILE},
            "read": pa.array([read and pickle.dumps(read) for read in reads], pa.binary()),
        }
    )


def _wrong(rows: list[dict[str, Any]]) -> str | None:
    """Why a worker could not do a block, if so."""
    for row in rows:
        path = row["file"].path
        if not path:
            return str(row["reason"])
        if row["hidden"] and not members.gone(path):
            return (
                f"{path}: a worker of the cluster does not see this file, which is here: put the "
                "photos on a disk that all machines share"
            )
    return None
