"""Masks of defects: one for each bad photo, as in MVTec AD, or a folder of several, as in MVTec
LOCO AD, which also says how much of each defect has to be found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.data import folders
from patchword.errors import PatchwordError
from patchword.evaluate.mask_files import samples

Mask = NDArray[np.bool_]
Size = tuple[int, int]

CONFIG = "defects_config.json"


@dataclass(frozen=True)
class Saturation:
    """How much of a defect is enough: pixels, or with `relative` a share of it."""

    threshold: float
    relative: bool

    def pixels(self, area: int) -> float:
        """The pixels that are enough of a defect of `area` pixels, at most all of them. A share is
        rounded down to whole pixels, as in MVTec's code, but to no less than 1, where that code
        divides by 0."""
        if self.relative:
            return max(int(self.threshold * area), 1)
        return min(self.threshold, area)


@dataclass(frozen=True)
class Defect:
    """One defect of a photo."""

    mask: Mask
    enough: float  # pixels that count as the whole defect


def by_photo(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The masks in a folder by the name of their photo: NAME_mask.png, NAME.png, or all files in a
    folder NAME."""
    masks: dict[str, list[Path]] = {}
    for path in map(Path, folders.pictures(folder) if folder.is_dir() else []):
        parts = path.relative_to(folder).parts
        name = parts[0] if len(parts) > 1 else path.stem.removesuffix("_mask")
        masks.setdefault(name, []).append(path)
    return {name: tuple(sorted(paths)) for name, paths in masks.items()}


def saturations(folder: Path) -> dict[int, Saturation] | None:
    """The entries of `CONFIG` in the folder of a category, by the grey level of a kind of defect in
    masks; None if there is no such file. Raises PatchwordError for another format than that of
    MVTec LOCO AD."""
    file = folder / CONFIG
    if not file.exists():
        return None
    try:
        return {
            int(each["pixel_value"]): Saturation(
                float(each["saturation_threshold"]), bool(each["relative_saturation"])
            )
            for each in json.loads(file.read_text(encoding="utf-8"))
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PatchwordError(
            f"{file}: not as MVTec LOCO AD has it, a list of pixel_value, saturation_threshold and "
            f"relative_saturation ({type(error).__name__}: {error})"
        ) from error


def read(
    masks: Sequence[Path],
    photo: str,
    source: Size,
    size: Size,
    known: Mapping[int, Saturation] | None = None,
) -> tuple[Mask, list[Defect]]:
    """The mask of all bad pixels of a photo, at `size`, and if kinds are `known` its defects one by
    one. source: the photo's size, which its masks must have. Raises PatchwordError for a file that
    is no mask, an empty mask, and an unknown kind."""
    bad, defects = np.zeros(size, np.bool_), []
    for path in masks:
        levels = _levels(path, photo, source)
        mask = shrunk(levels > 0, size)
        bad |= mask
        if known is not None:
            kinds = np.unique(levels[levels > 0]).tolist()
            if len(kinds) != 1 or kinds[0] not in known:
                raise PatchwordError(
                    f"{path}: grey levels {', '.join(map(str, kinds))}; a mask is of one kind of "
                    f"defect, and {CONFIG} has {', '.join(map(str, sorted(known)))}"
                )
            area = int((levels > 0).sum())
            share = known[kinds[0]].pixels(area) / area
            defects.append(Defect(mask, share * int(mask.sum())))
    return bad, defects


def shrunk(mask: Mask, size: Size) -> Mask:
    """A mask at a smaller size: a pixel belongs to it if any part of it does."""
    if mask.shape == size:
        return mask
    shares = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(shares) > 0


def _levels(path: Path, photo: str, source: Size) -> NDArray[np.integer]:
    """The grey levels of a mask, 0 where its photo is good; for colours the brightest channel.
    Raises PatchwordError."""
    levels = samples(path, colours=True)
    if levels.shape != source:
        raise PatchwordError(
            f"{path}: {levels.shape[1]} x {levels.shape[0]} px, and its photo {photo} has "
            f"{source[1]} x {source[0]}; a mask must be of its photo's size"
        )
    if not levels.any():
        raise PatchwordError(f"{path}: all black, and {photo} is among the bad photos")
    return levels
