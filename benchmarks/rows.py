"""What every benchmark here measures and stores: rows of one form. `report.py` shows them.

A row is a peer, or a limit, and patchword in one run: medians of repetitions in turn, warm-up left
out, with as many threads for each.
"""

import argparse
import datetime
import hashlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from patchword.atomic_write import write

HERE = Path(__file__).resolve().parent
# By their names on the package index: what is compared with, and what both stand on.
LIBRARIES = (
    *("torch", "transformers", "open_clip_torch", "timm", "tokenizers", "pillow", "openvino"),
    *("onnxruntime", "nncf", "scikit-learn", "lancedb", "faiss-cpu", "usearch", "fastapi"),
)
LESS = ("s", "ms", "MiB", "encodings")  # units of which less is better
MORE = ("images/s", "texts/s", "items/s", "samples/s", "captions/s", "requests/s", "TFLOP/s", "%")
AXES = {  # what rows of one curve may differ by, and its words under a plot
    "batch": "at a time",
    "side": "pixels a side",
    "texts": "texts",
    "vectors": "vectors in the index",
}


@dataclass(frozen=True)
class Row:
    """What was measured.

    what        one line; rows of the same what, axis and `at` are the same measurement
    unit        of both numbers, one of LESS or MORE
    peer, ours  names; peer_value, our_value: medians. A limit that no library sets is a peer too,
                named "limit"
    limit       the ratio, ours over the peer's, that is wanted: at least, or at most of a unit in
                LESS; 0: none
    agreement   of ours with the reference, in words
    axis, at    which size `at` is, one of AXES; "" and 0: of no curve
    script      the file that measured, and code: a hash of that file and of patchword's own
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
        """Raises ValueError for what is no measurement."""
        if self.unit not in LESS + MORE:
            raise ValueError(f"{self.what}: no unit {self.unit!r}; there are {LESS + MORE}")
        if (self.axis in AXES) != (self.at > 0) or (self.axis and self.axis not in AXES):
            raise ValueError(f"{self.what}: axis {self.axis!r} at {self.at}; axes are {list(AXES)}")
        values = (self.peer_value, self.our_value)
        if not all(math.isfinite(value) and value > 0 for value in values) or self.limit < 0:
            raise ValueError(f"{self.what}: {values}, limit {self.limit}; must be above 0")

    @property
    def ratio(self) -> float:
        return self.our_value / self.peer_value

    @property
    def missed(self) -> bool:
        """Whether the limit is not reached."""
        less = self.unit in LESS
        return bool(self.limit) and (self.ratio > self.limit if less else self.ratio < self.limit)

    @property
    def title(self) -> str:
        """What was measured, with its size."""
        return f"{self.what}, {self.axis} {self.at:,}" if self.axis else self.what

    @property
    def place(self) -> tuple[object, ...]:
        """What a later row must share to stand in place of this one."""
        names = (self.what, self.unit, self.peer, self.ours)
        return (*names, self.axis, self.at, self.processor, self.threads)

    def __str__(self) -> str:
        sign = "at most" if self.unit in LESS else "at least"
        wanted = f", wanted {sign} {self.limit:.3g}{'  MISSED' * self.missed}" if self.limit else ""
        agreed = f"; {self.agreement}" if self.agreement else ""
        return (
            f"{self.title}: {self.peer} {number(self.peer_value)}, {self.ours} "
            f"{number(self.our_value)} {self.unit}, ratio {self.ratio:.2f}{wanted}{agreed}"
        )


class Rows:
    """The rows of one run of a script. Each is printed once measured, and stored where there is a
    file; `done` says whether it is there already."""

    def __init__(self, path: Path | None, device: str = "cpu", script: str = sys.argv[0]) -> None:
        """path: of JSON Lines, or None: print alone. device: what computes."""
        import torch

        self.path = path
        self.origin = {
            "script": Path(script).name,
            "code": code(Path(script)),
            "versions": versions(),
            "processor": processor(device),
            "threads": torch.get_num_threads(),
        }

    def add(
        self, what: str, unit: str, peer: tuple[str, float], ours: tuple[str, float], **more: Any
    ) -> Row:
        """A row of two names with their values; more: limit, agreement, axis, at."""
        values = (peer[0], float(peer[1]), ours[0], float(ours[1]))
        row = Row(what, unit, *values, **more, **self.origin)
        print(row, flush=True)
        if self.path is not None:
            rows = {each.place: each for each in stored(self.path)} | {row.place: row}
            write(self.path, (json.dumps(asdict(each)) + "\n" for each in rows.values()))
        return row

    def beside(
        self,
        what: str,
        unit: str,
        values: Mapping[str, float],
        limit: float = 1.0,
        ours: str = "patchword",
        **more: Any,
    ) -> None:
        """A row for each peer among `values`, which are by name."""
        for peer, value in values.items():
            if peer != ours:
                self.add(what, unit, (peer, value), (ours, values[ours]), limit=limit, **more)

    def done(self, what: str, axis: str = "", at: int = 0) -> bool:
        """Whether that was measured, of these versions and this code, on this processor."""
        wanted = {"what": what, "axis": axis, "at": at} | self.origin
        return self.path is not None and any(
            all(getattr(row, name) == value for name, value in wanted.items())
            for row in stored(self.path)
        )


def stored(path: Path) -> list[Row]:
    """The rows of a file; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    warm: int = 1,
    least: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of each way, by name: medians of rounds in which all take turns, `warm` more before
    them left out. least: seconds that a way is called again and again for in a round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm + rounds):
        for name, work in ways.items():
            seconds = _seconds(work, least, clock)
            if turn >= warm:
                times[name].append(seconds)
    return {name: statistics.median(each) for name, each in times.items()}


def _seconds(work: Callable[[], object], least: float, clock: Callable[[], float]) -> float:
    """Of one call. The first is left out, unless it is long: after onnxruntime whoever is next took
    a tenth more for one call."""
    start = clock()
    work()
    if (first := clock() - start) >= 10 * least:
        return first
    start, calls = clock(), 0
    while not calls or clock() - start < least:
        work()
        calls += 1
    return (clock() - start) / calls


def rates(count: float, seconds: Mapping[str, float]) -> dict[str, float]:
    """How many a second, of ways that each take those seconds for `count`."""
    return {name: count / each for name, each in seconds.items()}


def number(value: float) -> str:
    """Three digits, or all before the point."""
    digits = 2 - math.floor(math.log10(value))
    return f"{value:,.{max(digits, 0)}f}"


def arguments(document: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """A script's options: --rounds and --results, to which it adds its own."""
    parser = argparse.ArgumentParser(description=(document or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="that medians are of")
    parser.add_argument("--results", type=Path, help="of rows: they are stored there, too")
    return parser


def processor(device: str = "cpu") -> str:
    """The name of what computes."""
    if not device.startswith("cpu"):
        import torch

        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def versions() -> str:
    """Of Python and of LIBRARIES, those that are not installed left out."""
    found = [f"{name} {version(name)}" for name in LIBRARIES if name not in missing()]
    return ", ".join([f"Python {platform.python_version()}", *found])


def missing() -> list[str]:
    """Those of LIBRARIES that are not installed."""

    def there(name: str) -> bool:
        try:
            return bool(version(name))
        except PackageNotFoundError:
            return False

    return [name for name in LIBRARIES if not there(name)]


def code(script: Path) -> str:
    """A hash of a script and of all of patchword's own source: 12 digits."""
    import patchword

    package = Path(os.path.dirname(patchword.__file__))
    found = hashlib.sha256(script.read_bytes() if script.is_file() else b"")
    for path in sorted(package.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]
