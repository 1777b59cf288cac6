"""BLIP as transformers computes it and writes with it, through the real converter.

Tolerances are torch.testing's defaults for float32; what is written must be equal id by id.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import reference_blip
import references
import torch
import torch.nn.functional as F
import transformers
from photos import CAT, FLOWER
from PIL import Image
from reference_blip import CAPTIONS, ENC, MODELS, QUESTIONS, RETRIEVAL, hugging_face_blip, noise
from references import WEIGHTS, Reference, edit_json, fails, rewrite

# isort: split
import numpy as np
import pytest
from torch import Tensor, nn
from torch.testing import assert_close

from patchword import api, checkpoints, images, models
from patchword.bundle import Bundle
from patchword.errors import CheckpointError, ImageError, LongTextWarning, UnsupportedError
from patchword.tasks.ask import Answer, ask, ask_each
from patchword.tasks.caption import Caption, caption, caption_each
from patchword.tasks.match import Match, match, match_each, rerank
from patchword.variants import VARIANTS
from patchword.where.heatmap import heatmap

pytestmark = pytest.mark.slow

PHOTOS = [CAT, FLOWER]
PROMPTS = ["", "a picture of"]
CAPTIONED = ["a photo of a cat", "", "two small birds in a green tree, with a red dog", "is it"]
ASKED = ["what is the color of the bird in the tree?", "is it a cat?", "who"]
Pair = tuple[Reference, Bundle]


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("blip") / "model")
    return reference, checkpoints.load(reference.path)


def one(kind: type[nn.Module]) -> Iterator[Pair]:
    """A fixture of one of transformers' models."""

    def make(tmp_path_factory: pytest.TempPathFactory) -> Pair:
        reference = hugging_face_blip(tmp_path_factory.mktemp("one") / "model", kind)
        return reference, checkpoints.load(reference.path)

    return pytest.fixture(make, scope="module")


captioner, answerer, matcher = one(CAPTIONS), one(QUESTIONS), one(RETRIEVAL)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def photos(reference: Reference) -> Tensor:
    """PHOTOS through the reference's own preprocessing."""
    opened = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
    return torch.stack([reference.pixels(photo) for photo in opened])


# What the towers compute.


def test_image_features(pair: Pair) -> None:
    reference, model = pair
    assert_close(model.network.encode_image(noise()), reference.image(noise()))
    expected = F.normalize(reference.image(photos(reference)), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(PHOTOS, exact=True)), expected)


def test_text_features(pair: Pair) -> None:
    reference, model = pair
    ids = reference.ids(CAPTIONED)
    if reference.text is None:
        if model.config.text is None:
            assert model.config.text_or_decoder is model.config.decoder
        with pytest.raises(UnsupportedError, match="BLIP retrieval"):
            model.embed_texts(CAPTIONED)
        return
    assert_close(model.network.encode_text(ids), reference.text(ids))
    expected = F.normalize(reference.text(ids), dim=-1)
    assert_close(torch.from_numpy(model.embed_texts(CAPTIONED)), expected)


def itm(reference: Reference, pixels: Tensor, ids: Tensor, original: bool) -> Tensor:
    """transformers' matching logits (B, 2); the original puts [ENC] first."""
    mask = (ids > 0).long()
    if original:
        ids = torch.cat([torch.full_like(ids[:, :1], ENC), ids[:, 1:]], dim=1)
    answer = reference.network(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    return answer.itm_score


def test_matching(pair: Pair) -> None:
    reference, model = pair
    if not model.config.matching:
        return
    original = model.config.source == "lavis"
    ids, pixels = reference.ids(CAPTIONED), noise(4)
    tokens = model.network.image_tokens(pixels)
    expected = itm(reference, pixels, ids, original)
    assert_close(model.network.match(tokens, ids), expected)
    assert_close(model.network(pixels, ids).matching, expected)
    if original:  # that token counts
        assert (expected - itm(reference, pixels, ids, False)).abs().max() > 1e-3


def test_what_a_text_to_be_matched_begins_with(pair: Pair) -> None:
    """One model in two formats: transformers begins a text with [CLS], the original with [ENC]."""
    reference, model = pair
    if not model.config.matching:
        return
    photo = images.open(CAT, exact=True)
    pixels = reference.pixels(Image.fromarray(photo))[None].expand(len(CAPTIONED), -1, -1, -1)
    default = match(model, photo, CAPTIONED).probabilities
    for start, original in (("enc", True), ("cls", False)):
        expected = itm(reference, pixels, reference.ids(CAPTIONED), original).softmax(dim=-1)[:, 1]
        found = match(model, photo, CAPTIONED, start=start).probabilities
        assert_close(torch.from_numpy(found[0]), expected)
        assert (found == default).all() == (original == (model.config.source == "lavis"))
    with pytest.raises(UnsupportedError, match="start is 'end'"):
        match(model, photo, CAPTIONED, start="end")


def test_matching_of_all_pairs_and_cosines(matcher: Pair) -> None:
    reference, model = matcher
    ids, pixels = reference.ids(CAPTIONED), photos(reference)
    rows = [itm(reference, row.expand(len(ids), -1, -1, -1), ids, False) for row in pixels]
    expected = torch.stack(rows).softmax(dim=-1)[..., 1]
    exact = [images.open(path, exact=True) for path in PHOTOS]
    found = match(model, exact, CAPTIONED)
    assert_close(torch.from_numpy(found.probabilities), expected)
    tokens = model.network.image_tokens(pixels)
    logits = model.network.match(tokens, ids.repeat(2, 1)).unflatten(0, (2, -1))
    assert_close(logits.softmax(dim=-1)[..., 1], expected)
    cosines = reference.network(pixel_values=pixels, input_ids=ids, use_itm_head=False,
                                attention_mask=(ids > 0).long()).itm_score  # fmt: skip
    ours = model.embed_images(PHOTOS, exact=True) @ model.embed_texts(CAPTIONED).T
    assert_close(torch.from_numpy(ours), cosines)
    assert_close(torch.from_numpy(found.cosines), cosines)


def decoder_of(reference: Reference, model: Bundle) -> nn.Module:
    """transformers' decoder of the same weights."""
    if model.config.blip.shared_decoder:
        return reference_blip.original_networks(None)[1].text_decoder
    return reference.network.text_decoder


def test_decoder_logits(pair: Pair) -> None:
    """At every place, at once, and one id after another with a cache."""
    reference, model = pair
    if model.config.decoder is None:
        return
    network, decoder = model.network, decoder_of(reference, model)
    ids = torch.randint(1, ENC, (3, 7), generator=torch.Generator().manual_seed(1))
    context = network.image_tokens(noise())
    attended = torch.ones(context.shape[:2]).long()
    expected = decoder(
        ids, encoder_hidden_states=context, encoder_attention_mask=attended
    ).logits  # (3, 7, V)
    assert_close(network.word_logits(network.decode(ids, context)), expected)
    cache = network.empty_cache()
    steps = [network.decode(part, context, cache=cache) for part in ids.split([3, 1, 2, 1], dim=1)]
    assert_close(network.word_logits(torch.cat(steps, dim=1)), expected)


def test_pretrained_temperature_and_parts(tmp_path: Path) -> None:
    model = checkpoints.load(MODELS["lavis pretrained"](tmp_path / "model").path)
    assert model.config.blip.shared_decoder
    assert model.scale == pytest.approx(20)
    shared = {name for name, _ in model.network.named_parameters() if name.startswith("decoder")}
    assert {name.split(".")[1] for name in shared} == {"blocks", "words"}
    assert not any("mlp" in name or "cross" in name for name in shared)


# From photos to words.


def test_caption_of_photos(captioner: Pair) -> None:
    reference, model = captioner
    tokenizer = reference_blip.bert_tokenizer(reference.path)
    pixels = photos(reference)
    for prompt in PROMPTS:
        prompts = reference.ids([prompt] * 2)
        expected = reference.network.generate(
            pixel_values=pixels, input_ids=prompts, attention_mask=torch.ones_like(prompts),
            num_beams=3, max_length=20,
        )  # fmt: skip
        exact = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
        found = caption(model, [np.asarray(photo) for photo in exact], prompt)
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in expected]
        assert [one.text for one in found] == texts
        for each in found:
            assert each.text.startswith(prompt)
            assert each.log_probability == pytest.approx(sum(each.token_log_probabilities))
            assert all(value <= 0 for value in each.token_log_probabilities)


def test_a_broken_image_costs_itself_alone(captioner: Pair, answerer: Pair, matcher: Pair) -> None:
    sources = [PHOTOS[0], b"no image", PHOTOS[1]]
    found = [
        [answer for _, answer in caption_each(captioner[1], sources)],
        [answer for _, answer in ask_each(answerer[1], sources, ["is it a cat?"])],
        [answer for _, answer in match_each(matcher[1], sources, ["a cat"])],
    ]
    kinds = (Caption, list, Match)
    for answers, kind in zip(found, kinds, strict=True):
        assert [type(answer) for answer in answers] == [kind, ImageError, kind]
    for job in (
        lambda: caption(captioner[1], sources),
        lambda: match(matcher[1], sources, ["a cat"]),
        lambda: ask(answerer[1], b"no image", "who"),
    ):
        with pytest.raises(ImageError):
            job()


def test_ask_one_and_several(answerer: Pair) -> None:
    _, model = answerer
    several = ask(model, PHOTOS[0], ASKED)
    assert [type(answer) for answer in several] == [Answer] * 3
    pairs = list(ask_each(model, PHOTOS, ASKED))
    assert [image for image, _ in pairs] == PHOTOS
    for i, question in enumerate(ASKED):
        alone = ask(model, PHOTOS[0], question)
        for same in (several[i], pairs[0][1][i]):
            assert same.text == alone.text
            assert same.log_probability == pytest.approx(alone.log_probability, abs=1e-4)


def test_no_images_and_no_texts(captioner: Pair, matcher: Pair) -> None:
    assert caption(captioner[1], []) == []
    assert match(matcher[1], [], ["a", "b"]).probabilities.shape == (0, 2)
    assert match(matcher[1], [], "one text").probabilities.shape == (0, 1)
    with pytest.raises(UnsupportedError, match="one or more"):
        match(matcher[1], PHOTOS, [])


def test_match_in_any_batch(matcher: Pair) -> None:
    _, model = matcher
    texts = [f"{text} {i}" for i in range(20) for text in CAPTIONED]  # more than fit one batch
    whole = match(model, PHOTOS, texts)
    again = match(model, PHOTOS, texts)
    for kind in ("probabilities", "cosines"):
        values = getattr(whole, kind)
        assert (values.dtype, values.shape) == (np.float32, (2, 80))
        np.testing.assert_array_equal(values, getattr(again, kind))
        alone = [getattr(match(model, PHOTOS, [t], batch_size=1), kind) for t in texts[:6]]
        np.testing.assert_allclose(values[:, :6], np.concatenate(alone, 1), rtol=1e-5, atol=1e-6)


def test_a_text_beyond_the_context_is_matched_as_far_as_it_goes(matcher: Pair) -> None:
    _, model = matcher
    with pytest.warns(LongTextWarning, match="the text exceeds 48 tokens; it loses 54 of 102$"):
        found = match(model, PHOTOS, ["a cat " * 50])
    np.testing.assert_allclose(
        found.probabilities, match(model, PHOTOS, ["a cat " * 23]).probabilities
    )


@dataclass(frozen=True)
class Hit:
    path: str
    score: float


def test_rerank_orders_by_the_matching_head(matcher: Pair, tmp_path: Path) -> None:
    _, model = matcher
    paths = []
    for i, colour in enumerate(("red", "blue", "green", "white", "black")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    hits = [Hit(path, 1 - i / 10) for i, path in enumerate([*paths, str(tmp_path / "gone.png")])]
    likely = match(model, paths, ["a red bird"]).probabilities[:, 0]
    found = rerank(model, hits, "a red bird")
    order = np.argsort(-likely).tolist()
    assert order != sorted(order)
    assert [each.hit for each in found] == [hits[i] for i in order] + [hits[5]]
    said = [each.probability for each in found[:5]]
    np.testing.assert_allclose(said, likely[order], rtol=1e-5)
    assert found[5].probability is None
    assert "gone.png" in str(found[5].error)
    some = rerank(model, hits, "a red bird", top=2)
    assert [each.hit for each in some[2:]] == hits[2:]
    assert {each.hit for each in some[:2]} == set(hits[:2])
    assert [each.probability for each in some[2:]] == [None] * 4
    assert rerank(model, [], "a red bird") == []
    with pytest.raises(UnsupportedError, match="load a BLIP for retrieval"):
        rerank(checkpoints.load("demo"), [], "a red bird")


ODD = {
    "grey": Image.new("L", (50, 40), 128),
    "tiny": Image.new("RGB", (1, 1), "red"),
    "wide": Image.new("RGB", (9000, 2), "red"),
    "tall": Image.new("RGB", (3, 5000), "red"),
    "clear": Image.new("RGBA", (30, 20), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_images(captioner: Pair, answerer: Pair, matcher: Pair, kind: str) -> None:
    image = ODD[kind]
    assert isinstance(caption(captioner[1], [image])[0].text, str)
    assert ask(answerer[1], image, "is it?", ["yes", "no"]).text in ("yes", "no")
    assert 0 <= match(matcher[1], [image], ["a cat"]).probabilities[0, 0] <= 1
    found = heatmap(matcher[1], image, ["a cat"])
    assert found.values.shape == (1, image.height, image.width)
    assert np.isfinite(found.values).all()
    assert min(found.picture().size) > 50


def test_public_model(captioner: Pair, answerer: Pair, matcher: Pair) -> None:
    public = [api.load(reference.path) for reference, _ in (captioner, answerer, matcher)]
    assert public[0].caption(PHOTOS) == caption(public[0], PHOTOS)
    assert public[1].ask(PHOTOS[0], "who") == ask(public[1], PHOTOS[0], "who")
    assert public[1].ask(PHOTOS[0], ASKED) == ask(public[1], PHOTOS[0], ASKED)
    given = ["a cat", "two birds"]
    assert public[1].ask(PHOTOS[0], "who", given) == ask(public[1], PHOTOS[0], "who", given)
    found, expected = public[2].match(PHOTOS, CAPTIONED), match(public[2], PHOTOS, CAPTIONED)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    hits = [Hit(str(path), 0.0) for path in PHOTOS]
    assert public[2].rerank(hits, "a cat", 1) == rerank(public[2], hits, "a cat", 1)
    drawn = public[2].heatmap(PHOTOS[0], ["a cat"], words=True)
    assert drawn.texts == ("a cat", "a", "cat")
    assert public[2].similarity(PHOTOS, CAPTIONED).shape == (2, 4)
    labels = public[2].classify(PHOTOS, ["cat", "bird"])
    assert sum(score.probability for score in labels[0]) == pytest.approx(1, abs=1e-5)


def test_taps_where_words_look(matcher: Pair) -> None:
    reference, model = matcher
    ids, tokens = reference.ids(CAPTIONED), model.network.image_tokens(noise(2))
    ids = ids[:2].repeat(2, 1)
    names = [f"text.blocks.{i}.cross.attn" for i in (0, 1)]
    logits, taps = model.network.match(tokens, ids, taps=names)
    assert_close(logits, model.network.match(tokens, ids))
    theirs = reference.network.text_encoder(
        ids, attention_mask=(ids > 0).long(), encoder_hidden_states=tokens.repeat_interleave(2, 0),
        output_attentions=True,
    ).cross_attentions  # fmt: skip
    for name, expected in zip(names, theirs, strict=True):
        assert_close(taps[name], expected)


def test_saved_and_loaded_again(pair: Pair, tmp_path: Path) -> None:
    _, model = pair
    checkpoints.save(model, tmp_path / "own")
    again = checkpoints.load(tmp_path / "own")
    assert again.fingerprint == model.fingerprint
    if model.config.writes_captions:
        assert caption(again, PHOTOS) == caption(model, PHOTOS)


def test_half_precision(captioner: Pair) -> None:
    reference, _ = captioner
    half = checkpoints.load(reference.path, dtype=torch.bfloat16)
    assert all(isinstance(each.text, str) for each in caption(half, PHOTOS))


# What must not go by unnoticed.


@pytest.mark.parametrize(
    "changes",
    [
        {"text_config__hidden_act": "relu6"},
        {"text_config__hidden_act": "quick_gelu"},
        {"text_config__num_attention_heads": 2},
        {"text_config__layer_norm_eps": 1e-2},
        {"vision_config__layer_norm_eps": 1e-2},
        {"vision_config__num_attention_heads": 6},
    ],
    ids=str,
)
def test_a_wrong_value_would_show(changes: dict[str, object], tmp_path: Path) -> None:
    reference = hugging_face_blip(tmp_path / "model", RETRIEVAL)
    right = checkpoints.load(reference.path)
    edit_json(reference.path / "config.json", **changes)
    if "relu6" in changes.values():
        fails(reference.path, "hidden_act", "relu6")
        return
    wrong = checkpoints.load(reference.path)
    ids = reference.ids(CAPTIONED)[:3]
    difference = wrong.network(noise(), ids).matching - right.network(noise(), ids).matching
    assert difference.abs().max() > 1e-3


def test_jobs_that_a_model_cannot_do(captioner: Pair, answerer: Pair, matcher: Pair) -> None:
    demo = checkpoints.load("demo")
    for model in (demo, answerer[1], matcher[1]):
        with pytest.raises(UnsupportedError, match="load a BLIP captioner"):
            caption(model, PHOTOS)
    for model in (demo, captioner[1], matcher[1]):
        with pytest.raises(UnsupportedError, match="load a BLIP made for it"):
            ask(model, PHOTOS[0], "who")
    for model in (demo, captioner[1], answerer[1]):
        with pytest.raises(UnsupportedError, match="load a BLIP for retrieval"):
            match(model, PHOTOS, ["a cat"])


def test_a_decoder_trained_apart_is_refused(tmp_path: Path) -> None:
    reference = MODELS["lavis pretrained"](tmp_path / "model")
    path = reference.path / "model_tiny.pth"
    state = torch.load(path, weights_only=True)
    name = "text_decoder.bert.encoder.layer.1.output.dense.weight"
    state["model"][name] = state["model"][name] + 1e-3
    torch.save(state, path)
    fails(reference.path, name, "differs from text_encoder")


def test_a_head_over_the_vocabulary_with_weights_of_its_own_is_refused(tmp_path: Path) -> None:
    """transformers ignores such tensors where the config ties them to the word embeddings."""
    path = hugging_face_blip(tmp_path / "model").path
    name = "text_decoder.cls.predictions.decoder.weight"
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    rewrite(path / WEIGHTS, lambda t: t.update({name: t[words] + 0.5}))
    checkpoints.load(path)
    edit_json(path / "config.json", tie_word_embeddings=False)
    fails(path, name, "differs from", "tie_word_embeddings")
    rewrite(path / WEIGHTS, lambda t: t.update({name: t[words].clone()}))
    checkpoints.load(path)


def test_blip_model_is_refused_by_name(tmp_path: Path) -> None:
    config = reference_blip.blip_config()
    transformers.BlipModel(config).save_pretrained(tmp_path / "model")
    fails(tmp_path / "model", "a Hugging Face BLIP", "BlipForImageTextRetrieval")


def test_ids_beyond_the_vocabulary(tmp_path: Path) -> None:
    reference = hugging_face_blip(tmp_path / "model")
    edit_json(reference.path / "config.json", text_config__bos_token_id=ENC + 1)
    with pytest.raises(CheckpointError, match="bos_token_id"):
        checkpoints.load(reference.path)


# Numbers that patchword states itself, against the original library's own.


@pytest.mark.parametrize(
    ("name", "kind", "vision"),
    [
        ("blip-base-caption-384", CAPTIONS, {}),
        ("blip-base-retrieval-384", RETRIEVAL, {}),
        ("blip-base-vqa-480", QUESTIONS, {"image_size": 480}),
        ("blip-large-caption-384", CAPTIONS, reference_blip.LARGE),
        ("blip-large-retrieval-384", RETRIEVAL, reference_blip.LARGE),
    ],
)
def test_variants_are_transformers_sizes(
    name: str, kind: type[nn.Module], vision: dict[str, int]
) -> None:
    config = transformers.BlipConfig(
        text_config={"num_attention_heads": 12}, vision_config={"image_size": 384, **vision}
    )
    with torch.device("meta"):
        theirs = kind(config)
    ours = models.outline(VARIANTS[name].config)
    extra = int(VARIANTS[name].config.embed_dim > 0)  # the temperature, which they do not keep
    count = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in ours.parameters()) == count + extra
    assert ours.image.config.heads == theirs.config.vision_config.num_attention_heads
    assert references.SIZE == reference_blip.SIZE
