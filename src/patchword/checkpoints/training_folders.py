"""Advice for folders that training leaves behind and that are not a model: what they contain, and
what to load instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from patchword.errors import CheckpointWarning, listed, warn

STEP = re.compile(r"checkpoint[-_](\d+)")  # of transformers' Trainer and of accelerate
NUMBERED = re.compile(r"(model|pytorch_model)_(\d+)\.(safetensors|bin)")  # accelerate's save_state
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")  # of sharded weights, beside their index
BEST = ("model_best", "best", "last")  # files of timm's CheckpointSaver and Lightning
LATEST = "latest"  # DeepSpeed's file with the name of the folder of its last checkpoint
DISTRIBUTED = ".distcp"  # suffix of torch.distributed.checkpoint, and of FSDP in accelerate
CONVERT = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
MAX_SHOWN = 4  # names in an error


def without_weights(folder: Path) -> str | None:
    """Why a folder has no file of weights, and what to do; None for a folder like any other."""
    if any(folder.glob(f"*{DISTRIBUTED}")):
        return distributed(folder)
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir())
    steps = sorted((p for p in subfolders if STEP.fullmatch(p.name)), key=_step)
    if (folder / LATEST).is_file():
        latest = (folder / LATEST).read_text(encoding="utf-8", errors="replace").strip()
        steps = [path for path in subfolders if path.name == latest]
    if steps:
        return (
            f"{folder} holds the checkpoints of a training, and no model itself: give one of them, "
            f"such as the last, {steps[-1]} (there: {listed([p.name for p in steps], MAX_SHOWN)})"
        )
    distributed_folders = [path for path in subfolders if any(path.glob(f"*{DISTRIBUTED}"))]
    return distributed(distributed_folders[0]) if distributed_folders else None


def distributed(folder: Path) -> str:
    """The advice for a checkpoint of torch.distributed.checkpoint."""
    return (
        f"{folder} is a checkpoint of torch.distributed.checkpoint, a part of each tensor in each "
        f"file: join them with `{CONVERT} {folder} pytorch_model.bin`, and give that file, with "
        "the model's config.json beside it"
    )


def several_files(folder: Path, names: Sequence[str]) -> str:
    """The advice for a folder with several files of weights."""
    if (advice := part_of(folder / names[0])) is not None:
        return advice
    best = [n for stem in BEST for n in names if n.split(".")[0].split("-")[0] == stem]
    example = f", such as {folder / best[0]}" if best else ""
    shown = listed(names, MAX_SHOWN)
    return f"{folder} has several files of weights; give the path of one{example}: {shown}"


def part_of(weights: Path) -> str | None:
    """Why a file is no model, and what to do, if it is one of the shards of a model; None for any
    other file."""
    match = SHARD.fullmatch(weights.name)
    if match is None or int(match[3]) < 2:
        return None
    index = f"{match[1]}{match[4]}.index.json"
    advice = f"without {index}, which names all of them: copy that there too"
    if (weights.parent / index).is_file():
        advice = f"give their folder, {weights.parent}"
    return f"{weights} is one of {int(match[3])} parts of a model; {advice}"


def warn_of_others(weights: Path) -> None:
    """Warn of other models in the same folder, as accelerate's `save_state` writes them."""
    stem = weights.name.split(".")[0]
    names = sorted(path.name for path in weights.parent.iterdir())
    matches = [NUMBERED.fullmatch(name) for name in names]
    others = [match[0] for match in matches if match and match[1] == stem]
    if others:
        warn(
            f"{weights.parent} holds several models, as accelerate saves them; {weights.name} is "
            f"read, and not {listed(others, MAX_SHOWN)}: give its path for another",
            CheckpointWarning,
        )


def _step(folder: Path) -> int:
    match = STEP.fullmatch(folder.name)
    return int(match[1]) if match else -1
