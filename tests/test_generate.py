"""Text written as transformers' `generate` writes it, id by id, through the real converter."""

from collections.abc import Iterator
from pathlib import Path

import reference_blip
from reference_blip import ENC, MODELS, SEP, hugging_face_blip, noise
from references import Reference

# isort: split
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from patchword import checkpoints
from patchword.bundle import Bundle
from patchword.errors import ConfigError
from patchword.tasks.caption import caption

PROMPTS = ["", "a picture of"]
ASKED = ["what is the color of the bird in the tree?", "is it a cat?", "who"]
SEARCHES = [
    {"num_beams": 1},
    {"num_beams": 3},
    {"num_beams": 5, "max_length": 12},
    {"num_beams": 1, "min_length": 9},
    {"num_beams": 3, "min_length": 9},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 4, "length_penalty": -1.0},
    {"num_beams": 3, "early_stopping": True, "length_penalty": 0.0},
    {"num_beams": 1, "repetition_penalty": 1.5},
    {"num_beams": 3, "repetition_penalty": 1.5},
]

Pair = tuple[Reference, Bundle]


@pytest.fixture(scope="module")
def captioners(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Several, of other weights each."""
    folder = tmp_path_factory.mktemp("captioners")
    references = [hugging_face_blip(folder / f"{i}", seed=i) for i in range(6)]
    return [(reference, checkpoints.load(reference.path)) for reference in references]


@pytest.fixture
def captioner(captioners: list[Pair]) -> Pair:
    return captioners[0]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def theirs_written(ids: Tensor, prompt: int = 1) -> list[list[int]]:
    """transformers' rows of ids, each up to its end token."""
    return [cut(row, prompt) for row in ids.tolist()]


def cut(row: list[int], prompt: int) -> list[int]:
    ends = [i for i in range(prompt, len(row)) if row[i] == SEP]
    return row[: ends[0] + 1] if ends else row


def options(search: dict[str, object]) -> dict[str, object]:
    """transformers' options under our names."""
    rest = {"max_length": 20, **search}
    return {"beams": rest.pop("num_beams"), **rest}


@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_captions_id_by_id(captioners: list[Pair], prompt: str, search: dict[str, object]) -> None:
    for reference, model in captioners:
        prompts = reference.ids([prompt]).repeat(4, 1)
        expected = reference.network.generate(
            pixel_values=noise(4), input_ids=prompts, attention_mask=torch.ones_like(prompts),
            do_sample=False, **({"max_length": 20} | search),
        )  # fmt: skip
        written = model.network.caption(noise(4), prompts[0, :-1], **options(search))
        start = prompts.shape[1] - 1
        found = [cut(row, start) for row in written.ids.tolist()]
        assert found == theirs_written(expected, start)


def test_captions_vary(captioners: list[Pair]) -> None:
    """What is compared above are different texts, of different lengths."""
    texts = set()
    for reference, model in captioners:
        start = reference.ids([""])[0, :-1]
        for search in SEARCHES:
            written = model.network.caption(noise(4), start, **options(search))
            texts |= {tuple(cut(row, 1)) for row in written.ids.tolist()}
    assert len(texts) > 80
    assert len({len(text) for text in texts}) > 10


def test_pretrained_captions_id_by_id(tmp_path: Path) -> None:
    """With a decoder that shares the text tower's weights."""
    model = checkpoints.load(MODELS["lavis pretrained"](tmp_path / "model").path)
    writer = reference_blip.original_networks(None)[1]
    for beams in (1, 3):
        expected = writer.generate(pixel_values=noise(6), num_beams=beams, max_length=20)
        start = torch.tensor([0])
        written = model.network.caption(noise(6), start, beams=beams, max_length=20)
        assert [cut(r, 1) for r in written.ids.tolist()] == theirs_written(expected)


@pytest.mark.parametrize("name", ["hf_blip questions", "lavis questions"])
@pytest.mark.parametrize("search", SEARCHES[:5], ids=str)
def test_answers_id_by_id(name: str, search: dict[str, object], tmp_path: Path) -> None:
    """Questions of several lengths about several images at once, each as if alone."""
    reference = MODELS[name](tmp_path / "model")
    model = checkpoints.load(reference.path)
    pixels, ids = noise(3), reference.ids(ASKED)
    tokens = model.network.image_tokens(pixels)
    written = model.network.answer(tokens, ids.repeat(3, 1), **options(search)).ids.tolist()
    for i, row in enumerate(written):
        question = reference.ids([ASKED[i % 3]])
        if name.startswith("lavis"):
            question[:, 0] = ENC
        expected = reference.network.generate(
            input_ids=question, pixel_values=pixels[i // 3 :][:1], do_sample=False,
            **({"max_length": 20} | search),
        )  # fmt: skip
        assert cut(row, 1) == theirs_written(expected)[0]


def test_log_probabilities_are_the_networks_own(captioner: Pair) -> None:
    """Of a text read at once, whatever penalties chose it."""
    reference, model = captioner
    start = reference.ids(["a picture of"])[0, :-1]
    for search in ({"beams": 1, "repetition_penalty": 2.0}, {"beams": 3, "min_length": 9}):
        written = model.network.caption(noise(), start, **search)
        for row, said, pixels in zip(written.ids, written.log_probabilities, noise(), strict=True):
            ids = torch.tensor([cut(row.tolist(), len(start))])
            logits = model.network(pixels[None], ids[:, :-1]).words.log_softmax(dim=-1)
            likely = logits.gather(2, ids[:, 1:, None])[0, :, 0]
            assert_close(said[len(start) : ids.shape[1]], likely[len(start) - 1 :])
            assert said[: len(start)].abs().max() == 0


def test_images_keys_are_computed_once(captioner: Pair) -> None:
    """Whatever the beams: cross-attention keeps one row an image, self-attention one a text."""
    _, model = captioner
    network, pixels = model.network, noise()
    caches = []
    make = network.empty_cache
    network.empty_cache = lambda: caches.append(make()) or caches[-1]
    try:
        network.caption(pixels, torch.tensor([0]), beams=5, max_length=6)
    finally:
        del network.empty_cache
    for own, other in caches[0]:
        assert len(own.keys) == 15
        assert len(other.keys) == 3


def test_searches_that_cannot_be(captioner: Pair) -> None:
    model = captioner[1]
    for said, search in (
        ("leaves no room", {"prompt": "a photo of a cat in a tree", "max_length": 6}),
        ("beams is 0", {"beams": 0}),
        ("above 48 places", {"max_length": 49}),
        ("not above 0", {"repetition_penalty": 0.0}),
    ):
        with pytest.raises(ConfigError, match=said):
            caption(model, [Image.new("RGB", (40, 30))], **search)
