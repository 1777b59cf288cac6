"""Files as trainers save them: every wrapper, prefix and suffix loads the same weights, or is
refused by name."""

import argparse
import itertools
import sys
import tarfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from references import WEIGHTS, edit_json, fails, scramble, timm_vit

# isort: split
import timm
import transformers
from clip.model import CLIP
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from patchword import checkpoints
from patchword.checkpoints import wrappers
from patchword.checkpoints.read import open_path
from patchword.errors import CheckpointError, CheckpointWarning, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:.*names of OpenAI's CLIP.*")
State = dict[str, Tensor]
IDS = 300  # of a vocabulary


def clip_config() -> transformers.CLIPConfig:
    tower = {"num_hidden_layers": 1, "intermediate_size": 24, "num_attention_heads": 2}
    return transformers.CLIPConfig(
        text_config={"hidden_size": 16, "vocab_size": IDS, "eos_token_id": IDS - 1, **tower},
        vision_config={"hidden_size": 16, "image_size": 16, "patch_size": 8, **tower},
        projection_dim=12,
    )


def hugging_face(folder: Path) -> State:
    scramble(transformers.CLIPModel(clip_config())).save_pretrained(folder)
    return safetensors.torch.load_file(folder / WEIGHTS)


def openai(folder: Path) -> State:
    state = scramble(CLIP(12, 16, 1, 64, 8, 77, IDS, 64, 1, 1)).state_dict()
    folder.mkdir()
    safetensors.torch.save_file(state, folder / WEIGHTS)
    return dict(state)


def vision(folder: Path) -> State:
    timm_vit(folder, depth=1, embed_dim=24)
    return safetensors.torch.load_file(folder / WEIGHTS)


def swin(folder: Path) -> State:
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    scramble(transformers.SwinForImageClassification(config)).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(folder)
    return safetensors.torch.load_file(folder / WEIGHTS)


FAMILIES = {"hf clip": hugging_face, "openai": openai, "timm vit": vision, "hf swin": swin}
Written = dict[str, tuple[Path, State, str]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A folder of each family, its tensors, and the fingerprint of its model."""
    out = {}
    for name, write in FAMILIES.items():
        folder = tmp_path_factory.mktemp("families") / "model"
        state = write(folder)
        out[name] = folder, state, checkpoints.load(folder).fingerprint
    return out


def run_values() -> dict[str, Any]:
    """What trainers save beside weights: an optimiser's state, arguments, NumPy's numbers."""
    some = nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.AdamW([some])
    some.grad = torch.ones(2)
    optimiser.step()
    return {
        "epoch": 3,
        "optimizer": optimiser.state_dict(),
        "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.99), nested=argparse.Namespace(a=None)),
        "output": Path("runs"),
        "begun": [datetime(2026, 1, 1), timedelta(1), SimpleNamespace(a=1)],
        "random": np.random.RandomState(0).get_state(),
        "best": np.float64(0.7),
        "metrics": {"top1": np.float32(70.5), "seen": np.int64(7), "done": np.bool_(True)},
    }


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, **run_values()},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": torch.tensor(1.0)},
    "parameters": lambda s: {"model": {name: nn.Parameter(x, False) for name, x in s.items()}},
    "model": lambda s: {"model": s, "args": argparse.Namespace(output=None)},
    "deepspeed": lambda s: {
        "module": s, "ds_version": "0.15", "buffer_names": [], "optimizer": None, "sparse": set(),
        "ds_config": {"zero_optimization": {"stage": 1}}, "param_shapes": [{"a": torch.Size([2])}],
    },
    "lightning": lambda s: {
        "epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.5", "state_dict": s,
        "loops": {"fit_loop": {"state_dict": {}}}, "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint{'monitor': 'x'}": {"best_model_score": torch.tensor(1.0)}},
    },
    "twice": lambda s: {"model": {"state_dict": s}, **run_values()},
}  # fmt: skip
PREFIXES = (
    "", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.",
    "model.module.", "model._orig_mod.", "_orig_mod.model.module.", "_fsdp_wrapped_module.",
)  # fmt: skip
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pth.tar", ".safetensors")


def loaded_as(
    folder: Path, content: Any, suffix: str, old: bool = False, weights: str | None = None
) -> str:
    """The fingerprint of a folder's model from a file of another kind."""
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    try:
        return checkpoints.load(path, weights=weights).fingerprint
    finally:
        path.unlink()


def cases() -> Iterator[tuple[str, str, str, str]]:
    """Every pair of a wrapper and a prefix, of a prefix and a suffix, and of a family and a
    prefix; wrappers and suffixes take turns."""
    suffixes, wrappers = itertools.cycle(SUFFIXES[:-1]), itertools.cycle(WRAPPERS)
    for wrapper, prefix in itertools.product(WRAPPERS, PREFIXES):
        yield "timm vit", wrapper, prefix, next(suffixes)
    for prefix, suffix in itertools.product(PREFIXES, SUFFIXES):
        yield "timm vit", "plain", prefix, suffix
    for family, prefix in itertools.product(FAMILIES, PREFIXES):
        yield family, next(wrappers), prefix, next(suffixes)


def test_every_wrapper_prefix_suffix_and_family(written: Written) -> None:
    wrong = []
    for family, wrapper, prefix, suffix in cases():
        folder, state, fingerprint = written[family]
        content = WRAPPERS[wrapper]({prefix + name: value for name, value in state.items()})
        if loaded_as(folder, content, suffix) != fingerprint:
            wrong.append((family, wrapper, prefix, suffix))
    assert not wrong


def test_wrappers_of_parts_and_averages(written: Written) -> None:
    folder, state, fingerprint = written["hf clip"]
    for part in ("vision_model.encoder.", "text_model."):
        inner = {n.replace(part, f"{part}_orig_mod.", 1): value for n, value in state.items()}
        assert loaded_as(folder, inner, ".pt") == fingerprint, part
    network = transformers.CLIPModel(clip_config())
    network.load_state_dict(state)
    assert loaded_as(folder, AveragedModel(network).state_dict(), ".pt") == fingerprint
    assert loaded_as(folder, {"model": state, **run_values()}, ".pt", old=True) == fingerprint
    half = {name: value.half() for name, value in state.items()}
    rounded = {name: value.float() for name, value in half.items()}
    assert loaded_as(folder, half, ".bin") == loaded_as(folder, rounded, ".bin")


def test_two_wrappers_of_one_module_are_refused(written: Written, tmp_path: Path) -> None:
    state = written["timm vit"][1]
    torch.save(state | {"blocks._orig_mod.0.norm1.bias": torch.ones(24)}, tmp_path / "w.pt")
    fails(tmp_path / "w.pt", "blocks.0.norm1.bias twice")


class Own:
    """A class of somebody's training code."""


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (Own(), f"{__name__}.Own"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (argparse.Action, "argparse.Action"),
        (print, "print"),
    ],
)
def test_any_other_type_is_refused_by_name(beside: object, named: str, tmp_path: Path) -> None:
    for name, content in (
        ("beside.pt", {"state_dict": {"a": torch.ones(1)}, "beside": beside}),
        ("inside.pth.tar", {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(x=beside)}),
        ("whole.ckpt", beside),
    ):
        torch.save(content, tmp_path / name)
        fails(tmp_path / name, named, "could run code", "nothing was read")


def test_settings_that_are_dicts_of_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swin's and other trainers save their CfgNode beside the weights."""
    library = ModuleType("yacs.config")
    library.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", library)
    inside = library.CfgNode(LR=0.1)
    inside.frozen = True
    content = {"model": {"a": torch.ones(1)}, "config": library.CfgNode(TRAIN=inside)}
    torch.save(content, tmp_path / "w.pt")
    monkeypatch.undo()
    config = wrappers.load(tmp_path / "w.pt", mmap=True)["config"]
    assert config == {"TRAIN": {"LR": 0.1}}
    assert type(config) is OrderedDict


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, 2).to_sparse(), "the tensor b is sparse"),
        (torch.ones(2, 2).to_sparse_csr(), "the tensor b is sparse"),
        (torch.ones(2, 2, device="meta"), "the tensor b is without its numbers"),
        (torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "b is quantised"),
    ],
)
def test_tensors_that_are_no_plain_numbers(
    tensor: torch.Tensor, message: str, tmp_path: Path
) -> None:
    torch.save({"a": torch.ones(1), "b": tensor}, tmp_path / "w.pt")
    fails(tmp_path / "w.pt", message, "to_dense()")


def test_objects_beside_the_weights_are_not_made(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, **run_values()}, tmp_path / "w.pt")
    before = torch.serialization.get_safe_globals()
    loaded = wrappers.load(tmp_path / "w.pt", mmap=True)
    paths = (loaded["output"], *loaded["begun"], loaded["random"][1])
    for value in (loaded["args"], loaded["best"], *loaded["metrics"].values(), *paths):
        assert isinstance(value, wrappers.Inert)
        assert not vars(value)
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_files_without_weights_say_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for content, message in (
        ({"student": {"a": torch.ones(1)}, "teacher": {}}, "holds 'student', 'teacher'"),
        ({"state_dict": {"a": torch.ones(1), "step": 3}}, "'step', which is a int"),
        ({"a": torch.ones(1), "meta": None}, "it holds tensors and 'meta'"),
        ({"a": torch.ones(1), "rng": np.zeros(2)}, "'rng', which is a NumPy array"),
        ({"a": torch.ones(1), "out": Path("runs")}, "'out', which is another object"),
        ({"state_dict": {"a": np.zeros(2)}}, "NumPy arrays where tensors are read"),
        ([torch.ones(1)], "a list"),
        ({}, "holds nothing"),
    ):
        torch.save(content, path)
        fails(path, str(path), message)
    torch.save({"module": {"a": torch.ones(0), "b": torch.ones(1)}, "ds_version": "1"}, path)
    fails(path, "ZeRO-3", "zero_to_fp32.py")


def test_archives_of_tar(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "inner.pth")
    (tmp_path / "notes.txt").write_text("x")
    for name, members in (("photos.tar", ["notes.txt"]), ("model.pth.tar", ["inner.pth"])):
        with tarfile.open(tmp_path / name, "w") as archive:
            for member in members:
                archive.add(tmp_path / member, member)
        fails(tmp_path / name, "archive of 1 files", "unpack it")
    with tarfile.open(tmp_path / "old.tar", "w") as archive:
        for member in ("sys_info", "pickle", "storages", "tensors"):
            archive.add(tmp_path / "notes.txt", member)
    fails(tmp_path / "old.tar", "before 2017", "save the state dict again")


# Two sets of weights.

PAIRS = [("state_dict", "state_dict_ema"), ("model", "model_ema")]


@pytest.mark.parametrize("names", PAIRS)
def test_the_average_is_read_as_timm_reads_it(
    names: tuple[str, str], written: Written, tmp_path: Path
) -> None:
    folder, raw, fingerprint = written["timm vit"]
    ema = {name: value + 0.01 for name, value in raw.items()}
    expected = loaded_as(folder, ema, ".pt")
    path = folder / "both.pth.tar"
    torch.save({names[0]: raw, names[1]: ema, "arch": "vit"}, path)
    timms = timm.models.load_state_dict(str(path))
    assert all(torch.equal(value, ema[name]) for name, value in timms.items())
    with pytest.warns(
        CheckpointWarning, match=f"average in '{names[1]}'.*not '{names[0]}'"
    ) as caught:
        model = checkpoints.load(path)
    assert len(caught) == 1
    assert model.fingerprint == expected
    assert model.config.read_from[0] == (
        f"both.pth.tar ({names[1]}; the moving average; not read: {names[0]})"
    )
    assert checkpoints.load(path, weights="ema").fingerprint == expected
    raw_model = checkpoints.load(path, weights="raw")
    assert raw_model.fingerprint == fingerprint
    assert raw_model.options == {"weights": "raw"}
    path.unlink()


def test_a_set_that_is_not_there(written: Written, tmp_path: Path) -> None:
    folder, state, fingerprint = written["timm vit"]
    for wanted in ("ema", "average"):
        kind = CheckpointError if wanted == "ema" else UnsupportedError
        with pytest.raises(kind, match="moving average of"):
            checkpoints.load(folder, weights=wanted)
    assert checkpoints.load(folder, weights="raw").fingerprint == fingerprint
    torch.save({"model_ema": state}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="the moving average alone"):
        checkpoints.load(tmp_path / "w.pt", weights="raw")


def test_a_set_under_an_unknown_name_is_warned_of(written: Written) -> None:
    folder, state, fingerprint = written["timm vit"]
    with pytest.warns(
        CheckpointWarning, match=r"'state_dict' is read, and not 'teacher': .*"
    ) as caught:
        assert loaded_as(folder, {"state_dict": state, "teacher": state}, ".pt") == fingerprint
    assert str(caught[0].message).endswith('.pt")["teacher"], "teacher.pt")')

    ema = {name: value + 0.01 for name, value in state.items()}
    for key, average, advice in (
        (
            "ema.shadow",
            {"shadow": ema, "decay": 0.99},
            r'torch.save\(torch.load.*"ema"\]\["shadow"\]',
        ),
        ("ema", {f"module.{name}": value for name, value in ema.items()}, "torch.save"),
        ("ema.shadow_params", {"shadow_params": list(ema.values())}, "it has no names; to read it"),
    ):
        with pytest.warns(CheckpointWarning, match=rf"and not '{key}': .*{advice}"):
            assert loaded_as(folder, {"model": state, "ema": average}, ".pt") == fingerprint
    beside = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"params": [0, 1]}]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        assert loaded_as(folder, {"model": state, "optimizer": beside}, ".pt") == fingerprint


@pytest.mark.parametrize(
    ("average", "raw", "counters"),
    [
        ("ema_model.", "model.", ()),
        ("model_ema.module.", "model.", ()),
        ("ema.", "", ["ema.decay"]),
        ("ema.ema_model.", "model.module.", ["ema.initted", "ema.step"]),
        ("net_averaged.", "model.", ["net_averaged.n_averaged"]),
    ],
)
def test_a_module_of_a_network_and_its_average(
    average: str, raw: str, counters: list[str], written: Written
) -> None:
    folder, state, fingerprint = written["timm vit"]
    ema = {name: value + 0.01 for name, value in state.items()}
    expected = loaded_as(folder, ema, ".pt")
    both = {raw + name: value for name, value in state.items()}
    both |= {average + name: value for name, value in ema.items()}
    both |= {name: torch.ones(()) for name in counters}
    for suffix, content in ((".ckpt", {"state_dict": both}), (".safetensors", both)):
        with pytest.warns(CheckpointWarning, match='average in .*weights="raw"'):
            assert loaded_as(folder, content, suffix) == expected
        assert loaded_as(folder, content, suffix, weights="ema") == expected
        assert loaded_as(folder, content, suffix, weights="raw") == fingerprint


def test_lightnings_averaging(written: Written) -> None:
    """Its callback saves the average as state_dict, and the weights beside it."""
    folder, state, fingerprint = written["timm vit"]
    ema = {name: value + 0.01 for name, value in state.items()}
    expected = loaded_as(folder, ema, ".pt")
    checkpoint = {"state_dict": ema, "current_model_state": state, "averaging_state": {}}
    with pytest.warns(CheckpointWarning, match="average in 'state_dict'.*'current_model_state'"):
        assert loaded_as(folder, checkpoint, ".ckpt") == expected
    assert loaded_as(folder, checkpoint, ".ckpt", weights="ema") == expected
    assert loaded_as(folder, checkpoint, ".ckpt", weights="raw") == fingerprint


# Folders of trainers.


def test_files_that_are_no_weights_are_not_taken_for_them(written: Written, tmp_path: Path) -> None:
    _, state, _ = written["openai"]
    torch.save({"model": state}, tmp_path / "epoch_3.pt")
    for name in ("optimizer.pt", "scheduler.bin", "training_args.bin", "rng_state_0.pth"):
        torch.save({}, tmp_path / name)
    assert open_path(tmp_path, "m").weights.name == "epoch_3.pt"


def test_folders_of_deepspeed(written: Written, tmp_path: Path) -> None:
    """save_checkpoint writes a folder for each step, the optimizer in it, and `latest`."""
    folder, state, fingerprint = written["openai"]
    step = tmp_path / "global_step9"
    step.mkdir()
    torch.save({"module": state, "ds_version": "0.19"}, step / "mp_rank_00_model_states.pt")
    torch.save({}, step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (tmp_path / "latest").write_text("global_step9\n")
    fails(tmp_path, "checkpoints of a training", f"such as the last, {step}")
    for tokenizer in folder.glob("*.gz"):
        (step / tokenizer.name).write_bytes(tokenizer.read_bytes())
    assert checkpoints.load(step).fingerprint == fingerprint


def test_an_index_of_wrapped_shards(written: Written, tmp_path: Path) -> None:
    folder, state, fingerprint = written["hf clip"]
    names = sorted(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    for number, half in enumerate(halves):
        torch.save({f"module.{n}": state[n] for n in half}, tmp_path / f"part-{number}.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text("{}")
    where = {f"module.{n}": f"part-{i}.bin" for i, half in enumerate(halves) for n in half}
    edit_json(index, weight_map=where)
    assert checkpoints.load(tmp_path).fingerprint == fingerprint
