"""What commands read: models, images and texts, as the command line names them."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchword.cli.checkpoint_options import active_options
from patchword.cli.member_images import Source, UnpackedImage
from patchword.cli.options import EMBEDDED, EMBEDDED_BLIP
from patchword.cli.output import refuse, show_warnings
from patchword.errors import ImageError, PatchwordError
from patchword.imports import uncollected

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from patchword.api import Model
    from patchword.images.files import Skipped

STDIN = "-"
KEEP_ALL = ": --long-text mean keeps all"


def load(
    model: str,
    device: str,
    dtype: str,
    stretch: bool = False,
    max_pixels: int | None = None,
    squash: bool = False,
    texts_alone: bool = False,
    **options: str,
) -> Model:
    """The model that --model, --device and --dtype name, read as `checkpoint_options` say, or
    `options` where they say nothing, which opens images as --stretch, --squash and --max-pixels
    say. texts_alone: it is for texts, see `api.load_for_texts`. Raises CheckpointError or another
    PatchwordError."""
    with uncollected():
        from patchword import api

    how: dict[str, Any] = {**options, **active_options.get().for_model(model)}
    opened = api.load_for_texts if texts_alone else api.load
    bundle = opened(model, device=device, dtype=dtype, **how)
    return bundle.opening(stretch, max_pixels, squash=squash)


def model_name(argument: str | None, option: str | None) -> str:
    """The model that the argument [MODEL] or --model names, by default the embedded one."""
    if argument and option:
        refuse("give the model once")
    return argument or option or EMBEDDED


def model_and_path(arguments: Sequence[str], model: str | None, usage: str) -> tuple[str, Path]:
    """What the arguments [MODEL] PATH name; the model may be given by --model, and is by default
    the embedded one. usage: what is said of more than those two."""
    alone = len(arguments) == 1 and not model and arguments[0] in (EMBEDDED, EMBEDDED_BLIP)
    forgotten = alone and not os.path.exists(arguments[0])  # the path, behind a model
    if len(arguments) > 2 or (len(arguments) == 2 and model) or forgotten:
        refuse(f"give one model and one {usage}")
    return arguments[0] if len(arguments) == 2 else model or EMBEDDED, Path(arguments[-1])


def expand(names: Sequence[str]) -> list[Source]:
    """The images that are named, in order; what is named twice is there twice.

    A name is that of a file, for each of its pages; of a folder, for the images in it at any depth;
    of a .tar, for those in it; a glob, for what it matches; "@FILE", for the names in the lines of
    a file; an address on the web; or "-", for an image in standard input. A name that matches
    nothing stays, so that opening it reports what is wrong with it.
    """
    from patchword.images.files import TARS, Skipped, is_tar, warn_of
    from patchword.images.urls import is_url

    found: list[Source] = []
    unlisted: list[ImageError] = []
    skipped = Skipped()
    every = [
        match for name in _named(names) for match in ([name] if is_url(name) else _globbed(name))
    ]
    tars = {os.path.realpath(name) for name in every if is_tar(name)}
    for name in every:
        if name == STDIN:
            found.append(UnpackedImage("stdin", sys.stdin.buffer.read))
        else:
            found += _inside(name, unlisted, skipped, tars)
    found += [error.image for error in unlisted]  # opening them fails again
    warn_of(skipped, TARS)
    if not found:
        raise PatchwordError(f"no images in {', '.join(names)}")
    return found


def check_beside(place: Path, given: Iterable[str]) -> None:
    """Refuse a folder for results, pictures among them, inside a folder of images."""
    for folder in filter(os.path.isdir, given):
        if place.resolve().is_relative_to(os.path.realpath(folder)):
            refuse(
                f"{place}: lies in {folder}, where the next run would take its pictures for "
                "photos; give a folder beside it"
            )


def files_and_folders(names: Sequence[str]) -> list[str]:
    """The files and folders that are named, by themselves, by globs or in lists, see `expand`."""
    out: list[str] = []
    for name in _named(names):
        if name == STDIN:
            refuse(f"{name}: an index holds files; save the image as a file first")
        out += _globbed(name)
    return out


def _globbed(name: str) -> list[str]:
    """What a glob matches; any other name as it is."""
    return [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True)) or [name]


def _named(names: Sequence[str]) -> list[str]:
    """Names, with those in the lists that "@FILE" stands for."""
    from patchword.text.lines import list_lines

    out: list[str] = []
    if "" in names:
        refuse("an empty name is given among the images; leave it out, or name a file")
    for name in names:
        if not name.startswith("@") or os.path.exists(name):
            out.append(name)
            continue
        if not os.path.exists(name[1:]):
            refuse(f"{name}: no such file")
        out += list_lines(name[1:])
    if out.count(STDIN) > 1:
        refuse("standard input holds one image: give - once")
    return out


def _inside(
    path: str, unlisted: list[ImageError], skipped: Skipped, tars: Collection[str]
) -> Sequence[Source]:
    """The pages of a file; the images in a folder or a tar. tars: those that are named."""
    from patchword.images.files import is_tar, pictures_in
    from patchword.images.pages import every

    if os.path.isdir(path):
        return pictures_in(path, unlisted, skipped, tars)
    return _members(path) if is_tar(path) else every(path)


def _members(path: str) -> list[Source]:
    """The images in a tar, by their suffix, as they stand in it; read when they are opened. Behind
    them, where it is damaged, the tar itself: to open it raises the error, as of a link in it."""
    from patchword.data.tar_files import DamagedError, Tar
    from patchword.images.files import left_out, picture_suffixes

    found: list[Source] = []
    suffixes = picture_suffixes()
    try:
        tar = Tar(Path(path))
        for member in tar.members():
            suffix = os.path.splitext(member.name)[1].lower()
            if suffix in suffixes and not left_out(member.name):
                name = f"{path}/{member.name}"
                whole = partial(tar.read, member)
                found.append(
                    UnpackedImage(
                        name, partial(_fail, name, member.fault) if member.fault else whole
                    )
                )
    except (DamagedError, PatchwordError) as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix("cannot be read: ")
        said = f"damaged: {reason}; what stands before is read"
        said = said if found else f"not a tar that can be read: {reason}"
        found.append(UnpackedImage(path, partial(_fail, path, said)))
    return found


def _fail(name: str, reason: str) -> bytes:
    raise ImageError(name, reason)


def embed_texts(bundle: Model, texts: Sequence[str], long_text: str) -> NDArray[Any]:
    """Unit vectors (N, D); a text that is cut gives a warning on stderr, with the option that
    avoids it."""
    with show_warnings(KEEP_ALL):
        return bundle.embed_texts(texts, long_text=long_text)
