"""LoRA adapters as peft writes them: alone, beside their base, and in the checkpoint itself; what
they compute is what transformers and peft compute."""

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import peft
import pytest
import torch
import transformers
from cli_runner import Run
from safetensors.torch import load_file, save_file
from tiny_tokenizers import clip_tokenizer
from torch import Tensor, nn

import patchword
from patchword.checkpoints import known_fingerprints
from patchword.checkpoints.other_hubs import MODELSCOPE
from patchword.errors import CheckpointError
from patchword.train import loop
from patchword.train.recipe import load

# peft takes the bias of a B for a matrix that was cut. Its class of warnings cannot be imported by
# the process that gathers results, for torchvision.
pytestmark = pytest.mark.filterwarnings("ignore:Adapter 'default'")

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = dict(SMALL, image_size=32, patch_size=16)
VOCABULARY = 99
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
IDS = torch.tensor([[98, 1, 2, 3], [4, 5, 98, 0]])


def scrambled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with large random weights, so that a wrong one changes its outputs."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2, generator=generator)
    return network.eval()


def clip() -> nn.Module:
    part = dict(SMALL, projection_dim=32)
    text = dict(part, vocab_size=VOCABULARY, eos_token_id=98, bos_token_id=97, pad_token_id=0)
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        projection_dim=32, vision_config={**part, **VISION}, text_config=text
    )
    return scrambled(transformers.CLIPModel(config))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A CLIP as transformers saves it."""
    clip().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(network: nn.Module, **settings: Any) -> nn.Module:
    """The network with an adapter, none of whose tensors is zero."""
    lora = peft.get_peft_model(network, peft.LoraConfig(**{"r": 4, "lora_alpha": 12, **settings}))
    generator = torch.Generator().manual_seed(9)
    for name, parameter in lora.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return lora.eval()


def write(base: Path, folder: Path, **settings: Any) -> Path:
    """Write an adapter of the CLIP at `base` into a folder, and return it."""
    network = transformers.CLIPModel.from_pretrained(base)
    adapted(network, **settings).save_pretrained(folder)
    return folder


def features(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Features of images and texts as transformers computes them."""
    with torch.no_grad():
        image = network.get_image_features(pixel_values=PIXELS)
        text = network.get_text_features(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    return image.pooler_output, text.pooler_output


def peft_features(base: Path, folder: Path) -> tuple[Tensor, Tensor]:
    """Features of the base with an adapter that peft has merged."""
    network = transformers.CLIPModel.from_pretrained(base)
    return features(peft.PeftModel.from_pretrained(network, folder).merge_and_unload().eval())


def our_features(source: Path | str, **options: Any) -> tuple[Tensor, Tensor]:
    """Features of patchword."""
    network = patchword.load(source, **options).network
    with torch.no_grad():
        return network.encode_image(PIXELS), network.encode_text(IDS)


def check(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for pair in zip(actual, expected, strict=True):
        torch.testing.assert_close(*pair)


LAYERS = ["q_proj", "v_proj", "out_proj", "fc1", "fc2"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "all": {"target_modules": "all-linear"},
    "rsLoRA": {"target_modules": LAYERS, "use_rslora": True},
    "patterns": {
        "target_modules": LAYERS,
        "rank_pattern": {"fc1": 2, r"layers\.1\.self_attn\.q_proj": 3, "vision_model.*v_proj": 1},
        "alpha_pattern": {r"^text_model\..*\.fc1": 5, "q_proj": 7},
    },
    "patterns, rsLoRA": {"target_modules": LAYERS, "rank_pattern": {"fc1": 2}, "use_rslora": True},
    "bias of all": {"target_modules": ["q_proj", "fc2"], "bias": "all"},
    "bias of LoRA's": {"target_modules": ["q_proj", "fc2"], "bias": "lora_only"},
    "bias of B": {"target_modules": ["q_proj", "fc2"], "lora_bias": True},
    "saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["visual_projection", "fc2"]},
    "fan_in_fan_out": {"target_modules": ["q_proj", "fc1"], "fan_in_fan_out": True},
    "embeddings": {"target_modules": ["token_embedding", "position_embedding"]},
    "convolution": {"target_modules": ["patch_embedding", "fc1"]},
    "one layer": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_alone(base: Path, tmp_path: Path, kind: str) -> None:
    folder = write(base, tmp_path / "adapter", **KINDS[kind])
    expected = peft_features(base, folder)
    check(our_features(folder), expected)
    alone = features(transformers.CLIPModel.from_pretrained(base))
    assert not torch.allclose(expected[1], alone[1], atol=0.05)  # the adapter has an effect
    model = patchword.load(folder)
    assert model.fingerprint != patchword.load(base).fingerprint
    weights = model.config.read_from[0]
    assert str(base / "model.safetensors") in weights
    assert f"LoRA adapter {folder / 'adapter_model.safetensors'}" in weights


def test_a_zero_adapter_is_its_base(base: Path, tmp_path: Path) -> None:
    network = transformers.CLIPModel.from_pretrained(base)
    lora = peft.get_peft_model(network, peft.LoraConfig(target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path / "adapter")
    assert patchword.load(tmp_path / "adapter").fingerprint == patchword.load(base).fingerprint


def test_weights_in_half_precision(base: Path, tmp_path: Path) -> None:
    """peft merges in the type of the base's weights; here they are float32 before they are."""
    folder = write(base, tmp_path / "adapter", target_modules=LAYERS)
    transformers.CLIPModel.from_pretrained(base).bfloat16().save_pretrained(base)
    network = transformers.CLIPModel.from_pretrained(base, dtype=torch.float32)
    check(
        our_features(folder),
        features(peft.PeftModel.from_pretrained(network, folder).merge_and_unload()),
    )


def test_beside_its_base(base: Path) -> None:
    """As in transformers: from_pretrained of such a folder applies the adapter."""
    write(base, base, target_modules=LAYERS)
    expected = features(transformers.CLIPModel.from_pretrained(base).eval())
    check(our_features(base), expected)
    with pytest.warns(UserWarning, match=r"loaded without adapter_model.safetensors beside it"):
        alone = our_features(base / "model.safetensors")
    check(alone, features(clip()))


def test_beside_its_base_after_a_move(base: Path, tmp_path: Path) -> None:
    """As in transformers: the weights in the folder are the base."""
    write(base, base, target_modules=LAYERS)
    expected = our_features(base)
    moved = base.rename(tmp_path / "elsewhere")
    check(features(transformers.CLIPModel.from_pretrained(moved).eval()), expected)
    with pytest.warns(UserWarning, match="made on .*base: it is merged into the weights beside it"):
        check(our_features(moved), expected)
    check(our_features(moved, adapter=moved), expected)


def test_beside_weights_that_are_not_its_base(base: Path, tmp_path: Path) -> None:
    folder = write(base, tmp_path / "both", target_modules=LAYERS)
    scrambled(transformers.CLIPModel.from_pretrained(base), seed=3).save_pretrained(folder)
    expected = features(transformers.CLIPModel.from_pretrained(folder).eval())
    with pytest.warns(UserWarning, match="for the other base load") as caught:
        check(our_features(folder), expected)
    assert f"load({str(base)!r}, adapter={str(folder)!r})" in str(caught[0].message)
    check(our_features(base, adapter=folder), peft_features(base, folder))


def test_an_adapter_and_a_base_as_options(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=LAYERS)
    expected = peft_features(base, folder)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(base), str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match="load\\(BASE, adapter="):
        patchword.load(folder)
    monkeypatch.chdir(tmp_path)
    model = patchword.load("base", adapter="adapter")
    check(our_features("base", adapter="adapter"), expected)
    monkeypatch.chdir("/")
    assert patchword.load(model.name, **model.options).fingerprint == model.fingerprint
    check(our_features(base, adapter=folder / "adapter_model.safetensors"), expected)
    with pytest.raises(CheckpointError, match=r"is no adapter, which is adapter_config.json and "):
        patchword.load(base, adapter=base)


def test_on_the_command_line(run: Run, base: Path, tmp_path: Path) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=LAYERS)
    model = patchword.load(folder)
    (alone,) = run("info", folder, "--json").records
    (on_base,) = run("info", base, "--adapter", folder, "--json").records
    assert alone["fingerprint"] == on_base["fingerprint"] == model.fingerprint
    assert alone["read_from"][0] == on_base["read_from"][0] == model.config.read_from[0]
    assert "LoRA adapter" in run("info", folder).out
    refused = run("info", base, "--adapter", base)
    assert refused.code == 2
    assert "is no adapter" in refused.err


def test_a_base_named_by_a_path_in_the_folder(base: Path, tmp_path: Path) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=LAYERS)
    expected = peft_features(base, folder)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(base), "../base"))
    check(our_features(folder), expected)


def test_the_file_of_an_adapter(base: Path, tmp_path: Path) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=LAYERS)
    check(our_features(folder / "adapter_model.safetensors"), peft_features(base, folder))
    bins = tmp_path / "bin"
    shutil.copytree(folder, bins)
    torch.save(load_file(bins / "adapter_model.safetensors"), bins / "adapter_model.bin")
    (bins / "adapter_model.safetensors").unlink()
    check(our_features(bins), peft_features(base, folder))


@pytest.mark.parametrize("kind", ["plain", "bias of all", "saved whole", "embeddings", "bias of B"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_in_the_checkpoint(base: Path, tmp_path: Path, kind: str, prefixed: bool) -> None:
    lora = adapted(transformers.CLIPModel.from_pretrained(base), **KINDS[kind])
    folder = tmp_path / "whole"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    state = lora.state_dict() if prefixed else lora.base_model.model.state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"put its adapter_config.json beside"):
        patchword.load(folder)
    lora.save_pretrained(tmp_path / "adapter")
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", folder)
    check(our_features(folder / "pytorch_model.bin"), peft_features(base, tmp_path / "adapter"))


@pytest.mark.parametrize("kind", ["ViT", "Swin"])
def test_a_head_on_a_bare_tower(tmp_path: Path, kind: str) -> None:
    """The usual way to train a ViT on new classes: the head is saved whole, the base has none. In
    transformers 5 modules have other names than in files, and adapters have those names."""
    tower: Callable[[Any], nn.Module] = getattr(transformers, f"{kind}Model")
    settings = VISION
    if kind == "Swin":
        settings = {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [2, 2],
            "window_size": 2,
        }
        settings["num_heads"] = [2, 4]
    bare = scrambled(tower(getattr(transformers, f"{kind}Config")(**settings)))
    bare.save_pretrained(tmp_path / "tower")
    sizes = {"size": {"height": 32, "width": 32}}
    transformers.ViTImageProcessor(**sizes).save_pretrained(tmp_path / "tower")
    classifier = getattr(transformers, f"{kind}ForImageClassification")
    network = classifier.from_pretrained(tmp_path / "tower", num_labels=3)
    layers = ["q_proj", "v_proj", "o_proj", "fc1", "fc2"]
    lora = adapted(network, target_modules=layers, modules_to_save=["classifier"], bias="lora_only")
    lora.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = lora(pixel_values=PIXELS).logits
        model = patchword.load(tmp_path / "adapter")
        torch.testing.assert_close(model.network(PIXELS), expected)
    assert model.config.classes == 3


def test_attention_as_one_parameter(tmp_path: Path) -> None:
    """open_clip's is torch's MultiheadAttention, to whose output peft adds its product twice."""
    folder = tmp_path / "base"
    part = {"width": 64, "layers": 2}
    sizes = {
        "embed_dim": 32,
        "vision_cfg": {**part, "image_size": 32, "patch_size": 16, "head_width": 32},
        "text_cfg": {**part, "context_length": 16, "vocab_size": VOCABULARY, "heads": 2},
    }
    network = scrambled(open_clip.model.CLIP(**sizes))
    folder.mkdir()
    state = {n: t.contiguous() for n, t in network.state_dict().items() if n != "attn_mask"}
    save_file(state, folder / "open_clip_model.safetensors")
    values = {"model_cfg": sizes, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    lora = adapted(network, target_modules=["attn", "c_fc"])
    lora.save_pretrained(tmp_path / "adapter")
    model = patchword.load(folder, adapter=tmp_path / "adapter")
    with torch.no_grad():
        expected = lora.base_model.model.encode_image(PIXELS)
        torch.testing.assert_close(model.network.encode_image(PIXELS), expected)
        merged = lora.merge_and_unload().encode_image(PIXELS)
        torch.testing.assert_close(model.network.encode_image(PIXELS), merged)


def test_names_of_transformers_4(tmp_path: Path) -> None:
    """In adapters of that time, modules of a ViT have the names that they have in files."""
    network = scrambled(transformers.ViTForImageClassification(transformers.ViTConfig(**VISION)))
    network.save_pretrained(tmp_path / "base")
    lora = adapted(network, target_modules=["q_proj", "v_proj"])
    lora.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    old = {
        name.replace(".layers.", ".encoder.layer.")
        .replace("q_proj", "attention.query")
        .replace("v_proj", "attention.value"): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(old, file)
    model = patchword.load(tmp_path / "base", adapter=tmp_path / "adapter")
    with torch.no_grad():
        expected = lora(pixel_values=PIXELS).logits
        torch.testing.assert_close(model.network(PIXELS), expected)


@pytest.mark.parametrize("modules", [["q_proj", "v_proj"], ["token_embedding"]])
def test_a_text_tower_with_and_without_its_prefix(modules: list[str], tmp_path: Path) -> None:
    config = transformers.CLIPTextConfig(**SMALL, vocab_size=VOCABULARY, eos_token_id=98)
    scrambled(transformers.CLIPTextModel(config)).save_pretrained(tmp_path / "base")
    network = transformers.CLIPTextModel.from_pretrained(tmp_path / "base")
    lora = adapted(network, target_modules=modules)
    lora.save_pretrained(tmp_path / "adapter")
    expected = patchword.load(tmp_path / "adapter").fingerprint
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    save_file({f"text_model.{name}": t for name, t in tensors.items()}, file)
    assert patchword.load(tmp_path / "adapter").fingerprint == expected
    save_file(tensors, file)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    longer = {
        n.replace("model.model.", "model.model.text_model."): t for n, t in load_file(file).items()
    }
    save_file(longer, file)
    assert patchword.load(tmp_path / "adapter").fingerprint == expected


# Refused


OTHERS = {
    "LOHA": peft.LoHaConfig(target_modules=["q_proj"]),
    "LOKR": peft.LoKrConfig(target_modules=["q_proj"]),
    "IA3": peft.IA3Config(target_modules=["q_proj", "fc1"], feedforward_modules=["fc1"]),
    "OFT": peft.OFTConfig(target_modules=["q_proj"], oft_block_size=8),
    "ADALORA": peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10),
    "VERA": peft.VeraConfig(target_modules=["q_proj"]),
    "LN_TUNING": peft.LNTuningConfig(target_modules=["layer_norm1"]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OTHERS)
def test_other_adapters_are_refused_by_name(base: Path, tmp_path: Path, kind: str) -> None:
    network = transformers.CLIPModel.from_pretrained(base)
    peft.get_peft_model(network, OTHERS[kind]).save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=f"peft_type '{kind}'.*merge_and_unload"):
        patchword.load(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "is a DoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"trainable_token_indices": {"token_embedding": [1, 2]}}, "trainable_token_indices"),
    ],
)
def test_other_loras_are_refused_by_name(
    base: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=["q_proj"], **settings)
    with pytest.raises(CheckpointError, match=message):
        patchword.load(folder)


def test_a_key_of_a_later_peft(base: Path, tmp_path: Path) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=["q_proj"])
    edit(folder, use_something_new=True)
    with pytest.raises(
        CheckpointError, match="use_something_new is True, which patchword does not"
    ):
        patchword.load(folder)


def edit(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 5}, "the rank 5, its A has 4"),
        ({"lora_alpha": None}, "no numbers for r"),
        ({"alpha_pattern": [1]}, "no object of patterns"),
        ({"peft_type": None}, "peft_type None"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": f"{MODELSCOPE}a/b"}, "cannot be loaded"),
    ],
)
def test_a_config_that_does_not_fit(
    base: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=["q_proj"])
    edit(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        patchword.load(folder)


def damaged(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


Q = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "q_proj one matrix is missing"),
        (
            lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(31, 4)}),
            r"is \(32, 32\) in the base",
        ),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(32)}), "DoRA"),
        (lambda t: t.update({f"{Q}.norm.weight": torch.ones(32)}), "the base has no .*norm.weight"),
        (
            lambda t: t.update({f"{Q}x.lora_{s}.weight": torch.ones(4, 4) for s in "AB"}),
            "the base has no .*q_projx",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    base: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=["q_proj"])
    damaged(folder, change)
    with pytest.raises(CheckpointError, match=message):
        patchword.load(folder)


def test_an_adapter_whose_weights_are_missing(base: Path, tmp_path: Path) -> None:
    folder = write(base, tmp_path / "adapter", target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").unlink()
    message = r"has adapter_config.json, but no adapter_model.safetensors or adapter_model.bin$"
    with pytest.raises(CheckpointError, match=message):
        patchword.load(folder)
    shutil.copy(folder / "adapter_config.json", base)
    with pytest.raises(CheckpointError, match=r"and none is in model.safetensors$"):
        patchword.load(base)


def test_an_adapter_of_an_adapter(base: Path, tmp_path: Path) -> None:
    first = write(base, tmp_path / "first", target_modules=["q_proj"])
    second = write(base, tmp_path / "second", target_modules=["q_proj", "fc1"])
    edit(second, base_model_name_or_path=str(first))
    network = peft.PeftModel.from_pretrained(transformers.CLIPModel.from_pretrained(base), first)
    merged = peft.PeftModel.from_pretrained(network.merge_and_unload(), second).merge_and_unload()
    check(our_features(second), features(merged.eval()))
    edit(first, base_model_name_or_path=str(second))
    with pytest.raises(CheckpointError, match="is an adapter whose base is itself"):
        patchword.load(second)


def test_two_adapters_in_one_checkpoint(base: Path, tmp_path: Path) -> None:
    lora = adapted(transformers.CLIPModel.from_pretrained(base), target_modules=["q_proj"])
    lora.add_adapter("second", peft.LoraConfig(target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path / "adapter")
    torch.save(lora.state_dict(), base / "pytorch_model.bin")
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", base)
    with pytest.raises(CheckpointError, match="several adapters, default, second"):
        patchword.load(base / "pytorch_model.bin")


def test_a_lora_of_other_scripts(base: Path) -> None:
    file = base / "model.safetensors"
    extra = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(4, 32)}
    save_file({**load_file(file), **extra}, file)
    with pytest.raises(CheckpointError, match="a LoRA as kohya's scripts and diffusers write it"):
        patchword.load(base)


# Written by training


RUN = """
out = "{out}"
objective = "contrastive"
init = "{init}"
steps = 2
batch = 8
warmup = 1
learning_rate = 1e-2

[lora]
rank = 3
alpha = 7

[engine]
device = "cpu"
workers = 0

[[data]]
kind = "scenes"
only = "shapes"
count = 16
"""


def trained(tmp_path: Path, init: Path | str, *changes: str) -> Path:
    """The folder of a run that ended."""
    recipe = tmp_path / "run.toml"
    recipe.write_text(RUN.format(out=tmp_path / "run", init=init))
    loop.train(load(recipe, changes))
    return tmp_path / "run"


def test_training_writes_what_peft_loads(tmp_path: Path) -> None:
    """On a CLIP of transformers, whose queries, keys and values are three layers and ours are one,
    the adapter is one of that CLIP."""
    tokenizer = clip_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {**SMALL, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.eos_token_id, **ends}
    config = transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)
    scrambled(transformers.CLIPModel(config)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**sizes).save_pretrained(tmp_path / "base")
    run = trained(tmp_path, tmp_path / "base")
    with torch.no_grad():
        check_trained(run, tmp_path / "base", tokenizer)


def check_trained(run: Path, folder: Path, tokenizer: Any) -> None:
    """Check that the base with a run's adapter is the model that the run saved."""
    merged = patchword.load(run / "model").network
    base = transformers.CLIPModel.from_pretrained(folder).eval()
    before = base.get_image_features(pixel_values=PIXELS).pooler_output
    for network in (
        peft.PeftModel.from_pretrained(base, run / "adapter"),
        transformers.AutoModel.from_pretrained(run / "adapter").eval(),
    ):
        image = network.get_image_features(pixel_values=PIXELS).pooler_output
        torch.testing.assert_close(merged.encode_image(PIXELS), image)
        assert not torch.allclose(image, before, atol=0.05)
        text_features = network.get_text_features(input_ids=tokens(tokenizer)).pooler_output
        torch.testing.assert_close(merged.encode_text(tokens(tokenizer)), text_features)
    check_same_weights(patchword.load(run / "adapter").network, merged)


def tokens(tokenizer: Any) -> Tensor:
    return tokenizer(["a red circle", "a blue one"], return_tensors="pt", padding=True).input_ids


def check_same_weights(actual: nn.Module, expected: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(actual.state_dict()[name], value)


def test_training_of_a_patchword_model(tmp_path: Path) -> None:
    """Its adapter is one of patchword's own network, for patchword and for peft."""
    run = trained(tmp_path, "demo", 'lora.within=["image"]')
    merged = patchword.load(run / "model")
    adapter = patchword.load(run / "adapter")
    assert adapter.fingerprint != patchword.load("demo").fingerprint
    check_same_weights(adapter.network, merged.network)
    network = patchword.load("demo").network
    pefts = peft.PeftModel.from_pretrained(network, run / "adapter").merge_and_unload()
    check_same_weights(pefts, merged.network)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (['fresh=["image.head"]'], "parts of the model are not from init"),
        (["image_size=48"], "the model is not that of init"),
    ],
)
def test_training_of_more_than_an_adapter(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.warns(UserWarning, match=f"no adapter: {message}"):
        run = trained(tmp_path, "demo", *changes)
    assert not (run / "adapter").exists()
    patchword.load(run / "model")


def test_a_fingerprint_is_known_until_the_config_of_an_adapter_changes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lora_alpha decides the weights, and no file of weights states it."""
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known_fingerprints, "MIN_BYTES", 0)
    folder = write(base, tmp_path / "lora", target_modules=["q_proj"])
    before = patchword.load(folder).fingerprint
    edit(folder, lora_alpha=24)
    changed = patchword.load(folder).fingerprint
    assert changed != before
    edit(folder, lora_alpha=12)
    assert patchword.load(folder).fingerprint == before
    edit(folder, lora_alpha=24)
    assert patchword.load(folder).fingerprint == changed
