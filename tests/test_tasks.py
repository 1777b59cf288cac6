"""The tasks against their formulas, on tiny random models."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from photos import CAT
from PIL import Image
from small_models import tiny_bundle, tiny_clip, tiny_clip_resnet, tiny_hybrid
from torch.testing import assert_close

from patchword import checkpoints, images, models
from patchword.bundle import Bundle, make
from patchword.config import ModelConfig, PreprocessConfig, ViTConfig
from patchword.errors import CheckpointError, ImageError, UnsupportedError
from patchword.tasks.attention import attention
from patchword.tasks.attention_layers import rolled
from patchword.tasks.classify import NONE, classify, classify_each
from patchword.text.templates import IMAGENET
from patchword.where.dense import EDITS, dense
from patchword.where.heatmap import heatmap

PHOTO = CAT
LABELS = ["cat", "dog", "wafer"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=[tiny_clip, tiny_clip_resnet, tiny_hybrid], scope="module")
def model(request: pytest.FixtureRequest) -> Bundle:
    return tiny_bundle(request.param())


@pytest.fixture(scope="module")
def classifier() -> Bundle:
    torch.manual_seed(0)
    vision = ViTConfig(image_size=(32, 32), width=32, depth=2, heads=2, mlp_width=64)
    config = ModelConfig(
        vision, PreprocessConfig((32, 32), resize_to=32), classes=3, labels=("x", "y", "z")
    )
    return make(models.build(config), config, None, "tiny-vit")


def photos(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (count, 50, 60, 3), dtype=np.uint8))


def test_embedding_keeps_order_and_unit_length(clip: Bundle) -> None:
    texts = ["a cat", "a photo of a wafer with a very long caption", "", "dog"]
    vectors = clip.embed_texts(texts, batch_size=2)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        assert_allclose(clip.embed_texts([text])[0], vector, atol=1e-6)
    shots = photos(7)
    together = clip.embed_images(shots, batch_size=3)
    for shot, vector in zip(shots, together, strict=True):
        assert_allclose(clip.embed_images([shot])[0], vector, atol=1e-6)
    assert clip.embed_images([]).shape == (0, 24)
    assert clip.embed_texts([]).shape == (0, 24)


def test_one_bad_image_costs_no_other(clip: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    shots = [*photos(3), tmp_path / "bad.jpg", tmp_path / "none.jpg", *photos(2)]
    rows = [row for _, row in clip.embed_each(shots, batch_size=2)]
    assert [isinstance(row, ImageError) for row in rows] == [False] * 3 + [True] * 2 + [False] * 2
    assert_allclose(rows[0], rows[5], atol=1e-6)
    with pytest.raises(ImageError, match="bad"):
        clip.embed_images(shots)
    scores = [scores for _, scores in classify_each(clip, shots, LABELS)]
    assert isinstance(scores[3], ImageError)
    assert len(scores[6]) == 3


def test_probabilities_are_the_softmax_of_scaled_cosines(clip: Bundle) -> None:
    templates = ["a photo of a {}", "the {}"]
    sentences = [t.format(label) for label in LABELS for t in templates]
    words = torch.from_numpy(clip.embed_texts(sentences)).double().view(3, 2, -1).mean(1)
    image = torch.from_numpy(clip.embed_images(photos(1))).double()
    logits = clip.scale * F.normalize(words, dim=-1) @ image[0]
    expected = dict(zip(LABELS, logits.softmax(0).tolist(), strict=True))
    (scores,) = classify(clip, photos(1), LABELS, templates)
    assert {s.label: s.probability for s in scores} == pytest.approx(expected, rel=1e-4)
    assert sorted(scores, key=lambda s: -s.probability) == scores


def test_multi_label_judges_each_against_no_label(clip: Bundle) -> None:
    image = clip.embed_images(photos(1))[0]
    neutral = clip.embed_texts(["a photo of a"])[0]
    (scores,) = classify(clip, photos(1), LABELS, multi_label=True)
    for score in scores:
        pair = np.stack([clip.embed_texts([f"a photo of a {score.label}"])[0], neutral])
        expected = torch.from_numpy(clip.scale * pair @ image).double().softmax(0)[0]
        assert score.probability == pytest.approx(float(expected), rel=1e-4)
    (alone,) = classify(clip, photos(1), [scores[0].label], multi_label=True)
    assert alone[0].probability == pytest.approx(scores[0].probability, rel=1e-5)


def test_two_views_are_the_crop_and_the_whole(clip: Bundle, tmp_path: Path) -> None:
    wide = photos(1)[0][:20]  # 20 x 60
    both = clip.embed_images([wide]) + clip.embed_images([wide], squash=True)
    image = F.normalize(torch.from_numpy(both[0]).double(), dim=0)
    words = torch.from_numpy(clip.embed_texts([f"a photo of a {label}" for label in LABELS]))
    expected = (clip.scale * words.double() @ image).softmax(0).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of it is unseen
        (scores,) = classify(clip, wide, LABELS, two_views=True)
        (_, failed), (_, second) = classify_each(
            clip, [tmp_path / "none.png", wide], LABELS, two_views=True
        )
    assert {s.label: s.probability for s in scores} == pytest.approx(
        dict(zip(LABELS, expected, strict=True)), rel=1e-4
    )
    assert isinstance(failed, ImageError)
    assert second == scores
    with pytest.raises(UnsupportedError, match="the whole of each image already"):
        classify(clip.opening(squash=True), wide, LABELS, two_views=True)


def test_reject_says_none_of_these(clip: Bundle) -> None:
    """Of a softmax over the labels and a sentence with none."""
    image = clip.embed_images(photos(1))[0].astype(np.float64)
    texts = clip.embed_texts([f"a photo of a {label}".rstrip() for label in [*LABELS, ""]])
    logits = torch.from_numpy(clip.scale * texts.astype(np.float64) @ image)
    expected = sorted(logits.softmax(0)[:-1].tolist(), reverse=True)
    best = expected[0]
    (kept,) = classify(clip, photos(1), LABELS, reject=best - 0.01)
    (rejected,) = classify(clip, photos(1), LABELS, reject=best + 0.01)
    assert [score.probability for score in kept] == pytest.approx(expected, rel=1e-4)
    assert rejected[0].label == NONE
    assert rejected[0].probability == pytest.approx(1 - best, rel=1e-4)
    assert rejected[1:] == kept


def test_unlikely_classes_by_themselves(classifier: Bundle) -> None:
    """Of a classifier for several classes at a time; logits of -500 overflow nothing."""
    config = replace(classifier.config, score="sigmoid")
    network = models.build(config)
    head = dict(network.named_parameters())
    with torch.no_grad():
        head["image.head.weight"].zero_()
        head["image.head.bias"].copy_(torch.tensor([-500.0, 0, 500]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        (scores,) = classify(make(network, config, None, "cold"), photos(1))
    assert [(s.label, s.probability) for s in scores] == [("z", 1.0), ("y", 0.5), ("x", 0.0)]


def test_labels_are_kept_on_disk_by_fingerprint(
    clip: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = classify(clip, photos(1), LABELS, IMAGENET)
    (file,) = cache.rglob("*.npy")
    assert file.parent.name == clip.fingerprint
    monkeypatch.setattr(Bundle, "embed_rows", None)
    assert classify(clip, photos(1), LABELS, IMAGENET) == first
    monkeypatch.undo()
    monkeypatch.setenv("PATCHWORD_CACHE", str(cache))
    file.write_bytes(b"half a fil")
    assert classify(clip, photos(1), LABELS, IMAGENET) == first


def test_eighty_templates() -> None:
    assert len(set(IMAGENET)) == 80
    assert all(template.count("{}") == 1 for template in IMAGENET)


def test_a_classifier_uses_its_own_labels(classifier: Bundle) -> None:
    (scores,) = classify(classifier, photos(1))
    pixels = torch.from_numpy(classifier.open(photos(1)[0])[0])[None]
    expected = classifier.network(pixels).detach()[0].softmax(0)
    assert {s.label: s.probability for s in scores} == pytest.approx(
        dict(zip("xyz", expected.tolist(), strict=True)), rel=1e-4
    )


@pytest.mark.parametrize(
    "given",
    [{"reject": 0.0}, {"multi_label": True}, {"templates": "a {}"}, {"two_views": True}],
)
def test_what_is_of_labels_is_refused_without_them(classifier: Bundle, given: dict) -> None:
    (name,) = given
    with pytest.raises(UnsupportedError, match=f"{name} can only be given with labels"):
        classify(classifier, photos(1), **given)


@pytest.mark.parametrize("bad", [[], ["a", "a"], "cat"])
def test_bad_labels(clip: Bundle, bad: list[str]) -> None:
    with pytest.raises(UnsupportedError, match="labels must be"):
        classify(clip, photos(1), bad)


def test_what_a_model_cannot_do_is_said(clip: Bundle, classifier: Bundle) -> None:
    with pytest.raises(UnsupportedError, match="no classes of its own"):
        classify(clip, photos(1))
    with pytest.raises(UnsupportedError, match=r'patchword\.load\("demo"\)'):
        classify(classifier, photos(1), LABELS)
    with pytest.raises(UnsupportedError, match="where the label goes"):
        classify(clip, photos(1), LABELS, "a photo")
    with pytest.raises(UnsupportedError, match="there are cosine, maskclip, maskclip-paper"):
        heatmap(clip, PHOTO, ["a cat"], "magic")
    with pytest.raises(UnsupportedError, match="layers 0 to 1"):
        attention(clip, PHOTO, layer=2)
    with pytest.raises(UnsupportedError, match="the layer has 0 to 1"):
        attention(clip, PHOTO, head=2)


ANY = [  # a ResNet has them too, and they have cosines
    name
    for name, edit in EDITS.items()
    if edit.one_layer and edit.positions != "none" and not edit.refined
]


@pytest.mark.parametrize("method", ANY)
def test_heatmap_lies_in_the_photos_own_pixels(model: Bundle, method: str) -> None:
    result = heatmap(model, PHOTO, ["a cat", "a dog"], method)
    height, width = images.open(PHOTO, exact=True).shape[:2]
    assert result.values.shape == (2, height, width)
    assert result.method == method
    assert np.abs(result.values).max() <= 1  # nor NaN: the photo is covered whole


def patches_of(model: Bundle, photo: Path, method: str) -> torch.Tensor:
    pixels = model.tensor(model.open(photo, exact=True)[0])
    return dense(model, pixels[None], EDITS[method])[0]


def test_cosine_heatmap_is_each_patch_where_the_pooled_one_goes(clip: Bundle) -> None:
    pixels = torch.from_numpy(clip.open(PHOTO, exact=True)[0])[None]
    tower = clip.network.image
    with torch.no_grad():
        x, _ = tower.embed(pixels)
        for block in tower.blocks:
            x = block(x)
        expected = F.normalize(tower.head(tower.norm(x[0, 1:])), dim=-1)
    assert_close(patches_of(clip, PHOTO, "cosine"), expected)


def test_value_methods_by_hand(clip: Bundle) -> None:
    pixels = torch.from_numpy(clip.open(PHOTO, exact=True)[0])[None]
    tower = clip.network.image
    block = tower.blocks[-1]
    with torch.no_grad():
        x = tower.blocks[0](tower.embed(pixels)[0])
        v = block.attn.qkv(block.norm1(x))[..., 64:]  # (1, N, 32), two heads of 16
        mixed = []
        for head in v[0].split(16, dim=-1):
            mixed.append((head @ head.T / 4).softmax(-1) @ head)
        value = tower.head(tower.norm(block.attn.proj(torch.cat(mixed, -1))))[1:]
        mask = tower.head(tower.norm(block.attn.proj(v)))[0, 1:]
    assert_close(patches_of(clip, PHOTO, "value"), F.normalize(value, dim=-1))
    assert_close(patches_of(clip, PHOTO, "maskclip-paper"), F.normalize(mask, dim=-1))


def test_attention_maps(model: Bundle) -> None:
    result = attention(model, PHOTO)
    assert_allclose(result.weights.sum(-1), 1, rtol=1e-5)
    assert result.titles[0] == "mean"
    assert len(result.maps) == len(result.weights) + 1
    assert_allclose(result.maps[0], result.maps[1:].mean(0), rtol=1e-4)
    one = attention(model, PHOTO, head=1)
    assert_allclose(one.maps[0], result.maps[2])


@pytest.mark.parametrize("rollout", [False, True])
def test_half_precision_models_draw_too(tmp_path: Path, clip: Bundle, rollout: bool) -> None:
    checkpoints.save(clip, tmp_path / "model")
    half = checkpoints.load(tmp_path / "model", dtype=torch.bfloat16)
    ours, full = (attention(m, PHOTO, rollout=rollout).maps for m in (half, clip))
    assert_allclose(ours, full, atol=2**-7)  # bfloat16 has 8 bits
    ours, full = (heatmap(m, PHOTO, ["a cat"]).values for m in (half, clip))
    assert_allclose(ours, full, atol=2**-5)  # and rounds some ten times on the way


def test_rollout_is_the_product_of_the_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = list(torch.rand(3, 2, 5, 5, generator=generator, dtype=torch.float64).softmax(-1))
    expected = np.eye(5)
    for weights in layers:
        mixed = 0.5 * weights.mean(0).numpy() + 0.5 * np.eye(5)
        expected = mixed / mixed.sum(1, keepdims=True) @ expected
    assert_allclose(rolled(layers), expected, rtol=1e-12)


def test_pictures_are_written(model: Bundle, tmp_path: Path) -> None:
    heatmap(model, PHOTO, ["a cat"]).save(tmp_path / "heat.png")
    attention(model, PHOTO, rollout=True).save(tmp_path / "attention.jpg")
    for name in ("heat.png", "attention.jpg"):
        assert min(Image.open(tmp_path / name).size) > 200


@pytest.mark.parametrize("size", [384, (224, 448)])
def test_a_checkpoint_looks_at_another_size(clip: Bundle, tmp_path: Path, size: object) -> None:
    checkpoints.save(clip, tmp_path / "model")
    sides = (384, 384) if size == 384 else (224, 448)
    patch = clip.config.vision.patch_size
    model = checkpoints.load(tmp_path / "model", image_size=size)
    pixels, _ = model.open(PHOTO, exact=True)
    assert pixels.shape == (3, *sides)
    with torch.no_grad():
        expected = F.normalize(clip.network.encode_image(torch.from_numpy(pixels)[None]), dim=-1)
    assert_close(torch.from_numpy(model.embed_images([PHOTO], exact=True)), expected)
    assert len(patches_of(model, PHOTO, "value")) == sides[0] * sides[1] // patch**2
    assert model.fingerprint != clip.fingerprint
    source = images.open(PHOTO).shape[:2]
    assert heatmap(model, PHOTO, ["a cat"]).values.shape[1:] == source
    checkpoints.save(model, tmp_path / "again")
    assert checkpoints.load(tmp_path / "again").preprocess.config.size == sides


def test_a_size_that_patches_do_not_divide(clip: Bundle, tmp_path: Path) -> None:
    checkpoints.save(clip, tmp_path / "model")
    with pytest.raises(CheckpointError, match="patches are 16 px"):
        checkpoints.load(tmp_path / "model", image_size=100)
