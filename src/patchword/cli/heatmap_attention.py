"""heatmap, attention: where in an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import load
from patchword.cli.options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    ImageArgument,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    StretchOption,
)
from patchword.cli.output import check_save, emit, print_saved, screen
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from patchword.where.heatmap import Heatmap

SaveOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The picture to write; by default IMAGE-heatmap.png or IMAGE-attention.png in the "
        "current folder.",
    ),
]


def heatmap(
    image: ImageArgument,
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXTS...", help="What to look for, each in quotes.")
    ],
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
    """Show where in an image each text applies."""
    target = save or Path(f"{stem(image)}-heatmap.png")
    check_save(target)
    bundle = load(model, device, dtype, None, stretch, max_pixels)
    found = bundle.heatmap(image, texts, method, words=words, layer=layer)
    found.save(target)
    peaks = [peak(values) for values in found.values]
    if as_json:
        for text, (value, x, y) in zip(found.texts, peaks, strict=True):
            where = {measure(found): value, "x": x, "y": y}
            emit({"image": image, "text": text, **where, "method": found.method})
    else:
        kind, form = ("highest cosine", ".3f") if measure(found) == "cosine" else ("highest", ".3g")
        answer = table("text", kind, "at x, y (pixels)", right=(kind,))
        for text, (value, x, y) in zip(found.texts, peaks, strict=True):
            answer.add_row(text, f"{value:{form}}", f"{x}, {y}")
        screen().print(answer)
    print_saved(target)


def attention(
    image: ImageArgument,
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
    target = save or Path(f"{stem(image)}-attention.png")
    check_save(target)
    bundle = load(model, device, dtype, None, stretch, max_pixels)
    found = bundle.attention(image, layer, head, rollout)
    found.save(target)
    for title, values in zip(found.titles, found.maps, strict=True):
        weight, x, y = peak(values)
        if as_json:
            emit({"image": image, "map": title, "weight": weight, "x": x, "y": y})
        else:
            screen().print(f"{title}: most on x {x}, y {y} (weight {weight:.3f})")
    print_saved(target)


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
