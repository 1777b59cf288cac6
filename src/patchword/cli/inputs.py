"""Models and images as the command line names them."""

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
    """Load the model that --model names.

    stretch, max_pixels and squash: how it opens images. texts_alone: load only what texts need, see
    `api.load_for_texts`. options: of `api.load`; those of the command line (`checkpoint_options`)
    come before them. Raises CheckpointError or another PatchwordError.
    """
    with uncollected():
        from patchword import api

    all_options: dict[str, Any] = {**options, **active_options.get().for_model(model)}
    load_model = api.load_for_texts if texts_alone else api.load
    bundle = load_model(model, device=device, dtype=dtype, **all_options)
    return bundle.opening(stretch, max_pixels, squash=squash)


def model_name(argument: str | None, option: str | None) -> str:
    """The model that the argument [MODEL] or --model names; by default the embedded one."""
    if argument and option:
        refuse("give the model once")
    return argument or option or EMBEDDED


def model_and_path(arguments: Sequence[str], model: str | None, usage: str) -> tuple[str, Path]:
    """The model and the path that the arguments [MODEL] PATH name. The model may also be given by
    --model, and is by default the embedded one. usage: ends the message for other arguments."""
    *names, path = arguments
    without_path = path in (EMBEDDED, EMBEDDED_BLIP) and not os.path.exists(path)
    if len(names) > 1 or (names and model) or (without_path and not names and not model):
        refuse(f"give one model and one {usage}")
    return names[0] if names else model or EMBEDDED, Path(path)


def expand(names: Sequence[str]) -> list[Source]:
    """The images that are named, in order; an image that is named twice is there twice.

    A name is a file, which stands for each of its pages; a folder, for the images in it at any
    depth; a .tar, for the images in it; a glob, for what it matches; "@FILE", for the names in the
    lines of a file; an address on the web; or "-", for an image in standard input. A name that
    matches nothing stays, so that opening it reports the error.
    """
    from patchword.images.files import TARS, Skipped, is_tar, warn_of

    images: list[Source] = []
    unlisted: list[ImageError] = []
    skipped = Skipped()
    paths = [path for name in _expand_lists(names) for path in _expand_glob(name)]
    tars = {os.path.realpath(path) for path in paths if is_tar(path)}
    for path in paths:
        if path == STDIN:
            images.append(UnpackedImage("stdin", sys.stdin.buffer.read))
        else:
            images += _images_in(path, unlisted, skipped, tars)
    images += [error.image for error in unlisted]  # opening them fails again
    warn_of(skipped, TARS)
    if not images:
        raise PatchwordError(f"no images in {', '.join(names)}")
    return images


def check_beside(place: Path, sources: Iterable[str]) -> None:
    """Refuse to write results, pictures among them, into a folder of images that is read."""
    for folder in filter(os.path.isdir, sources):
        if place.resolve().is_relative_to(os.path.realpath(folder)):
            refuse(
                f"{place}: lies in {folder}, where the next run would take its pictures for "
                "photos; give a folder beside it"
            )


def files_and_folders(names: Sequence[str]) -> list[str]:
    """The files and folders that are named, by themselves, by globs or in lists, see `expand`."""
    paths: list[str] = []
    for name in _expand_lists(names):
        if name == STDIN:
            refuse(f"{name}: an index holds files; save the image as a file first")
        paths += _expand_glob(name)
    return paths


def _expand_glob(name: str) -> list[str]:
    """The paths that a glob matches; any other name as it is."""
    from patchword.images.urls import is_url

    if os.path.exists(name) or is_url(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]


def _expand_lists(names: Sequence[str]) -> list[str]:
    """Names, with the lines of a file in place of "@FILE"."""
    from patchword.text.lines import list_lines

    expanded: list[str] = []
    if "" in names:
        refuse("an empty name is given among the images; leave it out, or name a file")
    for name in names:
        if not name.startswith("@") or os.path.exists(name):
            expanded.append(name)
            continue
        if not os.path.exists(name[1:]):
            refuse(f"{name}: no such file")
        expanded += list_lines(name[1:])
    if expanded.count(STDIN) > 1:
        refuse("standard input holds one image: give - once")
    return expanded


def _images_in(
    path: str, unlisted: list[ImageError], skipped: Skipped, tars: Collection[str]
) -> Sequence[Source]:
    """The pages of a file, or the images in a folder or a tar. Folders that cannot be listed are
    added to `unlisted`, and other files to `skipped`. tars: those that are named."""
    from patchword.images.files import is_tar, pictures_in
    from patchword.images.pages import every

    if os.path.isdir(path):
        return pictures_in(path, unlisted, skipped, tars)
    return _members(path) if is_tar(path) else every(path)


def _members(path: str) -> list[Source]:
    """The images in a tar, found by their suffix, in its order; they are read when they are opened.

    Opening a member that is, for example, a link raises ImageError. Where the tar is damaged, the
    tar itself comes last, and opening it raises the error.
    """
    from patchword.data.tar_files import DamagedError, Tar
    from patchword.images.files import left_out, picture_suffixes

    images: list[Source] = []
    suffixes = picture_suffixes()
    try:
        tar = Tar(Path(path))
        for member in tar.members():
            suffix = os.path.splitext(member.name)[1].lower()
            if suffix not in suffixes or left_out(member.name):
                continue
            name = f"{path}/{member.name}"
            if member.fault:
                images.append(UnpackedImage(name, partial(_fail, name, member.fault)))
            else:
                images.append(UnpackedImage(name, partial(tar.read, member)))
    except (DamagedError, PatchwordError) as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix("cannot be read: ")
        if images:
            reason = f"damaged: {reason}; what stands before is read"
        else:
            reason = f"not a tar that can be read: {reason}"
        images.append(UnpackedImage(path, partial(_fail, path, reason)))
    return images


def _fail(name: str, reason: str) -> bytes:
    raise ImageError(name, reason)


def embed_texts(bundle: Model, texts: Sequence[str], long_text: str) -> NDArray[Any]:
    """Unit vectors (N, D). A warning on stderr tells of texts that are cut, and how to avoid it."""
    with show_warnings(KEEP_ALL):
        return bundle.embed_texts(texts, long_text=long_text)
