"""Where a BLIP's words look, against LAVIS' formula over transformers' own attention."""

from pathlib import Path

from reference_blip import ENC, RETRIEVAL, hugging_face_blip, original_blip
from references import Reference

# isort: split
import numpy as np
import pytest
import torch
from photos import CAT
from PIL import Image
from torch.testing import assert_close

from patchword import checkpoints, images
from patchword.bundle import Bundle
from patchword.errors import LongTextWarning, UnsupportedError
from patchword.text.words import words_of
from patchword.where.heatmap import heatmap
from patchword.where.relevance import gradcam

PHOTO = CAT
TEXTS = ["two small birds in a green tree, with a red dog", "a cat", "is it flying?"]
Pair = tuple[Reference, Bundle]


@pytest.fixture(params=["hf_blip", "lavis"], scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = tmp_path_factory.mktemp("gradcam") / "model"
    if request.param == "lavis":
        reference = original_blip(path, RETRIEVAL)
    else:
        reference = hugging_face_blip(path, RETRIEVAL, num_hidden_layers=5)
    return reference, checkpoints.load(reference.path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("gradcam") / "model"
    return checkpoints.load(hugging_face_blip(path, RETRIEVAL, num_hidden_layers=5).path)


def lavis(pair: Pair, text: str, layer: int) -> torch.Tensor:
    """`compute_gradcam` of blip_image_text_matching.py for one image and text, (tokens, h * w):
    attention and its gradient, both without the class token, the latter held at 0 or above, their
    product's mean over heads; the tokens between the first and the last."""
    reference, model = pair
    network = reference.network
    ids = reference.ids([text])
    if model.config.source == "lavis":
        ids[:, 0] = ENC
    pixels = reference.pixels(Image.fromarray(images.open(PHOTO, exact=True)))[None]
    tokens = network.vision_model(pixels).last_hidden_state
    out = network.text_encoder(
        ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=tokens,
        encoder_attention_mask=torch.ones(tokens.shape[:2]).long(), output_attentions=True,
    )  # fmt: skip
    attention = out.cross_attentions[layer]
    loss = network.itm_head(out.last_hidden_state[:, 0])[:, 1].sum()
    (gradient,) = torch.autograd.grad(loss, attention)
    product = attention[..., 1:] * gradient[..., 1:].clamp(0)
    return product[0].mean(0)[1:-1].detach()


def test_maps_are_lavis(pair: Pair) -> None:
    """Of each text and of each of its tokens, in the block that LAVIS takes and in others."""
    _, model = pair
    depth = model.config.text.depth
    for layer in (None, *range(depth - 1)):
        names, run = gradcam(model, TEXTS, words=True, layer=layer)
        maps = run(torch.from_numpy(model.open(PHOTO, exact=True)[0])[None])[0].numpy()
        at = 0
        for text in TEXTS:
            # Of 12 blocks the 8th; of 5 the 3rd, of 2 the first.
            expected = lavis(pair, text, {5: 2, 2: 0}[depth] if layer is None else layer)
            assert expected.abs().max() > 1e-5
            assert names[at] == text
            actual = torch.from_numpy(maps[at]).flatten()
            assert_close(actual, expected.mean(0), rtol=1e-4, atol=1e-8)
            words = words_of(model.tokenizer, model.tokenizer([text])[0, 1:-1].tolist())
            for i, (word, place) in enumerate(words, start=1):
                assert names[at + i] == word
                actual = torch.from_numpy(maps[at + i]).flatten()
                assert_close(actual, expected[place].mean(0), rtol=1e-4, atol=1e-8)
            at += 1 + len(words)
        assert at == len(names)


def test_the_8th_of_12(tmp_path: Path) -> None:
    reference = hugging_face_blip(tmp_path / "model", RETRIEVAL, num_hidden_layers=12)
    model = checkpoints.load(reference.path)
    default, block = (heatmap(model, PHOTO, ["a cat"], layer=n).values for n in (None, 7))
    np.testing.assert_array_equal(default, block)
    assert np.abs(default - heatmap(model, PHOTO, ["a cat"], layer=6).values).max() > 0


def test_words_of_several_tokens(model: Bundle) -> None:
    def words(text: str) -> list[tuple[str, slice]]:
        return words_of(model.tokenizer, model.tokenizer([text])[0, 1:-1].tolist())

    assert words("a red cat") == [("a", slice(0, 1)), ("red", slice(1, 2)), ("cat", slice(2, 3))]
    assert [word for word, _ in words("a zebra, flying")] == ["a", "zebra,", "flying"]
    assert words("zebra")[0][1] == slice(0, 5)


def test_in_the_photos_own_pixels_and_whatever_stands_around(model: Bundle) -> None:
    photo = images.open(PHOTO, exact=True)
    alone = heatmap(model, PHOTO, TEXTS[1])
    assert alone.values.shape == (1, *photo.shape[:2])
    assert alone.method == "gradcam"
    assert alone.values.min() >= 0
    many = [f"a dog {i}" for i in range(20)]
    with torch.inference_mode():
        beside = heatmap(model, PHOTO, [*TEXTS, *many], "gradcam")
    np.testing.assert_allclose(beside.values[1], alone.values[0], rtol=1e-4, atol=1e-9)
    assert all(p.grad is None for p in model.network.parameters())


def test_other_methods_remain(model: Bundle) -> None:
    assert np.abs(heatmap(model, PHOTO, ["a cat"], "value").values).max() <= 1


def test_half_precision(tmp_path: Path, model: Bundle) -> None:
    checkpoints.save(model, tmp_path / "own")
    half = checkpoints.load(tmp_path / "own", dtype=torch.bfloat16)
    ours, full = (heatmap(m, PHOTO, ["a cat"]).values for m in (half, model))
    assert np.corrcoef(ours.ravel(), full.ravel())[0, 1] > 0.95


def test_what_cannot_be_drawn_is_said(model: Bundle) -> None:
    demo = checkpoints.load("demo")
    for said, arguments in (
        ("layers 0 to 3", {"layer": 4}),
        ("layers 0 to 3", {"layer": -1}),
        ("of method 'gradcam', not of 'value'", {"method": "value", "words": True}),
        ("methods gradcam, .*, not of 'cosine'", {"method": "cosine", "layer": 0}),
        ("there are cosine, .*, resclip, .*legrad, chefer, gradcam", {"method": "magic"}),
    ):
        with pytest.raises(UnsupportedError, match=said):
            heatmap(model, PHOTO, ["a cat"], **arguments)
    with pytest.raises(UnsupportedError, match="has no heatmap: ''"):
        heatmap(model, PHOTO, ["a cat", ""])
    with pytest.raises(UnsupportedError, match="load a BLIP for retrieval"):
        heatmap(demo, PHOTO, ["a cat"], "gradcam")
    with pytest.warns(LongTextWarning, match="the text exceeds 48 tokens"):
        heatmap(model, PHOTO, ["a cat " * 50])
