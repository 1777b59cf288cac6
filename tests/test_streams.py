"""Batches that are computed at the same time, each in a share of torch's threads."""

import os
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_models import tiny_bundle, tiny_clip

from patchword.engines.streams import in_streams
from patchword.errors import ImageError, warn

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def first_of(batch: list[int]) -> int:
    return batch[0]


@pytest.mark.usefixtures("four_threads")
def test_batches_are_computed_at_the_same_time_and_come_in_order() -> None:
    begun = threading.Barrier(4, timeout=60)
    threads = []

    def work(batch: list[int]) -> list[int]:
        threads.append(torch.get_num_threads())
        begun.wait()  # for three other batches
        time.sleep(0.01 * (batch[0] % 3))
        return batch

    batches = list(in_streams(work, range(63), 32))
    assert batches == [list(range(start, min(start + 8, 63))) for start in range(0, 63, 8)]
    assert threads == [1] * 8
    assert torch.get_num_threads() == 4
    in_another_thread = []
    thread = threading.Thread(target=lambda: in_another_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert in_another_thread == [4]


@pytest.mark.usefixtures("four_threads")
def test_one_batch_alone_gets_all_threads() -> None:
    def work(batch: list[int]) -> tuple[int, int, bool]:
        here = threading.current_thread() is threading.main_thread()
        return len(batch), torch.get_num_threads(), here

    assert list(in_streams(work, range(8), 32)) == [(8, 4, True)]
    assert list(in_streams(work, [], 32)) == []
    assert list(in_streams(work, range(4), 2)) == [(2, 1, False)] * 2  # at most `size` items


def test_with_one_thread_there_are_no_streams() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = list(in_streams(lambda batch: (len(batch), threading.get_ident()), range(80), 32))
    finally:
        torch.set_num_threads(before)
    assert results == [(count, threading.get_ident()) for count in (32, 32, 16)]


@pytest.mark.usefixtures("four_threads")
def test_an_error_comes_in_its_place() -> None:
    def work(batch: list[int]) -> int:
        if batch[0] == 5:
            raise ValueError("batch 5")
        return batch[0]

    results = in_streams(work, range(20), 1)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="batch 5"):
        next(results)
    assert list(in_streams(first_of, range(6), 1)) == list(range(6))  # the streams are still there


@pytest.mark.usefixtures("four_threads")
def test_batches_that_nobody_wants_are_not_computed() -> None:
    computed: list[list[int]] = []
    results = in_streams(computed.append, range(1000), 1)
    for _ in range(3):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(computed) < 20


@pytest.mark.usefixtures("four_threads")
def test_warnings_of_streams_are_recorded_where_the_caller_records_them() -> None:
    def work(batch: list[int]) -> None:
        warn(f"batch {batch[0]}")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(in_streams(work, range(6), 1))
    assert sorted(str(each.message) for each in caught) == [f"batch {n}" for n in range(6)]
    assert {each.filename for each in caught} == {__file__}


@pytest.mark.usefixtures("four_threads")
def test_a_forked_process_makes_streams_of_its_own() -> None:
    list(in_streams(first_of, range(6), 1))
    pid = os.fork()
    if pid == 0:  # pytest must not go on in the child
        right = list(in_streams(first_of, range(6), 1)) == list(range(6))
        os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.usefixtures("four_threads")
def test_vectors_of_streams_are_those_of_single_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bundle(tiny_clip())
    photos: list[object] = [
        np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        for number in range(30)
    ]
    photos[7] = b"no photo"
    names = []
    encode = model.engine.encode_image

    def recorded(pixels: object) -> object:
        names.append(threading.current_thread().name)
        return encode(pixels)

    monkeypatch.setattr(model.engine, "encode_image", recorded)
    rows = [row for _, row in model.embed_each(photos, batch_size=4)]
    assert sum(name.startswith("patchword-stream") for name in names) == 8
    for photo, row in zip(photos, rows, strict=True):
        if photo is photos[7]:
            assert isinstance(row, ImageError)
        else:
            np.testing.assert_allclose(row, model.embed_images([photo])[0], atol=2e-7)

    names.clear()
    _ = model.network  # the caller may put hooks on it, which expect one batch after the other
    list(model.embed_each(photos, batch_size=4))
    assert not any(name.startswith("patchword-stream") for name in names)
