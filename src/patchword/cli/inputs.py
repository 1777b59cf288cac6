"""What commands read: models, images and texts, as the command line names them."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patchword.cli.checkpoint_options import chosen
from patchword.cli.output import warnings_said, wrong
from patchword.errors import ImageError, PatchwordError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from patchword.api import Model

KEEP_ALL = ": --long-text mean keeps all"


def load(
    model: str,
    device: str,
    dtype: str,
    image_size: list[int] | None = None,
    stretch: bool = False,
    max_pixels: int | None = None,
    **options: str,
) -> Model:
    """The model that --model, --device and --dtype name, read as `checkpoint_options` say, or
    `options` where they say nothing, which opens images as --stretch and --max-pixels say. Raises
    CheckpointError and its kin."""
    from patchword import api

    how: dict[str, Any] = {**options, **chosen.get().of(model)}
    bundle = api.load(model, device=device, dtype=dtype, image_size=image_size, **how)
    return bundle.opening(stretch, max_pixels)


def expand(paths: Sequence[str]) -> list[str]:
    """Each file as given, for a folder the images in it at any depth, for a glob what it matches;
    of a file with several pages each page. What is named twice is there twice.

    A name that matches nothing stays, so that opening it tells what is wrong with it.
    """
    from patchword.images.files import Skipped, pictures_in, warn_of
    from patchword.images.pages import every

    found: list[str] = []
    unlisted: list[ImageError] = []
    skipped = Skipped()
    for path in paths:
        matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        for match in matches or [path]:
            inside = pictures_in(match, unlisted, skipped) if os.path.isdir(match) else every(match)
            found += inside
    found += [error.image for error in unlisted]  # opening them fails again
    warn_of(skipped)
    if not found:
        raise PatchwordError(f"no images in {', '.join(paths)}")
    return found


def read_list(values: Sequence[str] | None, split: bool = False) -> list[str]:
    """The entries of a repeated option; "@FILE" stands for the lines of a file (see `list_lines`),
    and with `split` commas separate entries, of which empty ones are left out."""
    from patchword.text.lines import list_lines

    out: list[str] = []
    for value in values or ():
        if value.startswith("@"):
            try:
                out += list_lines(value[1:])
            except PatchwordError as error:
                wrong(f"@{error}")
        elif split:
            out += [word.strip() for word in value.split(",") if word.strip()]
        elif value.strip():
            out.append(value.strip())
        else:
            wrong("an empty text is given; leave it out, or say something")
    return out


def embed_texts(bundle: Model, texts: Sequence[str], long_text: str) -> NDArray[Any]:
    """Unit vectors (N, D); a text that is cut gives a warning on stderr, with the option that
    avoids it."""
    with warnings_said(KEEP_ALL):
        return bundle.embed_texts(texts, long_text=long_text)
