"""Values of recipes: errors that name invalid ones, and what valid ones do."""

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_processes import start_command
from PIL import Image
from safetensors.torch import load_file
from small_models import shrunk, tiny_bundle, tiny_clip
from torch import nn

from patchword import checkpoints, models, variants
from patchword.bundle import make
from patchword.errors import CheckpointError, CheckpointWarning, RecipeError, ScopeWarning
from patchword.train import recipe
from patchword.train.initial_model import create, load_init
from patchword.train.loop import Run, train
from patchword.train.lora import adapter_writer
from patchword.train.optimizer import learning_rate, parameter_groups
from patchword.train.parallel import World, clip_gradients

pytestmark = pytest.mark.slow

BASE = """out = "run"
steps = 100
batch = 8
init = "demo"
warmup = 0
[[data]]
kind = "scenes"
count = 10
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(BASE)
    return file


@pytest.mark.parametrize(
    "change",
    [
        "steps=0", "batch=0", "keep=0", "checkpoint_every=-1", "until=101", "until=-1",
        "learning_rate=0", "learning_rate=-1e-3", "learning_rate=nan", "learning_rate=inf",
        "ema=1.5", "ema=-0.1", "warmup=-3", "clip_norm=-1", "micro_batch=-4", "micro_batch=9",
        "weight_decay=-0.1", "image_size=-1", "max_broken=-1", "label_smoothing=2", "seed=-1",
        f"seed={2**64}", "label_smoothing=1", "lora.dropout=1",  # would learn nothing
        "mix.mixup=-1", "mix.cutmix=-1", "mix.share=1.5", "lora.rank=0", "lora.dropout=2",
        "teacher.weight=-1", "teacher.temperature=0", "blip.contrast=-1", "blip.texts=0",
        "blip.soft_targets=2", "blip.soft_targets_warmup=-1", "blip.cross_query_scale=0",
        "blip.sincos_positions=-1", "blip.queue=-1", "engine.workers=-1", "data.0.share=0",
        "data.0.count=-1", "data.0.wrong_captions=2", "data.0.seed=-1", "data.0.augment.colour=2",
        "data.0.augment.erase=-1",
    ],
)  # fmt: skip
def test_numbers_that_cannot_be(base: Path, change: str) -> None:
    name = change.partition("=")[0].replace("data.0.", "data.").replace("data.augment", "augment")
    with pytest.raises(RecipeError, match=rf"{name} is .*; it must be "):
        recipe.load(base, ["teacher.model=demo", change])


def test_a_soft_teacher_leaves_the_labels_their_share(base: Path) -> None:
    """With a weight above 1, training would increase the cross-entropy with the labels."""
    changes = ["objective=classification", "teacher.model=demo", "teacher.weight=2"]
    with pytest.raises(RecipeError, match=r"teacher.weight is 2.0; .* at most 1"):
        recipe.load(base, [*changes, "teacher.kind=soft"])
    loaded = recipe.load(base, ["teacher.model=demo", "teacher.kind=features", "teacher.weight=2"])
    assert loaded.teacher
    assert loaded.teacher.weight == 2


@pytest.mark.parametrize("objective", ["contrastive", "sigmoid"])
def test_one_pair_cannot_be_compared(base: Path, objective: str) -> None:
    changes = [f"objective={objective}", "micro_batch=1"]  # the loss is that of the whole batch
    assert recipe.load(base, [*changes, "batch=2"]).batch == 2
    with pytest.raises(RecipeError, match=f"batch is 1: the objective {objective} .* 2 or more"):
        recipe.load(base, [*changes, "batch=1"])


@pytest.mark.parametrize("objective", ["masked", "classification"])
def test_one_image_can_be_learned_alone(base: Path, objective: str) -> None:
    assert recipe.load(base, [f"objective={objective}", "batch=1"]).batch == 1


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        (["batch=1", "blip.match=0"], 1, "batch is 1: blip.contrast"),
        (["batch=1", "blip.match=0", "blip.momentum=true"], 1, "blip.contrast"),
        (["batch=1", "blip.match=0", "blip.momentum=true", "blip.queue=8"], 1, ""),
        (["batch=1", "blip.match=0", "blip.contrast=0"], 1, ""),
        (["batch=1", "blip.contrast=0"], 1, "alone in memory, and blip.match"),
        (["batch=1", "blip.contrast=0", "data.0.wrong_captions=0.5"], 1, ""),
        (["batch=4"], 4, "processes 4: some image is alone"),
        (["batch=4"], 2, ""),
        (["batch=5"], 2, "5 does not divide among 2 processes"),
        (["batch=4", "micro_batch=1", "blip.momentum=true"], 1, "alone in memory"),
        (["batch=5", "micro_batch=2", "blip.momentum=true"], 1, "alone in memory"),
        (["batch=5", "micro_batch=3", "blip.momentum=true"], 1, ""),
        (["batch=4", "micro_batch=1", "blip.contrast=0", "blip.match=0"], 1, ""),
    ],
)
def test_rows_that_a_blip_needs(
    base: Path, changes: list[str], processes: int, message: str
) -> None:
    def check() -> None:
        recipe.check_batch(recipe.load(base, ["objective=blip", *changes]), processes)

    if message:
        with pytest.raises(RecipeError, match=message):
            check()
    else:
        check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("smoothing=0.1", "smoothing is called label_smoothing now"),
        ("watch.every=5", "watch is called monitor, and watch.guard monitor.forgetting, now"),
        ("monitor.guard.path=x", "monitor.guard is called monitor.forgetting now"),
        ("blip.lend=true", "blip.lend is called blip.text_from_decoder now"),
        ("engine.recompute=true", "engine.recompute is called engine.gradient_checkpointing now"),
        ("data.0.wrong=0.5", "data.wrong is called data.wrong_captions now"),
    ],
)
def test_a_key_of_another_name_is_refused_with_the_new_one(
    base: Path, change: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=f": {message}$"):
        recipe.load(base, [change])


@pytest.mark.parametrize("name", recipe.RENAMED.values())
def test_the_new_name_of_a_key_is_one_that_is_read(base: Path, name: str) -> None:
    name = name.split(",")[0]
    with pytest.raises(RecipeError, match=rf"{name} is \[+1\]+, which is not"):
        recipe.load(base, [f"{name.replace('data.', 'data.0.')}=[[1]]"])


def test_the_rate_never_rises_again(base: Path) -> None:
    loaded = recipe.load(base, ["until=100", "warmup=10"])
    rates = [learning_rate(loaded, step) for step in range(loaded.last)]
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_no_clipping_is_zero() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3.0, 4.0, 0.0])
    assert clip_gradients([parameter], 0).item() == pytest.approx(5)
    assert parameter.grad.tolist() == [3, 4, 0]
    clip_gradients([parameter], 1)
    assert parameter.grad.norm().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", ["swin-tiny-7-224", "vit-base-16", "siglip-base-16-224", "clip"])
def test_weight_decay_is_of_linear_layers_convolutions_and_embeddings(name: str) -> None:
    known = variants.VARIANTS
    network = models.build(tiny_clip() if name == "clip" else shrunk(known[name].config))
    decayed, plain = parameter_groups(network, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(p): key for key, p in network.named_parameters()}
    with_decay = {names[id(p)] for p in decayed["params"]}
    without = {names[id(p)] for p in plain["params"]}
    assert with_decay | without == set(names.values())
    assert not with_decay & without
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm)]
    normed = {id(p) for norm in norms for p in norm.parameters()}
    learned = ("pos_embed", "position_bias_table", "cls_token", "latent", "logit_scale", "bias")
    for key, parameter in network.named_parameters():
        exempt = key.endswith(learned) or id(parameter) in normed
        assert (key in without) == exempt, key


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_same_command_continues(tmp_path: Path, number: int) -> None:
    changes = ["steps=100000", "batch=4", "data.0.count=8", "engine.workers=1", "engine.device=cpu"]
    output, in_folder = tmp_path / "said", partial(os.chdir, tmp_path)
    child = start_command(output, "train", "clip", "out=run", *changes, first=[in_folder])
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline
        assert child.is_alive(), Path(f"{output}.err").read_text()
        time.sleep(0.05)
    os.kill(child.pid, number)
    child.join(60)
    stderr = Path(f"{output}.err").read_text()
    assert child.exitcode == 1, stderr
    assert "the same command continues" in stderr
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))


def test_templates_of_training_say_a_label_twice(tmp_path: Path) -> None:
    for label in ("hat", "shoe"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / label / "a.png")
    file = tmp_path / "recipe.toml"
    file.write_text(
        f'out="{tmp_path}/run"\nsteps=1\nbatch=2\ninit="demo"\nwarmup=0\n'
        '[engine]\nworkers=0\ndevice="cpu"\n'
        f'[[data]]\nkind="folder"\npath="{tmp_path}/photos"\ntemplates=["a {{}} or {{}} {{x}}"]\n'
    )
    with pytest.warns(ScopeWarning, match="does not warn of photos and words unlike its training"):
        assert train(recipe.load(file)).step == 1


def test_which_weights_of_init(base: Path, tmp_path: Path) -> None:
    """For an init with a moving average, the recipe chooses the set of weights, like `load`."""
    model = checkpoints.load("demo")
    checkpoints.save(model, tmp_path / "init")
    state = load_file(tmp_path / "init" / "model.safetensors")
    (tmp_path / "init" / "model.safetensors").unlink()
    halved = {n: v / 2 if v.is_floating_point() else v for n, v in state.items()}
    file = tmp_path / "init" / "both.pt"
    torch.save({"state_dict": state, "state_dict_ema": halved}, file)
    raw = load_init(recipe.load(base, [f"init={file}", "weights=raw"]))
    ema = load_init(recipe.load(base, [f"init={file}", "weights=ema"]))
    assert raw.fingerprint == model.fingerprint != ema.fingerprint
    with pytest.warns(CheckpointWarning, match="the moving average"):
        assert load_init(recipe.load(base, [f"init={file}"])).fingerprint == ema.fingerprint
    with pytest.raises(RecipeError, match="weights is 'both'; it must be one of '', 'ema', 'raw'"):
        recipe.load(base, ["weights=both"])
    loaded = recipe.load(base, [f"init={file}", "weights=raw", "lora.rank=2"])
    with pytest.warns(UserWarning, match="no adapter: an adapter cannot say with which weights"):
        assert adapter_writer(loaded, raw, raw.config, raw.network) is None


def test_init_may_have_more_embeddings_than_its_tokenizer_has_ids(base: Path) -> None:
    """As for mT5, whose embeddings are padded to a round number."""
    tiny = tiny_bundle(tiny_clip())
    ids = tiny.tokenizer.vocab_size
    config = replace(tiny.config, text=replace(tiny.config.text, vocab_size=ids + 9))
    network = models.build(config)
    init = make(network, config, tiny.tokenizer, "padded")
    created = create(recipe.load(base, ["objective=contrastive"]), config, init, [])
    assert created.config.text.vocab_size == ids + 9
    assert torch.equal(created.network.text.token_embed.weight, network.text.token_embed.weight)


def test_the_architecture_of_init(base: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs no architecture: .* leave out 'ViT-B-32'"):
        load_init(recipe.load(base, ["architecture=ViT-B-32"]))
    text = BASE.replace('init = "demo"', 'architecture = "ViT-B-32"')
    base.write_text(text + "[model.vision]\ndepth = 1\n")
    with pytest.raises(RecipeError, match="architecture are options of init, and there is no"):
        recipe.load(base)


def test_how_init_is_read_does_not_part_a_run_from_itself(base: Path) -> None:
    """Older checkpoints without these keys can continue. The weights of init are compared."""
    identity = Run(recipe.load(base), World(torch.device("cpu"))).identity()
    assert "init's weights" in identity
    assert not {"weights", "architecture"} & set(identity)
