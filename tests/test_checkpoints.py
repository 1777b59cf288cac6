"""Loading and saving: checkpoints that fit load; of others, each tensor or file that does not fit
is named."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from references import WEIGHTS, edit_json, fails, hugging_face, openai_archive, rewrite
from small_models import tiny_clip, tiny_clip_resnet
from torch import Tensor

from patchword import checkpoints, models
from patchword.bundle import Bundle, make
from patchword.checkpoints import known_fingerprints
from patchword.checkpoints.apply_rules import match_rules, read_tensors
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Const, Drop, Fuse, Rename
from patchword.config import ModelConfig
from patchword.errors import CheckpointError, CheckpointWarning, TokenizerError, UnsupportedError
from patchword.text.tokenizer import Tokenizer

pytest_plugins = ["original_checkpoints"]


def tiny(config: ModelConfig, tokenizer: Tokenizer | None = None, seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    return make(models.build(config), config, tokenizer, "tiny")


def with_tokenizer(seed: int = 0) -> Bundle:
    tokenizer = Tokenizer.train(["a photo of a dog", "a photo of a cat"], 600, context=16)
    config = tiny_clip()
    assert config.text is not None
    text = dataclasses.replace(
        config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end_token
    )
    return tiny(dataclasses.replace(config, text=text), tokenizer, seed)


# Our own format.


@pytest.mark.parametrize("config", [tiny_clip(), tiny_clip_resnet()], ids=["vit", "resnet"])
def test_saved_and_loaded_is_the_same(config: ModelConfig, tmp_path: Path) -> None:
    model = tiny(config)
    assert checkpoints.save(model, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    again = checkpoints.load(tmp_path / "a" / "b")
    assert again.config == config
    assert again.fingerprint == model.fingerprint
    assert again.tokenizer is None
    assert not again.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in again.network.parameters())


def test_a_network_with_an_adapter_is_not_saved_as_what_would_not_load(tmp_path: Path) -> None:
    model = tiny(tiny_clip())
    block = model.network.get_submodule("image.blocks.0.mlp")
    wrapped = torch.nn.Module()  # as peft wraps a layer
    wrapped.add_module("base_layer", torch.nn.Linear(2, 2))
    block.add_module("fc1", wrapped)
    with pytest.raises(CheckpointError, match=r"not merged.*merge_and_unload\(\)"):
        checkpoints.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_fingerprint_is_known_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known_fingerprints, "MIN_BYTES", 0)
    model, other = tiny(tiny_clip()), tiny(tiny_clip(), seed=1)
    place, spare = tmp_path / "m", tmp_path / "spare"
    checkpoints.save(model, place)
    (place / "pytorch_model.bin").symlink_to("nowhere")  # as a cache of the hub may have it
    assert checkpoints.load(place).fingerprint == model.fingerprint
    coarse = checkpoints.load(place, dtype="bfloat16").fingerprint
    stored = list((tmp_path / "cache" / "fingerprints").iterdir())
    assert sorted(path.read_text() for path in stored) == sorted({coarse, model.fingerprint})
    with monkeypatch.context() as within:
        within.setattr(known_fingerprints, "fingerprint", None)  # nothing is hashed
        assert checkpoints.load(place).fingerprint == model.fingerprint
        assert checkpoints.load(place, dtype="bfloat16").fingerprint == coarse
        part, ids = checkpoints.load(place, texts_alone=True), np.array([[1, 2, 3]])
        assert part.fingerprint == model.fingerprint
        assert all(name.startswith("text.") for name in part.network.state_dict())
        assert (part.engine.encode_text(ids) == model.engine.encode_text(ids)).all()
        with pytest.raises(UnsupportedError, match="has a text tower only"):
            part.image_tower  # noqa: B018
    checkpoints.save(other, spare)
    weights, before = place / "model.safetensors", (place / "model.safetensors").stat()
    shutil.copytree(spare, place, dirs_exist_ok=True)  # as long, and as old
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    unknown = checkpoints.load(place, texts_alone=True)  # must be hashed, so it has all weights
    assert unknown.fingerprint == other.fingerprint
    assert set(unknown.network.state_dict()) == set(other.network.state_dict())
    for path in stored:
        path.write_text("damaged")
    assert checkpoints.load(place, dtype="bfloat16").fingerprint != coarse
    monkeypatch.setenv("PATCHWORD_CACHE", "/dev/null")
    assert checkpoints.load(place).fingerprint == other.fingerprint


def test_tokenizer_travels_along(tmp_path: Path) -> None:
    model = with_tokenizer()
    checkpoints.save(model, tmp_path / "m")
    again = checkpoints.load(str(tmp_path / "m"))
    assert again.fingerprint == model.fingerprint
    assert (again.embed_texts(["a dog"]) == model.embed_texts(["a dog"])).all()
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "config.json",
        WEIGHTS,
        "tokenizer.json",
    }


def test_converted_model_saves_and_loads_as_ours(hf: Path, tmp_path: Path) -> None:
    original = checkpoints.load(hf)
    checkpoints.save(original, tmp_path / "saved")
    saved = checkpoints.load(tmp_path / "saved")
    assert saved.fingerprint == original.fingerprint
    assert saved.config == dataclasses.replace(original.config, source="patchword")


def test_saving_twice_replaces_the_model_and_nothing_else(tmp_path: Path) -> None:
    checkpoints.save(with_tokenizer(), tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("a model card")
    second = tiny(tiny_clip(), seed=1)
    checkpoints.save(second, tmp_path / "m")
    assert checkpoints.load(tmp_path / "m").fingerprint == second.fingerprint
    assert (tmp_path / "m" / "README.md").read_text() == "a model card"
    assert not (tmp_path / "m" / "tokenizer.json").exists()


@pytest.mark.parametrize("step", [0, 1, 2])
def test_interrupted_save_is_never_loaded(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = with_tokenizer(0), with_tokenizer(1)
    checkpoints.save(old, tmp_path / "m")
    replaced = []
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if len(replaced) == step:
            raise KeyboardInterrupt
        replaced.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(new, tmp_path / "m")
    monkeypatch.undo()
    if step == 0:
        assert checkpoints.load(tmp_path / "m").fingerprint == old.fingerprint
    else:
        fails(tmp_path / "m", "two different saves")
    assert not list((tmp_path / "m").glob(".*"))
    checkpoints.save(new, tmp_path / "m")
    assert checkpoints.load(tmp_path / "m").fingerprint == new.fingerprint


def test_save_refuses_a_folder_of_something_else(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    (tmp_path / "file").write_text("")
    before = (hf / "config.json").read_bytes()
    for folder in (tmp_path / "photos", tmp_path / "file", hf):
        with pytest.raises(CheckpointError, match="something other than a patchword model"):
            checkpoints.save(tiny(tiny_clip()), folder)
    assert (hf / "config.json").read_bytes() == before


def test_own_config_of_another_version_or_with_unknown_fields(tmp_path: Path) -> None:
    checkpoints.save(tiny(tiny_clip()), tmp_path / "m")
    edit_json(tmp_path / "m" / "config.json", model__vision__flux=1)
    fails(tmp_path / "m", "ViTConfig has no field flux")
    edit_json(tmp_path / "m" / "config.json", model__vision__flux=None, model__vision__heads=5)
    fails(tmp_path / "m", "ViTConfig: 5 heads do not divide the width 32", "config.json")
    edit_json(tmp_path / "m" / "config.json", model__vision__heads=0)
    fails(tmp_path / "m", "is a patchword model, but vision.heads is 0")
    edit_json(tmp_path / "m" / "config.json", patchword=9)
    fails(tmp_path / "m", "version 9", "upgrade patchword")


def test_types_and_devices(hf: Path, tmp_path: Path) -> None:
    model = checkpoints.load(hf, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    rewrite(hf / WEIGHTS, lambda t: t.update({n: v.half() for n, v in t.items()}))
    model = checkpoints.load(hf)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}


def test_loaded_weights_do_not_depend_on_the_file(tmp_path: Path) -> None:
    model = tiny(tiny_clip())
    checkpoints.save(model, tmp_path / "m")
    loaded = checkpoints.load(tmp_path / "m")
    (tmp_path / "m" / WEIGHTS).write_bytes(b"")
    for name, value in model.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value), name


# Every tensor that does not fit is named.


def test_missing_and_renamed_tensors_are_named(hf: Path) -> None:
    expected = "text_model.embeddings.position_embedding.weight"

    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["text_model.embeddings.position_embeddings.weight"] = tensors.pop(expected)

    rewrite(hf / WEIGHTS, rename)
    message = fails(hf, "is a Hugging Face CLIPModel, but 2 of its 78 tensors do not fit")
    assert message.splitlines()[1:] == [
        f"  missing   {expected}  (77, 32)",
        "  extra     text_model.embeddings.position_embeddings.weight  (77, 32)  "
        "did you rename it?",
    ]


def test_extra_and_misshapen_tensors_are_named(hf: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["vision_model.encoder.layers.0.ls1.gamma"] = torch.ones(48)
        tensors["vision_model.encoder.layers.1.layer_norm1.bias"] = torch.ones(47)
        q = tensors["text_model.encoder.layers.1.self_attn.q_proj.weight"]
        tensors["text_model.encoder.layers.1.self_attn.q_proj.weight"] = q[:16].clone()

    rewrite(hf / WEIGHTS, change)
    fails(
        hf,
        "3 of its 79 tensors",
        "misshapen vision_model.encoder.layers.1.layer_norm1.bias  (47,), expected (48,)",
        "misshapen text_model.encoder.layers.1.self_attn.q_proj.weight  (16, 32), "
        "expected (32, 32)",
        "extra     vision_model.encoder.layers.0.ls1.gamma  (48,)",
    )


def test_a_long_list_is_cut_and_counted(hf: Path) -> None:
    rewrite(
        hf / WEIGHTS, lambda t: t.update({f"unknown.{i}": torch.ones(i + 1) for i in range(50)})
    )
    message = fails(hf, "50 of its 128 tensors", "... and 30 more")
    assert len(message.splitlines()) == 22


def test_quantised_weights_are_refused(hf: Path) -> None:
    name = "visual_projection.weight"
    rewrite(hf / WEIGHTS, lambda t: t.update({name: t[name].to(torch.int8)}))
    fails(hf, name, "int8", "floating point")


@pytest.mark.parametrize("shape", [(100, 48), (2400, 1)])  # in eight bits and in four
def test_the_quantisation_of_the_config_is_named(hf: Path, shape: tuple[int, int]) -> None:
    """As bitsandbytes writes it; where the weights are plain it changes nothing."""
    edit_json(hf / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert checkpoints.load(hf).dim == 24
    name = "vision_model.encoder.layers.0.mlp.fc1"
    bits = {f"{name}.weight": torch.zeros(shape, dtype=torch.int8), f"{name}.SCB": torch.ones(100)}
    rewrite(hf / WEIGHTS, lambda t: t.update(bits))
    fails(hf, "the weights are quantised, by 'bitsandbytes': in transformers, dequantize()")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(hf: Path, value: float) -> None:
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    rewrite(hf / WEIGHTS, lambda tensors: tensors[name].view(-1)[7].fill_(value))
    fails(hf, f"{hf / WEIGHTS}: {name}: 1 of its 4800 numbers are NaN or infinite")


def test_weights_beyond_half_precision_are_refused_in_it_alone(hf: Path) -> None:
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    rewrite(hf / WEIGHTS, lambda tensors: tensors[name].view(-1)[7].fill_(70000))
    assert checkpoints.load(hf).config.embed_dim == 24
    with pytest.raises(CheckpointError, match=rf"{name} holds 70000, which torch.float16 cannot"):
        checkpoints.load(hf, dtype="float16")


def test_large_weights_whose_sum_overflows_are_taken(hf: Path) -> None:
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    rewrite(hf / WEIGHTS, lambda tensors: tensors[name].fill_(3e38))
    assert checkpoints.load(hf).config.embed_dim == 24


def test_rules_fuse_fill_and_drop() -> None:
    def stored(tensor: Tensor) -> LazyTensor:
        return LazyTensor(tuple(tensor.shape), lambda: tensor)

    a, b = torch.randn(2, 3), torch.randn(2, 3)
    tensors = {"a": stored(a), "b": stored(b), "old": stored(a)}
    rules = [
        Fuse(("a", "b"), "ab"), Rename("b", "b"), Const("seven", 7), Drop("old", "unused"),
        Drop("absent", "unused"),
    ]  # fmt: skip
    shapes = {"ab": (4, 3), "b": (2, 3), "seven": (2,)}
    like = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    plan = match_rules(rules, tensors, shapes, "it")
    converted = dict(read_tensors(plan, tensors, like, dtype=torch.float64, file="it"))
    assert all(value.dtype == torch.float64 for value in converted.values())
    expected = {"ab": torch.cat([a, b]), "b": b, "seven": torch.tensor(7)}
    for name, value in expected.items():
        assert torch.equal(converted[name], value.double().expand(shapes[name])), name
    with pytest.raises(ValueError, match="no rule makes"):
        match_rules([Rename("a", "a")], tensors, {"a": (2, 3), "z": (1,)}, "it")


# Files of every kind.


def same(a: Bundle, b: Bundle) -> bool:
    return a.fingerprint == b.fingerprint and a.config == b.config


def test_kinds_of_files_give_the_same_model(hf: Path, tmp_path: Path) -> None:
    expected = checkpoints.load(hf)
    tensors = safetensors.torch.load_file(hf / WEIGHTS)
    assert same(checkpoints.load(hf / WEIGHTS), expected)
    (hf / WEIGHTS).unlink()
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in tensors.items()}}
    for kind, content, arguments in (
        ("zip", tensors, {}),
        ("before PyTorch 1.6", tensors, {"_use_new_zipfile_serialization": False}),
        ("from training", wrapped, {}),
    ):
        torch.save(content, hf / "pytorch_model.bin", **arguments)
        assert same(checkpoints.load(hf), expected), kind
    (hf / "pytorch_model.bin").rename(hf / "epoch_3.pt")
    assert same(checkpoints.load(hf), expected)


def test_sharded(tmp_path: Path) -> None:
    hugging_face(tmp_path / "one")
    hugging_face(tmp_path / "many", max_shard_size="1MB")
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert same(checkpoints.load(tmp_path / "many"), checkpoints.load(tmp_path / "one"))
    shards[0].unlink()
    fails(tmp_path / "many", shards[0].name, "not there")
    edit_json(tmp_path / "many" / "model.safetensors.index.json", weight_map={"a": "../x.bin"})
    fails(tmp_path / "many", "not an index of weight files beside it")


def test_plain_state_dict_of_openai(tmp_path: Path) -> None:
    reference = openai_archive(tmp_path / "archive.pt")
    assert reference.network is not None
    (tmp_path / "plain").mkdir()
    torch.save(reference.network.state_dict(), tmp_path / "plain" / "ViT.pt")
    archive = checkpoints.load(tmp_path / "archive.pt")
    with pytest.warns(CheckpointWarning, match="QuickGELU is taken, as OpenAI's"):
        plain = checkpoints.load(tmp_path / "plain")
    assert same(archive, plain)
    assert archive.config.source == "openai"
    for name in ("vision.activation", "vision.heads", "text.eps", "preprocess"):
        assert name in archive.config.assumed
    with pytest.raises(TokenizerError, match=r"bpe_simple_vocab_16e6\.txt\.gz beside it"):
        archive.embed_texts(["a dog"])


def test_a_tokenizer_that_is_not_the_models(hf: Path, tmp_path: Path) -> None:
    other = Tokenizer.train(["a photo of a dog"], 600, context=77)
    (tmp_path / "other.json").write_text(other.to_json())
    with pytest.raises(TokenizerError, match="but the model looks for 49407"):
        checkpoints.load(hf, tokenizer=tmp_path / "other.json")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        checkpoints.load(hf, tokenizer=tmp_path / "nothing")
    (hf / "tokenizer.json").unlink()
    assert checkpoints.load(hf).tokenizer is None


def test_files_that_hold_no_weights(tmp_path: Path, hf: Path) -> None:
    content = (hf / WEIGHTS).read_bytes()
    (hf / WEIGHTS).write_bytes(content[: len(content) // 2])
    fails(hf, WEIGHTS, "not a whole safetensors file", "download")
    (hf / WEIGHTS).write_bytes(b"")
    fails(hf, WEIGHTS, "is empty")
    (hf / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    fails(hf, WEIGHTS, "git lfs pull")
    safetensors.torch.save_file({}, hf / WEIGHTS)
    fails(hf, "holds no tensors")
    (hf / WEIGHTS).unlink()
    fails(hf, "has no weights", "looked for model.safetensors")
    torch.save([torch.ones(1)], hf / "pytorch_model.bin")
    fails(hf, "pytorch_model.bin is not a dict of tensors")
    (hf / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and then nothing")
    fails(hf, "pytorch_model.bin")
    (hf / "pytorch_model.bin").rename(hf / "a.pt")
    (hf / "b.pt").write_bytes(b"x")
    fails(hf, "several files of weights; give the path of one: a.pt, b.pt")
    fails(hf / "config.json", "no file of weights")
    fails(tmp_path / "nowhere", "no such file or folder", '"demo"')


def test_unknown_families_are_told_what_is_known(hf: Path, tmp_path: Path) -> None:
    safetensors.torch.save_file({"encoder.weight": torch.ones(2)}, hf / WEIGHTS)
    edit_json(hf / "config.json", model_type="bert")
    fails(
        hf,
        "is no format that patchword reads",
        "Found tensors encoder.weight ... (1 in all)",
        "First difference: config.json says model_type 'bert'",
        "`patchword models`",
    )


def test_two_families_at_once_are_refused(hf: Path, tmp_path: Path) -> None:
    checkpoints.save(tiny(tiny_clip()), tmp_path / "ours")
    shutil.copy(tmp_path / "ours" / "config.json", hf / "config.json")
    fails(hf, "is a patchword model and a Hugging Face CLIPModel")


def test_broken_and_missing_configurations(hf: Path, vit: Path) -> None:
    (hf / "config.json").write_text("{")
    fails(hf, "config.json is not readable JSON")
    (hf / "config.json").unlink()
    fails(hf, "config.json, with its heads and activation, is missing")
    (vit / "config.json").unlink()
    fails(vit, "config.json, which names its architecture, is missing")
