"""segment: which label each pixel of an image has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.inputs import load
from patchword.cli.member_images import Source
from patchword.cli.options import (
    EMBEDDED,
    DenseMethodOption,
    DeviceOption,
    DtypeOption,
    ImagesLabelsArgument,
    JsonOption,
    LogitScaleOption,
    MaxPixelsOption,
    ModelOption,
    PictureOption,
    RefineOption,
    ShortSideOption,
    SquashOption,
    StretchOption,
    StrideOption,
    TemplateOption,
    WindowOption,
)
from patchword.cli.output import (
    emit,
    finish,
    notes,
    one_by_one,
    print_saved,
    progress,
    refuse,
    screen,
    successes,
)
from patchword.cli.pictures import picture_paths
from patchword.cli.result_display import title_with_caveat
from patchword.cli.texts import images_then_texts, read_list
from patchword.errors import ImageError
from patchword.show.percent import share
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.where.segment import Segmentation


def segment(
    images: ImagesLabelsArgument,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            "-l",
            "--text",
            "-t",
            metavar="LABELS",
            help='Separated by commas, synonyms by |: "cat, dog|puppy"; repeat for more. @FILE '
            "reads one label per line.",
        ),
    ] = None,
    background: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help="Words for places that no label fits, separated by commas; by default "
            '"background"; none: every pixel gets a label.',
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
        typer.Option(help="0 to 1: pixels where no label has this probability are background."),
    ] = 0.0,
    least_area: Annotated[
        float,
        typer.Option(
            help="0 to 1: a label is left out if its share of the area of all labels is not larger."
        ),
    ] = 0.0,
    present: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="0 to 1: a label that is less probable in the image has no pixels; 0: all labels "
            "may have some. Only of models with a dense head, by default 0.65.",
        ),
    ] = None,
    save: PictureOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Tell which label each pixel of images has.

    --save x.png writes a picture with a legend, and x-map.png, whose pixels are the numbers of the
    labels in their order, 0 the background.
    """
    from patchword.show import plots

    files, names = images_then_texts(images, labels, "--labels", split=True)
    if not names:
        refuse('give labels: --labels "cat, dog"')
    others = None if background is None else read_list(background, split=True)
    if others == ["none"]:
        others = []
    templates = read_list(template) or None
    targets = picture_paths(files, save, "segments")
    bundle = load(model, device, dtype, stretch, max_pixels, squash)

    def run(source: Source) -> Segmentation:
        with progress("windows") as advance:
            return bundle.segment(
                source, names, others, templates, method, logit_scale, threshold, least_area,
                window=window, stride=stride, short_side=short_side, refine=refine,
                progress=advance, present=present,
            )  # fmt: skip

    failed: list[ImageError] = []
    results = one_by_one(files, run)
    for name, segmentation in successes(results, len(files), "segment", failed, as_json):
        if as_json:
            label_records = list(records(segmentation))
            emit({"image": str(name), "method": segmentation.method, "labels": label_records})
        else:
            screen().print(shares_table(str(name) if len(files) > 1 else "", segmentation))
        if save:
            target = targets[name]
            plots.save(segmentation.picture(title_with_caveat(bundle, name)), target)
            map_file = target.with_name(f"{target.stem}-map.png")
            segmentation.save_map(map_file)
            print_saved(target)
            notes().print(f"wrote {map_file}, in each pixel the number of its label")
    finish(failed, len(files) - len(failed))


def records(segmentation: Segmentation) -> Iterator[dict[str, Any]]:
    """The background, then each label, with its mask if it has pixels."""
    masks = segmentation.rle()
    for each in segmentation.shares:
        yield {
            "label": each.label,
            "share": each.share,
            "probability": each.probability,
            "present": each.present,
            "segmentation": masks.get(each.label),
        }


def shares_table(name: str, segmentation: Segmentation) -> Table:
    """A row per label, the largest first and the background last."""
    numbers = ["share", "mean probability"]
    if segmentation.present:
        numbers.append("in the image")
    out = table(name or "label", *numbers, right=numbers)
    background, *labels = segmentation.shares
    labels.sort(key=lambda label: -label.share)
    for each in (*labels, background):
        cells = [each.label, share(each.share) if each.share else "none"]
        cells.append("" if each.probability is None else share(each.probability))
        if segmentation.present:
            least = segmentation.rule.least
            cells.append("" if each.present is None else share(each.present, least))
        out.add_row(*cells)
    return out


COMMANDS = (segment,)
