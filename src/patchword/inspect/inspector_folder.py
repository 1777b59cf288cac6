"""The folder of a saved inspector: inspect.json, state.safetensors with what its method has
learned, and drift.json with the scores of photos inspected so far."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from patchword.atomic_write import PART, write
from patchword.errors import CheckpointError, UnsupportedError
from patchword.inspect.protocol import State

FORMAT = 3  # 1 compared another layer by default; 2 had no hash of the state
ABOUT, STATE, STREAM = "inspect.json", "state.safetensors", "drift.json"
KEYS = (
    "state", "method", "options", "model", "fingerprint", "learned", "grouped", "rule",
    "calibration",
)  # fmt: skip


def free(folder: str | os.PathLike[str]) -> Path:
    """The folder, if `write_folder` may write it. Raises UnsupportedError if it holds other
    files."""
    place = Path(folder)
    names = os.listdir(place) if place.is_dir() else []
    others = [
        name
        for name in names
        if name not in (ABOUT, STATE, STREAM)
        and not name.startswith(PART)  # left by a process that was killed
    ]
    if others or (place.exists() and not place.is_dir()):
        raise UnsupportedError(f"{place}: it holds something other than a fitted inspector")
    return place


def write_folder(folder: str | os.PathLike[str], about: Mapping[str, Any], state: State) -> Path:
    """Write the folder, over an earlier one. Raises UnsupportedError if it holds other files."""
    place = free(folder)
    content = save({name: value.contiguous() for name, value in state.items()})
    write(place / STATE, content)
    record = {"format": FORMAT, "state": _hash(content), **about}
    write(place / ABOUT, json.dumps(record, indent=1) + "\n")
    return place


def read_folder(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], State]:
    """Read what `write_folder` wrote. Raises CheckpointError if it is missing or damaged."""
    place = Path(folder)
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        content = (place / STATE).read_bytes()
        state = load(content)
    except OSError as error:
        raise CheckpointError(
            f"{place}: no fitted inspector is there: {error.filename}: {error.strerror}"
        ) from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise damaged(place, str(error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{place}: {ABOUT} is not of format {FORMAT}; fit it anew")
    if missing := [key for key in KEYS if key not in about]:
        raise damaged(place, f"{ABOUT} has no {', '.join(missing)}")
    if about["state"] != _hash(content):
        raise damaged(place, f"{STATE} is not the file that {ABOUT} was written for")
    return about, state


def write_stream(folder: str | os.PathLike[str], scores: Sequence[float]) -> None:
    """Write the scores of the photos inspected so far. Raises OSError."""
    write(Path(folder) / STREAM, json.dumps({"format": FORMAT, "scores": list(scores)}) + "\n")


def read_stream(folder: str | os.PathLike[str]) -> list[float]:
    """The scores that `write_stream` wrote; [] if there is no file. Raises CheckpointError for a
    damaged one."""
    place = Path(folder) / STREAM
    if not place.exists():
        return []
    try:
        scores = json.loads(place.read_text(encoding="utf-8"))["scores"]
        if not all(map(math.isfinite, scores)):
            raise ValueError("a score is no finite number")
        return [float(score) for score in scores]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{place}: damaged ({type(error).__name__}: {error}); delete it, and the drift alarm "
            "begins anew"
        ) from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def damaged(folder: str | os.PathLike[str], reason: str) -> CheckpointError:
    """The error for a folder that is damaged."""
    return CheckpointError(f"{os.fspath(folder)}: a damaged inspector ({reason}); fit it anew")
