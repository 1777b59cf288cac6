"""heatmap: where in an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import load
from patchword.cli.member_images import Source
from patchword.cli.options import (
    EMBEDDED,
    ColoursOption,
    DeviceOption,
    DtypeOption,
    ImagesTextsArgument,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    NegativesOption,
    RefineOption,
    SameScaleOption,
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
    prepare_output,
    print_saved,
    progress,
    refuse,
    screen,
    successes,
)
from patchword.cli.pictures import SaveOption, common_scale, pictures
from patchword.cli.result_display import title_with_caveat
from patchword.cli.texts import FUNCTION_WORDS, images_then_texts, no_texts, read_list
from patchword.cli.tiles import TileSizeOption, TilesOption
from patchword.errors import ImageError, UnsupportedError
from patchword.show.percent import share
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.where.heatmap import Heatmap


def heatmap(
    images: ImagesTextsArgument,
    text: TextsOption = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="auto, cosine, maskclip, maskclip-paper, maskclip-keys, sclip, clearclip, value, "
            "naclip, nonly, attnpool, gem, surgery, surgery-features, scclip, resclip, legrad, "
            "chefer, gradcam, head or rollout; patchword info says which one auto is and why; "
            "rollout is of no text, attnpool of CLIP's ResNets alone.",
        ),
    ] = "auto",
    words: Annotated[
        bool,
        typer.Option(
            "--words", help="With gradcam: also a map for each word but “a”, “with” and the like."
        ),
    ] = False,
    layer: Annotated[
        int | None,
        typer.Option(
            help="With gradcam: the block whose cross-attention is shown, by default the 8th of "
            "12. With legrad, chefer: the first block that counts."
        ),
    ] = None,
    window: WindowOption = None,
    stride: StrideOption = None,
    short_side: ShortSideOption = None,
    refine: RefineOption = False,
    tiles: TilesOption = False,
    tile_size: TileSizeOption = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="Instead of texts: what looks like the patch at this pixel. For models without "
            "words, too.",
        ),
    ] = None,
    like_image: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --like: the image that the pixel is in."),
    ] = None,
    present: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: a text that is less probable is not found, and has no map; 0: every map. "
            "By default 0.7 with head, 0.5 with --negatives, else 0.1 among the words that a photo "
            "may show."
        ),
    ] = None,
    negatives: NegativesOption = None,
    own_scale: Annotated[
        bool, typer.Option("--own-scale", help="Stretch the colours of each map over its values.")
    ] = False,
    same_scale: SameScaleOption = False,
    colours: ColoursOption = None,
    save: SaveOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Show where in images each text applies."""
    from patchword.show.colours import MAP, known

    files, texts = images_then_texts(images, text, "--text")
    if not texts and like is None and method != "rollout":
        no_texts("texts", "--text")
    if same_scale and (own_scale or words):
        refuse("--same-scale is one scale for all; leave out --own-scale and --words, or that")
    known(colours or MAP)
    targets = pictures(files, save, "heatmap")
    prepare_output(next(iter(targets.values())))  # without --save too
    others = None if negatives is None else read_list([negatives], split=True)
    point = place(like)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    # Opened here, so that what is wrong with it is said of it, and not of each photo.
    other = like_image and bundle.opener(like_image, exact=True)

    def run(source: Source) -> list[Heatmap]:
        # With words one text at a time, so that each has a panel with its own words.
        with progress("windows") as advance:
            return [
                bundle.heatmap(
                    source, asked, method, words, layer, None, window, stride, short_side, refine,
                    point, other, present, others, advance, None, tile_size or tiles,
                )
                for asked in ([[text] for text in texts] if words else [texts])
            ]  # fmt: skip

    each = one_by_one(files, run)
    failed: list[ImageError] = []
    later: list[tuple[list[Heatmap], str, Path]] = []
    for name, maps in successes(each, len(files), "heatmap", failed, as_json):
        parts = [content(found, texts) for found in maps]
        title = title_with_caveat(bundle, name)
        for part in parts:
            for record in records(part) if as_json else ():
                emit({"image": str(name), **record})
            if not as_json:
                screen().print(peaks_table(str(name) if len(files) > 1 else "", part))
        if same_scale:
            later.append(([part.small() for part in parts], title, targets[name]))
        else:  # words are weak beside each other: each has its own scale
            draw(parts, title, targets[name], own_scale or words, colours)
    scale = common_scale([part.grid[list(part.found)] for parts, _, _ in later for part in parts])
    for parts, title, target in later:
        draw(parts, title, target, False, colours, scale)
    finish(failed, len(files) - len(failed))


def draw(
    parts: Sequence[Heatmap],
    title: str,
    target: Path,
    each: bool,
    colours: str | None,
    scale: tuple[float, float] | None = None,
) -> None:
    """Save the pictures of a photo's heatmaps, one under the other."""
    from patchword.show import plots
    from patchword.show.colours import MAP

    panels = [
        part.picture(each, "" if number else title, colours or MAP, scale)
        for number, part in enumerate(parts)
    ]
    plots.save(plots.stacked(panels), target)
    print_saved(target)


def content(found: Heatmap, asked: Sequence[str]) -> Heatmap:
    """The maps without those of words that say nothing of what is in an image, unless asked for."""
    known = enumerate(found.texts)
    kept = [n for n, text in known if text in asked or text not in FUNCTION_WORDS]
    if not found.texts or len(kept) == len(found.texts) or not asked:
        return found
    present = found.present and tuple(found.present[n] for n in kept)
    texts = tuple(found.texts[n] for n in kept)
    return replace(found, texts=texts, grid=found.grid[kept], probable=present)


def records(found: Heatmap) -> Iterator[dict[str, object]]:
    """Of each text the highest value and its place, and whether it was found where that was
    asked."""
    for number, (text, (value, x, y)) in enumerate(zip(found.texts, found.peaks(), strict=True)):
        where = {"text": text, "value": value, "x": x, "y": y, "method": found.method}
        sure = {"probability": found.present[number]} if found.present else {}
        yield {**where, **sure, **({"found": found.found[number]} if found.present else {})}


def peaks_table(name: str, found: Heatmap) -> Table:
    """A row per text: the highest value and its place. name: of the image, where there are
    several."""
    kind, form = ("highest cosine", ".3f") if measure(found) == "cosine" else ("highest", ".3g")
    more = ("probability",) if found.present else ()
    out = table(name or "text", kind, "at x, y (pixels)", *more, right=(kind, *more))
    for number, (text, (value, x, y)) in enumerate(zip(found.texts, found.peaks(), strict=True)):
        sure = (share(found.present[number]),) if found.present else ()
        spot = f"{x}, {y}" if found.found[number] else "not found"
        out.add_row(text, f"{value:{form}}", spot, *sure)
    return out


def place(like: str | None) -> list[int] | None:
    """ "120,80" as numbers. Raises UnsupportedError for what is not two whole numbers."""
    if like is None:
        return None
    parts = like.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UnsupportedError(f"--like {like!r}: it is x,y of a pixel, such as 120,80")
    return [int(part) for part in parts]


def measure(found: Heatmap) -> str:
    """The unit of a map's values; those of some methods have none."""
    without = ("gradcam", "legrad", "chefer", "surgery-features", "rollout", "maskclip-keys")
    return "highest" if found.method in without else "cosine"


COMMANDS = (heatmap,)
