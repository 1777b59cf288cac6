"""eval inspect: how well defects are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.inputs import load
from patchword.cli.options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    OnePassOption,
    StretchOption,
    SubjectOption,
)
from patchword.cli.output import emit, finish, notes, progress, refuse, screen
from patchword.cli.texts import read_list
from patchword.errors import ImageError, counted
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.evaluate.inspection import Measured
    from patchword.inspect.protocol import Method

MEASURES = {  # the columns of the table, by the names of measures in JSON
    "image_auroc": "AUROC",
    "image_ap": "AP",
    "image_f1_max": "F1-max",
    "pixel_auroc": "px AUROC",
    "aupro": "AUPRO",
    "aupimo": "AUPIMO",
    "spro": "sPRO",
}


def eval_inspect(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A folder in the format of MVTec AD: train/good, test/good, test/KIND, and "
            "ground_truth/KIND with a mask, or a folder of masks, for each bad photo; or a "
            "folder of such folders.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="memory|subspace|winclip|mutual|reference",
            help="The methods to measure, by default memory; repeat, or separate by commas.",
        ),
    ] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", help="The block whose patches are compared; see patchword inspect."
        ),
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Pixels of photos' shorter side; see patchword inspect.")
    ] = None,
    subject: SubjectOption = None,
    one_pass: OnePassOption = False,
    shots: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Learn from the first N good photos; 0, for winclip: from words alone.",
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels of the longer side to which maps and masks are resized; by default the "
            "size of the photo.",
        ),
    ] = None,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Measure how well defects are found, on photos with labels and masks.

    For images: AUROC, AP and F1-max. For pixels, compared with the masks: AUROC, the area under the
    per-region overlap up to a false positive rate of 0.3 (AUPRO, with every score as threshold) and
    under the per-image overlap from 1e-5 to 1e-4 (AUPIMO). Where a defects_config.json, as in MVTec
    LOCO AD, states how much of a defect must be found, also the area under the saturated overlap up
    to 0.05 (sPRO). A method learns from all of train/good; mutual learns from the test photos.
    --json and --csv have every measure.
    """
    names = read_list(method, split=True) or ["memory"]
    if one_pass and "winclip" not in names:
        refuse(f"--one-pass is for winclip, not of {', '.join(names)}")
    methods = configured_methods(names, layer, short_side, subject, one_pass)
    if not folder.is_dir():
        refuse(f"{folder}: no such folder")
    from patchword.evaluate.inspection import Inspecting, categories, category, enough_shots

    datasets = [category(path) for path in categories(folder)]
    for dataset in datasets:
        enough_shots(dataset, shots)
    bundle = load(model, device, dtype, stretch, max_pixels)
    done: list[Measured] = []
    failed: dict[str, ImageError] = {}
    for dataset in datasets:
        for each in methods:
            with progress(f"{dataset.path.name}, {each.name}") as advance:
                run = Inspecting(bundle, side, shots, advance)
                done.append(run.measure(dataset, each))
            failed |= {error.image: error for error in run.broken}
            if as_json:
                record = done[-1].record()
                emit({"model": bundle.name, "fingerprint": bundle.fingerprint, **record})
    if not as_json:
        screen().print(measures_table(done, screen().width))
    print_settings(done)
    images = {each.category: each.images for each in done}
    finish(list(failed.values()), sum(images.values()), as_json)


def configured_methods(
    names: Sequence[str],
    layers: list[int] | None,
    short_side: int | None,
    subject: str | None,
    one_pass: bool,
) -> list[Method]:
    """The methods of these names with their options. Where winclip is beside others, subject and
    one_pass are for winclip and layers for the others. Raises UnsupportedError for an option that
    none of the methods has."""
    from patchword.inspect.methods import chosen

    mixed = 0 < names.count("winclip") < len(names)
    methods = []
    for name in names:
        options: dict[str, Any] = {"short_side": short_side}
        if name == "winclip" or not mixed:
            options |= {"subject": subject, "exact": False if one_pass else None}
        if name != "winclip" or not mixed:
            options["layers"] = layers
        methods.append(chosen(name, options))
    return methods


def measures_table(done: Sequence[Measured], width: int) -> Table:
    """A row for each category and method; of several categories also the means. Where that is wider
    than `width` columns, a row for each measure instead."""
    several = len({each.category for each in done}) > 1
    names = [name for name in MEASURES if any(name in each.values for each in done)]
    columns = [*(MEASURES[name] for name in names), "s/photo"]
    labels = ["category", "method"] if several else ["method"]  # the columns before the measures
    rows = []
    for each in done:
        row = [each.category, each.method] if several else [each.method]
        row += [percent(each.values.get(name)) for name in names]
        rows.append([*row, f"{each.seconds:.2f}"])
    if several:
        for method in dict.fromkeys(each.method for each in done):
            values = [each.values for each in done if each.method == method]
            means = [percent(mean([each.get(name) for each in values])) for name in names]
            rows.append(["mean", method, *means, ""])
    header = [*labels, *columns]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    one_row = sum(widths) + 3 * (len(header) - 1) <= width
    if one_row:
        out = table(*header, right=["method", *columns] if several else columns)
    else:
        out = table(*labels, "measure", "")
    for row in rows:
        style = "bold" if row[0] == "mean" else ""
        if one_row:
            out.add_row(*row, style=style)
            continue
        for column, value in zip(columns, row[len(labels) :], strict=True):
            out.add_row(*row[: len(labels)], column, value, style=style)
    return out


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where one of the values is None."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def print_settings(done: Sequence[Measured]) -> None:
    """Print what could not be measured and why, and the settings of the measures."""
    for each in done:
        run = f"{each.category}, {each.method}"
        notes().print(
            f"{run}: learned from {counted(each.learned, 'photo')}; {each.bad} of {each.images} "
            "are bad"
        )
        if each.known:
            are, says = ("is", "its score says") if each.known == 1 else ("are", "their scores say")
            notes().print(
                f"Attention: {run}: {each.known} of {each.images} {are} among the photos that it "
                f"learned from, pixel for pixel: {says} nothing"
            )
        for reason in dict.fromkeys(each.missing.values()):
            measures = ", ".join(name for name, why in each.missing.items() if why == reason)
            notes().print(f"{run}: no {measures}: {reason}")
    settings = done[0].record()["settings"]
    size = "the photos' own pixels"
    if settings["side"]:
        size = f"{settings['side']} px of the longer side"
    low, high = settings["aupimo"]["bounds"]
    notes().print(
        f"settings: maps {settings['maps']}, at {size}; AUPRO up to "
        f"{settings['aupro']['limit']:g}, {settings['aupro']['neighbours']} neighbours; AUPIMO "
        f"{low:g} to {high:g}; sPRO up to {settings['spro']['limit']:g}"
    )
    for method, options in {each.method: each.options for each in done}.items():
        flat = {**options["view"], **options}
        del flat["view"]
        shown = []
        for name, value in flat.items():
            if value in (None, (), []):
                continue
            numbers = value if isinstance(value, (list, tuple)) else [value]
            shown.append(" ".join(map(str, [name, *numbers])))
        notes().print(f"{method}: {', '.join(shown)}")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


COMMANDS = (eval_inspect,)
