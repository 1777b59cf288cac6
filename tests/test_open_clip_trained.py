"""Checkpoints of open_clip's trainer are not taken for OpenAI's: a file, the run or the user must
name their architecture."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references import SIZE, fails, scramble
from tiny_tokenizers import open_clip_tokenizer, save_clip_tokenizer
from torch.testing import assert_close

# isort: split
import open_clip
from open_clip.factory import get_model_config
from open_clip.push_to_hf_hub import save_config_for_hf

from patchword import checkpoints
from patchword.checkpoints import open_clip_names
from patchword.errors import CheckpointError, CheckpointWarning

# In small, with heads that are not of 64 as those of ViT-H-14 are not.
VISION = {"image_size": SIZE, "patch_size": 8, "width": 80, "layers": 2, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 1000, "width": 64, "heads": 1, "layers": 2}
AUTOMATIC = "2024_05_01-10_00_00-model_ViT-T-8-lr_0.001-b_64-j_4-p_amp"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture ViT-T-8 of those numbers."""
    monkeypatch.setitem(open_clip_names.VITS, "ViT-T-8", (SIZE, 8, 80, 2, 64, 2))
    monkeypatch.setitem(open_clip_names.HEADS_AND_MLP, 80, (16, 4.0))


def trained(folder: Path, name: str, quick: bool = False, file: str = "epoch_5.pt") -> Any:
    """A network of open_clip, and the checkpoint that open_clip_train/main.py writes of it."""
    network = scramble(open_clip.CLIP(64, VISION, TEXT, quick_gelu=quick))
    save_clip_tokenizer(folder, 1000)
    checkpoint = {
        "epoch": 5,
        "name": name,
        "state_dict": {f"module.{n}": value for n, value in network.state_dict().items()},
        "optimizer": torch.optim.AdamW(network.parameters()).state_dict(),
        "scaler": {"scale": 65536.0},
    }
    torch.save(checkpoint, folder / file)
    return network


def check_features(path: Path, network: Any, **options: Any) -> None:
    """The loaded model has the features of the network."""
    model = checkpoints.load(path, **options)
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids = open_clip_tokenizer(size=1000)(["a photo of a cat", "a red bird"])
    with torch.no_grad():
        image, text = network.encode_image(pixels), network.encode_text(ids)
    our_image = torch.from_numpy(model.engine.encode_image(list(pixels.numpy())))
    our_text = torch.from_numpy(model.embed_texts(["a photo of a cat", "a red bird"]))
    assert_close(F.normalize(our_image, dim=-1), F.normalize(image, dim=-1))
    assert_close(our_text, F.normalize(text, dim=-1))


def test_the_table_is_open_clips() -> None:
    defaults = {"head_width": 64, "mlp_ratio": 4.0, "patch_size": None}
    for name in open_clip_names.NAMES:
        for variant in (name, name + open_clip_names.QUICK):
            expected = get_model_config(variant)
            if expected is None:  # not every name has a file with QuickGELU
                assert variant != name
                continue
            config = open_clip_names.model_cfg(variant)
            assert config["quick_gelu"] == expected.get("quick_gelu", False), variant
            assert config["embed_dim"] == expected["embed_dim"], variant
            vision = {**defaults, **expected["vision_cfg"]}
            assert {**defaults, **config["vision_cfg"]} == vision, variant
            text = {"context_length": 77, "vocab_size": 49408, **config["text_cfg"]}
            assert text == expected["text_cfg"], variant


@pytest.mark.parametrize("name", ["my run", "model_", "2024-model_ViT-B-32"])
def test_a_run_without_an_architecture_is_refused(name: str, tmp_path: Path) -> None:
    trained(tmp_path, name)
    fails(
        tmp_path / "epoch_5.pt", "a checkpoint of open_clip's trainer", repr(name),
        'architecture="ViT-B-32"', "--architecture", "open_clip_config.json",
    )  # fmt: skip


def test_the_name_of_the_run_names_the_architecture(tiny: None, tmp_path: Path) -> None:
    network = trained(tmp_path, AUTOMATIC)
    with pytest.warns(CheckpointWarning, match='trained as ViT-T-8.*"ViT-T-8-quickgelu"'):
        check_features(tmp_path / "epoch_5.pt", network)
    network = trained(tmp_path, AUTOMATIC.replace("T-8", "T-8-quickgelu"), quick=True)
    check_features(tmp_path / "epoch_5.pt", network)


def run_of(folder: Path, **options: Any) -> Path:
    """logs/my run/checkpoints, with the params.txt that open_clip_train/main.py writes above."""
    checkpoints_ = folder / "my run" / "checkpoints"
    checkpoints_.mkdir(parents=True)
    known = {"name": "my run", "model": "ViT-T-8", "force_quick_gelu": False, "image_mean": None}
    lines = [f"{key}: {value}\n" for key, value in sorted((known | options).items())]
    (checkpoints_.parent / "params.txt").write_text("".join(lines))
    return checkpoints_


def test_the_options_of_the_run_name_the_architecture(tiny: None, tmp_path: Path) -> None:
    folder = run_of(tmp_path, force_quick_gelu=True, pretrained="", image_mean=[0.1, 0.2, 0.3])
    network = trained(folder, "my run", quick=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        check_features(folder / "epoch_5.pt", network)
    model = checkpoints.load(folder)
    assert model.config.read_from[-1] == "architecture ViT-T-8-quickgelu, by the run's params.txt"
    assert model.config.preprocess.mean == (0.1, 0.2, 0.3)
    model = checkpoints.load(folder, architecture="ViT-T-8")
    assert model.config.vision.activation == "gelu"
    assert model.config.preprocess.mean == (0.1, 0.2, 0.3)


def test_options_that_change_the_architecture(tiny: None, tmp_path: Path) -> None:
    """Another size, SigLIP's loss, and the tag whose weights were of other means."""
    more = {"force_image_size": SIZE // 2, "siglip": True, "image_interpolation": "random"}
    folder = run_of(tmp_path, pretrained="laion2b_s32b_b82k", **more)
    half = VISION | {"image_size": SIZE // 2}
    network = open_clip.CLIP(64, half, TEXT, init_logit_bias=-10)
    torch.save({"name": "my run", "state_dict": network.state_dict()}, folder / "epoch_5.pt")
    save_clip_tokenizer(folder, 1000)
    config = checkpoints.load(folder).config
    assert config.score == "sigmoid"
    assert config.preprocess.size == (SIZE // 2, SIZE // 2)
    assert config.preprocess.mean == (0.5, 0.5, 0.5)
    assert config.preprocess.interpolation == "bicubic"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "another run"}, "does not say what its activation"),
        ({"pretrained": "openai"}, 'give architecture="ViT-T-8-quickgelu" or'),
        (
            {"model": "ViT-Z", "force_quick_gelu": True},
            r"'ViT-Z-quickgelu', by the run's params.txt,.*'ViT-Z'\) \| {\"quick_gelu\": True}",
        ),
    ],
)
def test_options_that_do_not_name_the_architecture(
    options: dict[str, Any], message: str, tiny: None, tmp_path: Path
) -> None:
    folder = run_of(tmp_path, **options)
    trained(folder, "my run")
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


@pytest.mark.parametrize("quick", [False, True])
def test_the_architecture_is_given(quick: bool, tiny: None, tmp_path: Path) -> None:
    network = trained(tmp_path, "my run", quick)
    name = "ViT-T-8" + open_clip_names.QUICK * quick
    check_features(tmp_path / "epoch_5.pt", network, architecture=name)
    model = checkpoints.load(tmp_path, architecture=name)
    assert model.options == {"architecture": name}
    assert model.config.read_from == (
        "epoch_5.pt (state_dict)", "tokenizer.json", "tokenizer_config.json",
        f"architecture {name}, as given",
    )  # fmt: skip


def test_open_clips_own_file_names_the_architecture(tmp_path: Path) -> None:
    network = trained(tmp_path, "my run")
    config = {"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT}
    network.visual.image_mean, network.visual.image_std = (0.5,) * 3, (0.5,) * 3
    save_config_for_hf(network, tmp_path / "open_clip_config.json", config)
    check_features(tmp_path / "epoch_5.pt", network)
    with pytest.raises(CheckpointError, match="needs no architecture"):
        checkpoints.load(tmp_path, architecture="ViT-B-32")


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_lone_file_of_open_clip_is_not_openais(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = open_clip.CLIP(64, VISION, TEXT).state_dict()
    if name.endswith("bin"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    fails(tmp_path / name, "weights of open_clip", 'architecture="ViT-B-32"')


def test_an_architecture_that_does_not_fit_or_is_unknown(tmp_path: Path) -> None:
    trained(tmp_path, "my run")
    for name, *parts in (
        ("ViT-B-32", "(architecture ViT-B-32, as given)", "embed_dim is 512", "makes it 64"),
        ("ViT-B32", "do you mean ViT-B-32?"),
        ("ViT-L-14-CLIPA", "open_clip.get_model_config('ViT-L-14-CLIPA')"),
    ):
        with pytest.raises(CheckpointError) as caught:
            checkpoints.load(tmp_path, architecture=name)
        assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("width", [320, 384, 896, 1280])
def test_widths_that_openai_never_made(width: int, tmp_path: Path) -> None:
    vision = VISION | {"width": width, "layers": 1, "head_width": 64, "patch_size": 32}
    text = TEXT | {"vocab_size": 400, "layers": 1}
    torch.save(open_clip.CLIP(64, vision, text).state_dict(), tmp_path / "w.pt")
    fails(tmp_path / "w.pt", f"{width} wide, and OpenAI's are 768 and 1024", "--architecture")


def test_a_state_dict_that_may_be_openais_says_so(tmp_path: Path) -> None:
    vision = VISION | {"width": 64, "head_width": 64}
    network = scramble(open_clip.CLIP(64, vision, TEXT, quick_gelu=True))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    save_clip_tokenizer(tmp_path, 1000)
    with pytest.warns(CheckpointWarning, match="QuickGELU is taken, as OpenAI's") as caught:
        check_features(tmp_path / "w.pt", network)
    assert len(caught) == 1
