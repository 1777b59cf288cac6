"""Embed the images of an index on a Ray cluster.

The driver lists the images and leaves out what the table has, as `adding` does. Ray Data gives the
rest to actors, in blocks that are one commit each. There is one actor for each CPU or, where there
are GPUs, for every two CPUs: because of Python's lock one process decodes no faster with more. An
actor loads the model once. It opens and embeds the images of a block, and stores the rows in the
table. If a worker dies, others do its unfinished blocks again; if the driver dies, the next run
continues. The driver stores the errors of images, and merges the table's files.
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
from typing import Any, NamedTuple

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

MIN_BLOCKS = 2  # for each actor, so that all have work until the end
CPUS_PER_ACTOR, MAX_ACTORS_PER_GPU = 2, 8  # where there are GPUs
TIMEOUT = 10.0  # seconds for a cluster to answer
_STORAGE_PREFIX = "AWS_"  # of the environment variables that object storage needs
_FILE_COLUMNS = ("path", "size", "mtime")


@dataclass(frozen=True)
class Job:
    """What every actor needs to know.

    index, mark   the path of the index, and the mark of its table
    model, load, options   how the model is loaded
    fingerprint   which the loaded model must have
    opener, thumbnails   how images are opened
    environment   the driver's environment variables for object storage
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


class BlockResult(NamedTuple):
    """What became of a block.

    files     of the block
    reasons   why images could not be read, by path
    missing   paths of files that do not exist on the worker's machine
    warnings  (name of the category, message) of each
    problem   why the block could not be done; "" if it was
    """

    files: list[File]
    reasons: dict[str, str]
    missing: set[str]
    warnings: list[tuple[str, str]]
    problem: str = ""


class Actor:
    """Embeds blocks of files; one of these runs in each worker process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._adding: Adding | PatchwordError | None = None  # the error: why it cannot work

    def __call__(self, block: Any) -> Any:
        """Embed a pyarrow.Table of files; returns one with a pickled `BlockResult`."""
        import pyarrow as pa  # type: ignore[import-untyped]

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = self._embed(block)
            except PatchwordError as error:
                problem = f"{error} (worker {socket.gethostname()})"
                result = BlockResult([], {}, set(), [], problem)
        messages = [(warning.category.__name__, str(warning.message)) for warning in caught]
        return pa.table({"result": [pickle.dumps(result._replace(warnings=messages))]})

    def _embed(self, block: Any) -> BlockResult:
        adding = self._loaded()
        columns = (block[name].to_pylist() for name in _FILE_COLUMNS)
        files = [File(*row) for row in zip(*columns, strict=True)]
        pickled = zip(files, block["reader"].to_pylist(), strict=True)
        readers = {file.path: pickle.loads(reader) for file, reader in pickled if reader}
        adding.batch = len(files)
        batches = adding.embed_here(files, Listing(files, readers))
        reasons = {error.image: error.reason for _, errors in batches for error in errors}
        missing = {path for path in reasons if path not in readers and members.gone(path)}
        return BlockResult(files, reasons, missing, [])

    def _loaded(self) -> Adding:
        """The model and the index, loaded for the first block. An error is raised again for each
        later block."""
        if self._adding is None:
            try:
                self._adding = self._load()
            except PatchwordError as error:
                self._adding = error
        if isinstance(self._adding, PatchwordError):
            raise self._adding
        return self._adding

    def _load(self) -> Adding:
        job = self.job
        os.environ.update(job.environment)
        processes.disable()  # each CPU of the cluster has an actor
        store = Store(job.index)
        if not store.exists() or store.metadata.get("mark") != job.mark:
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
        return Adding(
            store, Failures(job.index), model, _refuse_to_create, thumbnails=job.thumbnails
        )


def _refuse_to_create() -> None:
    raise IndexStoreError("the index was deleted while it was added to")


@contextmanager
def ray_connection(address: str) -> Iterator[Any]:
    """The Ray library, connected to a cluster. address: "auto", the one that this machine is part
    of; "local", a new one of this machine alone; or an address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = optional("ray", "ray", "--ray", IndexStoreError)
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_reachable(address)
        with warnings.catch_warnings():  # LanceDB warns of forks, but Ray starts new programs
            warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        if "AuthToken" in f"{error} {error.__cause__} {error.__context__}":
            raise IndexStoreError(
                f"--ray {address}: the cluster wants its token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to a file with it where it is not ~/.ray/auth_token"
            ) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise IndexStoreError(
            f"--ray {address}: no cluster of Ray there: {lines[0].rstrip('.')}; start one (ray "
            "start --head), or use this machine alone: --ray local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def storage_environment() -> dict[str, str]:
    """The environment variables that give access to object storage."""
    return {name: value for name, value in os.environ.items() if name.startswith(_STORAGE_PREFIX)}


def _check_reachable(address: str) -> None:
    """Raise OSError at once where nobody listens at a host and port; Ray would try for minutes."""
    match = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d+)", address)
    if match:
        socket.create_connection((match[1], int(match[2])), TIMEOUT).close()


def make_job(adding: Adding, load: Callable[..., Bundle], metadata: Mapping[str, Any]) -> Job:
    """The job of the actors. metadata: of the index's table."""
    name = adding.model.name
    return Job(
        index=adding.store.path,
        mark=str(metadata["mark"]),
        model=os.path.abspath(name) if os.path.exists(name) else name,
        load=load,
        options={"device": "auto", "dtype": "float32", **adding.model.options},
        fingerprint=adding.model.fingerprint,
        opener=adding.model.opener,
        thumbnails=adding.thumbnails,
        environment=storage_environment(),
    )


def embed(
    address: str,
    job: Job,
    todo: Sequence[File],
    listing: Listing,
    size: int,
    progress: Progress | None,
) -> Iterator[Batch]:
    """Embed and store files in blocks of at most `size`, and yield the blocks as they are done, in
    any order. Where a worker cannot see the index, the model or the photos, the other blocks are
    done, and then IndexStoreError is raised."""
    with ray_connection(address) as ray:
        yield from _embed_blocks(ray, job, todo, listing, size, progress)


def _embed_blocks(
    ray: Any, job: Job, todo: Sequence[File], listing: Listing, size: int, progress: Progress | None
) -> Iterator[Batch]:
    actors, resources = _resources(ray)
    size = max(1, min(size, len(todo) // (MIN_BLOCKS * actors)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = [_block(todo[start : start + size], listing) for start in range(0, len(todo), size)]
    results = ray.data.from_arrow(blocks).map_batches(
        Actor,
        fn_constructor_args=[job],
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        **resources,
    )
    done = 0
    problems: list[str] = []
    warning_counts: Counter[str] = Counter()  # by category
    first_warnings: dict[str, str] = {}
    for row in results.iter_rows():
        result: BlockResult = pickle.loads(row["result"])
        if problem := _problem(result):
            problems.append(problem)
            continue
        for category, message in result.warnings:
            warning_counts[category] += 1
            first_warnings.setdefault(category, message)
        done += len(result.files)
        if progress:
            progress(done, len(todo))
        yield (
            result.files,
            [
                ImageError(file.path, result.reasons[file.path])
                for file in result.files
                if file.path in result.reasons
            ],
        )
    for category, message in first_warnings.items():
        if warning_counts[category] > 1:
            message += f" (of one batch; {warning_counts[category] - 1} more said the like)"
        warnings.warn(message, stacklevel=2)
    if problems:
        more = f"; {len(problems)} blocks of images were not done" if len(problems) > 1 else ""
        raise IndexStoreError(problems[0] + more)


def _resources(ray: Any) -> tuple[int, dict[str, Any]]:
    """How many actors to start, and the resources of each."""
    available = ray.cluster_resources()
    cpus, gpus = int(available.get("CPU", 0)), int(available.get("GPU", 0))
    if gpus:
        share = max(1, min(MAX_ACTORS_PER_GPU, cpus // gpus // CPUS_PER_ACTOR))
        return gpus * share, {"num_gpus": 1 / share, "num_cpus": max(1, cpus // gpus // share)}
    if not cpus:
        raise IndexStoreError("--ray: the cluster has neither CPUs nor GPUs")
    return cpus, {"num_cpus": 1}


def _block(files: Sequence[File], listing: Listing) -> Any:
    """Files and the readers of their bytes as a pyarrow.Table."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        name: [getattr(file, name) for file in files] for name in _FILE_COLUMNS
    }
    readers = [listing.readers.get(file.path) for file in files]
    pickled = [pickle.dumps(reader) if reader else None for reader in readers]
    return pa.table({**columns, "reader": pa.array(pickled, pa.binary())})


def _problem(result: BlockResult) -> str:
    """Why a worker could not do a block; "" if it could."""
    for path in result.missing:
        if not members.gone(path):
            return (
                f"{path}: a worker of the cluster does not see this file, which is here: put the "
                "photos on a disk that all machines share"
            )
    return result.problem
