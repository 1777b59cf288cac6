"""Files and folders that are no model: a short report says what they look like and what to do."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from original_receipts import writers
from reference_mae import hugging_face as hf_mae
from reference_swin import hf_swin
from reference_vit import hf_dinov2, hf_vit
from references import WEIGHTS, Reference, edit_json, fails, hugging_face, rewrite, timm_vit

# isort: split
import timm
import torch.distributed.checkpoint as distributed
import transformers
from test_formats import FORMATS
from torch import Tensor

from patchword import checkpoints
from patchword.errors import CheckpointWarning

State = dict[str, Tensor]
WRITERS = writers()


def state_of(folder: Path, **sizes: int) -> State:
    timm_vit(folder, depth=1, embed_dim=24, **sizes)
    return safetensors.torch.load_file(folder / WEIGHTS)


def assert_reported(path: Path, *parts: str) -> None:
    """Loading fails with an error of at most eight lines that has these parts."""
    message = fails(path, "is no format that patchword reads.", "What to do: ", *parts)
    assert message.count("\n") < 8
    assert "a patchword model: " not in message  # no list of every format


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "student.backbone."])
def test_another_attribute_of_lightning(prefix: str, tmp_path: Path) -> None:
    """The advice of the report is followed, and the same model loads."""
    state = state_of(tmp_path / "model")
    before = checkpoints.load(tmp_path / "model").fingerprint
    inside = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    (tmp_path / "model" / WEIGHTS).unlink()
    path = tmp_path / "model" / "last.ckpt"
    torch.save({"state_dict": {**inside, "criterion.weight": torch.ones(2)}, "epoch": 3}, path)
    code = (
        f"{{k.removeprefix({prefix!r}): v for k, v in state.items() if k.startswith({prefix!r})}}"
    )
    assert_reported(
        path,
        "Nearest: a timm Vision Transformer",
        f"First difference: {len(state)} names begin with {prefix!r}; tensors beside them: 1.",
        code,
    )
    torch.save(eval(code, {"state": torch.load(path)["state_dict"]}), path)
    assert checkpoints.load(path).fingerprint == before


def test_the_nearest_is_that_of_the_config(tmp_path: Path) -> None:
    """A CLIP under another name is not called the nearest SigLIP."""
    hugging_face(tmp_path)
    rewrite(tmp_path / WEIGHTS, lambda t: t.update({f"clip.{n}": t.pop(n) for n in list(t)}))
    assert_reported(
        tmp_path, "Nearest: a Hugging Face CLIPModel", "First difference: 78 names begin with 'clip"
    )


def test_parts_without_their_index(tmp_path: Path) -> None:
    hugging_face(tmp_path, max_shard_size="5MB")
    part = next(tmp_path.glob("model-00001-of-*.safetensors"))
    parts = "parts of a model; "
    fails(part, f"{part} is one of ", parts, f"give their folder, {tmp_path}")
    (tmp_path / "model.safetensors.index.json").unlink()
    fails(part, parts, "without model.safetensors.index.json, which names all of them: copy that")
    fails(tmp_path, parts, "copy that there too")


def test_transformers_weights_without_their_config(tmp_path: Path) -> None:
    folder = hf_vit(tmp_path / "model").path
    (folder / "config.json").unlink()
    assert_reported(
        folder, "Nearest: a Hugging Face ViT or DeiT", "no config.json that says", "'vit'"
    )
    (folder / "config.json").write_text('{"model_type": "swin"}')
    assert_reported(
        folder, "Nearest: a Hugging Face ViT", "config.json says model_type 'swin', not 'vit'"
    )
    edit_json(folder / "config.json", model_type="dinov2")
    assert_reported(folder, "Nearest: a Hugging Face ViT", "config.json says model_type 'dinov2'")


def yolo() -> State:
    names = ["0.conv.weight", "0.bn.weight", "2.cv1.conv.weight", "22.dfl.conv.weight"]
    return {f"model.{name}": torch.ones(1) for name in names}


def bert() -> State:
    config = transformers.BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
    )
    return dict(transformers.BertModel(config).state_dict())


def swin_2() -> State:
    config = transformers.Swinv2Config(
        embed_dim=8, num_heads=[2, 4], depths=[1, 1], image_size=32, window_size=4
    )
    return dict(transformers.Swinv2Model(config).state_dict())


def of_timm(name: str, **options: int) -> Callable[[], State]:
    return lambda: dict(timm.create_model(name, **options).state_dict())


OTHERS = {
    "a YOLO of ultralytics, a detector": yolo,
    "a ResNet of torchvision or timm": of_timm("test_resnet"),
    "a ConvNeXt of timm": of_timm("test_convnext"),
    "an EfficientNet or MobileNet": of_timm("test_efficientnet"),
    "a BERT, texts alone": bert,
    "a Swin Transformer of version 2": swin_2,
}


@pytest.mark.parametrize("what", OTHERS)
def test_models_of_other_kinds(what: str, tmp_path: Path) -> None:
    torch.save(OTHERS[what](), tmp_path / "model.pt")
    assert_reported(tmp_path / "model.pt", f"It looks like {what}.", "`patchword models`")


def test_dinov2_of_its_authors(tmp_path: Path) -> None:
    state = of_timm("vit_small_patch14_dinov2", depth=1, num_classes=0, img_size=28)()
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2_vits14.pth")
    assert_reported(tmp_path / "dinov2_vits14.pth", "looks like DINOv2", "as facebook/dinov2-base")


def test_nothing_and_half_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"encoder.weight": torch.ones(2)}, path)
    assert_reported(path, "It looks like no model that patchword knows")
    torch.save({"visual_projection.weight": torch.ones(2, 2)}, path)
    assert_reported(path, "First difference: it has no text_projection.weight.", "whole state dict")


@pytest.mark.parametrize("name", FORMATS)
def test_the_usual_names_of_a_format_are_those_of_its_origin(name: str, tmp_path: Path) -> None:
    writer = "vit-huggingface-vit" if name == "hf_vit" else FORMATS[name]  # not a DeiT
    opened = checkpoints.locate(str(WRITERS[writer](tmp_path / "model").path))
    form = checkpoints.recognise(opened)
    exists = [any(key.startswith(name) for key in opened.tensors) for name in form.NAMES]
    assert exists
    assert exists.count(False) <= 1  # a decoder or a head may be missing


def test_a_checkpoint_of_timms_trainer_names_its_architecture(tmp_path: Path) -> None:
    for classes in (5, 0):  # without a head it is no masked autoencoder
        state = state_of(tmp_path / f"of {classes}", num_classes=classes)
        path = tmp_path / "last.pth.tar"
        torch.save({"epoch": 1, "arch": "vit_tiny_patch16_224", "state_dict": state}, path)
        config = '{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"input_size"'
        trainer = "timm's trainer, a vit_tiny_patch16_224, but config.json"
        fails(path, trainer, config, "save_for_hf")


def test_several_files_of_timms_saver(tmp_path: Path) -> None:
    for name in ("checkpoint-0", "checkpoint-1", "last", "model_best"):
        torch.save({}, tmp_path / f"{name}.pth.tar")
    fails(tmp_path, "several files of weights", f"such as {tmp_path / 'model_best.pth.tar'}: ")
    (tmp_path / "model_best.pth.tar").unlink()
    fails(tmp_path, f"such as {tmp_path / 'last.pth.tar'}: checkpoint-0.pth.tar, ")


def test_a_folder_of_trainers_checkpoints(tmp_path: Path) -> None:
    for step in (500, 1000, 1500, 10000, 9500):
        hf_vit(tmp_path / "out" / f"checkpoint-{step}")
    last = tmp_path / "out" / "checkpoint-10000"
    error = fails(tmp_path / "out", f"such as the last, {last} (there: checkpoint-500", "1 more)")
    assert "\n" not in error
    assert checkpoints.load(last).config.source == "huggingface"


def test_a_distributed_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "pytorch_model_fsdp_0"
    distributed.save({"a": torch.ones(2)}, checkpoint_id=folder)
    what, command = "is a checkpoint of torch.distributed.checkpoint", f"dcp_to_torch {folder} "
    for path in (folder, folder.parent, next(folder.glob("*.distcp"))):
        fails(path, f"{folder} {what}", command)


def test_an_optimizer_alone(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer = torch.optim.AdamW(layer.parameters())
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    fails(tmp_path / "optimizer.bin", "is the state of an optimizer, which holds no weights")
    fails(tmp_path, "has no weights", "found optimizer.bin")


def test_two_models_of_accelerate(tmp_path: Path) -> None:
    first = hf_vit(tmp_path / "model")
    state = safetensors.torch.load_file(first.path / WEIGHTS)
    halved = {name: tensor / 2 for name, tensor in state.items()}
    safetensors.torch.save_file(halved, first.path / "model_1.safetensors")
    with pytest.warns(CheckpointWarning, match=r"model.safetensors is read, and not model_1"):
        one = checkpoints.load(first.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = checkpoints.load(first.path / "model_1.safetensors")
        assert checkpoints.load(first.path / WEIGHTS).fingerprint == one.fingerprint
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("write", [hf_vit, hf_dinov2, hf_swin, hf_mae])
def test_names_that_transformers_has_in_memory(
    write: Callable[[Path], Reference], tmp_path: Path
) -> None:
    reference = write(tmp_path / "model")
    expected = checkpoints.load(reference.path).fingerprint
    state = {n: t.contiguous() for n, t in reference.network.state_dict().items()}
    assert any(".attention.k_proj." in name for name in state)
    safetensors.torch.save_file(state, reference.path / WEIGHTS)
    assert checkpoints.load(reference.path).fingerprint == expected


def test_two_configurations_of_one_folder(tmp_path: Path) -> None:
    folder = hf_vit(tmp_path / "model").path
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "patchword": 2}))
    fails(folder, "is a patchword model and a Hugging Face ViT or DeiT; one must be left")
