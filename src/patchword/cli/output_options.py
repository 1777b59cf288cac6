"""--quiet of every command, and --csv of every command that prints rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer

from patchword.cli.added_options import option, with_options
from patchword.cli.output import CsvWriter, csv_writer, quiet, refuse
from patchword.scope.report import BRIEF
from patchword.visible_area import Remedies, current

# fmt: off
# The CSV columns of each command: keys of its JSON records, or of the list in them.
COLUMNS: dict[str, tuple[str, ...]] = {
    "classify": ("image", "label", "probability", "outside", "error"),
    "similarity": ("image", "text", "cosine", "outside", "error"),
    "heatmap": (
        "image", "text", "value", "x", "y", "method", "probability", "found", "outside", "error",
    ),
    "segment": ("image", "label", "share", "probability", "present", "outside", "error"),
    "locate": ("image", "text", "score", "crop", "box", "area", "outside", "error"),
    "attention": (
        "image", "text", "caption", "map", "word", "value", "x", "y", "token", "weights",
        "outside", "error",
    ),
    "caption": ("image", "caption", "log_probability", "outside", "error"),
    "ask": (
        "image", "question", "answer", "probability", "log_probability", "declined", "outside",
        "error",
    ),
    "match": ("image", "text", "match", "cosine", "outside", "error"),
    "inspect": ("path", "score", "p_value", "rejected", "boxes", "outside", "error"),
    "search": (
        "query", "rank", "image", "cosine", "match", "modified", "id", "gone", "outside", "error",
    ),
    "dedupe": (
        "group", "keep", "image", "cosine", "size", "width", "height", "modified", "id", "gone",
        "error",
    ),
    "explore": ("cluster", "images", "examples", "image", "error"),
    "tag": ("image", "tags", "outside", "error"),
    "index": (
        "index", "added", "unchanged", "moved", "pruned", "put", "not_retried", "gone", "failed",
        "images", "image", "error",
    ),
    "eval": ("model", "task", "measure", "value", "image", "error"),
    "eval_segment": (
        "label", "iou", "accuracy", "mean_iou", "pixel_accuracy", "mean_accuracy", "images",
        "image", "error",
    ),
    "eval_inspect": ("category", "method", "measure", "value", "image", "error"),
    "blend": ("alpha", "task", "measure", "value", "model", "image", "error"),
    "verify": ("stage", "same", "largest", "reason", "hint"),
    "models": (
        "name", "family", "parameters", "pixels", "image_size", "top1", "measure", "licence",
        "source", "note",
    ),
}
# fmt: on
CSV = Annotated[bool, typer.Option("--csv", help="Print CSV, one row for each result.")]
QUIET = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only results, errors and warnings.")
]


def with_output_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options beside its own."""
    columns = COLUMNS.get(command.__name__)
    remedies = _remedies(inspect.signature(command).parameters)
    options = [option("as_csv", CSV, False)] if columns else []
    options.append(option("silent", QUIET, False))

    def run(added: dict[str, Any], own: dict[str, Any]) -> None:
        writer = None
        if columns and added["as_csv"]:
            if own["as_json"]:
                refuse("give --json or --csv")
            own["as_json"] = True  # `emit` prints records, which the writer turns into rows
            writer = CsvWriter(_with_tiles(columns, own))
        current().remedies = remedies
        before = csv_writer.set(writer), quiet.set(added["silent"])
        try:
            command(**own)
        finally:
            csv_writer.reset(before[0])
            quiet.reset(before[1])

    return with_options(command, options, run)


def _with_tiles(columns: tuple[str, ...], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a command, and those of tiles where it looks at photos in tiles."""
    tiled = any(values.get(name) for name in ("tiles", "tile_size", "each_tile"))
    if not (tiled and "each_tile" in values):
        return columns
    *others, outside, error = columns
    return (*others, "box", "tile", outside, error)


def _remedies(options: Collection[str]) -> Remedies:
    """Which options of a command make a model see more of a photo."""
    show_whole = {
        "squash": "--squash shows the whole",
        "two_views": "--two-views too",
        "tiles": "--tiles all",
    }
    closer = [f"--{name}" for name in ("tiles", "window") if name in options]
    return Remedies(
        ", ".join(remedy for name, remedy in show_whole.items() if name in options),
        f"{' or '.join(closer)} looks closer" if closer else "",
        BRIEF,
    )
