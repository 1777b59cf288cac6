"""locate: boxes and masks of what texts name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.inputs import load
from patchword.cli.member_images import Source
from patchword.cli.options import (
    EMBEDDED,
    DenseMethodOption,
    DeviceOption,
    DtypeOption,
    ImagesTextsArgument,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    NegativesOption,
    PictureOption,
    RefineOption,
    ShortSideOption,
    SquashOption,
    StretchOption,
    StrideOption,
    TextsOption,
    WindowOption,
)
from patchword.cli.output import (
    emit,
    finish,
    one_by_one,
    print_saved,
    progress,
    refuse,
    screen,
    successes,
)
from patchword.cli.pictures import picture_paths
from patchword.cli.result_display import title_with_caveat
from patchword.cli.texts import images_then_texts, no_texts, read_list
from patchword.errors import ImageError
from patchword.show.percent import share
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.where.locate import Located


def locate(
    images: ImagesTextsArgument,
    text: TextsOption = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2",
            help="Score this box, in pixels, instead of searching for regions; repeat for more.",
        ),
    ] = None,
    method: DenseMethodOption = "auto",
    present: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: a text with a lower probability counts as not found; 0: all texts are "
            "located. By default 0.5 with --negatives, else 0.65 by a model with a dense "
            "head, and 0.1 compared with a list of common words."
        ),
    ] = None,
    negatives: NegativesOption = None,
    window: WindowOption = None,
    stride: StrideOption = None,
    short_side: ShortSideOption = None,
    refine: RefineOption = False,
    save: PictureOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Find what texts name in images: boxes and scores, the largest region first.

    For a text that is not found, the table says "not found" and --json prints nothing.
    """
    from patchword.show import plots

    files, texts = images_then_texts(images, text, "--text")
    if not texts:
        no_texts("texts", "--text")
    targets = picture_paths(files, save, "regions")
    others = None if negatives is None else read_list([negatives], split=True)
    boxes = [parse_box(each) for each in box] if box else None
    bundle = load(model, device, dtype, stretch, max_pixels, squash)

    def run(source: Source) -> Located:
        with progress("windows") as advance:
            return bundle.locate(
                source, texts, boxes, method, present, others, window=window, stride=stride,
                short_side=short_side, refine=refine, progress=advance,
            )  # fmt: skip

    failed: list[ImageError] = []
    results = one_by_one(files, run)
    for name, located in successes(results, len(files), "locate", failed, as_json):
        if as_json:
            for region in located.regions:
                record: dict[str, Any] = {"image": str(name), "path": str(name)}
                record |= {"text": region.text, "score": region.score}
                if boxes:
                    record["crop"] = region.crop
                record |= {"box": list(region.box), "area": region.area}
                if not boxes:
                    record["segmentation"] = located.rle(region)
                emit(record)
        else:
            screen().print(regions_table(str(name) if len(files) > 1 else "", located))
        if save:
            plots.save(located.picture(title_with_caveat(bundle, name)), targets[name])
            print_saved(targets[name])
    finish(failed, len(files) - len(failed))


def parse_box(box: str) -> list[int]:
    """ "10,20,30,40" as numbers."""
    parts = box.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        refuse(f"--box {box}: it is x1,y1,x2,y2 in pixels, such as 10,20,110,90")
    return [int(part) for part in parts]


def regions_table(name: str, located: Located) -> Table:
    """A row per region. A text that was not found has a row that says so, with its probability."""
    columns = [name or "text", "x1, y1, x2, y2", "score"]
    if any(region.crop is not None for region in located.regions):
        columns.append("of the crop")
    out = table(*columns, "area", right=("score", "of the crop", "area"))
    for region in located.regions:
        cells = [region.text, ", ".join(map(str, region.box)), f"{region.score:.3f}"]
        if region.crop is not None:
            cells.append(f"{region.crop:.3f}")
        out.add_row(*cells, f"{region.area:,}")
    for text in located.missing:
        result = "not found"
        if located.present:
            probability = located.present[located.texts.index(text)]
            result += f" ({share(probability, located.least)} probable)"
        out.add_row(text, result)
    return out


COMMANDS = (locate,)
