"""Write image files in memory, also of kinds that Pillow can read but not write."""

import io
import itertools
import struct
import zlib

import numpy as np


def encoded(picture, kind, **options):
    """The content of the file that Pillow writes."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def random_pixels(*shape, kind=np.uint8, limit=None, seed=0):
    """Random integers of this dtype, from 0 to `limit` or to the largest."""
    limit = np.iinfo(kind).max if limit is None else limit
    return np.random.default_rng(seed).integers(0, limit + 1, shape).astype(kind)


def to_levels(values, white):
    """The expected 8-bit values of samples of any depth: v * 255 / white, rounded half up in exact
    integers."""
    return ((values.astype(object) * 510 + white) // (2 * white)).astype(np.uint8)


def grey(levels):
    """Grey values (H, W) as RGB (H, W, 3)."""
    return np.repeat(levels[..., None], 3, axis=-1)


def tiff(values, order="<", white=None, planar=False, deflate=False, photometric=None, kind=1):
    """A TIFF of integer or float samples (H, W) or (H, W, C). white: its MaxSampleValue."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    bits = values.dtype.itemsize * 8
    stored = np.moveaxis(values, -1, 0)[..., None] if planar else values[None]
    stored = stored.astype(values.dtype.newbyteorder(order))
    strips = [plane.tobytes() for plane in stored]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    photometric = (2 if channels > 2 else 1) if photometric is None else photometric
    tags = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [8 if deflate else 1],
        262: [photometric], 273: [0] * len(strips), 277: [channels], 278: [height],
        279: [len(strip) for strip in strips], 284: [2 if planar else 1], 339: [kind] * channels,
    }  # fmt: skip
    if channels in (2, 4):
        tags[338] = [2]  # unassociated alpha
    if white is not None:
        tags[281] = [white] * channels
    start = 8 + 2 + 12 * len(tags) + 4
    arrays = sum(4 * len(v) for v in tags.values() if len(v) > 1)
    offset = start + arrays
    for i, strip in enumerate(strips):
        tags[273][i] = offset
        offset += len(strip)
    entries, extra = b"", b""
    for tag in sorted(tags):
        numbers = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        if len(tags[tag]) > 1:
            pointer = struct.pack(f"{order}I", start + len(extra))
            extra += numbers
            numbers = pointer
        entries += struct.pack(f"{order}HHI", tag, 4, len(tags[tag])) + numbers
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + extra + b"".join(strips)


def packed(row, depth):
    """A row (W, C) of samples of 1, 2, 4, 8 or 16 bits as bytes, the first sample in the high
    bits."""
    if depth >= 8:
        return row.astype(f">u{depth // 8}").tobytes()
    bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def png(values, depth=8, interlaced=False, palette=None, bits=None, clear=None):
    """A PNG of samples (H, W) or (H, W, C).

    palette: (N, 3), written as PLTE. bits: written as sBIT for each channel. clear: the transparent
    colour, or the opacities of a palette, written as tRNS.
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(
        b"\0" + packed(row, depth)
        for top, left, down, right in (ADAM7 if interlaced else [(0, 0, 1, 1)])
        for row in values[top::down, left::right]
        if len(row)
    )
    colour = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlaced)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    out += chunk(b"sBIT", bytes([bits] * channels)) if bits else b""
    out += chunk(b"PLTE", palette.astype(np.uint8).tobytes()) if palette is not None else b""
    kind = "B" if palette is not None else "H"
    out += chunk(b"tRNS", struct.pack(f">{len(clear)}{kind}", *clear)) if clear else b""
    return out + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(values, bits=None, clear=None):
    """A PNG of 16 bits."""
    return png(values, 16, bits=bits, clear=clear)


def bmp(words, depth, header=40, palette=None, masks=(), top_down=False, runs=b""):
    """A BMP of pixels (H, W), each a number of `depth` bits.

    header: its size in bytes: 12 (OS/2), 40, 56, 108 or 124 (versions 3, 4 and 5). palette: (N, 3).
    masks: the bits of red, green, blue and alpha. runs: the same pixels, run-length encoded, which
    are written instead.
    """
    height, width = words.shape
    stored = words if top_down else words[::-1]
    if depth < 8:
        rows = [packed(row, depth) for row in stored]
    else:
        rows = [row.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : depth // 8] for row in stored]
        rows = [row.tobytes() for row in rows]
    pixels = runs or b"".join(row + bytes(-len(row) % 4) for row in rows)
    if masks:
        compression = 3  # BI_BITFIELDS
    elif runs:
        compression = 1 if depth == 8 else 2  # BI_RLE8, BI_RLE4
    else:
        compression = 0
    colours = b""
    if palette is not None:
        colours = b"".join(bytes(c[::-1]) + bytes(header > 12) for c in palette.tolist())
    if header == 12:
        info = struct.pack("<I4H", header, width, height, 1, depth)
    else:
        signed_height = -height if top_down else height
        used = 0 if palette is None else len(palette)
        numbers = (1, depth, compression, len(pixels), 2835, 2835, used, 0)
        info = struct.pack("<I2i2H6I", header, width, signed_height, *numbers)
        info += struct.pack("<4I", *masks, *[0] * (4 - len(masks)))[: 12 if header == 40 else 16]
        if not masks and header == 40:
            info = info[:40]
        info += b"BGRs" if header > 56 else b""  # sRGB
        info = info.ljust(header, b"\0")
    start = 14 + len(info) + len(colours)
    head = b"BM" + struct.pack("<I2HI", start + len(pixels), 0, 0, start)
    return head + info + colours + pixels


def run_lengths(indices, depth):
    """Indices (H, W) of 8 or 4 bits in BMP's run-length encoding: even rows as runs, odd rows
    literally."""
    out = b""
    for number, row in enumerate(indices[::-1].tolist()):
        if number % 2 and len(row) > 2:
            data = bytes(row) if depth == 8 else packed(np.array(row), 4)
            out += bytes([0, len(row)]) + data + bytes(len(data) % 2)
        else:
            for index, run in itertools.groupby(row):
                out += bytes([len(list(run)), index if depth == 8 else index * 17])
        out += b"\0\0"  # end of the row
    return out + b"\0\1"
