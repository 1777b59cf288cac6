"""A score that is shown beside a limit has as many digits as the verdict needs: 64.98%, not 65.0%,
is below 65%."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.table import Table
from small_models import tiny_bundle, tiny_clip

from patchword.cli.embed_classify_similarity import scores_table
from patchword.cli.heatmap import peaks_table
from patchword.cli.inspect_table import score_digits, summary, verdicts_table
from patchword.cli.locate import regions_table
from patchword.cli.result_display import rejection, save_scores
from patchword.cli.segment import shares_table
from patchword.images.preprocess import Geometry
from patchword.inspect.report import Report
from patchword.inspect.result import Inspection
from patchword.show import html_page, plots
from patchword.show.percent import share
from patchword.show.plain_number import digits_beside, plain
from patchword.tasks.classify import NONE, Score
from patchword.where.heatmap import Heatmap
from patchword.where.locate import Located
from patchword.where.segment import Rule, Segmentation

RNG = np.random.default_rng(0)
PHOTO = np.zeros((8, 8, 3), np.uint8)
GRID = RNG.normal(size=(2, 4, 4)).astype(np.float32)
WHOLE = Geometry((8, 8), (8, 8), (0, 0), (8, 8))
BELOW, LIMIT = 0.64981, 0.65


def cells(table: Table) -> list[str]:
    return [str(cell) for column in table.columns for cell in column.cells]


def test_a_percentage_is_on_its_side_of_the_limit() -> None:
    assert share(BELOW) == "65.0%"
    assert share(BELOW, LIMIT) == "64.98%"
    assert share(0.64999999, LIMIT) == "64.999999%"
    assert share(LIMIT, LIMIT) == share(0.65004, LIMIT) == "65.0%"
    assert share(0.65008, 0.65004) == "65.01%"
    assert share(0.9999, 1) == "99.99%"
    assert share(0.0002, 0.65) == "<0.1%"
    limits = [0.1, 0.5, LIMIT, *RNG.random(200).round(4).tolist()]
    for limit in limits:
        for value in (limit, *(limit + RNG.normal(0, 1e-4, 20)).clip(0, 1).tolist()):
            shown = share(value, limit)
            if "<" not in shown:
                assert (round(float(shown[:-1]) / 100, 15) < limit) == (value < limit)
    for value in (np.nextafter(limit, side) for limit in limits for side in (0, 1)):
        assert share(float(value), LIMIT).endswith("%")  # it ends


def test_scores_are_on_their_side_of_a_threshold() -> None:
    assert digits_beside([0.613, 0.2], 0.28812) == 3
    assert digits_beside([0.2884], 0.28812) == 4
    assert digits_beside([0.28803], 0.28812) == 3  # 0.288 is not above 0.288
    assert digits_beside([0.28812], 0.28812) == digits_beside([], 0.1) == 3
    assert digits_beside([1.0], float("inf")) == 3
    for limit in RNG.random(200).tolist():
        values = (limit * (1 + RNG.normal(0, 1e-3, 8))).tolist()
        digits = digits_beside(values, limit)
        for value in values:
            assert (float(plain(value, digits)) > float(plain(limit, digits))) == (value > limit)


def segmentation() -> Segmentation:
    rule = Rule(10.0, least=LIMIT)
    return Segmentation(PHOTO, ("a ring",), (0, 1), GRID, WHOLE, 2, "head", rule, (BELOW,))


def located() -> Located:
    return Located(PHOTO, ("a ring",), (), "head", (BELOW,), LIMIT)


def heatmap() -> Heatmap:
    return Heatmap(PHOTO, ("a ring",), GRID[:1], WHOLE, 2, "head", (BELOW,), LIMIT)


def test_what_is_not_found_is_shown_below_the_limit() -> None:
    assert "64.98%" in cells(shares_table("", segmentation()))
    assert "not found (64.98% probable)" in cells(regions_table("", located()))
    assert "64.98%" in cells(peaks_table("", heatmap()))
    assert heatmap()._tiles(False, "inferno", None)[0].caption == "a ring: 64.98%, not found"


def test_what_is_rejected_is_shown_below_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [Score(NONE, 1 - BELOW), Score("a ring", BELOW), Score("a star", 0.1)]
    assert rejection(scores, LIMIT, "demo") == f"{NONE} (best 64.98% < 65%)"
    assert "64.98%" in cells(scores_table([("a.jpg", scores)], LIMIT))
    several = cells(scores_table([("a.jpg", scores)] * 2, LIMIT))
    assert "a ring 64.98%, a star 10.0%" in several
    plots.save(plots.fit(PHOTO, 8), tmp_path / "a.png")
    bundle: Any = tiny_bundle(tiny_clip())
    save_scores([(str(tmp_path / "a.png"), scores)], tmp_path / "x.html", bundle, LIMIT)
    page = (tmp_path / "x.html").read_text()
    assert "best 64.98% &lt; 65%" in page
    assert "<span>64.98%</span>" in page
    drawn: list[str] = []

    def write(probability: float, limit: float | None = None) -> str:
        drawn.append(share(probability, limit))
        return drawn[-1]

    monkeypatch.setattr(plots, "share", write)
    save_scores([(str(tmp_path / "a.png"), scores)], tmp_path / "x.png", bundle, LIMIT)
    assert set(drawn) == {"64.98%", "10.0%"}


def inspection(path: str, score: float, limit: float) -> Inspection:
    return Inspection(path, PHOTO, score, None, score > limit, limit, 1.0, GRID[0], WHOLE)


def test_an_inspection_shows_on_which_side_of_the_threshold_a_score_is() -> None:
    limit = 0.28812
    calibration = SimpleNamespace(scores=(0.1, 0.2), kind="cross-validated")
    inspector: Any = SimpleNamespace(
        grouped=False, learned=0, judges=lambda: {"": SimpleNamespace(limit=limit)},
        calibration=calibration, method=SimpleNamespace(name="memory"),
        model=SimpleNamespace(name="demo"), guarantee=lambda *_: [],
    )  # fmt: skip
    found = [inspection("a.jpg", 0.28838, limit), inspection("b.jpg", 0.2, limit)]
    rows = [each.record() for each in found]
    assert cells(verdicts_table(rows, score_digits(rows, inspector)))[2:4] == ["0.2884", "0.2"]
    assert "threshold 0.2881" in summary(rows, inspector, False)
    report = Report(inspector)
    for each in found:
        report.add(each, each.path)
    page = report.page([], [])
    assert "threshold 0.2881<" in page
    assert "score 0.2884" in page
    assert "threshold 0.288" in summary(rows[1:], inspector, False)


def test_cards_without_a_limit_have_one_decimal() -> None:
    page = html_page.cards([html_page.Card(PHOTO, "a", bars=[("a ring", BELOW)])])
    assert re.search(r"<span>65\.0%</span>", page)
