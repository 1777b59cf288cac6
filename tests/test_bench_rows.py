"""Rows of benchmarks: what is said of them, what is kept, and the page that shows them."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

# isort: split
import run_all
from known_gaps import UNKNOWN, why
from report import END, RESULTS, START, curves, report
from rows import Rows, median_seconds, rates, read_rows


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "rows.jsonl", script=__file__)


def test_what_is_behind_says_so_whether_less_is_better_or_more(rows: Rows) -> None:
    fast = rows.add("a", "images/s", ("peer", 10), ("patchword", 13), limit=1.3)
    slow = rows.add("b", "ms", ("peer", 10), ("patchword", 6), limit=0.5)
    free = rows.add("c", "MiB", ("peer", 10), ("patchword", 90))
    assert [row.missed for row in (fast, slow, free)] == [False, True, False]
    assert str(slow) == "b: peer 10.0, patchword 6.00 ms, ratio 0.60, wanted at most 0.5  MISSED"
    assert str(fast).endswith("ratio 1.30, wanted at least 1.3")
    assert replace(slow, our_value=5.0).missed is False


@pytest.mark.parametrize(
    ("unit", "value", "more"),
    [("miles", 1, {}), ("ms", 0, {}), ("ms", 1, {"axis": "batch"}), ("ms", 1, {"limit": -1})],
)
def test_what_is_no_measurement_is_refused(
    rows: Rows, unit: str, value: float, more: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match="a"):
        rows.add("a", unit, ("peer", 1), ("patchword", value), **more)
    assert read_rows(rows.path) == []


def test_a_row_stands_in_place_of_an_older_one_and_is_kept_while_nothing_changed(
    rows: Rows, tmp_path: Path
) -> None:
    for value in (2, 3):
        rows.add("a", "ms", ("peer", 1), ("patchword", value), axis="batch", at=8)
    rows.add("a", "ms", ("peer", 1), ("patchword", 4), axis="batch", at=16)
    assert [(row.at, row.our_value) for row in read_rows(rows.path)] == [(8, 3), (16, 4)]
    assert rows.is_measured("a", "batch", 8)
    assert not rows.is_measured("a")
    (tmp_path / "script.py").write_text("changed")
    changed = Rows(rows.path, script=str(tmp_path / "script.py"))
    assert not changed.is_measured("a", "batch", 8)
    for ours, value in (("now the best", 5), ("plain", 6)):
        changed.add("a", "ms", ("peer", 1), (ours, value), axis="batch", at=8)
    assert [(row.at, row.our_value) for row in read_rows(rows.path)] == [(16, 4), (8, 5), (8, 6)]


def test_ways_take_turns_and_the_first_rounds_do_not_count() -> None:
    calls: list[str] = []
    now = 0.0

    def work(name: str) -> None:
        nonlocal now
        calls.append(name)
        now += {"a": 1, "b": 2}[name] if len(calls) > 2 else 100

    ways = {name: lambda name=name: work(name) for name in ("a", "b")}
    seconds = median_seconds(ways, rounds=3, warm_up=1, clock=lambda: now)
    assert calls == ["a", "b"] * 4
    assert rates(8, seconds) == {"a": 8, "b": 4}


def test_a_misspelt_benchmark_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_all, "run", None)  # nothing is run
    given = Namespace(only=["engine", "loss"], results=tmp_path / "rows.jsonl", again=False)
    assert run_all.main(given) == 2
    assert "no benchmark is called engine; there are startup, decode," in capsys.readouterr().out


def test_one_line_of_the_list_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that rows of a script's other lines stay."""
    job, other = (job for job in run_all.JOBS if job.script == "serve.py")
    given = Namespace(only=[str(other)], results=tmp_path / "rows.jsonl", again=False, list=True)
    assert run_all.main(given) == 0
    listed = capsys.readouterr().out.splitlines()[-1]
    assert listed.endswith(str(other))
    assert not listed.endswith(str(job))


def test_the_page_holds_tables_and_curves_between_its_marks(rows: Rows, tmp_path: Path) -> None:
    for at in (1, 8):
        values = {"peer": 10 * at, "patchword": 11 * at}
        rows.add_peers("towers", "images/s", values, 1.2, axis="batch", at=at)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    report(rows.path, page)
    text = page.read_text()
    assert text.startswith(f"before\n{START}\n\n2 rows; 2 of them miss their goal.\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    said = "| peer 80.0 | patchword 88.0 | 1.10 | at least 1.2: **missed** |  |"
    assert f"| towers, batch 8, images/s {said}" in text
    assert "![Cost against batch](batch.png)" in text
    assert (tmp_path / "batch.png").stat().st_size > 1000
    (lines,) = curves(read_rows(rows.path))["batch"].values()
    assert lines == {"peer": {1: 10, 8: 80}, "patchword": {1: 11, 8: 88}}
    page.write_text("no marks")
    with pytest.raises(ValueError, match="does not hold"):
        report(rows.path, page)


def test_every_row_that_is_behind_says_why(rows: Rows, tmp_path: Path) -> None:
    assert [row.title for row in read_rows(RESULTS) if row.missed and why(row) == UNKNOWN] == []
    for at in (1, 8):
        rows.add("a", "ms", ("peer", 1), ("patchword", 3), limit=1, axis="batch", at=at)
    page = tmp_path / "page.md"
    page.write_text(f"{START}{END}")
    report(tmp_path / "rows.jsonl", page)
    assert f"Missed beside peer (a, batch 1 and 1 more): {UNKNOWN}." in page.read_text()
