"""Engines beside each other on this machine: how fast each is, and how far from float32."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.api.engines import in_int8, on_engine
from patchword.api.model import Model
from patchword.bundle import Vector
from patchword.engines.libraries import last_line
from patchword.errors import PatchwordError
from patchword.images import ImageLike

LIMIT = 120.0  # seconds for all
EACH = 1.0  # seconds that one number is measured for
MANY = 32  # images in a batch
CPU = (
    ("torch", "float32"),
    ("openvino", "float32"),
    ("onnx", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("onnx", "int8"),
    ("compile", "float32"),  # last: it may take all the time that is left
)
OTHER = (("torch", "float32"), ("torch", "bfloat16"), ("compile", "bfloat16"))


class LateError(BaseException):
    """Time is over. No Exception, which a compiler might take for a step that failed, and go on."""


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


def engine_rows(
    model: Model, photos: Sequence[ImageLike], calibrate: Sequence[str] | None = None
) -> Iterator[EngineRow]:
    """A row for each engine and number type, in about LIMIT seconds.

    model: in float32, run by torch. photos: two or more. calibrate: other photos, for int8; see
    `in_int8`. Raises ImageError for one that cannot be opened, UnsupportedError for a model that
    sees no images, PatchwordError where not even the first is ready in that time.
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
                other = ready(model, engine, dtype, calibrate)
                rows = vectors(other, pixels)
                exact = rows if exact is None else exact
                one, many = (rate(other, pixels, count) for count in (1, MANY))
        except (Exception, LateError) as error:  # each library has its own, and the row says which
            if exact is None and isinstance(error, LateError):
                raise PatchwordError(
                    f"{model.name}: {engine} in {dtype}, which the others are compared with, was "
                    f"{_why(error, share)}; give fewer photos, or a machine with less to do"
                ) from error
            if exact is None:
                raise
            yield EngineRow(engine, dtype, why=_why(error, share))
        else:
            cosines = (rows * exact).sum(axis=1)
            same = float((nearest(rows) == nearest(exact)).mean())
            mean, least = float(cosines.mean()), float(cosines.min())
            yield EngineRow(engine, dtype, one, many, mean, least, same)


def ready(model: Model, engine: str, dtype: str, calibrate: Sequence[str] | None) -> Model:
    """The model on that engine, its warnings unsaid: they are of graphs that nobody asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dtype == "int8":
            return in_int8(model, engine, calibrate)
        other = model if dtype == "float32" else model.to(dtype)
        return other if engine == "torch" else on_engine(other, engine)


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


def _why(error: BaseException, seconds: float) -> str:
    """Why an engine has no numbers, in one line."""
    origin: BaseException | None = error
    while origin is not None:  # compilers wrap what interrupts them in errors of their own
        if isinstance(origin, LateError):
            return f"not ready in the {max(seconds, 0):.0f} s that were left of {LIMIT:.0f}"
        origin = origin.__cause__ or origin.__context__
    said = last_line(error)
    return said if isinstance(error, PatchwordError) else f"{type(error).__name__}: {said}"
