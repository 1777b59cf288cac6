"""locate: boxes and masks of what texts name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
from patchword.cli.pictures import pictures
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
            help="Score this box, in pixels, instead of looking for regions; repeat for more.",
        ),
    ] = None,
    method: DenseMethodOption = "auto",
    present: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: a text that is less probable is not found; 0: look anyway. By default "
            "0.5 against --negatives, else 0.1 among the words that a photo may show; not asked of "
            "a model with a head for maps."
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

    A text that is not there has none: the table says “not found”, and --json nothing.
    """
    from patchword.show import plots

    files, texts = images_then_texts(images, text, "--text")
    if not texts:
        no_texts("texts", "--text")
    targets = pictures(files, save, "regions")
    others = None if negatives is None else read_list([negatives], split=True)
    given = [corners(each) for each in box] if box else None
    bundle = load(model, device, dtype, stretch, max_pixels, squash)

    def run(source: Source) -> Located:
        with progress("windows") as advance:
            return bundle.locate(
                source, texts, given, method, present, others, None, window, stride, short_side,
                refine, advance,
            )  # fmt: skip

    failed: list[ImageError] = []
    each = one_by_one(files, run)
    for name, found in successes(each, len(files), "locate", failed, as_json):
        for region in found.regions if as_json else ():
            scores = {"score": region.score} | ({"crop": region.crop} if given else {})
            where = {"box": list(region.box), "area": region.area}
            mask = {} if given else {"segmentation": found.rle(region)}
            who = {"image": str(name), "path": str(name), "text": region.text}
            emit({**who, **scores, **where, **mask})
        if not as_json:
            screen().print(regions_table(str(name) if len(files) > 1 else "", found))
        if save:
            plots.save(found.picture(title_with_caveat(bundle, name)), targets[name])
            print_saved(targets[name])
    finish(failed, len(files) - len(failed))


def corners(box: str) -> list[int]:
    """ "10,20,30,40" as numbers."""
    parts = box.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        refuse(f"--box {box}: it is x1,y1,x2,y2 in pixels, such as 10,20,110,90")
    return [int(part) for part in parts]


def regions_table(name: str, found: Located) -> Table:
    """A row per region; of a text that was not found one that says so, with how probable it is."""
    crops = any(region.crop is not None for region in found.regions)
    numbers = ("score", *(("of the crop",) if crops else ()), "area")
    out = table(name or "text", "x1, y1, x2, y2", *numbers, right=numbers)
    for region in found.regions:
        crop = (f"{region.crop:.3f}",) if region.crop is not None else ()
        box = ", ".join(map(str, region.box))
        out.add_row(region.text, box, f"{region.score:.3f}", *crop, f"{region.area:,}")
    for text in found.missing:
        sure = found.present and share(found.present[found.texts.index(text)])
        out.add_row(text, f"not found ({sure} probable)" if sure else "not found")
    return out


COMMANDS = (locate,)
