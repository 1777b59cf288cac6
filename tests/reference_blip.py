"""Tiny random BLIPs as transformers writes them, and with the names of the original .pth files."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import torch
import transformers
from references import Reference, scramble
from torch import Tensor, nn

SIZE, PATCH = 32, 8
CLS, SEP = 101, 102  # as in bert-base-uncased
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (
    *("a", "an", "the", "of", "in", "on", "and", "with", "is", "are", "it", "what", "how", "many"),
    *("where", "who", "color", "two", "three", "picture", "photo", "cat", "dog", "bird", "red"),
    *("green", "blue", "small", "sitting", "flying", "tree", "chair", "person", "cats", "dogs"),
    *("yes", "no", "?", ".", ","),
)
VOCAB = [
    "[PAD]",
    *(f"[unused{i}]" for i in range(99)),
    *("[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *WORDS,
    *(letter for letter in LETTERS if letter not in WORDS),
    *(f"##{letter}" for letter in LETTERS),
]
DEC, ENC = len(VOCAB), len(VOCAB) + 1  # BLIP's own two, behind the vocabulary
CAPTIONS = transformers.BlipForConditionalGeneration
QUESTIONS = transformers.BlipForQuestionAnswering
RETRIEVAL = transformers.BlipForImageTextRetrieval
LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16,
}  # fmt: skip
RENAMED = (  # of the image tower; the texts' names are the same
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision_model.post_layernorm", "visual_encoder.norm"),
    ("vision_model.encoder.layers", "visual_encoder.blocks"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn", "attn"),
    ("layer_norm", "norm"),
)


def bert_tokenizer(folder: Path) -> transformers.BertTokenizer:
    """A WordPiece tokenizer of a few words and all letters, in bert-base-uncased's order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return transformers.BertTokenizer.from_pretrained(folder)


def blip_config(width: int = 64, image_width: int = 48, **changes: object) -> object:
    """Two layers each; `changes` go to both towers."""
    return transformers.BlipConfig(
        text_config={
            "hidden_size": width, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": width // 16, "vocab_size": len(VOCAB) + 2, "bos_token_id": DEC,
            "max_position_embeddings": 48, **changes,
        },
        vision_config={
            "hidden_size": image_width, "intermediate_size": 100, "num_hidden_layers": 2,
            "num_attention_heads": image_width // 16, "image_size": SIZE, "patch_size": PATCH,
            **changes,
        },
        image_text_hidden_size=24,
    )  # fmt: skip


def hugging_face_blip(
    folder: Path,
    kind: type[nn.Module] = CAPTIONS,
    binary: bool = False,
    seed: int = 0,
    **changes: object,
) -> Reference:
    """One of transformers' BLIPs with its processor and tokenizer.

    `image` and `text` are features in the joint space, for retrieval; else the class token's.
    """
    config = blip_config(image_width=64 if kind is QUESTIONS else 48, **changes)
    network = speak(scramble(kind(config), seed))
    tokenizer = bert_tokenizer(folder)
    processor = transformers.BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    transformers.BlipProcessor(processor, tokenizer).save_pretrained(folder)
    if binary:  # as transformers wrote it before safetensors: tied weights twice
        config.save_pretrained(folder)
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
    else:
        network.save_pretrained(folder)
    return reference(folder, network, tokenizer, processor)


def reference(folder: Path, network: nn.Module, tokenizer: object, processor: object) -> Reference:
    """The checkpoint, and functions that compute its outputs with transformers."""

    def ids(texts: object) -> Tensor:
        return tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]

    def image(pixels: Tensor) -> Tensor:
        tokens = network.vision_model(pixels).last_hidden_state[:, 0]
        return network.vision_proj(tokens) if hasattr(network, "vision_proj") else tokens

    def text(ids: Tensor) -> Tensor:
        states = network.text_encoder(ids, attention_mask=(ids > 0).long()).last_hidden_state
        return network.text_proj(states[:, 0])

    return Reference(
        folder,
        lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0],
        image,
        ids,
        text if hasattr(network, "text_proj") else None,
        network=network,
    )


def speak(network: nn.Module) -> nn.Module:
    """Change a decoder so that it depends on the image, chooses among real words, and sometimes
    ends."""
    if not hasattr(network, "text_decoder"):
        return network
    words = network.text_decoder.cls.predictions
    with torch.no_grad():
        for layer in network.text_decoder.bert.encoder.layer:
            layer.crossattention.output.dense.weight.mul_(4)
        words.bias.fill_(-9.0)  # for ids without a word
        words.bias[104:DEC] = torch.linspace(-0.5, 0.5, DEC - 104)
        words.bias[SEP] = 2.5
    return network


def original_blip(folder: Path, kind: type[nn.Module] | None = None) -> Reference:
    """A .pth with the original names; without `kind` the pretrained model, which has all parts.

    Heads and eps are fixed in salesforce/BLIP's code: width / 64 and 1e-6.
    """
    networks = original_networks(kind)
    folder.mkdir(parents=True, exist_ok=True)
    state = {old(name): v for network in networks for name, v in network.state_dict().items()}
    if kind is not CAPTIONS and kind is not QUESTIONS:
        state["temp"] = torch.tensor(0.05)
        copied = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
        state |= {
            re.sub(r"^\w+", r"\g<0>_m", name): value + 1
            for name, value in state.items()
            if name.startswith(copied)
        }
        state |= {"image_queue": torch.zeros(24, 7), "queue_ptr": torch.zeros(1).long()}
    torch.save({"model": state, "epoch": 3}, folder / "model_tiny.pth")
    tokenizer = bert_tokenizer(folder)
    processor = transformers.BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return reference(folder, networks[0], tokenizer, processor)


def original_networks(kind: type[nn.Module] | None) -> list[nn.Module]:
    """One network of `kind`; or, for the pretrained model, one for retrieval and a captioner that
    share all but self-attention and heads (`tie_encoder_decoder_weights` of
    models/blip_pretrain.py)."""
    config = blip_config(128, 128, num_attention_heads=2)
    config.vision_config.layer_norm_eps = 1e-6
    if kind:
        return [speak(scramble(kind(config)))]
    reader, writer = scramble(RETRIEVAL(config)), speak(scramble(CAPTIONS(config), seed=1))
    writer.vision_model = reader.vision_model
    decoder = writer.text_decoder.bert.state_dict()
    shared = {name: value for name, value in decoder.items() if ".attention." not in name}
    reader.text_encoder.load_state_dict({**reader.text_encoder.state_dict(), **shared})
    return [reader, writer]


def noise(count: int = 3, seed: int = 5) -> Tensor:
    """Pixels (count, 3, SIZE, SIZE)."""
    size = (count, 3, SIZE, SIZE)
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def old(name: str) -> str:
    """The original name of a tensor of transformers."""
    if name.startswith("vision_model"):
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
    return name


MODELS: dict[str, Callable[[Path], Reference]] = {
    "hf_blip captions": hugging_face_blip,
    "hf_blip questions": partial(hugging_face_blip, kind=QUESTIONS),
    "hf_blip retrieval": partial(hugging_face_blip, kind=RETRIEVAL),
    "hf_blip captions .bin": partial(hugging_face_blip, binary=True),
    "hf_blip retrieval tanh eps": partial(
        hugging_face_blip, kind=RETRIEVAL, hidden_act="gelu_new", layer_norm_eps=1e-3
    ),
    "lavis pretrained": original_blip,
    "lavis captions": partial(original_blip, kind=CAPTIONS),
    "lavis questions": partial(original_blip, kind=QUESTIONS),
    "lavis retrieval": partial(original_blip, kind=RETRIEVAL),
}
