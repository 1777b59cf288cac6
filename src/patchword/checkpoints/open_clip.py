"""open_clip: open_clip_config.json with safetensors or .bin. Names are OpenAI's, sizes are stated.

Defaults are those of CLIPVisionCfg and CLIPTextCfg (open_clip/model.py) and PreprocessCfg
(open_clip/transform.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints import openai
from patchword.checkpoints.openai import BLOCKS, EPS, HEAD_WIDTH
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Rule
from patchword.checkpoints.stated import Stated, highest_id, scale_limit, shape_of
from patchword.config import Activation, ModelConfig, PreprocessConfig, TextConfig, VisionConfig

TITLE = "an open_clip model"
EXPECTS = "open_clip_config.json, tensors visual.*, transformer.resblocks.* and text_projection"

CONFIG_FILE = "open_clip_config.json"
DEFAULT = "open_clip's default"
MEAN, STD = PreprocessConfig().mean, PreprocessConfig().std

# Keys with the value at which they change nothing, whatever the tower.
NEUTRAL = {
    "ls_init_value": None,
    "block_type": "default",
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
NEUTRAL_MODEL = {
    "custom_text": False,
    "init_logit_bias": None,
    "multimodal_cfg": None,
    "nonscalar_logit_scale": False,
}
NEUTRAL_VISION = {
    **NEUTRAL,
    "attentional_pool": False,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "timm_model_name": None,
}
NEUTRAL_TEXT = {
    **NEUTRAL,
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_mode": None,
    "tokenizer_kwargs": None,
    "embed_cls": False,
    "no_causal_mask": False,
    "proj_bias": False,
    "proj_type": "linear",
}
# Keys that are read below, or matter in training only, or with one of the above only.
KNOWN_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"}
KNOWN_TOWER = {"layers", "width", "mlp_ratio", "act_kwargs", "norm_kwargs", "pool_type"}
KNOWN_TOWER |= {"output_tokens", "final_ln_after_pool"}
KNOWN_VISION = KNOWN_TOWER | {"head_width", "patch_size", "image_size", "patch_dropout"}
KNOWN_VISION |= {"attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_pool"}
KNOWN_VISION |= {"timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"}
KNOWN_TEXT = KNOWN_TOWER | {"context_length", "vocab_size", "heads", "pad_id", "eos_id"}
KNOWN_TEXT |= {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Its configuration file, and tensors that are not another library's."""
    return CONFIG_FILE in files and any(key.startswith("visual.") for key in keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """open_clip_config.json, checked against the tensors."""
    whole = Stated(CONFIG_FILE, files[CONFIG_FILE])
    stated = whole.part("model_cfg")
    stated.only(KNOWN_MODEL, NEUTRAL_MODEL)
    quick = stated.get("quick_gelu", False, "quick_gelu", DEFAULT)
    vision = _vision(stated.part("vision_cfg"), tensors, quick)
    return ModelConfig(
        vision=vision,
        text=_text(stated.part("text_cfg"), tensors, files, quick),
        preprocess=_preprocess(whole.part("preprocess_cfg"), vision.image_size),
        embed_dim=stated.size("embed_dim", tensors, "text_projection", 1),
        scale_limit=scale_limit(tensors),
        source="open_clip",
        assumed=whole.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """open_clip's CLIP -> patchword: as OpenAI's."""
    return openai.rules(config)


def _vision(stated: Stated, tensors: Mapping[str, Stored], quick: bool) -> VisionConfig:
    stated.only(KNOWN_VISION, NEUTRAL_VISION)
    head_width = stated.get("head_width", HEAD_WIDTH, "vision.head_width", DEFAULT)
    if isinstance(stated.values.get("layers"), list):
        return _resnet(stated, tensors, head_width)
    width = stated.size("width", tensors, "visual.conv1.weight")
    patch = stated.size("patch_size", tensors, "visual.conv1.weight", -1)
    if head_width < 1 or width % head_width:
        stated.fail("head_width", f"which does not divide the width {width}", head_width)
    pool = stated.optional("pool_type", "tok")
    if pool not in ("tok", "avg"):
        stated.fail("pool_type", "which patchword does not support")
    if pool == "avg" and not stated.optional("final_ln_after_pool", False):
        stated.fail("pool_type", "and averages before the norm are all that patchword supports")
    return VisionConfig(
        image_size=stated.grid("image_size", tensors, "visual.positional_embedding", patch),
        patch_size=patch,
        width=width,
        depth=stated.depth("layers", tensors, f"visual.{BLOCKS}"),
        heads=width // head_width,
        mlp_width=_mlp_width(stated, tensors, f"visual.{BLOCKS}0.mlp.c_fc.weight", width),
        activation=_activation(stated, quick),
        eps=_eps(stated, "vision.eps"),
        pool="avg" if pool == "avg" else "cls",
        pre_norm=True,
        patch_bias=False,
    )


def _resnet(stated: Stated, tensors: Mapping[str, Stored], head_width: int) -> VisionConfig:
    stated.size("width", tensors, "visual.layer1.0.conv1.weight")
    vision = openai.resnet(stated, tensors, head_width)
    if stated.values["layers"] != list(vision.stages):
        stated.fail("layers", f"but the weights have {list(vision.stages)} (visual.layer*)")
    return vision


def _text(
    stated: Stated, tensors: Mapping[str, Stored], files: Mapping[str, Any], quick: bool
) -> TextConfig:
    stated.only(KNOWN_TEXT, NEUTRAL_TEXT)
    width = stated.size("width", tensors, "token_embedding.weight", 1)
    vocab_size = stated.size("vocab_size", tensors, "token_embedding.weight")
    pool = stated.optional("pool_type", "argmax")
    if pool not in ("argmax", "eos"):
        stated.fail("pool_type", "which patchword does not support")
    end = highest_id(files, vocab_size)
    if pool == "eos":
        end = stated.get("eos_id", 2, "text.end_token", DEFAULT)
    return TextConfig(
        vocab_size=vocab_size,
        context=stated.size("context_length", tensors, "positional_embedding"),
        width=width,
        depth=stated.depth("layers", tensors, BLOCKS),
        heads=stated.heads(width, "heads", 8, "text.heads", DEFAULT),
        mlp_width=_mlp_width(stated, tensors, f"{BLOCKS}0.mlp.c_fc.weight", width),
        activation=_activation(stated, quick),
        eps=_eps(stated, "text.eps"),
        end_token=end,
        cleaning="ftfy",
    )


def _mlp_width(stated: Stated, tensors: Mapping[str, Stored], tensor: str, width: int) -> int:
    """As the weights have it, which must be int(width * mlp_ratio)."""
    ratio = stated.optional("mlp_ratio", 4.0)
    found = shape_of(tensors, tensor, 2)[0]
    if not found <= width * ratio < found + 1:
        stated.fail("mlp_ratio", f"but {tensor} is {tensors[tensor].shape}", ratio)
    return found


def _activation(stated: Stated, quick: bool) -> Activation:
    """One flag for both towers; GELU takes `approximate`."""
    arguments = stated.part("act_kwargs")
    if quick:
        arguments.only((), {})
        return "quick_gelu"
    arguments.only(("approximate",), {})
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    if arguments.values.get("approximate") is None:
        return "gelu"
    return arguments.choice("approximate", kinds, "gelu", "", "")  # type: ignore[no-any-return]


def _eps(stated: Stated, name: str) -> float:
    arguments = stated.part("norm_kwargs")
    arguments.only(("eps",), {})
    return arguments.get("eps", EPS, name, DEFAULT)


def _preprocess(stated: Stated, size: tuple[int, int]) -> PreprocessConfig:
    """preprocess_cfg; open_clip itself takes the size from the network, whatever is said here."""
    stated.only(
        ("size", "mean", "std", "interpolation", "resize_mode", "fill_color"), {"mode": "RGB"}
    )
    filters = {"bicubic": "bicubic", "bilinear": "bilinear"}
    modes = {"shortest": "shortest", "squash": "squash"}
    resize = stated.choice("resize_mode", modes, "shortest", "preprocess.resize", DEFAULT)
    if resize == "shortest" and size[0] != size[1]:
        stated.fail("resize_mode", f"which patchword does not support for a network of {size}")
    return PreprocessConfig(
        size=size,
        resize=resize,
        resize_to=min(size),
        interpolation=stated.choice(
            "interpolation", filters, "bicubic", "preprocess.interpolation", DEFAULT
        ),
        crop_rounding="round",
        mean=stated.triple("mean", MEAN, "preprocess.mean", DEFAULT),
        std=stated.triple("std", STD, "preprocess.std", DEFAULT),
    )
