"""open_clip's architectures by name, for checkpoints of its trainer without open_clip_config.json.

The tensors do not show the activation and the heads, which change every output. Names and numbers
are those of the files in open_clip/model_configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from patchword.checkpoints import open_clip_runs
from patchword.checkpoints.formats import openai
from patchword.checkpoints.formats.open_clip import CONFIG_FILE
from patchword.checkpoints.open_clip_runs import QUICK
from patchword.checkpoints.read import Checkpoint
from patchword.errors import CheckpointError, CheckpointWarning, warn
from patchword.options import nearest

# pixels, patch, width, layers; width and layers of the text tower, whose width is embed_dim
VITS = {
    "ViT-S-32": (224, 32, 384, 12, 384, 12),
    "ViT-S-32-alt": (224, 32, 384, 12, 256, 10),
    "ViT-S-16": (224, 16, 384, 12, 384, 12),
    "ViT-S-16-alt": (224, 16, 384, 12, 256, 10),
    "ViT-M-32": (224, 32, 512, 12, 512, 12),
    "ViT-M-32-alt": (224, 32, 512, 12, 384, 12),
    "ViT-M-16": (224, 16, 512, 12, 512, 12),
    "ViT-B-32": (224, 32, 768, 12, 512, 12),
    "ViT-B-32-256": (256, 32, 768, 12, 512, 12),
    "ViT-B-32-plus-256": (256, 32, 896, 12, 640, 12),
    "ViT-B-16": (224, 16, 768, 12, 512, 12),
    "ViT-B-16-plus": (224, 16, 896, 12, 640, 12),
    "ViT-B-16-plus-240": (240, 16, 896, 12, 640, 12),
    "ViT-L-16": (224, 16, 1024, 24, 768, 12),
    "ViT-L-16-320": (320, 16, 1024, 24, 768, 12),
    "ViT-L-14": (224, 14, 1024, 24, 768, 12),
    "ViT-L-14-280": (280, 14, 1024, 24, 768, 12),
    "ViT-L-14-336": (336, 14, 1024, 24, 768, 12),
    "ViT-H-16": (224, 16, 1280, 32, 1024, 24),
    "ViT-H-14": (224, 14, 1280, 32, 1024, 24),
    "ViT-H-14-378": (378, 14, 1280, 32, 1024, 24),
    "ViT-g-14": (224, 14, 1408, 40, 1024, 24),
    "ViT-bigG-14": (224, 14, 1664, 48, 1280, 32),
    "ViT-e-14": (224, 14, 1792, 56, 1280, 36),
}
HEADS_AND_MLP = {1280: (80, 4.0), 1408: (88, 4.3637), 1664: (104, 4.9231), 1792: (112, 8.5715)}
# pixels, width, blocks a stage, embed_dim, width of the text tower
RESNETS = {
    "RN50": (224, 64, [3, 4, 6, 3], 1024, 512),
    "RN101": (224, 64, [3, 4, 23, 3], 512, 512),
    "RN50x4": (288, 80, [4, 6, 10, 6], 640, 640),
    "RN50x16": (384, 96, [6, 8, 18, 8], 768, 768),
    "RN50x64": (448, 128, [3, 15, 36, 10], 1024, 1024),
}
NAMES = (*VITS, *RESNETS)


class KnownArchitecture(NamedTuple):
    """An architecture that no file states: its description, and the content of the missing file."""

    title: str
    files: dict[str, Any]  # open_clip_config.json


def architecture_of(opened: Checkpoint, name: str | None) -> KnownArchitecture | None:
    """The architecture of weights of open_clip without open_clip_config.json; None for others.

    name: as the user gave it. Weights that may be OpenAI's or open_clip's count as OpenAI's; see
    `warn_of_doubt`. Raises CheckpointError for weights of open_clip whose architecture is nowhere
    named, for an unknown name, and for a name that is not needed.
    """
    tensors = opened.tensors
    has_original_names = openai.has_original_names(tensors)
    has_text = has_original_names or any(tensor.startswith("text.") for tensor in tensors)
    is_clip = has_text and any(tensor.startswith("visual.") for tensor in tensors)
    if CONFIG_FILE in opened.files or not is_clip:
        if name is not None:
            raise CheckpointError(
                f"{opened.name} needs no architecture: it is for weights of open_clip without "
                f"{CONFIG_FILE}; leave out {name!r}"
            )
        return None
    run, options = None, None
    if opened.entry.name == "state_dict":
        run = opened.entry.metadata.get("name")
    if run is not None:
        options = open_clip_runs.options(opened.weights, run)
    if name is not None:
        return _known(name, "as given", options)
    if run is None:
        if has_original_names and not opened.weights.name.startswith("open_clip_"):
            return None
        what, file = "weights of open_clip", ""
    else:
        run_name = open_clip_runs.architecture(opened.weights, run, options)
        if run_name is not None:
            why = f"by the run's {open_clip_runs.FILE}" if options else "by the name of its run"
            return _known(run_name, why, options)
        what = "a checkpoint of open_clip's trainer"
        if run:
            what += f" (its run is called {run!r})"
        file = f", its {open_clip_runs.FILE} in the folder above"
    raise CheckpointError(
        f"{opened.weights} is {what}, which does not say what its activation and heads "
        f'are: give the name that it was trained as, architecture="ViT-B-32" '
        f"(--architecture), or put {CONFIG_FILE} beside it{file}"
    )


def _known(name: str, why: str, options: Mapping[str, Any] | None) -> KnownArchitecture:
    """The architecture of that name, changed by the options of its run."""
    file = open_clip_runs.config_file(model_cfg(name, f", {why},"), options or {})
    return KnownArchitecture(f"architecture {name}, {why}", {CONFIG_FILE: file})


def model_cfg(name: str, why: str = "") -> dict[str, Any]:
    """The content of open_clip's own file of that name.

    why: where the name is from, for errors. Raises CheckpointError for a name that is not in the
    tables above.
    """
    plain, quick_gelu = name.replace("/", "-").removesuffix(QUICK), name.endswith(QUICK)
    vision: dict[str, Any]
    if plain in VITS:
        pixels, patch, width, layers, text_width, text_layers = VITS[plain]
        head_width, mlp_ratio = HEADS_AND_MLP.get(width, (openai.HEAD_WIDTH, 4.0))
        vision = {"patch_size": patch, "layers": layers, "mlp_ratio": mlp_ratio}
        embed_dim = text_width
    elif plain in RESNETS:
        pixels, width, stages, embed_dim, text_width = RESNETS[plain]
        head_width, text_layers = openai.HEAD_WIDTH, 12
        vision = {"layers": stages}
    else:
        quick = ' | {"quick_gelu": True}' if quick_gelu else ""
        raise CheckpointError(
            f"architecture {name!r}{why} is not known{nearest(name, NAMES)}. Known are "
            f"{', '.join(NAMES)}, each with {QUICK!r} after it if it was trained so. For another "
            f"one write {CONFIG_FILE} beside the weights: "
            f'{{"model_cfg": open_clip.get_model_config({plain!r}){quick}, "preprocess_cfg": {{}}}}'
        )
    vision |= {"image_size": pixels, "width": width, "head_width": head_width}
    heads = text_width // openai.HEAD_WIDTH
    text = {"width": text_width, "layers": text_layers, "heads": heads}
    return {
        "quick_gelu": quick_gelu,
        "embed_dim": embed_dim,
        "vision_cfg": vision,
        "text_cfg": text,
    }


def warn_of_doubt(opened: Checkpoint) -> None:
    """Warn if weights that are read as OpenAI's, with QuickGELU, may be another trainer's, with
    GELU. TorchScript archives are OpenAI's: nobody else publishes them."""
    if opened.entry.archive:
        return
    warn(
        f"{opened.weights.name} has the names of OpenAI's CLIP and says nothing of its activation, "
        "so that QuickGELU is taken, as OpenAI's; if it was trained with open_clip, give its name "
        'there, architecture="ViT-B-32" (--architecture)',
        CheckpointWarning,
    )
