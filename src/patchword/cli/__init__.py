"""The command line: one module per group of commands.

Exit codes: 0: everything was done. 1: some items failed; each is named on stderr with its reason,
and the rest was done. 2: wrong usage, or nothing could be done. 3: something was rejected, with
--check. 141: nobody read the output any more (`| head`). Results go to stdout, everything else to
stderr.

Libraries that are slow to import (torch, LanceDB, matplotlib) are imported inside the commands, so
that `patchword --help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from patchword import scope, visible_area
from patchword.cli import (
    attention,
    capfilt,
    caption_ask_match,
    dedupe,
    demo,
    embed_classify_similarity,
    eval_blend,
    eval_inspect,
    eval_segment,
    explore_tag,
    export,
    heatmap,
    index,
    info_models,
    inspect,
    locate,
    receipt_verify,
    search,
    segment,
    serve,
    train,
)
from patchword.cli.broken_pipe import exit_code_of, saves_result
from patchword.cli.checkpoint_options import with_checkpoint_options
from patchword.cli.help import Command, Group, flowing
from patchword.cli.output import print_error, show_warnings
from patchword.cli.output_options import with_output_options
from patchword.errors import PatchwordError

GROUPS = {  # the headings of `patchword --help`, and the files whose commands each one lists
    "Use a model": (
        embed_classify_similarity,
        heatmap,
        segment,
        locate,
        attention,
        caption_ask_match,
        inspect,
    ),
    "Collections of images": (index, search, dedupe, explore_tag, serve),
    "Make a model": (train, eval_blend, eval_inspect, eval_segment, capfilt, export),
    "Know a model": (info_models, receipt_verify, demo),
}

MIN_COLUMNS = 10  # a smaller COLUMNS is ignored: terminals that do not know their width say 0

app = typer.Typer(
    name="patchword",
    cls=Group,
    help="An image is worth 16x16 words: images and texts in one space.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _heading, _files in GROUPS.items():
    for _file in _files:
        for _command in _file.COMMANDS:
            app.command(
                _command.__name__.replace("_", " "),
                cls=Command,
                help=flowing(_command.__doc__),
                rich_help_panel=_heading,
            )(with_output_options(with_checkpoint_options(_command)))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"patchword {version('patchword')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, sys.argv by default; ends in SystemExit with the exit code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the program that started this one closed it
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < MIN_COLUMNS:
        del os.environ["COLUMNS"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    # No last garbage collection at the end of the process: with torch it takes half a second.
    atexit.register(gc.freeze)
    saves_result.set(False)
    try:
        with show_warnings(last=True), scope.together(brief=True), visible_area.together():
            app(arguments)
    except SystemExit as ended:
        sys.exit(exit_code_of(ended))
    except (PatchwordError, Warning) as error:  # a warning, under `python -W error`
        print_error(str(error))
    except OSError as error:  # a result that cannot be written
        print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(2)
