"""Measure and store the rows of benchmarks, which `report.py` shows.

A row compares patchword with a peer or a limit, measured in one run with the same number of
threads: medians of rounds in which both take turns, without the warm-up.
"""

import argparse
import datetime
import hashlib
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from patchword.atomic_write import write

HERE = Path(__file__).resolve().parent
# Names on the package index of the peers and of the libraries that they and patchword use.
LIBRARIES = (
    *("torch", "transformers", "open_clip_torch", "timm", "tokenizers", "pillow", "openvino"),
    *("onnxruntime", "nncf", "scikit-learn", "lancedb", "faiss-cpu", "usearch", "fastapi"),
)
# Units of measurements.
LOWER_IS_BETTER = ("s", "ms", "MiB", "encodings")
HIGHER_IS_BETTER = (
    "images/s",
    "texts/s",
    "items/s",
    "samples/s",
    "captions/s",
    "requests/s",
    "TFLOP/s",
    "%",
)
AXES = {  # the sizes by which the rows of a curve differ, and the labels of plots
    "batch": "at a time",
    "side": "pixels a side",
    "texts": "texts",
    "vectors": "vectors in the index",
}


@dataclass(frozen=True)
class Row:
    """A measurement of patchword and a peer.

    what        one line; rows with the same what, axis and `at` are the same measurement
    unit        of both values, one of LOWER_IS_BETTER or HIGHER_IS_BETTER
    peer, ours  names; peer_value, our_value: medians. A fixed limit is a peer named "limit"
    limit       the goal for the ratio of our value to the peer's: at most this for a unit of
                LOWER_IS_BETTER, at least this for others; 0: no goal
    agreement   how close our outputs are to the peer's, as text
    axis, at    the size by which the rows of a curve differ, one of AXES, and its value; "" and 0
                for a row that is in no curve
    script      the benchmark's file name
    code        a hash of that file and of patchword's source
    """

    what: str
    unit: str
    peer: str
    peer_value: float
    ours: str
    our_value: float
    limit: float = 0.0
    agreement: str = ""
    axis: str = ""
    at: int = 0
    script: str = ""
    code: str = ""
    versions: str = ""
    processor: str = ""
    threads: int = 1
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown unit or axis, and for values that are not positive."""
        units = LOWER_IS_BETTER + HIGHER_IS_BETTER
        if self.unit not in units:
            raise ValueError(f"{self.what}: no unit {self.unit!r}; there are {units}")
        if self.axis not in ("", *AXES) or bool(self.axis) != (self.at > 0):
            raise ValueError(f"{self.what}: axis {self.axis!r} at {self.at}; axes are {list(AXES)}")
        values = (self.peer_value, self.our_value)
        if not all(math.isfinite(value) and value > 0 for value in values) or self.limit < 0:
            raise ValueError(f"{self.what}: {values}, limit {self.limit}; must be above 0")

    @property
    def ratio(self) -> float:
        return self.our_value / self.peer_value

    @property
    def missed(self) -> bool:
        """Whether the goal is missed."""
        if not self.limit:
            return False
        if self.unit in LOWER_IS_BETTER:
            return self.ratio > self.limit
        return self.ratio < self.limit

    @property
    def goal(self) -> str:
        """The goal for the ratio: "at most 1.3"."""
        sign = "at most" if self.unit in LOWER_IS_BETTER else "at least"
        return f"{sign} {self.limit:.3g}"

    @property
    def title(self) -> str:
        """What was measured, with the size on the axis."""
        return f"{self.what}, {self.axis} {self.at:,}" if self.axis else self.what

    def is_replaced_by(self, later: "Row") -> bool:
        """Whether a later row measures the same. One of the same code may compare another of our
        ways with the peer."""
        names = ("what", "unit", "peer", "axis", "at", "processor", "threads")
        same = all(getattr(self, name) == getattr(later, name) for name in names)
        return same and (self.code != later.code or self.ours == later.ours)

    def __str__(self) -> str:
        text = (
            f"{self.title}: {self.peer} {number(self.peer_value)}, {self.ours} "
            f"{number(self.our_value)} {self.unit}, ratio {self.ratio:.2f}"
        )
        if self.limit:
            text += f", wanted {self.goal}"
        if self.missed:
            text += "  MISSED"
        if self.agreement:
            text += f"; {self.agreement}"
        return text


class Rows:
    """The rows that one run of a script measures. Each is printed, and stored if there is a
    file."""

    def __init__(self, path: Path | None, device: str = "cpu", script: str = sys.argv[0]) -> None:
        """path: of JSON Lines, or None to print only. device: the one that is measured."""
        import torch

        self.path = path
        self.origin = {
            "script": Path(script).name,
            "code": code_hash(Path(script)),
            "versions": versions(),
            "processor": processor(device),
            "threads": torch.get_num_threads(),
        }

    def add(
        self, what: str, unit: str, peer: tuple[str, float], ours: tuple[str, float], **more: Any
    ) -> Row:
        """Add a row. peer, ours: name and value. more: limit, agreement, axis, at."""
        values = (peer[0], float(peer[1]), ours[0], float(ours[1]))
        row = Row(what, unit, *values, **more, **self.origin)
        print(row, flush=True)
        if self.path is not None:
            kept = [old for old in read_rows(self.path) if not old.is_replaced_by(row)]
            write_rows(self.path, [*kept, row])
        return row

    def add_peers(
        self,
        what: str,
        unit: str,
        values: Mapping[str, float],
        limit: float = 1.0,
        ours: str = "patchword",
        **more: Any,
    ) -> None:
        """Add a row for each peer. values: measured values by name, also that of `ours`."""
        for peer, value in values.items():
            if peer != ours:
                self.add(what, unit, (peer, value), (ours, values[ours]), limit=limit, **more)

    def is_measured(self, what: str, axis: str = "", at: int = 0) -> bool:
        """Whether the file has this measurement, by the same code, versions and processor."""
        if self.path is None:
            return False
        fields = {"what": what, "axis": axis, "at": at} | self.origin
        return any(fields.items() <= asdict(row).items() for row in read_rows(self.path))


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none if it does not exist."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON Lines."""
    write(path, (json.dumps(asdict(row)) + "\n" for row in rows))


def median_seconds(
    functions: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    warm_up: int = 1,
    min_seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The seconds of a call of each function, by name: medians of rounds in which all take turns.

    warm_up: rounds before, which do not count. min_seconds: in a round, call a function repeatedly
    for so long."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            seconds = _seconds(function, min_seconds, clock)
            if turn >= warm_up:
                times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _seconds(
    function: Callable[[], object], min_seconds: float, clock: Callable[[], float]
) -> float:
    """The seconds of a call. The first call does not count unless it is long: after onnxruntime has
    run, the first call of the next library takes a tenth longer."""
    start = clock()
    function()
    first = clock() - start
    if first >= 10 * min_seconds:
        return first
    start, calls = clock(), 0
    while not calls or clock() - start < min_seconds:
        function()
        calls += 1
    return (clock() - start) / calls


def rates(count: float, seconds: Mapping[str, float]) -> dict[str, float]:
    """Items a second, by name, of functions that take these seconds for `count` items."""
    return {name: count / value for name, value in seconds.items()}


def number(value: float) -> str:
    """A value with three significant digits, or with all digits before the point."""
    digits = 2 - math.floor(math.log10(value))
    return f"{value:,.{max(digits, 0)}f}"


def option_parser(document: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """A parser with --rounds and --results, to which a script adds its own options."""
    parser = argparse.ArgumentParser(description=(document or "").split("\n\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="rounds, of which medians are taken"
    )
    parser.add_argument("--results", type=Path, help="file of rows to store in")
    return parser


def processor(device: str = "cpu") -> str:
    """The name of the CPU or GPU."""
    if not device.startswith("cpu"):
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> str:
    """The versions of Python and of those LIBRARIES that are installed."""
    absent = missing_libraries()
    installed = [f"{name} {version(name)}" for name in LIBRARIES if name not in absent]
    return ", ".join([f"Python {platform.python_version()}", *installed])


def missing_libraries() -> list[str]:
    """Those of LIBRARIES that are not installed."""
    absent = []
    for name in LIBRARIES:
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return absent


def code_hash(script: Path) -> str:
    """A hash of a script and of all of patchword's source: 12 hexadecimal digits."""
    import patchword

    digest = hashlib.sha256(script.read_bytes() if script.is_file() else b"")
    for path in sorted(Path(patchword.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
