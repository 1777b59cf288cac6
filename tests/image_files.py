"""Image files of every format and many variants of each, with the pixels that they must give.

They are written by other code than that which reads them: byte by byte in `image_writers`, by
imagecodecs or tifffile; by Pillow itself only if nothing else writes the format.
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import image_writers
import imagecodecs
import numpy as np
import tifffile
from image_writers import bmp, encoded, png, random_pixels, run_lengths, to_levels
from numpy.typing import NDArray
from photos import CAT
from PIL import Image

Pixels = NDArray[np.integer]


@dataclass(frozen=True)
class File:
    """data: the file's content. pixels: 8-bit values (H, W) or (H, W, 1 to 4), or None if the file
    must be refused. within: the largest allowed difference after compositing over white."""

    data: bytes
    pixels: Pixels | None
    within: float = 0.51  # the rounding of transparency over white

    def expected(self) -> NDArray[np.float64]:
        """RGB (H, W, 3) composited over white, 0..255, not rounded."""
        pixels = self.pixels[..., None] if self.pixels.ndim == 2 else self.pixels
        channels = pixels.shape[2]
        alpha = pixels[..., -1:] / 255 if channels in (2, 4) else 1.0
        colours = pixels[..., :1] if channels < 3 else pixels[..., :3]
        return np.broadcast_to(colours * alpha + 255 * (1 - alpha), (*pixels.shape[:2], 3))


RGB = random_pixels(13, 21, 3)
RGBA = random_pixels(13, 21, 4, seed=1)
GREY = random_pixels(13, 21, seed=2)
DEEP = random_pixels(13, 21, 4, kind=np.uint16, seed=3)
PALETTE = random_pixels(256, 3, seed=4)
with Image.open(CAT) as _picture:
    PHOTO = np.asarray(_picture)[40:168, 60:260].copy()  # (128, 200, 3), for lossy formats
Named = Iterator[tuple[str, File]]


def indices(depth: int) -> Pixels:
    return random_pixels(13, 21, limit=2**depth - 1, seed=depth)


def bmps() -> Named:
    for depth in (1, 4, 8):
        palette, chosen = PALETTE[: 2**depth], indices(depth)
        shown = palette[chosen]
        for name, options in (
            ("core", {"header": 12}), ("info", {}), ("v4", {"header": 108}),
            ("v5", {"header": 124}), ("top-down", {"top_down": True}),
        ):  # fmt: skip
            yield (
                f"{depth} bits {name}.bmp",
                File(bmp(chosen, depth, palette=palette, **options), shown),
            )
        if depth > 1:
            coarse = np.repeat(chosen[:, :7], 3, axis=1)  # has runs
            data = bmp(coarse, depth, palette=palette, runs=run_lengths(coarse, depth))
            yield f"{depth} bits run lengths.bmp", File(data, palette[coarse])
    few = bmp(indices(4), 8, palette=PALETTE[:16])
    yield "8 bits of 16 colours.bmp", File(few, PALETTE[indices(4)])
    words = RGB.astype(np.uint32) @ [1 << 16, 1 << 8, 1]
    alpha = RGBA.astype(np.uint32) @ [1 << 16, 1 << 8, 1, 1 << 24]
    bytewise = (0xFF0000, 0xFF00, 0xFF)
    for header in (40, 108, 124):
        yield f"24 bits {header}.bmp", File(bmp(words, 24, header), RGB)
        yield f"32 bits {header}.bmp", File(bmp(words, 32, header), RGB)
    yield "24 bits core.bmp", File(bmp(words, 24, 12), RGB)
    yield "24 bits top-down.bmp", File(bmp(words, 24, top_down=True), RGB)
    yield "32 bits masks.bmp", File(bmp(words, 32, 56, masks=bytewise), RGB)
    for header in (56, 108, 124):
        data = bmp(alpha, 32, header, masks=(*bytewise, 0xFF000000))
        yield f"32 bits transparent {header}.bmp", File(data, RGBA)
    five = random_pixels(13, 21, 3, limit=31, seed=5)
    shown = to_levels(five, 31)
    data = bmp(five.astype(np.uint32) @ [1 << 10, 1 << 5, 1], 16)
    yield "16 bits 555.bmp", File(data, shown, 1)
    greens = random_pixels(13, 21, limit=63, seed=6)
    shown = np.stack([shown[..., 0], to_levels(greens, 63), shown[..., 2]], -1)
    word = (five.astype(np.uint32) @ [1 << 11, 0, 1]) | (greens.astype(np.uint32) << 5)
    for header in (40, 56, 108):
        data = bmp(word, 16, header, masks=(0xF800, 0x7E0, 0x1F))
        yield f"16 bits 565 {header}.bmp", File(data, shown, 1)
    # Pillow reads these wrong or not at all.
    for header in (56, 124):
        masks = (0x7C00, 0x3E0, 0x1F, 0x8000)
        yield f"16 bits transparent {header}.bmp", File(bmp(word, 16, header, masks=masks), None)
    yield "16 bits 4444.bmp", File(bmp(word, 16, 56, masks=(0xF00, 0xF0, 0xF, 0xF000)), None)
    odd = (0x3FF00000, 0xFFC00, 0x3FF)
    yield "32 bits of 10.bmp", File(bmp(words, 32, 56, masks=odd), None)
    yield "2 bits.bmp", File(bmp(indices(2), 2, palette=PALETTE[:4]), None)


def pngs() -> Named:
    for interlaced in (False, True):
        name = "interlaced" if interlaced else "plain"
        make = partial(png, interlaced=interlaced)
        for depth in (1, 2, 4, 8):
            chosen, white = indices(depth), 2**depth - 1
            yield f"{name} grey {depth}.png", File(make(chosen, depth), to_levels(chosen, white))
            palette = PALETTE[: 2**depth]
            yield (
                f"{name} palette {depth}.png",
                File(make(chosen, depth, palette=palette), palette[chosen]),
            )
            opacity = random_pixels(2**depth, seed=7)
            data = make(chosen, depth, palette=palette, clear=opacity.tolist())
            shown = np.concatenate([palette, opacity[:, None]], -1)[chosen]
            yield f"{name} transparent palette {depth}.png", File(data, shown)
            hidden = chosen[3, 4] = white // 2
            shown = np.stack([to_levels(chosen, white), np.where(chosen == hidden, 0, 255)], -1)
            yield (
                f"{name} grey {depth} but one.png",
                File(make(chosen, depth, clear=[hidden]), shown),
            )
        yield f"{name} rgb.png", File(make(RGB), RGB)
        yield f"{name} rgba.png", File(make(RGBA), RGBA)
        yield f"{name} grey alpha.png", File(make(RGBA[..., 2:]), RGBA[..., 2:])
        shown = np.dstack([RGB, np.where((RGB[3, 4] == RGB).all(-1), 0, 255)])
        yield f"{name} rgb but one.png", File(make(RGB, clear=RGB[3, 4].tolist()), shown)
        for channels, within in (
            (1, 0.51),
            (2, 2.51),
            (3, 0.51),
            (4, 0.51),
        ):  # see test_high_bit_depth
            deep = DEEP[..., :channels]
            shown = to_levels(deep, 65535)
            yield f"{name} 16 bits {channels}.png", File(make(deep, 16), shown, within)
    narrow = RGB[:, :2]
    yield "interlaced and narrow.png", File(png(narrow, interlaced=True), narrow)
    frames = np.stack([RGBA, RGBA[::-1], 255 - RGBA])
    yield "frames.png", File(imagecodecs.apng_encode(frames, delay=40), RGBA)
    still = [Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]
    data = encoded(
        Image.fromarray(RGB), "PNG", save_all=True, append_images=still, default_image=True
    )
    yield "still and frames.png", File(data, RGB)  # the still image is none of the frames
    yield "imagecodecs.png", File(imagecodecs.png_encode(RGBA), RGBA)


def tiffs() -> Named:
    def tiff(values: Pixels, **options: object) -> bytes:
        out = io.BytesIO()
        tifffile.imwrite(out, values, **options)
        return out.getvalue()

    for colour, values in (("rgb", RGB), ("grey", GREY)):
        for compression in ("lzw", "deflate", "packbits", None):
            for order in "<>":
                data = tiff(values, photometric="rgb" if colour == "rgb" else "minisblack",
                            compression=compression, byteorder=order)  # fmt: skip
                yield (
                    f"{colour} {compression} {'big' if order == '>' else 'little'}.tiff",
                    File(data, values),
                )
    for compression in ("lzw", "deflate"):
        data = tiff(RGB, photometric="rgb", compression=compression, predictor=True)
        yield f"differences {compression}.tiff", File(data, RGB)
    for name, options in (
        ("tiles", {"tile": (16, 16)}), ("tiles lzw", {"tile": (16, 16), "compression": "lzw"}),
        ("strips", {"rowsperstrip": 4}), ("big", {"bigtiff": True}),
    ):  # fmt: skip
        yield f"{name}.tiff", File(tiff(RGB, photometric="rgb", **options), RGB)
    planes = np.moveaxis(RGB, -1, 0)
    for compression in (None, "lzw"):
        data = tiff(planes, photometric="rgb", planarconfig="separate", compression=compression)
        yield f"planes {compression}.tiff", File(data, RGB)
    yield "alpha.tiff", File(tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]), RGBA)
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    data = tiff(opaque, photometric="rgb", extrasamples=["assocalpha"])
    yield "premultiplied.tiff", File(data, RGB)
    half = np.dstack([RGBA[..., :3] // 2, np.full(RGB.shape[:2], 128, np.uint8)])
    shown = np.dstack([np.minimum(half[..., :3] * (255 / 128), 255), half[..., 3:]])
    data = tiff(half, photometric="rgb", extrasamples=["assocalpha"], compression="lzw")
    yield "premultiplied half.tiff", File(data, shown, 1.5)
    data = tiff(GREY, photometric="palette", colormap=PALETTE.T.astype(np.uint16) * 257)
    yield "palette.tiff", File(data, PALETTE[GREY])
    yield "white is zero.tiff", File(tiff(GREY, photometric="miniswhite"), 255 - GREY)
    yield (
        "two levels.tiff",
        File(tiff(GREY > 99, photometric="minisblack"), np.where(GREY > 99, 255, 0)),
    )
    data = tiff(255 - RGBA, photometric="separated")  # CMYK
    shown = np.asarray(Image.fromarray(255 - RGBA, "CMYK").convert("RGB"))
    yield "cmyk.tiff", File(data, shown)
    pages = np.stack([RGB, RGB[::-1]])
    yield "pages.tiff", File(tiff(pages, photometric="rgb"), RGB)
    data = tiff(PHOTO, photometric="rgb", compression="jpeg", compressionargs={"level": 95})
    yield "jpeg.tiff", File(data, PHOTO, 24)
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    data = tiff(ycbcr, photometric="ycbcr", subsampling=(1, 1))
    yield "ycbcr.tiff", File(data, RGB, 3)
    # Pillow would read these wrong or not at all.
    yield "floats.tiff", File(tiff(RGB.astype(np.float32) / 255, photometric="rgb"), None)
    yield "ycbcr subsampled.tiff", File(image_writers.tiff(ycbcr, photometric=6), None)


def jpegs() -> Named:
    photo, exif = Image.fromarray(PHOTO), Image.Exif()
    exif[0x010F] = "a camera"
    files = {
        "grey": encoded(photo.convert("L"), "JPEG"),
        "progressive": encoded(photo, "JPEG", progressive=True, quality=90),
        "progressive grey": encoded(photo.convert("L"), "JPEG", progressive=True),
        "restarts": encoded(photo, "JPEG", restart_marker_blocks=3),
        "with metadata": encoded(
            photo, "JPEG", comment=b"a cat", exif=exif, xmp=b"<x/>", dpi=(9, 9)
        ),
        "one colour each": encoded(photo, "JPEG", keep_rgb=True),
    }
    for samples in ("444", "422", "420", "411"):
        files[samples] = imagecodecs.jpeg8_encode(PHOTO, 90, subsampling=samples)
    for name, data in files.items():
        yield f"{name}.jpg", File(data, imagecodecs.jpeg8_decode(data), 1)
    yield "exact.jpg", File(imagecodecs.jpeg8_encode(RGB, lossless=True), RGB)
    deep = PHOTO.astype(np.uint16) * 16
    yield "12 bits.jpg", File(imagecodecs.jpeg8_encode(deep, bitspersample=12), None)


def gifs() -> Named:
    chosen = indices(4)
    first = Image.fromarray(chosen, "P")
    first.putpalette(PALETTE[:16].tobytes())
    second = Image.fromarray(15 - chosen, "P")
    second.putpalette(PALETTE[:16].tobytes())
    shown = PALETTE[chosen]
    yield "imagecodecs.gif", File(imagecodecs.gif_encode(chosen, colormap=PALETTE), shown)
    for name, interlace in (("interlaced", 1), ("plain", 0)):
        yield f"{name}.gif", File(encoded(first, "GIF", interlace=interlace), shown)
    for disposal in range(4):
        frames = {"save_all": True, "append_images": [second], "disposal": disposal, "duration": 40}
        yield f"frames {disposal}.gif", File(encoded(first, "GIF", **frames), shown)
    clear = int(chosen[3, 4])
    opaque = np.where(chosen == clear, 0, 255)
    yield (
        "transparent.gif",
        File(encoded(first, "GIF", transparency=clear), np.dstack([shown, opaque])),
    )
    white = np.full((20, 30, 3), 255, np.uint8)
    white[5:18, 7:28] = shown
    yield "on a larger canvas.gif", File(on_canvas(encoded(first, "GIF"), 30, 20, 7, 5), white)
    # A first frame beyond the canvas enlarges it, as in browsers.
    yield "on a smaller canvas.gif", File(on_canvas(encoded(first, "GIF"), 5, 4, 0, 0), shown)


def on_canvas(gif: bytes, width: int, height: int, left: int, top: int) -> bytes:
    """A GIF of one frame, with another canvas and the frame at another place on it."""
    data = bytearray(gif)
    struct.pack_into("<2H", data, 6, width, height)
    struct.pack_into("<2H", data, data.index(b",", 13 + 3 * 16) + 1, left, top)
    return bytes(data)


def icons() -> Named:
    def icon(*entries: tuple[int, int, bytes]) -> bytes:
        """An ICO of (side, bits, PNG or DIB)."""
        offset, out = 6 + 16 * len(entries), struct.pack("<3H", 0, 1, len(entries))
        for side, bits, data in entries:
            out += struct.pack("<4B2H2I", side, side, 0, 0, 1, bits, len(data), offset)
            offset += len(data)
        return out + b"".join(data for *_, data in entries)

    def dib(pixels: Pixels, mask: NDArray[np.bool_]) -> bytes:
        """A bitmap followed by its transparency mask; its header states twice the height."""
        shifts = [1 << 16, 1 << 8, 1, 1 << 24][: pixels.shape[2]]
        data = bytearray(bmp(pixels.astype(np.uint32) @ shifts, 8 * pixels.shape[2])[14:])
        struct.pack_into("<i", data, 8, 2 * len(pixels))
        rows = [np.packbits(row).tobytes() for row in mask[::-1]]
        return bytes(data) + b"".join(row + bytes(-len(row) % 4) for row in rows)

    small, large = random_pixels(16, 16, 4, seed=8), random_pixels(32, 32, 4, seed=9)
    hidden = large[..., 3] < 90
    nothing = np.zeros((32, 32), bool)
    masked = np.dstack([large[..., :3], np.where(hidden, 0, 255)])
    yield "png.ico", File(icon((32, 32, png(large))), large)
    yield "32 bits.ico", File(icon((32, 32, dib(large, nothing))), large)
    yield "24 bits and mask.ico", File(icon((32, 24, dib(large[..., :3], hidden))), masked)
    both = (16, 32, png(small)), (32, 32, png(large))
    yield "small first.ico", File(icon(*both), large)
    yield "large first.ico", File(icon(*both[::-1]), large)
    yield "grey png.ico", File(icon((32, 8, png(large[..., 0]))), large[..., 0])


def portable() -> Named:
    """Netpbm's formats, in text and binary form."""
    head = b"# a comment\n21 13\n"
    text = " ".join
    bits = GREY > 99
    yield (
        "text.pbm",
        File(
            b"P1\n" + head + text(map(str, bits.ravel().astype(int))).encode(),
            np.where(bits, 0, 255),
        ),
    )
    rows = b"".join(np.packbits(row).tobytes() for row in bits)
    yield "bytes.pbm", File(b"P4\n" + head + rows, np.where(bits, 0, 255))
    for kind, binary, values in (("pgm", b"5", GREY), ("ppm", b"6", RGB)):
        numbers = text(map(str, values.ravel())).encode()
        yield (
            f"text.{kind}",
            File(b"P" + bytes([binary[0] - 3]) + b"\n" + head + b"255\n" + numbers, values),
        )
        yield (
            f"bytes.{kind}",
            File(b"P" + binary + b"\n" + head + b"255\n" + values.tobytes(), values),
        )
        few = values // 16
        data = b"P" + binary + b"\n" + head + b"15\n" + few.tobytes()
        yield f"16 levels.{kind}", File(data, to_levels(few, 15))


def targas() -> Named:
    def targa(kind: int, bits: int, body: bytes, flags: int = 0x20, colours: bytes = b"") -> bytes:
        count, wide = (len(colours) // 3, 24) if colours else (0, 0)
        head = struct.pack(
            "<3B2HB4H2B", 2, bool(colours), kind, 0, count, wide, 0, 0, 21, 13, bits, flags
        )
        return head + b"id" + colours + body

    bgr, bgra = RGB[..., ::-1], RGBA[..., [2, 1, 0, 3]]
    coarse = np.repeat(RGB[:, :7], 3, axis=1)
    runs = b"".join(b"\x82" + bytes(pixel) for pixel in coarse[:, ::3, ::-1].reshape(-1, 3))
    yield "rgb.tga", File(targa(2, 24, bgr.tobytes()), RGB)
    yield "upwards.tga", File(targa(2, 24, bgr[::-1].tobytes(), flags=0), RGB)
    yield "rgba.tga", File(targa(2, 32, bgra.tobytes(), flags=0x28), RGBA)
    yield "runs.tga", File(targa(10, 24, runs), coarse)
    yield "grey.tga", File(targa(3, 8, GREY.tobytes()), GREY)
    yield (
        "palette.tga",
        File(targa(1, 8, GREY.tobytes(), colours=PALETTE[:, ::-1].tobytes()), PALETTE[GREY]),
    )
    five = random_pixels(13, 21, 3, limit=31, seed=5)
    word = five.astype("<u2") @ np.array([1 << 10, 1 << 5, 1], "<u2")
    yield "16 bits.tga", File(targa(2, 16, word.astype("<u2").tobytes()), to_levels(five, 31), 1)


def others() -> Named:
    for name, values in (("rgb", RGB), ("rgba", RGBA)):
        yield f"{name}.qoi", File(imagecodecs.qoi_encode(values), values)
        yield f"{name}.webp", File(imagecodecs.webp_encode(values, lossless=True), values)
        jp2 = imagecodecs.jpeg2k_encode(values, reversible=True, codecformat="jp2")
        yield f"{name}.jp2", File(jp2, values)
    yield "grey.jp2", File(imagecodecs.jpeg2k_encode(GREY, reversible=True), GREY)
    for name, data, decode in (
        ("photo.webp", imagecodecs.webp_encode(PHOTO, 80), imagecodecs.webp_decode),
        ("photo.jp2", imagecodecs.jpeg2k_encode(PHOTO, 40), imagecodecs.jpeg2k_decode),
        ("photo.avif", imagecodecs.avif_encode(PHOTO, 80), imagecodecs.avif_decode),
    ):
        yield name, File(data, decode(data), 2)
    frames = [Image.fromarray(RGB[::-1]), Image.fromarray(255 - RGB)]
    for kind in ("WEBP", "AVIF"):
        options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"}
        data = encoded(Image.fromarray(RGB), kind, save_all=True, append_images=frames, **options)
        yield f"frames.{kind.lower()}", File(data, RGB, 0.51 if kind == "WEBP" else 9)
    # Only Pillow writes these.
    for kind in ("PCX", "SGI", "DDS"):
        yield f"rgb.{kind.lower()}", File(encoded(Image.fromarray(RGB), kind), RGB)
    bits = GREY > 99
    for kind in ("MSP", "XBM"):
        data = encoded(Image.fromarray(bits), kind)
        yield f"two levels.{kind.lower()}", File(data, np.where(bits, 255, 0))
    large = png(random_pixels(128, 128, 4, seed=9))
    data = (
        b"icns" + struct.pack(">I", len(large) + 16) + b"ic07" + struct.pack(">I", len(large) + 8)
    )
    yield "apple.icns", File(data + large, random_pixels(128, 128, 4, seed=9))


def foreign() -> Named:
    """Image formats that patchword does not read, and files that are no images."""
    described = b"P7\nWIDTH 21\nHEIGHT 13\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
    for name, data in {
        "new.jxl": imagecodecs.jpegxl_encode(RGB), "wide.jxr": imagecodecs.jpegxr_encode(RGB),
        "radiance.hdr": imagecodecs.rgbe_encode(RGB.astype(np.float32)),
        "plain.ff": b"farbfeld" + struct.pack(">2I", 21, 13) + DEEP.astype(">u2").tobytes(),
        "film.exr": b"v/1\x01\x02\0\0\0" + bytes(300), "scan.jls": imagecodecs.jpegls_encode(RGB),
        "alpha.pam": described + RGBA.tobytes(),
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(300), "vector.svg": b"<svg xmlns='x'/>",
        "page.pdf": b"%PDF-1.7\n" + bytes(300), "program.eps": encoded(Image.fromarray(RGB), "EPS"),
        "page.html": b"<!doctype html><title>404</title>", "notes.txt": b"hello", "none.png": b"",
        "archive.zip": b"PK\3\4" + bytes(300), "zeros.jpg": bytes(4096),
        "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    }.items():  # fmt: skip
        yield name, File(data, None)


KINDS: tuple[Callable[[], Named], ...] = (
    bmps, pngs, tiffs, jpegs, gifs, icons, portable, targas, others, foreign,
)  # fmt: skip


def every() -> dict[str, File]:
    """All files by name, such as "pngs/frames.png"."""
    return {f"{kind.__name__}/{name}": file for kind in KINDS for name, file in kind()}
