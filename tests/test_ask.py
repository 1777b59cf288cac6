"""Answers chosen among given ones, against each read by transformers alone, in float64."""

from collections.abc import Iterator
from pathlib import Path

import reference_blip
from reference_blip import DEC, ENC, MODELS
from references import Reference

# isort: split
import math

import numpy as np
import pytest
import torch
from photos import CAT, FLOWER
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from patchword import checkpoints, images
from patchword.bundle import Bundle
from patchword.errors import ImageError, UnsupportedError
from patchword.models.generate import GenerationOptions
from patchword.tasks.ask import ask, ask_each

PHOTOS = [CAT, FLOWER]
QUESTIONS = ["what is the color of the bird in the tree?", "is it a cat?", "who"]
ANSWERS = [
    *("yes", "no", "red", "blue", "two cats", "two dogs", "two", "a small bird in the tree"),
    *("it is a cat", "it is a dog", "flying", "three", "a person sitting on the green chair"),
]
Pair = tuple[Reference, Bundle]


@pytest.fixture(params=["hf_blip questions", "lavis questions"], scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("ask") / "model")
    return reference, checkpoints.load(reference.path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("ask") / "model"
    return checkpoints.load(MODELS["hf_blip questions"](path).path)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def exact(path: Path) -> np.ndarray:
    """A photo as the reference's own processor is given it."""
    return images.open(path, exact=True)


def states(pair: Pair, path: Path, question: str) -> Tensor:
    """What transformers' encoder makes of one question about one photo (1, L, D)."""
    reference, model = pair
    network = reference.network
    pixels = reference.pixels(Image.fromarray(exact(path)))[None]
    image = network.vision_model(pixels).last_hidden_state
    ids = reference.ids([question])
    if model.config.source == "lavis":
        ids[:, 0] = ENC
    return network.text_encoder(
        ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=image,
        encoder_attention_mask=torch.ones(image.shape[:2]).long(),
    ).last_hidden_state  # fmt: skip


def likelihoods(pair: Pair, seen: Tensor, answer: str) -> list[float]:
    """The log probability of each id of an answer, read by itself."""
    reference, _ = pair
    ids = reference.ids([answer])
    ids[:, 0] = DEC
    logits = reference.network.text_decoder(
        ids[:, :-1], encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2]).long(),
    ).logits  # fmt: skip
    return logits.double().log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0].tolist()


def test_each_answers_likelihood(pair: Pair) -> None:
    """All questions and answers at once, and the best first."""
    actual = list(ask_each(pair[1], [exact(p) for p in PHOTOS], QUESTIONS, ANSWERS))
    winners = set()
    for path, (_, answers) in zip(PHOTOS, actual, strict=True):
        for question, answer in zip(QUESTIONS, answers, strict=True):
            seen = states(pair, path, question)
            said = {given: likelihoods(pair, seen, given) for given in ANSWERS}
            total = {given: sum(values) for given, values in said.items()}
            assert [c.text for c in answer.ranking] == sorted(ANSWERS, key=lambda a: -total[a])
            whole = sum(math.exp(value) for value in total.values())
            for choice in answer.ranking:
                assert choice.log_probability == pytest.approx(total[choice.text], abs=2e-4)
                share = math.exp(total[choice.text]) / whole
                assert choice.probability == pytest.approx(share, rel=1e-3)
            assert sum(c.probability for c in answer.ranking) == pytest.approx(1, abs=1e-12)
            best = answer.ranking[0]
            assert (answer.text, answer.log_probability) == (best.text, best.log_probability)
            assert answer.token_log_probabilities == pytest.approx(said[best.text], abs=1e-4)
            winners |= {tuple(c.text for c in answer.ranking)}
    assert len(winners) > 3


@pytest.mark.parametrize("shortlist", [1, 4, 7, 13, 50])
def test_shortlist_of_the_likeliest_first_words(pair: Pair, shortlist: int) -> None:
    """As LAVIS' `rank_answers` chooses them, by the softmax at the first place; where several
    share the first word at the edge, whichever."""
    model = pair[1]
    several = ask(model, exact(PHOTOS[0]), QUESTIONS, ANSWERS, shortlist=shortlist)
    for question, answer in zip(QUESTIONS, several, strict=True):
        seen = states(pair, PHOTOS[0], question)
        first = {given: likelihoods(pair, seen, given)[0] for given in ANSWERS}
        kept = [choice.text for choice in answer.ranking]
        assert len(kept) == min(shortlist, len(ANSWERS))
        left = [first[given] for given in ANSWERS if given not in kept]
        assert min(first[given] for given in kept) >= max(left, default=-99) - 1e-4
        total = {given: sum(likelihoods(pair, seen, given)) for given in kept}
        assert kept == sorted(kept, key=lambda a: -total[a])
        assert sum(c.probability for c in answer.ranking) == pytest.approx(1, abs=1e-12)


def test_in_any_company(model: Bundle) -> None:
    """Of other answers, questions and images; a list longer than is read at once."""
    few = ask(model, PHOTOS[0], "is it a cat?", ANSWERS)
    many = [f"{a} {b}" for a in ("two", "three", "a small", "the red") for b in "bcdefghijklmnop"]
    long = list(ask_each(model, PHOTOS[::-1], QUESTIONS, [*many, *ANSWERS]))[1][1][1]
    said = {choice.text: choice.log_probability for choice in long.ranking}
    assert len(said) == len(many) + len(ANSWERS)
    for choice in few.ranking:
        assert said[choice.text] == pytest.approx(choice.log_probability, abs=1e-4)


def test_what_was_written_is_as_likely_when_read(pair: Pair) -> None:
    """Id by id with a cache, and at once."""
    reference, model = pair
    network, ids = model.network, reference.ids(QUESTIONS)
    pixels = torch.stack([torch.from_numpy(model.open(path)[0]) for path in PHOTOS])
    tokens = network.image_tokens(pixels)
    for count in (1, 3):
        written = network.answer(
            tokens, ids.repeat(2, 1), GenerationOptions(beams=3, count=count, max_length=9)
        )
        assert (written.ids != model.tokenizer.pad_token).sum() > 4 * len(written.ids)
        for row, said in enumerate(written.log_probabilities.split(count)):
            one = row // 3
            texts = written.ids[row * count : (row + 1) * count]
            read = network.rank(tokens[one : one + 1], ids[row % 3 :][:1], texts)
            assert read.chosen.tolist() == [list(range(count))]
            actual = read.log_probabilities[0]
            assert_close(actual, said[:, 1:], rtol=1e-4, atol=1e-4)


def test_drawn_answers_are_the_same_in_any_company(model: Bundle) -> None:
    """Beside longer questions, and for the same seed."""

    def drawn(questions: list[str], seed: int = 0) -> list[list[str]]:
        options = GenerationOptions(temperature=2.0, top_k=40, count=3, max_length=10, seed=seed)
        result = ask(model, PHOTOS[0], questions, options=options)
        return [[one.text for one in (answer, *answer.others)] for answer in result]

    alone = [drawn([question])[0] for question in QUESTIONS]
    assert drawn(QUESTIONS) == alone
    assert drawn(QUESTIONS, seed=1) != alone
    assert len({text for texts in alone for text in texts}) == 9


@pytest.mark.parametrize("answers", [None, ANSWERS], ids=["written", "chosen"])
def test_an_image_is_encoded_once(model: Bundle, answers: list[str] | None) -> None:
    """Whatever the questions and answers."""
    rows = []
    handle = model.network.image.patch_embed.register_forward_hook(
        lambda module, given, out: rows.append(len(out))
    )
    try:
        assert len(ask(model, PHOTOS[0], QUESTIONS * 3, answers)) == 9
        assert sum(rows) == 1
        list(ask_each(model, PHOTOS * 3, QUESTIONS, answers))
        assert sum(rows) == 1 + 6
    finally:
        handle.remove()


def test_lists_of_images_give_lists(model: Bundle) -> None:
    """And one image or question what it is in a list."""
    both = ask(model, PHOTOS, QUESTIONS, ANSWERS)
    assert [len(row) for row in both] == [3, 3]
    assert both[0] != both[1]
    for photo, row in zip(PHOTOS, both, strict=True):
        likely = [answer.log_probability for answer in row]
        alone = ask(model, photo, QUESTIONS, ANSWERS)
        assert [answer.log_probability for answer in alone] == pytest.approx(likely, abs=1e-4)
        assert ask(model, images.open(photo), "is it a cat?", ["yes", "no"]).text in ("yes", "no")
    column = ask(model, iter(PHOTOS), QUESTIONS[1], ANSWERS, batch_size=1)
    expected = [row[1].log_probability for row in both]
    assert [answer.log_probability for answer in column] == pytest.approx(expected, abs=1e-4)
    assert ask(model, [], QUESTIONS) == ask(model, [], "who") == []
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        ask(model, [PHOTOS[0], "missing.jpg"], "who")


def test_a_broken_image_costs_itself_alone(model: Bundle) -> None:
    actual = [a for _, a in ask_each(model, [PHOTOS[0], b"no", PHOTOS[1]], ["who"], ["a", "b"])]
    assert [isinstance(answer, ImageError) for answer in actual] == [False, True, False]


@pytest.mark.parametrize(
    ("said", "questions", "answers"),
    [
        ("question 1 of 1 has no words: ''", "", None),
        ("question 2 of 2 has no words", ["who", " \t"], None),
        ("questions must be a list", [], None),
        ("question 1 of 1 has 202 tokens, and .* reads 48; shorten", "is it " * 100, None),
        ("answers must be a list", "who", []),
        ("answers must be a list", "who", "yes"),
        ("answer 2 of 2 has no words", "who", ["yes", ""]),
        ("answer 1 of 2 has 52 tokens", "who", ["two " * 50, "yes"]),
        ("twice there: 'yes'", "who", ["yes", "no", "yes"]),
        ("'yes' and ' YES ', read as the same", "who", ["yes", "no", " YES "]),
    ],
)
def test_questions_and_answers_that_cannot_be(
    model: Bundle, said: str, questions: str | list[str], answers: list[str] | None
) -> None:
    with pytest.raises(UnsupportedError, match=said):
        ask(model, PHOTOS[0], questions, answers)


def test_a_shortlist_of_none(model: Bundle) -> None:
    with pytest.raises(UnsupportedError, match="shortlist is 0"):
        ask(model, PHOTOS[0], "who", ["a", "b"], shortlist=0)


def test_the_tiny_models_know_these_words() -> None:
    """Else answers could be read as the same."""
    words = {word for answer in ANSWERS for word in answer.split()}
    assert words <= set(reference_blip.WORDS)
