"""Measures the engines on this machine: their speed, and their agreement with float32."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

LIMIT = 120.0  # seconds for all engines
SECONDS = 1.0  # that one measurement takes
MANY = 32  # images in a batch
CPU = (
    ("torch", "float32"),
    ("openvino", "float32"),
    ("onnx", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("onnx", "int8"),
    ("compile", "float32"),  # last, because it may take all of the remaining time
)
OTHER = (("torch", "float32"), ("torch", "bfloat16"), ("compile", "bfloat16"))


class LateError(BaseException):
    """The time is over. Not an Exception, which a compiler might catch as a failed step."""


@dataclass(frozen=True)
class EngineRow:
    """The measurements of one engine.

    one, many    images/s, one at a time and 32 at a time
    mean, least  cosine between its vectors and those of torch in float32
    same         share of the photos whose nearest other photo is the same
    why          why there are no measurements; "" if there are
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

    model: in float32, with torch's engine. photos: two or more. calibrate: other photos, for int8;
    see `in_int8`. Raises ImageError for a photo that cannot be opened, UnsupportedError for a model
    without image tower, PatchwordError if not even the first engine is ready in that time.
    """
    start = time.perf_counter()
    pixels = [model.open(photo)[0] for photo in photos]
    engines = CPU if model.device.type == "cpu" else OTHER
    exact: Vector | None = None
    for number, (engine, dtype) in enumerate(engines):
        left = LIMIT - (time.perf_counter() - start)
        share = max(left / 2, 1)
        if exact is None or number == len(engines) - 1:
            share = left
        try:
            if left < 1:
                raise LateError
            with within(share):
                other = ready(model, engine, dtype, calibrate)
                rows = vectors(other, pixels)
                exact = rows if exact is None else exact
                one, many = rate(other, pixels, 1), rate(other, pixels, MANY)
        except (Exception, LateError) as error:  # of any library; the row reports it
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
    """The model with that engine. Warnings about the graphs are hidden."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dtype == "int8":
            return in_int8(model, engine, calibrate)
        other = model if dtype == "float32" else model.to(dtype)
        return other if engine == "torch" else on_engine(other, engine)


def vectors(model: Model, pixels: Sequence[Vector]) -> Vector:
    """Unit vectors (N, D), in float64, of preprocessed photos."""
    parts = [
        model.engine.encode_image(pixels[start : start + MANY])
        for start in range(0, len(pixels), MANY)
    ]
    rows = np.concatenate(parts).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)  # type: ignore[no-any-return]


def rate(model: Model, pixels: Sequence[Vector], count: int) -> float:
    """Images/s in batches of `count`: by the median of the batches of SECONDS seconds, without the
    first batch."""
    batch = [pixels[i % len(pixels)] for i in range(count)]
    model.engine.encode_image(batch)
    times = [time.perf_counter()]
    while times[-1] - times[0] < SECONDS:
        model.engine.encode_image(batch)
        times.append(time.perf_counter())
    return float(count / np.median(np.diff(times)))


def nearest(rows: Vector) -> NDArray[np.int64]:
    """The index of the nearest other row of each row."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    return cosines.argmax(axis=1)  # type: ignore[no-any-return]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise LateError after that time. Only possible in the main thread of a system with alarms;
    elsewhere there is no limit."""
    has_alarms = hasattr(signal, "setitimer")
    if not has_alarms or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise LateError

    previous: Callable[..., Any] | int | None = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _why(error: BaseException, seconds: float) -> str:
    """Why an engine has no measurements, in one line."""
    origin: BaseException | None = error
    while origin is not None:  # compilers wrap a LateError in errors of their own
        if isinstance(origin, LateError):
            return f"not ready in the {max(seconds, 0):.0f} s that were left of {LIMIT:.0f}"
        origin = origin.__cause__ or origin.__context__
    message = last_line(error)
    if isinstance(error, PatchwordError):
        return message
    return f"{type(error).__name__}: {message}"
