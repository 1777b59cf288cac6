"""Batches are the same for any number of processes and workers, with broken samples and signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from photos import PREPROCESS, class_folders, encoded

from patchword.data import (
    AugmentConfig,
    Collate,
    PairBatch,
    Plan,
    Source,
    SourceConfig,
    batches,
    collate_classes,
    collate_images,
    collate_pairs,
    explain_worker_errors,
    open_sources,
)
from patchword.errors import RecipeError
from patchword.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
BATCHES = sys.modules["patchword.data.batches"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos"), ("hat", "t_shirt"), 9)


@pytest.fixture
def sources(folder: Path) -> list[Source]:
    configs = [
        SourceConfig("folder", path=str(folder), augment=AugmentConfig(), templates=("a {}", "{}")),
        SourceConfig("scenes", count=20),
    ]
    return open_sources(configs, PREPROCESS, {"captions"})


@pytest.fixture
def plan(sources: list[Source]) -> Plan:
    return Plan([len(source) for source in sources], [0.75, 0.25], 24, 7)


@pytest.fixture
def tokenizer(sources: list[Source]) -> Tokenizer:
    return Tokenizer.train([c for source in sources for c in source.captions()], 600, 32)


@pytest.fixture
def pairs(tokenizer: Tokenizer) -> Collate[PairBatch]:
    return partial(collate_pairs, tokenizer)


def rows(batch: PairBatch) -> list[tuple]:
    """The rows of a batch, without padding: they must not depend on the process that made them."""
    ids = [tuple(row[row != 0].tolist()) for row in batch.ids]
    pixels = [row.numpy().tobytes() for row in batch.pixels]
    facts = (batch.caption_facts, batch.image_facts)
    columns = (pixels, ids, *facts, batch.mix.tolist())
    return list(zip(*columns, strict=True))


def test_a_batch_is_its_samples(sources, plan: Plan, tokenizer: Tokenizer, pairs) -> None:
    batch = next(batches(sources, plan, pairs, 4, 5))
    places = plan.at(4)
    samples = [sources[place[0]].sample(place[2], plan.rng(place)) for place in places]
    assert len(batch) == 24
    assert batch.pixels.dtype == torch.uint8  # they are normalised on the device
    assert_array_equal(batch.pixels.numpy(), np.stack([sample.pixels for sample in samples]))
    assert_array_equal(batch.ids.numpy(), tokenizer([sample.caption for sample in samples]))
    assert batch.caption_facts == [sample.caption_facts for sample in samples]
    assert batch.image_facts == [sample.image_facts for sample in samples]
    assert batch.mix.tolist() == [place[0] == 0 for place in places]
    assert batch.broken == []
    classes = next(batches(sources, plan, collate_classes, 4, 5))
    assert classes.labels.tolist() == [sample.label for sample in samples]
    assert torch.equal(classes.pixels, batch.pixels)
    assert torch.equal(classes.mix, batch.mix)
    images = next(batches(sources, plan, collate_images, 4, 5))
    assert torch.equal(images.pixels, batch.pixels)


def test_devices(sources, plan: Plan, pairs) -> None:
    batch = next(batches(sources, plan, pairs, 0, 1))
    assert rows(batch.to("cpu")) == rows(batch)
    moved = batch.to("meta")
    assert {moved.pixels.device.type, moved.ids.device.type, moved.mix.device.type} == {"meta"}
    assert moved.caption_facts == batch.caption_facts


def test_pinned(sources, plan: Plan, pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors are pinned, and copied without waiting. Replaced functions check that: without a
    GPU no memory can be pinned."""
    waits: list[bool] = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = next(batches(sources, plan, pairs, 0, 1))
    pinned = batch.pin_memory()
    for name in ("pixels", "ids", "mix"):
        assert torch.equal(getattr(pinned, name), getattr(batch, name) + 1)
    assert pinned.caption_facts == batch.caption_facts

    def noted(tensor: torch.Tensor, *where: object, non_blocking: bool = False) -> torch.Tensor:
        waits.append(not non_blocking)
        return to(tensor, *where)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    pinned.to("cpu")
    assert waits == [False] * 3


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (1, 2), (2, 2), (3, 1), (4, 0)])
def test_the_same_for_any_number_of_processes(
    sources, plan: Plan, pairs, world: int, workers: int
) -> None:
    expected = [rows(batch) for batch in batches(sources, plan, pairs, 0, 4)]
    ranks = [
        list(batches(sources, plan, pairs, 0, 4, rank, world, workers)) for rank in range(world)
    ]
    for step in range(4):
        parts = [each[step] for each in ranks]
        assert [len(part) for part in parts] == [24 // world] * world
        assert [row for part in parts for row in rows(part)] == expected[step]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_in_the_middle_skips(sources, plan, pairs, workers: int) -> None:
    all_batches = [rows(batch) for batch in batches(sources, plan, pairs, 0, 8)]
    later = [rows(b) for b in batches(sources, plan, pairs, 5, 8, workers=workers)]
    assert later == all_batches[5:]
    assert list(batches(sources, plan, pairs, 8, 8, workers=workers)) == []


def test_a_batch_that_cannot_be_shared(sources, plan: Plan) -> None:
    with pytest.raises(RecipeError, match="24, which 5 processes cannot share evenly"):
        next(batches(sources, plan, collate_images, 0, 1, 0, 5))


def test_tables_in_processes(folder: Path, pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes read a table at once."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    files = sorted(folder.glob("*/*.png"))
    table = "".join(f"{file},photo {i}\n" for i, file in enumerate(files))
    (folder / "t.csv").write_text("image,caption\n" + table)
    config = SourceConfig("table", path=str(folder / "t.csv"))
    sources = open_sources([config], PREPROCESS, {"captions"})
    plan = Plan([len(files)], [1], 6, 0)
    in_thread, in_processes = (list(batches(sources, plan, pairs, 0, 9, workers=w)) for w in (0, 2))
    assert [b.caption_facts for b in in_thread] == [b.caption_facts for b in in_processes]
    assert all(
        torch.equal(a.pixels, b.pixels) for a, b in zip(in_thread, in_processes, strict=True)
    )


# Broken samples


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_samples_cost_nothing_else(tmp_path: Path, workers: int) -> None:
    """Among 1,000 good images: a truncated JPEG, a text named .jpg, and a deleted file."""
    good = [encoded(i) for i in range(10)]
    for i in range(1000):
        folder = tmp_path / ("even", "odd")[i % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{i:04d}.png").write_bytes(good[i % 10])
    jpeg = encoded(3, "JPEG")
    (tmp_path / "even" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "odd" / "text.jpg").write_text("words")
    (tmp_path / "odd" / "gone.jpg").write_bytes(jpeg)
    (source,) = open_sources([SourceConfig("folder", path=str(tmp_path))], PREPROCESS, {"labels"})
    (tmp_path / "odd" / "gone.jpg").unlink()
    assert len(source) == 1003
    plan = Plan([1003], [1], 59, 0)  # an epoch is 17 steps
    made = list(batches([source], plan, collate_images, 0, 17, workers=workers))
    assert [len(batch) for batch in made] == [59] * 17
    broken = {Path(error.image).name: error.reason for batch in made for error in batch.broken}
    assert set(broken) == {"cut.jpg", "text.jpg", "gone.jpg"}
    assert "truncated" in broken["cut.jpg"]
    assert broken["gone.jpg"] == "no such file"
    again = list(batches([source], plan, collate_images, 0, 17))
    for one, other in zip(made, again, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert [str(e) for e in one.broken] == [str(e) for e in other.broken]
    # All good samples are at the places that they would have without broken ones.
    for step, batch in enumerate(made):
        for row, place in enumerate(plan.at(step)):
            if Path(source.name(place.sample)).suffix != ".jpg":
                expected = source.sample(place.sample, plan.rng(place)).pixels
                assert_array_equal(batch.pixels[row].numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_broken_samples(tmp_path: Path, workers: int) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.jpg").write_text("words")
    sources = open_sources([SourceConfig("folder", path=str(tmp_path))], PREPROCESS, {"labels"})
    message = r"^data 0: all 6 samples cannot be used: .*\.jpg: not an image[^;]*(; .*\.jpg.*){2}$"
    with pytest.raises(RecipeError, match=message):
        next(batches(sources, Plan([6], [1], 4, 0), collate_images, 0, 9, workers=workers))


def test_almost_nothing_but_broken_samples(tmp_path: Path) -> None:
    """The only good image among 200 is found, and replaces all others."""
    (tmp_path / "a").mkdir()
    for i in range(199):
        (tmp_path / "a" / f"{i}.jpg").write_text("words")
    (tmp_path / "a" / "good.png").write_bytes(encoded(0))
    sources = open_sources([SourceConfig("folder", path=str(tmp_path))], PREPROCESS, ())
    (batch,) = batches(sources, Plan([200], [1], 4, 0), collate_images, 0, 1)
    good = sources[0].sample(199, np.random.default_rng()).pixels
    assert all(np.array_equal(row.numpy(), good) for row in batch.pixels)
    assert len({error.image for error in batch.broken}) == len(batch.broken) > 50


# Processes come and go


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children()]


def gone(pids: list[int]) -> bool:
    """Whether none of these processes exists any more, not even as a zombie."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("end", ["closed", "dropped", "interrupted", "finished"])
def test_no_process_stays_behind(sources, plan: Plan, end: str) -> None:
    made = batches(sources, plan, collate_images, 0, 6, workers=2)
    next(made)
    pids = children()
    assert len(pids) == 2
    if end == "closed":
        made.close()
    elif end == "dropped":
        del made
    elif end == "finished":
        assert len(list(made)) == 5
    else:
        with pytest.raises(KeyboardInterrupt):
            made.throw(KeyboardInterrupt())
    assert gone(pids)


def test_workers_are_modest(sources, plan: Plan, pairs) -> None:
    """Workers use one thread and no threads of tokenizers. The environment is unchanged
    afterwards."""
    before = dict(os.environ)
    sources[1] = Reporting(sources[1])
    for batch in islice(batches(sources, plan, pairs, 0, 6, workers=2), 3):
        reports = {
            fact for facts in batch.caption_facts for fact in facts if fact.startswith("threads")
        }
        assert reports == {"threads 1, tokenizers false"}
    assert dict(os.environ) == before


class Reporting:
    """A source whose facts describe the process that reads it."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getattr__(self, name: str):
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, rng: np.random.Generator):
        threads, serial = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
        facts = frozenset([f"threads {threads}, tokenizers {serial}"])
        return replace(self.source.sample(index, rng), caption_facts=facts)


def test_batches_that_find_no_room_in_shared_memory(
    sources, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a small /dev/shm, where the run would otherwise wait for ever."""

    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    assert len(list(batches(sources, plan, collate_images, 0, 1))) == 1
    monkeypatch.setattr(BATCHES, "get_worker_info", lambda: "a worker")
    with pytest.raises(RecipeError, match=r"shared memory .*No space left.*engine\.workers=0"):
        next(batches(sources, plan, collate_images, 0, 1))


def test_a_worker_that_is_killed(sources, plan: Plan) -> None:
    made = batches(sources, plan, collate_images, 0, 999, workers=1)
    next(made)
    os.kill(children()[0], signal.SIGKILL)
    with (
        pytest.raises(RecipeError, match=r"engine\.workers: .* has ended"),
        explain_worker_errors(),
    ):
        list(made)


@pytest.mark.parametrize(("platform", "context"), [("linux", "fork"), ("darwin", None)])
def test_macos_starts_workers_anew(
    sources, plan: Plan, monkeypatch: pytest.MonkeyPatch, platform: str, context: str | None
) -> None:
    """On macOS forked processes may crash; Python's default there is spawn."""
    options_given = {}

    def loader(steps: object, **options: object) -> list:
        options_given.update(options)
        return []

    monkeypatch.setattr(BATCHES, "DataLoader", loader)
    monkeypatch.setattr(sys, "platform", platform)
    assert list(batches(sources, plan, collate_images, 0, 1, workers=1)) == []
    assert options_given["multiprocessing_context"] == context


SCRIPT = """
    import os, signal, sys, time, multiprocessing
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from photos import PREPROCESS
    from functools import partial
    from patchword.data import Plan, SourceConfig, batches, collate_pairs, open_sources
    from patchword.text.tokenizer import Tokenizer
    from torch.utils.data._utils import worker

    worker.MP_STATUS_CHECK_INTERVAL = 0.2  # seconds between checks of its parent; torch: 5
    received = []  # signals, then the steps after the first one
    signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells ignore it
    for number in map(int, sys.argv[3:]):
        signal.signal(number, lambda *_: received.append(1))
    sources = open_sources([SourceConfig("folder", path=sys.argv[2])], PREPROCESS, {"captions"})
    tokenizer = Tokenizer.train(sources[0].captions(), 600, 32)
    tokenizer(["a hat"] * 1000)  # starts its threads before the workers
    pairs = partial(collate_pairs, tokenizer)
    try:
        for step, batch in enumerate(batches(sources, Plan([18], [1], 8, 0), pairs, 0, 9999,
                                             workers=2)):
            if step == 1:  # one batch of each worker: both have started
                print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            if received and len(received) < 6:
                received.append(step)  # training goes on after the signal
            if len(received) == 6:
                print("saved", flush=True)
                break
            time.sleep(0.02)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "handled"), [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGINT, False)]
)
def test_a_signal_to_all_processes(folder: Path, number: signal.Signals, handled: bool) -> None:
    """A batch system, or Ctrl-C, sends the signal to workers too. They work on until their parent
    ends."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(TESTS), str(folder)]
    command += [str(int(number))] if handled else []
    word = "saved" if handled else "interrupted"
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout is not None
    workers = [int(pid) for pid in child.stdout.readline().split()]
    assert len(workers) == 2
    os.killpg(child.pid, number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out.strip(), err) == (0, word, "")
    assert gone(workers)


def test_workers_end_with_their_parent(folder: Path) -> None:
    """Also with a parent that is killed."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(TESTS), str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    workers = [int(pid) for pid in child.stdout.readline().split()]
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 30
    while not gone(workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
