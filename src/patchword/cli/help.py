"""`--help` in plain words: typer itself names Python's types, such as <list[str]> and <bool>."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

_LISTED = re.compile(r"((?:[a-z-]+, )+[a-z-]+ or [a-z-]+)[;.]")
_ARGUMENTS = {  # of commands: options of others that are arguments there
    ("export", option): "is no option here: DIR is the second argument, patchword export MODEL DIR"
    for option in ("-o", "--out", "--output", "--into")
}
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

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        """The choices that the metavar lists, auto|cpu|cuda, or the first words of the help."""
        listed = _LISTED.match(self.help or "")
        named = re.split(", | or ", listed[1]) if listed else [self.metavar or ""]
        choices = [each for part in named for each in part.split("|")]
        if len(choices) < 2:
            return super().shell_complete(ctx, incomplete)
        words = [each for each in choices if not each.isupper() and each.startswith(incomplete)]
        return [CompletionItem(word) for word in words]


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
    """A command whose help is in plain words, and that knows how other libraries call options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises BadParameter for an option that other libraries have, with ours or the reason
        that there is none; and for one that takes one value and is given several."""
        known = {option for each in self.params for option in each.opts}
        for given in args[: args.index("--")] if "--" in args else args:
            name = given.partition("=")[0]
            if name in known or not name.startswith("-"):
                continue
            if hint := _ARGUMENTS.get((self.name or "", name)) or _habit(name, known):
                raise typer.BadParameter(f"{name} {hint}", ctx=ctx)
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for each in order:
            one = isinstance(each, TyperOption) and not (each.multiple or each.is_flag)
            if one and order.count(each) > 1:
                raise typer.BadParameter(
                    f"{each.opts[0]} is given twice; it takes one value", ctx=ctx
                )
        return super().parse_args(ctx, args)


def _habit(name: str, known: set[str]) -> str:
    from patchword.options import SYNONYMS, UNNEEDED

    if not name.startswith("--"):
        return ""
    plain = name.lstrip("-").replace("-", "_")
    ours = SYNONYMS.get(plain, plain).replace("_", "-")
    for option in (f"--{ours}", f"-{ours}", f"--{ours.removesuffix('s')}"):
        if option in known:
            return f"is called {option} here"
    return UNNEEDED.get(plain, "")


class Group(_PlainHelp, TyperGroup):
    """Commands, the help of which is in plain words; a name may have two."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command, and the arguments after its name."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in self.commands else args)
