"""Reads what open_clip's trainer writes about a run: its name in each checkpoint, its options in
params.txt.

`open_clip_train/main.py` saves logs/NAME/checkpoints/epoch_N.pt and writes each option of the run
into a line of logs/NAME/params.txt, "option: value". A run's default name consists of its date, its
model, its learning rate and so on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchword.errors import CheckpointError, CheckpointWarning, warn

FILE = "params.txt"
DEFAULT_NAME = re.compile(r"(?:^|-)model_(.+?)-lr_")
QUICK = "-quickgelu"
# Options of a run by their names in preprocess_cfg.
PREPROCESSING = {
    "mean": "image_mean",
    "std": "image_std",
    "interpolation": "image_interpolation",
    "resize_mode": "image_resize_mode",
}
# Tags of open_clip/pretrained.py whose preprocessing is not the default one.
TAGS: dict[str, dict[str, Any]] = {
    "laion2b_s32b_b82k": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "dfn5b": {"resize_mode": "squash"},
}


def options(weights: Path, run: str) -> dict[str, Any] | None:
    """The options of the run called `run`, of which `weights` is a checkpoint; None if they are
    neither in the folder above nor beside it. Options without a value are left out."""
    for folder in (weights.absolute().parent.parent, weights.absolute().parent):
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        pairs = [line.split(": ", 1) for line in text.splitlines() if ": " in line]
        values = {key: _value(value) for key, value in pairs if value not in ("None", "")}
        if str(values.get("name")) == run and "model" in values:
            return values
    return None


def architecture(weights: Path, run: str, options: Mapping[str, Any] | None) -> str | None:
    """The architecture of a run, from its options, else from its name; None if neither states it.

    Raises CheckpointError for options that stand for two networks.
    """
    if options is None:
        match = DEFAULT_NAME.search(run)
        if match is None:
            return None
        name = match[1]
        if not name.endswith(QUICK):
            warn(
                f"{weights.name} was trained as {name}, says the name of its run, and is read "
                "with GELU; if it was fine-tuned from weights of OpenAI, give "
                f'architecture="{name}{QUICK}" (--architecture)',
                CheckpointWarning,
            )
        return name
    model = str(options["model"]).replace("/", "-")
    quick_gelu = model.endswith(QUICK) or options.get("force_quick_gelu") == "True"
    if not quick_gelu and options.get("pretrained") == "openai":
        raise CheckpointError(
            f"{weights} was trained as {model} from weights of OpenAI, says its {FILE}: with "
            "QuickGELU by open_clip of before (2.24), with GELU by that of today (2.30 on); give "
            f'architecture="{model}{QUICK}" or architecture="{model}" (--architecture)'
        )
    name = model.removesuffix(QUICK)
    return name + QUICK if quick_gelu else name


def config_file(model_cfg: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip_config.json of a run: the architecture `model_cfg`, changed by the options."""
    model_cfg = dict(model_cfg)
    if "force_image_size" in options:
        image_size = {"image_size": options["force_image_size"]}
        model_cfg["vision_cfg"] = model_cfg["vision_cfg"] | image_size
    if options.get("siglip") == "True":
        model_cfg["init_logit_bias"] = -10
    preprocess_cfg = dict(TAGS.get(str(options.get("pretrained")), {}))
    for key, name in PREPROCESSING.items():
        if name in options:
            preprocess_cfg[key] = options[name]
    if preprocess_cfg.get("interpolation") == "random":  # random in training alone
        preprocess_cfg["interpolation"] = "bicubic"
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}


def _value(text: str) -> Any:
    """A printed number or list as such; anything else as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
