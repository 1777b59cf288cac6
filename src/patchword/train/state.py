"""Checkpoints of a run. Each is written completely or not at all, the last few are kept, and any
number of processes can continue from them."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from patchword.atomic_write import replacing
from patchword.errors import RecipeError

FOLDER = "checkpoints"
FORMAT = 2  # of a checkpoint; format 1, which is not written into it, had other recipe keys
NAME = re.compile(r"step-(\d+)\.pt")
State = dict[str, Any]


def saved(out: Path) -> dict[int, Path]:
    """The checkpoints of a run's folder by step, oldest first."""
    paths = {}
    for path in (out / FOLDER).glob("step-*.pt"):
        if match := NAME.fullmatch(path.name):
            paths[int(match[1])] = path
    return dict(sorted(paths.items()))


def check_no_model(out: Path) -> None:
    """Raise RecipeError if a run that begins in `out` would overwrite a model or an adapter."""
    for path in (out / "model", out / "adapter"):
        if path.exists():
            raise RecipeError(
                f"{path}: is there, without a checkpoint of the run that made it, and would be "
                "overwritten; give another out"
            )


def save(out: Path, step: int, state: State, keep: int) -> Path:
    """Write a checkpoint, then delete all but the last `keep`.

    Raises RecipeError if it cannot be written. Earlier checkpoints are unharmed then.
    """
    path = out / FOLDER / f"step-{step:08d}.pt"
    try:
        with replacing(path) as part:
            torch.save(state, part)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
        last = max(saved(out), default=None)
        before = "there is none before it" if last is None else f"that of step {last} is unharmed"
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise RecipeError(
            f"{path}: the checkpoint could not be written ({reason}); {before}. Make room, then "
            "run the same command again"
        ) from error
    for old in list(saved(out).values())[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> State:
    """A checkpoint, on the CPU. Raises RecipeError for one that cannot be read, or was written by
    another version of patchword."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare checksums
            if damaged := archive.testzip():
                raise ValueError(f"its part {damaged} is damaged")
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise RecipeError(
            f"{path}: not a checkpoint of a run ({error}); delete it to go on from the one before"
        ) from error
    if not isinstance(state, dict) or not {"step", "network"} <= state.keys():
        raise RecipeError(
            f"{path}: not a checkpoint of a run, but another file of torch; delete it to go on "
            "from the one before"
        )
    if state.get("format") != FORMAT:
        raise RecipeError(
            f"{path}: written by another version of patchword, whose recipes and checkpoints "
            f"differ; finish the run with that version, give it a new out, or delete {path.parent}"
        )
    return state


def other_run_message(path: Path, out: Path, different: Sequence[str]) -> str:
    """The error for a checkpoint of another run: what differs, and how to go on."""
    text = f"{path} is of another run: {', '.join(different)} differ. "
    if "steps" in different:
        text += "The learning rate falls to zero over steps, so other steps are another run. "
    text += "Give the run a new out, "
    if (out / "model").is_dir():
        text += f"or go on from what it learned: init={out / 'model'} and a new out, "
    return f"{text}or delete {path.parent} to begin anew"
