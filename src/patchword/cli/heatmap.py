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
from patchword.cli.pictures import SaveOption, common_scale, picture_paths
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
            "naclip, nonly, attnpool, gem, surgery, surgery-features, scclip, resclip, "
            "legrad, chefer, gradcam, head or rollout; patchword info shows what auto means "
            "and why; rollout uses no text, and attnpool is only for CLIP's ResNets.",
        ),
    ] = "auto",
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help='With gradcam: also a map for each word, except words such as "a" and "with".',
        ),
    ] = False,
    layer: Annotated[
        int | None,
        typer.Option(
            help="With gradcam: the block whose cross-attention is shown, by default the 8th of "
            "12. With legrad, chefer: the first block that is used."
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
            help="Instead of texts: find places similar to the patch at this pixel. Works also "
            "for models without text.",
        ),
    ] = None,
    like_image: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --like: the image that the pixel is in."),
    ] = None,
    present: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: a text with a lower probability counts as not found and has no map; 0: "
            "all texts have maps. By default 0.65 with head, 0.5 with --negatives, else 0.1 "
            "compared with a list of common words."
        ),
    ] = None,
    negatives: NegativesOption = None,
    own_scale: Annotated[
        bool,
        typer.Option(
            "--own-scale", help="Scale the colours of each map to its own range of values."
        ),
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
    targets = picture_paths(files, save, "heatmap")
    prepare_output(next(iter(targets.values())))  # without --save too
    others = None if negatives is None else read_list([negatives], split=True)
    point = parse_point(like)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    # Opened once, so that an error names this image and not each photo.
    other_image = bundle.opener(like_image, exact=True) if like_image else None
    # With --words a map for each text alone, so that its words follow it.
    text_groups = [[text] for text in texts] if words else [texts]

    def run(source: Source) -> list[Heatmap]:
        with progress("windows") as advance:
            return [
                bundle.heatmap(
                    source, group, method, words, layer, window=window, stride=stride,
                    short_side=short_side, refine=refine, like=point, like_image=other_image,
                    present=present, negatives=others, progress=advance,
                    tiles=tile_size or tiles,
                )
                for group in text_groups
            ]  # fmt: skip

    failed: list[ImageError] = []
    later: list[tuple[list[Heatmap], str, Path]] = []  # for --same-scale, which needs all values
    results = one_by_one(files, run)
    for name, found in successes(results, len(files), "heatmap", failed, as_json):
        maps = [without_function_words(each, texts) for each in found]
        title = title_with_caveat(bundle, name)
        for each in maps:
            if as_json:
                for record in records(each):
                    emit({"image": str(name), **record})
            else:
                screen().print(peaks_table(str(name) if len(files) > 1 else "", each))
        if same_scale:
            later.append(([each.small() for each in maps], title, targets[name]))
        else:  # the maps of single words are weak, so that each has its own scale
            draw(maps, title, targets[name], own_scale or words, colours)
    scale = common_scale([each.grid[list(each.found)] for maps, _, _ in later for each in maps])
    for maps, title, target in later:
        draw(maps, title, target, False, colours, scale)
    finish(failed, len(files) - len(failed))


def draw(
    maps: Sequence[Heatmap],
    title: str,
    target: Path,
    own_scale: bool,
    colours: str | None,
    scale: tuple[float, float] | None = None,
) -> None:
    """Save the pictures of a photo's heatmaps, one below the other."""
    from patchword.show import plots
    from patchword.show.colours import MAP

    panels = [
        heatmap.picture(own_scale, "" if number else title, colours or MAP, scale)
        for number, heatmap in enumerate(maps)
    ]
    plots.save(plots.stacked(panels), target)
    print_saved(target)


def without_function_words(heatmap: Heatmap, asked: Sequence[str]) -> Heatmap:
    """The maps of content words, such as "cat" and not "a". A function word among `asked` stays."""
    kept = [
        number
        for number, text in enumerate(heatmap.texts)
        if text in asked or text not in FUNCTION_WORDS
    ]
    if len(kept) == len(heatmap.texts) or not asked:
        return heatmap
    present = heatmap.present and tuple(heatmap.present[number] for number in kept)
    texts = tuple(heatmap.texts[number] for number in kept)
    return replace(heatmap, texts=texts, grid=heatmap.grid[kept], probable=present)


def records(heatmap: Heatmap) -> Iterator[dict[str, object]]:
    """For each text its highest value and the place of that, and, where it was computed, how
    probable the text is and whether that is enough."""
    for number, (text, (value, x, y)) in enumerate(
        zip(heatmap.texts, heatmap.peaks(), strict=True)
    ):
        record = {"text": text, "value": value, "x": x, "y": y, "method": heatmap.method}
        if heatmap.present:
            record |= {
                "probability": heatmap.present[number], "found": heatmap.found[number],
            }  # fmt: skip
        yield record


def peaks_table(name: str, heatmap: Heatmap) -> Table:
    """A row per text: its highest value and the place of that. name: of the image, where there are
    several."""
    if unit(heatmap) == "cosine":
        value_column, number_format = "highest cosine", ".3f"
    else:
        value_column, number_format = "highest", ".3g"
    columns = [name or "text", value_column, "at x, y (pixels)"]
    if heatmap.present:
        columns.append("probability")
    out = table(*columns, right=(value_column, "probability"))
    for number, (text, (value, x, y)) in enumerate(
        zip(heatmap.texts, heatmap.peaks(), strict=True)
    ):
        place = f"{x}, {y}" if heatmap.found[number] else "not found"
        cells = [text, f"{value:{number_format}}", place]
        if heatmap.present:
            cells.append(share(heatmap.present[number], heatmap.least))
        out.add_row(*cells)
    return out


def parse_point(like: str | None) -> list[int] | None:
    """ "120,80" as numbers. Raises UnsupportedError for what is not two whole numbers."""
    if like is None:
        return None
    parts = like.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UnsupportedError(f"--like {like!r}: it is x,y of a pixel, such as 120,80")
    return [int(part) for part in parts]


def unit(heatmap: Heatmap) -> str:
    """What the values of a map are: "cosine", or "highest" for methods without a unit."""
    without = ("gradcam", "legrad", "chefer", "surgery-features", "rollout", "maskclip-keys")
    return "highest" if heatmap.method in without else "cosine"


COMMANDS = (heatmap,)
