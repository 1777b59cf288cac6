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


@pytest.mark.usefixtures("four_threads")
def test_batches_are_computed_at_the_same_time_and_come_in_order() -> None:
    begun = threading.Barrier(4, timeout=60)
    threads = []

    def work(number: int) -> int:
        threads.append(torch.get_num_threads())
        if 0 < number < 9:
            begun.wait()  # for three other batches
        time.sleep(0.01 * (number % 3))
        return number

    assert list(in_streams(work, range(9))) == list(range(9))
    assert threads == [4] + [1] * 8  # the first batch gets all
    assert torch.get_num_threads() == 4
    in_another_thread = []
    thread = threading.Thread(target=lambda: in_another_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert in_another_thread == [4]


def test_with_one_thread_there_are_no_streams() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        threads = set(in_streams(lambda _: threading.current_thread(), range(5)))
    finally:
        torch.set_num_threads(before)
    assert threads == {threading.current_thread()}


@pytest.mark.usefixtures("four_threads")
def test_an_error_comes_in_its_place() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ValueError("batch 5")
        return number

    results = in_streams(work, range(20))
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="batch 5"):
        next(results)
    assert list(in_streams(str, range(6))) == list("012345")  # the streams are still there


@pytest.mark.usefixtures("four_threads")
def test_batches_that_nobody_wants_are_not_computed() -> None:
    computed = []
    results = in_streams(computed.append, iter(range(1000)))
    for _ in range(3):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(computed) < 20


@pytest.mark.usefixtures("four_threads")
def test_warnings_of_streams_are_recorded_where_the_caller_records_them() -> None:
    def work(number: int) -> None:
        warn(f"batch {number}")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(in_streams(work, range(6)))
    assert sorted(str(each.message) for each in caught) == [f"batch {n}" for n in range(6)]
    assert {each.filename for each in caught} == {__file__}


@pytest.mark.usefixtures("four_threads")
def test_a_forked_process_makes_streams_of_its_own() -> None:
    list(in_streams(str, range(6)))
    pid = os.fork()
    if pid == 0:  # pytest must not go on in the child
        right = list(in_streams(str, range(6))) == list("012345")
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
    assert sum(name.startswith("patchword-stream") for name in names) == 7
    for photo, row in zip(photos, rows, strict=True):
        if photo is photos[7]:
            assert isinstance(row, ImageError)
        else:
            np.testing.assert_allclose(row, model.embed_images([photo])[0], atol=2e-7)

    names.clear()
    _ = model.network  # the caller may put hooks on it, which expect one batch after the other
    list(model.embed_each(photos, batch_size=4))
    assert not any(name.startswith("patchword-stream") for name in names)
