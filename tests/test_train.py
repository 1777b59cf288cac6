"""Training: a function of its recipe, interrupted or not."""

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
from tiny_runs import OBJECTIVES, curve, load, photos, write
from torch import nn
from torch.testing import assert_close

import patchword
from patchword.cli import main
from patchword.errors import PatchwordError, RecipeError
from patchword.images.preprocess import Preprocess
from patchword.nn.transformer import Block
from patchword.train import loop, optimizer, parallel, recipe, state

pytestmark = pytest.mark.slow

ALONE = parallel.World(torch.device("cpu"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path)


def when(child: BaseProcess, folder: Path, rows: int) -> None:
    """Wait until a run, as a user runs it, has noted so many steps."""
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= rows):
        assert time.monotonic() < deadline
        assert child.is_alive(), (folder.parent / "said.err").read_text()
        time.sleep(0.002)


# Resume


class StoppedError(Exception):
    """Ends a run between two steps, as a kill does, without its knowing."""


def kill(file: Path, rows: int, changes: Sequence[str]) -> None:
    """`kill -9` of the run as a user starts it, once it has noted so many steps."""
    child = start_command(file.parent / "said", "train", file, "engine.workers=1", *changes)
    when(child, file.parent / "run", rows)
    child.kill()
    child.join()


def interrupt(file: Path, rows: int, changes: Sequence[str]) -> None:
    """The same in this process, after that step: nothing is saved there either."""

    def report(step: int, values: dict[str, float]) -> None:
        if step == rows:
            raise StoppedError

    with pytest.raises(StoppedError):
        loop.train(load(file, *changes), report)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_killed_runs_continue_bit_for_bit(tmp_path: Path, objective: str) -> None:
    """One objective is killed, the others are interrupted: how a process ends is not theirs."""
    file = write(tmp_path, objective)
    whole = loop.train(load(file, f"out={tmp_path / 'whole'}")).folder
    end = kill if objective == "contrastive" else interrupt
    for rows in sorted(random.sample(range(1, 11), 2)):  # a new pair of steps every time
        end(file, rows, OBJECTIVES[objective][1])
    again = loop.train(load(file)).folder
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert list(curve(tmp_path / "run")) == list(range(1, 13))
    assert patchword.load(again).fingerprint == patchword.load(whole).fingerprint


def test_sigterm_saves_and_says_how_to_go_on(path: Path, tmp_path: Path) -> None:
    long = ["steps=2000", "checkpoint_every=1000", "engine.workers=2"]
    child = start_command(tmp_path / "said", "train", path, *long)
    when(child, tmp_path / "run", 3)
    child.terminate()
    child.join(60)
    told = (tmp_path / "said.err").read_text()
    assert child.exitcode == 1, told
    (step,) = state.saved(tmp_path / "run")
    assert f"stopped after step {step}: the same command continues" in told
    assert list(curve(tmp_path / "run")) == list(range(1, step + 1))
    loop.train(load(path, "steps=2000", f"until={step + 2}"))
    assert list(curve(tmp_path / "run")) == list(range(1, step + 3))


def test_the_last_checkpoints_are_kept(path: Path, tmp_path: Path) -> None:
    loop.train(load(path, "keep=3"))
    assert list(state.saved(tmp_path / "run")) == [8, 10, 12]
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))


def test_a_run_in_two_parts_is_one_run(path: Path, tmp_path: Path) -> None:
    whole = loop.train(load(path, f"out={tmp_path / 'whole'}"))
    assert loop.train(load(path, "until=5")).step == 5
    rest = loop.train(load(path, "engine.workers=1", "keep=1", "monitor.every=3"))
    assert (rest.step, rest.samples) == (12, 7 * 12)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert patchword.load(rest.folder).fingerprint == patchword.load(whole.folder).fingerprint


def test_a_full_disk_leaves_the_checkpoint_before(path: Path, tmp_path: Path) -> None:
    loop.train(load(path, "until=4"))
    before = {step: file.read_bytes() for step, file in state.saved(tmp_path / "run").items()}
    size = len(before[4])
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size // 2, size // 2))
    child = start_command(tmp_path / "said", "train", path, first=[limit])
    child.join()
    told = (tmp_path / "said.err").read_text()
    assert child.exitcode == 2, told
    assert "that of step 4 is unharmed" in told
    assert {k: f.read_bytes() for k, f in state.saved(tmp_path / "run").items()} == before
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))
    assert loop.train(load(path)).step == 12


def test_a_file_that_is_no_checkpoint_is_named(path: Path, tmp_path: Path) -> None:
    loop.train(load(path, "until=4"))
    last = state.saved(tmp_path / "run")[4]
    whole = last.read_bytes()
    middle = len(whole) // 2
    zeroed = whole[:middle] + bytes(64) + whole[middle + 64 :]  # torch would read it
    for damaged in (whole[:1000], b"hi\n", zeroed):
        last.write_bytes(damaged)
        with pytest.raises(RecipeError, match=r"step-00000004\.pt: not a checkpoint"):
            state.load(last)
    last.unlink()
    assert loop.train(load(path)).samples == 10 * 12


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("learning_rate=1e-4", "learning_rate"),
        ("data.0.count=41", "data, data read"),
        ("model.text.width=64", "model"),
        ("steps=13", "steps"),
    ],
)
def test_the_checkpoint_of_another_run(path: Path, change: str, named: str) -> None:
    loop.train(load(path, "until=2"))
    with pytest.raises(RecipeError, match=f"is of another run: {named} differ") as error:
        loop.train(load(path, change))
    assert "a new out, or delete" in str(error.value)
    assert ("falls to zero over steps" in str(error.value)) == (named == "steps")


def test_a_finished_run_says_how_to_go_on_from_what_it_learned(path: Path, tmp_path: Path) -> None:
    done = loop.train(load(path, "steps=2", "warmup=0"))
    with pytest.raises(RecipeError, match=f"init={done.folder} and a new out"):
        loop.train(load(path, "steps=4", "warmup=0"))


def test_a_run_that_begins_overwrites_no_model(path: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    run = loop.Run(load(path), parallel.World(torch.device("cpu")))
    with pytest.raises(RecipeError, match=r"without a checkpoint .* give another out"):
        run.resume()


def test_a_warmup_longer_than_the_run_is_told(path: Path) -> None:
    with pytest.warns(UserWarning, match="warmup is 500, of 2 steps: .* to 8e-06, not to 0.002"):
        loop.Run(load(path, "steps=2", "warmup=500"), parallel.World(torch.device("cpu")))


def test_the_checkpoint_of_another_version(path: Path, tmp_path: Path) -> None:
    """As those before checkpoints had a format: the recipe's keys were others."""
    loop.train(load(path, "until=2"))
    file = state.saved(tmp_path / "run")[2]
    kept = torch.load(file, weights_only=True)
    assert kept.pop("format") == state.FORMAT
    torch.save(kept, file)
    with pytest.raises(RecipeError, match=f"{file}: written by another version of patchword, .*"):
        loop.train(load(path))


def test_a_checkpoint_whose_list_of_parts_is_damaged_is_none(tmp_path: Path) -> None:
    file = tmp_path / "step-00000001.pt"
    torch.save({"step": 1, "network": torch.ones(9)}, file)
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\1\2") + 10] = 8  # a part seems to be compressed
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


def some_run(file: Path, *changes: str) -> tuple[loop.Run, list]:
    """A run and its first batches."""
    from patchword import data

    run = loop.Run(load(file, *changes), ALONE)
    plan = data.Plan([len(s) for s in run.sources], [1.0], run.recipe.batch, run.recipe.seed)
    batches = data.batches(run.sources, plan, run.objective.collate(), 0, 3)
    return run, [run.seen(batch) for batch in batches]


def test_pixels_are_bytes_up_to_the_device(path: Path) -> None:
    """And then what `Preprocess` makes of them, bit for bit."""
    from patchword import data

    run, (seen, *_) = some_run(path)
    plan = data.Plan([len(s) for s in run.sources], [1.0], run.recipe.batch, run.recipe.seed)
    sent = next(data.batches(run.sources, plan, run.objective.collate(), 0, 1))
    assert (sent.pixels.dtype, seen.pixels.dtype) == (torch.uint8, torch.float32)
    preprocess = Preprocess(run.initial.config.preprocess)
    for levels, pixels in zip(sent.pixels.numpy(), seen.pixels.numpy(), strict=True):
        assert np.array_equal(preprocess.normalised(levels), pixels)


def test_average_is_exponential(path: Path) -> None:
    run, batches = some_run(path)
    expected = {k: v.double() for k, v in run.average.items()}
    for step, batch in enumerate(batches):
        run.step(step, batch)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in run.network.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    for name, value in run.average.items():
        assert_close(value, expected[name].float())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_change_nothing(tmp_path: Path, objective: str) -> None:
    file = write(tmp_path, objective)
    found = []
    for changes in ([], ["micro_batch=5"]):
        run, batches = some_run(file, *changes)
        loss = run.backward(run.objective.prepare(batches[0], 0))
        found.append((loss, {n: p.grad for n, p in run.network.named_parameters()}))
    assert_close(found[1], found[0])


def test_micro_batches_with_batch_norms_are_told(
    path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    stem = ["model.vision.stem_stages=[1,1]", "model.vision.stem_width=8"]
    for changes in (["micro_batch=5"], stem, ["micro_batch=12", *stem]):
        some_run(path, *changes)
    assert not recwarn
    with pytest.warns(UserWarning, match="the model's batch norms"):
        some_run(path, "micro_batch=5", *stem)


@pytest.mark.parametrize("change", ["engine.gradient_checkpointing=true", "engine.compile=true"])
def test_ways_to_compute_change_nothing(
    path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled without kernels of its own, which take minutes to build."""
    whole = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(Block, "compile", whole)
    found = []
    for changes in ([], [change]):
        run, batches = some_run(path, *changes)
        loop.training_mode(run.network)
        loss = run.backward(run.objective.prepare(batches[0], 0))
        found.append((loss, {n: p.grad for n, p in run.network.named_parameters()}))
    assert_close(found[1], found[0])


def test_no_block_of_a_compiled_run_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch makes so many versions of a piece of code, and would run the next ones as written."""
    whole = partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(Block, "compile", whole)
    changes = ["engine.compile=true", "engine.precision=bfloat16", "until=1", *tiny_blip.MOMENTUM]
    torch._dynamo.reset()
    limits = {"recompile_limit": 8, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(limits):  # set back afterwards, too
        loop.train(recipe.load(tiny_blip.write(tmp_path), changes))
    assert len(curve(tmp_path / "run")) == 1


def test_bfloat16_learns_what_float32_learns(path: Path, tmp_path: Path) -> None:
    loop.train(load(path))
    loop.train(load(path, f"out={tmp_path / 'half'}", "engine.precision=bfloat16"))
    whole, half = curve(tmp_path / "run"), curve(tmp_path / "half")
    assert half != whole
    assert list(half.values()) == pytest.approx(list(whole.values()), rel=0.02)


def test_a_scale_at_its_limit_can_become_smaller_again(path: Path) -> None:
    """CLIP's and open_clip's training clips the parameter; a clamp alone has no gradient there."""
    run = loop.Run(
        load(path, "learning_rate=0.05", "warmup=1"), parallel.World(torch.device("cpu"))
    )
    limit, batches = run.initial.config.scale_limit, run.batches(0)
    values = []
    with torch.no_grad():
        run.network.logit_scale.fill_(math.log(limit) + 0.01)
    for step, batch in enumerate(islice(batches, 4)):
        values.append(run.step(step, batch)["logit_scale"])
    assert values[0] <= limit
    assert values[0] > values[1] > values[3]  # an untrained model wants a smaller one
    up = torch.optim.SGD([run.network.logit_scale], lr=1.0)
    run.network.logit_scale.grad = torch.tensor(-10.0)
    up.step()
    optimizer.clip_scale(run.network, run.initial.config)
    run.network.scale.backward()
    assert limit * (1 - 1e-5) < run.network.scale.item() <= limit
    assert run.network.logit_scale.grad > 0


def test_norms_biases_and_positions_do_not_decay(path: Path) -> None:
    run, _ = some_run(path)
    names = {id(p): name for name, p in run.network.named_parameters()}
    decayed, plain = (
        {names[id(p)] for p in group["params"]} for group in run.optimizer.param_groups
    )
    assert {"image.blocks.0.attn.qkv.weight", "text.blocks.0.mlp.fc1.weight"} <= decayed
    assert {"image.pos_embed", "image.cls_token", "logit_scale", "image.norm.weight"} <= plain
    assert all(name.endswith("weight") for name in decayed)
    assert not decayed & plain


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
        ('init=demo fresh=["text"]', r"set fresh = \[.*'image.norm', .*'text'\]"),  # keeps what is
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
    plain = loop.Run.backward

    def poisoned(self: loop.Run, work: loop.Work) -> torch.Tensor:
        if self.optimizer.state and next(iter(self.optimizer.state.values()))["step"] == 6:
            work.pixels[0, 0, 0, 0] = torch.nan
        return plain(self, work)

    monkeypatch.setattr(loop.Run, "backward", poisoned)
    with pytest.raises(RecipeError, match="gradient nan at step 7; that of step 6 is good"):
        loop.train(load(path))
    monkeypatch.undo()
    assert list(curve(tmp_path / "run")) == list(range(1, 7))
    assert loop.train(load(path)).samples == 6 * 12


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Scenes, and photos of which two are broken."""
    folder = photos(tmp_path / "photos")
    (folder / "a-hat" / "broken.png").write_bytes(b"not a photo")
    (folder / "a-hat" / "cut.png").write_bytes((folder / "a-hat" / "0.png").read_bytes()[:60])
    table = f'\n[[data]]\nkind = "folder"\npath = "{folder}"\nnames = [["hat", "cap"], ["shirt"]]\n'
    return write(tmp_path, data=table)


def test_broken_photos_cost_nothing_but_themselves(mixture: Path, tmp_path: Path) -> None:
    done = loop.train(load(mixture, "steps=80"))
    assert {Path(error.image).name for error in done.broken} == {"broken.png", "cut.png"}
    rows = (tmp_path / "run" / "broken.jsonl").read_text().splitlines()
    assert sorted(Path(json.loads(row)["name"]).name for row in rows) == ["broken.png", "cut.png"]
    model = patchword.load(done.folder)
    files = sorted((tmp_path / "photos").glob("*/[0-9]*.png"))
    best = [scores[0].label for scores in model.classify(files, ["hat", "shirt"])]
    right = [label in file.parent.name for label, file in zip(best, files, strict=True)]
    assert sum(right) >= 0.9 * len(right)


def test_too_many_broken_photos_stop_the_run(mixture: Path) -> None:
    with pytest.raises(RecipeError, match="more than max_broken = 1"):
        loop.train(load(mixture, "steps=30", "max_broken=1"))


def test_the_command_names_what_it_passed_over(
    mixture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", str(mixture), "steps=12"])
    assert stop.value.code == 1
    assert "broken.png: not an image" in capsys.readouterr().err
