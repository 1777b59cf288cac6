"""BLIP's training in micro-batches, in several processes, interrupted; what it starts from, and the
recipes that cannot be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_blip
import torch
from loss_formulas import log_softmax
from PIL import Image
from tiny_blip import (
    APART,
    CASES,
    DETERMINISTIC,
    MOMENTUM,
    ONE_PROCESS,
    features,
    gradients,
    perturb_average,
    run_and_batches,
    write,
)
from tiny_runs import curve
from tiny_runs import load as load_clip
from tiny_runs import write as write_clip
from torch import Tensor, nn
from torch.testing import assert_close

import patchword
from patchword.data import positives
from patchword.errors import RecipeError
from patchword.nn.positions import sincos_2d
from patchword.train import loop, recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path)


# In parts


@pytest.mark.parametrize("size", [3, 1])
def test_micro_batches_with_momentum_change_nothing(path: Path, size: int) -> None:
    found = []
    for changes in ([], [f"micro_batch={size}"]):
        run, batches = run_and_batches(path, *DETERMINISTIC, *MOMENTUM, *changes)
        perturb_average(run)
        batches[1].has_question[2:6] = False  # a part without a question
        found.append([gradients(run, batch, step) for step, batch in enumerate(batches)])
    assert_close(found[1], found[0])


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gradients of each case in two processes."""
    folder = tmp_path_factory.mktemp("cases")
    tiny_blip.save_case_gradients(2, write(folder), list(CASES), folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradient_of_one(cases: Path, case: str) -> None:
    """With DistributedDataParallel, and with FSDP; and the same queue, whose keys do not depend on
    the process."""
    alone = tiny_blip.case_gradients(cases / "blip.toml", case, ONE_PROCESS)
    assert case not in ("plain", "momentum") or alone[0]["text.token_embed.weight"].any()
    for rank in (0, 1):
        found = torch.load(cases / f"{case} {rank}.pt")
        assert_close(found, alone)
        keys = [of.get("queued_keys", torch.empty(0)) for of in (found[-1], alone[-1])]
        assert torch.equal(*keys)
        assert len(keys[0]) == (12 if case.startswith("momentum") else 0)


@pytest.mark.parametrize(
    "changes",
    [MOMENTUM, ["blip.contrast=0", "blip.match=0", "blip.texts=2"]],
    ids=["a queue", "parts that no loss reaches"],
)
def test_interrupted_runs_continue_bit_for_bit(
    path: Path, tmp_path: Path, changes: list[str]
) -> None:
    whole = loop.train(recipe.load(path, [*changes, f"out={tmp_path / 'whole'}"])).folder
    loop.train(recipe.load(path, [*changes, "until=1"]))
    loop.train(recipe.load(path, [*changes, "until=3"]))
    again = loop.train(recipe.load(path, changes)).folder
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert patchword.load(again).fingerprint == patchword.load(whole).fingerprint


# Recipes that cannot be


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["blip.queue=12"], "blip.queue keeps features of momentum encoders: set blip.momentum"),
        ([*MOMENTUM, "ema=0"], "blip.momentum needs .* ema"),
        ([*MOMENTUM, "blip.contrast=0"], "blip.momentum needs blip.contrast"),
        ([*MOMENTUM, "engine.parallel=fsdp"], 'momentum needs engine.parallel = "ddp"'),
        (["micro_batch=2"], "with micro_batch, blip.contrast needs blip.momentum"),
        ([*DETERMINISTIC, "blip.contrast=0", "blip.caption=0", "blip.answer=0"], "learns nothing"),
        (["blip.texts=0"], "texts is 0"),
        (
            ["blip.text_from_decoder=true"],
            "text_from_decoder needs a text tower and a decoder that is not",
        ),
        (
            [*APART, "blip.text_from_decoder=true", "model.blip.decoder.mlp_width=32"],
            r"text.blocks.0.mlp.fc1.*\(64",
        ),
        (
            ["blip.sincos_positions=2", "model.vision.positions=sincos"],
            "positions are sincos, and not learned",
        ),
        (["model.blip.matching=false"], r"needs a BLIP with blip.matching = true"),
        (["model.embed_dim=0"], r"needs a BLIP with \[model.text\] and embed_dim"),
        (
            ["model.blip.writes_captions=false", "model.blip.answers_questions=true"],
            r"needs a BLIP with \[model.blip.decoder\] and writes_captions = true",
        ),
    ],
)
def test_recipes_that_cannot_be(path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        loop.Run(recipe.load(path, changes), ONE_PROCESS)


def without(part: str) -> str:
    """The model without a table."""
    tables = tiny_blip.MODEL.split("\n\n")
    return "\n\n".join(table for table in tables if f"[model.{part}]" not in table)


def test_questions_without_a_decoder_that_asks(tmp_path: Path) -> None:
    lacks = r"\[model.text\], \[model.blip.decoder\] and answers_questions = true"
    none = ["model.blip.writes_captions=false", "model.blip.shared_decoder=false", "blip.caption=0"]
    silent = recipe.load(write(tmp_path, without("blip.decoder")), none)
    with pytest.raises(RecipeError, match=lacks):
        loop.Run(silent, ONE_PROCESS)
    file = write(tmp_path, without("text"))
    alone = ["blip.contrast=0", "blip.match=0", "model.blip.matching=false", "model.embed_dim=0"]
    alone.append("model.blip.shared_decoder=false")
    with pytest.raises(RecipeError, match=lacks):
        loop.Run(recipe.load(file, alone), ONE_PROCESS)
    config = loop.Run(recipe.load(file, [*alone, "blip.answer=0"]), ONE_PROCESS).initial.config
    assert config.writes_captions


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with the image tower of tiny_blip."""
    folder = tmp_path_factory.mktemp("clip")
    return loop.train(load_clip(write_clip(folder), "steps=1")).folder


@pytest.mark.parametrize("changes", [[], ["blip.match=0", "blip.caption=0", "blip.answer=0"]])
def test_a_clip_is_no_blip(tmp_path: Path, clip: Path, changes: list[str]) -> None:
    with pytest.raises(RecipeError, match="needs a BLIP"):
        loop.Run(recipe.load(write(tmp_path, ""), [f"init={clip}", *changes]), ONE_PROCESS)


# What a run starts from


def test_positions_and_queries_to_start_with(path: Path, clip: Path) -> None:
    """`sincos_positions` adds sines and cosines (`sincos_2d`, held to MAE's own) to the positions
    of `init`; `cross_query_scale` is a factor of queries that are not its: Xavier-uniform, below
    the root of 6 / 2D."""
    changes = [f"init={clip}", 'fresh=["text", "decoder", "match_head", "image.head.bias"]']
    plain, sharp = (
        loop.Run(recipe.load(path, [*changes, *more]), ONE_PROCESS).network
        for more in ([], ["blip.sincos_positions=2.5", "blip.cross_query_scale=3"])
    )
    added = sharp.image.pos_embed - plain.image.pos_embed
    assert_close(added[0, 1:], 2.5 * sincos_2d(plain.image.config.grid, 32))
    assert not added[0, 0].any()
    for network, factor in ((plain, 1), (sharp, 3)):
        for block in network.text.blocks:
            largest = block.cross.q.weight.abs().max() / factor
            assert 0.9 * (6 / 64) ** 0.5 < largest <= (6 / 64) ** 0.5
            assert block.attn.proj.weight.abs().max() <= (6 / 64) ** 0.5
    first = loop.train(recipe.load(path, ["steps=1"])).folder
    again = loop.Run(
        recipe.load(path, [f"init={first}", "blip.cross_query_scale=3"]), ONE_PROCESS
    ).network
    assert_close(again.state_dict(), patchword.load(first).network.state_dict(), rtol=0, atol=0)


def test_words_that_see_patches_alone(path: Path) -> None:
    """What the class token is changes nothing for them, and all for the joint space; words that
    see all tokens, as BLIP's, notice."""
    for changes, blind in (([], False), (["model.blip.image_tokens=patches"], True)):
        run, (batch, *_) = run_and_batches(path, *changes)
        network = run.network.eval()
        with torch.no_grad():
            tokens = network.image_tokens(batch.pixels)
            other = tokens.clone()
            other[:, 0] += 1
            found = [network.match(each, batch.ids) for each in (tokens, other)]
            found += [network.decode(batch.ids, x, network.image_mask(x)) for x in (tokens, other)]
            features = [network.image_features(each) for each in (tokens, other)]
        assert torch.equal(found[0], found[1]) == torch.equal(found[2], found[3]) == blind
        assert not torch.allclose(*features)


def test_a_text_tower_that_starts_as_the_decoder(path: Path) -> None:
    network = loop.Run(
        recipe.load(path, [*APART, "blip.text_from_decoder=true"]), ONE_PROCESS
    ).network
    decoder = dict(network.decoder.named_parameters())
    own = {n: p for n, p in network.text.named_parameters() if not n.startswith("head.")}
    assert len(own) > 30
    for name, value in own.items():
        assert torch.equal(value, decoder[name]), name
        assert value is not decoder[name]


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_a_blip_on_the_image_tower_of_a_clip(path: Path, clip: Path) -> None:
    fresh = 'fresh=["text", "decoder", "match_head", "image.head.bias"]'
    run, batches = run_and_batches(path, f"init={clip}", fresh)
    before, ours = patchword.load(clip).network.state_dict(), run.network.state_dict()
    kept = {name for name in ours if name in before and torch.equal(ours[name], before[name])}
    image = {name for name in ours if name.startswith("image.")}
    assert kept == (image - {"image.head.bias"}) | {"logit_scale"}
    assert run.initial.tokenizer.encoder_start == run.initial.config.text.start_token > 0
    assert run.initial.tokenizer.decoder_start == run.initial.config.decoder.start_token > 0
    run.step(0, batches[0])
    with pytest.raises(RecipeError, match=r"does not fit the recipe's model: .*decoder"):
        run_and_batches(path, f"init={clip}", 'fresh=["text"]')


def test_a_blip_goes_on_from_its_own_folder_and_learns_to_answer(
    path: Path, tmp_path: Path
) -> None:
    first = loop.train(recipe.load(path, ["blip.answer=0", "steps=2"])).folder
    model = patchword.load(first)
    assert not model.config.answers_questions
    again = write(tmp_path, "")
    run, _ = run_and_batches(again, f"init={first}", "blip.answer=0")
    assert_close(weights(run.network), weights(model.network), rtol=0, atol=0)
    assert run.initial.tokenizer.to_json() == model.tokenizer.to_json()
    assert replace(run.initial.config, source=model.config.source) == model.config

    changes = ["blip.contrast=0", "blip.match=0", "blip.caption=0", "blip.answer=1"]
    changes += [f"init={first}", f"out={tmp_path / 'answers'}", "steps=2"]
    run, _ = run_and_batches(again, *changes)
    assert_close(weights(run.network), weights(model.network), rtol=0, atol=0)
    after = patchword.load(loop.train(recipe.load(again, changes)).folder)
    assert after.config.answers_questions
    assert after.config.writes_captions
    image = np.zeros((32, 32, 3), np.uint8)
    ranked = after.ask(image, "what colour is the circle?", ["red", "blue"])
    assert sum(each.probability for each in ranked.ranking) == pytest.approx(1)
    assert after.caption([image])


def test_towers_of_a_blip_learn_as_a_clip(path: Path) -> None:
    run, (batch, *_) = run_and_batches(path, "objective=contrastive", "label_smoothing=0")
    seen, read, scale = features(run.network, batch)
    true = positives(batch.caption_facts, batch.image_facts)
    total = 0.0
    for logits, marks in ((scale * seen @ read.T, true), (scale * read @ seen.T, true.T)):
        total -= (log_softmax(logits) * marks / marks.sum(1, keepdims=True)).sum() / 16
    assert run.step(0, batch)["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.text.cross_width=0", "text.cross_width"),
        ("model.text.cross_width=16", "what it reads is 32 wide"),
        ("model.blip.decoder.cross_width=16", "what it reads is 32 wide"),
        ("model.blip.decoder.depth=1", "the same depth"),
        ("model.blip.decoder.depth=3", "the same depth"),
        ("model.text.post_norm=false", "post_norm"),
        ('model.vision.pool="avg"', "class token"),
    ],
)
def test_blips_that_cannot_be(path: Path, change: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe.load(path, [change])


# What is shipped


def test_the_recipe_of_a_blip(tmp_path: Path) -> None:
    """Its parts that learn, in two steps, and what goes on from it."""
    small = ["steps=2", "batch=4", "warmup=1", "data.0.count=40", "engine.workers=0"]
    done = loop.train(recipe.load("blip", [f"out={tmp_path / 'run'}", *small]))
    model = patchword.load(done.folder)
    start = patchword.load("demo").network.state_dict()
    for name, value in model.network.state_dict().items():
        if name.startswith("image.blocks.") and value.is_floating_point():
            assert torch.equal(value, start[name])
    only = ["blip.momentum=false", "blip.queue=0", "blip.contrast=0", "blip.match=0"]
    more = [f"init={done.folder}", "fresh=[]", f"out={tmp_path / 'captions'}", *only, *small]
    again = patchword.load(loop.train(recipe.load("blip", more)).folder)
    photo = np.zeros((64, 64, 3), np.uint8)
    assert again.caption([photo])[0].text
    assert again.match([photo], ["a red circle"]).probabilities.shape == (1, 1)


def test_the_recipe_of_questions(tmp_path: Path) -> None:
    rows = []
    for number, (colour, paint) in enumerate([("red", (255, 0, 0)), ("blue", (0, 0, 255))] * 4):
        Image.new("RGB", (64, 64), paint).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,what colour is it?,{colour}\n")
    (tmp_path / "asked.csv").write_text("image,question,answer\n" + "".join(rows))
    settings = [f"out={tmp_path / 'run'}", f"data.0.path={tmp_path / 'asked.csv'}", "steps=40"]
    more = ["batch=8", "warmup=4", "engine.workers=0", "ema=0.8", "learning_rate=2e-3"]
    model = patchword.load(loop.train(recipe.load("vqa", [*settings, *more])).folder)
    for number, colour in enumerate(["red", "blue"]):
        assert model.ask(tmp_path / f"{number}.png", "what colour is it?").text == colour
