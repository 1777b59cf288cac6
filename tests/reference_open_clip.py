"""Small models of open_clip as it writes them to the hub, with tokenizers, and their outputs."""

import copy
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

from references import Reference, scramble  # first: it prepares the libraries' imports

# isort: split
import open_clip
import timm
import torch
import transformers
from open_clip.model import set_model_preprocess_cfg
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from tiny_tokenizers import CLIP_SIZE, open_clip_tokenizer, save_clip_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

WORDS = ["a", "photo", "of", "cat", "dog", "red", "bird", "small", "one", "word", "other", "3"]
LETTERS = [chr(i) for i in range(33, 127)]
TRUNK = 48  # width of a shrunk timm tower: 8, 12 and 16 heads divide it
CONTEXT = 12

# The config of microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 on the hub.
BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
BIOMED = {
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False,
        "timm_pool": "", "timm_proj": "linear", "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": BERT, "hf_tokenizer_name": BERT, "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
    },
}  # fmt: skip

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SIGLIP_IMAGES = {**HALF, "interpolation": "bicubic", "resize_mode": "squash"}
CLIPA_IMAGES = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def unigram(specials: Sequence[str], start: str = "", end: str = "</s>", pad: str = "<pad>") -> Any:
    """A SentencePiece tokenizer like those of T5, Gemma and XLM; `specials` are its first ids."""
    pieces = [*LETTERS, "\u2581", *(f"\u2581{word}" for word in WORDS)]
    vocab = [(token, 0.0) for token in specials]
    vocab += [(piece, -1.0 - i / 100) for i, piece in enumerate(reversed(pieces))]
    backend = Tokenizer(models.Unigram(vocab, unk_id=list(specials).index("<unk>")))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    template = f"{start} $A {end}".strip()
    ids = [(token, list(specials).index(token)) for token in {start, end} - {""}]
    backend.post_processor = processors.TemplateProcessing(template, special_tokens=ids)
    names = {"unk_token": "<unk>", "eos_token": end, "pad_token": pad}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def word_pieces() -> Any:
    """A small tokenizer like BERT's."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens = [*specials, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS[:8]]
    backend = Tokenizer(
        models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(tokens))}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "cls_token": "[CLS]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", **names
    )


T5 = partial(unigram, ["<pad>", "</s>", "<unk>"])

# By the start of hf_tokenizer_name: tokenizers with the same special ids as the real ones.
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "timm/ViT-.*SigLIP2": partial(
        unigram, ["<pad>", "<eos>", "<bos>", "<unk>"], end="<eos>", pad="<pad>"
    ),
    "timm/ViT-.*SigLIP": partial(T5, pad="</s>"),
    "google/mt5": T5,
    "facebook/xlm-v|(xlm-)?roberta": partial(
        unigram, ["<s>", "<pad>", "</s>", "<unk>"], start="<s>"
    ),
    "bert-base|microsoft/BiomedNLP": word_pieces,
}


def tokenizer_of(config: dict[str, Any], folder: Path) -> HFTokenizer:
    """The tokenizer of open_clip's get_tokenizer for a text_cfg, with a small vocabulary."""
    text = config["text_cfg"]
    name = text.get("hf_tokenizer_name", "")
    make = next(make for start, make in TOKENIZERS.items() if re.match(start, name))
    make().save_pretrained(folder)
    return HFTokenizer(str(folder), text["context_length"], **text.get("tokenizer_kwargs", {}))


@cache
def written_tokenizer(size: int) -> HFTokenizer:
    """transformers' form of CLIP's tokenizer, which open_clip writes instead of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        save_clip_tokenizer(scratch, size)
        return HFTokenizer(scratch)


def tiny_bert(name: str) -> Any:
    """A small config of a text tower that open_clip takes from transformers."""
    sizes = {
        "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300,
        "intermediate_size": 160, "max_position_embeddings": CONTEXT + 6,
    }  # fmt: skip
    if "roberta" not in name:
        return transformers.BertConfig(**sizes)
    kind = transformers.XLMRobertaConfig if "xlm" in name else transformers.RobertaConfig
    return kind(**sizes, type_vocab_size=1, layer_norm_eps=1e-5)


def network_of(config: dict[str, Any]) -> nn.Module:
    """open_clip's network of a config; towers of timm and transformers are made small."""
    arguments = copy.deepcopy(config)
    borrowed = "hf_model_name" in arguments["text_cfg"]
    custom = arguments.pop("custom_text", borrowed)
    if borrowed:
        arguments["text_cfg"]["hf_model_pretrained"] = False
    size = arguments["vision_cfg"]["image_size"]
    create = partial(timm.create_model, img_size=size, embed_dim=TRUNK, depth=2)
    torch.manual_seed(0)
    tower = mock.patch.object(
        open_clip.hf_model.AutoConfig, "from_pretrained", lambda name: tiny_bert(name)
    )
    with mock.patch.object(timm, "create_model", create), tower:
        return (open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP)(**arguments)


def open_clip_hub(folder: Path, config: dict[str, Any], images: dict[str, Any]) -> Reference:
    """open_clip's model of a config, as `push_to_hf_hub` writes it.

    images: its preprocess_cfg.
    """
    network = network_of(config)
    fixed = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    scramble(network)
    with torch.no_grad():
        for name, value in fixed.items():
            network.get_parameter(name).copy_(value)
    size = network.visual.image_size
    set_model_preprocess_cfg(network, asdict(PreprocessCfg(**{"size": size, **images})))
    text = config["text_cfg"]
    if text.get("hf_tokenizer_name"):
        with tempfile.TemporaryDirectory() as scratch:
            written = tokenizer = tokenizer_of(config, Path(scratch))
    else:
        size = text.get("vocab_size", CLIP_SIZE)
        written = written_tokenizer(size)
        tokenizer = open_clip_tokenizer(text["context_length"], size)
    save_for_hf(network, written, config, str(folder), safe_serialization=True)
    return Reference(
        folder,
        image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False),
        network.encode_image,
        lambda texts: tokenizer(list(texts)),
        network.encode_text,
        lambda pixels, ids: network.get_logits(pixels, ids)[0],
        network,
    )


def shrunk(name: str, **changes: Any) -> dict[str, Any]:
    """The config that open_clip includes under `name`, with its options but little width and depth.
    changes: "part__option" changes an option of vision_cfg or text_cfg."""
    config = copy.deepcopy(BIOMED if name == "BiomedCLIP" else open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    trunk = vision.get("timm_model_name")
    config["embed_dim"] = TRUNK if trunk else 24
    if trunk:
        vision["image_size"] = 3 * int(re.search(r"patch(\d+)", trunk)[1])
    elif isinstance(vision["layers"], list):
        vision.update(layers=[1, 2, 1, 1], width=8, head_width=16, image_size=64)
    else:
        patch = vision["patch_size"]
        vision.update(layers=2, width=32, head_width=16, image_size=3 * patch)
    text["context_length"] = CONTEXT
    if not text.get("hf_model_name"):
        text.update(width=TRUNK if text.get("proj_type") == "none" else 24, heads=2, layers=2)
    if text.get("hf_tokenizer_name") and not text.get("hf_model_name"):
        text["vocab_size"] = 300
    for key, value in changes.items():
        part, _, option = key.partition("__")
        (config[part] if option else config)[option or part] = value
    return config


def _writer(name: str, images: dict[str, Any] | None = None, **changes: Any) -> Any:
    return lambda folder: open_clip_hub(folder, shrunk(name, **changes), images or {})


MODELS: dict[str, Callable[[Path], Reference]] = {
    "open_clip layer scale": _writer("ViT-M-16-alt"),
    "open_clip norm then average": _writer("ViT-B-16", vision_cfg__pool_type="avg"),
    "open_clip fixed positions": _writer("ViT-B-16", vision_cfg__pos_embed_type="sin_cos_2d"),
    "open_clip sigmoid": _writer("ViT-B-32", init_logit_bias=-10),
    "open_clip clipa": _writer("ViT-L-14-CLIPA", CLIPA_IMAGES),
    "open_clip worldwide": _writer("ViT-H-14-worldwide"),
    "open_clip worldwide quick_gelu": _writer("ViT-L-14-worldwide-quickgelu"),
    "open_clip_custom roberta": _writer("roberta-ViT-B-32"),
    "open_clip_custom xlm-roberta, linear": _writer(
        "xlm-roberta-base-ViT-B-32", text_cfg__hf_proj_type="linear"
    ),
    "open_clip_custom biomed": _writer("BiomedCLIP"),
    "open_clip timm trunk": _writer("vit_medium_patch16_gap_256", HALF),
    "open_clip_custom vit": _writer("ViT-B-16-quickgelu", custom_text=True),
    "open_clip_custom resnet": _writer("RN50", custom_text=True),
    "open_clip_custom siglip": _writer("ViT-B-16-SigLIP", SIGLIP_IMAGES, text_cfg__layers=4),
    "open_clip_custom siglip i18n": _writer("ViT-SO400M-16-SigLIP-i18n-256", SIGLIP_IMAGES),
    "open_clip_custom siglip 2": _writer(
        "ViT-gopt-16-SigLIP2-256", SIGLIP_IMAGES, text_cfg__layers=4
    ),
}
