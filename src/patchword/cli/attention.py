"""attention: which tokens attend to which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import expand, load
from patchword.cli.options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    SquashOption,
    StretchOption,
)
from patchword.cli.output import (
    emit,
    finish,
    good,
    one_by_one,
    print_saved,
    screen,
    titled,
)
from patchword.cli.pictures import SaveOption, pictures
from patchword.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Show which patches the image tower attends to."""
    from patchword.show import plots

    files = expand(images)
    targets = pictures(files, save, "attention")
    bundle = load(model, device, dtype, None, stretch, max_pixels, squash)
    each = one_by_one(files, lambda source: bundle.attention(source, layer, head, rollout))
    failed: list[ImageError] = []
    for name, found in good(each, len(files), "attention", failed, as_json):
        title = titled(bundle, Path(str(name)).name)
        panel = plots.maps_panel(found.image, found.maps, found.titles, title)
        plots.save(panel, targets[name])
        before = f"{name}, " if len(files) > 1 else ""
        for title, values in zip(found.titles, found.maps, strict=True):
            weight, x, y = peak(values)
            if as_json:
                emit({"image": str(name), "map": title, "value": weight, "x": x, "y": y})
            else:
                screen().print(f"{before}{title}: most on x {x}, y {y} (weight {weight:.3f})")
        print_saved(targets[name])
    finish(failed, len(files) - len(failed))


def peak(values: NDArray[np.float32]) -> tuple[float, int, int]:
    """The largest of a map (H, W), and the x and y of its pixel. NaN is passed over."""
    import numpy as np

    y, x = np.unravel_index(int(np.nanargmax(values)), values.shape)
    return float(values[y, x]), int(x), int(y)


COMMANDS = (attention,)
