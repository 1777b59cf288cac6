"""SigLIP and SigLIP 2 against transformers, through the real converter; NaFlex in mixed batches.

Tolerances are torch.testing's defaults for float32 (1.3e-6 relative, 1e-5 absolute).
"""

import sys
import types
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from photos import CAT, COFFEE, FLOWER, ROCKET
from PIL import Image
from reference_siglip import (
    CLASSES,
    CONTEXT,
    MAX_PATCHES,
    MODELS,
    gemma,
    naflex,
    padded,
    patches,
    sentencepiece,
    siglip,
    siglip_vision,
)
from references import PATCH, SIZE, Reference, edit_json, fails, rewrite
from tokenizers import normalizers
from torch import Tensor
from torch.testing import assert_close
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from patchword import checkpoints, images
from patchword.bundle import Bundle
from patchword.tasks.attention import attention
from patchword.tasks.classify import NONE, classify
from patchword.variants import VARIANTS
from patchword.where.dense import EDITS
from patchword.where.heatmap import heatmap

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
    "A small RED bird, on_the branch!",
    "two  spaces\tand a tab ",
    "caf\u00e9 na\u00efve \u2603 \u72d7 \u039f\u0394\u039f\u03a3",
    "AT&amp;T and 3 dogs",
    "one word after the other " * 40,
]
SHAPES = [(32, 32), (24, 48), (56, 16), (8, 8), (8, 160), (160, 8), (40, 32)]
LABELS = ["cat", "dog", "red bird"]

Pair = tuple[Reference, Bundle]


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("siglip") / "model")
    return reference, checkpoints.load(reference.path)


@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = naflex(tmp_path_factory.mktemp("naflex") / "model")
    return reference, checkpoints.load(reference.path)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = siglip(tmp_path_factory.mktemp("fixed") / "model")
    return reference, checkpoints.load(reference.path)


def noise(*shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(3, *shape, generator=generator) for shape in shapes]


def seen(model: Bundle) -> list[Tensor] | Tensor:
    """Noise as the model takes it: of many shapes, or in a batch."""
    if model.config.preprocess.resize == "patches":
        return noise(*SHAPES)
    return torch.stack(noise(*[model.config.vision.image_size] * 3))


@torch.no_grad()
def test_image_features(pair: Pair) -> None:
    reference, model = pair
    if model.config.vision is not None:
        pixels = seen(model)
        assert_close(model.network.encode_image(pixels), reference.image(pixels))


@torch.no_grad()
def test_text_features(pair: Pair) -> None:
    reference, model = pair
    if reference.ids and reference.text:
        ids = reference.ids(SENTENCES)
        assert ids.shape[1] == CONTEXT
        assert_close(model.network.encode_text(ids), reference.text(ids))


@torch.no_grad()
def test_ids(pair: Pair) -> None:
    reference, model = pair
    if reference.ids and model.tokenizer:
        np.testing.assert_array_equal(model.tokenizer(SENTENCES), reference.ids(SENTENCES))


@torch.no_grad()
def test_logits(pair: Pair) -> None:
    reference, model = pair
    pixels = seen(model) if model.config.vision is not None else []
    if reference.logits and reference.ids:
        ids = reference.ids(SENTENCES)
        image, text, scale, bias = model.network(pixels, ids)
        assert model.scale == pytest.approx(117.33)
        assert model.bias == bias == pytest.approx(-12.93)
        # Rounded at the size of the bias, which they nearly cancel: 1.3e-6 of it.
        near = 1.3e-6 * float(bias.abs())
        logits = scale * image @ text.T + bias
        assert_close(logits, reference.logits(pixels, ids), rtol=1.3e-6, atol=near)
    elif model.config.classes:
        sizes = {} if isinstance(pixels, Tensor) else patches(pixels)
        logits = reference.network(**(sizes or {"pixel_values": pixels})).logits
        assert_close(model.network(pixels), logits)
        assert model.config.labels == tuple(CLASSES.values())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::patchword.errors.LongTextWarning")
def test_from_files_and_sentences_to_vectors(pair: Pair) -> None:
    reference, model = pair
    if model.config.vision is not None:
        opened = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
        theirs = torch.cat([reference.image(reference.pixels(photo)[None]) for photo in opened])
        ours = torch.from_numpy(model.embed_images(PHOTOS, exact=True))
        assert_close(ours, F.normalize(theirs, dim=-1))
    if reference.ids and reference.text:
        text = F.normalize(reference.text(reference.ids(SENTENCES)), dim=-1)
        assert_close(torch.from_numpy(model.embed_texts(SENTENCES)), text)


@torch.no_grad()
def test_naflex_alone_as_in_a_mixed_batch(flexible: Pair) -> None:
    reference, model = flexible
    pixels = noise(*SHAPES)
    together = model.network.encode_image(pixels)
    assert_close(together, torch.cat([model.network.encode_image([one]) for one in pixels]))
    assert_close(together, torch.cat([model.network.encode_image(one[None]) for one in pixels]))
    assert_close(together, torch.cat([reference.image([one]) for one in pixels]))


@torch.no_grad()
def test_naflex_embeds_photos_of_all_shapes_in_one_batch(flexible: Pair) -> None:
    reference, model = flexible
    photos = [images.open(path, exact=True) for path in PHOTOS]
    photos.append(np.ascontiguousarray(photos[0][:40]))  # 40 x 1280
    photos.append(np.ascontiguousarray(photos[0][:, :30]))
    photos.append(np.ascontiguousarray(photos[0][:100]))
    opened = [reference.pixels(Image.fromarray(photo)) for photo in photos]
    assert len({one.shape for one in opened}) > 3
    theirs = F.normalize(reference.image(opened), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(photos)), theirs)


@torch.no_grad()
@pytest.mark.parametrize("factory", [siglip, naflex])
@pytest.mark.parametrize(
    "changes",
    [
        {"vision_config__hidden_act": "gelu"},
        {"vision_config__layer_norm_eps": 1e-2},
        {"vision_config__num_attention_heads": 6},
        {"text_config__hidden_act": "quick_gelu"},
        {"text_config__layer_norm_eps": 1e-2},
        {"text_config__num_attention_heads": 4},
    ],
)
def test_a_wrong_value_would_show(factory: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    reference = factory(tmp_path / "model")
    edit_json(reference.path / "config.json", **changes)
    wrong = checkpoints.load(reference.path)
    if next(iter(changes)).startswith("vision"):
        pixels = seen(wrong)
        difference = wrong.network.encode_image(pixels) - reference.image(pixels)
    else:
        ids = reference.ids(SENTENCES)
        difference = wrong.network.encode_text(ids) - reference.text(ids)
    assert difference.abs().max() > 1e-3


@torch.no_grad()
def test_without_padding_features_would_be_others(pair: Pair) -> None:
    reference, model = pair
    if reference.ids and reference.text and model.tokenizer:
        ids = reference.ids(SENTENCES[:1])
        (row,) = model.tokenizer.rows(SENTENCES[:1])
        assert len(row) < CONTEXT
        right, trimmed = reference.text(ids), reference.text(ids[:, : len(row)])
        assert (right - trimmed).abs().max() > 1e-3
        assert model.tokenizer(SENTENCES[:1]).shape == (1, CONTEXT)
        text = F.normalize(right, dim=-1)
        assert_close(torch.from_numpy(model.embed_texts(SENTENCES[:1])), text)


# What the tokenizer's files say.


def test_left_padding_is_refused(tmp_path: Path) -> None:
    reference = naflex(tmp_path / "model")
    edit_json(reference.path / "tokenizer_config.json", padding_side="left")
    fails(reference.path, "padding_side is 'left'", "padding on the right")


def test_ids_come_from_the_tokenizer(tmp_path: Path) -> None:
    """config.json says 1 and 49407, whatever the vocabulary."""
    for name, factory, pad, end in (("a", siglip, 1, 1), ("b", naflex, 0, 1)):
        text = checkpoints.load(factory(tmp_path / name).path).config.text
        assert (text.pad_token, text.end_token, text.cleaning) == (pad, end, "none")


def test_without_a_tokenizer_the_vocabulary_is_assumed(tmp_path: Path) -> None:
    for name, factory, pad in (("a", siglip, 1), ("b", naflex, 0)):
        reference = factory(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (reference.path / file).unlink()
        config = checkpoints.load(reference.path).config
        assert (config.text.pad_token, config.text.end_token) == (pad, 1)
        assert {"text.pad_token", "text.end_token"} <= set(config.assumed)


def test_case_is_lowered_where_the_file_does_not(tmp_path: Path) -> None:
    """As Siglip2Tokenizer adds it to any file that it reads."""
    tokenizer = gemma()
    reference = naflex(tmp_path / "model")
    bare = gemma()
    bare.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    bare.backend_tokenizer.save(str(reference.path / "tokenizer.json"))
    model = checkpoints.load(reference.path)
    assert model.config.text.cleaning == "lowercase"
    np.testing.assert_array_equal(model.tokenizer(SENTENCES), padded(tokenizer, SENTENCES))


def test_canonical_where_the_file_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SiglipTokenizer's code does to a text beside its vocabulary."""
    reference = siglip(tmp_path / "model", sentencepiece(normalised=False))
    model = checkpoints.load(reference.path)
    assert model.config.text.cleaning == "unpunctuated"
    # Its module asks for sentencepiece, which its cleaning does without.
    monkeypatch.setitem(sys.modules, "sentencepiece", types.ModuleType("sentencepiece"))
    theirs = reference.ids([canonical(text) for text in SENTENCES])
    np.testing.assert_array_equal(model.tokenizer(SENTENCES), theirs)
    assert (model.tokenizer(SENTENCES) != reference.ids(SENTENCES).numpy()).any()


def canonical(text: str) -> str:
    """What transformers' SiglipTokenizer does to a text."""
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer

    slow = types.SimpleNamespace(
        do_lower_case=True,
        remove_punctuation=lambda part: SiglipTokenizer.remove_punctuation(None, part),
    )
    return SiglipTokenizer.canonicalize_text(slow, text)  # type: ignore[no-any-return]


# Broken and odd files.


def test_towers_that_do_not_belong_together(tmp_path: Path) -> None:
    reference = siglip(tmp_path / "model")
    without = tmp_path / "model" / "model.safetensors"

    def headless(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("vision_model.head")]:
            del tensors[name]

    rewrite(without, headless)
    fails(reference.path, "vision_model.head", "no place")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_config__num_patches": 25}, "num_patches"),
        ({"vision_config__patch_size": 16}, "patch_size"),
        ({"vision_config__num_channels": 1}, "num_channels"),
        ({"vision_config__hidden_act": "relu"}, "hidden_act"),
        ({"text_config__projection_size": 24}, "projection_size"),
        ({"text_config__max_position_embeddings": 77}, "max_position_embeddings"),
    ],
)
def test_a_contradiction_is_an_error(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    reference = naflex(tmp_path / "model")
    edit_json(reference.path / "config.json", **changes)
    fails(reference.path, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 16}, "patch_size"),
        ({"max_num_patches": 0}, "max_num_patches"),
        ({"do_resize": False}, "do_resize"),
    ],
)
def test_a_processor_that_does_not_fit(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    reference = naflex(tmp_path / "model")
    edit_json(reference.path / "preprocessor_config.json", **changes)
    fails(reference.path, said)


def test_a_processor_as_transformers_5_writes_it(tmp_path: Path) -> None:
    path = naflex(tmp_path / "model").path
    expected = checkpoints.load(path).config
    (path / "preprocessor_config.json").unlink()
    image_processor = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=MAX_PATCHES)
    transformers.Siglip2Processor(image_processor, gemma()).save_pretrained(path)
    assert (path / "processor_config.json").exists()
    assert checkpoints.load(path).config == expected


def test_unstated_values_are_named(tmp_path: Path) -> None:
    """google/siglip-base-patch16-224 says no more than the model's types."""
    reference = siglip(tmp_path / "model", layer_norm_eps=1e-6)
    edit_json(
        reference.path / "config.json",
        vision_config={"num_attention_heads": 3},
        text_config={"num_attention_heads": 2},
    )
    model = checkpoints.load(reference.path)
    assert set(model.config.assumed) == {
        "vision.activation", "vision.eps", "text.activation", "text.eps",
    }  # fmt: skip
    with torch.no_grad():
        pixels = seen(model)
        assert_close(model.network.encode_image(pixels), reference.image(pixels))


def test_a_budget_of_patches_instead_of_a_size(flexible: Pair) -> None:
    reference, _ = flexible
    model = checkpoints.load(reference.path, image_size=3 * PATCH)
    assert model.config.preprocess.max_patches == 9
    processor = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=9)
    photo = images.open(PHOTOS[0], exact=True)
    shape = processor(Image.fromarray(photo))["spatial_shapes"][0]
    pixels, geometry = model.open(photo)
    assert pixels.shape[1:] == geometry.size == tuple(PATCH * side for side in shape)
    assert MAX_PATCHES > 9


@torch.no_grad()
def test_patches_at_another_size_as_transformers_interpolates(fixed: Pair) -> None:
    reference, model = fixed
    pixels = torch.randn(2, 3, 5 * PATCH, 3 * PATCH)
    vision = reference.network.vision_model
    tokens = vision(pixels, interpolate_pos_encoding=True).last_hidden_state
    alone = [vision.head(tokens[:, i : i + 1]) for i in range(tokens.shape[1])]
    found = model.image_tower.dense(pixels, EDITS["cosine"])
    assert_close(found, torch.stack(alone, dim=1))


# Tasks.


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fixed", "flexible"])
def test_probabilities_as_the_zero_shot_pipeline_has_them(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """transformers' ZeroShotImageClassificationPipeline: sigmoid(logits_per_image)."""
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path))
    reference, model = request.getfixturevalue(kind)
    photo = images.open(PHOTOS[0], exact=True)
    template = "This is a photo of {}."
    pixels = reference.pixels(Image.fromarray(photo))[None]
    logits = reference.logits(pixels, reference.ids([template.format(x) for x in LABELS]))[0]
    (scores,) = classify(model, [photo], LABELS, template, multi_label=True)
    got = torch.tensor([{s.label: s.probability for s in scores}[label] for label in LABELS])
    assert_close(got, logits.sigmoid().double(), check_dtype=False)
    (scores,) = classify(model, [photo], LABELS, template)
    got = torch.tensor([{s.label: s.probability for s in scores}[label] for label in LABELS])
    assert_close(got, logits.softmax(0).double(), check_dtype=False)
    best = float(logits.sigmoid().max())
    (scores,) = classify(model, [photo], LABELS, template, reject=best * 1.01)
    assert scores[0].label == NONE
    assert scores[0].probability == pytest.approx(1 - best)
    (scores,) = classify(model, [photo], LABELS, template, reject=best * 0.99)
    assert scores[0].label != NONE


@pytest.mark.parametrize("kind", ["fixed", "flexible"])
def test_pictures_of_where(kind: str, request: pytest.FixtureRequest) -> None:
    _, model = request.getfixturevalue(kind)
    photo = images.open(PHOTOS[0], exact=True)
    for picture in (photo, np.ascontiguousarray(photo[:100])):
        shown = heatmap(model, picture, ["a cat", "a dog"])
        assert shown.values.shape == (2, *picture.shape[:2])
        assert np.isfinite(shown.values).all()
        for rollout in (False, True):
            maps = attention(model, picture, rollout=rollout).maps
            assert maps.shape[1:] == picture.shape[:2]
            assert np.isfinite(maps).all()


OPEN_CLIPS = {"base": "ViT-B", "large": "ViT-L", "so400m": "ViT-SO400M", "giant": "ViT-gopt"}


@pytest.mark.parametrize(
    "name", [n for n in VARIANTS if n.startswith("siglip") and not n.endswith("naflex")]
)
def test_variants_are_open_clips(name: str) -> None:
    family, size, patch, pixels, *languages = name.split("-")
    known = f"{OPEN_CLIPS[size]}-{patch}-SigLIP{'2' * (family == 'siglip2')}"
    known += "-i18n" * bool(languages) + f"-{pixels}" * (pixels != "224")
    known = known.replace("SigLIP2-384", "SigLIP2-378") if patch == "14" else known
    stated, config = open_clip.get_model_config(known), VARIANTS[name].config
    vision, text = config.vision, config.text
    assert text is not None
    words = stated["text_cfg"]
    assert (stated["embed_dim"], stated["custom_text"]) == (config.embed_dim, True)
    assert words["vocab_size"] == text.vocab_size
    assert words["context_length"] == text.context
    assert (words["width"], words["heads"], words["layers"]) == (text.width, text.heads, text.depth)
    assert int(words["width"] * words.get("mlp_ratio", 4)) == text.mlp_width
    assert words["norm_kwargs"]["eps"] == text.eps
    assert (words["no_causal_mask"], words["pool_type"]) == (not text.causal, text.pool)
    tower = stated["vision_cfg"]["timm_model_name"]
    with torch.device("meta"):
        network = timm.create_model(tower, num_classes=0, weight_init="skip")
    assert network.embed_dim == vision.width
    assert network.patch_embed.patch_size == (vision.patch_size,) * 2
    assert network.pos_embed.shape[1] == vision.grid[0] * vision.grid[1]
    assert len(network.blocks) == vision.depth
    assert network.blocks[0].attn.num_heads == network.attn_pool.num_heads == vision.heads
    assert network.blocks[0].mlp.fc1.out_features == vision.mlp_width
    assert network.attn_pool.mlp.fc1.out_features == vision.mlp_width
    assert network.norm.eps == vision.eps


def test_naflex_variant_is_transformers_default() -> None:
    theirs = transformers.Siglip2Config()
    config = VARIANTS["siglip2-base-16-naflex"].config
    for ours, stated in ((config.vision, theirs.vision_config), (config.text, theirs.text_config)):
        assert (ours.width, ours.depth, ours.heads) == (
            stated.hidden_size, stated.num_hidden_layers, stated.num_attention_heads,
        )  # fmt: skip
        assert (ours.mlp_width, ours.eps) == (stated.intermediate_size, stated.layer_norm_eps)
        assert stated.hidden_act == "gelu_pytorch_tanh"
        assert ours.activation == "gelu_tanh"
    assert config.vision.grid[0] * config.vision.grid[1] == theirs.vision_config.num_patches
    assert config.preprocess.max_patches == Siglip2ImageProcessorPil.max_num_patches
    assert config.preprocess.patch_size == Siglip2ImageProcessorPil.patch_size


def test_a_vision_tower_reads_no_text(tmp_path: Path) -> None:
    model = checkpoints.load(siglip_vision(tmp_path / "model").path)
    assert model.config.text is None
    assert model.config.embed_dim == 0
    assert model.dim == model.config.vision.width
    assert model.config.vision.image_size == (SIZE, SIZE)
