"""Objectives: each loss against its formula, frozen parts, teachers, adapters, initial weights."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import load, photos, run_and_batches, write
from torch.testing import assert_close

import patchword
from patchword import losses
from patchword.errors import RecipeError
from patchword.train import loop, lora, objectives
from patchword.train.recipe import Objective

pytestmark = pytest.mark.slow


def weights(model: Path | str) -> dict[str, torch.Tensor]:
    return patchword.load(model).network.state_dict()


def value(run: loop.Run, batch: object, step: int = 0) -> torch.Tensor:
    inputs = run.objective.prepare(batch, step)
    return run.objective.loss(inputs, *run.objective(inputs))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A small CLIP."""
    return loop.train(load(write(tmp_path), f"out={tmp_path / 'start'}", "steps=4")).folder


# Pairs


@pytest.mark.parametrize("objective", ["contrastive", "sigmoid"])
def test_pairs_equal_the_loss_of_their_features(tmp_path: Path, objective: str) -> None:
    run, (batch, *_) = run_and_batches(write(tmp_path, objective))
    image, text, scale, *bias = run.network(batch.pixels, batch.ids)
    true = torch.tensor([[a <= b for a in batch.caption_facts] for b in batch.image_facts])
    true |= torch.eye(len(true), dtype=torch.bool)
    logits = scale * image @ text.T
    if objective == "sigmoid":
        signs = torch.where(true, 1.0, -1.0)
        expected = -F.logsigmoid(signs * (logits + bias[0])).sum() / len(true)
    else:
        rows, columns = (m.float() / m.sum(1, keepdim=True) for m in (true, true.T))
        expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2
    assert_close(value(run, batch), expected)
    assert true.sum() > len(true)  # some caption is true of another image


def test_captions_alike_are_no_negatives(tmp_path: Path) -> None:
    run, (batch, *_) = run_and_batches(write(tmp_path))
    facts = [frozenset([word]) for word in "abcabdefghij"]
    inputs = run.objective.prepare(replace(batch, caption_facts=facts, image_facts=facts), 0)
    groups = inputs.positives.tolist()
    assert [groups[i] == groups[j] for i, j in ((0, 3), (1, 4), (0, 1), (2, 5))] == [1, 1, 0, 0]
    different = [frozenset([str(i)]) for i in range(12)]
    assert (
        run.objective.prepare(
            replace(batch, caption_facts=different, image_facts=different), 0
        ).positives
        is None
    )


def test_mixed_pairs_have_mixed_targets(tmp_path: Path) -> None:
    run, (batch, *_) = run_and_batches(write(tmp_path), "mix.mixup=0.8")
    batch.mix[:] = torch.arange(12) < 6
    pixels = batch.pixels.clone()
    facts = [frozenset([str(i)]) for i in range(12)]
    inputs = run.objective.prepare(replace(batch, caption_facts=facts, image_facts=facts), 3)
    share = inputs.positives[0, 0]
    assert 0 < share < 1
    assert_close(inputs.pixels[6:], pixels[6:])
    assert_close(inputs.pixels[:6], share * pixels[:6] + (1 - share) * pixels[:6].flip(0))
    eye = torch.eye(12)
    assert_close(inputs.positives[6:], eye[6:])
    assert_close(inputs.positives[:6], share * eye[:6] + (1 - share) * eye[:6].flip(0))
    again = run.objective.prepare(
        replace(batch, pixels=pixels, caption_facts=facts, image_facts=facts), 3
    )
    assert_close(again.pixels, inputs.pixels, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["features", "logits"])
def test_a_teacher_of_pairs(tmp_path: Path, trained: Path, kind: str) -> None:
    changes = [f"init={trained}", f"teacher.model={trained}", f"teacher.kind={kind}"]
    run, (batch, *_) = run_and_batches(write(tmp_path), *changes, "teacher.weight=0.5")
    with torch.no_grad():
        run.network.image.head.weight.mul_(torch.linspace(0.5, 2, 32)[:, None])
    image, text, scale = run.network(batch.pixels, batch.ids)
    theirs = patchword.load(trained).network(batch.pixels, batch.ids)
    positives = run.objective.prepare(batch, 0).positives
    if kind == "features":
        distance = ((image - theirs[0]) ** 2).sum(1).mean() + ((text - theirs[1]) ** 2).sum(
            1
        ).mean()
    else:
        a, b = scale * image @ text.T, theirs[2] * theirs[0] @ theirs[1].T
        distance = (F.cross_entropy(a, b.softmax(1)) + F.cross_entropy(a.T, b.T.softmax(1))) / 2
    contrastive = losses.contrastive(image, text, scale, positives)
    assert distance > 1e-3
    assert_close(value(run, batch), contrastive + 0.5 * distance)


# Classes


def test_classes_equal_cross_entropy(tmp_path: Path) -> None:
    run, (batch, *_) = run_and_batches(write(tmp_path, "classification"), "label_smoothing=0.1")
    logits = run.network(batch.pixels)
    assert logits.shape == (12, 5)
    assert_close(value(run, batch), F.cross_entropy(logits, batch.labels, label_smoothing=0.1))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_teacher_of_classes_talks_to_the_distillation_token(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, "classification")
    teacher = loop.train(load(file, f"out={tmp_path / 'teacher'}", "steps=20")).folder
    changes = [f"teacher.model={teacher}", f"teacher.kind={kind}", "model.vision.pool=distilled"]
    run, (batch, *_) = run_and_batches(
        file, *changes, "teacher.weight=0.3", "teacher.temperature=2.0"
    )
    first, second = run.network.heads(batch.pixels)
    assert (first - second).abs().max() > 1e-3
    theirs = patchword.load(teacher).network(batch.pixels)
    labels = F.cross_entropy(first, batch.labels)
    if kind == "hard":  # Touvron et al. 2021, eq. 3
        expected = (labels + F.cross_entropy(second, theirs.argmax(1))) / 2
    else:  # eq. 2
        p, q = (theirs / 2).softmax(1), (second / 2).softmax(1)
        expected = 0.7 * labels + 0.3 * 4 * (p * (p / q).log()).sum(1).mean()
    assert_close(value(run, batch), expected)


@pytest.mark.parametrize("objective", ["contrastive", "classification"])
def test_a_teacher_sees_no_more_at_a_time_than_the_student(
    tmp_path: Path, trained: Path, objective: str
) -> None:
    file = write(tmp_path, objective)
    teacher, kind = trained, "logits"
    if objective == "classification":
        teacher, kind = (
            loop.train(load(file, f"out={tmp_path / 'teacher'}", "steps=1")).folder,
            "soft",
        )
    run, (batch, *_) = run_and_batches(file, f"teacher.model={teacher}", f"teacher.kind={kind}")
    expected, network = run.objective.prepare(batch, 0), run.objective.teacher.network
    batch_sizes: list[int] = []
    network.image.register_forward_hook(
        lambda tower, given, found: batch_sizes.append(len(given[0]))
    )
    run.objective.recipe = replace(run.recipe, micro_batch=5)
    parts = run.objective.prepare(batch, 0)
    assert batch_sizes == [5, 5, 2]
    for name, value in vars(expected).items():
        if name.startswith("teacher"):
            assert_close(getattr(parts, name), value)


def test_teachers_that_cannot_answer(tmp_path: Path, trained: Path) -> None:
    file = write(tmp_path)
    with pytest.raises(RecipeError, match="demo cannot be the teacher: it preprocesses as"):
        loop.train(load(file, "teacher.model=demo", "teacher.kind=logits"))
    other = loop.train(load(file, f"out={tmp_path / 'other'}", "data.0.only=wafer", "steps=1"))
    with pytest.raises(RecipeError, match="its tokenizer is another"):
        loop.train(load(file, f"teacher.model={other.folder}", "teacher.kind=logits"))
    classes = write(tmp_path, "classification")
    with pytest.raises(RecipeError, match="its classes are none"):
        loop.train(load(classes, f"teacher.model={trained}"))


# Masked


def test_masked_equals_the_error_of_the_hidden_patches(tmp_path: Path) -> None:
    run, (batch, *_) = run_and_batches(write(tmp_path, "masked"), "model.masked.norm_pixels=true")
    inputs = run.objective.prepare(batch, 5)
    predicted, hidden = run.network(inputs.pixels, inputs.noise)
    patches = batch.pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3)
    patches = patches.flatten(1, 2).double()
    target = (patches - patches.mean(2, keepdim=True)) / (
        patches.var(2, keepdim=True) + 1e-6
    ).sqrt()
    expected = ((predicted - target) ** 2).mean(2)[hidden].mean()
    assert_close(value(run, batch, 5), expected.float())
    assert hidden.float().mean() == 0.75
    other = run.objective.prepare(batch, 6)
    assert not torch.equal(other.noise, inputs.noise)


def test_an_autoencoder_that_hides_nothing_has_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="mask_ratio 0 hides none of 16 patches"):
        run_and_batches(write(tmp_path, "masked"), "model.masked.mask_ratio=0")
    run, _ = run_and_batches(write(tmp_path, "masked"), "model.masked.mask_ratio=0.05")
    assert run.network.config.mask_ratio == 0.05


# What stays, and what comes from where


def test_frozen_parts_stay_bit_for_bit(tmp_path: Path, trained: Path) -> None:
    """LiT: the image tower of a trained model, a new text tower."""
    parts = '["text", "logit_scale"]'
    changes = [f"init={trained}", f"fresh={parts}", f"trainable={parts}"]
    after = weights(loop.train(load(write(tmp_path), *changes)).folder)
    before = weights(trained)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("image.")}


def test_a_probe_trains_one_layer(tmp_path: Path, trained: Path) -> None:
    folder = photos(tmp_path / "photos")
    file = write(tmp_path, "classification")
    changes = [f"init={trained}", 'fresh=["image.head", "text", "logit_scale"]']
    changes += ['trainable=["image.head"]', f"data.0.path={folder}", "data.0.kind=folder"]
    done = loop.train(load(file, *changes, "data.0.only=", "steps=60", "learning_rate=0.05"))
    after, before = weights(done.folder), weights(trained)
    for name, value in after.items():
        assert name.startswith("image.head") or torch.equal(value, before[name]), name
    model = patchword.load(done.folder)
    assert model.config.labels == ("a-hat", "b-shirt")
    files = sorted(folder.glob("*/*.png"))
    predicted = [scores[0].label for scores in model.classify(files)]
    assert predicted == [file.parent.name for file in files]


def test_lora_is_its_formula_and_merges(tmp_path: Path, trained: Path) -> None:
    """Hu et al. 2022, section 4.1: h = W x + (alpha / r) B A x."""
    file = write(tmp_path)
    plain = patchword.load(trained).network
    network = patchword.load(trained).network
    config = load(file, "lora.rank=3", "lora.alpha=6").lora
    lora.add(network, config)
    learning = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in learning)
    assert len(learning) == 2 * 4 * 3  # A and B, four layers, three blocks
    generator = torch.Generator().manual_seed(0)
    for parameter in learning.values():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and ".blocks." in name:
            a, b = (learning[f"{name}.lora_{x}.default.weight"] for x in "AB")
            with torch.no_grad():
                module.weight += 2 * b @ a
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    ids = torch.tensor([[1, 2, 599], [4, 5, 599]])
    expected = plain(pixels, ids)
    assert_close(network(pixels, ids), expected)
    lora.merge(network)
    assert set(network.state_dict()) == set(plain.state_dict())
    assert_close(network.state_dict(), plain.state_dict())


def test_lora_leaves_a_plain_model(tmp_path: Path, trained: Path) -> None:
    changes = [f"init={trained}", "lora.rank=2", 'lora.within=["image"]']
    after = weights(loop.train(load(write(tmp_path), *changes)).folder)
    before = weights(trained)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    ends = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    assert changed == {f"image.blocks.{i}.{end}" for i in range(2) for end in ends}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.text.depth=2"], r"text.blocks.1.* missing there.*fresh = \['text.blocks'\]"),
        (["model.embed_dim=16"], r"image.head.weight is \(16, 32\) here and \(32, 32\) there"),
        (["model.vision.activation=quick_gelu"], "image: activation is quick_gelu here and gelu"),
        (["objective=sigmoid"], r"logit_bias is \(\) here and missing there"),
    ],
)
def test_init_of_another_model(
    tmp_path: Path, trained: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        loop.train(load(write(tmp_path), f"init={trained}", *changes))


def test_init_of_other_classes(tmp_path: Path) -> None:
    file = write(tmp_path, "classification")
    first = loop.train(load(file, f"out={tmp_path / 'first'}", "steps=1")).folder
    folder = photos(tmp_path / "photos")
    for name in ("c", "d", "e"):  # the same number of other classes
        (folder / name).mkdir()
        shutil.copy(folder / "a-hat" / "0.png", folder / name)
    changes = [f"data.0.path={folder}", "data.0.kind=folder", "data.0.only="]
    with pytest.raises(RecipeError, match="its classes are others"):
        loop.train(load(file, f"init={first}", *changes))


def test_every_objective_of_a_recipe_has_its_kind() -> None:
    assert set(objectives.KINDS) == set(get_args(Objective))
