"""What `info`, `models`, `receipt` and `verify` say, as a new user reads it."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import original_receipts
import pytest
from references import edit_json, hugging_face, timm_vit

import patchword
from patchword import receipts
from patchword.cli import info_models, main
from patchword.cli import receipt_verify as cli_receipts
from patchword.config import ViTConfig
from patchword.receipts.compare import ATOL, RTOL
from patchword.show.config_summary import family
from patchword.variants import VARIANTS, catalogue

pytestmark = pytest.mark.slow

WRITERS = original_receipts.writers()
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in an empty folder of a terminal of 60 columns: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# --- what a model costs ---------------------------------------------------------------------------


def vit_gflops(vision: ViTConfig, embed: int = 0) -> float:
    """The matrix products of a ViT, two operations for each multiply-add."""
    patches = vision.grid[0] * vision.grid[1]
    tokens, width = patches + 1, vision.width
    products = 4 * width * width + 2 * width * vision.mlp_width  # qkv, proj, fc1, fc2: per token
    attention = 2 * tokens * tokens * width  # queries with keys, weights with values
    whole = patches * 3 * vision.patch_size**2 * width
    whole += vision.depth * (tokens * products + attention) + width * embed
    return 2 * whole / 1e9


def spared(tokens: int, width: int, mlp_width: int) -> float:
    """What the last block does not do: of all tokens but the pooled one neither the queries' part
    of attention nor proj, fc1 and fc2."""
    products = width * width + 2 * width * mlp_width
    return 2 * (tokens - 1) * (products + 2 * tokens * width) / 1e9


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("clip-vit-base-32", 8.8),  # 4.4 G multiply-adds
        ("clip-vit-base-16", 35.1),
        ("clip-vit-large-14-336", 381.9),
    ],
)
def test_gflops_of_a_vit(name: str, published: float) -> None:
    config = VARIANTS[name].config
    vision = config.vision
    whole = vit_gflops(vision, config.embed_dim)
    tokens = vision.grid[0] * vision.grid[1] + 1
    least = whole - spared(tokens, vision.width, vision.mlp_width)
    assert info_models.gflops(config)["image"] == pytest.approx(least, rel=1e-9)
    assert whole == pytest.approx(published, abs=0.06)


def test_gflops_of_a_text_grow_with_the_context() -> None:
    text = VARIANTS["clip-vit-base-32"].config.text
    assert text is not None
    products = 12 * text.width**2 * text.context + 2 * text.context**2 * text.width
    expected = 2 * (text.depth * products + text.width * 512) / 1e9
    expected -= spared(text.context, text.width, text.mlp_width)
    assert info_models.gflops(VARIANTS["clip-vit-base-32"].config)["text"] == pytest.approx(
        expected
    )


# --- info -----------------------------------------------------------------------------------------


def test_info(run: Run) -> None:
    model = patchword.load("demo")
    code, out, _ = run("info")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 60
    words = " ".join(out.split())
    assert model.fingerprint in words
    assert "context length 48" in words
    assert "an image of 96x96 0.93" in words
    assert "preprocessing: config.json" in words
    assert "tokens: tokenizer.json" in words
    assert "nothing: every value is in the checkpoint's own files" in words
    (record,) = records(run("info", "--model", "demo", "--json")[1])
    assert record["fingerprint"] == model.fingerprint
    assert record["parameters"]["all"] == sum(p.numel() for p in model.network.parameters())
    assert record["text"]["context"] == model.config.text.context
    assert record["gflops"] == pytest.approx(info_models.gflops(model.config))
    assert record["read_from"] == ["model.safetensors", "config.json"]
    assert record["assumed"] == {}
    assert run("info", "demo", "--model", "demo")[0] == 2


def test_info_tells_where_each_value_was_read(run: Run, tmp_path: Path) -> None:
    hugging_face(tmp_path / "hf")
    # transformers 5 writes preprocessor_config.json for a processor that is saved by itself.
    processor = next(p.name for p in (tmp_path / "hf").glob("p*processor_config.json"))
    words = " ".join(run("info", tmp_path / "hf")[1].split())
    assert "weights and their sizes: model.safetensors" in words
    assert "towers: config.json" in words
    assert f"preprocessing: {processor}" in words
    assert "tokens: tokenizer.json" in words
    (tmp_path / "hf" / processor).unlink()
    (tmp_path / "hf" / "tokenizer.json").unlink()
    edit_json(tmp_path / "hf" / "config.json", vision_config__hidden_act=None)
    words = " ".join(run("info", tmp_path / "hf")[1].split())
    assert "preprocessing: nowhere: see assumed" in words
    assert "tokens: none came with it" in words
    assert "vision.activation: quick_gelu: not stated" in words
    assert "preprocess.mean" in words


def test_a_file_that_was_not_read_is_not_named(run: Run, tmp_path: Path) -> None:
    timm_vit(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text("{}")
    (record,) = records(run("info", tmp_path / "vit", "--json")[1])
    assert record["read_from"] == ["model.safetensors", "config.json"]


FAMILIES = {
    "clip-huggingface-quick-gelu": "CLIP, ViT",
    "clip-open-clip-resnet-bin": "CLIP, ResNet",
    "vit-timm": "ViT classifier",
    "vit-timm-headless": "image tower, ViT",
    "vit-timm-deit-distilled": "DeiT (distilled) classifier",
    "vit-timm-deit3": "ViT with layer scale (DeiT III, DINOv2) classifier",
    "vit-huggingface-dinov2": "image tower, ViT with layer scale (DeiT III, DINOv2)",
    "swin-timm": "Swin classifier",
    "mae-huggingface-mae": "masked autoencoder (MAE), ViT",
    "siglip-hf-siglip": "SigLIP, ViT",
    "siglip-hf-siglip-naflex": "SigLIP, ViT in native shapes (NaFlex)",
    "chinese-clip-hf-chinese-clip": "CLIP, ViT and BERT",
    "blip-hf-blip-captions": "BLIP captioner, ViT",
    "blip-hf-blip-questions": "BLIP question answerer, ViT",
    "blip-hf-blip-retrieval": "BLIP retrieval, ViT",
    "encoders-hf-clip-text-quick-gelu": "text encoder, causal Transformer",
    "encoders-hf-clip-vision-projection": "image tower, ViT",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_info_of_each_family(name: str, run: Run, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / "model").path
    code, out, err = run("info", path)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 60
    (record,) = records(run("info", path, "--json")[1])
    assert record["family"] == FAMILIES[name]
    assert all(value > 0 for value in record["gflops"].values())
    assert ("image" in record["gflops"]) == (record["vision"] is not None)
    assert ("tokens  " in out) == bool(record["text"] or (record["blip"] or {}).get("decoder"))


def test_the_cost_is_of_the_size_that_images_get(run: Run, tmp_path: Path) -> None:
    path = WRITERS["vit-huggingface-dinov2"](tmp_path / "model").path
    words = " ".join(run("info", path)[1].split())
    assert "an image of 32x32" in words
    assert "32x32 pixels in 4x4 patches of 8, whose positions are of 48x48 pixels" in words


def test_register_tokens_are_told(run: Run, tmp_path: Path) -> None:
    path = WRITERS["vit-huggingface-dinov2-registers"](tmp_path / "model").path
    assert "gelu, 3 registers, patches positions" in " ".join(run("info", path)[1].split())


def test_every_variant_has_a_family() -> None:
    assert all(family(variant.config) for variant in VARIANTS.values())


# --- models ---------------------------------------------------------------------------------------


def test_models_lists_every_checkpoint(run: Run) -> None:
    listed = records(run("models", "--json")[1])
    assert [r["name"] for r in listed] == [
        row.name for group in catalogue.GROUPS for row in group.checkpoints
    ]
    (clip,) = (r for r in listed if r["name"] == "openai/clip-vit-base-patch32")
    assert clip == {
        "family": "OpenAI CLIP", "name": "openai/clip-vit-base-patch32", "parameters": 151.3,
        "pixels": 224, "top1": 63.3, "note": "", "licence": "MIT", "measure": "zero-shot",
        "source": catalogue.OPEN_CLIP,
    }  # fmt: skip


@pytest.mark.parametrize("columns", ["60", "100"])
def test_models_is_readable(columns: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = run("models", "siglip")
    assert code == 0
    assert max(map(len, out.splitlines())) <= int(columns)
    assert "SigLIP 2 (licence: Apache-2.0)" in out
    assert "google/siglip2-so400m-patch16-naflex" in out  # on one line
    assert "OpenAI" not in out
    assert "patchword info demo" in err
    (line,) = (line for line in out.splitlines() if "siglip-so400m-patch14-384" in line)
    assert line.split() == ["google/siglip-so400m-patch14-384", "878", "M", "384", "83.1"]
    (line,) = (line for line in out.splitlines() if "siglip-so400m-patch16-256-i18n" in line)
    assert line.split()[-1] == "-"


def test_models_of_no_such_name_is_2(run: Run) -> None:
    for options in ([], ["--configs"], ["--json"]):
        code, out, err = run("models", "nothing of the kind", *options)
        assert (code, out) == (2, "")
        assert "nothing of the kind" in err


def test_configs_lists_every_variant(run: Run) -> None:
    listed = records(run("models", "--configs", "--json")[1])
    assert [r["name"] for r in listed] == list(VARIANTS)
    sizes = {r["name"]: r["parameters"] for r in listed}
    assert sizes["clip-vit-base-32"] == 151277313  # as openai's ViT-B/32


def test_configs_is_readable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: VARIANTS[name] for name in ("vit-tiny-16", "clip-vit-base-32", "clip-rn50")}
    monkeypatch.setattr("patchword.variants.VARIANTS", few)
    lines = run("models", "--configs")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(few)
    assert max(map(len, lines)) <= 60
    lines = run("models", "clip", "--configs")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(few)[1:]


# --- receipt, verify ------------------------------------------------------------------------------


def test_receipt_then_verify(run: Run) -> None:
    code, out, err = run("receipt", "demo", "-o", "r.json")
    assert (code, out, err) == (0, "", "wrote r.json\n")
    assert (
        receipts.verify(patchword.load("demo"), json.loads(Path("r.json").read_text("utf-8"))) == []
    )
    code, out, _ = run("verify", "demo", "r.json")
    assert code == 0
    assert "the same" in out
    assert max(map(len, out.splitlines())) <= 60
    assert run("verify", "r.json", "--model", "demo")[0] == 0
    printed = json.loads(run("receipt")[1])
    assert printed == json.loads(run("receipt", "--json")[1])
    assert printed == json.loads(Path("r.json").read_text("utf-8"))


def test_verify_names_the_first_stage(run: Run) -> None:
    known = receipts.make(patchword.load("demo"))
    known["text_tower"] = [[value + 0.25 for value in row] for row in known["text_tower"]]
    Path("r.json").write_text(receipts.to_text(known), encoding="utf-8")
    code, out, _ = run("verify", "r.json")
    assert code == 1
    assert "first in: text tower" in out
    assert "2.5e-01" in out
    assert "LayerNorm eps" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 60
    code, out, _ = run("verify", "r.json", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [r["stage"] for r in records if not r["same"]] == ["text_tower"]
    assert records[3]["largest"] == pytest.approx(0.25)
    assert run("verify", "r.json", "--atol", "0.3")[0] == 0


def test_verify_says_what_the_receipt_has_nothing_of(run: Run) -> None:
    known = receipts.make(patchword.load("demo"))
    assert receipts.not_compared(patchword.load("demo"), known) == []
    known["text_tower"], known["pair_logits"] = [], []
    Path("r.json").write_text(receipts.to_text(known), encoding="utf-8")
    code, out, _ = run("verify", "r.json")
    assert code == 0
    assert "not compared text tower, pair logits: the receipt has nothing" in " ".join(out.split())


def test_verify_of_what_is_no_receipt_is_2(run: Run) -> None:
    Path("bad.json").write_text("{")
    Path("other.json").write_text('{"a": 1}')
    for name, said in (
        ("bad.json", "not readable JSON"),
        ("other.json", "other.json: no receipt"),
        ("none.json", "No such file"),
    ):
        code, _, err = run("verify", "demo", name)
        assert code == 2
        assert said in err
    assert run("verify", "demo", "demo", "r.json")[0] == 2
    Path("file").touch()
    assert run("receipt", "demo", "-o", "file/receipt.json")[0] == 2


def test_verify_states_the_defaults() -> None:
    """They are written there once more, so that --help waits for no torch."""
    stated = inspect.signature(cli_receipts.verify).parameters
    assert (stated["rtol"].default, stated["atol"].default) == (RTOL, ATOL)
