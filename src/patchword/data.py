"""Image-text pairs for training: what a sample is, where it comes from, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword import images, scenes
from patchword.errors import ImageError, RecipeError
from patchword.scenes.words import truths

SCENE_SIZE = 128  # pixels at which scenes are drawn before they are resized


@dataclass(frozen=True)
class SourceConfig:
    """One source of pairs, and its share of every batch."""

    kind: Literal["folder", "scenes"]
    share: float = 1.0
    path: str = ""  # folder: one subfolder of photos per class
    templates: tuple[str, ...] = ("a photo of a {}",)  # folder: "{}" is the class name
    names: tuple[tuple[str, ...], ...] = ()  # folder: words for each class, in order of folders
    augment: bool = False  # random crops, mirror images, light and colour
    count: int = 0  # scenes: how many
    only: Literal["", "wafer", "shapes"] = ""  # scenes: of one kind
    seed: int = 0  # scenes


@dataclass(frozen=True)
class Pair:
    """One photo and its caption, and what is known of both."""

    image: NDArray[np.uint8]  # (S, S, 3)
    caption: str
    says: frozenset[str]  # the facts that the caption states
    truths: frozenset[str]  # the facts that are true of the photo
    augment: bool


class Source(Protocol):
    """Pairs by number, and the images of it that could not be read."""

    broken: list[ImageError]

    def __len__(self) -> int: ...

    def pair(self, index: int, size: int, rng: np.random.Generator) -> Pair:
        """Pair number `index`, `size` pixels square; what is random about it comes from `rng`."""


class FolderSource:
    """Photos in one subfolder per class, captioned by templates.

    Every photo is read once and kept, its shorter side at most 1.5 times the training size. One
    that cannot be read is passed over and listed in `.broken`.
    """

    def __init__(self, config: SourceConfig, root: Path, size: int) -> None:
        self.config = config
        folder = root / config.path
        if not folder.is_dir():
            raise RecipeError(f"{folder}: no such folder; set data.path to one folder per class")
        folders = sorted(p for p in folder.iterdir() if p.is_dir())
        names = config.names or tuple((p.name,) for p in folders)
        if len(names) != len(folders):
            raise RecipeError(f"{folder}: {len(folders)} classes, but {len(names)} names for them")
        self.photos: list[tuple[Image.Image, tuple[str, ...]]] = []
        self.broken: list[ImageError] = []
        for words, sub in zip(names, folders, strict=True):
            for path in sorted(p for p in sub.iterdir() if p.is_file()):
                try:
                    self.photos.append((_shrunk(images.open(path, at_least=size), size), words))
                except ImageError as error:
                    self.broken.append(error)
        if not self.photos:
            raise RecipeError(f"{folder}: no photos that can be read; one subfolder per class")

    def __len__(self) -> int:
        return len(self.photos)

    def pair(self, index: int, size: int, rng: np.random.Generator) -> Pair:
        photo, words = self.photos[index]
        image = random_crop(photo, size, rng) if self.config.augment else centre(photo, size)
        template = self.config.templates[rng.integers(len(self.config.templates))]
        word = words[rng.integers(len(words))]
        facts = frozenset([words[0]])
        return Pair(image, template.format(word), facts, facts, self.config.augment)


class ScenesSource:
    """The first `count` scenes of a seed, drawn once."""

    def __init__(self, config: SourceConfig, size: int) -> None:
        if config.count < 1:
            raise RecipeError("a source of scenes needs count = how many")
        self.broken: list[ImageError] = []
        self.pairs = []
        for index in range(config.count):
            scene = scenes.scene(config.seed, index, SCENE_SIZE, config.only or None)
            image = centre(Image.fromarray(scene.image), size)
            says, true = frozenset(scene.meaning.split("; ")), frozenset(truths(scene.facts))
            self.pairs.append(Pair(image, scene.caption, says, true, config.augment))

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, size: int, rng: np.random.Generator) -> Pair:
        return self.pairs[index]


def open_source(config: SourceConfig, root: Path, size: int) -> Source:
    """The source that `config` describes; relative paths start at `root`."""
    if config.kind == "folder":
        return FolderSource(config, root, size)
    return ScenesSource(config, size)


def batch_at(
    sources: Sequence[Source], shares: Sequence[float], batch: int, size: int, seed: int, step: int
) -> list[Pair]:
    """Batch number `step`: a function of its arguments alone, so that a run can start anywhere.

    Each source gives its share, in a new order every epoch.
    """
    total = sum(shares)
    counts = [round(batch * share / total) for share in shares]
    counts[0] = batch - sum(counts[1:])
    pairs = []
    for number, (source, count) in enumerate(zip(sources, counts, strict=True)):
        for position in range(step * count, (step + 1) * count):
            epoch, at = divmod(position, len(source))
            index = int(_order(len(source), seed, number, epoch)[at])
            rng = np.random.default_rng([seed, number, position])
            pairs.append(source.pair(index, size, rng))
    return pairs


@lru_cache(maxsize=16)
def _order(length: int, seed: int, source: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, source, epoch, 1]).permutation(length)


def positives(pairs: Sequence[Pair]) -> NDArray[np.bool_]:
    """(N, N): whether caption j is true of photo i. The diagonal always is."""
    true = np.array([[text.says <= image.truths for text in pairs] for image in pairs])
    return true | np.eye(len(pairs), dtype=bool)


def random_crop(photo: Image.Image, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random part (30-100% of the area, sides 3:4 to 4:3), resized and maybe mirrored: the
    augmentation of Szegedy et al. 2015, section 6."""
    area = photo.width * photo.height * rng.uniform(0.3, 1)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(photo.width, (area * ratio) ** 0.5)
    height = min(photo.height, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    box = (left, top, left + width, top + height)
    image = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return image[:, ::-1] if rng.random() < 0.5 else image


def centre(photo: Image.Image, size: int) -> NDArray[np.uint8]:
    """The centred square of a photo, resized."""
    side = min(photo.size)
    left, top = (photo.width - side) / 2, (photo.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _shrunk(image: NDArray[np.uint8], size: int) -> Image.Image:
    photo = Image.fromarray(image)
    factor = 1.5 * size / min(photo.size)
    if factor >= 1:
        return photo
    to = (round(photo.width * factor), round(photo.height * factor))
    return photo.resize(to, Image.Resampling.BICUBIC, reducing_gap=2.0)
