"""Images made in memory, some of kinds that Pillow reads and cannot write."""

import io
import struct
import zlib

import numpy as np


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def random_pixels(*shape, kind=np.uint8, limit=None, seed=0):
    limit = np.iinfo(kind).max if limit is None else limit
    return np.random.default_rng(seed).integers(0, limit + 1, shape).astype(kind)


def to_levels(values, white):
    """The expectation for deep samples, in exact integers: round half up of v * 255 / white."""
    return ((values.astype(object) * 510 + white) // (2 * white)).astype(np.uint8)


def grey(levels):
    return np.repeat(levels[..., None], 3, axis=-1)


def tiff(values, order="<", white=None, planar=False, deflate=False, photometric=None, kind=1):
    """A TIFF of any integer or float samples (H, W) or (H, W, C); white: its MaxSampleValue."""
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
    place = start + arrays
    for i, strip in enumerate(strips):
        tags[273][i] = place
        place += len(strip)
    entries, extra = b"", b""
    for tag in sorted(tags):
        numbers = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        if len(tags[tag]) > 1:
            at = struct.pack(f"{order}I", start + len(extra))
            extra += numbers
            numbers = at
        entries += struct.pack(f"{order}HHI", tag, 4, len(tags[tag])) + numbers
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + extra + b"".join(strips)


def png16(values, bits=None, clear=None):
    """A 16-bit PNG of samples (H, W) or (H, W, C), with an sBIT and a tRNS chunk where given."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    out = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0)
    )
    out += chunk(b"sBIT", bytes([bits] * channels)) if bits else b""
    out += chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
    return out + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
