"""Engines beside each other on this machine: how fast each is, and how far from float32."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.api.engines import on_engine
from patchword.api.model import Model
from patchword.bundle import Vector
from patchword.errors import UnsupportedError
from patchword.images import ImageLike

LIMIT = 60.0  # seconds for all
EACH = 1.0  # seconds that one number is measured for
MANY = 32  # images in a batch
CPU = (
    ("torch", "float32"),
    ("openvino", "float32"),
    ("onnx", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
    ("compile", "float32"),  # last: it may take all the time that is left
)
OTHER = (("torch", "float32"), ("torch", "bfloat16"), ("compile", "bfloat16"))


class LateError(Exception):
    """Time is over."""


@dataclass(frozen=True)
class EngineRow:
    """What one engine does.

    one, many    images/s, one at a time and 32 at a time
    mean, least  cosine of its vectors to those of torch in float32
    same         of the photos, the share whose nearest other photo is the same one
    why          why there are no numbers; "" where there are
    """

    engine: str
    dtype: str
    one: float = 0.0
    many: float = 0.0
    mean: float = 0.0
    least: float = 0.0
    same: float = 0.0
    why: str = ""


def engine_rows(model: Model, photos: Sequence[ImageLike]) -> Iterator[EngineRow]:
    """A row for each engine and number type, in about LIMIT seconds.

    model: in float32, run by torch. photos: two or more. Raises ImageError for one that cannot be
    opened, UnsupportedError for a model that sees no images.
    """
    start = time.perf_counter()
    pixels = [model.open(photo)[0] for photo in photos]
    ways = CPU if model.device.type == "cpu" else OTHER
    exact: Vector | None = None
    for number, (engine, dtype) in enumerate(ways):
        left = LIMIT - (time.perf_counter() - start)
        share = left if exact is None or number == len(ways) - 1 else max(left / 2, 1)
        try:
            if left < 1:
                raise LateError
            with within(share):
                other = model if dtype == "float32" else model.to(dtype)
                other = other if engine == "torch" else on_engine(other, engine)
                rows = vectors(other, pixels)
                exact = rows if exact is None else exact
                one, many = (rate(other, pixels, count) for count in (1, MANY))
        except UnsupportedError as error:
            yield EngineRow(engine, dtype, why=str(error))
        except Exception as error:  # compilers wrap what interrupts them in errors of their own
            if not _late(error):
                raise
            why = f"not ready in the {max(share, 0):.0f} s that were left of {LIMIT:.0f}"
            yield EngineRow(engine, dtype, why=why)
        else:
            cosines = (rows * exact).sum(axis=1)
            same = float((nearest(rows) == nearest(exact)).mean())
            mean, least = float(cosines.mean()), float(cosines.min())
            yield EngineRow(engine, dtype, one, many, mean, least, same)


def vectors(model: Model, pixels: Sequence[Vector]) -> Vector:
    """Unit vectors (N, D), in float64, of opened photos."""
    parts = [
        model.engine.encode_image(pixels[start : start + MANY])
        for start in range(0, len(pixels), MANY)
    ]
    rows = np.concatenate(parts).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)  # type: ignore[no-any-return]


def rate(model: Model, pixels: Sequence[Vector], count: int) -> float:
    """Images/s in batches of `count`: the median of as many as fit into EACH seconds, after one."""
    batch = [pixels[i % len(pixels)] for i in range(count)]
    model.engine.encode_image(batch)
    marks = [time.perf_counter()]
    while marks[-1] - marks[0] < EACH:
        model.engine.encode_image(batch)
        marks.append(time.perf_counter())
    return float(count / np.median([end - begin for begin, end in pairwise(marks)]))


def nearest(rows: Vector) -> NDArray[np.int64]:
    """The number of the nearest other row of each."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    return cosines.argmax(axis=1)  # type: ignore[no-any-return]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise LateError when that much time is over, where there is a way to: in the main thread
    of a system with alarms."""
    alarms = hasattr(signal, "setitimer")
    if not alarms or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise LateError

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _late(error: BaseException | None) -> bool:
    """Whether time is what an error began with."""
    while error is not None:
        if isinstance(error, LateError):
            return True
        error = error.__cause__ or error.__context__
    return False
