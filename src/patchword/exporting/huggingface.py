"""Writes a model's configuration as files of Hugging Face's transformers: config.json,
preprocessor_config.json, tokenizer_config.json.

Programs that run the graphs read them: transformers.js chooses a class by "model_type", processors
and tokenizers read the rest. If transformers lacks the architecture, config.json describes a
similar one with the same sizes. The graphs do not depend on it.
"""

from __future__ import annotations

import math
from typing import Any

from tokenizers import Tokenizer as Backend

from patchword.config import (
    ModelConfig,
    PreprocessConfig,
    ResNetConfig,
    SwinConfig,
    TextConfig,
    VisionConfig,
)
from patchword.text.tokenizer import Tokenizer

ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh"}
UNCHANGED_TEXTS = {  # by cleaning: the texts that it does not change
    "whitespace": "plain texts",
    **dict.fromkeys(("lower", "ftfy", "lowercase"), "plain texts in lower case"),
    **dict.fromkeys(("canonicalize", "unpunctuated"), "texts in lower case without punctuation"),
}
RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling


def model_type(config: ModelConfig) -> str:
    """The most similar "model_type" of transformers."""
    if config.blip:
        return "blip"
    if config.vision is not None and config.text is not None:
        if config.score == "sigmoid":
            return "siglip"
        return "chinese_clip" if config.text.post_norm else "clip"
    if config.vision is None:
        return "clip_text_model"
    if config.embed_dim:
        return "clip_vision_model"
    return "swin" if isinstance(config.vision, SwinConfig) else "vit"


def described(config: ModelConfig, scale: float) -> dict[str, Any]:
    """config.json. scale: the logit scale."""
    kind = model_type(config)
    out: dict[str, Any] = {"model_type": kind}
    text = config.text or config.decoder
    towers: dict[str, dict[str, Any]] = {}
    if config.vision is not None:
        towers["vision_config"] = _vision(config.vision, config.preprocess)
    if text is not None:
        towers["text_config"] = _text(text)
    if config.embed_dim:
        out["projection_dim"] = config.embed_dim
        for tower in towers.values():
            tower["projection_dim"] = config.embed_dim
    if kind in ("vit", "swin", "clip_vision_model", "clip_text_model"):  # models of one tower
        (tower,) = towers.values()
        out |= tower
    else:
        out |= towers
        out["logit_scale_init_value"] = math.log(scale)
    if config.classes:
        names = config.labels or [f"LABEL_{i}" for i in range(config.classes)]
        if config.score == "sigmoid":
            out["problem_type"] = "multi_label_classification"
        family = "Swin" if kind == "swin" else "ViT"
        out["architectures"] = [f"{family}ForImageClassification"]
        out["id2label"] = {str(i): name for i, name in enumerate(names)}
        out["label2id"] = {name: i for i, name in enumerate(names)}
    return out


def _vision(config: VisionConfig, preprocess: PreprocessConfig) -> dict[str, Any]:
    height, width = preprocess.size
    size = {"image_size": height if height == width else [height, width]}
    out: dict[str, Any] = {**size, "patch_size": config.patch_size, "num_channels": 3}
    if isinstance(config, ResNetConfig):
        return {**out, "hidden_size": config.out_width, "num_attention_heads": config.heads}
    out |= {"hidden_act": ACTIVATIONS[config.activation], "layer_norm_eps": config.eps}
    if isinstance(config, SwinConfig):
        return {
            **out,
            "embed_dim": config.width,
            "depths": list(config.stages),
            "num_heads": list(config.heads_by_stage),
            "window_size": config.window,
            "mlp_ratio": config.mlp_width / config.width,
        }
    return {
        **out,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
    }


def _text(config: TextConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": ACTIVATIONS[config.activation],
        "layer_norm_eps": config.eps,
        "bos_token_id": None,
        "eos_token_id": config.end_token if config.end_token >= 0 else None,
        "pad_token_id": config.pad_token,
    }


def processor(config: PreprocessConfig, paired: bool) -> dict[str, Any] | None:
    """preprocessor_config.json; None if no processor of transformers computes the same. paired:
    true for a model that reads texts too."""
    height, width = config.size
    size = {"height": height, "width": width}
    square = height == width
    if config.resize in ("contain", "patches") or (config.resize == "cover" and not square):
        return None
    resize: dict[str, int] = {"shortest_edge": config.resize_to}
    if config.resize == "cover":
        resize = {"shortest_edge": height}
    elif config.resize == "square":
        resize = {"height": config.resize_to, "width": config.resize_to}
    elif config.resize == "squash":
        resize = size
    crops = config.resize != "squash"
    kind = "CLIP" if crops else "ViT"
    if config.resize == "square":
        kind = "DeiT"
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        **({"processor_class": "CLIPProcessor"} if paired else {}),
        "do_resize": True,
        "size": resize,
        "resample": RESAMPLE[config.interpolation],
        "do_center_crop": crops,
        **({"crop_size": size} if crops else {}),
        "do_rescale": True,
        "rescale_factor": config.rescale,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        **({"do_convert_rgb": True} if kind == "CLIP" else {}),
    }


def tokenizer_config(tokenizer: Tokenizer, config: TextConfig) -> dict[str, Any]:
    """tokenizer_config.json, for the tokenizer.json beside it."""
    backend = Backend.from_str(tokenizer.to_json())
    ends = backend.encode("").tokens
    first, last = ends[0] if len(ends) > 1 else "", ends[-1] if ends else ""
    out = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context,
        "model_input_names": ["input_ids"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "pad_token": _padding(backend, last, config),
    }
    return out | {
        name: token for name, token in (("bos_token", first), ("eos_token", last)) if token
    }


def _padding(backend: Backend, last: str, config: TextConfig) -> str | None:
    """The token for padding. transformers reads this token as padding also inside a text. So if it
    is a word, such as "!" in open_clip, the end token is named instead, provided that the model
    ignores what follows it."""
    token = backend.id_to_token(config.pad_token)
    is_special = config.pad_token in backend.get_added_tokens_decoder()
    padding_is_ignored = config.causal and config.pool in ("end", "highest")
    if not is_special and padding_is_ignored and last:
        return last
    return token


def differences(config: ModelConfig, tokenizer: Tokenizer | None = None) -> list[str]:
    """What programs that read these files do differently, as texts for users."""
    found: list[str] = []
    preprocess, text = config.preprocess, config.text
    if config.vision is not None:
        if processor(preprocess, paired=False) is None:
            found.append(
                f'no preprocessor_config.json: no processor of transformers resizes by "'
                f'{preprocess.resize}"; prepare pixels as `patchword info` says'
            )
        elif preprocess.crop_rounding == "round":
            found.append(
                "processors of transformers round the margins of a crop down and this model's "
                "rounds them to even: at odd margins their picture is one pixel aside"
            )
    if text is not None and text.cleaning != "none":
        found.append(
            f'texts are cleaned by "{text.cleaning}" before this tokenizer, and programs that read '
            f"tokenizer.json do not: {UNCHANGED_TEXTS[text.cleaning]} are the same"
        )
    if text is not None and text.padding == "attended":
        found.append(
            f'texts are padded to {text.context} ids: tokenizer(texts, padding="max_length")'
        )
    if text is not None and tokenizer is not None:
        found += _of_tokens(tokenizer, text)
    return found


def _of_tokens(tokenizer: Tokenizer, config: TextConfig) -> list[str]:
    """What transformers' tokenizers do differently."""
    found: list[str] = []
    backend = Backend.from_str(tokenizer.to_json())
    padding = tokenizer_config(tokenizer, config)["pad_token"]
    if padding and backend.token_to_id(padding) not in backend.get_added_tokens_decoder():
        found.append(f'transformers takes "{padding}" in a text for padding: leave it out of texts')
    end = tokenizer.padded_over
    if end:
        found.append(
            f"this tokenizer ends texts with id {end[0]}, where the model has padding: replace it "
            f"by {config.pad_token}"
        )
    return found
