"""A run of `inspect`: prints and saves the result of each photo, and tells what verdicts mean."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from patchword.cli.dark_images import DarkImages
from patchword.cli.inspect_table import (
    mark_footnote,
    score_digits,
    summary,
    verdicts_table,
)
from patchword.cli.member_images import Source
from patchword.cli.output import emit, notes, print_error, print_saved, progress, screen, stderr
from patchword.cli.pictures import map_paths, stem
from patchword.errors import DarkWarning, ImageError, ImageWarning
from patchword.visible_area import current as current_visible_area

if TYPE_CHECKING:
    from patchword.inspect.inspector import Inspector
    from patchword.inspect.result import Inspection

# fmt: off
COLUMNS = (  # of results.csv
    "path", "score", "p_value", "rejected", "boxes", "outside", "known", "one_colour", "error",
)
# fmt: on


class Run:
    """Inspects photos one after the other, prints the results and saves them if asked.

    good_count: how many good photos were given. failed: their errors, to which those of the
    inspected photos are added.
    """

    def __init__(
        self,
        inspector: Inspector,
        sources: Sequence[Source],
        false_discoveries: float | None,
        save: Path | None,
        as_json: bool,
        good_count: int,
        failed: list[ImageError],
    ) -> None:
        from patchword.inspect.report import Report

        self.inspector, self.sources, self.save, self.as_json = inspector, sources, save, as_json
        self.false_discoveries, self.good_count = false_discoveries, good_count
        self.failed = failed
        self.rows: list[dict[str, Any]] = []
        self.remarks: list[str] = []  # of the end of the run, and of the page
        self.photo_warnings: list[str] = []  # of the page; they are printed as they come
        self.report = Report(inspector, false_discoveries) if save else None
        self.maps = map_paths(sources, save) if save else {}

    def inspect_all(self) -> None:
        """Inspect all photos; print the results, and write the report."""
        from patchword.inspect.inspector import check_list

        if self.false_discoveries is not None:
            check_list(self.inspector)
        for error in self.failed:
            self._record({"path": error.image, "error": error.reason})
        with self._collect_warnings():
            self._inspect()
        self._add_remarks()
        if not self.as_json and any("error" not in row for row in self.rows):
            digits = score_digits(self.rows, self.inspector)
            screen().print(verdicts_table(self.rows, digits))
            if footnote := mark_footnote(self.rows, self.inspector.model.name):
                screen().print(footnote)
        if self.save:
            self._write(self.save)

    @contextmanager
    def _collect_warnings(self) -> Iterator[None]:
        """Warnings of photos are kept for the page, and shown as before."""
        dark, show = DarkImages(), warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            text = str(message)
            is_repeated = issubclass(category, DarkWarning) and not dark.is_first(text)
            if issubclass(category, ImageWarning) and not is_repeated:
                self.photo_warnings.append(text)
            show(message, category, *where, **more)

        warnings.showwarning = keep
        try:
            yield
        finally:
            warnings.showwarning = show
            self.photo_warnings += dark.others()

    def _inspect(self) -> None:
        inspections = self._inspections()
        if self.false_discoveries is not None:  # each verdict depends on all photos
            inspections = iter(self.inspector.listed(list(inspections), self.false_discoveries))
        for inspection in inspections:
            self._record(inspection.record())
            if self.report:
                self.report.add(inspection, stem(inspection.path))

    def finish(self, check: bool) -> None:
        """Print what the verdicts mean and what failed, and end with the exit code for that."""
        counts = summary(self.rows, self.inspector, self.false_discoveries is not None)
        done = sum("error" not in row for row in self.rows)
        guarantee = self.inspector.guarantee(self.false_discoveries, done)
        for sentence in filter(None, [counts, *guarantee, *self.remarks]):
            notes().print(sentence)
        for error in self.failed:
            print_error(str(error))
        if self.failed:
            stderr().print(self._failures(len(self.sources) - done))
        if check and any(row.get("rejected") for row in self.rows):
            raise typer.Exit(3)
        if check and any(row.get("rejected", False) is None for row in self.rows):
            print_error("--check: there are photos without a verdict")
            raise typer.Exit(2)
        if self.failed:
            raise typer.Exit(1 if done else 2)

    def _failures(self, inspected: int) -> str:
        """How many photos failed. inspected: how many of these were to be inspected; the others are
        good ones."""
        good = len(self.failed) - inspected
        parts = []
        if inspected:
            parts.append(f"{inspected} of {len(self.sources)} images")
        if good:
            parts.append(f"{good} of {self.good_count} good photos")
        return f"{' and '.join(parts)} failed"

    def save_drift(self, fitted: Path) -> None:
        """Save the scores of these photos, so that the drift alarm goes on with them next time."""
        try:
            self.inspector.keep_drift(fitted)
        except OSError as error:
            self.remarks.append(f"The drift alarm forgets these photos: {fitted}: {error.strerror}")

    def _inspections(self) -> Iterator[Inspection]:
        """Inspect each photo and write its map; errors are recorded."""
        from patchword.inspect.maps import save_map

        clipped, without_verdict = 0, set[str]()
        with progress("photos", len(self.sources)) as advance:
            results = self.inspector.inspect_each(self.sources)
            for number, (source, result) in enumerate(results, start=1):
                advance(number, len(self.sources))
                if isinstance(result, ImageError):
                    error = ImageError(str(source), result.reason)
                    self.failed.append(error)
                    self._record({"path": error.image, "error": error.reason})
                    continue
                if self.save:
                    clipped += not save_map(result, self.maps[cast("Source", source)])
                if result.group and result.rejected is None:
                    without_verdict.add(result.group)
                yield result
        if without_verdict:
            folders = ", ".join(sorted(without_verdict))
            self.remarks.append(
                f"There is no verdict for {folders}: too few good photos lie in a folder of that "
                "name."
            )
        if clipped:
            self.remarks.append(
                f"In {clipped} of the maps values are too large for the file: 65535."
            )

    def _record(self, record: dict[str, Any]) -> None:
        record |= current_visible_area().record(record["path"])
        self.rows.append(record)
        if self.as_json:
            emit(record)

    def _add_remarks(self) -> None:
        drift = self.inspector.drift
        if small := self.inspector.seen_small():
            self.remarks.append(f"Attention: {small}.")
        self.remarks += [f"Attention: {remark}." for remark in self.inspector.remarks()]
        if drift.at:
            self.remarks.append(
                f"Drift: by photo {drift.at} of {drift.seen} it is clear that scores are not like "
                "those of the good photos held out. Either far more photos are bad than one "
                "in ten, or product, light or camera changed; then the rate does not hold, and "
                "good photos must be taken anew."
            )

    def _write(self, folder: Path) -> None:
        """Write results.csv and index.html."""
        from patchword.atomic_write import write

        assert self.report is not None
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write(folder / "results.csv", table.getvalue())
        failed = [str(error) for error in self.failed]
        remarks = [*self.remarks, *(f"Attention: {text}." for text in self.photo_warnings)]
        print_saved(write(folder / "index.html", self.report.page(failed, remarks)))
