"""Training: the same recipe gives the same weights, interrupted or not."""

import json
import math
import random
import resource
import time
from collections.abc import Sequence
from functools import partial, partialmethod
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import tiny_blip
import torch
from forked_processes import start_command
from tiny_runs import OBJECTIVES, ONE_PROCESS, curve, load, photos, run_and_batches, write
from torch import nn
from torch.testing import assert_close

import patchword
from patchword.cli import main
from patchword.errors import PatchwordError, RecipeError
from patchword.images.preprocess import Preprocess
from patchword.nn.transformer import Block
from patchword.train import loop, optimizer, recipe, state

pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path)


def wait_for_steps(child: BaseProcess, folder: Path, steps: int) -> None:
    """Wait until a run in another process has recorded this many steps."""
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= steps):
        assert time.monotonic() < deadline
        assert child.is_alive(), (folder.parent / "said.err").read_text()
        time.sleep(0.002)


# Resume


class StoppedError(Exception):
    """Ends a run between two steps. Like a kill, it gives the run no chance to save."""


def kill(file: Path, rows: int, changes: Sequence[str]) -> None:
    """Run the command, and `kill -9` it when it has recorded this many steps."""
    process = start_command(file.parent / "said", "train", file, "engine.workers=1", *changes)
    wait_for_steps(process, file.parent / "run", rows)
    process.kill()
    process.join()


def interrupt(file: Path, rows: int, changes: Sequence[str]) -> None:
    """The same in this process: stop the run after that step, before it saves anything."""

    def report(step: int, values: dict[str, float]) -> None:
        if step == rows:
            raise StoppedError

    with pytest.raises(StoppedError):
        loop.train(load(file, *changes), report)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_killed_runs_continue_bit_for_bit(tmp_path: Path, objective: str) -> None:
    """One objective is really killed. The others are only interrupted, which is faster: killing
    does not depend on the objective."""
    file = write(tmp_path, objective)
    uninterrupted = loop.train(load(file, f"out={tmp_path / 'whole'}")).folder
    stop = kill if objective == "contrastive" else interrupt
    for rows in sorted(random.sample(range(1, 11), 2)):  # a new pair of steps every time
        stop(file, rows, OBJECTIVES[objective][1])
    continued = loop.train(load(file)).folder
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert list(curve(tmp_path / "run")) == list(range(1, 13))
    assert patchword.load(continued).fingerprint == patchword.load(uninterrupted).fingerprint


def test_sigterm_saves_and_says_how_to_go_on(path: Path, tmp_path: Path) -> None:
    changes = ["steps=2000", "checkpoint_every=1000", "engine.workers=2"]
    child = start_command(tmp_path / "said", "train", path, *changes)
    wait_for_steps(child, tmp_path / "run", 3)
    child.terminate()
    child.join(60)
    stderr = (tmp_path / "said.err").read_text()
    assert child.exitcode == 1, stderr
    (step,) = state.saved(tmp_path / "run")
    assert f"stopped after step {step}: the same command continues" in stderr
    assert list(curve(tmp_path / "run")) == list(range(1, step + 1))
    loop.train(load(path, "steps=2000", f"until={step + 2}"))
    assert list(curve(tmp_path / "run")) == list(range(1, step + 3))


def test_the_last_checkpoints_are_kept(path: Path, tmp_path: Path) -> None:
    loop.train(load(path, "keep=3"))
    assert list(state.saved(tmp_path / "run")) == [8, 10, 12]
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))


def test_a_run_in_two_parts_is_one_run(path: Path, tmp_path: Path) -> None:
    uninterrupted = loop.train(load(path, f"out={tmp_path / 'whole'}"))
    assert loop.train(load(path, "until=5")).step == 5
    rest = loop.train(load(path, "engine.workers=1", "keep=1", "monitor.every=3"))
    assert (rest.step, rest.samples) == (12, 7 * 12)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert (
        patchword.load(rest.folder).fingerprint == patchword.load(uninterrupted.folder).fingerprint
    )


def test_a_full_disk_leaves_the_checkpoint_before(path: Path, tmp_path: Path) -> None:
    loop.train(load(path, "until=4"))
    before = {step: file.read_bytes() for step, file in state.saved(tmp_path / "run").items()}
    size = len(before[4])
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size // 2, size // 2))
    child = start_command(tmp_path / "said", "train", path, first=[limit])
    child.join()
    stderr = (tmp_path / "said.err").read_text()
    assert child.exitcode == 2, stderr
    assert "that of step 4 is unharmed" in stderr
    assert {k: f.read_bytes() for k, f in state.saved(tmp_path / "run").items()} == before
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))
    assert loop.train(load(path)).step == 12


def test_a_file_that_is_no_checkpoint_is_named(path: Path, tmp_path: Path) -> None:
    loop.train(load(path, "until=4"))
    last = state.saved(tmp_path / "run")[4]
    content = last.read_bytes()
    middle = len(content) // 2
    zeroed = content[:middle] + bytes(64) + content[middle + 64 :]  # torch would load it
    for damaged in (content[:1000], b"hi\n", zeroed):
        last.write_bytes(damaged)
        with pytest.raises(RecipeError, match=r"step-00000004\.pt: not a checkpoint"):
            state.load(last)
    last.unlink()
    assert loop.train(load(path)).samples == 10 * 12


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ("learning_rate=1e-4", "learning_rate"),
        ("data.0.count=41", "data, data read"),
        ("model.text.width=64", "model"),
        ("steps=13", "steps"),
    ],
)
def test_the_checkpoint_of_another_run(path: Path, change: str, fields: str) -> None:
    loop.train(load(path, "until=2"))
    with pytest.raises(RecipeError, match=f"is of another run: {fields} differ") as error:
        loop.train(load(path, change))
    assert "a new out, or delete" in str(error.value)
    assert ("falls to zero over steps" in str(error.value)) == (fields == "steps")


def test_a_finished_run_says_how_to_go_on_from_what_it_learned(path: Path, tmp_path: Path) -> None:
    done = loop.train(load(path, "steps=2", "warmup=0"))
    with pytest.raises(RecipeError, match=f"init={done.folder} and a new out"):
        loop.train(load(path, "steps=4", "warmup=0"))


def test_a_run_that_begins_overwrites_no_model(path: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    run = loop.Run(load(path), ONE_PROCESS)
    with pytest.raises(RecipeError, match=r"without a checkpoint .* give another out"):
        run.resume()


def test_a_warmup_longer_than_the_run_is_told(path: Path) -> None:
    with pytest.warns(UserWarning, match="warmup is 500, of 2 steps: .* to 8e-06, not to 0.002"):
        loop.Run(load(path, "steps=2", "warmup=500"), ONE_PROCESS)


def test_the_checkpoint_of_another_version(path: Path, tmp_path: Path) -> None:
    """Old checkpoints have no format, and other recipe keys."""
    loop.train(load(path, "until=2"))
    file = state.saved(tmp_path / "run")[2]
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint.pop("format") == state.FORMAT
    torch.save(checkpoint, file)
    with pytest.raises(RecipeError, match=f"{file}: written by another version of patchword, .*"):
        loop.train(load(path))


def test_a_checkpoint_whose_list_of_parts_is_damaged_is_none(tmp_path: Path) -> None:
    file = tmp_path / "step-00000001.pt"
    torch.save({"step": 1, "network": torch.ones(9)}, file)
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\1\2") + 10] = 8  # declares one part as compressed
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=r"not a checkpoint of a run .* delete it to go on from"):
        state.load(file)


@pytest.mark.parametrize("other", [[1, 2], torch.ones(3), {"format": state.FORMAT}])
def test_another_file_of_torch_is_no_checkpoint(other: object, tmp_path: Path) -> None:
    torch.save(other, tmp_path / "step-00000001.pt")
    with pytest.raises(RecipeError, match="not a checkpoint of a run, but another file of torch"):
        state.load(tmp_path / "step-00000001.pt")


# Steps


def test_rate_warms_up_and_falls_to_zero(path: Path) -> None:
    plan = load(path, "steps=104")
    rates = [optimizer.learning_rate(plan, step) for step in range(105)]
    assert rates[:4] == pytest.approx([0.0005, 0.001, 0.0015, 0.002])
    assert rates[54] == pytest.approx(0.001)
    assert rates[104] == pytest.approx(0)


def test_pixels_are_bytes_up_to_the_device(path: Path) -> None:
    """There they become what `Preprocess` gives, bit for bit."""
    run = loop.Run(load(path), ONE_PROCESS)
    batch = next(run.batches(0))
    on_device = run.on_device(batch)
    assert (batch.pixels.dtype, on_device.pixels.dtype) == (torch.uint8, torch.float32)
    preprocess = Preprocess(run.initial.config.preprocess)
    for levels, pixels in zip(batch.pixels.numpy(), on_device.pixels.numpy(), strict=True):
        assert np.array_equal(preprocess.normalised(levels), pixels)


def test_average_is_exponential(path: Path) -> None:
    run, batches = run_and_batches(path)
    expected = {k: v.double() for k, v in run.average.items()}
    for step, batch in enumerate(batches):
        run.step(step, batch)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in run.network.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    for name, value in run.average.items():
        assert_close(value, expected[name].float())


def loss_and_gradients(file: Path, *changes: str) -> tuple[torch.Tensor, dict]:
    """Of the first batch, with the gradients by parameter."""
    run, (batch, *_) = run_and_batches(file, *changes)
    loop.training_mode(run.network)
    loss = run.backward(run.objective.prepare(batch, 0))
    return loss, {name: p.grad for name, p in run.network.named_parameters()}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_change_nothing(tmp_path: Path, objective: str) -> None:
    file = write(tmp_path, objective)
    assert_close(loss_and_gradients(file, "micro_batch=5"), loss_and_gradients(file))


def test_micro_batches_with_batch_norms_are_told(
    path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    stem = ["model.vision.stem_stages=[1,1]", "model.vision.stem_width=8"]
    for changes in (["micro_batch=5"], stem, ["micro_batch=12", *stem]):
        run_and_batches(path, *changes)
    assert not recwarn
    with pytest.warns(UserWarning, match="the model's batch norms"):
        run_and_batches(path, "micro_batch=5", *stem)


@pytest.mark.parametrize("change", ["engine.gradient_checkpointing=true", "engine.compile=true"])
def test_ways_to_compute_change_nothing(
    path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend that compiles builds no kernels, which would take minutes."""
    compile_eagerly = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(Block, "compile", compile_eagerly)
    assert_close(loss_and_gradients(path, change), loss_and_gradients(path))


def test_no_block_of_a_compiled_run_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch compiles a limited number of versions of a function, and would run others
    uncompiled."""
    compile_eagerly = partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(Block, "compile", compile_eagerly)
    changes = ["engine.compile=true", "engine.precision=bfloat16", "until=1", *tiny_blip.MOMENTUM]
    torch._dynamo.reset()
    limits = {"recompile_limit": 8, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(limits):  # restores the values afterwards
        loop.train(recipe.load(tiny_blip.write(tmp_path), changes))
    assert len(curve(tmp_path / "run")) == 1


def test_bfloat16_learns_what_float32_learns(path: Path, tmp_path: Path) -> None:
    loop.train(load(path))
    loop.train(load(path, f"out={tmp_path / 'half'}", "engine.precision=bfloat16"))
    float32, bfloat16 = curve(tmp_path / "run"), curve(tmp_path / "half")
    assert bfloat16 != float32
    assert list(bfloat16.values()) == pytest.approx(list(float32.values()), rel=0.02)


def test_a_scale_at_its_limit_can_become_smaller_again(path: Path) -> None:
    """CLIP and open_clip clip the parameter in training: a clamp alone has no gradient there."""
    run = loop.Run(load(path, "learning_rate=0.05", "warmup=1"), ONE_PROCESS)
    limit, batches = run.initial.config.scale_limit, run.batches(0)
    values = []
    with torch.no_grad():
        run.network.logit_scale.fill_(math.log(limit) + 0.01)
    for step, batch in enumerate(islice(batches, 4)):
        values.append(run.step(step, batch)["logit_scale"])
    assert values[0] <= limit
    assert values[0] > values[1] > values[3]  # the loss of an untrained model falls with the scale
    up = torch.optim.SGD([run.network.logit_scale], lr=1.0)
    run.network.logit_scale.grad = torch.tensor(-10.0)
    up.step()
    optimizer.clip_scale(run.network, run.initial.config)
    run.network.scale.backward()
    assert limit * (1 - 1e-5) < run.network.scale.item() <= limit
    assert run.network.logit_scale.grad > 0


def test_norms_biases_and_positions_do_not_decay(path: Path) -> None:
    run, _ = run_and_batches(path)
    names = {id(p): name for name, p in run.network.named_parameters()}
    decayed, not_decayed = (
        {names[id(p)] for p in group["params"]} for group in run.optimizer.param_groups
    )
    assert {"image.blocks.0.attn.qkv.weight", "text.blocks.0.mlp.fc1.weight"} <= decayed
    assert {"image.pos_embed", "image.cls_token", "logit_scale", "image.norm.weight"} <= not_decayed
    assert all(name.endswith("weight") for name in decayed)
    assert not decayed & not_decayed


# Data and recipes that cannot be used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz=3", r"no field stepz \(do you mean steps\?\)"),
        ("engine.worker=3", r"no field worker \(do you mean workers\?\)"),
        ("data.7.path=x", "the recipe has no 'data.7.path'"),
        ("data.0.count=0", "count"),
        ("engine.precision=float16", "must be one of 'float32', 'bfloat16'"),
        ("steps", "is not key=value"),
        ("steps=many", "not a whole number"),
        ("steps=0", "it must be 1 or more"),
        ("model.vision.heads=5", "do not divide"),
        ("label_smoothing=0.1", "label_smoothing needs classes"),
        ("teacher.model=demo", "a teacher's kind is features or logits"),
        ('trainable=["tail"]', "no part 'tail'; there are image.blocks"),
        ("init=/nowhere", "no such file"),
        ("objective=masked", "needs \\[model.masked\\]"),
        ('lora.layers=["nothing"]', "no linear layer ends in nothing"),
        ('lora.layers=["attn.qkv","nothing"]', "no linear layer ends in nothing"),
        ('lora.within=["image","txt"]', "no linear layer is within txt"),
        ("data.0.kind=table data.0.split=test", "split is of folders and of the hub"),
        ('init=demo fresh=["txt"]', "fresh: no part 'txt'; there are .*text, text.blocks"),
        ('init=demo fresh=["text"]', r"set fresh = \[.*'image.norm', .*'text'\]"),
        ('init=demo fresh=["text.blocks.9"]', "fresh: no part 'text.blocks.9'"),
        ("init=demo", "does not fit the recipe's model"),
    ],
)
def test_bad_recipes_say_why(path: Path, change: str, message: str) -> None:
    with pytest.raises(PatchwordError, match=message):
        loop.train(load(path, *change.split()))


def test_missing_and_broken_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml: .*shipped recipes: blip, clip, deit"):
        recipe.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        recipe.load(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").write_text("out = 'x'\nsteps = 3\ndata = []")
    with pytest.raises(RecipeError, match=r"needs a \[model\]"):
        recipe.load(tmp_path / "empty.toml")


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = loop.Run.backward

    def backward_with_nan(self: loop.Run, inputs: loop.Inputs) -> torch.Tensor:
        if self.optimizer.state and next(iter(self.optimizer.state.values()))["step"] == 6:
            inputs.pixels[0, 0, 0, 0] = torch.nan
        return backward(self, inputs)

    monkeypatch.setattr(loop.Run, "backward", backward_with_nan)
    with pytest.raises(RecipeError, match="gradient nan at step 7; that of step 6 is good"):
        loop.train(load(path))
    monkeypatch.undo()
    assert list(curve(tmp_path / "run")) == list(range(1, 7))
    assert loop.train(load(path)).samples == 6 * 12


@pytest.fixture
def scenes_and_photos(tmp_path: Path) -> Path:
    """A recipe with scenes, and with photos of which two are broken."""
    folder = photos(tmp_path / "photos")
    (folder / "a-hat" / "broken.png").write_bytes(b"not a photo")
    (folder / "a-hat" / "cut.png").write_bytes((folder / "a-hat" / "0.png").read_bytes()[:60])
    table = f'\n[[data]]\nkind = "folder"\npath = "{folder}"\nnames = [["hat", "cap"], ["shirt"]]\n'
    return write(tmp_path, data=table)


def test_broken_photos_cost_nothing_but_themselves(scenes_and_photos: Path, tmp_path: Path) -> None:
    done = loop.train(load(scenes_and_photos, "steps=80"))
    assert {Path(error.image).name for error in done.broken} == {"broken.png", "cut.png"}
    rows = (tmp_path / "run" / "broken.jsonl").read_text().splitlines()
    assert sorted(Path(json.loads(row)["name"]).name for row in rows) == ["broken.png", "cut.png"]
    model = patchword.load(done.folder)
    files = sorted((tmp_path / "photos").glob("*/[0-9]*.png"))
    best = [scores[0].label for scores in model.classify(files, ["hat", "shirt"])]
    right = [label in file.parent.name for label, file in zip(best, files, strict=True)]
    assert sum(right) >= 0.9 * len(right)


def test_too_many_broken_photos_stop_the_run(scenes_and_photos: Path) -> None:
    with pytest.raises(RecipeError, match="more than max_broken = 1"):
        loop.train(load(scenes_and_photos, "steps=30", "max_broken=1"))


def test_the_command_names_what_it_passed_over(
    scenes_and_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", str(scenes_and_photos), "steps=12"])
    assert stop.value.code == 1
    assert "broken.png: not an image" in capsys.readouterr().err
