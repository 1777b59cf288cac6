"""A model whose numbers overflow: each task gives one error that names it, and never an answer."""

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import Run
from PIL import Image
from small_models import tiny_bundle, tiny_clip, tiny_vit

import patchword
from patchword import models
from patchword.api import Model
from patchword.bundle import Bundle, make
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import CheckpointError, ImageError, PatchwordError
from patchword.inspect import features
from patchword.models.generate import GenerationOptions, Written, generate
from patchword.serve.error_responses import refusal_of
from patchword.serve.models import LoadedModel
from patchword.serve.queue import Queue
from patchword.tasks import tiled
from patchword.tasks.encoders import patch_features

RNG = np.random.default_rng(3)
SAID = "tiny makes no finite vector of"


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8)


def overflowing(bundle: Bundle, part: str) -> Model:
    """The same with weights of a part that no float32 holds the products of."""
    with torch.no_grad():
        for name, values in bundle.network.named_parameters():
            if name.startswith(part):
                values.mul_(1e30)
    return Model(**{each.name: getattr(bundle, each.name) for each in fields(bundle)})


@pytest.fixture(scope="module")
def blind() -> Model:
    """A CLIP that makes no numbers of images."""
    return overflowing(tiny_bundle(tiny_clip()), "image")


@pytest.fixture(scope="module")
def mute() -> Model:
    """A CLIP that makes no numbers of texts."""
    return overflowing(tiny_bundle(tiny_clip()), "text")


OF_IMAGES: dict[str, Callable[[Model], object]] = {
    "embed": lambda m: m.embed_images([photo()]),
    "similarity": lambda m: m.similarity([photo()], ["a cat"]),
    "classify": lambda m: m.classify([photo()], ["a cat", "a dog"]),
    "two views": lambda m: m.classify([photo()[:40]], ["a cat", "a dog"], two_views=True),
    "tiles": lambda m: m.classify([photo()], ["a cat", "a dog"], tiles=True),
    "patches": lambda m: patch_features(m, [photo()]),
    "heatmap": lambda m: m.heatmap(photo(), ["a cat"]),
    "legrad": lambda m: m.heatmap(photo(), ["a cat"], method="legrad"),
    "like": lambda m: m.heatmap(photo(), like=(3, 3)),
    "rollout": lambda m: m.heatmap(photo(), method="rollout"),
    "segment": lambda m: m.segment(photo(), ["a cat", "a dog"]),
    "locate": lambda m: m.locate(photo(), ["a cat"]),
    "boxes": lambda m: m.locate(photo(), ["a cat"], boxes=[(0, 0, 9, 9)]),
    "attention": lambda m: m.attention(photo()),
    "mutual": lambda m: patchword.inspector(m, method="mutual").inspect([photo(), photo(1)]),
    "reference": lambda m: patchword.inspector(m, [photo()], "reference").inspect([photo(1)]),
}


@pytest.mark.parametrize("task", OF_IMAGES)
def test_no_task_answers_without_numbers_of_an_image(blind: Model, task: str) -> None:
    with pytest.raises(ImageError, match=f"<array .*>: {SAID} it$"):
        OF_IMAGES[task](blind)


@pytest.mark.parametrize("method", ["memory", "subspace", "winclip"])
def test_nothing_is_learned_without_numbers(blind: Model, method: str) -> None:
    with pytest.raises(PatchwordError, match=f"{SAID} a good photo$"):
        patchword.inspector(blind, [photo(), photo(1)], method)


OF_TEXTS: dict[str, Callable[[Model], object]] = {
    "embed": lambda m: m.embed_texts("a cat"),
    "classify": lambda m: m.classify([photo()], ["a cat", "a dog"]),
    "segment": lambda m: m.segment(photo(), ["a cat", "a dog"]),
    "locate": lambda m: m.locate(photo(), ["a cat"]),
    "attention": lambda m: m.attention(text="a cat"),
    "winclip": lambda m: patchword.inspector(m, method="winclip"),
}


@pytest.mark.parametrize("task", OF_TEXTS)
def test_no_task_answers_without_numbers_of_texts(mute: Model, task: str) -> None:
    with pytest.raises(PatchwordError, match=f"{SAID} a text$") as caught:
        OF_TEXTS[task](mute)
    refusal = refusal_of(caught.value)  # it is the server's fault
    assert (refusal.status, refusal.code) == (503, "model")


def test_a_classifier_without_numbers_has_no_classes() -> None:
    config = tiny_vit("learned")
    network = models.build(config)
    models.initialise(network)
    model = overflowing(make(network, config, None, "tiny"), "")
    with pytest.raises(ImageError, match=f"{SAID} it$"):
        model.classify([photo()])


def test_a_narrow_type_is_said(blind: Model) -> None:
    network = models.build(blind.config).half()
    model = replace(blind, engine=TorchEngine(network, blind.preprocess.levels))
    assert model.no_vector() == f"{SAID} it in float16; load it in float32"


@pytest.mark.parametrize("half", [False, True])
def test_weights_that_are_no_numbers_are_named_and_not_saved(half: bool, tmp_path: Path) -> None:
    """In a narrow type too, where float32 would not help."""
    bundle = tiny_bundle(tiny_clip())
    name = "image.blocks.0.attn.proj.weight"
    with torch.no_grad():
        bundle.network.get_parameter(name)[0, 0] = torch.nan
    diverged = Model(**{each.name: getattr(bundle, each.name) for each in fields(bundle)})
    model = diverged.to("bfloat16") if half else diverged
    with pytest.raises(ImageError, match=f"{SAID} it: its weights .* first in {name}, .*diverged"):
        model.embed_images([photo()])
    with pytest.raises(CheckpointError, match=f"tiny is not saved: .* first in {name}"):
        model.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


WRITING: dict[str, Callable[[Model], object]] = {
    "beams": lambda m: m.caption([photo()]),
    "greedy": lambda m: m.caption([photo()], beams=1),
    "sampled": lambda m: m.caption([photo()], top_p=0.9),
    "answer": lambda m: m.ask(photo(), "is there a defect?", ["yes", "no"]),
    "match": lambda m: m.match([photo()], ["a red ring"]),
    "cross-attention": lambda m: m.caption_attention(photo()),
}


@pytest.fixture(scope="module")
def blip() -> Model:
    """`demo-blip` that makes no numbers of images."""
    return overflowing(patchword.load("demo-blip"), "image")


@pytest.mark.parametrize("task", WRITING)
def test_a_blip_without_numbers_writes_nothing(blip: Model, task: str) -> None:
    with pytest.raises(ImageError, match=r"demo-blip makes no finite vector of it$"):
        WRITING[task](blip)


@pytest.mark.parametrize("options", [{}, {"beams": 1}, {"top_k": 3}, {"temperature": 2.0}])
def test_texts_of_no_numbers_are_no_finite_texts(options: dict[str, float]) -> None:
    search = GenerationOptions(max_length=5, **options)

    def step(new: torch.Tensor, cache: object) -> torch.Tensor:
        return torch.full((len(new), 11), torch.nan)

    start = torch.zeros(2, 1, dtype=torch.long)
    written: Written = generate(step, [], start, 1, 2, search, [b"a", b"b"])
    assert written.log_probabilities.isnan().any(dim=1).all()


def test_one_image_that_overflows_fails_alone(demo: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(path) for path in sorted(samples("shapes"))[:2]]
    strange = RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    images = [names[0], strange, names[1]]
    expected = demo.embed_images(images)
    run = TorchEngine.run

    def broken(self: TorchEngine, *given: object) -> np.ndarray:
        rows = run(self, *given)  # type: ignore[arg-type]
        rows[0] = np.inf
        return rows

    monkeypatch.setattr(TorchEngine, "run", broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        first, *others = [row for _, row in demo.embed_each(images)]
    assert str(first) == f"{names[0]}: demo makes no finite vector of it"
    np.testing.assert_allclose(np.stack(others), expected[1:], atol=1e-6)


def samples(kind: str) -> list[Path]:
    return list((Path(patchword.__file__).parent / "assets/samples" / kind).glob("*.jpg"))


def test_a_tile_that_overflows_is_its_photos_error(
    clip: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = tmp_path / "a.png"
    Image.fromarray(photo()).save(first)
    run, calls = TorchEngine.run, []

    def broken(self: TorchEngine, *given: object) -> np.ndarray:
        calls.append(0)
        rows = run(self, *given)  # type: ignore[arg-type]
        return rows * np.nan if len(calls) == 1 else rows

    monkeypatch.setattr(TorchEngine, "run", broken)
    found = list(tiled.classify_tiled(clip, [str(first), photo(1)], ["a cat", "a dog"]))
    assert str(found[0][1]) == f"{first}: {SAID} it"
    assert not isinstance(found[1][1], ImageError)


def test_one_photo_that_overflows_is_not_judged(
    clip: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = patchword.inspector(clip, [photo(n) for n in range(4)])
    expected = inspector.inspect([photo(9)])[0].score
    tokens = features.tokens

    def broken(*given: object) -> torch.Tensor:
        found = tokens(*given).clone()  # type: ignore[arg-type]
        found[:, 0] = torch.inf
        return found

    monkeypatch.setattr(features, "tokens", broken)
    (_, bad), (_, good) = inspector.inspect_each([photo(8), photo(9)])
    assert str(bad) == f"<array 48x48x3>: {SAID} it"
    assert good.score == pytest.approx(expected)


def test_a_server_says_that_its_model_computes_no_numbers(blind: Model) -> None:
    queue = Queue("tiny", 4)
    opened = LoadedModel("tiny", blind, queue, 4, 0, {}, {})
    pixels, _ = blind.preprocess(photo())
    (refusal,) = opened._embed_images([pixels])
    queue.close(1)
    assert (refusal.status, refusal.code, str(refusal)) == (503, "model", f"{SAID} an image")


@pytest.mark.parametrize("command", ["segment", "locate", "classify", "embed"])
def test_the_command_line_names_the_photo_and_the_model(
    run: Run, blind: Model, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(photo()).save(file)
    model = blind.save(tmp_path / "broken")
    words = [] if command == "embed" else ["--text" if command == "locate" else "--labels", "a cat"]
    done = run(command, file, *words, "-m", model, "--json")
    assert (done.code, [line["image"] for line in done.records]) == (2, [str(file)])
    assert f"error: {file}: " in done.err
    assert "broken makes no finite vector of it" in done.err
