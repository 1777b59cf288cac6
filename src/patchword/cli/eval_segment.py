"""eval segment: how well a model tells the class of each pixel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import load
from patchword.cli.options import (
    EMBEDDED,
    DenseMethodOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LogitScaleOption,
    MaxPixelsOption,
    ModelOption,
    RefineOption,
    ShortSideOption,
    SquashOption,
    StretchOption,
    StrideOption,
    TemplateOption,
    WindowOption,
)
from patchword.cli.output import emit, finish, notes, progress, refuse, screen
from patchword.cli.texts import read_list
from patchword.errors import counted
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.evaluate.segmentation import Segmented


def eval_segment(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A folder with JPEGImages and SegmentationClass, as in Pascal VOC, or images and "
            "masks. Masks are PNG; each pixel is the number of its class, or 255 where it "
            "does not count.",
        ),
    ],
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with one class per line, in the order of their numbers, with synonyms "
            "separated by commas; by default FOLDER/classes.txt.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Use only the photos that FOLDER/ImageSets/Segmentation/SPLIT.txt names; for "
            "example val."
        ),
    ] = None,
    template: TemplateOption = None,
    method: DenseMethodOption = "auto",
    window: WindowOption = None,
    stride: StrideOption = None,
    short_side: ShortSideOption = None,
    refine: RefineOption = False,
    logit_scale: LogitScaleOption = None,
    threshold: Annotated[
        float,
        typer.Option(
            help="0 to 1: pixels where no class has this probability get the first class."
        ),
    ] = 0.0,
    least_area: Annotated[
        float,
        typer.Option(
            help="0 to 1: a class is left out if its share of the area of all classes except the "
            "first is not larger."
        ),
    ] = 0.0,
    reduce_zero_label: Annotated[
        bool,
        typer.Option(
            "--reduce-zero-label",
            help="Pixels of 0 in a mask do not count, and 1 is the first class.",
        ),
    ] = False,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model segments photos that have masks.

    Prints mean IoU, pixel accuracy and the IoU of each class, as mmsegmentation defines them:
    pixels are counted over all photos together. The settings are printed with the numbers. CLIP
    papers use --template imagenet, --logit-scale 40, --short-side 336, --window 224 --stride 112.
    """
    if not folder.is_dir():
        refuse(f"{folder}: no such folder")
    from patchword.evaluate import segmentation
    from patchword.where.windows import Scale

    data = segmentation.masked(folder, split)
    class_names = segmentation.read_classes(classes or folder / segmentation.CLASSES)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    settings = segmentation.settled(
        bundle, class_names, read_list(template) or None, method, logit_scale, threshold,
        least_area, scale=Scale(window, stride, short_side), refine=refine,
        reduce_zero_label=reduce_zero_label,
    )  # fmt: skip
    with progress("photos") as advance:
        run = segmentation.Segmenting(bundle, advance)
        measured = run.measure(data, settings)
    if as_json:
        emit({"model": bundle.name, "fingerprint": bundle.fingerprint, **measured.record()})
    else:
        screen().print(classes_table(measured))
        screen().print(
            f"mean IoU {measured.mean_iou:.1%}, pixel accuracy {measured.pixel_accuracy:.1%}, mean "
            f"accuracy {measured.mean_accuracy:.1%}, of {counted(measured.images, 'photo')}"
        )
    if data.unmasked:
        notes().print(f"{counted(data.unmasked, 'photo has', 'photos have')} no mask, left out")
    print_settings(measured)
    finish(run.broken, measured.images, as_json)


def classes_table(measured: Segmented) -> Table:
    """A row per class."""
    out = table("class", "IoU", "accuracy", right=("IoU", "accuracy"))
    rows = zip(measured.settings.classes, measured.iou, measured.accuracy, strict=True)
    for synonyms, *numbers in rows:
        out.add_row(synonyms[0], *("-" if math.isnan(n) else f"{n:.1%}" for n in numbers))
    return out


def print_settings(measured: Segmented) -> None:
    """Print the settings of the measures."""
    settings = measured.settings.record()
    names = settings.pop("classes")
    shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    notes().print(f"settings: {shown}; {len(names)} classes: {', '.join(names)}")


COMMANDS = (eval_segment,)
