"""--csv, of every command that prints rows, and --quiet, of every command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Annotated, Any

import typer

from patchword.cli.output import Rows, quiet, rows, wrong
from patchword.scope.report import BRIEF
from patchword.visible_area import Remedies, current

# The columns of each command: keys of its JSON records, or of the list in them.
COLUMNS = {
    "classify": ("image", "label", "probability", "outside", "error"),
    "similarity": ("image", "text", "cosine", "outside", "error"),
    "heatmap": (
        *("image", "text", "value", "x", "y", "method", "probability", "found", "outside"),
        "error",
    ),
    "segment": ("image", "label", "share", "probability", "outside", "error"),
    "locate": ("image", "text", "score", "crop", "box", "area", "outside", "error"),
    "attention": (
        *("image", "text", "caption", "map", "word", "value", "x", "y", "token", "weights"),
        *("outside", "error"),
    ),
    "caption": ("image", "caption", "log_probability", "outside", "error"),
    "ask": (
        *("image", "question", "answer", "probability", "log_probability", "declined"),
        *("outside", "error"),
    ),
    "match": ("image", "text", "match", "cosine", "outside", "error"),
    "inspect": ("path", "score", "p_value", "rejected", "boxes", "outside", "error"),
    "search": (
        *("query", "rank", "image", "cosine", "match", "modified", "id", "gone", "outside"),
        "error",
    ),
    "dedupe": (
        *("group", "keep", "image", "cosine", "size", "width", "height", "modified", "id"),
        "error",
    ),
    "explore": ("cluster", "images", "examples", "image", "error"),
    "tag": ("image", "tags", "outside", "error"),
    "index": (
        "index",
        "added",
        "unchanged",
        "moved",
        "pruned",
        "put",
        "not_retried",
        "gone",
        "failed",
        "images",
        "image",
        "error",
    ),
    "eval": ("model", "task", "measure", "value", "image", "error"),
    "eval_segment": (
        *("label", "iou", "accuracy", "mean_iou", "pixel_accuracy", "mean_accuracy", "images"),
        *("image", "error"),
    ),
    "eval_inspect": ("category", "method", "measure", "value", "image", "error"),
    "blend": ("alpha", "task", "measure", "value", "model", "image", "error"),
    "verify": ("stage", "same", "largest", "reason", "hint"),
    "models": (
        "name",
        "family",
        "parameters",
        "pixels",
        "image_size",
        "top1",
        "measure",
        "licence",
        "source",
        "note",
    ),
}
OPTIONS: dict[str, Any] = {
    "as_csv": typer.Option("--csv", help="Print CSV, one row for each result."),
    "silent": typer.Option("--quiet", "-q", help="Say no more than errors and warnings."),
}


def with_output_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options beside its own."""
    own = inspect.signature(command, eval_str=True)
    columns = COLUMNS.get(command.__name__)
    names = [name for name in OPTIONS if columns or name != "as_csv"]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in names}
        if given.get("as_csv") and values["as_json"]:
            wrong("give --json or --csv")
        values |= {"as_json": True} if given.get("as_csv") else {}
        current().remedies = _remedies(set(own.parameters))
        tiled = any(values.get(name) for name in ("tiles", "tile_size", "each_tile"))
        if columns and tiled and "each_tile" in values:
            told = (*columns[:-2], "box", "tile", *columns[-2:])
        else:
            told = columns or ()
        table = Rows(told) if told and given.get("as_csv") else None
        before = rows.set(table), quiet.set(given["silent"])
        try:
            command(**values)
        finally:
            rows.reset(before[0])
            quiet.reset(before[1])

    added = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, OPTIONS[name]],
        )
        for name in names
    ]
    run.__annotations__ = {**command.__annotations__, **{p.name: p.annotation for p in added}}
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return run


def _remedies(options: set[str]) -> Remedies:
    """What of a command's own options shows a model more of a photo."""
    whole = {
        "squash": "--squash shows the whole",
        "two_views": "--two-views too",
        "tiles": "--tiles all",
    }
    closer = [f"--{name}" for name in ("tiles", "window") if name in options]
    return Remedies(
        ", ".join(words for name, words in whole.items() if name in options),
        f"{' or '.join(closer)} looks closer" if closer else "",
        BRIEF,
    )
