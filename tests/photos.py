"""Photos for tests: real ones, which come with installed libraries, and generated ones."""

import io
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from patchword.config import PreprocessConfig

PREPROCESS = PreprocessConfig(size=(32, 32), resize_to=36)


def _of(package: str, folder: str, *names: str) -> list[Path]:
    """Paths of files in a folder of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    return [Path(spec.origin).parent / folder / name for name in names]


CAT, COFFEE, ASTRONAUT, ROCKET, RETINA, *_OTHERS = _of(  # a cat's face, a cup, a woman, ...
    "skimage", "data", "chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "retina.jpg",
    "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "motorcycle_right.png",
)  # fmt: skip
TEMPLE, FLOWER = _of("sklearn", "datasets/images", "china.jpg", "flower.jpg")
HOPPER = _of("matplotlib", "mpl-data/sample_data", "grace_hopper.jpg")[0]  # a woman in uniform
COLOUR = [CAT, COFFEE, ASTRONAUT, ROCKET, RETINA, TEMPLE, FLOWER, HOPPER, *_OTHERS]
GREY = _of(
    "skimage", "data", "brick.png", "camera.png", "clock_motion.png", "coins.png", "grass.png",
    "gravel.png", "moon.png", "page.png",
)  # fmt: skip
REAL = COLOUR + GREY  # 20 photos of 300 to 1411 pixels a side, PNG and JPEG


def photo(seed: int, size: tuple[int, int] = (40, 50)) -> Image.Image:
    """Smooth noise of (height, width) pixels; another image for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """`photo(seed)` as the content of an image file."""
    out = io.BytesIO()
    photo(seed).save(out, kind)
    return out.getvalue()


def class_folders(root: Path, classes: tuple[str, ...], count: int) -> Path:
    """Write `count` photos of each class into root/CLASS."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:02d}.png").write_bytes(encoded(100 * number + i))
    return root


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    """Write a tar file of these contents by name."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
