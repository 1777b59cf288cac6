"""Where nobody reads what is printed any more: `patchword models | head`."""

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

saves_result: ContextVar[bool] = ContextVar(
    "saving", default=False
)  # whether a result is to be kept
active_progress: ContextVar[Progress | None] = ContextVar(
    "live", default=None
)  # the bar on the terminal


def handle_closed_pipe(stream: IO[str]) -> None:
    """Nobody reads this stream: what is still printed goes nowhere. A command that saves something
    goes on in silence; others end."""
    redirect_to_devnull(stream)
    if not saves_result.get():
        raise typer.Exit(CLOSED_PIPE)


def redirect_to_devnull(*streams: IO[str]) -> None:
    """Let what is printed there, and what waits to be, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def console(**how: Any) -> Console:
    """A rich console that prints above the bar that is shown, and does as `unread` says where it is
    closed."""
    from rich.console import Console

    from patchword.show.terminal_table import printable

    class Closing(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            objects = tuple(printable(o) if isinstance(o, str) else o for o in objects)
            bar = active_progress.get()
            if bar is None or bar.console is self:
                super().print(*objects, **how)
                return
            bar.stop()  # which erases it: else the bar stays in front of what is printed
            super().print(*objects, **how)
            bar.start()

        def on_broken_pipe(self) -> None:
            handle_closed_pipe(self.file)

    return Closing(markup=False, highlight=False, emoji=False, **how)


def exit_code_of(ended: SystemExit) -> int | str | None:
    """The exit code of a program that ends: CLOSED where typer or rich ended it, with code 1, for
    a stream that nobody reads, or where that shows only when the last lines are printed."""
    why = ended.__context__
    closed = isinstance(why, OSError) and why.errno == errno.EPIPE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        closed = closed or not saves_result.get()
        redirect_to_devnull(sys.stdout)
    if closed:
        redirect_to_devnull(sys.stdout, sys.stderr)
    return CLOSED_PIPE if closed else ended.code
