"""Which file of a folder holds the weights, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchword.checkpoints import training_folders
from patchword.checkpoints.json_files import parse
from patchword.errors import CheckpointError, listed

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")  # ".pth.tar" is among them
# In order of preference. Hub repositories may hold the same model twice, for two libraries.
USUAL_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
# Other files with these suffixes that trainers write beside the weights.
TRAINER_FILES = (
    "optimizer.", "optimizer_", "scheduler.", "scheduler_", "scaler.", "sampler", "rng_state",
    "training_args.", "random_states",
)  # fmt: skip
DEEPSPEED_OPTIMIZER = "_optim_states.pt"


def choose(folder: Path) -> Path:
    """The weights file of a folder: one with a usual name, else the only one there is. Raises
    CheckpointError if there is none, or several."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    usual = preferred(names)
    if usual is not None:
        return folder / usual
    candidates = [name for name in names if may_be_weights(name)]
    if len(candidates) == 1:
        return folder / candidates[0]
    if candidates:
        raise CheckpointError(training_folders.several_files(folder, candidates))
    advice = training_folders.without_weights(folder)
    raise CheckpointError(advice or no_weights(str(folder), names))


def preferred(names: Sequence[str]) -> str | None:
    """The first of `USUAL_NAMES` among the files of a folder; None if there is none."""
    return next((name for name in USUAL_NAMES if name in names), None)


def may_be_weights(name: str) -> bool:
    """Whether a file may hold weights: by its suffix, and not one of `TRAINER_FILES`."""
    trainer = name.startswith(TRAINER_FILES) or name.endswith(DEEPSPEED_OPTIMIZER)
    return name.endswith(SUFFIXES) and not trainer


def no_weights(where: str, names: Sequence[str]) -> str:
    """The error for a place with files of these names, none of them weights."""
    return (
        f"{where} has no weights; looked for {', '.join(USUAL_NAMES)}, or one file ending in "
        f"{', '.join(SUFFIXES)}; found {listed(names, 10) or 'nothing'}"
    )


def shards(index: Path) -> list[Path]:
    """The files of a sharded checkpoint. Raises CheckpointError if one is missing."""
    names = shard_names(parse(index), index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names {', '.join(missing)}, which is not there")
    return [index.parent / name for name in names]


def shard_names(index: Any, where: Path | str) -> list[str]:
    """The files that a parsed index.json names. Raises CheckpointError if it names none, or one
    that is not beside it."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise CheckpointError(f"{where} is not an index of weight files beside it")
    return sorted(set(names))
