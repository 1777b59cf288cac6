"""The same answers as the libraries that the checkpoints come from, through the real converter.

Tolerances are torch.testing's defaults for float32 (1.3e-6 relative, 1e-5 absolute).
"""

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
import transformers
from photos import CAT, COFFEE, FLOWER, ROCKET
from PIL import Image
from references import Reference, edit_json, hugging_face, open_clip_model, openai_archive, scramble
from timm.models._hub import save_config_for_hf
from torch import Tensor
from torch.testing import assert_close

from patchword import checkpoints, images
from patchword.bundle import Bundle

pytestmark = pytest.mark.slow

PHOTOS = [
    CAT,
    FLOWER,
    ROCKET,
    COFFEE,
]
SENTENCES = [
    "a photo of a cat",
    "",
    "A small RED bird, on a branch!",
    "caf\u00e9 na\u00efve \u2603 \u72d7",
    "AT&amp;T and 3 dogs",
    "one word after the other " * 40,
]
VIT = {"image_size": 32, "layers": 2, "width": 48, "patch_size": 8, "head_width": 16}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 16}
AVERAGE = {"pool_type": "avg", "final_ln_after_pool": True, "norm_kwargs": {"eps": 1e-3}}
TANH = {"act_kwargs": {"approximate": "tanh"}}

CLIPS: dict[str, Callable[[Path], Reference]] = {
    "huggingface quick_gelu": hugging_face,
    "huggingface gelu eps": lambda path: hugging_face(path, "gelu", 1e-3),
    "huggingface tanh sharded": lambda path: hugging_face(path, "gelu_new", max_shard_size="5MB"),
    "huggingface worldwide": lambda path: hugging_face(path, worldwide=True),
    "open_clip vit": lambda path: open_clip_model(path, VIT),
    "open_clip vit quick_gelu .bin": lambda path: open_clip_model(path, VIT, True, quick_gelu=True),
    "open_clip vit average eps": lambda path: open_clip_model(path, VIT | AVERAGE),
    "open_clip vit tanh eos": lambda path: open_clip_model(
        path, VIT | TANH, text={**TANH, "pool_type": "eos", "eos_id": 49407, "mlp_ratio": 2.0}
    ),
    "open_clip resnet .bin": lambda path: open_clip_model(path, RESNET, True),
    "open_clip resnet quick_gelu": lambda path: open_clip_model(path, RESNET, quick_gelu=True),
    "openai vit": lambda path: openai_archive(path.with_suffix(".pt")),
    "openai resnet": lambda path: openai_archive(path.with_suffix(".pt"), resnet=True),
}

Pair = tuple[Reference, Bundle]


def made(factory: Callable[[Path], Reference], folder: Path) -> Pair:
    reference = factory(folder / "model")
    # OpenAI's files come without a tokenizer.
    tokenizer = Path(open_clip.tokenizer.default_bpe()) if reference.path.is_file() else None
    return reference, checkpoints.load(reference.path, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Each of CLIPS, made once."""
    return functools.cache(lambda name: made(CLIPS[name], tmp_path_factory.mktemp("clip")))


@pytest.fixture(params=CLIPS, scope="module")
def pair(request: pytest.FixtureRequest, known: Callable[[str], Pair]) -> Pair:
    return known(request.param)


def noise(model: Bundle, *size: int) -> Tensor:
    size = size or model.config.vision.image_size
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(5))


def photos(reference: Reference, paths: Sequence[Path] = PHOTOS) -> Tensor:
    """Photos through the reference's own preprocessing."""
    opened = [Image.fromarray(images.open(path, exact=True)) for path in paths]
    return torch.stack([reference.pixels(photo) for photo in opened])


@torch.no_grad()
def test_image_features(pair: Pair) -> None:
    reference, model = pair
    pixels = noise(model)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))


@torch.no_grad()
def test_text_features(pair: Pair) -> None:
    reference, model = pair
    ids = reference.ids(SENTENCES)
    assert_close(model.network.encode_text(ids), reference.text(ids))


@torch.no_grad()
def test_logits(pair: Pair) -> None:
    reference, model = pair
    pixels, ids = noise(model), reference.ids(SENTENCES)
    image, text, scale = model.network(pixels, ids)
    assert_close(scale * image @ text.T, reference.logits(pixels, ids))


@torch.no_grad()
def test_from_files_and_sentences_to_vectors(pair: Pair) -> None:
    reference, model = pair
    image = F.normalize(reference.image(photos(reference)), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(PHOTOS, exact=True)), image)
    text = F.normalize(reference.text(reference.ids(SENTENCES)), dim=-1)
    assert_close(torch.from_numpy(model.embed_texts(SENTENCES)), text)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("huggingface quick_gelu", {"vision_config__hidden_act": "gelu"}),
        ("huggingface quick_gelu", {"vision_config__layer_norm_eps": 1e-2}),
        ("huggingface quick_gelu", {"vision_config__num_attention_heads": 6}),
        ("open_clip vit", {"model_cfg__quick_gelu": True}),
        ("open_clip vit", {"model_cfg__vision_cfg__head_width": 8}),
        ("open_clip resnet .bin", {"model_cfg__vision_cfg__head_width": 32}),
    ],
)
def test_a_wrong_value_would_show(
    name: str, changes: dict[str, object], known: Callable[[str], Pair], tmp_path: Path
) -> None:
    reference, right = known(name)
    folder = shutil.copytree(reference.path, tmp_path / "wrong")
    files = ("open_clip_config.json", "config.json")
    edit_json(next(p for f in files if (p := folder / f).exists()), **changes)
    wrong = checkpoints.load(folder)
    difference = wrong.network.encode_image(noise(right)) - reference.image(noise(right))
    assert difference.abs().max() > 1e-3


# A ViT-Tiny in its full size, and positions at other sizes.


def vit_tiny(folder: Path, weights: Path | None = None, labels: Sequence[str] = ()) -> Pair:
    """timm's ViT-Tiny at 224 pixels, of random weights or those of a file, and what it classifies,
    with the configuration that timm writes beside such weights."""
    network = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True)
    if weights is None:
        scramble(network)
    else:
        network.load_state_dict(safetensors.torch.load_file(weights))
    names = list(labels) or [f"class {i}" for i in range(1000)]
    save_config_for_hf(network.eval(), str(folder / "config.json"), {"label_names": names})
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    reference = Reference(folder, transform, network, network=network)
    return reference, checkpoints.load(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return vit_tiny(tmp_path_factory.mktemp("tiny"))


@torch.no_grad()
def test_vit_tiny_from_files_to_logits(tiny: Pair) -> None:
    reference, model = tiny
    pixels = torch.from_numpy(np.stack([model.open(path, exact=True)[0] for path in PHOTOS]))
    theirs = photos(reference)
    assert_close(pixels, theirs)
    logits = reference.network(theirs)
    assert_close(model.network(theirs), logits)
    # Pixels normalised in another order differ in their last bit, and large logits show it.
    assert_close(model.network(pixels).softmax(dim=1), logits.softmax(dim=1))
    assert list(model.config.labels) == [f"class {i}" for i in range(1000)]


@torch.no_grad()
@pytest.mark.parametrize("size", [(384, 384), (224, 448), (112, 112)])
def test_positions_at_another_size_as_timm(tiny: Pair, size: tuple[int, int]) -> None:
    reference, model = tiny
    pixels = noise(model, *size)
    assert_close(model.network(pixels), reference.network(pixels))


@torch.no_grad()
@pytest.mark.parametrize("size", [(384, 384), (224, 448)])
def test_positions_at_another_size_as_open_clip(tmp_path: Path, size: tuple[int, int]) -> None:
    vision = {**VIT, "image_size": 224, "patch_size": 16}
    reference, model = made(lambda path: open_clip_model(path, vision), tmp_path)
    config = json.loads((reference.path / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["image_size"] = size
    larger = open_clip.model.CLIP(**config).eval()
    state = reference.network.state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    pixels = noise(model, *size)
    assert_close(model.network.encode_image(pixels), larger.encode_image(pixels))


@pytest.mark.parametrize("text", ["a hat", "a <cat-toy> on a hat", "<cat-toy> <dog-toy> a"])
def test_added_tokens_with_a_legacy_end_are_pooled_as_transformers_does(
    text: str, tmp_path: Path
) -> None:
    """Where config.json says 2, the highest id of each text is pooled, whatever it is."""
    words = [*map(chr, range(33, 127))]
    words += [f"{word}</w>" for word in words]
    vocab = {w: i for i, w in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[])
    tokenizer.add_tokens(["<cat-toy>", "<dog-toy>"])
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    part |= {"num_attention_heads": 2}
    config = transformers.CLIPConfig(
        projection_dim=32,
        vision_config={**part, "image_size": 32, "patch_size": 16},
        text_config={
            **part, "vocab_size": len(tokenizer), "eos_token_id": 2, "bos_token_id": 0,
            "pad_token_id": 1,
        },
    )  # fmt: skip
    network = scramble(transformers.CLIPModel(config))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    model = checkpoints.load(tmp_path)
    assert model.config.text is not None
    assert (model.config.text.pool, model.config.text.end_token) == (
        "highest", vocab["<|endoftext|>"],
    )  # fmt: skip
    ids = tokenizer([text, "a hat"], padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = network.get_text_features(ids).pooler_output
    expected = torch.nn.functional.normalize(theirs, dim=-1)
    assert_close(torch.from_numpy(model.embed_texts([text, "a hat"])), expected)
    again = checkpoints.load(checkpoints.save(model, tmp_path / "ours"))
    assert again.fingerprint == model.fingerprint
