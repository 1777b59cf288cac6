"""Runs commands of patchword in the process of a test."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from patchword.cli import main


@dataclass
class Ran:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def message(self) -> str:
        """stderr on one line, without the frame that typer draws around errors of usage."""
        return " ".join(self.err.replace("│", " ").split())


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return call
