"""heatmap, attention: where in an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.held import Source
from patchword.cli.inputs import expand, load
from patchword.cli.options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    ImagesTextsArgument,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    StretchOption,
    TextsOption,
)
from patchword.cli.output import check_save, emit, finish, good, one_by_one, print_saved, screen
from patchword.cli.texts import images_then_texts, no_texts
from patchword.errors import ImageError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from patchword.where.heatmap import Heatmap

SaveOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The picture to write, with the image's name added for each of several; by default "
        "IMAGE-heatmap.png or IMAGE-attention.png in the current folder.",
    ),
]


def heatmap(
    images: ImagesTextsArgument,
    text: TextsOption = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="auto, cosine, maskclip, maskclip-paper, sclip, clearclip, value, naclip, gem, "
            "surgery, scclip, resclip or gradcam; auto is gradcam for a BLIP, else value.",
        ),
    ] = "auto",
    words: Annotated[
        bool, typer.Option("--words", help="With gradcam: also a map for each word.")
    ] = False,
    layer: Annotated[
        int | None,
        typer.Option(
            help="With gradcam: the block whose cross-attention is shown, by default the 8th of 12."
        ),
    ] = None,
    save: SaveOption = None,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Show where in images each text applies."""
    files, texts = images_then_texts(images, text, "--text")
    if not texts:
        no_texts("texts", "--text")
    targets = pictures(files, save, "heatmap")
    bundle = load(model, device, dtype, None, stretch, max_pixels)
    each = one_by_one(
        files, lambda source: bundle.heatmap(source, texts, method, words=words, layer=layer)
    )
    failed: list[ImageError] = []
    for name, found in good(each, len(files), "heatmap", failed, as_json):
        found.save(targets[name])
        peaks = [peak(values) for values in found.values]
        if as_json:
            for said, (value, x, y) in zip(found.texts, peaks, strict=True):
                where = {"value": value, "x": x, "y": y, "method": found.method}
                emit({"image": str(name), "text": said, **where})
        else:
            screen().print(peaks_table(str(name) if len(files) > 1 else "", found, peaks))
        print_saved(targets[name])
    finish(failed, len(files) - len(failed))


def attention(
    images: ImagesArgument,
    layer: Annotated[int, typer.Option(help="The block: 0 is the first, -1 the last.")] = -1,
    head: Annotated[
        int | None,
        typer.Option(help="One head; by default the mean of all heads, then each of them."),
    ] = None,
    rollout: Annotated[
        bool,
        typer.Option(
            "--rollout",
            help="Attention rollout: the product over all layers (Abnar & Zuidema 2020).",
        ),
    ] = False,
    save: SaveOption = None,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Show which patches the image tower attends to."""
    files = expand(images)
    targets = pictures(files, save, "attention")
    bundle = load(model, device, dtype, None, stretch, max_pixels)
    each = one_by_one(files, lambda source: bundle.attention(source, layer, head, rollout))
    failed: list[ImageError] = []
    for name, found in good(each, len(files), "attention", failed, as_json):
        found.save(targets[name])
        before = f"{name}, " if len(files) > 1 else ""
        for title, values in zip(found.titles, found.maps, strict=True):
            weight, x, y = peak(values)
            if as_json:
                emit({"image": str(name), "map": title, "value": weight, "x": x, "y": y})
            else:
                screen().print(f"{before}{title}: most on x {x}, y {y} (weight {weight:.3f})")
        print_saved(targets[name])
    finish(failed, len(files) - len(failed))


def pictures(files: Sequence[Source], save: Path | None, kind: str) -> dict[Source, Path]:
    """The file for the picture of each image: that of --save, with the image's name in it where
    there are several images, else the image's name and the kind, in the current folder."""
    check_save(save)
    out: dict[Source, Path] = {}
    for file in dict.fromkeys(files):
        name = stem(str(file))
        if save:
            name = f"{save.stem}-{name}" if len(files) > 1 else save.stem
        end = save.suffix if save else f"-{kind}.png"
        folder = save.parent if save else Path()
        place, number = folder / f"{name}{end}", 2
        while place in out.values():  # images of the same name in several folders
            place, number = folder / f"{name}-{number}{end}", number + 1
        out[file] = place
    return out


def peaks_table(name: str, found: Heatmap, peaks: list[tuple[float, int, int]]) -> Table:
    """A row per text: the highest value and its place. name: of the image, where there are
    several."""
    kind, form = ("highest cosine", ".3f") if measure(found) == "cosine" else ("highest", ".3g")
    out = table(name or "text", kind, "at x, y (pixels)", right=(kind,))
    for text, (value, x, y) in zip(found.texts, peaks, strict=True):
        out.add_row(text, f"{value:{form}}", f"{x}, {y}")
    return out


def stem(image: str) -> str:
    """What to call a picture of an image: its name without suffix, and its page."""
    from patchword.images.pages import split

    name, page = split(image)
    return Path(name).stem if page is None else f"{Path(name).stem}-page-{page}"


def measure(found: Heatmap) -> str:
    """The unit of a map's values: gradients have none."""
    return "highest" if found.method == "gradcam" else "cosine"


def peak(values: NDArray[np.float32]) -> tuple[float, int, int]:
    """The largest of a map (H, W), and the x and y of its pixel. NaN is passed over."""
    import numpy as np

    y, x = np.unravel_index(int(np.nanargmax(values)), values.shape)
    return float(values[y, x]), int(x), int(y)


COMMANDS = (heatmap, attention)
