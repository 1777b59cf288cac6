"""Open any image: file, URL, bytes, PIL image, array or tensor -> RGB uint8 (H, W, 3), upright, in
sRGB.

The steps, in this order: take the first frame of an animation, or the named page (see `pages`);
scale samples of more than 8 bits to 8 (see `high_bit_depth`); convert an embedded colour profile to
sRGB; put transparency over white; apply the EXIF orientation. An image that cannot be opened raises
an ImageError with its name and the reason.
"""

from __future__ import annotations

import glob
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from patchword.errors import ImageError, ImageWarning, warn
from patchword.images import (
    dicom,
    high_bit_depth,
    kinds,
    npy,
    pages,
    pillow,
    raws,
    tensors,
    tiff,
    urls,
)
from patchword.images.broken_links import dangling
from patchword.images.colours import to_picture, to_rgb
from patchword.images.high_bit_depth import Samples
from patchword.images.photo import RGB, Photo
from patchword.images.unreadable import RefusedError, TooManyPixelsError, reason, refuse_if
from patchword.options import at_least as checked_least

__all__ = ["MAX_PIXELS", "ImageLike", "Opener", "name_of", "open"]

Content = bytes | bytearray | memoryview
ImageLike = (
    str | os.PathLike[str] | Content | IO[bytes] | Image.Image | NDArray[Any] | tensors.Tensor
)
MAX_PIXELS = 300_000_000  # of an image as it is decoded; phones make 200 million

_SEVERAL = "not one image, but maybe several: patchword.find_images lists them"
_ADDRESS = "only https:// and http:// addresses are opened; copy it to a disk, give its path"


def name_of(image: ImageLike) -> str:
    """The name of `image` in messages: its path as given, or a description of its type."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return f"<bytes, {memoryview(image).nbytes} B>"
    if isinstance(image, Image.Image):
        size = f"{image.width}x{image.height}"
        return str(getattr(image, "filename", "")) or f"<PIL image {size} {image.mode}>"
    if isinstance(image, np.ndarray):
        return f"<array {'x'.join(map(str, image.shape))}>"
    if tensors.is_tensor(image):
        return f"<tensor {'x'.join(map(str, image.shape))}>"
    named = getattr(image, "name", None)
    return named if isinstance(named, str) and named else f"<{type(image).__name__}>"


@dataclass(frozen=True)
class Opener:
    """Opens images. For the options see `open`. urls=False refuses addresses, as a server must;
    exact=True decodes every JPEG at its full size."""

    stretch: bool = False
    max_pixels: int = MAX_PIXELS
    urls: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        checked_least("max_pixels", self.max_pixels)

    def __call__(
        self, image: ImageLike, *, at_least: int | None = None, exact: bool = False
    ) -> RGB:
        """RGB uint8 (H, W, 3) of one image; see `open`."""
        return self.sized(image, at_least=at_least, exact=exact).array

    def sized(self, image: ImageLike, *, at_least: int | None = None, exact: bool = False) -> Photo:
        """`__call__`, with the image's size in its file."""
        target = None if exact or self.exact else at_least
        job = _Job(name_of(image), target, self.stretch, self.max_pixels)
        try:
            return _opened_as(image, job, self.urls)
        except ImageWarning:  # if the user has turned warnings into errors
            raise
        # For a damaged header Pillow's plugins raise errors of many types: KeyError, struct.error,
        # ZeroDivisionError, AssertionError... Each means that this image cannot be opened.
        except Exception as error:
            raise ImageError(job.name, reason(error, self.max_pixels)) from error

    def to_send(self, image: ImageLike) -> ImageLike | None:
        """What is sent to another process to open an image; None: this process opens it."""
        if isinstance(image, (str, os.PathLike)):
            path = os.fspath(image)
            return str.__str__(path) if isinstance(path, str) else None  # not of a subclass of str
        return image if type(image) is bytes else None

    def recorded(self, image: ImageLike) -> Any:
        """What a subclass recorded of an image that it has opened."""

    def record(self, image: ImageLike, recorded: Any) -> None:
        """Store what a subclass recorded of an image in another process."""


def open(
    image: ImageLike,
    *,
    at_least: int | None = None,
    exact: bool = False,
    stretch: bool = False,
    max_pixels: int = MAX_PIXELS,
    urls: bool = True,
) -> RGB:
    """RGB uint8 (H, W, 3) of one image; uint8 (H, W, 3) arrays come back as they are.

    An image is a path, "stack.tif#3" for the third page of a file, an address on the web, the
    content of a file, a file that is open for reading bytes, a PIL image, an array or a tensor. An
    array is (H, W) or (H, W, C), C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA, of uint8, bool,
    uint16 (0..65535) or floats (0..1); a tensor too, or (C, H, W).

    at_least: the shorter side, in pixels, that the caller needs. A JPEG is then decoded at its
    smallest DCT scale (1, 1/2, 1/4 or 1/8) whose shorter side is at least twice that, unless
    `exact`. Samples of more than 8 bits are scaled from the range in the file's tags, else from
    that of their type. stretch: scale from the 0.5 and 99.5 percentiles of the image instead,
    whatever its depth. max_pixels: a file with more, after the DCT scaling, is refused. urls=False
    refuses addresses. Raises ImageError; an ImageWarning says that further pages were not read, or
    that the image is nearly black."""
    return Opener(stretch, max_pixels, urls)(image, at_least=at_least, exact=exact)


@dataclass(frozen=True)
class _Job:
    """The options for one image. target: `at_least` of `open`."""

    name: str
    target: int | None
    stretch: bool
    max_pixels: int

    def warn(self, message: str, category: type[ImageWarning] = ImageWarning) -> None:
        warn(f"{self.name}: {message}", category)

    def check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise TooManyPixelsError(width, height)


def _opened_as(image: Any, job: _Job, web: bool) -> Photo:
    """The photo of an image of any type."""
    if isinstance(image, Image.Image):
        return _from_picture(image, job)
    if isinstance(image, np.ndarray):
        return _from_array(image, job)
    if tensors.is_tensor(image):
        return _from_array(tensors.to_array(image), job)
    if isinstance(image, (str, os.PathLike)):
        name, page = pages.split(os.fspath(image))
        if not urls.is_url(name):
            path = _readable(name)
            return _from_file(lambda: path.open("rb"), job, page, path.suffix.lower())
        refuse_if(not web, "a URL: download it and give its path")
        fetched = urls.fetch(name)
        return _from_file(lambda: io.BytesIO(fetched), job, page)
    if isinstance(image, (bytes, bytearray, memoryview)):
        content: Content = image
    elif hasattr(image, "read"):
        content = _content(image)
    else:
        raise RefusedError("not an image: give a path, bytes, a PIL image or a numpy array")
    refuse_if(not len(content), "empty: 0 bytes")
    return _from_file(lambda: io.BytesIO(content), job)


def _readable(path: str) -> Path:
    """The path of a regular, non-empty file. Refuses anything else: a pipe or device could hang."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise RefusedError(_why_missing(path)) from None
    refuse_if(stat.S_ISDIR(status.st_mode), _SEVERAL)
    refuse_if(not stat.S_ISREG(status.st_mode), "not a regular file; save what it gives as one")
    refuse_if(status.st_size == 0, "empty: 0 bytes")
    return Path(path)


def _why_missing(path: str) -> str:
    broken_link = dangling(path)
    if broken_link:
        return broken_link
    is_list = path.startswith("@") and os.path.isfile(path[1:])
    if is_list or glob.glob(path, recursive=True):
        return _SEVERAL
    if "://" in path and not path.startswith("file:"):
        return _ADDRESS
    return "no such file"


def _content(file: Any) -> bytes:
    """The content of an open file, from its start if it can seek. Its position is restored, so that
    it can be read again."""
    seekable = hasattr(file, "seekable") and file.seekable()
    position = file.tell() if seekable else 0
    if seekable:
        file.seek(0)
    content = file.read()
    if seekable:
        file.seek(position)
    refuse_if(not isinstance(content, bytes), 'a file of text; open it with mode "rb"')
    return bytes(content)


def _from_file(
    start: Callable[[], BinaryIO], job: _Job, page: int | None = None, suffix: str = ""
) -> Photo:
    """Decode the file that `start` opens. page: from 1; None: the first. suffix: of its name."""
    with start() as file:
        head = file.read(kinds.HEAD)
        in_tiff = head.startswith(kinds.TIFF)
        kind = kinds.of(head)
        if in_tiff and (suffix in kinds.RAW.suffixes or tiff.is_raw(file)):
            kind = kinds.RAW
        refuse_if(kind is not None and not kinds.opens(kind), kinds.refusal(kind))
        if kind is kinds.HEIC:
            kinds.register()
        file.seek(0)
        if kind in _OWN_READERS:
            return _OWN_READERS[kind](file, page, job)
        if in_tiff:
            return _from_tiff(file, start, _frame(tiff.pages(file), page, job), job)
    refuse_if(page == 0, "no page 0: the first is #1")
    return _by_pillow(start, job, (page or 1) - 1)


def _from_tiff(file: BinaryIO, start: Callable[[], BinaryIO], frame: int, job: _Job) -> Photo:
    try:
        return _by_pillow(start, job, frame)
    except (UnidentifiedImageError, SyntaxError):  # Pillow's error does not name the reason
        unusual = tiff.unusual(file, frame)
        refuse_if(bool(unusual), f"a TIFF with {unusual}; save it as PNG, or give an array")
        raise


def _frame(frames: list[int], page: int | None, job: _Job) -> int:
    """The reader's number of a page, from 1, out of the numbers of all pages."""
    count = len(frames)
    if page is None and count > 1:
        job.warn(f"page 1 of {count} is opened; #2 behind its name is the second (file.tif#2)")
    number = 1 if page is None else page
    if not 1 <= number <= count:
        has = f"it has pages #1 to #{count}" if count > 1 else "it has one page, #1"
        raise RefusedError(f"no page {page}: {has}")
    return frames[number - 1]


def _from_npy(file: BinaryIO, page: int | None, job: _Job) -> Photo:
    number = _frame(npy.pages(file), page, job)
    file.seek(0)
    return _from_array(npy.read(file, number, job.max_pixels), job)


def _from_dicom(file: BinaryIO, page: int | None, job: _Job) -> Photo:
    frame = _frame(dicom.pages(file), page, job)
    file.seek(0)
    job.check_size(*dicom.size(file))
    file.seek(0)
    return _of_samples(dicom.read(file, frame, job.stretch), job)


def _from_raw(file: BinaryIO, page: int | None, job: _Job) -> Photo:
    _frame([0], page, job)
    photo = raws.read(file, job.max_pixels)
    if isinstance(photo, bytes):
        return _by_pillow(lambda: io.BytesIO(photo), job, 0)
    return _from_array(photo, job)


_OWN_READERS: dict[kinds.Kind | None, Callable[[BinaryIO, int | None, _Job], Photo]] = {
    kinds.NPY: _from_npy,
    kinds.DICOM: _from_dicom,
    kinds.RAW: _from_raw,
}


def _by_pillow(start: Callable[[], BinaryIO], job: _Job, frame: int) -> Photo:
    """Decode one frame, from 0, of a file that Pillow reads."""
    with pillow.opened(start, frame) as picture:
        pillow.refuse_unsound(picture, job.max_pixels)
        if picture.info.get("progressive"):  # all coefficients are in memory, also when scaled
            job.check_size(*picture.size)
        stored = picture.size
        if job.target:
            picture.draft(None, (2 * job.target, 2 * job.target))
        job.check_size(*picture.size)
        first_gif = picture.format == "GIF" and picture.tile and not frame
        cover = picture.tile[0].extents if first_gif else None
        samples = high_bit_depth.read_encoded(picture, lambda: pillow.opened(start, frame))
        photo = _from_picture(picture, job, cover, samples, stored)
        return replace(photo, jpeg=picture.format in ("JPEG", "MPO"))


def _from_picture(
    picture: Any,
    job: _Job,
    cover: tuple[int, int, int, int] | None = None,
    samples: Samples | None = None,
    stored: tuple[int, int] | None = None,
) -> Photo:
    """The photo of a PIL image of any mode.

    cover: the box (left, top, right, bottom) of a GIF's first frame; pixels outside are white.
    samples: samples of more than 8 bits that were read without Pillow. stored: (width, height) in
    the file, for an image that was decoded at a smaller size.
    """
    refuse_if(0 in picture.size, "it has no pixels")
    if samples is None:
        picture = _loaded(picture)
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    profile = picture.info.get("icc_profile")
    if samples is None:
        samples = high_bit_depth.read_decoded(picture)
    if samples is not None:
        picture = Image.fromarray(samples.to_eight_bits(job.stretch, job.warn))
    pixels = to_picture(picture, profile)
    if cover is not None:
        covered = np.asarray(pixels)
        pixels = np.full_like(covered, 255)
        left, top, right, bottom = cover
        pixels[top:bottom, left:right] = covered[top:bottom, left:right]
    if job.stretch and samples is None:
        pixels = high_bit_depth.stretched(np.asarray(pixels))
    return Photo.of(pixels, stored or picture.size, orientation)


def _loaded(picture: Any) -> Any:
    """The decoded picture. Pillow scales the grey of a PNG of 2 or 4 bits to 0..255, but not the
    grey value that means transparent."""
    layout = str(picture.tile[0].args) if picture.format == "PNG" and picture.tile else ""
    pillow.prepare(picture)
    picture.load()
    step = {"L;2": 85, "L;4": 17}.get(layout)
    if step is None or "transparency" not in picture.info:
        return picture
    picture = picture.copy()  # the user's picture must not change
    picture.info["transparency"] *= step
    return picture


def _from_array(array: NDArray[Any], job: _Job) -> Photo:
    """The photo of an array (H, W) or (H, W, C)."""
    refuse_if(0 in array.shape, "it has no pixels")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in npy.CHANNELS):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; channels come last, and several grey images are a list" if channels_first else ""
        raise RefusedError(f"shape {array.shape} is neither (H, W) nor (H, W, 1 to 4){hint}")
    photo = _of_samples(high_bit_depth.of_array(array, job.stretch), job)
    colour = photo.array[0, 0]
    if array.dtype.kind == "f" and (photo.array == colour).all():
        name = "#" + bytes(colour).hex()
        job.warn(f"all its pixels have one colour, {name}; floats are from 0 (black) to 1 (white)")
    return photo


def _of_samples(samples: Samples, job: _Job) -> Photo:
    values = samples.to_eight_bits(job.stretch, job.warn)
    if values.ndim == 3 and values.shape[2] == 3:
        return Photo.whole(np.ascontiguousarray(values))
    return Photo.whole(to_rgb(Image.fromarray(values), None))
