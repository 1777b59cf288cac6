"""`--help` without Python's types: typer itself shows <list[str]> and <bool>."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

_CHOICES = re.compile(r"((?:[a-z-]+, )+[a-z-]+ or [a-z-]+)[;.]")  # "memory, subspace or mutual."
# Messages for options of other commands that are arguments of this one: by command and option.
_ARGUMENTS = {
    ("export", option): "is no option here: DIR is the second argument, patchword export MODEL DIR"
    for option in ("-o", "--out", "--output", "--into")
}
METAVARS = {  # the placeholder of a value, by the type of its option
    "str": "TEXT",
    "list[str]": "TEXT",
    "int": "N",
    "int range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
    "path": "PATH",
}


def flowing(text: str | None) -> str:
    """A docstring with each paragraph on one line, which a terminal of any width can wrap."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


class Option(TyperOption):
    """An option that shows its metavar, or one for its type; a flag shows nothing."""

    def display_type_rich(self, ctx: Any) -> str | None:
        if self.is_flag:
            return None
        if self.metavar is not None:
            return self.metavar
        type_name = self.display_type(ctx).strip("<>")
        return METAVARS.get(type_name, type_name)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        """The choices that the help begins with, or those of the metavar: auto|cpu|cuda."""
        if in_help := _CHOICES.match(self.help or ""):
            choices = re.split(", | or ", in_help[1])
        else:
            choices = (self.metavar or "").split("|")
        if len(choices) < 2:
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(choice)
            for choice in choices
            if choice.startswith(incomplete) and not choice.isupper()  # a placeholder: TEXT
        ]


class Argument(TyperArgument):
    """An argument that shows its metavar alone: "IMAGES...", or "[IMAGES]..." if it is optional."""

    def display_type_rich(self, ctx: Any) -> None:
        return None

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        return [self.metavar or str(self.name).upper()]


class _PlainHelp:
    """A mixin for commands and groups: makes their parameters an Argument or an Option."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the other base class
        for param in params:
            param.__class__ = Argument if isinstance(param, TyperArgument) else Option
        return params


class Command(_PlainHelp, TyperCommand):
    """A command that recognises the options of other libraries."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises BadParameter for an option of another library, with the name of ours or the reason
        that there is none; and for an option that takes one value and is given twice."""
        known = {option for param in self.params for option in param.opts}
        before_dashes = args[: args.index("--")] if "--" in args else args
        for arg in before_dashes:
            name = arg.partition("=")[0]
            if name in known or not name.startswith("-"):
                continue
            if hint := _ARGUMENTS.get((self.name or "", name)) or _hint(name, known):
                raise typer.BadParameter(f"{name} {hint}", ctx=ctx)
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for param in order:
            single = isinstance(param, TyperOption) and not (param.multiple or param.is_flag)
            if single and order.count(param) > 1:
                raise typer.BadParameter(
                    f"{param.opts[0]} is given twice; it takes one value", ctx=ctx
                )
        return super().parse_args(ctx, args)


def _hint(name: str, known: set[str]) -> str:
    """What to use in place of another library's option; empty for any other name."""
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
    """A group of commands whose names may have two words."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command, and the arguments after its name."""
        two_words = " ".join(args[:2])
        if two_words in self.commands:
            args = [two_words, *args[2:]]
        return super().resolve_command(ctx, args)
