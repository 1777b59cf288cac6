"""The catalogue against the tables of the libraries that know these checkpoints too."""

import re
from functools import cache
from types import SimpleNamespace

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import open_clip
import pytest
import timm
import torch
import transformers
from open_clip.pretrained import _PRETRAINED

from patchword import models
from patchword.checkpoints import hub
from patchword.variants import VARIANTS, catalogue
from patchword.variants.catalogue import Checkpoint, Group

ROWS = [(group, row) for group in catalogue.GROUPS for row in group.checkpoints]
NAMES = {row.name: row for _, row in ROWS}


def rows(*starts: str) -> list[Checkpoint]:
    return [row for _, row in ROWS if row.name.startswith(starts)]


def test_names_are_hub_ids_and_appear_once() -> None:
    assert len(NAMES) == len(ROWS)
    files = {name for name in NAMES if not hub.is_id(name)}
    assert files == {"RN50.pt", "RN101.pt", "RN50x4.pt", "RN50x16.pt", "RN50x64.pt"}


@pytest.mark.parametrize("group", catalogue.GROUPS, ids=lambda group: group.title)
def test_an_accuracy_has_a_source_and_a_measure(group: Group) -> None:
    measured = [row for row in group.checkpoints if row.top1 is not None]
    assert bool(measured) == bool(group.source) == (group.measure != "none")
    assert all(50 < row.top1 < 95 for row in measured if row.top1 is not None)
    assert all(1 < row.parameters < 3000 for row in group.checkpoints)


def open_clips() -> dict[str, set[str]]:
    """Hub id -> the models of open_clip that it holds weights of."""
    known: dict[str, set[str]] = {}
    for name, tags in _PRETRAINED.items():
        for config in tags.values():
            known.setdefault(str(config.get("hf_hub", "")).rstrip("/"), set()).add(name)
    return known


OPEN_CLIPS = open_clips()
LENGTHS = {"max_position_embeddings": 514, "type_vocab_size": 1}
ROBERTAS = {
    "roberta-base": transformers.RobertaConfig(vocab_size=50265, **LENGTHS),
    "xlm-roberta-base": transformers.XLMRobertaConfig(vocab_size=250002, **LENGTHS),
    "xlm-roberta-large": transformers.XLMRobertaConfig(
        vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
        intermediate_size=4096, **LENGTHS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", rows("laion/", "apple/"), ids=lambda row: row.name)
def test_open_clip_knows_it_in_this_size(row: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert row.name in OPEN_CLIPS
    name = min(OPEN_CLIPS[row.name], key=len)
    config = open_clip.get_model_config(name)
    assert config["vision_cfg"]["image_size"] == row.pixels
    borrowed = config["text_cfg"].get("hf_model_name")
    if borrowed:  # its own configuration is on the hub
        config["text_cfg"]["hf_model_pretrained"] = False
        of_hub = {"from_pretrained": lambda name: ROBERTAS[name]}
        monkeypatch.setattr(open_clip.hf_model, "AutoConfig", SimpleNamespace(**of_hub))
    with torch.device("meta"):
        kind = open_clip.model.CustomTextCLIP if borrowed else open_clip.model.CLIP
        network = kind(**config)
    assert millions(network) == pytest.approx(row.parameters, abs=0.06)


@pytest.mark.parametrize("row", rows("timm/"), ids=lambda row: row.name)
def test_timm_knows_it_in_this_size(row: Checkpoint) -> None:
    name = row.name.removeprefix("timm/")
    config = timm.get_pretrained_cfg(name)
    assert config.hf_hub_id == row.name
    assert config.input_size[-1] == row.pixels
    (licence,) = {group.licence for group, other in ROWS if other is row}
    assert config.license == licence.lower()
    assert millions_of_timm(name.split(".")[0]) == pytest.approx(row.parameters, abs=0.06)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("openai/clip-vit-base-patch32", "clip-vit-base-32"),
        ("openai/clip-vit-base-patch16", "clip-vit-base-16"),
        ("openai/clip-vit-large-patch14", "clip-vit-large-14"),
        ("openai/clip-vit-large-patch14-336", "clip-vit-large-14-336"),
        *((f"{name}.pt", f"clip-{name.lower()}") for name in ("RN50", "RN101", "RN50x4")),
        *((f"{name}.pt", f"clip-{name.lower()}") for name in ("RN50x16", "RN50x64")),
        *(
            (row.name, row.name.split("/")[1].replace("patch", ""))
            for row in rows("google/siglip")
            if "giant" not in row.name and "i18n" not in row.name
        ),
    ],
)
def test_a_named_configuration_has_its_size(name: str, ours: str) -> None:
    config, row = VARIANTS[ours].config, NAMES[name]
    assert config.vision.image_size == (row.pixels, row.pixels)
    assert millions(models.outline(config)) == pytest.approx(row.parameters, abs=0.3)


@pytest.mark.parametrize("row", rows("facebook/dinov2"), ids=lambda row: row.name)
def test_dinov2_has_the_size_of_transformers(row: Checkpoint) -> None:
    size = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
    width, depth, heads = size[row.name.rpartition("-")[2]]
    name = "Dinov2WithRegisters" if "registers" in row.name else "Dinov2"
    config = getattr(transformers, f"{name}Config")(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=518
    )
    with torch.device("meta"):
        network = getattr(transformers, f"{name}Model")(config)
    assert millions(network) == pytest.approx(row.parameters, abs=0.06)


@pytest.mark.parametrize("row", rows("facebook/metaclip-2"), ids=lambda row: row.name)
def test_metaclip_2_has_the_size_of_transformers(row: Checkpoint) -> None:
    base, large, huge = (
        {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
        for width, heads in ((768, 12), (1024, 16), (1280, 16))
    )
    image, text = {
        "b32": ({**base, "patch_size": 32}, {}),
        "b16": ({**base, "patch_size": 16}, {}),
        "l14": ({**large, "num_hidden_layers": 24, "patch_size": 14}, base),
        "quickgelu": (
            {**huge, "num_hidden_layers": 32, "patch_size": 14},
            {**large, "num_hidden_layers": 24},
        ),
    }[row.name.rpartition("-")[2]]
    config = transformers.MetaClip2Config(
        vision_config=image,
        text_config={"vocab_size": 901629, **text},  # of XLM-V
        projection_dim=text.get("hidden_size", 512),
    )
    with torch.device("meta"):
        network = transformers.MetaClip2Model(config)
    assert millions(network) == pytest.approx(row.parameters, abs=0.06)


@pytest.mark.parametrize("row", [row for _, row in ROWS], ids=lambda row: row.name)
def test_a_name_that_states_its_pixels_states_these(row: Checkpoint) -> None:
    name = row.name.replace("PubMedBERT_256", "")  # tokens of a text
    match = re.search(r"[-_](196|224|240|256|336|378|384|512)(px|\D|$)", name)
    if match:
        assert int(match[1]) == row.pixels


def test_search() -> None:
    assert [group for group, _ in catalogue.search()] == list(catalogue.GROUPS)
    assert {group.title for group, _ in catalogue.search("SigLIP")} == {"SigLIP", "SigLIP 2"}
    assert [row.name for _, some in catalogue.search("naflex") for row in some] == [
        "google/siglip2-base-patch16-naflex",
        "google/siglip2-so400m-patch16-naflex",
    ]
    assert any("LLaVA" in row.note for _, some in catalogue.search("llava") for row in some)
    assert list(catalogue.search("no such model")) == []


@cache
def millions_of_timm(architecture: str) -> float:
    """Of one that several checkpoints have."""
    with torch.device("meta"):
        return millions(timm.create_model(architecture))


def millions(network: torch.nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6
