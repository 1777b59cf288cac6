"""Every model that open_clip ships: the same answers through its own files, or an error that says
which option is not computed.

Tolerances are torch.testing's defaults for float32 (1.3e-6 relative, 1e-5 absolute).
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
import torch
from reference_open_clip import MODELS, SIGLIP_IMAGES, open_clip_hub, shrunk
from references import Reference, edit_json, fails, openai_archive, rewrite

# isort: split
import open_clip
import safetensors.torch
import torch.nn.functional as F
from image_writers import random_pixels
from open_clip.transform import PreprocessCfg, image_transform_v2
from photos import CAT, FLOWER
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import patchword
from patchword import checkpoints, images
from patchword.bundle import Bundle
from patchword.checkpoints import open_clip_bert
from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.formats import open_clip as format_of_open_clip
from patchword.checkpoints.read import LazyTensor
from patchword.config import ModelConfig
from patchword.errors import CheckpointError, TokenizerError
from patchword.images.preprocess import Preprocess
from patchword.nn.positions import sincos_2d
from patchword.variants import VARIANTS

pytestmark = pytest.mark.slow

PHOTOS = [CAT, FLOWER]
SENTENCES = [
    "a photo of a cat",
    "",
    "A small_RED bird, on a branch!",
    "caf\u00e9 [SEP] \u2603 </s>",
    "one word after the other " * 5,
]
CONFIG = "open_clip_config.json"
WORDS = ["a", "red", "bird", "dog", "photo", "small"]
TOKENIZER_CONFIG = "tokenizer_config.json"

# What open_clip ships and patchword does not compute: patterns of names by the option, and its
# value, that an error names.
UNSUPPORTED = {
    ("timm_model_name", "'eva"): "EVA.*",
    ("timm_model_name", "'vit_pe_core_"): "PE-Core-.*",
    ("timm_model_name", "'vitamin_"): "ViTamin-.*",
    ("timm_model_name", "'convnext_"): "convnext_.*",
    ("timm_model_name", "'swin_"): "swin_.*",
    ("timm_model_name", "'vit_relpos_"): "vit_relpos_.*",
    ("timm_model_name", "'fastvit_mci"): "MobileCLIP2?-S.",
    ("timm_model_name", "'vit_base_mci_"): "MobileCLIP2?-B",
    ("timm_proj", "None"): "MobileCLIP2-L-14",
    ("multimodal_cfg", "{"): "coca_.*",
    ("hf_model_name", "'"): "(mt5|nllb-clip)-.*",
}


def refused(name: str) -> tuple[str, str] | None:
    """The option and value for which `name` is not supported; None if it is supported."""
    options = [option for option, names in UNSUPPORTED.items() if re.fullmatch(names, name)]
    assert len(options) < 2
    return options[0] if options else None


def smaller(name: str) -> dict[str, Any]:
    """`shrunk`, with a thousand of CLIP's tokens: all of them are read below, and take long."""
    config = shrunk(name)
    if not config["text_cfg"].get("hf_tokenizer_name"):
        config["text_cfg"]["vocab_size"] = 1000
    return config


# Models with the same options are the same once shrunk: each is run once.
SHIPPED = open_clip.list_models()
KINDS: dict[str, list[str]] = {}
for _name in SHIPPED:
    if not refused(_name):
        KINDS.setdefault(json.dumps(smaller(_name), sort_keys=True), []).append(_name)


def noise(config: ModelConfig, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 3, *config.vision.image_size, generator=generator)


def same_features(reference: Reference, model: Bundle) -> None:
    """The same image features of noise, ids, and text features."""
    pixels = noise(model.config)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))
    ids = reference.ids(SENTENCES)
    assert_close(model.network.encode_text(ids), reference.text(ids))
    assert torch.equal(torch.from_numpy(model.tokenizer(SENTENCES, pad_to_context=True)), ids)


@torch.no_grad()
@pytest.mark.parametrize("config_json", KINDS, ids=[names[0] for names in KINDS.values()])
def test_every_shipped_model(config_json: str, tmp_path: Path) -> None:
    reference = open_clip_hub(tmp_path / "model", json.loads(config_json), {})
    same_features(reference, checkpoints.load(reference.path))


@pytest.mark.parametrize("name", [name for name in SHIPPED if refused(name)])
def test_every_other_model_is_refused_by_its_option(name: str, tmp_path: Path) -> None:
    config = open_clip.get_model_config(name)
    option, value = refused(name)
    trunk = "timm_model_name" in config["vision_cfg"]
    custom = config.get("custom_text") or "hf_model_name" in config["text_cfg"]
    names = ["visual.trunk.x" if trunk else "visual.x", "text.x" if custom else "text_projection"]
    tensors = {name: torch.zeros(2, config["embed_dim"]) for name in names}
    safetensors.torch.save_file(tensors, tmp_path / "open_clip_model.safetensors")
    (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": config}))
    fails(tmp_path, "is an open_clip model", f"says {option} is {value}")


def test_count() -> None:
    supported = sum(map(len, KINDS.values()))
    assert (supported, len(SHIPPED)) == (85, 144)


@pytest.fixture(params=MODELS, scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reference, Bundle]:
    reference = MODELS[request.param](tmp_path_factory.mktemp("oc") / "model")
    return reference, checkpoints.load(reference.path)


@torch.no_grad()
def test_features_and_scores(pair: tuple[Reference, Bundle]) -> None:
    reference, model = pair
    same_features(reference, model)
    pixels, ids = noise(model.config), reference.ids(SENTENCES)
    image, text, scale, *bias = model.network(pixels, ids)
    assert_close(scale * image @ text.T + sum(bias), reference.logits(pixels, ids))


@torch.no_grad()
def test_from_files_and_sentences_to_vectors(pair: tuple[Reference, Bundle]) -> None:
    reference, model = pair
    opened = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
    pixels = torch.stack([reference.pixels(photo) for photo in opened])
    image = F.normalize(reference.image(pixels), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(PHOTOS, exact=True)), image)
    sentences = [text for text in SENTENCES if model.tokenizer.count(text) <= 12]
    text = F.normalize(reference.text(reference.ids(sentences)), dim=-1)
    assert_close(torch.from_numpy(model.embed_texts(sentences)), text)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        # The weights of OpenAI under a configuration that forgets their activation.
        ("open_clip_custom vit", {"model_cfg__quick_gelu": False}),
        ("open_clip worldwide quick_gelu", {"model_cfg__quick_gelu": None}),
        ("open_clip clipa", {"model_cfg__text_cfg__pool_type": "first"}),
        ("open_clip clipa", {"model_cfg__vision_cfg__final_ln_after_pool": False}),
        ("open_clip clipa", {"model_cfg__text_cfg__tokenizer_kwargs": {}}),
        ("open_clip norm then average", {"model_cfg__vision_cfg__pool_type": "tok"}),
        ("open_clip_custom siglip", {"model_cfg__text_cfg__act_kwargs": {"approximate": "tanh"}}),
        ("open_clip_custom siglip", {"model_cfg__text_cfg__tokenizer_kwargs": {"clean": "lower"}}),
        ("open_clip_custom siglip",
         {"model_cfg__vision_cfg__timm_model_name": "vit_base_patch32_siglip_256"}),
        ("open_clip_custom siglip",
         {"model_cfg__vision_cfg__timm_model_name": "vit_so400m_patch14_siglip_224"}),
        ("open_clip_custom siglip 2", {"model_cfg__text_cfg__act_kwargs": None}),
        ("open_clip_custom siglip 2", {"model_cfg__text_cfg__norm_kwargs": {"eps": 1e-2}}),
    ],
)  # fmt: skip
def test_a_wrong_value_would_show(name: str, changes: dict[str, object], tmp_path: Path) -> None:
    reference = MODELS[name](tmp_path / "model")
    edit_json(reference.path / CONFIG, **changes)
    model = checkpoints.load(reference.path)
    pixels = noise(model.config, 200)  # the two GELUs are 5e-4 apart at most: it takes many
    image = model.network.encode_image(pixels) - reference.image(pixels)
    texts = SENTENCES + [" ".join(words) for words in itertools.permutations(WORDS, 5)]
    ids = torch.from_numpy(model.tokenizer(texts, pad_to_context=True))
    text = model.network.encode_text(ids) - reference.text(reference.ids(texts))
    assert max(image.abs().max(), text.abs().max()) > 1e-3


@torch.no_grad()
def test_wrong_padding_would_show(tmp_path: Path) -> None:
    reference = MODELS["open_clip_custom siglip"](tmp_path / "model")
    edit_json(reference.path / TOKENIZER_CONFIG, pad_token="<pad>")
    model = checkpoints.load(reference.path)
    ids = torch.from_numpy(model.tokenizer(SENTENCES))
    difference = model.network.encode_text(ids) - reference.text(reference.ids(SENTENCES))
    assert difference.abs().max() > 1e-3


@torch.no_grad()
def test_texts_are_padded_to_the_context_where_padding_is_attended(tmp_path: Path) -> None:
    reference = MODELS["open_clip_custom siglip"](tmp_path / "model")
    model = checkpoints.load(reference.path)
    ids = reference.ids(["a cat"])
    assert model.tokenizer(["a cat"]).shape == ids.shape == (1, 12)
    short = model.network.encode_text(ids[:, :3])
    assert (short - reference.text(ids)).abs().max() > 1e-3


@torch.no_grad()
def test_old_names_under_custom_text(tmp_path: Path) -> None:
    """open_clip renames the text tower of older files as it loads them."""
    reference = MODELS["open_clip_custom vit"](tmp_path / "model")

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("text.")]:
            tensors[name.removeprefix("text.")] = tensors.pop(name)

    rewrite(reference.path / "open_clip_model.safetensors", rename)
    same_features(reference, checkpoints.load(reference.path))


def test_positions_of_another_width_are_named(tmp_path: Path) -> None:
    path = MODELS["open_clip_custom roberta"](tmp_path / "model").path
    name = "text.transformer.embeddings.position_embeddings.weight"

    def narrow(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name][:, :64].contiguous()

    rewrite(path / "open_clip_model.safetensors", narrow)
    fails(path, f"misshapen {name}  (18, 64), expected (any, 128)")


def test_fixed_positions_are_those_of_the_paper(tmp_path: Path) -> None:
    reference = MODELS["open_clip fixed positions"](tmp_path / "model")
    model = checkpoints.load(reference.path)
    positions = dict(model.network.named_buffers())["image.pos_embed"]
    assert_close(positions[0, 1:], sincos_2d(model.config.vision.grid, 32))
    assert not positions[0, 0].any()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("open_clip clipa", {"text_cfg__pool_type": "argmax"}, "strip_sep_token is True"),
        ("open_clip clipa", {"text_cfg__no_causal_mask": False}, "pool_type is 'last'"),
        ("open_clip clipa", {"vision_cfg__no_ln_pre": False}, "missing   visual.ln_pre"),
        ("open_clip layer scale", {"vision_cfg__ls_init_value": None}, "extra     visual."),
        ("open_clip sigmoid", {"init_logit_bias": None}, "extra     logit_bias"),
        ("open_clip worldwide", {"init_logit_bias": -10}, "missing   logit_bias"),
        ("open_clip worldwide", {"text_cfg__proj_type": "none"}, "proj_type is none"),
        ("open_clip worldwide", {"text_cfg__proj_bias": True}, "missing   text_projection.weight"),
        ("open_clip worldwide", {"text_cfg__tokenizer_mode": "clips"}, "tokenizer_mode is 'clips'"),
        ("open_clip worldwide", {"text_cfg__tokenizer_kwargs": {"clean": "rinse"}}, "clean is"),
        ("open_clip worldwide", {"text_cfg__ls_init_value": 1e-4}, "ls_init_value is 0.0001"),
        ("open_clip_custom roberta", {"text_cfg__hf_pooler_type": "max_pooler"}, "is max_pooler"),
        ("open_clip_custom roberta", {"text_cfg__hf_proj_type": "linear"}, "have a text.proj.0"),
        ("open_clip_custom roberta", {"text_cfg__context_length": 17}, "positions for 16 tokens"),
        ("open_clip_custom roberta", {"text_cfg__hf_model_name": "bert-base"}, "padding is 0"),
        ("open_clip_custom biomed", {"text_cfg__hf_pooler_type": None}, "is cls_pooler"),
        ("open_clip_custom biomed", {"text_cfg__hf_model_name": "gpt2"}, "BERT and RoBERTa alone"),
        ("open_clip timm trunk", {"vision_cfg__timm_pool": "token"}, "timm_pool is 'token'"),
        ("open_clip timm trunk", {"vision_cfg__timm_proj": "mlp"}, "timm_proj is 'mlp'"),
        ("open_clip_custom siglip", {"vision_cfg__image_size": 224}, "img_size is 224"),
        ("open_clip_custom siglip", {"vision_cfg__timm_proj": "linear"}, "timm_proj is 'linear'"),
        ("open_clip_custom siglip", {"embed_dim": 64}, "timm_proj is 'none', but 48 channels"),
        ("open_clip_custom vit", {"vision_cfg__timm_model_name": "vit_base_patch16_siglip_224"},
         "timm_model_name is 'vit_base_patch16_siglip_224', but the weights have no visual.trunk"),
        ("open_clip_custom siglip i18n", {"text_cfg__proj_type": "linear"},
         "proj_type is linear, but the weights have no text.text_projection"),
    ],
)  # fmt: skip
def test_contradictions(
    name: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = MODELS[name](tmp_path / "model").path
    edit_json(path / CONFIG, **{f"model_cfg__{key}": value for key, value in changes.items()})
    fails(path, "is an open_clip model", message)


@torch.no_grad()
def test_a_bert_under_the_older_names_of_its_options(tmp_path: Path) -> None:
    """As in microsoft/BiomedCLIP until open_clip 2.21."""
    reference = MODELS["open_clip_custom biomed"](tmp_path / "model")
    text_cfg = json.loads((reference.path / CONFIG).read_text())["model_cfg"]["text_cfg"]
    for new, old in (("hf_proj_type", "proj"), ("hf_pooler_type", "pooler_type")):
        text_cfg[old] = text_cfg.pop(new)
    edit_json(reference.path / CONFIG, model_cfg__text_cfg=text_cfg)
    same_features(reference, checkpoints.load(reference.path))
    edit_json(reference.path / CONFIG, model_cfg__text_cfg={**text_cfg, "proj": None})
    fails(reference.path, "hf_proj_type is None, and patchword computes linear and mlp")


def test_a_bert_with_another_models_padding(tmp_path: Path) -> None:
    """open_clip attends to it; the network masks its own."""
    path = MODELS["open_clip_custom biomed"](tmp_path / "model").path
    edit_json(path / TOKENIZER_CONFIG, pad_token="[UNK]")
    fails(path, "whose padding is 0, but the tokenizer here pads with 1")


@pytest.mark.parametrize(
    ("name", "width", "layer", "message"),
    [
        ("bert-mini", 384, "intermediate.dense", "is 384 wide: no file says its heads"),  # MiniLM
        ("bert-other", 640, "intermediate.dense", "is 640 wide: no file says its heads"),
        ("distilbert-base", 768, "ffn.lin1", "computes BERT and RoBERTa alone"),
    ],
)
def test_berts_that_are_refused(name: str, width: int, layer: str, message: str) -> None:
    part = "text.transformer"
    text_cfg = {"hf_model_name": name, "hf_pooler_type": "mean_pooler"}
    names = ["embeddings.word_embeddings", "embeddings.position_embeddings"]
    tensors = {
        f"{part}.{name}.weight": LazyTensor((100, width), lambda: torch.tensor(0.0))
        for name in (*names, f"encoder.layer.0.{layer}")
    }
    with pytest.raises(CheckpointError, match=message):
        open_clip_bert.config(ConfigReader("text_cfg", text_cfg), tensors, "text.")


def test_another_end_token_than_the_tokenizers(tmp_path: Path) -> None:
    path = MODELS["open_clip worldwide"](tmp_path / "model").path
    edit_json(path / CONFIG, model_cfg__text_cfg__eos_id=1)
    with pytest.raises(TokenizerError, match=r"ends a text with 2 .* but the model looks for 1"):
        checkpoints.load(path)


@pytest.mark.parametrize("change", [{"pad_token": None}, {"padding_side": "left"}])
def test_padding_must_be_stated_if_it_is_attended(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = MODELS["open_clip_custom siglip 2"](tmp_path / "model").path
    edit_json(path / TOKENIZER_CONFIG, **change)
    fails(path, "pads texts" if "pad_token" in change else "padding_side is 'left'")


def test_every_value_of_a_siglip_is_read(tmp_path: Path) -> None:
    config = checkpoints.load(MODELS["open_clip_custom siglip 2"](tmp_path / "model").path).config
    assert (config.score, config.preprocess.resize) == ("sigmoid", "squash")
    assert config.preprocess.interpolation == SIGLIP_IMAGES["interpolation"]
    assert (config.preprocess.mean, config.preprocess.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (config.vision.eps, config.vision.activation) == (1e-6, "gelu_tanh")
    assert (config.text.eps, config.text.activation) == (1e-6, "gelu_tanh")
    assert (config.text.cleaning, config.text.pad_token) == ("canonicalize", 0)


# OpenAI's own files, and the named variants.


@torch.no_grad()
def test_openai_at_336_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ViT-L/14@336px: 24 patches a side."""
    monkeypatch.setattr(references, "SIZE", 336)
    monkeypatch.setattr(references, "PATCH", 14)
    reference = openai_archive(tmp_path / "clip.pt")
    model = checkpoints.load(reference.path)
    assert (model.config.vision.image_size, model.config.vision.grid) == ((336, 336), (24, 24))
    pixels = noise(model.config)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))
    photo = images.open(PHOTOS[0], exact=True)
    expected = reference.pixels(Image.fromarray(photo)).numpy()
    np.testing.assert_allclose(model.preprocess(photo)[0], expected, rtol=1e-6, atol=1e-6)


# Variants whose source is a paper, and the model of open_clip with the same numbers.
SAME = {
    "clip-vit-base-32": "ViT-B-32-quickgelu",
    "clip-vit-base-16": "ViT-B-16-quickgelu",
    "clip-vit-large-14": "ViT-L-14-quickgelu",
    "clip-vit-large-14-336": "ViT-L-14-336-quickgelu",
    "clip-rn50": "RN50-quickgelu",
    "clip-rn101": "RN101-quickgelu",
    "clip-rn50x4": "RN50x4-quickgelu",
    "clip-rn50x16": "RN50x16-quickgelu",
    "clip-rn50x64": "RN50x64-quickgelu",
}
NAMED = SAME | {
    name: variant.source.removeprefix("open_clip's ")
    for name, variant in VARIANTS.items()
    if re.fullmatch("open_clip's [^;]+", variant.source)
}


@pytest.mark.parametrize("name", NAMED)
def test_variants_are_open_clips(name: str) -> None:
    """Read as a checkpoint is, from the configuration that open_clip ships and its tensors' shapes;
    preprocessed as one of its pretrained models."""
    model_cfg = open_clip.get_model_config(NAMED[name])
    with torch.device("meta"):
        network = open_clip.model.CLIP(**model_cfg)
    tensors = {
        key: LazyTensor(tuple(value.shape), lambda: torch.tensor(0.0))
        for key, value in network.state_dict().items()
    }
    tags = open_clip.list_pretrained_tags_by_model(NAMED[name])
    keys = ("mean", "std", "interpolation", "resize_mode")
    pretrained = [open_clip.get_pretrained_cfg(NAMED[name], tag) for tag in tags] or [{}]
    padded = {
        TOKENIZER_CONFIG: {"pad_token": "[PAD]"},
        "tokenizer.json": {"added_tokens": [{"content": "[PAD]", "id": 0}]},
    }
    read = []
    for tag in pretrained:
        preprocess_cfg = {key: tag.get(key) for key in keys}
        files = {CONFIG: {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}}
        if "hf_tokenizer_name" in model_cfg["text_cfg"]:
            files |= padded
        read.append(format_of_open_clip.config(tensors, files))
    config = VARIANTS[name].config
    assert (config.vision, config.text) == (read[0].vision, read[0].text)
    assert (config.embed_dim, config.score) == (read[0].embed_dim, read[0].score)
    assert config.preprocess in [other.preprocess for other in read]


SIZES = [
    (1, 1),
    (13, 57),
    (57, 13),
    (31, 31),
    (100, 67),
    (640, 481),
    (481, 640),
    (7, 301),
    (24, 40),
]


@pytest.mark.parametrize("target", [(32, 32), (24, 40), (40, 24), (33, 47)])
@pytest.mark.parametrize(
    "preprocess_cfg",
    [
        {"resize_mode": "shortest", "interpolation": "bilinear"},
        {"resize_mode": "shortest", "interpolation": "bicubic"},
        {"resize_mode": "longest", "interpolation": "bilinear"},
        {"resize_mode": "longest", "interpolation": "bicubic", "fill_color": 127},
        {"resize_mode": "squash", "interpolation": "bilinear"},
    ],
)
def test_resize_modes_are_open_clips(
    preprocess_cfg: dict[str, Any], target: tuple[int, int]
) -> None:
    transform = image_transform_v2(PreprocessCfg(size=target, **preprocess_cfg), is_train=False)
    preprocess = Preprocess(
        format_of_open_clip._preprocess(ConfigReader(CONFIG, preprocess_cfg), target)
    )
    for height, width in SIZES:
        image = random_pixels(height, width, 3, seed=height)
        pixels, geometry = preprocess(image)
        assert geometry.size == target
        expected = transform(Image.fromarray(image))
        assert_close(torch.from_numpy(pixels), expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("preprocess_cfg", [{"resize_mode": "longest", "fill_color": 9}, {}])
def test_a_network_of_two_sides(preprocess_cfg: dict[str, Any], tmp_path: Path) -> None:
    """The size is the network's. Both loaders use the other values, at another size too."""
    path = MODELS["open_clip worldwide"](tmp_path / "model").path
    before = checkpoints.load(path)
    patch = before.config.vision.patch_size
    assert before.config.vision.image_size == (3 * patch, 3 * patch)
    size, other = (patch, 9 * patch), (2 * patch, 5 * patch)
    edit_json(
        path / CONFIG,
        model_cfg__vision_cfg__image_size=list(size),
        preprocess_cfg={**preprocess_cfg, "size": 224},
    )
    model = checkpoints.load(path)
    image = random_pixels(45, 61, 3)
    transform = image_transform_v2(PreprocessCfg(size=size, **preprocess_cfg), is_train=False)
    expected = transform(Image.fromarray(image))
    assert_close(torch.from_numpy(model.open(image, exact=True)[0]), expected, rtol=0, atol=1e-6)
    assert model.fingerprint != before.fingerprint
    heat = patchword.load(path).heatmap(image, ["a photo of a cat"])
    assert heat.values.shape == (1, 45, 61)
    assert np.isfinite(heat.values).all()  # nothing of the photo is cropped away
    larger = checkpoints.load(path, image_size=other)
    transform = image_transform_v2(PreprocessCfg(size=other, **preprocess_cfg), is_train=False)
    expected = transform(Image.fromarray(image))
    assert_close(torch.from_numpy(larger.open(image, exact=True)[0]), expected, rtol=0, atol=1e-6)
