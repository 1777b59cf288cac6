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

SHOWN = {
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
            help="A folder as of MVTec AD: train/good, test/good, test/KIND and, with a mask for "
            "each bad photo, or a folder of masks, ground_truth/KIND; or a folder of such.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="memory|subspace|winclip|mutual|reference",
            help="How defects are found, by default memory; repeat, or separate by commas.",
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
            help="Learn from the first so many good photos; 0, for winclip: from words alone.",
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels of the longer side at which maps and masks are compared; by default those "
            "of the photo.",
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

    Of images: AUROC, AP and F1-max. Of pixels, against the masks: AUROC, the area under the
    per-region overlap up to a false positive rate of 0.3 (AUPRO, by every score as threshold) and
    under the per-image overlap from 1e-5 to 1e-4 (AUPIMO). A method learns from all of train/good;
    mutual from the photos of the test. --json and --csv have every measure. Where a
    defects_config.json says how much of a defect is enough, as MVTec LOCO AD has it, also the area
    under the saturated overlap up to 0.05 (sPRO).
    """
    names = read_list(method, split=True) or ["memory"]
    if one_pass and "winclip" not in names:
        refuse(f"--one-pass is of winclip, not of {', '.join(names)}")
    options = {"layers": layer, "short_side": short_side, "subject": subject}
    options |= {"exact": False if one_pass else None}
    methods = with_options(names, options)
    if not folder.is_dir():
        refuse(f"{folder}: no such folder")
    from patchword.evaluate.inspection import Inspecting, categories, category, enough_shots

    found = [category(each) for each in categories(folder)]
    for each in found:
        enough_shots(each, shots)
    bundle = load(model, device, dtype, stretch, max_pixels)
    done: list[Measured] = []
    failed: dict[str, ImageError] = {}
    for each in found:
        for way in methods:
            with progress(f"{each.path.name}, {way.name}") as advance:
                run = Inspecting(bundle, side, shots, advance)
                done.append(run.measure(each, way))
            failed |= {error.image: error for error in run.broken}
            if as_json:
                record = done[-1].record()
                emit({"model": bundle.name, "fingerprint": bundle.fingerprint, **record})
    if not as_json:
        screen().print(shown(done, screen().width))
    explain(done)
    measured = {each.category: each.images for each in done}
    finish(list(failed.values()), sum(measured.values()), as_json)


def with_options(names: Sequence[str], options: dict[str, Any]) -> list[Method]:
    """The methods of these names, each with the options that are meant for it: the subject and
    whether windows are exact are of winclip, layers of all others. Raises UnsupportedError for one
    that is of none of them."""
    from patchword.inspect.methods import chosen

    words = [name == "winclip" for name in names]
    apart = {"subject": any(words), "exact": any(words), "layers": not all(words)}
    found = []
    for name, reads in zip(names, words, strict=True):
        left_out = {"subject": not reads, "exact": not reads, "layers": reads}
        own = {k: v for k, v in options.items() if not (apart.get(k) and left_out[k])}
        found.append(chosen(name, own))
    return found


def shown(done: Sequence[Measured], room: int) -> Table:
    """A row for each category and method; of several categories also the means. Where that is wider
    than `room` columns, a row for each measure instead."""
    many = len({each.category for each in done}) > 1
    measured = [name for name in SHOWN if any(name in each.values for each in done)]
    names = ("method", *(SHOWN[name] for name in measured), "s/photo")
    rows: list[tuple[str, ...]] = []
    for each in done:
        numbers = [percent(each.values.get(name)) for name in measured]
        row = (each.method, *numbers, f"{each.seconds:.2f}")
        rows.append((*([each.category] if many else []), *row))
    for method in dict.fromkeys(each.method for each in done) if many else ():
        own = [each for each in done if each.method == method]
        numbers = [percent(mean([each.values.get(name) for each in own])) for name in measured]
        rows.append(("mean", method, *numbers, ""))
    heads = (*(["category"] if many else []), *names)
    lengths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    first = len(heads) - len(names) + 1  # of the measures
    wide = sum(lengths) + 3 * (len(heads) - 1) <= room
    out = table(*heads, right=names[1:]) if wide else table(*heads[:first], "measure", "")
    for row in rows:
        style = "bold" if row[0] == "mean" else ""
        if wide:
            out.add_row(*row, style=style)
            continue
        for name, value in zip(heads[first:], row[first:], strict=True):
            out.add_row(*row[:first], name, value, style=style)
    return out


def mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def explain(done: Sequence[Measured]) -> None:
    """What could not be measured, and with which settings the rest was."""
    for each in done:
        notes().print(
            f"{each.category}, {each.method}: learned from "
            f"{counted(each.learned, 'photo')}; {each.bad} of {each.images} are bad"
        )
        if each.known:
            are, them = ("is", "its score says") if each.known == 1 else ("are", "their scores say")
            notes().print(
                f"Attention: {each.category}, {each.method}: {each.known} of {each.images} {are} "
                f"among the photos that it learned from, pixel for pixel: {them} nothing"
            )
        for reason in dict.fromkeys(each.missing.values()):
            lacking = ", ".join(name for name, why in each.missing.items() if why == reason)
            notes().print(f"{each.category}, {each.method}: no {lacking}: {reason}")
    first = done[0].record()["settings"]
    size = f"{first['side']} px of the longer side" if first["side"] else "the photos' own pixels"
    low, high = first["aupimo"]["bounds"]
    notes().print(
        f"settings: maps {first['maps']}, at {size}; AUPRO up to {first['aupro']['limit']:g}, "
        f"{first['aupro']['neighbours']} neighbours; AUPIMO {low:g} to {high:g}; sPRO up to "
        f"{first['spro']['limit']:g}"
    )
    for method, options in {each.method: each.options for each in done}.items():
        flat = {**options["view"], **options}
        given = {name: v for name, v in flat.items() if name != "view" and v not in (None, (), [])}
        notes().print(f"{method}: {', '.join(f'{name} {v}' for name, v in given.items())}")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


COMMANDS = (eval_inspect,)
