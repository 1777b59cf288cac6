"""Output that nobody reads any more, as in `patchword models | head`."""

from __future__ import annotations

import errno
import os
import sys
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

CLOSED_PIPE = 141  # the exit code that shells give to `ls` in `ls | head`

# Whether the command saves a result, so that it goes on where nobody reads what it prints.
saves_result: ContextVar[bool] = ContextVar("saves_result", default=False)
# The progress bar on the terminal.
active_progress: ContextVar[Progress | None] = ContextVar("active_progress", default=None)


def handle_closed_pipe(stream: IO[str]) -> None:
    """Discard what is still printed on a stream that nobody reads. A command that saves a result
    goes on in silence; any other ends."""
    redirect_to_devnull(stream)
    if not saves_result.get():
        raise typer.Exit(CLOSED_PIPE)


def redirect_to_devnull(*streams: IO[str]) -> None:
    """Discard what is printed on streams from now on, and what their buffers hold."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(devnull, stream.fileno())
    os.close(devnull)


def console(**options: Any) -> Console:
    """A rich console that prints above the active progress bar, and calls `handle_closed_pipe` when
    nobody reads its stream."""
    from rich.console import Console

    from patchword.show.terminal_table import printable

    class PipeConsole(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            objects = tuple(printable(o) if isinstance(o, str) else o for o in objects)
            bar = active_progress.get()
            if bar is None or bar.console is self:
                super().print(*objects, **options)
                return
            bar.stop()  # erases the bar, which would stay in front of what is printed
            super().print(*objects, **options)
            bar.start()

        def on_broken_pipe(self) -> None:
            handle_closed_pipe(self.file)

    return PipeConsole(markup=False, highlight=False, emoji=False, **options)


def exit_code_of(ended: SystemExit) -> int | str | None:
    """The exit code of a program that ends: CLOSED_PIPE where nobody reads a stream, else its own.

    Where nobody reads, typer and rich end a program with code 1; or it shows only when the last
    lines are flushed, here.
    """
    cause = ended.__context__
    closed = isinstance(cause, OSError) and cause.errno == errno.EPIPE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        closed = closed or not saves_result.get()
        redirect_to_devnull(sys.stdout)
    if closed:
        redirect_to_devnull(sys.stdout, sys.stderr)
        return CLOSED_PIPE
    return ended.code
