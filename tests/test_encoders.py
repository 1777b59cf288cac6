"""Towers as encoders for other networks, against transformers through the real converter."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
import transformers
from photos import CAT, FLOWER
from PIL import Image
from reference_blip import hugging_face_blip
from reference_encoders import (
    DEPTH,
    MODELS,
    TEXTS,
    VISIONS,
    old_tokenizer,
    pipeline,
    text,
    vision,
    without_tokenizer,
)
from reference_siglip import siglip
from references import (
    PATCH,
    SIZE,
    WEIGHTS,
    Reference,
    edit_json,
    fails,
    hugging_face,
    rewrite,
)
from small_models import tiny_bundle, tiny_clip, tiny_clip_resnet
from torch.testing import assert_close

from patchword import checkpoints, images, models, variants
from patchword.api import load
from patchword.bundle import Bundle, make
from patchword.config import PreprocessConfig
from patchword.errors import (
    CheckpointError,
    ImageError,
    LongTextWarning,
    TokenizerError,
    UnsupportedError,
)
from patchword.tasks import encoders
from patchword.tasks.encoders import encode_texts, patch_features, patch_features_each

Pair = tuple[Reference, Bundle]
PHOTOS = [CAT, FLOWER]
SENTENCES = [
    "a photo of a cat",
    "",
    "an astronaut riding a horse on mars, highly detailed, 8k",
    "stop! wait !!! what?!",
    "one word after the other " * 40,
]
SHORT = SENTENCES[:-1]
LAYERS = range(-DEPTH - 1, DEPTH + 1)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::patchword.errors.LongTextWarning"),
]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=TEXTS, scope="module")
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = TEXTS[request.param](tmp_path_factory.mktemp("text") / "model")
    return reference, checkpoints.load(reference.path)


@pytest.fixture(params=VISIONS, scope="module")
def seer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = VISIONS[request.param](tmp_path_factory.mktemp("vision") / "model")
    return reference, checkpoints.load(reference.path)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = pipeline(tmp_path_factory.mktemp("sdxl"))
    return reference, checkpoints.load(reference.path)


@pytest.fixture(scope="module")
def clip_vision(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = vision(tmp_path_factory.mktemp("vision") / "model")
    return reference, checkpoints.load(reference.path)


def photos(reference: Reference) -> torch.Tensor:
    opened = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
    return torch.stack([reference.pixels(photo) for photo in opened])


# Text states, as diffusion models read them.


def test_text_states_of_every_layer(reader: Pair) -> None:
    reference, model = reader
    ids = reference.ids(SENTENCES)
    theirs = reference.network(ids, output_hidden_states=True)
    for layer in LAYERS:
        ours = encode_texts(model, SENTENCES, layer, norm=False, batch_size=2)
        assert_close(torch.from_numpy(ours.ids), ids)
        assert_close(torch.from_numpy(ours.states), theirs.hidden_states[layer])
        assert_close(torch.from_numpy(ours.pooled), reference.text(ids))


def test_last_hidden_state(reader: Pair) -> None:
    reference, model = reader
    theirs = reference.network(reference.ids(SENTENCES)).last_hidden_state
    for layer, norm in ((-1, None), (-1, True), (DEPTH, None)):
        assert_close(torch.from_numpy(encode_texts(model, SENTENCES, layer, norm).states), theirs)
    raw = encode_texts(model, SENTENCES, norm=False).states
    assert np.abs(raw - theirs.numpy()).max() > 0.1
    penultimate = encode_texts(model, SENTENCES, -2).states
    assert np.abs(penultimate - theirs.numpy()).max() > 0.1


def test_penultimate_layer_with_the_final_norm(reader: Pair) -> None:
    """Stable Diffusion 2 keeps 23 of 24 layers: the same as all but the last, normed."""
    reference, model = reader
    ids = reference.ids(SENTENCES)
    theirs = getattr(reference.network, "text_model", reference.network)
    hidden = theirs(ids, output_hidden_states=True).hidden_states[-2]
    expected = theirs.final_layer_norm(hidden)
    assert_close(torch.from_numpy(encode_texts(model, SENTENCES, -2, True).states), expected)


def test_pooled_features_are_those_of_the_network(reader: Pair) -> None:
    reference, model = reader
    ids = reference.ids(SENTENCES)
    assert_close(model.network.encode_text(ids), reference.text(ids))
    unit = torch.nn.functional.normalize(reference.text(ids), dim=-1)
    assert_close(torch.from_numpy(model.embed_texts(SENTENCES)), unit)


def test_without_padding_the_states_are_the_same(sdxl: Pair) -> None:
    _, model = sdxl
    full, tight = (encode_texts(model, SHORT, -2, pad=pad) for pad in (True, False))
    length = tight.ids.shape[1]
    assert length < full.ids.shape[1] == 77
    assert_close(tight.states, full.states[:, :length])
    assert_close(tight.pooled, full.pooled)
    empty = encode_texts(model, [])
    assert (empty.ids.shape, empty.states.shape, empty.pooled.shape) == (
        (0, 77),
        (0, 77, 24),
        (0, 20),
    )


def test_the_padding_token_is_the_tokenizers_own(tmp_path: Path) -> None:
    ends, marks = (text(tmp_path / pad.strip("<|>"), pad=pad) for pad in ("<|endoftext|>", "!"))
    end, mark = (checkpoints.load(reference.path) for reference in (ends, marks))
    assert (end.config.text.pad_token, mark.config.text.pad_token) == (49407, 0)
    assert "text.pad_token" not in {**end.config.assumed, **mark.config.assumed}
    # The same weights: what pads changes the states of the padding, and nothing before it.
    one, two = (encode_texts(model, ["a cat"]) for model in (end, mark))
    assert_close(one.states[:, :4], two.states[:, :4])
    assert np.abs(one.states[:, 4:] - two.states[:, 4:]).max() > 0.1
    assert_close(one.pooled, two.pooled)


def padding(folder: Path) -> tuple[int, int]:
    """The padding token of a folder's tokenizer as transformers and as we read it."""
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    model = checkpoints.load(folder)
    assert model.tokenizer(SHORT).tolist() == theirs(SHORT, padding=True)["input_ids"]
    return theirs.pad_token_id, model.config.text.pad_token


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("stated", [{}, {"pad_token": "!"}, {"pad_token": "<|endoftext|>"}])
@pytest.mark.parametrize("mapped", [None, "!", {"content": "!"}, "<|endoftext|>"])
def test_who_says_what_pads(
    tmp_path_factory: pytest.TempPathFactory,
    old_words: Path,
    listed: bool,
    stated: dict[str, object],
    mapped: object,
) -> None:
    """special_tokens_map.json, tokenizer_config.json, and which of them transformers believes."""
    folder = tmp_path_factory.mktemp("words") / "model"
    shutil.copytree(old_words, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text("{}")
    decoder = {"49407": {"content": "<|endoftext|>", "special": True}} if listed else None
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="CLIPTokenizer",
        added_tokens_decoder=decoder,
        **stated,
    )
    edit_json(folder / "special_tokens_map.json", pad_token=mapped)
    theirs, ours = padding(folder)
    assert ours == theirs


@pytest.fixture(scope="module")
def old_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "model"
    text(folder)
    old_tokenizer(folder)
    return folder


def test_what_pads_is_assumed_where_nobody_says_it(tmp_path: Path, old_words: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(old_words, folder)
    (folder / "tokenizer_config.json").unlink()
    model = checkpoints.load(folder)
    assert model.config.text.pad_token == 49407
    assert "CLIPTokenizer default" in model.config.assumed["text.pad_token"]
    bare = without_tokenizer(folder)
    (bare / "tokenizer_config.json").write_text('{"pad_token": "!"}')
    assert "there is no vocabulary" in checkpoints.load(bare).config.assumed["text.pad_token"]
    (folder / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    fails(folder, "tokenizer_config.json says pad_token is '[PAD]'", "none of the model's ids")


def test_a_pipelines_tokenizer_lies_beside_its_encoder(
    sdxl: Pair, clip_folder: Path, tmp_path: Path
) -> None:
    reference, model = sdxl
    assert model.config.text.pad_token == 0
    bare = without_tokenizer(reference.path)
    with pytest.raises(TokenizerError, match="came without a tokenizer"):
        encode_texts(checkpoints.load(bare), ["a cat"])
    given = checkpoints.load(bare, tokenizer=reference.path.with_name("tokenizer_2"))
    assert given.config.text.pad_token == 0
    assert given.fingerprint == model.fingerprint
    other = checkpoints.load(reference.path, tokenizer=clip_folder)
    cached = tmp_path / "models--org--words"  # a folder of the hub's cache
    shutil.copytree(clip_folder, cached / "snapshots" / "1a")
    assert checkpoints.load(reference.path, tokenizer=cached).fingerprint == other.fingerprint
    assert other.config.text.pad_token == 49407
    file = checkpoints.load(reference.path, tokenizer=clip_folder / "tokenizer.json")
    assert file.fingerprint == other.fingerprint
    assert file.config == other.config


# Patch features, as language models read them.


def test_patch_features_of_every_layer(seer: Pair) -> None:
    reference, model = seer
    theirs = reference.network(photos(reference), output_hidden_states=True).hidden_states
    for layer in LAYERS:
        whole = patch_features(model, PHOTOS, layer, class_token=True, exact=True)
        assert_close(torch.from_numpy(whole), theirs[layer])
        patches = patch_features(model, PHOTOS, layer, exact=True)
        assert_close(torch.from_numpy(patches), theirs[layer][:, 1:])
    assert patches.shape == (2, (SIZE // PATCH) ** 2, 48)


def test_patch_features_with_the_final_norm(seer: Pair) -> None:
    reference, model = seer
    theirs = getattr(reference.network, "vision_model", reference.network)
    out = theirs(photos(reference), output_hidden_states=True)
    normed = theirs.post_layernorm(out.hidden_states[-1])
    ours = patch_features(model, PHOTOS, -1, class_token=True, norm=True, exact=True)
    assert_close(torch.from_numpy(ours), normed)
    assert_close(torch.from_numpy(ours[:, 0]), out.pooler_output)
    raw = patch_features(model, PHOTOS, -1, class_token=True, exact=True)
    assert np.abs(raw - ours).max() > 0.1
    before = patch_features(model, PHOTOS, -2, class_token=True, exact=True)
    assert np.abs(raw - before).max() > 0.1


def test_image_features_of_a_tower_alone(seer: Pair) -> None:
    reference, model = seer
    pixels = photos(reference)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))
    unit = torch.nn.functional.normalize(reference.image(pixels), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(PHOTOS, exact=True)), unit)


@pytest.mark.parametrize("changes", [{"hidden_act": "gelu"}, {"layer_norm_eps": 1e-2}])
@pytest.mark.parametrize("write", [text, vision])
def test_a_wrong_value_would_show(
    write: Callable[[Path], Reference], changes: dict[str, object], tmp_path: Path
) -> None:
    reference = write(tmp_path / "model")
    right = checkpoints.load(reference.path)
    edit_json(reference.path / "config.json", **changes)
    wrong = checkpoints.load(reference.path)
    if write is text:
        ours, theirs = (encode_texts(model, SHORT, -2).states for model in (wrong, right))
    else:
        ours, theirs = (patch_features(model, PHOTOS, -2) for model in (wrong, right))
    assert np.abs(ours - theirs).max() > 1e-3


def test_one_bad_image_costs_no_other(clip_vision: Pair, tmp_path: Path) -> None:
    _, model = clip_vision
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    sources = [PHOTOS[0], tmp_path / "bad.jpg", tmp_path / "none.jpg", PHOTOS[1]]
    rows = [row for _, row in patch_features_each(model, sources, batch_size=2)]
    assert [isinstance(row, ImageError) for row in rows] == [False, True, True, False]
    assert_close(np.stack([rows[0], rows[3]]), patch_features(model, PHOTOS))
    with pytest.raises(ImageError, match="bad"):
        patch_features(model, sources)
    assert patch_features(model, []).shape == (0, 16, 48)
    assert patch_features(model, [], class_token=True).shape == (0, 17, 48)


def test_images_in_their_own_shapes_have_patches_of_their_own() -> None:
    config = tiny_clip()
    vision = config.vision.__class__(
        image_size=(64, 64), width=32, depth=2, heads=2, mlp_width=64, positions="flexible",
        pool="avg", class_token=False,
    )  # fmt: skip
    preprocess = PreprocessConfig(resize="patches", max_patches=16, patch_size=16)
    config = config.__class__(vision, preprocess)
    torch.manual_seed(0)
    model = make(models.build(config), config, None, "flexible")
    shots = [np.full((64, 64, 3), 90, np.uint8), np.full((32, 96, 3), 30, np.uint8)]
    rows = [row for _, row in patch_features_each(model, shots)]
    sizes = [model.open(shot)[0].shape[1:] for shot in shots]
    assert [len(row) for row in rows] == [h // 16 * (w // 16) for h, w in sizes]
    assert len(rows[0]) != len(rows[1])
    for shot, row in zip(shots, rows, strict=True):
        ((_, alone),) = patch_features_each(model, [shot])
        assert_close(alone, row)
    with pytest.raises(UnsupportedError, match="patch_features_each"):
        patch_features(model, shots)


@pytest.mark.parametrize("write", [hugging_face, siglip])
def test_each_tower_of_two(write: Callable[[Path], Reference], tmp_path: Path) -> None:
    reference = write(tmp_path / "model")
    model, network = checkpoints.load(reference.path), reference.network
    pixels, ids = photos(reference), reference.ids(SHORT)
    eye = network.vision_model(pixels, output_hidden_states=True)
    reading = network.text_model(ids, output_hidden_states=True)
    for layer in (-3, -2, -1):
        ours = patch_features(model, PHOTOS, layer, class_token=True, exact=True)
        assert_close(torch.from_numpy(ours), eye.hidden_states[layer])
        states = encode_texts(model, SHORT, layer, norm=False, pad=False).states
        assert_close(torch.from_numpy(states), reading.hidden_states[layer])
    assert_close(
        torch.from_numpy(encode_texts(model, SHORT, pad=False).states), reading.last_hidden_state
    )
    assert_close(torch.from_numpy(encode_texts(model, SHORT).pooled), reference.text(ids))
    if write is siglip:
        last = patch_features(model, PHOTOS, -1, norm=True, exact=True)
        assert_close(torch.from_numpy(last), eye.last_hidden_state)


# What cannot be done is said.


@pytest.mark.parametrize("layer", [DEPTH + 1, -DEPTH - 2])
def test_a_layer_that_is_not_there(layer: int, sdxl: Pair, clip_vision: Pair) -> None:
    with pytest.raises(UnsupportedError, match=rf"no layer {layer}.*0 \(the embeddings\) to 3"):
        encode_texts(sdxl[1], ["a cat"], layer)
    with pytest.raises(UnsupportedError, match=rf"no layer {layer}.*-1 to -4 from the end"):
        patch_features(clip_vision[1], PHOTOS, layer)
    with pytest.raises(UnsupportedError, match="no layer"):
        encoders.anyres_features(clip_vision[1], PHOTOS[0], layer)


def test_a_tower_alone_says_what_it_lacks(sdxl: Pair, clip_vision: Pair, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="text tower only and sees no images"):
        sdxl[1].embed_images(PHOTOS)
    for task in (patch_features, encoders.anyres_features):
        with pytest.raises(UnsupportedError, match="text tower only"):
            task(sdxl[1], PHOTOS)
    with pytest.raises(UnsupportedError, match="image tower only"):
        clip_vision[1].embed_texts(["a cat"])
    with pytest.raises(UnsupportedError, match="image tower only"):
        encode_texts(clip_vision[1], ["a cat"])
    with pytest.raises(UnsupportedError, match="a ResNet has feature maps"):
        patch_features(tiny_bundle(tiny_clip_resnet()), PHOTOS)
    captions = checkpoints.load(hugging_face_blip(tmp_path / "blip").path)
    with pytest.raises(UnsupportedError, match="no text tower to read"):
        encode_texts(captions, ["a cat"])
    with pytest.raises(CheckpointError, match="image_size does not apply"):
        checkpoints.load(sdxl[0].path, image_size=384)
    one, listed = encode_texts(sdxl[1], "a cat"), encode_texts(sdxl[1], ["a cat"])
    np.testing.assert_array_equal(one.states, listed.states)


def test_a_text_beyond_the_context_is_cut_aloud(sdxl: Pair) -> None:
    with pytest.warns(LongTextWarning, match="loses 125 of 202"):
        assert encode_texts(sdxl[1], SENTENCES).ids[-1, -1] == 49407


@pytest.mark.parametrize("name", MODELS)
def test_exactly_one_format_matches(name: str, tmp_path: Path) -> None:
    model = checkpoints.load(MODELS[name](tmp_path / "model").path)
    assert model.config.source.startswith("huggingface")
    assert (model.config.vision is None) == ("text" in name)
    checkpoints.save(model, tmp_path / "own")
    again = checkpoints.load(tmp_path / "own")
    assert again.fingerprint == model.fingerprint
    if "text" in name:
        ours, theirs = (encode_texts(each, SENTENCES, -2).states for each in (again, model))
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("other", "projection"), [("text_", "visual_projection"), ("vision_", "text_projection")]
)
def test_one_tower_with_the_config_of_both(other: str, projection: str, tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "model").path
    whole = checkpoints.load(path)
    left_out = (other, "logit_scale", *{"visual_projection", "text_projection"} - {projection})

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(left_out)]:
            del tensors[name]

    rewrite(path / WEIGHTS, cut)
    alone = checkpoints.load(path)
    if other == "text_":
        assert alone.config.text is None
        actual, expected = alone.embed_images(PHOTOS), whole.embed_images(PHOTOS)
    else:
        assert alone.config.vision is None
        actual, expected = alone.embed_texts(SHORT), whole.embed_texts(SHORT)
    np.testing.assert_array_equal(actual, expected)


def test_damaged_towers_are_named(tmp_path: Path) -> None:
    path = text(tmp_path / "model").path
    edit_json(path / "config.json", num_hidden_layers=2)
    fails(path, "num_hidden_layers", "the weights have 3 layers")
    edit_json(path / "config.json", num_hidden_layers=3)
    rewrite(path / WEIGHTS, lambda tensors: tensors.pop("final_layer_norm.bias"))
    fails(path, "missing   final_layer_norm.bias")
    edit_json(path / "config.json", model_type="clip_vision_model")
    with pytest.raises(CheckpointError):
        checkpoints.load(path)


def test_the_models_own_methods(sdxl: Pair, clip_vision: Pair) -> None:
    words = load(sdxl[0].path)
    assert words.text_states(SHORT, -2).shape == (4, 77, 24)
    assert words.encode_texts(SHORT).pooled.shape == (4, 20)
    eyes = load(clip_vision[0].path)
    assert eyes.patch_features(PHOTOS, exact=True).shape == (2, 16, 48)
    assert len(eyes.tiles(PHOTOS[0])[0]) == 1 + np.prod(eyes.anyres_features(PHOTOS[0]).tiling.grid)


# Numbers that patchword states itself, against the libraries' own.


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("clip-text-large-14", "ViT-L-14"), ("clip-text-huge-14", "ViT-H-14"),
     ("clip-text-bigg-14", "ViT-bigG-14")],
)  # fmt: skip
def test_text_variants_are_open_clips(name: str, theirs: str) -> None:
    import open_clip

    stated = open_clip.get_model_config(theirs)["text_cfg"]
    config = variants.VARIANTS[name].config
    assert config.vision is None
    ours = config.text
    assert (ours.width, ours.depth, ours.heads) == (
        stated["width"], stated["layers"], stated["heads"],
    )  # fmt: skip
    assert ours.mlp_width == 4 * ours.width
    assert (ours.vocab_size, ours.context) == (stated["vocab_size"], stated["context_length"])
