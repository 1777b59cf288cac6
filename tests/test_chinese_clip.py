"""Chinese-CLIP against transformers, from its own files and from the original ones."""

from collections.abc import Callable
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from photos import CAT, FLOWER
from PIL import Image
from reference_chinese_clip import CONTEXT, MODELS, hugging_face, ids, original
from references import Reference, edit_json, fails, rewrite
from torch import Tensor
from torch.testing import assert_close

from patchword import api, checkpoints, images, models
from patchword.bundle import Bundle
from patchword.errors import LongTextWarning
from patchword.text.templates import CHINESE, IMAGENET, PLAIN, resolve_templates
from patchword.variants import VARIANTS

PHOTOS = [CAT, FLOWER]
SENTENCES = [
    "一只狗在草地上",
    "",
    "A red shirt, and a DOG!",
    "我喜欢 red 的衣服。Café",
    "一张猫的照片 ☃ ①",
    "两个人和一只猫。" * 3,
]
LONG = "两个人和一只猫在草地上。" * 9

Pair = tuple[Reference, Bundle]


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("chinese") / "model")
    return reference, checkpoints.load(reference.path)


def noise(model: Bundle) -> Tensor:
    size = model.config.vision.image_size
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_image_features(pair: Pair) -> None:
    reference, model = pair
    pixels = noise(model)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))


@torch.no_grad()
def test_text_features_with_padding_in_the_batch(pair: Pair) -> None:
    reference, model = pair
    tokens = reference.ids(SENTENCES)
    assert (tokens == 0).sum() > 40
    assert_close(model.network.encode_text(tokens), reference.text(tokens))


@torch.no_grad()
def test_logits(pair: Pair) -> None:
    reference, model = pair
    pixels, tokens = noise(model), reference.ids(SENTENCES)
    image, text, scale = model.network(pixels, tokens)
    assert_close(scale * image @ text.T, reference.logits(pixels, tokens))


@torch.no_grad()
def test_from_files_and_sentences_to_vectors(pair: Pair) -> None:
    reference, model = pair
    opened = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
    pixels = torch.stack([reference.pixels(photo) for photo in opened])
    image = F.normalize(reference.image(pixels), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(PHOTOS, exact=True)), image)
    tokens = reference.ids(SENTENCES)
    np.testing.assert_array_equal(model.tokenizer(SENTENCES), tokens.numpy())
    text = F.normalize(reference.text(tokens), dim=-1)
    assert_close(torch.from_numpy(model.embed_texts(SENTENCES)), text)


@torch.no_grad()
def test_a_long_text_is_cut_as_transformers_cuts_it(pair: Pair) -> None:
    reference, model = pair
    said = f"the text exceeds {CONTEXT} tokens; it loses 78 of 110"
    with pytest.warns(LongTextWarning, match=said):
        found = model.embed_texts([LONG])
    expected = F.normalize(reference.text(reference.ids([LONG])), dim=-1)
    assert_close(torch.from_numpy(found), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("writer", "changes"),
    [
        (hugging_face, {"text_config__hidden_act": "quick_gelu"}),
        (hugging_face, {"text_config__layer_norm_eps": 1e-2}),
        (hugging_face, {"text_config__num_attention_heads": 6}),
        (hugging_face, {"text_config__pad_token_id": 7}),
        (hugging_face, {"vision_config__hidden_act": "gelu"}),
        (hugging_face, {"vision_config__num_attention_heads": 4}),
    ],
)
def test_a_wrong_value_would_show(
    writer: Callable[[Path], Reference], changes: dict[str, object], tmp_path: Path
) -> None:
    reference = writer(tmp_path / "model")
    edit_json(reference.path / "config.json", **changes)
    wrong = checkpoints.load(reference.path)
    pixels, tokens = noise(wrong), reference.ids(SENTENCES)
    image = wrong.network.encode_image(pixels) - reference.image(pixels)
    text = wrong.network.encode_text(tokens) - reference.text(tokens)
    assert max(image.abs().max(), text.abs().max()) > 1e-3


def test_a_vocabulary_can_be_given(tmp_path: Path) -> None:
    path = original(tmp_path / "model").path
    vocabulary = (path / "vocab.txt").rename(tmp_path / "vocab.txt")
    assert checkpoints.load(path).tokenizer is None
    model = checkpoints.load(path / "clip_cn_tiny.pt", tokenizer=vocabulary)
    np.testing.assert_array_equal(model.tokenizer(SENTENCES), ids(SENTENCES).numpy())


def test_what_is_not_stated_is_noted(tmp_path: Path) -> None:
    reference = hugging_face(tmp_path / "model")
    edit_json(reference.path / "config.json", text_config__layer_norm_eps=None)
    assert checkpoints.load(reference.path).config.assumed["text.eps"].startswith("1e-12: not")
    assumed = checkpoints.load(original(tmp_path / "original").path).config.assumed
    assert {"vision.heads", "text.heads", "text.eps", "preprocess"} <= set(assumed)


def test_what_changes_the_answer_is_refused(tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "model").path
    for key, value, said in [
        ("position_embedding_type", "relative_key", "position_embedding_type is 'relative_key'"),
        ("type_vocab_size", 3, "type_vocab_size is 3, and only 2"),
        ("pad_token_id", 5000, "pad_token_id is 5000, but there are only"),
        ("hidden_size", 96, "hidden_size is 96"),
        ("num_hidden_layers", 3, "num_hidden_layers is 3"),
    ]:
        before = (path / "config.json").read_text()
        edit_json(path / "config.json", **{f"text_config__{key}": value})
        fails(path, "a Hugging Face ChineseCLIPModel", said)
        (path / "config.json").write_text(before)
    edit_json(path / "config.json", model_type="clip")
    fails(path, "no format that patchword reads")
    edit_json(path / "config.json", model_type="chinese_clip")
    rewrite(path / "model.safetensors", lambda tensors: tensors.pop("logit_scale"))
    fails(path, "missing", "logit_scale")


def test_chinese_labels(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    model = api.Model(**{name: getattr(pair[1], name) for name in Bundle.__dataclass_fields__})
    (scores,) = model.classify([PHOTOS[0]], ["猫", "狗", "衣服"], templates="chinese")
    assert {score.label for score in scores} == {"猫", "狗", "衣服"}
    (same,) = model.classify([PHOTOS[0]], ["猫", "狗", "衣服"], templates=CHINESE)
    assert same == scores
    (other,) = model.classify([PHOTOS[0]], ["猫", "狗", "衣服"])
    assert other != scores


def test_sets_of_templates() -> None:
    assert resolve_templates(None) == resolve_templates("plain") == PLAIN
    assert resolve_templates("{} 的照片") == ("{} 的照片",)
    assert resolve_templates(["imagenet", "a {}"]) == (*IMAGENET, "a {}")
    assert len(set(CHINESE)) == len(CHINESE)
    assert all(template.count("{}") == 1 for template in CHINESE)


@pytest.mark.parametrize(
    ("name", "vision", "text"),
    [
        ("chinese-clip-rn50", 38, 39),
        ("chinese-clip-vit-base-16", 86, 102),
        ("chinese-clip-vit-large-14", 304, 102),
        ("chinese-clip-vit-large-14-336", 304, 102),
        ("chinese-clip-vit-huge-14", 632, 326),
    ],
)
def test_variants_have_as_many_parameters_as_published(name: str, vision: int, text: int) -> None:
    """Millions, from the table of models in OFA-Sys/Chinese-CLIP's README."""
    network = models.outline(VARIANTS[name].config)
    counted = [sum(p.numel() for p in part.parameters()) for part in (network.image, network.text)]
    assert [round(count / 1e6) for count in counted] == pytest.approx([vision, text], abs=1)
