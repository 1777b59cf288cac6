"""Kinds of files that need more than Pillow, recognised by their first bytes and suffix, and advice
for those that cannot be opened."""

from __future__ import annotations

import io
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import NamedTuple

from PIL import Image, features

HEAD = 2048  # bytes read to recognise a kind
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Brands of ISO base media files (ISO/IEC 23008-12, annex B; AVIF 1.1, section 8).
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


class Kind(NamedTuple):
    """A kind of file that users may take for a photo.

    advice  what to do if it cannot be opened
    needs   the library that opens it; "": none does
    extra   the extra of patchword that installs this library
    """

    name: str
    suffixes: tuple[str, ...]
    advice: str = ""
    needs: str = ""
    extra: str = ""


HEIC = Kind("HEIC", (".heic", ".heif", ".hif"), "save it as JPEG", "pillow_heif", "heif")
AVIF = Kind("AVIF", (".avif", ".avifs"), "install a Pillow that has AVIF", "avif")
RAW = Kind(
    "camera raw",
    (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"),
    "save it as JPEG",
    "rawpy",
    "raw",
)
DICOM = Kind("DICOM", (".dcm", ".dicom"), "save it as PNG", "pydicom", "dicom")
NPY = Kind("NumPy", (".npy",), needs="numpy")
PDF = Kind("PDF", (".pdf",), "save its pages as images first: pdftoppm -png FILE.pdf page")
SVG = Kind("SVG", (".svg", ".svgz"), "vector graphics; save it as PNG first")
POSTSCRIPT = Kind("PostScript", (".eps", ".ps", ".ai"), "it is a program; convert it to PNG first")
JPEG_XL = Kind("JPEG XL", (".jxl",), "save it as JPEG or PNG first: djxl FILE.jxl FILE.png")
VIDEO = Kind(
    "video",
    (".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".3gp", ".wmv", ".mpg"),
    "save frames as images first: ffmpeg -i FILE -vf fps=1 frame-%04d.jpg",
)
WEB_PAGE = Kind("web page", (), "download the image itself, not the page that shows it")
ZIP = Kind("ZIP archive", (), "unpack it first; save a spreadsheet as CSV")
POINTER = Kind("Git LFS pointer", (), "fetch the file that it points to: git lfs pull")

_KINDS = (HEIC, AVIF, RAW, DICOM, PDF, SVG, POSTSCRIPT, JPEG_XL, VIDEO)
BY_SUFFIX = {suffix: kind for kind in _KINDS for suffix in kind.suffixes}


def of(head: bytes) -> Kind | None:
    """The kind of a file that begins with `head`; None for files that Pillow opens, and for raw
    files that are TIFFs (see `tiff.is_raw`)."""
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<?xml", b"<svg", b"<!--", b"<!doctype svg")) and b"<svg" in text:
        return SVG
    for kind, starts in _STARTS.items():
        if head.startswith(starts):
            return kind
    if text.startswith((b"<!doctype html", b"<html")):
        return WEB_PAGE
    if head[128:132] == b"DICM":
        return DICOM
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    if is_avi or head[4:8] in _OLD_QUICKTIME:
        return VIDEO
    return None


def suffix_of(content: bytes) -> str:
    """The suffix for the content of an image that can be opened, such as ".heic" or ".jpeg"."""
    kind = of(content[:HEAD])
    if kind is not None and kind.suffixes:
        return kind.suffixes[0]
    if content.startswith(TIFF):  # Pillow does not identify a TIFF with samples of a sensor
        return ".tiff"
    with Image.open(io.BytesIO(content)) as picture:
        return f".{(picture.format or '').lower()}"


_STARTS: dict[Kind, tuple[bytes, ...]] = {
    NPY: (b"\x93NUMPY",),
    PDF: (b"%PDF-",),
    POSTSCRIPT: (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    JPEG_XL: (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    VIDEO: (b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"\x30\x26\xb2\x75"),
    RAW: (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"),  # RAF, ORF (3), RW2
    ZIP: (b"PK\3\4",),
    POINTER: (b"version https://git-lfs",),
}


def _of_brands(head: bytes) -> Kind:
    """The kind of an ISO base media file, by its major brand and its compatible brands."""
    size = int.from_bytes(head[:4], "big")
    major = head[8:12]
    brands = {major}
    for start in range(16, min(size, len(head)), 4):
        brands.add(head[start : start + 4])
    if major == b"crx ":
        return RAW
    if not brands.isdisjoint((b"avif", b"avis")):
        return AVIF
    if major in (b"mif1", b"msf1") or not brands.isdisjoint(_HEIC):
        return HEIC
    return VIDEO


def opens(kind: Kind) -> bool:
    """True if the library that opens files of a kind is installed; for JPEG XL, if a plugin of
    Pillow was imported."""
    if kind is JPEG_XL:
        return ".jxl" in Image.registered_extensions()
    return bool(kind.needs) and _installed(kind.needs)


def refusal(kind: Kind | None) -> str:
    """Why a file of a kind is not opened, and what to do about it."""
    if kind is None:
        return ""
    install = f"pip install 'patchword[{kind.extra}]', or " if kind.extra else ""
    return f"{kind.name}: {install}{kind.advice}"


def counted_as(kind: Kind) -> str:
    """The name of a kind in messages that count its files."""
    return f"{kind.name} (install patchword[{kind.extra}])" if kind.extra else kind.name


@cache
def _installed(module: str) -> bool:
    if module == "avif":
        return bool(features.check("avif"))
    return find_spec(module) is not None


@lru_cache(maxsize=1)
def register() -> None:
    """Register HEIC with Pillow."""
    import pillow_heif

    pillow_heif.register_heif_opener()
