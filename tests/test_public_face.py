"""What every method of the public face does with what it is given: one image, one text, options."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import patchword
from patchword import receipts
from patchword.api import Model
from patchword.bundle import make
from patchword.errors import (
    CheckpointError,
    ImageError,
    IndexStoreError,
    LongTextWarning,
    UnsupportedError,
)
from patchword.fingerprint import checksum, described, renewed
from patchword.models import build
from patchword.tasks import label_cache
from patchword.tasks.label_cache import label_features, state
from patchword.text.tokenizer import Tokenizer
from patchword.where import heatmap

SCORES: tuple[Literal["softmax", "sigmoid"], ...] = ("softmax", "sigmoid")
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
RING = Path(patchword.__file__).parent / "assets" / "samples" / "shapes" / "red-ring.jpg"
PUBLIC = [
    name
    for name, member in inspect.getmembers(Model, inspect.isfunction)
    if not name.startswith("_")
    and name not in ("open", "reader", "run_each", "tensor", "embed_rows")
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path))
    return tmp_path


def test_no_method_takes_options_that_it_does_not_name() -> None:
    for function in (patchword.load, *(getattr(Model, name) for name in PUBLIC)):
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, function


@pytest.mark.parametrize("name", PUBLIC)
def test_a_misspelt_option_is_refused_also_for_no_images(demo: Model, name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{name} has no option nonsense; it has "):
        getattr(demo, name)([], nonsense=3)


def test_the_nearest_option_is_named(demo: Model) -> None:
    with pytest.raises(UnsupportedError, match=r"caption has no option beems \(do you mean beams"):
        demo.caption([], beems=3)  # type: ignore[call-arg]
    with pytest.raises(UnsupportedError, match=r"do you mean image_size\?"):
        patchword.load("demo", imagesize=64)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "one",
    [
        lambda path: PIXELS,
        lambda path: PIXELS[..., 0],
        lambda path: str(path),
        lambda path: path,
        lambda path: path.read_bytes(),
        lambda path: Image.open(path),
    ],
    ids=["array", "grey array", "str", "path", "bytes", "PIL"],
)
def test_one_image_is_one_image(demo: Model, one: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(PIXELS).save(path)
    image = one(path)
    expected = demo.embed_images([image])
    assert len(expected) == 1
    np.testing.assert_array_equal(demo.embed_images(image), expected)
    assert demo.similarity(image, "a hat").shape == (1, 1)
    assert len(demo.classify(image, ["a", "b"])) == 1
    assert len(demo.patch_features(image)) == 1


def test_more_axes_count_images(demo: Model) -> None:
    assert demo.embed_images(np.stack([PIXELS, PIXELS])).shape[0] == 2
    assert demo.embed_images([]).shape == (0, demo.dim)


def test_what_is_no_collection_of_images(demo: Model) -> None:
    with pytest.raises(UnsupportedError, match="images is None"):
        demo.embed_images(None)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no such file"):
        demo.embed_images("hat.jpg")


@pytest.mark.parametrize("size", [0, -1, "8", 2.0, True])
def test_batch_sizes_that_cannot_be(demo: Model, size: object) -> None:
    with pytest.raises(UnsupportedError, match=r"batch_size is .*whole number of 1 or more"):
        demo.embed_images([PIXELS], batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="batch_size is"):
        demo.embed_texts(["a hat"], batch_size=size)  # type: ignore[arg-type]


def test_what_is_no_text(demo: Model) -> None:
    with pytest.raises(UnsupportedError, match="text 2 of 2 is None"):
        demo.embed_texts(["a hat", None])  # type: ignore[list-item]
    with pytest.raises(UnsupportedError, match="different words"):
        demo.classify(PIXELS, ["a hat", ""])
    with pytest.raises(UnsupportedError, match="different words"):
        demo.classify(PIXELS, ["a hat", "a  hat "])
    with pytest.raises(UnsupportedError, match="reject is 2"):
        demo.classify(PIXELS, ["a hat"], reject=2)


@pytest.mark.parametrize(("layer", "head"), [(99, None), (-99, None), (0, 99)])
def test_layers_and_heads_that_are_not_there(demo: Model, layer: int, head: int | None) -> None:
    with pytest.raises(UnsupportedError, match=r"no (layer|head) "):
        demo.attention(PIXELS, layer, head)


@pytest.mark.parametrize("texts", ["", "  ", ["a hat", ""], []])
def test_a_heatmap_of_nothing(demo: Model, texts: str | list[str]) -> None:
    with pytest.raises(UnsupportedError, match=r"at least one text|has no heatmap"):
        demo.heatmap(PIXELS, texts)


def test_a_head_of_the_rollout(demo: Model) -> None:
    with pytest.raises(UnsupportedError, match="leave out head or rollout"):
        demo.attention(PIXELS, head=0, rollout=True)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [("a {} or a {}", "a cat or a cat"), ("a {} {x} {{}", "a cat {x} {cat")],
)
def test_braces_of_templates(demo: Model, cache: Path, template: str, sentence: str) -> None:
    """Two places are of the same label, and other braces stay as they are."""
    np.testing.assert_allclose(
        label_features(demo, ["cat"], [template]), demo.embed_texts([sentence]), atol=1e-6
    )


def test_a_fingerprint_is_of_all_that_changes_vectors_and_of_nothing_else(demo: Model) -> None:
    network, config = demo.network, demo.config

    def changed(**changes: object) -> str:
        return make(
            network, dataclasses.replace(config, **changes), demo.tokenizer, "x"
        ).fingerprint

    assert changed() == demo.fingerprint
    assert changed(source="elsewhere", assumed={"eps": "a guess"}) == demo.fingerprint
    text = dataclasses.replace(config.text, activation="gelu_tanh")
    preprocess = dataclasses.replace(config.preprocess, interpolation="bilinear")
    assert len({demo.fingerprint, changed(text=text), changed(preprocess=preprocess)}) == 3
    assert patchword.load("demo", image_size=64).fingerprint != demo.fingerprint
    fresh = make(build(config), config, demo.tokenizer, "x")
    assert fresh.fingerprint not in (demo.fingerprint, changed(text=text))
    classes = dataclasses.replace(
        config, text=None, embed_dim=0, dense_head=None, classes=3, score="softmax"
    )
    each = [described(dataclasses.replace(classes, score=kind), None).digest() for kind in SCORES]
    assert each[0] == each[1]  # an index of before classes had sigmoids stays


def test_long_labels_are_told_also_when_their_vectors_are_kept(demo: Model, cache: Path) -> None:
    for _ in range(2):
        with pytest.warns(LongTextWarning, match="1 of 2 texts exceeds"):
            demo.classify(PIXELS, ["hat " * 200, "shoe"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", LongTextWarning)
        demo.classify(PIXELS, ["hat", "shoe"])


def test_kept_labels_are_pruned_and_never_damaged(
    demo: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_cache, "MAX_FILES", 3)
    for number in range(5):
        expected = label_features(demo, [f"label {number}", "other"], ["a {}"])
    files = list(cache.rglob("*.npy"))
    assert len(files) == 3
    assert list(cache.rglob("*.part")) == []
    for damage in (b"PK\x03\x04garbage", b"", b"half a fil"):
        for file in files:
            file.write_bytes(damage)
        np.testing.assert_array_equal(
            label_features(demo, ["label 4", "other"], ["a {}"]), expected
        )
    for file in cache.rglob("*.npy"):
        np.save(file, np.zeros((1, 3), np.float32))  # whole, but not of these labels
    np.testing.assert_array_equal(label_features(demo, ["label 4", "other"], ["a {}"]), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.data.add_(0.5),
        lambda weight: weight.data.copy_(weight.data.flip(0)),  # the sums of columns stay
        lambda weight: weight.data.view(-1)[7:8].add_(9.0),
        lambda weight: weight.data.view(-1).numpy().__setitem__(7, 9.0),
    ],
)
def test_labels_are_read_by_the_weights_as_they_are_now(
    change: Callable[[torch.nn.Parameter], object], cache: Path
) -> None:
    asked = ["red circle"], ["a {}"]
    whole, edited = patchword.load("demo"), patchword.load("demo")
    before = label_features(whole, *asked)
    change(edited.network.text.blocks[0].mlp.fc1.weight)
    after = label_features(edited, *asked)
    np.testing.assert_allclose(after, edited.embed_texts("a red circle"), atol=1e-6)
    assert np.abs(after - before).max() > 1e-6
    edited.heatmap(PIXELS, ["red circle"])  # reads the text of the background once
    np.testing.assert_array_equal(label_features(edited, *asked), after)
    others = ["blue square"], ["a {}"]  # what the changed one keeps is not the unchanged one's
    label_features(edited, *others)
    expected = whole.embed_texts("a blue square")
    np.testing.assert_allclose(label_features(whole, *others), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
def test_a_checksum_sees_each_number_of_any_weights(dtype: torch.dtype) -> None:
    whole = torch.arange(97).to(dtype)
    for shape in ((), (3,), (2, 3), (4, 8), (2, 3, 5)):
        for first in (0, 1):  # where it begins in its memory
            count = int(np.prod(shape))
            module = torch.nn.Module()
            module.register_buffer("weight", whole[first : first + count].view(shape))
            before = checksum(module)
            for place in range(count):
                whole[first + place] += 1
                assert checksum(module) != before
                whole[first + place] -= 1
            assert checksum(module) == before
    module.register_buffer("weight", whole[:0])
    assert checksum(module) != before


def test_an_index_and_an_export_know_that_weights_were_changed(cache: Path) -> None:
    model = patchword.load("demo", exact=True)
    known = model.fingerprint
    assert model.network is model.network
    assert renewed(model) is model
    model.network.image.blocks[0].mlp.fc1.weight.data.add_(0.5)
    now = renewed(model).fingerprint
    assert now == patchword.load(model.save(cache / "saved"), exact=True).fingerprint != known
    index = patchword.open_index(cache / "index")
    index.put(["a.jpg"], model.embed_images(PIXELS), model=model)
    assert index.fingerprint == now
    assert index.search(image=PIXELS, model=model)  # whose fingerprint is still that of before
    fitted = patchword.inspector(model, [PIXELS, PIXELS[::-1]]).save(cache / "fitted")
    assert receipts.make(model)["fingerprint"] == now
    patchword.inspector(model, fitted=fitted)
    whole = patchword.load("demo", exact=True)
    with pytest.raises(IndexStoreError, match="cannot be compared"):
        index.add([], whole)
    with pytest.raises(IndexStoreError, match="cannot be compared"):
        index.search("a wafer", model=whole)
    with pytest.raises(CheckpointError, match="was fitted with demo"):
        patchword.inspector(whole, fitted=fitted)


def test_a_text_of_heatmaps_is_read_by_the_weights_as_they_are_now(cache: Path) -> None:
    model = patchword.load("demo")
    before = heatmap._text_vector(model, "a red circle")
    with torch.no_grad():
        model.network.text.head.weight.data.mul_(torch.rand_like(model.network.text.head.weight))
    after = heatmap._text_vector(model, "a red circle")
    np.testing.assert_allclose(after, model.embed_texts("a red circle"), atol=1e-6)
    assert (after - before).abs().max() > 1e-3


def test_weights_are_hashed_again_for_those_alone_who_took_the_network(cache: Path) -> None:
    """A hash of all weights at each answer would cost more than the answer."""
    model = patchword.load("demo-blip")
    model.heatmap(PIXELS, ["red circle"])
    model.match(PIXELS, ["a red circle"])
    model.ask(PIXELS, "is there a scratch?")
    model.attention(PIXELS)
    assert state(model) == ""
    assert model.network is model.own_network
    assert state(model) != ""


def test_a_long_text_is_cut_in_a_number_of_steps_that_grows_with_its_length(
    demo: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = demo.reader()
    counted: list[int] = []
    count = Tokenizer.count

    def noted(self: Tokenizer, text: str) -> int:
        counted.append(len(text))
        return count(self, text)

    monkeypatch.setattr(Tokenizer, "count", noted)
    work = []
    for words in (500, 5000):
        counted.clear()
        text = "word " * words
        assert "".join(tokenizer.chunks(text)) == text
        work.append(sum(counted))
    assert work[1] < 12 * work[0]


def test_images_of_folders_globs_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.png", "photos/deep/a.png", "c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(name)
    Path("photos/notes.txt").write_text("no image")
    Path("list.txt").write_text("photos/*.png\nc.png\n")
    inside = ["photos/b.png", "photos/deep/a.png"]
    assert patchword.find_images("photos") == inside
    assert patchword.find_images(["photos/**/*.png", Path("c.png")]) == [*inside, "c.png"]
    assert patchword.find_images("@list.txt") == ["photos/b.png", "c.png"]
    model = patchword.load("demo")
    for several in ("photos", "photos/*.png", "@list.txt"):
        with pytest.raises(patchword.ImageError, match=r"patchword\.find_images lists them"):
            model.embed_images(several)
    with pytest.raises(patchword.ImageError, match=r"gone\*\.png: no such file"):
        patchword.find_images("gone*.png")
    Path("empty").mkdir()
    with pytest.raises(patchword.UnsupportedError, match="no images in empty"):
        patchword.find_images("empty")


def test_arguments_that_are_missing_or_too_many() -> None:
    model = patchword.load("demo")
    use = r'index = open_index\(path\); index\.add\(photos, model\); index\.search\("words"\)'
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: patchword.open_index("a", model), f"takes path and no more .*: {use}"),  # type: ignore[call-arg]
        (lambda: patchword.load(), "load needs source"),  # type: ignore[call-arg]
        (lambda: model.classify("a.png", ["a"], images="b.png"), "is given images twice"),  # type: ignore[misc]
    ]
    for call, said in calls:
        with pytest.raises(patchword.UnsupportedError, match=said):
            call()


def test_labels_that_the_model_reads_alike_are_told(demo: Model) -> None:
    with pytest.warns(UserWarning, match="'Red Ring' and 'red ring' as the same"):
        demo.classify(PIXELS, ["Red Ring", "hat", "red ring"])
    with pytest.warns(UserWarning, match="as the same"):
        demo.segment(PIXELS, ["hat", "HAT"])
    with pytest.raises(UnsupportedError, match="twice there: 'a hat'"):
        demo.classify(PIXELS, ["a hat", "dress", "a hat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        demo.classify(Image.open(RING), ["red ring", "wafer"])
