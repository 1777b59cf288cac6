"""`--help` in plain words: typer itself names Python's types, such as <list[str]> and <bool>."""

from __future__ import annotations

import inspect
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

KINDS = {  # how a value is called whose option has no metavar
    "str": "TEXT",
    "list[str]": "TEXT",
    "int": "N",
    "int range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
    "path": "PATH",
}


def flowing(text: str | None) -> str:
    """A docstring whose paragraphs are one line each, which a terminal of any width can wrap."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


class Option(TyperOption):
    """An option that shows its metavar, else the kind of its value; a flag shows nothing."""

    def display_type_rich(self, ctx: Any) -> str | None:
        if self.is_flag or self.metavar is not None:
            return None if self.is_flag else self.metavar
        shown = self.display_type(ctx).strip("<>")
        return KINDS.get(shown, shown)


class Argument(TyperArgument):
    """An argument that shows its metavar alone: "IMAGES...", or "[IMAGES]..." for one that may be
    left out."""

    def display_type_rich(self, ctx: Any) -> None:
        return None

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        return [self.metavar or str(self.name).upper()]


class _PlainHelp:
    """Shows parameters as the two classes above do."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the class beside it
        for each in found:
            each.__class__ = Argument if isinstance(each, TyperArgument) else Option
        return found


class Command(_PlainHelp, TyperCommand):
    """A command whose help is in plain words."""


class Group(_PlainHelp, TyperGroup):
    """Commands, the help of which is in plain words."""
