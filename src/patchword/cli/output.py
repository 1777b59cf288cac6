"""Printing and exit codes of commands: results go to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import typer

from patchword.cli.broken_pipe import active_progress, console, handle_closed_pipe, saves_result
from patchword.cli.dark_images import DarkImages
from patchword.cli.suggestions import with_near_file
from patchword.errors import (
    DarkWarning,
    ImageError,
    LongTextWarning,
    ScopeWarning,
    SkippedFilesWarning,
    UnseenWarning,
    one_line,
)
from patchword.scope import current as current_scope
from patchword.show.terminal_table import printable
from patchword.visible_area import current as current_visible_area

if TYPE_CHECKING:
    from rich.console import Console

    from patchword.api import Model
    from patchword.cli.member_images import Source

T = TypeVar("T")

quiet: ContextVar[bool] = ContextVar("quiet", default=False)  # whether --quiet is given

SHOWN = 60  # most images in a picture or page that a command saves
PICTURE_SUFFIXES = ".png, .jpg, .webp, .tif, .pdf"
# What messages say for Python: a call that loads a model; an option and its value.
_LOAD = re.compile(r'patchword\.load\("([\w-]+)"\)')
_OPTION = re.compile(r'\b(architecture|engine|method|subfolder)="([^"]+)"(?: \(--\1\))?')
PIPE_COLUMNS = 200  # width of a table in a pipe, which has no width of its own


def screen() -> Console:
    """stdout, for results. In a pipe it has PIPE_COLUMNS columns, unless COLUMNS is set."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return console()
    return console(width=PIPE_COLUMNS)


def notes() -> Console:
    """stderr, for progress and remarks. --quiet silences it."""
    return stderr(quiet.get())


def stderr(silent: bool = False) -> Console:
    """stderr, for errors and warnings."""
    return console(stderr=True, soft_wrap=True, quiet=silent)


def warn(message: str) -> None:
    """Print one warning on stderr."""
    stderr().print(f"warning: {message}")


@contextmanager
def show_warnings(
    advice: str = "",
    console: Console | None = None,
    once: bool = False,
    last: bool = False,
) -> Iterator[None]:
    """Print each warning as one line on a console, by default stderr.

    advice: replaces the advice for Python in warnings of long texts. once: a warning is not
    repeated. last: warnings of skipped files are printed at the end. Of dark images only the first
    is printed at once, and the end says how many more there are.
    """
    target = console or stderr()
    skipped: list[str] = []
    dark = DarkImages()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        text = str(message)
        if issubclass(category, LongTextWarning):
            text = text.partition(": pass ")[0] + advice
        if last and issubclass(category, SkippedFilesWarning):
            skipped.append(text)
        elif not issubclass(category, DarkWarning) or dark.is_first(text):
            target.print(f"warning: {adapt_advice(text)}")

    with warnings.catch_warnings():
        if once:
            warnings.simplefilter("default", UserWarning)
        else:
            for kind in (LongTextWarning, ScopeWarning, UnseenWarning):
                warnings.simplefilter("always", kind)
        warnings.showwarning = show
        try:
            yield
        finally:
            for text in (*dark.others(), *skipped):
                target.print(f"warning: {text}")


def print_error(message: str) -> None:
    """Print one error on stderr."""
    from rich.text import Text

    stderr().print(Text("error: ", style="bold red") + Text(printable(adapt_advice(message))))


def adapt_advice(message: str) -> str:
    """A message with options of the command line in place of advice for Python."""
    message = _LOAD.sub(r"-m \1", message)
    return _OPTION.sub(lambda m: f"--{m[1].replace('_', '-')} {m[2]}", message)


def emit(record: dict[str, Any]) -> None:
    """Print a record on stdout: as one line of JSON, or with --csv as rows.

    What is known of its image is added: that it was seen in part, seen very small, or is unlike
    what the model was trained on. JSON is ASCII, so that no terminal or file name can break it.
    """
    name = str(record.get("image", record.get("path")))
    record |= current_visible_area().record(name)
    if current_scope().outside(name):
        record["outside"] = True
    writer = csv_writer.get()
    with handling_broken_pipe():
        if writer:
            writer.write(record)
        else:
            print(json_line(record), flush=True)


def json_line(record: dict[str, Any]) -> str:
    """A record as JSON. NaN and infinity, which JSON does not have, become null."""
    try:
        return json.dumps(record, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(record))


def _without_nan(value: Any) -> Any:
    """JSON values in which null stands for NaN and infinity."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class CsvWriter:
    """Writes records as CSV on stdout.

    A record that holds a list of records has a row for each of these, any other record one row.
    With the columns "measure" and "value", it has a row for each number that has no column.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self._has_header = False

    def write(self, record: dict[str, Any]) -> None:
        out = csv.writer(sys.stdout, lineterminator="\n")
        if not self._has_header:
            out.writerow(self.columns)
            self._has_header = True
        for item in self._items(record):
            row = {**record, **item}
            out.writerow([row.get(column) for column in self.columns])
        sys.stdout.flush()

    def _items(self, record: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """The parts of a record that have a row each."""
        for value in record.values():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                return value
        if {"measure", "value"} <= set(self.columns):
            return self._measures(record) or [record]
        return [record]

    def _measures(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        measures: list[dict[str, Any]] = []
        for name, value in record.items():
            if isinstance(value, dict):
                measures += _rows(name, value)
            elif isinstance(value, (int, float)) and name not in self.columns:
                measures.append({"measure": name, "value": value})
        return measures


def _rows(name: str, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each value, also of dictionaries in dictionaries; its measure is all names."""
    for key, value in values.items():
        measure = f"{name} {key}"
        if isinstance(value, dict):
            yield from _rows(measure, value)
        else:
            shown = json.dumps(value) if isinstance(value, (list, tuple)) else value
            yield {"measure": measure, "value": shown}


csv_writer: ContextVar[CsvWriter | None] = ContextVar("csv_writer", default=None)  # with --csv


@contextmanager
def handling_broken_pipe() -> Iterator[None]:
    """Calls `handle_closed_pipe` where nobody reads stdout any more (`| head`)."""
    try:
        yield
    except BrokenPipeError:
        handle_closed_pipe(sys.stdout)


def refuse(message: str) -> NoReturn:
    """End the command with a message about wrong usage; exit code 2."""
    raise typer.BadParameter(message)


def check_save(path: Path | None, pages: bool = False, images: Sequence[Source] = ()) -> None:
    """Refuse, before any work, a file that cannot be written or is one of the images to read."""
    if path is None:
        return
    from PIL import Image

    Image.init()
    suffix = path.suffix.lower()
    if not (pages and suffix == ".html") and Image.EXTENSION.get(suffix) not in Image.SAVE:
        suffixes = f"{PICTURE_SUFFIXES} or .html" if pages else PICTURE_SUFFIXES
        refuse(f"--save {path}: the name must end in {suffixes}")
    refuse_overwriting([path], images)
    prepare_output(path)


def refuse_overwriting(results: Iterable[Path | None], images: Sequence[Source]) -> None:
    """Refuse to write a result over one of the images that the command reads."""
    from patchword.images.pages import split

    existing = [path for path in results if path and path.is_file()]
    if not existing:
        return
    files = {split(image)[0] for image in images if isinstance(image, str)}
    protected = {_identity(file) for file in files} - {None}
    for path in existing:
        if _identity(path) in protected:
            refuse(f"{path}: is one of the images, and would be overwritten; give another name")


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of a file: the same for all its names."""
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino
    except (OSError, ValueError):  # no such file; an address
        return None


def prepare_output(path: Path | None, is_folder: bool = False) -> None:
    """Make the parent folder of a result, before any work is done, and say so. Refuse a place where
    nothing can be written. is_folder: the result is a folder, which may exist."""
    if path is None:
        return
    saves_result.set(True)
    if path.is_dir() and not is_folder:
        refuse(f"{path}: a folder; give a file in it")
    if path.is_file() and is_folder:
        refuse(f"{path}: a file; give a folder, or another name")
    parent_is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or path.is_file() or not path.exists():  # no device
            # A trial file says more than os.access. It has no name, so that nothing is left of it.
            tempfile.TemporaryFile(dir=path if path.is_dir() else path.resolve().parent).close()
    except OSError as error:
        if path.parent.is_dir():
            reason = "nothing can be written there"
        else:
            reason = "its folder cannot be made"
        refuse(f"{path}: {reason}: {error.strerror}")
    if parent_is_new:
        notes().print(f"made folder {path.parent}")


def picture_title(bundle: Model, *subjects: str) -> str:
    """The title of a picture: what it shows, and the model."""
    return " · ".join([*subjects, f"model {Path(bundle.name).name}"])


def print_saved(path: Path) -> None:
    """Say where a result was written."""
    notes().print(f"wrote {path}")


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal. Yields a function that takes (done,
    total). A bar that begins while another one runs is drawn below it."""
    from rich import progress as rich_progress

    if outer := active_progress.get():
        inner_task = outer.add_task(title, total=total)
        try:
            yield lambda done, total: outer.update(inner_task, completed=done, total=total)
        finally:
            outer.remove_task(inner_task)
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    hidden = quiet.get() or not sys.stderr.isatty()
    # On a terminal, what is printed while the bar runs goes above it. A pipe gets it directly.
    redirect = sys.stdout.isatty()
    with rich_progress.Progress(
        *columns, console=notes(), transient=True, disable=hidden, redirect_stdout=redirect
    ) as bar:
        task = bar.add_task(title, total=total)
        active_progress.set(None if hidden else bar)
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        finally:
            active_progress.set(None)


def successes(
    results: Iterable[tuple[object, T | ImageError]],
    total: int,
    title: str,
    failed: list[ImageError],
    as_json: bool = False,
) -> Iterator[tuple[Source, T]]:
    """Each image that has a result, and the result, with a progress bar. The errors of the others
    are added to `failed`, and with `as_json` printed as records in their place."""
    with progress(title, total) as advance:
        for number, (image, result) in enumerate(results, start=1):
            advance(number, total)
            source = cast("Source", image)
            if not isinstance(result, ImageError):
                yield source, result
                continue
            error = ImageError(str(source), result.reason)
            failed.append(error)
            if as_json:
                emit({"image": error.image, "error": error.reason})


def one_by_one(
    sources: Sequence[Source], job: Callable[[Source], T]
) -> Iterator[tuple[Source, T | ImageError]]:
    """Each image with what `job` returns for it, or the error that it raises."""
    for source in sources:
        try:
            yield source, job(source)
        except ImageError as error:
            yield source, error


def finish(failed: Sequence[ImageError], done: int, as_json: bool = False) -> None:
    """Print each failure on stderr; exit code 1 when there is one, 2 when nothing was done.
    as_json: print records of them too, where `successes` has not done so."""
    for number, error in enumerate(failed):
        print_error(with_near_file(error) if number < SHOWN else str(error))
        if as_json:
            emit({"image": error.image, "error": error.reason})
    if failed:
        stderr().print(f"{len(failed)} of {len(failed) + done} images failed")
        raise typer.Exit(1 if done else 2)


def heading_and_names(sources: Sequence[Source]) -> tuple[str, list[str]]:
    """The heading of a column of images, which names their common folder, and their paths from
    there."""
    paths = [one_line(str(source)) for source in sources]
    folders = [os.path.dirname(path) for path in paths]
    common = ""
    if len({os.path.isabs(path) for path in paths}) == 1 and all(folders):
        with suppress(ValueError):  # on several drives of Windows
            common = os.path.commonpath(folders)
    if len(paths) == 1 or common in ("", ".", os.sep):
        return "image", paths
    shown = re.sub(r"^s3:/+", "s3://", common.removeprefix(os.path.join(os.getcwd(), "")))
    return f"in {shown}", [os.path.relpath(path, common) for path in paths]
