"""Tiny Chinese-CLIPs, as transformers and as OFA-Sys/Chinese-CLIP write them."""

import json
from collections.abc import Callable
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import torch
import torch.nn.functional as F
import torchvision.transforms as T
import transformers
from references import PATCH, SIZE, Reference, edit_json, scramble  # before clip

# isort: split
from clip.model import ModifiedResNet
from tiny_tokenizers import bert_files, bert_vocabulary
from torch import Tensor, nn

CONTEXT = 32
PAD = 0
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDE = {"hidden_size": 128, "num_attention_heads": 2}  # heads of 64, as the original code has them
NAMES = {  # transformers' names -> those of OpenAI's towers
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "text_model.": "bert.",
}


def build(act: str = "quick_gelu", text_act: str = "gelu", **both: object) -> nn.Module:
    """transformers' ChineseCLIPModel."""
    text = {"hidden_size": 48, "num_attention_heads": 3, "layer_norm_eps": 1e-12, **both}
    vision = {"hidden_size": 32, "num_attention_heads": 2, "layer_norm_eps": 1e-5, **both}
    config = transformers.ChineseCLIPConfig(
        text_config={
            "vocab_size": len(bert_vocabulary()), "max_position_embeddings": CONTEXT,
            "num_hidden_layers": 2, "intermediate_size": 80, "hidden_act": text_act, **text,
        },
        vision_config={
            "image_size": SIZE, "patch_size": PATCH, "num_hidden_layers": 2,
            "intermediate_size": 72, "hidden_act": act, **vision,
        },
        projection_dim=24,
    )  # fmt: skip
    return scramble(transformers.ChineseCLIPModel(config))


def tokenizer() -> transformers.BertTokenizer:
    """Chinese-CLIP's BertTokenizer with a small vocabulary."""
    vocab = {token: id_ for id_, token in enumerate(bert_vocabulary())}
    return transformers.BertTokenizer(vocab=vocab)


def ids(texts: list[str]) -> Tensor:
    """Ids by `tokenizer`, padded to the longest text."""
    rows = tokenizer()(
        list(texts), padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    return rows["input_ids"]


def answers(path: Path, network: nn.Module, pixels: Callable[..., Tensor]) -> Reference:
    """The checkpoint, and functions that compute its outputs with a ChineseCLIPModel; padding is
    masked as by its processor."""

    def mask(tokens: Tensor) -> Tensor:
        return (tokens != PAD).long()

    return Reference(
        path,
        pixels,
        lambda pixels: network.get_image_features(pixel_values=pixels).pooler_output,
        ids,
        lambda tokens: network.get_text_features(tokens, attention_mask=mask(tokens)).pooler_output,
        lambda pixels, tokens: (
            network(
                pixel_values=pixels, input_ids=tokens, attention_mask=mask(tokens)
            ).logits_per_image
        ),
        network,
    )


def hugging_face(
    folder: Path, squash: bool = False, old_files: bool = False, **options: object
) -> Reference:
    """ChineseCLIPModel as `save_pretrained` writes it, or with the files of 2022: a .bin,
    preprocessor_config.json and vocab.txt alone."""
    network = build(**options)
    network.save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE} if squash else {"shortest_edge": SIZE}
    processor = transformers.ChineseCLIPImageProcessorPil(
        size=size, do_center_crop=not squash, crop_size={"height": SIZE, "width": SIZE}
    )
    processor.save_pretrained(folder)
    if old_files:
        (folder / "model.safetensors").unlink()
        state = {name: value.clone() for name, value in network.state_dict().items()}
        state["text_model.embeddings.position_ids"] = torch.arange(CONTEXT)[None]
        torch.save(state, folder / "pytorch_model.bin")
        edit_json(folder / "config.json", text_config__type_vocab_size=None)
        bert_files(folder)
    else:
        tokenizer().save_pretrained(folder)
    return answers(
        folder, network, lambda image: processor(image, return_tensors="pt")["pixel_values"][0]
    )


def original(folder: Path) -> Reference:
    """A ViT as OFA-Sys/Chinese-CLIP saves it: the renamed tensors of transformers."""
    network = build(**WIDE)
    _save(folder, _original_names(network.state_dict()))
    return answers(folder, network, transform(SIZE))


def original_resnet(folder: Path) -> Reference:
    """The same with a ModifiedResNet."""
    network = build(**WIDE)
    visual = scramble(ModifiedResNet((1, 2, 1, 1), 24, 8, 64, 16))
    state = _original_names(network.state_dict())
    state = {name: value for name, value in state.items() if not name.startswith("visual.")}
    state.update((f"visual.{name}", value) for name, value in visual.state_dict().items())
    _save(folder, state)
    reference = answers(folder, network, transform(64))

    def logits(pixels: Tensor, tokens: Tensor) -> Tensor:
        images = F.normalize(visual(pixels), dim=-1)
        texts = F.normalize(reference.text(tokens), dim=-1)
        return network.logit_scale.exp() * images @ texts.T

    return Reference(
        folder, reference.pixels, visual, ids, reference.text, logits, nn.ModuleList([visual])
    )


def transform(size: int) -> T.Compose:
    """cn_clip's `image_transform`: the whole image squashed to a square."""
    return T.Compose(
        [
            T.Resize((size, size), interpolation=T.InterpolationMode.BICUBIC),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )


def _original_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a ChineseCLIPModel under the names of cn_clip's CLIP."""
    out = {}
    for name, value in state.items():
        if name.endswith(("position_ids", "token_type_ids")):
            continue
        if ".self_attn.q_proj" in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
            value = torch.cat(parts)
        elif ".self_attn." in name and "out_proj" not in name:
            continue
        if name in ("visual_projection.weight", "text_projection.weight"):
            name = "visual.proj" if name.startswith("visual") else "text_projection"
            value = value.T
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        out[name] = value.clone().contiguous()
    return out


def _save(folder: Path, state: dict[str, Tensor]) -> None:
    """Write a training checkpoint and its vocabulary."""
    folder.mkdir()
    named = {f"module.{name}": value for name, value in state.items()}
    for kind in ("weight", "bias"):
        named[f"module.bert.pooler.dense.{kind}"] = torch.ones(3)
    torch.save({"epoch": 15, "name": "tiny", "state_dict": named}, folder / "clip_cn_tiny.pt")
    bert_files(folder, json.dumps({"do_lower_case": True}))


MODELS: dict[str, Callable[[Path], Reference]] = {
    "hf_chinese_clip": hugging_face,
    "hf_chinese_clip gelu eps": lambda path: hugging_face(
        path, act="gelu", text_act="gelu_new", layer_norm_eps=1e-3
    ),
    "hf_chinese_clip squash old files": lambda path: hugging_face(path, True, True),
    "chinese_clip vit": original,
    "chinese_clip resnet": original_resnet,
}
