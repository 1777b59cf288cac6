"""Opening and resizing a JPEG of 12 megapixels, beside Pillow.

    python benchmarks/decode.py [PHOTO]      default: the first sample, enlarged to 4000x3000

Milliseconds from the file to the network's input. Reference: Pillow's full decoding and bicubic
resizing, as in every CLIP processor. Ours: the same preprocessing, applied to a JPEG decoded at the
smallest sufficient DCT scale. In turn, one thread.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rows import Rows, median_seconds, option_parser

from patchword.config import PreprocessConfig
from patchword.images import Opener, Preprocess
from patchword.visible_area import Look

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
SIZE = (4000, 3000)  # 12 megapixels


def enlarged(photo: Path) -> bytes:
    """The photo as a JPEG of 12 megapixels with sensor noise; without noise, an enlarged photo
    would decode faster than any real one."""
    with Image.open(photo) as picture:
        large = np.asarray(picture.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).normal(0, 8, large.shape).astype(np.float32)
    out = io.BytesIO()
    noisy = np.clip(large + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(out, "JPEG", quality=90)
    return out.getvalue()


def with_pillow(data: bytes) -> np.ndarray:
    """Full decode, bicubic resize of the shorter side to 224, centre crop: uint8 (224, 224, 3)."""
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
        scale = 224 / min(width, height)
        small = picture.convert("RGB").resize(
            (int(width * scale), int(height * scale)), Image.Resampling.BICUBIC
        )
    left, top = (small.width - 224) // 2, (small.height - 224) // 2
    return np.asarray(small.crop((left, top, left + 224, top + 224)))


def main() -> None:
    parser = option_parser(__doc__, rounds=15)
    parser.add_argument("photo", nargs="?", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # rows record the number of threads
    photo = options.photo or next(iter(sorted(SAMPLES.rglob("*.jpg"))))
    data = enlarged(photo)
    levels = Preprocess(PreprocessConfig(mean=(0, 0, 0), std=(1, 1, 1), rescale=1.0))
    pillow, exact, fast = ("Pillow, whole, bicubic", "patchword, exact", "patchword")
    functions = {
        pillow: lambda: with_pillow(data),
        exact: lambda: Look(Opener(), levels, exact=True)(data)[0],
        fast: lambda: Look(Opener(), levels, exact=False)(data)[0],
    }
    seconds = median_seconds(functions, options.rounds)
    milliseconds = {name: 1e3 * value for name, value in seconds.items()}
    print(f"{photo.name} as {SIZE[0]}x{SIZE[1]} JPEG ({len(data) / 1e6:.1f} MB)")
    expected = with_pillow(data).astype(int)
    rows = Rows(options.results)
    for name, limit in ((exact, 0.0), (fast, 1.0)):  # `exact` does the same work as Pillow
        apart = np.abs(functions[name]().transpose(1, 2, 0) - expected)
        agreement = f"difference at most {apart.max():.0f} of 255, on average {apart.mean():.2f}"
        what = "JPEG of 12 megapixels to 224 px"
        ours, theirs = (name, milliseconds[name]), (pillow, milliseconds[pillow])
        rows.add(what, "ms", theirs, ours, limit=limit, agreement=agreement)


if __name__ == "__main__":
    main()
