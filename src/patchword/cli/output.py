"""What commands print: results on stdout, everything else on stderr; and how failures end."""

from __future__ import annotations

import csv
import difflib
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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast
from unicodedata import normalize
from urllib.parse import unquote

import typer

from patchword.cli.broken_pipe import active_progress, console, handle_closed_pipe, saves_result
from patchword.cli.dark_images import DarkImages
from patchword.errors import (
    DarkWarning,
    ImageError,
    LongTextWarning,
    ScopeWarning,
    SkippedFilesWarning,
    UnseenWarning,
    one_line,
)
from patchword.scope import current as outside
from patchword.show.terminal_table import printable
from patchword.visible_area import current as sights

if TYPE_CHECKING:
    from rich.console import Console

    from patchword.api import Model
    from patchword.cli.member_images import Source

T = TypeVar("T")

quiet: ContextVar[bool] = ContextVar("quiet", default=False)  # whether --quiet is given

SHOWN = 60  # images in a picture or page that a command saves
MOST_NAMES = 10_000  # in a folder, among which a misspelt one is looked for
PICTURES = ".png, .jpg, .webp, .tif, .pdf"
# What messages advise in Python: a model to load; an option and its value
_LOAD = re.compile(r'patchword\.load\("([\w-]+)"\)')
_OPTION = re.compile(r'\b(architecture|engine|method|subfolder)="([^"]+)"(?: \(--\1\))?')
WIDE = 200  # columns of a table in a pipe, where no terminal says how many there are


def screen() -> Console:
    """stdout, for results. In a pipe tables are as wide as they need, unless COLUMNS is set."""
    return console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)


def notes() -> Console:
    """stderr, for progress and remarks, which --quiet leaves out."""
    return stderr(quiet.get())


def stderr(silent: bool = False) -> Console:
    """stderr, for errors and warnings."""
    return console(stderr=True, soft_wrap=True, quiet=silent)


def warn(message: str) -> None:
    """One warning on stderr."""
    stderr().print(f"warning: {message}")


@contextmanager
def show_warnings(
    advice: str = "",
    console: Console | None = None,
    once: bool = False,
    last: bool = False,
) -> Iterator[None]:
    """Each warning as one line on a console, by default stderr; one of long texts ends in `advice`
    of the command line instead of that for Python. once: the same one is not repeated. last: what
    was skipped in folders is said at the end, and of dark images all but the first in any case."""
    said = console or stderr()
    skipped: list[str] = []
    dark = DarkImages()

    def say(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        text = str(message)
        if issubclass(category, LongTextWarning):
            text = text.partition(": pass ")[0] + advice
        if last and issubclass(category, SkippedFilesWarning):
            skipped.append(text)
        elif not issubclass(category, DarkWarning) or dark.is_first(text):
            said.print(f"warning: {adapt_advice(text)}")

    with warnings.catch_warnings():
        if once:
            warnings.simplefilter("default", UserWarning)
        else:
            for kind in (LongTextWarning, ScopeWarning, UnseenWarning):
                warnings.simplefilter("always", kind)
        warnings.showwarning = say
        try:
            yield
        finally:
            for text in (*dark.others(), *skipped):
                said.print(f"warning: {text}")


def print_error(message: str) -> None:
    """One error on stderr."""
    from rich.text import Text

    stderr().print(Text("error: ", style="bold red") + Text(printable(adapt_advice(message))))


def adapt_advice(message: str) -> str:
    """A message whose advice is for Python, with the options of the command line instead."""
    message = _LOAD.sub(r"-m \1", message)
    return _OPTION.sub(lambda m: f"--{m[1].replace('_', '-')} {m[2]}", message)


def emit(record: dict[str, Any]) -> None:
    """One line of JSON on stdout, or with --csv its rows; of an image that was not seen whole,
    very small, or unlike the model's training, also that. JSON is ASCII, so that no terminal or
    file name can break it."""
    table = rows.get()
    name = str(record.get("image", record.get("path")))
    record |= sights().record(name)
    if outside().outside(name):
        record["outside"] = True
    with handling_broken_pipe():
        if table:
            table.write(record)
        else:
            print(json_line(record), flush=True)


def json_line(record: dict[str, Any]) -> str:
    """A record as JSON, which has no NaN and no infinity: they are null."""
    try:
        return json.dumps(record, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(record))


def _without_nan(value: Any) -> Any:
    """JSON values with null for every number that is none."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Rows:
    """CSV on stdout: of each record one row, or one for each item of the list of records in it;
    where columns are called measure and value, one for each number that has no column."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self._begun = False

    def write(self, record: dict[str, Any]) -> None:
        out = csv.writer(sys.stdout, lineterminator="\n")
        if not self._begun:
            out.writerow(self.columns)
            self._begun = True
        for item in self._items(record):
            found = {**record, **item}
            out.writerow([found.get(column) for column in self.columns])
        sys.stdout.flush()

    def _items(self, record: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """The parts of a record that have a row each."""
        for value in record.values():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                return value
        measures = {"measure", "value"} <= set(self.columns)
        return self._measures(record) or [record] if measures else [record]

    def _measures(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for name, value in record.items():
            inside = value if isinstance(value, dict) else {}
            found += [{"measure": f"{name} {of}", "value": each} for of, each in inside.items()]
            if isinstance(value, (int, float)) and name not in self.columns:
                found.append({"measure": name, "value": value})
        return found


rows: ContextVar[Rows | None] = ContextVar("rows", default=None)  # where --csv is given


@contextmanager
def handling_broken_pipe() -> Iterator[None]:
    """Where nobody reads stdout any more (`| head`), what `unread` says is done."""
    try:
        yield
    except BrokenPipeError:
        handle_closed_pipe(sys.stdout)


def refuse(message: str) -> NoReturn:
    """Wrong usage: the message, exit code 2."""
    raise typer.BadParameter(message)


def check_save(path: Path | None, pages: bool = False, images: Sequence[Source] = ()) -> None:
    """Refuse, before any work, a file that cannot be written or is one of the images to read."""
    if path is None:
        return
    from PIL import Image

    Image.init()
    suffix = path.suffix.lower()
    if not (pages and suffix == ".html") and Image.EXTENSION.get(suffix) not in Image.SAVE:
        refuse(f"--save {path}: the name must end in {PICTURES}{' or .html' if pages else ''}")
    refuse_overwriting([path], images)
    prepare_output(path)


def refuse_overwriting(results: Iterable[Path | None], images: Sequence[Source]) -> None:
    """Refuse to write a result over one of the images that the command reads."""
    from patchword.images.pages import split

    written = [path for path in results if path and path.is_file()]
    read = {split(image)[0] for image in images if isinstance(image, str)} if written else ()
    kept = {_identity(path) for path in read} - {None}
    for path in written:
        if _identity(path) in kept:
            refuse(f"{path}: is one of the images, and would be overwritten; give another name")


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        return os.stat(path).st_dev, os.stat(path).st_ino
    except (OSError, ValueError):  # no such file; an address
        return None


def prepare_output(path: Path | None, itself: bool = False) -> None:
    """Make the folder that a file will be written in, and say so; refuse a place where nothing can
    be written. Before any work is done. itself: the result is a folder, which may be there."""
    if path is None:
        return
    saves_result.set(True)
    if path.is_dir() and not itself:
        refuse(f"{path}: a folder; give a file in it")
    if path.is_file() and itself:
        refuse(f"{path}: a file; give a folder, or another name")
    new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or path.is_file() or not path.exists():
            # nothing is left of a file without a name; os.access knows less
            tempfile.TemporaryFile(dir=path if path.is_dir() else path.resolve().parent).close()
    except OSError as error:
        there = path.parent.is_dir()
        why = "nothing can be written there" if there else "its folder cannot be made"
        refuse(f"{path}: {why}: {error.strerror}")
    if new:
        notes().print(f"made folder {path.parent}")


def picture_title(bundle: Model, *words: str) -> str:
    """The title of a picture: what it is of, and the model."""
    return " · ".join([*words, f"model {Path(bundle.name).name}"])


def print_saved(path: Path) -> None:
    """Say where a result was written."""
    notes().print(f"wrote {path}")


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal: call the result with (done, total). One that begins
    while another runs is drawn below it."""
    from rich import progress as bars

    if outer := active_progress.get():
        within = outer.add_task(words, total=total)
        try:
            yield lambda done, all_of: outer.update(within, completed=done, total=all_of)
        finally:
            outer.remove_task(within)
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
    )
    hidden = quiet.get() or not sys.stderr.isatty()
    # What is printed beside a bar goes above it on a terminal, and else where it belongs.
    beside = sys.stdout.isatty()
    with bars.Progress(
        *columns, console=notes(), transient=True, disable=hidden, redirect_stdout=beside
    ) as bar:
        task = bar.add_task(words, total=total)
        active_progress.set(None if hidden else bar)
        try:
            yield lambda done, all_of: bar.update(task, completed=done, total=all_of)
        finally:
            active_progress.set(None)


def successes(
    each: Iterable[tuple[object, T | ImageError]],
    total: int,
    words: str,
    failed: list[ImageError],
    as_json: bool = False,
) -> Iterator[tuple[Source, T]]:
    """Each image that has a result, and that, with a progress bar on a terminal; the errors of the
    others are added to `failed`, and with `as_json` printed as records in their place."""
    with progress(words, total) as advance:
        for number, (given, result) in enumerate(each, start=1):
            advance(number, total)
            source = cast("Source", given)
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
    """A job done on each image in turn, or why it could not be done."""
    for source in sources:
        try:
            yield source, job(source)
        except ImageError as error:
            yield source, error


def finish(failed: Sequence[ImageError], done: int, as_json: bool = False) -> None:
    """Name each failure on stderr; exit code 1 when there is one, 2 when nothing was done. as_json:
    print records of them, where that was not done on the way."""
    for number, error in enumerate(failed):
        print_error(with_near_file(error) if number < SHOWN else str(error))
        if as_json:
            emit({"image": error.image, "error": error.reason})
    if failed:
        stderr().print(f"{len(failed)} of {len(failed) + done} images failed")
        raise typer.Exit(1 if done else 2)


def with_near_file(error: ImageError) -> str:
    """An error; behind a file that is not there the one that may be meant."""
    return f"{error}{near_file(error.image) if error.reason == 'no such file' else ''}"


def near_file(path: str) -> str:
    """The file that a missing one may mean, as a question in brackets: the path as Windows or a
    browser writes it; else the file beside it whose name is nearest. Empty where none is near."""
    folder, name = os.path.split(path)
    slashed = path.replace("\\", "/")
    beside = os.path.join(folder, os.path.basename(slashed))
    for meant in (slashed, beside, unquote(path.removeprefix("file://"))):
        if meant != path and os.path.isfile(meant):
            return f" (do you mean {os.path.normpath(meant)}?)"
    try:
        with os.scandir(folder or os.curdir) as entries:
            known = [entry.name for entry in islice(entries, MOST_NAMES)]
    except OSError:
        return ""
    near = difflib.get_close_matches(name, known, 1, cutoff=0.75)
    if not near:
        return ""
    same = normalize("NFC", name) == normalize("NFC", near[0])
    form = ", whose letters are stored in another form of Unicode" * same
    return f" (do you mean {os.path.join(folder, near[0])}{form}?)"


def heading_and_names(sources: Sequence[Source]) -> tuple[str, list[str]]:
    """A heading that names the folder that all paths share, and the paths from there."""
    paths = [one_line(str(source)) for source in sources]
    kinds = {os.path.isabs(path) for path in paths}
    folders = [os.path.dirname(path) for path in paths]
    folder = ""
    if len(kinds) == 1 and all(folders):
        with suppress(ValueError):  # on several drives of Windows
            folder = os.path.commonpath(folders)
    if len(paths) == 1 or folder in ("", ".", os.sep):
        return "image", paths
    shown = re.sub(r"^s3:/+", "s3://", folder.removeprefix(os.path.join(os.getcwd(), "")))
    return f"in {shown}", [os.path.relpath(path, folder) for path in paths]
