"""Text written as transformers' `generate` writes it, id by id, through the real converter."""

from collections.abc import Iterator
from pathlib import Path

import reference_blip
from reference_blip import ENC, MODELS, SEP, hugging_face_blip, noise
from references import Reference

# isort: split
import math

import pytest
import torch
from PIL import Image
from scipy.stats import chi2
from torch import Tensor
from torch.testing import assert_close
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from patchword import checkpoints
from patchword.bundle import Bundle
from patchword.errors import ConfigError
from patchword.models.generate import GenerationOptions, distribution, generate
from patchword.tasks.caption import caption

pytestmark = pytest.mark.slow

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
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 5, "num_return_sequences": 4, "length_penalty": -1.0, "min_length": 5},
    {"num_beams": 4, "num_return_sequences": 2, "repetition_penalty": 1.3, "early_stopping": True},
]

Pair = tuple[Reference, Bundle]


@pytest.fixture(scope="module")
def captioners(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Several, of other weights each: of six, those that write the most different texts."""
    folder = tmp_path_factory.mktemp("captioners")
    references = [hugging_face_blip(folder / f"{i}", seed=i) for i in (0, 3, 4)]
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
    count = rest.pop("num_return_sequences", 1)
    return {"beams": rest.pop("num_beams"), "count": count, **rest}


@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_captions_id_by_id(captioners: list[Pair], prompt: str, search: dict[str, object]) -> None:
    for reference, model in captioners:
        prompts = reference.ids([prompt]).repeat(4, 1)
        expected = reference.network.generate(
            pixel_values=noise(4), input_ids=prompts, attention_mask=torch.ones_like(prompts),
            do_sample=False, **({"max_length": 20} | search),
        )  # fmt: skip
        written = model.network.caption(
            noise(4), prompts[0, :-1], GenerationOptions(**options(search))
        )
        start = prompts.shape[1] - 1
        found = [cut(row, start) for row in written.ids.tolist()]
        assert found == theirs_written(expected, start)


def test_captions_vary(captioners: list[Pair]) -> None:
    """What is compared above are different texts, of different lengths."""
    texts = set()
    for reference, model in captioners:
        start = reference.ids([""])[0, :-1]
        for search in SEARCHES:
            written = model.network.caption(noise(4), start, GenerationOptions(**options(search)))
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
        written = model.network.caption(
            noise(6), start, GenerationOptions(beams=beams, max_length=20)
        )
        assert [cut(r, 1) for r in written.ids.tolist()] == theirs_written(expected)


@pytest.fixture(scope="module", params=["hf_blip questions", "lavis questions"])
def answerer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("answerer") / "model")
    return reference, checkpoints.load(reference.path)


@pytest.mark.parametrize("search", SEARCHES[:5], ids=str)
def test_answers_id_by_id(answerer: Pair, search: dict[str, object]) -> None:
    """Questions of several lengths about several images at once, each as if alone."""
    reference, model = answerer
    pixels, ids = noise(3), reference.ids(ASKED)
    tokens = model.network.image_tokens(pixels)
    written = model.network.answer(
        tokens, ids.repeat(3, 1), GenerationOptions(**options(search))
    ).ids.tolist()
    for i, row in enumerate(written):
        question = reference.ids([ASKED[i % 3]])
        if model.config.source.startswith("lavis"):
            question[:, 0] = ENC
        expected = reference.network.generate(
            input_ids=question, pixel_values=pixels[i // 3 :][:1], do_sample=False,
            **({"max_length": 20} | search),
        )  # fmt: skip
        assert cut(row, 1) == theirs_written(expected)[0]


@pytest.mark.parametrize(
    "search",
    [
        {"beams": 1, "repetition_penalty": 2.0},
        {"beams": 3, "min_length": 9},
        {"beams": 3, "count": 3},
        {"temperature": 2.0, "top_k": 5, "count": 2, "repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_log_probabilities_are_the_networks_own(captioner: Pair, search: dict[str, object]) -> None:
    """Of a text read at once, whatever penalties and temperatures chose it."""
    reference, model = captioner
    start = reference.ids(["a picture of"])[0, :-1]
    written = model.network.caption(noise(), start, GenerationOptions(**search))
    about = noise().repeat_interleave(len(written.ids) // 3, dim=0)
    for row, said, pixels in zip(written.ids, written.log_probabilities, about, strict=True):
        ids = torch.tensor([cut(row.tolist(), len(start))])
        logits = model.network(pixels[None], ids[:, :-1]).words.log_softmax(dim=-1)
        likely = logits.gather(2, ids[:, 1:, None])[0, :, 0]
        assert_close(said[len(start) : ids.shape[1]], likely[len(start) - 1 :])
        assert said[: len(start)].abs().max() == 0


# Texts that are drawn.

DRAWS = [
    {"temperature": 1.0},
    {"temperature": 0.4},
    {"top_k": 3},
    {"top_p": 0.6},
    {"top_p": 0.2, "temperature": 3.0},
    {"top_k": 6, "top_p": 0.7, "temperature": 1.5},
]


def by_hand(logits: list[float], draw: dict[str, float]) -> list[float]:
    """The probabilities as Holtzman et al. 2020 define them, id by id."""
    weights = [math.exp(value / draw.get("temperature", 1.0)) for value in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])[: draw.get("top_k", 99)]
    total, kept, so_far = sum(weights[i] for i in order), [], 0.0
    for i in order:
        if so_far >= draw.get("top_p", 1.0):
            break
        kept.append(i)
        so_far += weights[i] / total
    share = sum(weights[i] for i in kept)
    return [weights[i] / share if i in kept else 0.0 for i in range(len(weights))]


@pytest.mark.parametrize("draw", DRAWS, ids=str)
def test_the_distribution_is_the_formulas(draw: dict[str, float]) -> None:
    logits = 2 * torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = distribution(logits, GenerationOptions(**draw))
    for row, expected in zip(found.tolist(), logits.tolist(), strict=True):
        assert row == pytest.approx(by_hand(expected, draw), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("draw", DRAWS, ids=str)
def test_the_distribution_is_that_of_transformers(draw: dict[str, float]) -> None:
    logits = 3 * torch.randn(
        4, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    warped = logits
    for name, warper in (
        ("temperature", TemperatureLogitsWarper),
        ("top_k", TopKLogitsWarper),
        ("top_p", TopPLogitsWarper),
    ):
        if name in draw:
            warped = warper(draw[name])(None, warped)
    assert_close(distribution(logits, GenerationOptions(**draw)), warped.softmax(dim=-1))


@pytest.mark.parametrize("draw", DRAWS, ids=str)
def test_drawn_as_often_as_probable(draw: dict[str, float]) -> None:
    """The ids of 20,000 texts, against the formula (chi-squared, at one in a million)."""
    logits, count = [1.0, 0.2, -0.5, 2.0, 0.0, 1.7, -3.0, 0.9], 20_000
    search = GenerationOptions(**draw, max_length=3, count=4)
    keys = [number.to_bytes(4, "little") for number in range(count // 4)]
    prompt = torch.zeros(len(keys), 1, dtype=torch.long)

    def step(ids: Tensor, cache: object) -> Tensor:
        return torch.tensor(logits).expand(len(ids), -1)

    written = generate(step, [], prompt, end=99, pad=0, options=search, keys=keys)
    likely = by_hand(logits, draw)
    for place in (1, 2):
        seen = torch.bincount(written.ids[:, place], minlength=8).tolist()
        assert [n for n, p in zip(seen, likely, strict=True) if p == 0 and n] == []
        pairs = [(n, p * count) for n, p in zip(seen, likely, strict=True) if p]
        squares = sum((n - expected) ** 2 / expected for n, expected in pairs)
        assert len(pairs) == 1 or chi2.sf(squares, len(pairs) - 1) > 1e-6
    # And one after the other without a bond: as often together as apart.
    both = torch.zeros(8, 8).index_put_(
        (written.ids[:, 1], written.ids[:, 2]), torch.ones(count), accumulate=True
    )
    product = torch.tensor(likely)[:, None] * torch.tensor(likely)
    assert (both / count - product).abs().max() < 0.02


def test_drawn_the_same_in_any_company(captioner: Pair) -> None:
    """Whatever images stand beside it; and others for another seed, image or number."""
    _, model = captioner
    start, draw = torch.tensor([0]), {"top_p": 0.9, "temperature": 2.0}
    together = model.network.caption(noise(4), start, GenerationOptions(**draw, count=3, seed=7))
    texts = [tuple(cut(row, 1)) for row in together.ids.tolist()]
    for i in range(4):
        alone = model.network.caption(
            noise(4)[i : i + 1], start, GenerationOptions(**draw, count=2, seed=7)
        )
        assert [tuple(cut(row, 1)) for row in alone.ids.tolist()] == texts[3 * i : 3 * i + 2]
    other = model.network.caption(noise(4), start, GenerationOptions(**draw, count=3, seed=8))
    texts += [tuple(cut(row, 1)) for row in other.ids.tolist()]
    assert len(set(texts)) == 24


def test_drawing_from_the_best_alone_is_greedy(captioner: Pair) -> None:
    _, model = captioner
    greedy = model.network.caption(
        noise(), torch.tensor([0]), GenerationOptions(beams=1, repetition_penalty=1.5)
    )
    for draw in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        drawn = model.network.caption(
            noise(), torch.tensor([0]), GenerationOptions(**draw, repetition_penalty=1.5)
        )
        assert drawn.ids.tolist() == greedy.ids.tolist()


def test_several_captions_of_each_image(captioner: Pair) -> None:
    _, model = captioner
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    for options in ({"beams": 4}, {"top_p": 0.9}):
        for image, whole in zip(
            pictures,
            caption(model, pictures, options=GenerationOptions(count=3, **options)),
            strict=True,
        ):
            assert len(whole.others) == 2
            (single,) = caption(model, [image], options=GenerationOptions(**options))
            assert single.text == whole.text
            assert whole.probability == pytest.approx(math.exp(whole.log_probability))
    (best,) = caption(model, pictures[:1], options=GenerationOptions(count=4, beams=4))
    ended = (best, *best.others)
    scores = [one.log_probability / len(one.token_log_probabilities) for one in ended]
    assert scores == sorted(scores, reverse=True)


def test_images_keys_are_computed_once(captioner: Pair) -> None:
    """Whatever the beams: cross-attention keeps one row an image, self-attention one a text."""
    _, model = captioner
    network, pixels = model.network, noise()
    caches = []
    make = network.empty_cache
    network.empty_cache = lambda: caches.append(make()) or caches[-1]
    try:
        network.caption(pixels, torch.tensor([0]), GenerationOptions(beams=5, max_length=6))
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
        ("above max_length 8", {"min_length": 9, "max_length": 8}),
        ("temperature is 0", {"temperature": 0.0}),
        ("temperature is nan", {"temperature": float("nan")}),
        ("top_k is 0", {"top_k": 0}),
        ("top_p is 1.5", {"top_p": 1.5}),
        ("give either", {"top_p": 0.9, "beams": 3}),
        ("count is 4", {"count": 4}),
        ("count is 2", {"beams": 1, "count": 2}),
        ("count is 0", {"top_p": 0.9, "count": 0}),
        ("count is 10000000000; it must be at most 1000", {"top_p": 0.9, "count": 10**10}),
        ("beams is 1001; it must be at most 1000", {"beams": 1001}),
        ("length_penalty is 1e[+]30", {"length_penalty": 1e30}),
        ("repetition_penalty is nan", {"repetition_penalty": float("nan")}),
        ("min_length is -1", {"min_length": -1}),
    ):
        prompt = str(search.pop("prompt", ""))
        with pytest.raises(ConfigError, match=said):
            caption(model, [Image.new("RGB", (40, 30))], prompt, GenerationOptions(**search))
