"""Which token attends to which, in images, texts and captions: against transformers, and against a
softmax of queries and keys in float64; its names and its pictures."""

import json
import math
import warnings
from itertools import pairwise
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import reference_chinese_clip
import tiny_tokenizers
import torch
from cli_runner import Run
from numpy.testing import assert_allclose
from photos import CAT, FLOWER
from reference_blip import DEC, SEP, bert_tokenizer, hugging_face_blip
from references import Reference, hugging_face
from small_models import tiny_bundle, tiny_clip, tiny_clip_resnet
from torch.testing import assert_close

import patchword
from patchword import api, checkpoints
from patchword.config import TextConfig
from patchword.errors import FontWarning, LongTextWarning, TokenizerError, UnsupportedError
from patchword.show import text_drawing
from patchword.show.colours import table
from patchword.show.text_drawing import PAPER
from patchword.show.token_matrix import View, merged_patches, token_matrices
from patchword.text.tokenizer import Tokenizer

CHINESE = "我 喜欢 小猫 和 小狗"
Pair = tuple[Reference, api.Model]


def loaded(reference: Reference) -> Pair:
    reference.network.set_attn_implementation("eager")  # others give no attention
    return reference, api.model.with_methods(checkpoints.load(reference.path))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return loaded(hugging_face(tmp_path_factory.mktemp("clip") / "model"))


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return loaded(hugging_face_blip(tmp_path_factory.mktemp("blip") / "model"))


@torch.no_grad()
def test_images_are_transformers(clip: Pair) -> None:
    reference, model = clip
    pixels = torch.from_numpy(model.open(CAT, exact=True)[0])[None]
    theirs = reference.network.vision_model(pixels, output_attentions=True).attentions
    for layer, expected in enumerate(theirs):
        attention_map = model.attention(CAT, layer=layer)
        assert_close(torch.from_numpy(attention_map.weights), expected[0])
        assert attention_map.matrix.titles == ("mean", "head 0", "head 1", "head 2")
        mean = expected[0].mean(0, keepdim=True)
        assert_close(torch.from_numpy(attention_map.matrix.weights), torch.cat([mean, expected[0]]))
        one = model.attention(CAT, layer=layer, head=2).matrix
        assert one.titles == ("mean", "head 2")
        assert_close(torch.from_numpy(one.weights), torch.cat([mean, expected[0, 2:]]))
    means = torch.stack([expected[0].mean(0) for expected in theirs])
    every = model.attention(CAT, all_layers=True)
    assert every.titles == every.matrix.titles == ("layer 0", "layer 1")
    assert_close(torch.from_numpy(every.weights), means)
    assert_close(torch.from_numpy(every.grid).flatten(1), means[:, 0, 1:])
    second = model.attention(CAT, head=1, all_layers=True)
    assert second.titles == ("layer 0, head 1", "layer 1, head 1")
    assert_close(torch.from_numpy(second.weights), torch.stack([e[0, 1] for e in theirs]))
    assert every.matrix.tokens[:3] == ("class", "0,0", "0,1")


@torch.no_grad()
def test_causal_texts_are_transformers(clip: Pair) -> None:
    reference, model = clip
    ids = reference.ids([CHINESE])
    theirs = reference.network.text_model(ids, output_attentions=True).attentions
    attention_map = model.attention(text=CHINESE)
    assert len(attention_map.tokens) == ids.shape[1]
    assert attention_map.tokens[1:4] == ("我 1/3", "我 2/3", "我 3/3")
    assert_close(torch.from_numpy(attention_map.weights[1:]), theirs[-1][0])
    assert_close(torch.from_numpy(attention_map.weights[0]), theirs[-1][0].mean(0))
    assert not np.triu(attention_map.weights, 1).any()  # no token attends to one after it
    one = model.attention(text=CHINESE, layer=0, head=1)
    assert one.titles == ("mean", "head 1")
    assert_close(torch.from_numpy(one.weights[1]), theirs[0][0, 1])
    every = model.attention(text=CHINESE, all_layers=True)
    assert every.titles == ("layer 0", "layer 1")
    assert_close(torch.from_numpy(every.weights), torch.stack([e[0].mean(0) for e in theirs]))
    rolled = np.eye(len(attention_map.tokens))
    for layer in theirs:
        rolled = (0.5 * layer[0].mean(0).double().numpy() + 0.5 * np.eye(len(rolled))) @ rolled
    assert_allclose(model.attention(text=CHINESE, rollout=True).weights[0], rolled, atol=1e-6)


@torch.no_grad()
def test_texts_of_bert_are_transformers(tmp_path: Path) -> None:
    reference, model = loaded(reference_chinese_clip.hugging_face(tmp_path / "model"))
    text = "我喜欢 red 的衣服"
    theirs = reference.network.text_model(reference.ids([text]), output_attentions=True).attentions
    attention_map = model.attention(text=text)
    count = len(attention_map.tokens)
    assert attention_map.tokens == ("[CLS]", *"我喜欢", "red", *"的衣服", "[SEP]")
    assert_close(torch.from_numpy(attention_map.weights[1:]), theirs[-1][0, :, :count, :count])
    assert np.triu(attention_map.weights, 1).any()


@torch.no_grad()
def test_captions_are_transformers(captioner: Pair) -> None:
    """Of each word the row of the token before it, from which it is predicted."""
    reference, model = captioner
    photo = model.opener(FLOWER, exact=True)
    actual = model.caption_attention(photo, "a picture of", all_layers=True)
    assert actual.caption == model.caption(photo, "a picture of")[0]
    tokens = model.network.image_tokens(torch.from_numpy(model.open(FLOWER, exact=True)[0])[None])
    row = reference.ids([actual.caption.text])
    row[:, 0] = DEC
    theirs = reference.network.text_decoder.bert(
        row, encoder_hidden_states=tokens, output_attentions=True, is_decoder=True
    ).cross_attentions
    assert actual.titles == ("layer 0", "layer 1")
    written = [id_ for id_ in row[0, 4:].tolist() if id_ not in (SEP, 0)]
    pieces = bert_tokenizer(reference.path).convert_ids_to_tokens(written)
    starts = [i for i, piece in enumerate(pieces) if not i or not piece.startswith("##")]
    assert len(actual.words) == len(starts)
    for layer, expected in enumerate(theirs):
        rows = expected[0].mean(0)[3:]
        for number, (first, end) in enumerate(pairwise([*starts, len(pieces)])):
            assert_close(torch.from_numpy(actual.weights[layer, number]), rows[first:end].mean(0))
    assert_close(actual.weights[..., 1:].reshape(actual.grid.shape), actual.grid)
    assert_allclose(actual.weights.sum(-1), 1, rtol=1e-6)
    last = model.caption_attention(FLOWER, "a picture of", head=1)
    assert last.titles == ("layer 1, head 1",)


@torch.no_grad()
def test_rows_are_a_softmax_of_queries_and_keys(clip: Pair) -> None:
    """In float64, from the taps of both."""
    _, model = clip
    network = model.network.double()
    pixels = torch.from_numpy(model.open(CAT, exact=True)[0])[None].double()
    ids = torch.from_numpy(model.tokenizer([CHINESE]))
    parts = ("attn", "attn.q", "attn.k")
    for tower, encode in (("image", network.encode_image), ("text", network.encode_text)):
        given = pixels if tower == "image" else ids
        for layer in (0, 1):
            names = [f"{tower}.blocks.{layer}.{part}" for part in parts]
            _, taps = encode(given, taps=names)
            actual, q, k = (taps[name][0] for name in names)
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            if tower == "text":
                scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf)
            exact = scores.exp() / scores.exp().sum(-1, keepdim=True)
            assert_close(actual, exact, rtol=1e-10, atol=1e-12)
            assert_close(actual.sum(-1), torch.ones(actual.shape[:2]).double(), rtol=0, atol=1e-12)
    model.network.float()


def test_names_of_tokens(tmp_path: Path) -> None:
    tiny_tokenizers.clip_tokenizer().save_pretrained(tmp_path / "clip")
    for cleaning in ("none", "ftfy"):
        reader = Tokenizer.from_folder(tmp_path / "clip", TextConfig(cleaning=cleaning))
        ids, names = reader.named("小猫, two dogs 🙂 é")
        assert ids.tolist() == reader(["小猫, two dogs 🙂 é"]).tolist()
        marks = ("小 1/2", "小 2/2", "猫 1/3", "猫 2/3", "猫 3/3")
        assert names[1:-1] == [*marks, ",", "two", "dogs", "🙂", "é"]
        assert "start" in names[0]
        assert names[0] == names[0].strip()
        ids, names = reader.named("小猫" * 99)
        assert len(names) == ids.shape[1] == 77
        assert "end" in names[-1]
    tiny_tokenizers.bert_files(tmp_path / "bert")
    words = tiny_tokenizers.bert_vocabulary()
    reader = Tokenizer.from_folder(
        tmp_path / "bert",
        TextConfig(vocab_size=len(words), end_token=words.index("[SEP]"), causal=False),
    )
    assert reader.named("我 dogs ☃")[1] == ["[CLS]", "我", "dog", "##s", "☃ [UNK]", "[SEP]"]
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        reader.named("\ud800")


def test_names_of_padding_that_is_attended_to(tmp_path: Path) -> None:
    tiny_tokenizers.gemma().save_pretrained(tmp_path)
    config = TextConfig(
        vocab_size=400, end_token=1, causal=False, pool="last", padding="attended", context=12
    )
    ids, names = Tokenizer.from_folder(tmp_path, config).named("a dog, 猫")
    assert ids.shape == (1, 12)
    assert names == ["a", "dog", ",", "▁", "猫", "<eos>", *["<pad>"] * 6]


def test_long_texts_are_said_to_be_cut(clip: Pair) -> None:
    with pytest.warns(LongTextWarning, match="exceeds 77 tokens"):
        assert len(clip[1].attention(text=CHINESE * 9).tokens) == 77


def test_what_is_refused_says_what_works(captioner: Pair, clip: Pair) -> None:
    _, model = clip
    both = "rollout is of all layers together"
    wrong = {
        "no layer 99: .* has layers 0 to 1, or -1 to -2": {"layer": 99},
        "no head 7: the layer has 0 to 2": {"head": 7},
        both: {"rollout": True, "layer": 99},
        f"(?s){both}.*leave out": {"rollout": True, "head": 99},
        f"{both}.*": {"rollout": True, "all_layers": True},
        "all_layers shows every layer": {"all_layers": True, "layer": 0},
    }
    for message, options in wrong.items():
        with pytest.raises(UnsupportedError, match=message):
            model.attention(CAT, **options)
    with pytest.raises(UnsupportedError, match="without words"):
        model.attention(text=" ")
    with pytest.raises(UnsupportedError, match="no title 'head 9'; there are mean, head 0"):
        model.attention(text="a cat").most("head 9")
    for given in ({}, {"image": CAT, "text": "a cat"}):
        with pytest.raises(UnsupportedError, match="of an image or of a text"):
            model.attention(**given)
    with pytest.raises(UnsupportedError, match="does not caption"):
        model.caption_attention(CAT)
    with pytest.raises(UnsupportedError, match="caption_attention shows"):
        captioner[1].attention(text="a cat")
    resnet = api.model.with_methods(tiny_bundle(tiny_clip_resnet()))
    with pytest.raises(UnsupportedError, match="map over the photo shows all"):
        _ = resnet.attention(np.zeros((64, 64, 3), np.uint8)).matrix
    # Its one layer is all of its rollout, as of a heatmap.
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    rolled, layer = (resnet.attention(image, rollout=each) for each in (True, False))
    assert_allclose(rolled.weights[0], layer.weights.mean(axis=0), atol=1e-7)
    assert_allclose(rolled.grid[0], resnet.heatmap(image, method="rollout").grid[0], atol=1e-7)
    with pytest.raises(UnsupportedError, match="one query"):
        _ = rolled.matrix


def test_neighbours_are_summed_over_columns_and_averaged_over_rows() -> None:
    generator = np.random.default_rng(0)
    weights = generator.random((2, 1 + 15 + 2, 18))
    weights /= weights.sum(-1, keepdims=True)
    photo = generator.integers(0, 255, (25, 41, 3), np.uint8)  # a pixel of each side is no patch's
    view = View(photo, 8, (3, 5), 1)
    merged, cells, side = merged_patches(weights, [str(i) for i in range(18)], view, 6)
    assert side == 2
    assert merged.shape == (2, 9, 9)
    assert_allclose(merged.sum(-1), 1)
    # The patches in rows 0, 1 and columns 2, 3; and that in row 2 and column 4.
    some, last = [1 + 2, 1 + 3, 1 + 7, 1 + 8], [15]
    assert_allclose(merged[:, 2, 6], weights[:, some][:, :, last].sum(-1).mean(-1))
    assert_allclose(merged[:, 6, 2], weights[:, last][:, :, some].sum(-1).mean(-1))
    assert_allclose(merged[:, 0, 8], weights[:, 0, 17])
    assert (cells[0], cells[-2:]) == ("0", ["16", "17"])
    np.testing.assert_array_equal(np.asarray(cells[2]), photo[:16, 16:32])
    np.testing.assert_array_equal(np.asarray(cells[6]), photo[16:24, 32:40])


def test_matrices_show_their_weights() -> None:
    """Colours by the square root, white where a mask leaves nothing."""
    weights = np.array([[[1, 0], [0.25, 0.75]]] * 2)
    drawn = np.asarray(token_matrices(weights, ["mean", "head 0"], ["a", "cat"]), int)
    for value in (1.0, 0.25, 0.75):
        colour = table("viridis")[int(np.sqrt(value) * 255)].astype(int)
        assert (np.abs(drawn - colour).sum(-1) == 0).sum() > 2 * 1000, value
    assert (drawn[0, 0] == PAPER).all()
    assert drawn.shape[1] > 2 * 2 * 44  # side by side
    grey = np.asarray(token_matrices(weights, ["mean", "head 0"], ["a", "cat"], colours="gray"))
    assert (np.ptp(grey.astype(int), axis=2) > 12).sum() == 0


def test_a_filmstrip_has_a_map_for_each_word(captioner: Pair) -> None:
    _, model = captioner
    one, two = (model.caption_attention(FLOWER, all_layers=layers) for layers in (False, True))
    assert two.picture().height == pytest.approx(2 * one.picture().height, abs=2)
    assert one.maps.shape[:2] == (1, len(one.words))
    titled = (np.asarray(each) for each in (one.picture(), one.picture(title="a title")))
    assert not np.array_equal(*titled)


def test_what_no_font_has_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (text_drawing.font, text_drawing._warn):
        function.cache_clear()
    monkeypatch.setattr(text_drawing, "_cjk", lambda: [])
    with pytest.warns(FontWarning, match="no font of this system has Chinese"):
        text_drawing.font(15, "我 1/3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_drawing.font(15, "かな")  # said already
        text_drawing.font(15, "a photo, é")
    for function in (text_drawing.font, text_drawing._warn):
        function.cache_clear()


def test_the_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.save(tiny_bundle(tiny_clip()), tmp_path / "model")
    ran = run("attention", "-t", "a cat", "-t", "a dog", "-m", "model", "--head", "0", "--json")
    assert [(r["text"], r["map"]) for r in ran.records] == [
        (text, name) for text in ("a cat", "a dog") for name in ("mean", "head 0")
    ]
    for record in ran.records:
        weights = np.array([row["weights"] for row in record["rows"]])
        assert weights.shape == (len(record["rows"]),) * 2
        assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    attention_map = patchword.load("model").attention(text="a dog", head=0)
    assert [row["token"] for row in ran.records[-1]["rows"]] == list(attention_map.tokens)
    assert_allclose(weights, attention_map.weights[1], rtol=1e-5)
    assert Path("text-1-attention.png").exists()
    assert Path("text-2-attention.png").exists()
    matrix = run("attention", CAT, "--matrix", "-m", "model", "--json", "--save", "m.png")
    assert {len(record["rows"]) for record in matrix.records} == {10}
    one = run("attention", CAT, FLOWER, "--all-layers", "-m", "model", "--same-scale", "--json")
    assert {record["map"] for record in one.records} == {"layer 0", "layer 1"}
    table_ = run("attention", "-t", "a cat", "-m", "model", "--csv").out.splitlines()
    assert table_[1].startswith(",a cat,")
    assert json.loads(table_[1].split('"')[1])[0] == pytest.approx(1)
    for wrong, said in (
        ([CAT, "-t", "a cat"], "give images, or texts by --text"),
        ([], "give images, or texts by --text"),
        (["-t", "a cat", "--caption"], "--caption shows a caption"),
        ([CAT, "--caption", "--matrix"], "leave out --matrix"),
        ([CAT, "--prompt", "a"], "--prompt needs --caption"),
        (["-t", "a cat", "--same-scale"], "--same-scale is for maps"),
        (["-t", "a cat", "--squash"], "--squash and --max-pixels are for images"),
        ([CAT, "--colours", "jett"], "no colours 'jett'; there are inferno"),
    ):
        failed = run("attention", *map(str, wrong), "-m", "model")
        assert failed.code == 2
        assert said in " ".join(failed.err.replace("│", " ").split())
