"""Photos on disk and in memory that the tests of data share."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from patchword.config import PreprocessConfig

PREPROCESS = PreprocessConfig(size=(32, 32), resize_to=36)


def photo(seed: int, size: tuple[int, int] = (40, 50)) -> Image.Image:
    """Smooth noise, (height, width) pixels; each seed another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def encoded(seed: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    photo(seed).save(out, kind)
    return out.getvalue()


def class_folders(root: Path, classes: tuple[str, ...], count: int) -> Path:
    """`count` photos in a folder per class."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:02d}.png").write_bytes(encoded(100 * number + i))
    return root


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
