"""Milliseconds to open a 12-megapixel JPEG and make it a network's input, ours beside Pillow's.

    python benchmarks/decode.py [PHOTO]      default: the first sample, enlarged to 4000x3000

Reference: Pillow's full decode and bicubic resize, as every CLIP processor does it. Ours: the same
preprocessing on a JPEG decoded at its smallest sufficient DCT scale. Both in turn, one thread.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from patchword import images
from patchword.config import PreprocessConfig
from patchword.images import Preprocess

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
SIZE = (4000, 3000)  # 12 megapixels
ROUNDS = 15


def enlarged(photo: Path) -> bytes:
    """The picture at 12 megapixels as a camera would write it: with the noise of its sensor,
    without which an enlarged photo decodes faster than any real one."""
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


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", type=Path)
    photo = parser.parse_args().photo or next(iter(sorted(SAMPLES.rglob("*.jpg"))))
    data = enlarged(photo)
    levels = Preprocess(PreprocessConfig(mean=(0, 0, 0), std=(1, 1, 1), rescale=1.0))
    ways: dict[str, Callable[[], object]] = {
        "Pillow, full decode + bicubic": lambda: with_pillow(data),
        "patchword, exact=True": lambda: levels(images.open(data, exact=True)),
        "patchword": lambda: levels(images.open(data, at_least=levels.at_least)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            times[name].append(milliseconds(work))
    print(f"{photo.name} as {SIZE[0]}x{SIZE[1]} JPEG ({len(data) / 1e6:.1f} MB) to 224 px")
    first = statistics.median(next(iter(times.values())))
    for name, each in times.items():
        middle = statistics.median(each)
        print(f"  {name:<32}{middle:7.1f} ms   {first / middle:4.1f}x")
    expected = with_pillow(data).astype(int)
    pixels, _ = levels(images.open(data, at_least=levels.at_least))
    difference = np.abs(pixels.transpose(1, 2, 0) - expected)
    print(f"  difference: mean {difference.mean():.2f}, largest {difference.max():.0f} of 255")


if __name__ == "__main__":
    main()
