"""What inspect does with the photos: prints, saves, and says what the verdicts mean."""

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
from patchword.cli.inspect_table import marked, summary, verdicts
from patchword.cli.member_images import Source
from patchword.cli.output import emit, notes, print_error, print_saved, progress, screen, stderr
from patchword.cli.pictures import map_paths, stem
from patchword.errors import DarkWarning, ImageError, ImageWarning
from patchword.visible_area import current as sights

if TYPE_CHECKING:
    from patchword.inspect.inspector import Inspector
    from patchword.inspect.result import Inspection

COLUMNS = (
    "path",
    "score",
    "p_value",
    "rejected",
    "boxes",
    "outside",
    "known",
    "one_colour",
    "error",
)


class Run:
    """The photos to inspect, one after the other: printed, and saved where that is asked. good: how
    many others were given as good ones."""

    def __init__(
        self,
        inspector: Inspector,
        sources: Sequence[Source],
        false_discoveries: float | None,
        save: Path | None,
        as_json: bool,
        good: int,
    ) -> None:
        from patchword.inspect.report import Report

        self.inspector, self.sources, self.save, self.as_json = inspector, sources, save, as_json
        self.false_discoveries, self.good = false_discoveries, good
        self.failed: list[ImageError] = []
        self.rows: list[dict[str, Any]] = []
        self.remarks: list[str] = []
        self.warned: list[str] = []
        self.report = Report(inspector, false_discoveries) if save else None
        self.maps = map_paths(sources, save) if save else {}

    def all(self) -> None:
        """Inspect all photos."""
        from patchword.inspect.inspector import check_list

        if self.false_discoveries is not None:
            check_list(self.inspector)
        for error in self.failed:
            self._record({"path": error.image, "error": error.reason})
        with self._noted():
            self._inspect()
        self._remark()
        if not self.as_json and any("error" not in row for row in self.rows):
            screen().print(verdicts(self.rows))
            if said := marked(self.rows, self.inspector.model.name):
                screen().print(said)
        if self.save:
            self._write(self.save)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Warnings of the photos are shown as before, and are remarks of the page too."""
        dark, before = DarkImages(), warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            text = str(message)
            if issubclass(category, ImageWarning) and (
                not issubclass(category, DarkWarning) or dark.is_first(text)
            ):
                self.warned.append(text)
            before(message, category, *where, **more)

        warnings.showwarning = note
        try:
            yield
        finally:
            warnings.showwarning = before
            self.warned += dark.others()

    def _inspect(self) -> None:
        found = self._each()
        if self.false_discoveries is not None:  # verdicts depend on all the others
            found = iter(self.inspector.listed(list(found), self.false_discoveries))
        for each in found:
            self._record(each.record())
            if self.report:
                self.report.add(each, stem(each.path))

    def finish(self, check: bool) -> None:
        """Say what the verdicts mean and what failed, and end with the exit code for that."""
        said = summary(self.rows, self.inspector, self.false_discoveries is not None)
        done = sum("error" not in row for row in self.rows)
        meant = self.inspector.guarantee(self.false_discoveries, done)
        for sentence in filter(None, [said, *meant, *self.remarks]):
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

    def _failures(self, own: int) -> str:
        """How many failed, `own` of them photos to inspect, the others good ones."""
        good = len(self.failed) - own
        said = [f"{own} of {len(self.sources)} images"] * bool(own)
        said += [f"{good} of {self.good} good photos"] * bool(good)
        return f"{' and '.join(said)} failed"

    def keep_drift(self, fitted: Path) -> None:
        """The drift alarm goes on with these photos next time."""
        try:
            self.inspector.keep_drift(fitted)
        except OSError as error:
            self.remarks.append(f"The drift alarm forgets these photos: {fitted}: {error.strerror}")

    def _each(self) -> Iterator[Inspection]:
        """Each that can be opened, its map written; the others fail."""
        from patchword.inspect.maps import save_map

        clipped, without = 0, set[str]()
        with progress("photos", len(self.sources)) as advance:
            for number, (source, found) in enumerate(self.inspector.inspect_each(self.sources), 1):
                advance(number, len(self.sources))
                if isinstance(found, ImageError):
                    error = ImageError(str(source), found.reason)
                    self.failed.append(error)
                    self._record({"path": error.image, "error": error.reason})
                    continue
                if self.save:
                    clipped += not save_map(found, self.maps[cast("Source", source)])
                if found.group and found.rejected is None:
                    without.add(found.group)
                yield found
        if without:
            self.remarks.append(
                f"There is no verdict for {', '.join(sorted(without))}: too few good photos lie in "
                "a folder of that name."
            )
        if clipped:
            self.remarks.append(
                f"In {clipped} of the maps values are too large for the file: 65535."
            )

    def _record(self, record: dict[str, Any]) -> None:
        record |= sights().record(record["path"])
        self.rows.append(record)
        if self.as_json:
            emit(record)

    def _remark(self) -> None:
        drift = self.inspector.drift
        if seen := self.inspector.seen_small():
            self.remarks.append(f"Attention: {seen}.")
        self.remarks += [f"Attention: {each}." for each in self.inspector.remarks()]
        if drift.at:
            self.remarks.append(
                f"Drift: by photo {drift.at} of {drift.seen} it is clear that scores are not like "
                "those of the good photos held out. Either far more photos are bad than one "
                "in ten, or product, light or camera changed; then the rate does not hold, and "
                "good photos must be taken anew."
            )

    def _write(self, folder: Path) -> None:
        from patchword.atomic_write import write

        assert self.report is not None
        table = io.StringIO()
        out = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        out.writeheader()
        out.writerows(self.rows)
        write(folder / "results.csv", table.getvalue())
        failed = [str(error) for error in self.failed]
        said = [*self.remarks, *(f"Attention: {each}." for each in self.warned)]
        print_saved(write(folder / "index.html", self.report.page(failed, said)))
