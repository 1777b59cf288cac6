"""Run patchword's commands in the test process and collect what they print."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from patchword.cli import main


@dataclass
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON Lines of the standard output."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def message(self) -> str:
        """stderr on one line, without the frame that typer draws around errors of usage."""
        return " ".join(self.err.replace("│", " ").split())


Run = Callable[..., CommandResult]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs `patchword` with the given arguments."""

    def call(*arguments: object) -> CommandResult:
        capsys.readouterr()  # drop what was printed before
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return CommandResult(int(exit_info.value.code or 0), captured.out, captured.err)

    return call
