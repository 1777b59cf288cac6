"""open_clip: open_clip_config.json with safetensors or .bin. Tensors have OpenAI's names.

Defaults are those of CLIPVisionCfg and CLIPTextCfg (open_clip/model.py) and PreprocessCfg
(open_clip/transform.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from patchword.checkpoints import open_clip_bert, open_clip_timm
from patchword.checkpoints.config_reader import ConfigReader, scale_limit, shape_of
from patchword.checkpoints.formats import openai
from patchword.checkpoints.formats.openai import BLOCKS, EPS, HEAD_WIDTH
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import IdentityIfMissing, Rename, Rule, Transpose
from patchword.checkpoints.special_tokens import end_token, special_id
from patchword.config import (
    Activation,
    ModelConfig,
    PreprocessConfig,
    ResNetConfig,
    TextConfig,
    VisionConfig,
    ViTConfig,
)

TITLE = "an open_clip model"
EXPECTS = "open_clip_config.json, tensors visual.*, transformer.resblocks.* and text_projection"
NAMES = ("visual.", "transformer.resblocks.", "token_embedding.weight", "text_projection")

CONFIG_FILE = "open_clip_config.json"
DEFAULT = "open_clip's default"
MEAN, STD = PreprocessConfig().mean, PreprocessConfig().std

# Keys of both towers with the value that changes nothing.
NEUTRAL = {
    "block_type": "default",
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
NEUTRAL_MODEL = {"multimodal_cfg": None, "nonscalar_logit_scale": False}
NEUTRAL_VISION = {**NEUTRAL, "attentional_pool": False}
NEUTRAL_TEXT = {
    **NEUTRAL,
    "ls_init_value": None,
    "tokenizer_mode": None,
    "embed_cls": False,
}
# Keys that are read below, or matter only in training or together with a key of the above. The
# effect of custom_text, other tensor names, is seen in the tensors.
KNOWN_MODEL = {
    "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias",
    "custom_text",
}  # fmt: skip
KNOWN_TOWER = {
    "layers", "width", "mlp_ratio", "act_kwargs", "norm_kwargs", "pool_type", "output_tokens",
    "final_ln_after_pool",
}  # fmt: skip
KNOWN_VISION = KNOWN_TOWER | {
    "head_width", "patch_size", "image_size", "patch_dropout", "no_ln_pre", "ls_init_value",
    "pos_embed_type", "attn_pooler_queries", "attn_pooler_heads",
    "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias",
    "timm_drop", "timm_drop_path",
}  # fmt: skip
KNOWN_TEXT = KNOWN_TOWER | {
    "context_length", "vocab_size", "heads", "pad_id", "eos_id", "no_causal_mask", "proj_bias",
    "proj_type", "hf_tokenizer_name", "tokenizer_kwargs",
    "hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
}  # fmt: skip

POSITIONS = {"learnable": "learned", "sin_cos_2d": "sincos"}
TEXT_POOLS = {"argmax": "end", "eos": "end", "first": "first", "last": "last"}
CLEANINGS = {kind: kind for kind in ("whitespace", "lower", "canonicalize")}  # of HFTokenizer


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Its configuration file, and a text tower without a prefix (see open_clip_custom.py)."""
    has_vision = any(key.startswith("visual.") for key in keys)
    has_prefix = any(key.startswith("text.") for key in keys)
    return CONFIG_FILE in files and has_vision and not has_prefix


def config(
    tensors: Mapping[str, LazyTensor], files: Mapping[str, Any], prefix: str = ""
) -> ModelConfig:
    """open_clip_config.json, checked against the tensors.

    prefix: of the text tower's tensor names, with its dot.
    """
    top = ConfigReader(CONFIG_FILE, files[CONFIG_FILE])
    reader = top.section("model_cfg")
    vision_cfg, text_cfg = reader.section("vision_cfg"), reader.section("text_cfg")
    is_bert = text_cfg.values.get("hf_model_name") is not None
    if is_bert:
        text_cfg = open_clip_bert.with_new_keys(text_cfg)
    reader.refuse_others(KNOWN_MODEL, NEUTRAL_MODEL)
    text_cfg.refuse_others(KNOWN_TEXT, NEUTRAL_TEXT)
    vision_cfg.refuse_others(KNOWN_VISION, NEUTRAL_VISION)
    quick_gelu = reader.get("quick_gelu", False, "quick_gelu", DEFAULT)
    if is_bert:
        text = open_clip_bert.config(text_cfg, tensors, prefix)
        pad = special_id(files, "pad_token")
        if pad not in (None, text.pad_token):
            reason = f"whose padding is {text.pad_token}, but the tokenizer here pads with {pad}"
            text_cfg.fail("hf_model_name", reason)
        text = replace(text, cleaning=_cleaning(text_cfg.section("tokenizer_kwargs")))
        embed_dim = reader.size("embed_dim", tensors, open_clip_bert.projection(text, prefix))
    else:
        embed_dim = reader.size("embed_dim", tensors, f"{prefix}text_projection", 1)
    vision: VisionConfig
    if vision_cfg.values.get("timm_model_name") is not None:
        vision = open_clip_timm.config(vision_cfg, tensors, embed_dim)
    else:
        vision = _vision(vision_cfg, tensors, quick_gelu)
    if not is_bert:
        text = _text(text_cfg, tensors, files, quick_gelu, embed_dim, prefix)
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=_preprocess(top.section("preprocess_cfg"), vision.image_size),
        embed_dim=embed_dim,
        score="softmax" if reader.values.get("init_logit_bias") is None else "sigmoid",
        scale_limit=scale_limit(tensors),
        source="open_clip",
        assumed=top.assumed,
    )


def rules(config: ModelConfig, prefix: str = "") -> Iterator[Rule]:
    """open_clip's CLIP -> patchword. Towers that open_clip does not take from other libraries have
    OpenAI's rules. prefix: as for `config`."""
    assert config.text is not None
    yield Rename("logit_scale", "logit_scale")
    if config.score == "sigmoid":
        yield Rename("logit_bias", "logit_bias")
    if config.text.post_norm:
        yield from open_clip_bert.rules(config.text, prefix)
    else:
        yield from openai.text_rules(config, prefix)
        if not config.text.head_bias:  # instead of the Transpose of these rules
            yield IdentityIfMissing(Transpose(f"{prefix}text_projection", "text.head.weight"))
    if isinstance(config.vision, ViTConfig) and open_clip_timm.is_timm(config.vision):
        yield from open_clip_timm.rules(config.vision)
    else:
        yield from openai.image_rules(config)


def _vision(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], quick_gelu: bool
) -> VisionConfig:
    """The image tower, if it is open_clip's own: a ViT or a ModifiedResNet."""
    head_width = reader.get("head_width", HEAD_WIDTH, "vision.head_width", DEFAULT)
    if isinstance(reader.values.get("layers"), list):
        return _resnet(reader, tensors, head_width)
    width = reader.size("width", tensors, "visual.conv1.weight")
    patch = reader.size("patch_size", tensors, "visual.conv1.weight", -1)
    if head_width < 1 or width % head_width:
        reader.fail("head_width", f"which does not divide the width {width}", head_width)
    positions: Any = "learned"
    if reader.values.get("pos_embed_type") is not None:
        positions = reader.lookup("pos_embed_type", POSITIONS)
    return ViTConfig(
        image_size=reader.image_size("image_size", tensors, "visual.positional_embedding", patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("layers", tensors, f"visual.{BLOCKS}"),
        heads=width // head_width,
        mlp_width=_mlp_width(reader, tensors, f"visual.{BLOCKS}0.mlp.c_fc.weight", width),
        activation=_activation(reader, quick_gelu),
        eps=_eps(reader, "vision.eps"),
        pool=_pool(reader),
        pre_norm=not reader.optional("no_ln_pre", False),
        patch_bias=False,
        layer_scale=reader.values.get("ls_init_value") is not None,
        positions=positions,
    )


def _pool(reader: ConfigReader) -> Any:
    """`ViTConfig.pool`: the class token, or the average of the patches, with the last norm before
    or after it."""
    pool = reader.optional("pool_type", "tok")
    if pool not in ("tok", "avg"):
        reader.fail("pool_type", "which patchword does not support")
    if pool == "tok":
        return "cls"
    return "avg" if reader.optional("final_ln_after_pool", False) else "norm_avg"


def _resnet(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], head_width: int
) -> ResNetConfig:
    reader.size("width", tensors, "visual.layer1.0.conv1.weight")
    vision = openai.resnet(reader, tensors, head_width)
    if reader.values["layers"] != list(vision.stages):
        reader.fail("layers", f"but the weights have {list(vision.stages)} (visual.layer*)")
    return vision


def _text(
    reader: ConfigReader,
    tensors: Mapping[str, LazyTensor],
    files: Mapping[str, Any],
    quick_gelu: bool,
    embed_dim: int,
    prefix: str,
) -> TextConfig:
    """The text tower, if it is open_clip's own; prefix: of its tensor names."""
    tokens, blocks = f"{prefix}token_embedding.weight", f"{prefix}{BLOCKS}"
    width = reader.size("width", tensors, tokens, 1)
    vocab_size = reader.size("vocab_size", tensors, tokens)
    causal = not reader.optional("no_causal_mask", False)
    pool = reader.optional("pool_type", "argmax")
    if pool not in TEXT_POOLS:
        reader.fail("pool_type", "which patchword does not support")
    if causal and pool == "last":
        reader.fail("pool_type", "which patchword supports without a causal mask alone")
    return TextConfig(
        vocab_size=vocab_size,
        context=reader.size("context_length", tensors, f"{prefix}positional_embedding"),
        width=width,
        depth=reader.depth("layers", tensors, blocks),
        heads=reader.heads(width, "heads", 8, "text.heads", DEFAULT),
        mlp_width=_mlp_width(reader, tensors, f"{blocks}0.mlp.c_fc.weight", width),
        activation=_activation(reader, quick_gelu),
        eps=_eps(reader, "text.eps"),
        causal=causal,
        head_bias=_projection(reader, tensors, f"{prefix}text_projection", width == embed_dim),
        padding="masked" if causal else "attended",
        **_tokens(reader, files, vocab_size, causal),
    )


def _projection(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], name: str, square: bool
) -> bool:
    """Whether the projection `name` has a bias.

    Raises CheckpointError if its type contradicts the tensors. The type "none" is the identity,
    which must be square.
    """
    bias = reader.optional("proj_bias", False)
    kind = reader.optional("proj_type", "linear")
    if kind not in ("linear", "none"):
        reader.fail("proj_type", "which patchword does not support")
    if kind == "none" and not square:
        reader.fail("proj_type", "though images are of another width than texts")
    exists = any(key.startswith(name) for key in tensors)
    if exists == (kind == "none"):
        has = "" if exists else "no "
        reader.fail("proj_type", f"but the weights have {has}{name}", kind)
    return bias and kind == "linear"


def _tokens(
    reader: ConfigReader, files: Mapping[str, Any], vocab_size: int, causal: bool
) -> dict[str, Any]:
    """The fields pool, end_token, pad_token and cleaning of a `TextConfig`, as in get_tokenizer of
    open_clip/factory.py."""
    pool_type = reader.optional("pool_type", "argmax")
    end, pool_at_end = end_token(files, vocab_size)
    pool = pool_at_end if pool_type == "argmax" else TEXT_POOLS[pool_type]
    if pool_type == "eos":
        end = reader.get("eos_id", 2, "text.end_token", DEFAULT)
    arguments = reader.section("tokenizer_kwargs")
    if not reader.optional("hf_tokenizer_name", ""):  # open_clip's own, with CLIP's merges
        neutral = {"clean": "lower", "reduction_mask": "", "context_length": None}
        arguments.refuse_others((), neutral)
        return {"pool": pool, "end_token": end, "pad_token": 0, "cleaning": "ftfy"}
    cleaning = _cleaning(arguments, "strip_sep_token")
    pad = special_id(files, "pad_token")
    if not causal:
        _check_padding(reader, files, pad, vocab_size)
    at_end = pool_type in ("argmax", "eos")
    if arguments.optional("strip_sep_token", False):
        if at_end or pad != 0:
            arguments.fail("strip_sep_token", "which patchword supports for padding 0 alone")
        end = -1
    elif not at_end:
        end = special_id(files, "eos_token") or special_id(files, "sep_token") or end
    return {"pool": pool, "end_token": end, "pad_token": pad or 0, "cleaning": cleaning}


def _cleaning(arguments: ConfigReader, *known: str) -> Any:
    """The cleaning of open_clip's HFTokenizer. known: other arguments that are read."""
    arguments.refuse_others(("clean", *known), {"language": None, "strip_sep_token": False})
    if arguments.values.get("clean") is None:
        return "whitespace"
    return arguments.lookup("clean", CLEANINGS)


def _check_padding(
    reader: ConfigReader, files: Mapping[str, Any], pad: int | None, vocab_size: int
) -> None:
    """Raise CheckpointError unless the tokenizer's files state how it pads texts: padding that is
    attended to changes every answer."""
    if pad is None or not 0 <= pad < vocab_size:
        reader.fail("hf_tokenizer_name", "but no tokenizer_config.json beside says what pads texts")
    settings = ConfigReader("tokenizer_config.json", files.get("tokenizer_config.json") or {})
    if settings.values.get("padding_side") not in (None, "right"):
        settings.fail("padding_side", "which patchword does not support")


def _mlp_width(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], tensor: str, width: int
) -> int:
    """The width of the MLP in the weights, which must be int(width * mlp_ratio)."""
    ratio = reader.optional("mlp_ratio", 4.0)
    actual = shape_of(tensors, tensor, 2)[0]
    if not actual <= width * ratio < actual + 1:
        reader.fail("mlp_ratio", f"but {tensor} is {tensors[tensor].shape}", ratio)
    return actual


def _activation(reader: ConfigReader, quick_gelu: bool) -> Activation:
    """The activation: QuickGELU in both towers or none, else GELU, perhaps `approximate`."""
    arguments = reader.section("act_kwargs")
    if quick_gelu:
        arguments.refuse_others((), {})
        return "quick_gelu"
    arguments.refuse_others(("approximate",), {})
    if arguments.values.get("approximate") is None:
        return "gelu"
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    return arguments.lookup("approximate", kinds)  # type: ignore[no-any-return]


def _eps(reader: ConfigReader, name: str) -> float:
    arguments = reader.section("norm_kwargs")
    arguments.refuse_others(("eps",), {})
    return arguments.get("eps", EPS, name, DEFAULT)


def _preprocess(reader: ConfigReader, size: tuple[int, int]) -> PreprocessConfig:
    """preprocess_cfg. Its size is ignored, as in open_clip, which takes the network's."""
    reader.refuse_others(
        ("size", "mean", "std", "interpolation", "resize_mode", "fill_color"), {"mode": "RGB"}
    )
    filters = {"bicubic": "bicubic", "bilinear": "bilinear"}
    modes = {"shortest": "shortest", "longest": "contain", "squash": "squash"}
    resize = reader.choice("resize_mode", modes, "shortest", "preprocess.resize", DEFAULT)
    interpolation = reader.choice(
        "interpolation", filters, "bicubic", "preprocess.interpolation", DEFAULT
    )
    if resize == "shortest" and size[0] != size[1]:
        # Always bicubic: open_clip's image_transform does not pass the interpolation on.
        resize, interpolation = "cover", "bicubic"
    return PreprocessConfig(
        size=size,
        resize=resize,
        resize_to=min(size),
        interpolation=interpolation,
        fill=reader.optional("fill_color", 0),
        crop_rounding="round",
        mean=reader.rgb("mean", MEAN, "preprocess.mean", DEFAULT),
        std=reader.rgb("std", STD, "preprocess.std", DEFAULT),
    )
