"""Rows of measurements, all of one form, stored as they are measured.

    python benchmarks/rows.py [docs/bench/rows.jsonl]

writes table.md beside that file, and cost-against-batch.png where rows differ by batch alone.
A row is a peer and patchword in one run: medians of repetitions in turn, warm-up left out.
"""

import argparse
import datetime
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "bench" / "rows.jsonl"
LIBRARIES = ("torch", "transformers", "open_clip_torch", "openvino", "onnxruntime")


@dataclass(frozen=True)
class Row:
    """What was measured.

    what        one line; rows of the same are the same measurement
    unit        of both numbers; more is better, unless it is a time or memory
    peer, ours  names; peer_value, our_value: medians
    limit       the ratio, ours over the peer's, that is wanted: at least, or at most of a unit in
                LESS; 0: none
    agreement   of ours with the reference, in words
    batch       images or texts at a time; 0 where there is no such thing
    """

    what: str
    unit: str
    peer: str
    peer_value: float
    ours: str
    our_value: float
    limit: float = 0.0
    agreement: str = ""
    batch: int = 0
    versions: str = ""
    processor: str = ""
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    @property
    def ratio(self) -> float:
        return self.our_value / self.peer_value

    @property
    def missed(self) -> bool:
        """Whether the limit is not reached."""
        less = self.unit in LESS
        return bool(self.limit) and (self.ratio > self.limit if less else self.ratio < self.limit)

    def __str__(self) -> str:
        wanted = f", limit {self.limit}{'  MISSED' * self.missed}" if self.limit else ""
        agreed = f"; {self.agreement}" if self.agreement else ""
        return (
            f"{self.what}: {self.peer} {self.peer_value:.4g}, {self.ours} {self.our_value:.4g} "
            f"{self.unit}, ratio {self.ratio:.2f}{wanted}{agreed}"
        )


LESS = ("s", "ms", "MiB")


def processor(device: str = "cpu") -> str:
    """The name of what computed, with threads of a CPU."""
    import torch

    if not device.startswith("cpu"):
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor())}, {torch.get_num_threads()} threads"


def versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES)


class Rows:
    """The rows of a file of JSON Lines. A row is stored once measured; `done` skips it the next
    time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [Row(**json.loads(line)) for line in lines]

    def done(self, what: str, chip: str) -> bool:
        """Whether rows of that name are there, of these versions and that processor."""
        now = (what, versions(), chip)
        return any((row.what, row.versions, row.processor) == now for row in self.rows)

    def add(self, row: Row) -> None:
        """Print a row, and store it in place of an older one of the same names."""
        key = (row.what, row.peer, row.ours, row.processor)
        kept = [r for r in self.rows if (r.what, r.peer, r.ours, r.processor) != key]
        self.rows = [*kept, row]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(asdict(each)) + "\n" for each in self.rows)
        self.path.with_suffix(".new").write_text(text)
        self.path.with_suffix(".new").replace(self.path)
        print(row, flush=True)


def table(rows: Iterable[Row]) -> str:
    """Rows in Markdown, a table for each processor and day."""
    parts: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row.processor, row.date, row.versions), []).append(row)
    text = "# Measured by `make bench`\n"
    for (chip, date, libraries), some in parts.items():
        text += f"\n{chip}; {date}; {libraries}.\n\n"
        text += f"| | peer | patchword | ratio | limit | agreement |\n|{' --- |' * 6}\n"
        for r in some:
            limit = f"{r.limit}{', missed' * r.missed}" if r.limit else ""
            text += (
                f"| {r.what}, {r.unit} | {r.peer} {r.peer_value:.4g} | {r.ours} {r.our_value:.4g} "
                f"| {r.ratio:.2f} | {limit} | {r.agreement} |\n"
            )
    return text


def plot(rows: Iterable[Row], path: Path) -> None:
    """Images/s against the batch, a line for each model and way, of those with several."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines: dict[str, dict[int, float]] = {}
    for row in (row for row in rows if row.batch):
        name = row.what.rsplit(", batch", 1)[0]
        lines.setdefault(f"{name}: {row.ours}", {})[row.batch] = row.our_value
        lines.setdefault(f"{name}: {row.peer}", {})[row.batch] = row.peer_value
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return
    figure, axes = pyplot.subplots(figsize=(10, 7))
    for name, points in sorted(lines.items()):
        own = "patchword" in name
        axes.plot(*zip(*sorted(points.items()), strict=True), "-o" if own else "--x", label=name)
    axes.set(xscale="log", yscale="log", xlabel="images at a time", ylabel="images/s")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS)
    stored = Rows(parser.parse_args().results)
    (stored.path.parent / "table.md").write_text(table(stored.rows))
    plot(stored.rows, stored.path.parent / "cost-against-batch.png")
