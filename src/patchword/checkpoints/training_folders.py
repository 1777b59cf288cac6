"""Folders that training leaves behind and that are no model by themselves: what they contain, and
what to give instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from patchword.errors import CheckpointWarning, listed, warn

STEP = re.compile(r"checkpoint[-_](\d+)")  # of transformers' Trainer and of accelerate
SECOND = re.compile(r"(model|pytorch_model)_(\d+)\.(safetensors|bin)")  # accelerate's save_state
PART = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")  # of sharded weights, beside their index
BEST = ("model_best", "best", "last")  # what timm's CheckpointSaver and Lightning call one of many
LATEST = "latest"  # where DeepSpeed names the folder of its last checkpoint
DISTRIBUTED = ".distcp"  # torch.distributed.checkpoint, FSDP of accelerate
CONVERT = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
SHOWN = 4  # names in an error


def without_weights(folder: Path) -> str | None:
    """Why a folder has no file of weights, and what to do; None for a folder like any other."""
    if any(folder.glob(f"*{DISTRIBUTED}")):
        return distributed(folder)
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    steps = sorted((p for p in below if STEP.fullmatch(p.name)), key=_number)
    if (folder / LATEST).is_file():
        named = (folder / LATEST).read_text(encoding="utf-8", errors="replace").strip()
        steps = [path for path in below if path.name == named]
    if steps:
        return (
            f"{folder} holds the checkpoints of a training, and no model itself: give one of them, "
            f"such as the last, {steps[-1]} (there: {listed([p.name for p in steps], SHOWN)})"
        )
    parts = [path for path in below if any(path.glob(f"*{DISTRIBUTED}"))]
    return distributed(parts[0]) if parts else None


def distributed(folder: Path) -> str:
    """The advice for a checkpoint of torch.distributed.checkpoint."""
    return (
        f"{folder} is a checkpoint of torch.distributed.checkpoint, a part of each tensor in each "
        f"file: join them with `{CONVERT} {folder} pytorch_model.bin`, and give that file, with "
        "the model's config.json beside it"
    )


def one_of(folder: Path, names: Sequence[str]) -> str:
    """The advice for a folder with several files of weights."""
    if (why := part_of(folder / names[0])) is not None:
        return why
    likely = next((n for best in BEST for n in names if n.split(".")[0].split("-")[0] == best), "")
    advice = f", such as {folder / likely}" if likely else ""
    some = listed(names, SHOWN)
    return f"{folder} has several files of weights; give the path of one{advice}: {some}"


def part_of(weights: Path) -> str | None:
    """Why a file is no model, and what to do, if it is one of the parts that sharded weights were
    saved in; None for any other."""
    found = PART.fullmatch(weights.name)
    if found is None or int(found[3]) < 2:
        return None
    index = f"{found[1]}{found[4]}.index.json"
    advice = f"without {index}, which names all of them: copy that there too"
    if (weights.parent / index).is_file():
        advice = f"give their folder, {weights.parent}"
    return f"{weights} is one of {int(found[3])} parts of a model; {advice}"


def warn_of_others(weights: Path) -> None:
    """Warn of the other models of accelerate's `save_state` that are in the same folder."""
    stem = weights.name.split(".")[0]
    names = sorted(path.name for path in weights.parent.iterdir())
    others = [name for name in names if (m := SECOND.fullmatch(name)) and m[1] == stem]
    if others:
        warn(
            f"{weights.parent} holds several models, as accelerate saves them; {weights.name} is "
            f"read, and not {listed(others, SHOWN)}: give its path for another",
            CheckpointWarning,
        )


def _number(path: Path) -> int:
    found = STEP.fullmatch(path.name)
    return int(found[1]) if found else -1
