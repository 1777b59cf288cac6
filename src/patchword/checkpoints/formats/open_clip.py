"""open_clip: open_clip_config.json with safetensors or .bin. Names are OpenAI's, sizes are in the
config.

Defaults are those of CLIPVisionCfg and CLIPTextCfg (open_clip/model.py) and PreprocessCfg
(open_clip/transform.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from patchword.checkpoints import open_clip_bert, open_clip_timm
from patchword.checkpoints.config_reader import (
    ConfigReader,
    end_of,
    scale_limit,
    shape_of,
    special_id,
)
from patchword.checkpoints.formats import openai
from patchword.checkpoints.formats.openai import BLOCKS, EPS, HEAD_WIDTH
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import OrIdentity, Rename, Rule, Transpose
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

# Keys with the value at which they change nothing, whatever the tower.
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
# Keys that are read below, or matter in training only, or with one of the above only. custom_text
# renames tensors, and those are what is read.
KNOWN_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"}
KNOWN_MODEL |= {"init_logit_bias", "custom_text"}
KNOWN_TOWER = {"layers", "width", "mlp_ratio", "act_kwargs", "norm_kwargs", "pool_type"}
KNOWN_TOWER |= {"output_tokens", "final_ln_after_pool"}
KNOWN_VISION = KNOWN_TOWER | {"head_width", "patch_size", "image_size", "patch_dropout"}
KNOWN_VISION |= {"no_ln_pre", "ls_init_value", "pos_embed_type", "timm_model_name"}
KNOWN_VISION |= {"attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_pool"}
KNOWN_VISION |= {"timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"}
KNOWN_TEXT = KNOWN_TOWER | {"context_length", "vocab_size", "heads", "pad_id", "eos_id"}
KNOWN_TEXT |= {"no_causal_mask", "proj_bias", "proj_type", "hf_tokenizer_name", "tokenizer_kwargs"}
KNOWN_TEXT |= {"hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}

POSITIONS = {"learnable": "learned", "sin_cos_2d": "sincos"}
TEXT_POOLS = {"argmax": "end", "eos": "end", "first": "first", "last": "last"}
CLEANINGS = {kind: kind for kind in ("whitespace", "lower", "canonicalize")}  # of HFTokenizer


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Its configuration file, and a text tower without a prefix (see open_clip_custom.py)."""
    images = any(key.startswith("visual.") for key in keys)
    return CONFIG_FILE in files and images and not any(key.startswith("text.") for key in keys)


def config(
    tensors: Mapping[str, Stored], files: Mapping[str, Any], theirs: str = ""
) -> ModelConfig:
    """open_clip_config.json, checked against the tensors.

    theirs: the prefix of the text tower's tensors, its dot included.
    """
    whole = ConfigReader(CONFIG_FILE, files[CONFIG_FILE])
    reader = whole.part("model_cfg")
    vision_cfg, text_cfg = reader.part("vision_cfg"), reader.part("text_cfg")
    borrowed = text_cfg.values.get("hf_model_name") is not None
    text_cfg = open_clip_bert.renamed(text_cfg) if borrowed else text_cfg
    reader.only(KNOWN_MODEL, NEUTRAL_MODEL)
    text_cfg.only(KNOWN_TEXT, NEUTRAL_TEXT)
    vision_cfg.only(KNOWN_VISION, NEUTRAL_VISION)
    quick = reader.get("quick_gelu", False, "quick_gelu", DEFAULT)
    if borrowed:
        text = open_clip_bert.config(text_cfg, tensors, theirs)
        if (pad := special_id(files, "pad_token")) not in (None, text.pad_token):
            reason = f"whose padding is {text.pad_token}, but the tokenizer here pads with {pad}"
            text_cfg.fail("hf_model_name", reason)
        text = replace(text, cleaning=_cleaning(text_cfg.part("tokenizer_kwargs")))
        width = reader.size("embed_dim", tensors, open_clip_bert.last(text, theirs))
    else:
        width = reader.size("embed_dim", tensors, f"{theirs}text_projection", 1)
    vision: VisionConfig
    if vision_cfg.values.get("timm_model_name") is not None:
        vision = open_clip_timm.config(vision_cfg, tensors, width)
    else:
        vision = _vision(vision_cfg, tensors, quick)
    if not borrowed:
        text = _text(text_cfg, tensors, files, quick, width, theirs)
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=_preprocess(whole.part("preprocess_cfg"), vision.image_size),
        embed_dim=width,
        score="softmax" if reader.values.get("init_logit_bias") is None else "sigmoid",
        scale_limit=scale_limit(tensors),
        source="open_clip",
        assumed=whole.assumed,
    )


def rules(config: ModelConfig, theirs: str = "") -> Iterator[Rule]:
    """open_clip's CLIP -> patchword: as OpenAI's where it is open_clip's own. theirs: see above."""
    assert config.text is not None
    yield Rename("logit_scale", "logit_scale")
    if config.score == "sigmoid":
        yield Rename("logit_bias", "logit_bias")
    if config.text.post_norm:
        yield from open_clip_bert.rules(config.text, theirs)
    else:
        yield from openai.text_rules(config, theirs)
        if not config.text.head_bias:
            yield OrIdentity(Transpose(f"{theirs}text_projection", "text.head.weight"))
    vision = config.vision
    if isinstance(vision, ViTConfig) and open_clip_timm.borrowed(vision):
        yield from open_clip_timm.rules(vision)
    else:
        yield from openai.image_rules(config)


def _vision(reader: ConfigReader, tensors: Mapping[str, Stored], quick: bool) -> VisionConfig:
    head_width = reader.get("head_width", HEAD_WIDTH, "vision.head_width", DEFAULT)
    if isinstance(reader.values.get("layers"), list):
        return _resnet(reader, tensors, head_width)
    width = reader.size("width", tensors, "visual.conv1.weight")
    patch = reader.size("patch_size", tensors, "visual.conv1.weight", -1)
    if head_width < 1 or width % head_width:
        reader.fail("head_width", f"which does not divide the width {width}", head_width)
    positions: Any = "learned"
    if reader.values.get("pos_embed_type") is not None:
        positions = reader.choice("pos_embed_type", POSITIONS, "", "", "")
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, "visual.positional_embedding", patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("layers", tensors, f"visual.{BLOCKS}"),
        heads=width // head_width,
        mlp_width=_mlp_width(reader, tensors, f"visual.{BLOCKS}0.mlp.c_fc.weight", width),
        activation=_activation(reader, quick),
        eps=_eps(reader, "vision.eps"),
        pool=_pool(reader),
        pre_norm=not reader.optional("no_ln_pre", False),
        patch_bias=False,
        layer_scale=reader.values.get("ls_init_value") is not None,
        positions=positions,
    )


def _pool(reader: ConfigReader) -> Any:
    """The class token, or the average of patches normed before or after."""
    pool = reader.optional("pool_type", "tok")
    if pool not in ("tok", "avg"):
        reader.fail("pool_type", "which patchword does not support")
    if pool == "tok":
        return "cls"
    return "avg" if reader.optional("final_ln_after_pool", False) else "norm_avg"


def _resnet(reader: ConfigReader, tensors: Mapping[str, Stored], head_width: int) -> ResNetConfig:
    reader.size("width", tensors, "visual.layer1.0.conv1.weight")
    vision = openai.resnet(reader, tensors, head_width)
    if reader.values["layers"] != list(vision.stages):
        reader.fail("layers", f"but the weights have {list(vision.stages)} (visual.layer*)")
    return vision


def _text(
    reader: ConfigReader,
    tensors: Mapping[str, Stored],
    files: Mapping[str, Any],
    quick: bool,
    out: int,
    theirs: str,
) -> TextConfig:
    width = reader.size("width", tensors, f"{theirs}token_embedding.weight", 1)
    vocab_size = reader.size("vocab_size", tensors, f"{theirs}token_embedding.weight")
    causal = not reader.optional("no_causal_mask", False)
    pool = reader.optional("pool_type", "argmax")
    if pool not in TEXT_POOLS:
        reader.fail("pool_type", "which patchword does not support")
    if causal and pool == "last":
        reader.fail("pool_type", "which patchword supports without a causal mask alone")
    blocks = f"{theirs}{BLOCKS}"
    return TextConfig(
        vocab_size=vocab_size,
        context=reader.size("context_length", tensors, f"{theirs}positional_embedding"),
        width=width,
        depth=reader.depth("layers", tensors, blocks),
        heads=reader.heads(width, "heads", 8, "text.heads", DEFAULT),
        mlp_width=_mlp_width(reader, tensors, f"{blocks}0.mlp.c_fc.weight", width),
        activation=_activation(reader, quick),
        eps=_eps(reader, "text.eps"),
        causal=causal,
        head_bias=_projection(reader, tensors, f"{theirs}text_projection", width == out),
        padding="masked" if causal else "attended",
        **_tokens(reader, files, vocab_size, causal),
    )


def _projection(
    reader: ConfigReader, tensors: Mapping[str, Stored], name: str, square: bool
) -> bool:
    """Whether the projection `name` has a bias.

    Raises CheckpointError when its kind is not that of the tensors; "none" is the identity, which
    must be square.
    """
    bias = reader.optional("proj_bias", False)
    kind = reader.optional("proj_type", "linear")
    if kind not in ("linear", "none"):
        reader.fail("proj_type", "which patchword does not support")
    if kind == "none" and not square:
        reader.fail("proj_type", "though images are of another width than texts")
    if (kind == "none") == any(key.startswith(name) for key in tensors):
        has = "" if kind == "none" else "no "
        reader.fail("proj_type", f"but the weights have {has}{name}", kind)
    return bias and kind == "linear"


def _tokens(
    reader: ConfigReader, files: Mapping[str, Any], vocab_size: int, causal: bool
) -> dict[str, Any]:
    """pool, end_token, pad_token and cleaning, as get_tokenizer of open_clip/factory.py has it."""
    pool = reader.optional("pool_type", "argmax")
    end, kind = end_of(files, vocab_size)
    pooled = kind if pool == "argmax" else TEXT_POOLS[pool]
    if pool == "eos":
        end = reader.get("eos_id", 2, "text.end_token", DEFAULT)
    arguments = reader.part("tokenizer_kwargs")
    if not reader.optional("hf_tokenizer_name", ""):  # its own, of CLIP's merges
        arguments.only((), {"clean": "lower", "reduction_mask": "", "context_length": None})
        return {"pool": pooled, "end_token": end, "pad_token": 0, "cleaning": "ftfy"}
    cleaning = _cleaning(arguments, "strip_sep_token")
    pad = special_id(files, "pad_token")
    if not causal:
        _attended(reader, files, pad, vocab_size)
    if arguments.optional("strip_sep_token", False):
        if pool in ("argmax", "eos") or pad != 0:
            arguments.fail("strip_sep_token", "which patchword supports for padding 0 alone")
        end = -1
    elif pool not in ("argmax", "eos"):
        end = next(filter(None, (special_id(files, f"{n}_token") for n in ("eos", "sep"))), end)
    return {"pool": pooled, "end_token": end, "pad_token": pad or 0, "cleaning": cleaning}


def _cleaning(arguments: ConfigReader, *known: str) -> Any:
    """What HFTokenizer does with a text first. known: other arguments that are read."""
    arguments.only(("clean", *known), {"language": None, "strip_sep_token": False})
    if arguments.values.get("clean") is None:
        return "whitespace"
    return arguments.choice("clean", CLEANINGS, "", "", "")


def _attended(
    reader: ConfigReader, files: Mapping[str, Any], pad: int | None, vocab_size: int
) -> None:
    """Raise CheckpointError unless files say how a tokenizer not open_clip's own pads its texts.

    Padding that is attended to changes every answer.
    """
    if pad is None or not 0 <= pad < vocab_size:
        reader.fail("hf_tokenizer_name", "but no tokenizer_config.json beside says what pads texts")
    settings = ConfigReader("tokenizer_config.json", files.get("tokenizer_config.json") or {})
    if settings.values.get("padding_side") not in (None, "right"):
        settings.fail("padding_side", "which patchword does not support")


def _mlp_width(reader: ConfigReader, tensors: Mapping[str, Stored], tensor: str, width: int) -> int:
    """As the weights have it, which must be int(width * mlp_ratio)."""
    ratio = reader.optional("mlp_ratio", 4.0)
    found = shape_of(tensors, tensor, 2)[0]
    if not found <= width * ratio < found + 1:
        reader.fail("mlp_ratio", f"but {tensor} is {tensors[tensor].shape}", ratio)
    return found


def _activation(reader: ConfigReader, quick: bool) -> Activation:
    """One flag for both towers; GELU takes `approximate`."""
    arguments = reader.part("act_kwargs")
    if quick:
        arguments.only((), {})
        return "quick_gelu"
    arguments.only(("approximate",), {})
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    if arguments.values.get("approximate") is None:
        return "gelu"
    return arguments.choice("approximate", kinds, "gelu", "", "")  # type: ignore[no-any-return]


def _eps(reader: ConfigReader, name: str) -> float:
    arguments = reader.part("norm_kwargs")
    arguments.only(("eps",), {})
    return arguments.get("eps", EPS, name, DEFAULT)


def _preprocess(reader: ConfigReader, size: tuple[int, int]) -> PreprocessConfig:
    """preprocess_cfg; open_clip itself takes the size from the network, whatever it is here."""
    reader.only(
        ("size", "mean", "std", "interpolation", "resize_mode", "fill_color"), {"mode": "RGB"}
    )
    filters = {"bicubic": "bicubic", "bilinear": "bilinear"}
    modes = {"shortest": "shortest", "longest": "contain", "squash": "squash"}
    resize = reader.choice("resize_mode", modes, "shortest", "preprocess.resize", DEFAULT)
    interpolation = reader.choice(
        "interpolation", filters, "bicubic", "preprocess.interpolation", DEFAULT
    )
    if resize == "shortest" and size[0] != size[1]:
        # Bicubic whatever the config says: image_transform passes no interpolation on.
        resize, interpolation = "cover", "bicubic"
    return PreprocessConfig(
        size=size,
        resize=resize,
        resize_to=min(size),
        interpolation=interpolation,
        fill=reader.optional("fill_color", 0),
        crop_rounding="round",
        mean=reader.triple("mean", MEAN, "preprocess.mean", DEFAULT),
        std=reader.triple("std", STD, "preprocess.std", DEFAULT),
    )
