"""Reads what open_clip's trainer writes of a run: its name in each checkpoint, its options in
params.txt.

`open_clip_train/main.py` saves logs/NAME/checkpoints/epoch_N.pt and writes every option of the run
into logs/NAME/params.txt, one "option: value" a line; unless a run is named, its name is made of
date, model, learning rate, ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchword.errors import CheckpointError, CheckpointWarning, warn

FILE = "params.txt"
NAME = re.compile(r"(?:^|-)model_(.+?)-lr_")
QUICK = "-quickgelu"
# Options of the run by their names in open_clip_config.json.
PIXELS = {
    "mean": "image_mean",
    "std": "image_std",
    "interpolation": "image_interpolation",
    "resize_mode": "image_resize_mode",
}
# Tags of open_clip/pretrained.py with another preprocessing; the other tags have the default.
TAGS: dict[str, dict[str, Any]] = {
    "laion2b_s32b_b82k": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "dfn5b": {"resize_mode": "squash"},
}


def options(weights: Path, run: str) -> dict[str, Any] | None:
    """The options of the run called `run`, whose checkpoint `weights` is; None where they are not
    in the folder above it or beside it. An option that was not given is left out."""
    for folder in (weights.absolute().parent.parent, weights.absolute().parent):
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        pairs = [line.split(": ", 1) for line in text.splitlines() if ": " in line]
        found = {key: _value(value) for key, value in pairs if value not in ("None", "")}
        if str(found.get("name")) == run and "model" in found:
            return found
    return None


def architecture(weights: Path, run: str, stated: Mapping[str, Any] | None) -> str | None:
    """The architecture that a run was of: as its options say, else as its name does; None where
    neither does.

    Raises CheckpointError for options that mean two networks.
    """
    if stated is None:
        found = NAME.search(run)
        if found is not None and not found[1].endswith(QUICK):
            warn(
                f"{weights.name} was trained as {found[1]}, says the name of its run, and is read "
                "with GELU; if it was fine-tuned from weights of OpenAI, give "
                f'architecture="{found[1]}{QUICK}" (--architecture)',
                CheckpointWarning,
            )
        return found[1] if found else None
    model = str(stated["model"]).replace("/", "-")
    quick = model.endswith(QUICK) or stated.get("force_quick_gelu") == "True"
    if not quick and stated.get("pretrained") == "openai":
        raise CheckpointError(
            f"{weights} was trained as {model} from weights of OpenAI, says its {FILE}: with "
            "QuickGELU by open_clip of before (2.24), with GELU by that of today (2.30 on); give "
            f'architecture="{model}{QUICK}" or architecture="{model}" (--architecture)'
        )
    return f"{model.removesuffix(QUICK)}{QUICK * quick}"


def configured(known: dict[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip_config.json of an architecture, `known`, with what a run's options change of it."""
    model, pixels = dict(known), dict(TAGS.get(str(stated.get("pretrained")), {}))
    if "force_image_size" in stated:
        model["vision_cfg"] = model["vision_cfg"] | {"image_size": stated["force_image_size"]}
    if stated.get("siglip") == "True":
        model["init_logit_bias"] = -10
    pixels |= {key: stated[name] for key, name in PIXELS.items() if name in stated}
    if pixels.get("interpolation") == "random":  # in training; else bicubic
        pixels["interpolation"] = "bicubic"
    return {"model_cfg": model, "preprocess_cfg": pixels}


def _value(text: str) -> Any:
    """A list or a number as Python prints it; anything else as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
