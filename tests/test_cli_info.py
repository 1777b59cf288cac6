"""What `info`, `models`, `receipt` and `verify` print."""

import inspect
import json
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import original_receipts
import pytest
from cli_runner import Run
from references import edit_json, hugging_face, timm_vit

import patchword
from patchword import receipts
from patchword.cli import info_models
from patchword.cli import receipt_verify as cli_receipts
from patchword.config import ViTConfig
from patchword.receipts.compare import ATOL, RTOL
from patchword.show.config_summary import family
from patchword.variants import VARIANTS, catalogue

pytestmark = pytest.mark.slow

WRITERS = original_receipts.writers()


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, 60 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")


# --- what a model costs ---------------------------------------------------------------------------


def vit_gflops(vision: ViTConfig, embed: int = 0) -> float:
    """The matrix products of a ViT, two operations for each multiply-add."""
    patches = vision.grid[0] * vision.grid[1]
    tokens, width = patches + 1, vision.width
    products = 4 * width * width + 2 * width * vision.mlp_width  # qkv, proj, fc1, fc2: per token
    attention = 2 * tokens * tokens * width  # queries with keys, weights with values
    multiply_adds = patches * 3 * vision.patch_size**2 * width
    multiply_adds += vision.depth * (tokens * products + attention) + width * embed
    return 2 * multiply_adds / 1e9


def skipped_gflops(tokens: int, width: int, mlp_width: int) -> float:
    """What the last block does not compute for tokens that are not pooled: their queries in
    attention, proj, fc1 and fc2."""
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
    all_tokens = vit_gflops(vision, config.embed_dim)
    tokens = vision.grid[0] * vision.grid[1] + 1
    computed = all_tokens - skipped_gflops(tokens, vision.width, vision.mlp_width)
    assert info_models.gflops(config)["image"] == pytest.approx(computed, rel=1e-9)
    assert all_tokens == pytest.approx(published, abs=0.06)


def test_gflops_of_a_text_grow_with_the_context() -> None:
    text = VARIANTS["clip-vit-base-32"].config.text
    assert text is not None
    products = 12 * text.width**2 * text.context + 2 * text.context**2 * text.width
    expected = 2 * (text.depth * products + text.width * 512) / 1e9
    expected -= skipped_gflops(text.context, text.width, text.mlp_width)
    assert info_models.gflops(VARIANTS["clip-vit-base-32"].config)["text"] == pytest.approx(
        expected
    )


# --- info -----------------------------------------------------------------------------------------


def test_info(run: Run) -> None:
    model = patchword.load("demo")
    ran = run("info")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 60
    words = " ".join(ran.out.split())
    assert model.fingerprint in words
    assert "context length 48" in words
    assert "an image of 96x96 0.93" in words
    assert "preprocessing: config.json" in words
    assert "tokens: tokenizer.json" in words
    assert "nothing: every value is in the checkpoint's own files" in words
    (record,) = run("info", "--model", "demo", "--json").records
    assert record["fingerprint"] == model.fingerprint
    assert record["parameters"]["all"] == sum(p.numel() for p in model.network.parameters())
    assert record["text"]["context"] == model.config.text.context
    assert record["gflops"] == pytest.approx(info_models.gflops(model.config))
    assert record["read_from"] == ["model.safetensors", "config.json"]
    assert record["assumed"] == {}
    assert run("info", "demo", "--model", "demo").code == 2


def test_info_tells_where_each_value_was_read(run: Run, tmp_path: Path) -> None:
    hugging_face(tmp_path / "hf")
    # transformers 5 writes preprocessor_config.json for a processor that is saved by itself.
    processor = next(p.name for p in (tmp_path / "hf").glob("p*processor_config.json"))
    words = " ".join(run("info", tmp_path / "hf").out.split())
    assert "weights and their sizes: model.safetensors" in words
    assert "towers: config.json" in words
    assert f"preprocessing: {processor}" in words
    assert "tokens: tokenizer.json" in words
    (tmp_path / "hf" / processor).unlink()
    (tmp_path / "hf" / "tokenizer.json").unlink()
    edit_json(tmp_path / "hf" / "config.json", vision_config__hidden_act=None)
    words = " ".join(run("info", tmp_path / "hf").out.split())
    assert "preprocessing: nowhere: see assumed" in words
    assert "tokens: none came with it" in words
    assert "vision.activation: quick_gelu: not stated" in words
    assert "preprocess.mean" in words


def test_a_file_that_was_not_read_is_not_named(run: Run, tmp_path: Path) -> None:
    timm_vit(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text("{}")
    (record,) = run("info", tmp_path / "vit", "--json").records
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
    ran = run("info", path)
    assert ran.code == 0, ran.err
    assert max(map(len, ran.out.splitlines())) <= 60
    (record,) = run("info", path, "--json").records
    assert record["family"] == FAMILIES[name]
    assert all(value > 0 for value in record["gflops"].values())
    assert ("image" in record["gflops"]) == (record["vision"] is not None)
    assert ("tokens  " in ran.out) == bool(record["text"] or (record["blip"] or {}).get("decoder"))


def test_the_cost_is_of_the_size_that_images_get(run: Run, tmp_path: Path) -> None:
    path = WRITERS["vit-huggingface-dinov2"](tmp_path / "model").path
    words = " ".join(run("info", path).out.split())
    assert "an image of 32x32" in words
    assert "32x32 pixels in 4x4 patches of 8, whose positions are of 48x48 pixels" in words


def test_register_tokens_are_shown(run: Run, tmp_path: Path) -> None:
    path = WRITERS["vit-huggingface-dinov2-registers"](tmp_path / "model").path
    assert "gelu, 3 registers, patches positions" in " ".join(run("info", path).out.split())


def test_every_variant_has_a_family() -> None:
    assert all(family(variant.config) for variant in VARIANTS.values())


# --- models ---------------------------------------------------------------------------------------


def test_models_lists_every_checkpoint(run: Run) -> None:
    listed = run("models", "--json").records
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
    ran = run("models", "siglip")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= int(columns)
    assert "SigLIP 2 (licence: Apache-2.0)" in ran.out
    assert "google/siglip2-so400m-patch16-naflex" in ran.out  # on one line
    assert "OpenAI" not in ran.out
    assert "patchword info demo" in ran.err
    (line,) = (line for line in ran.out.splitlines() if "siglip-so400m-patch14-384" in line)
    assert line.split() == ["google/siglip-so400m-patch14-384", "878", "M", "384", "83.1"]
    (line,) = (line for line in ran.out.splitlines() if "siglip-so400m-patch16-256-i18n" in line)
    assert line.split()[-1] == "-"


def test_models_of_no_such_name_is_2(run: Run) -> None:
    for options in ([], ["--configs"], ["--json"]):
        ran = run("models", "nothing of the kind", *options)
        assert (ran.code, ran.out) == (2, "")
        assert "nothing of the kind" in ran.err


def test_configs_lists_every_variant(run: Run) -> None:
    listed = run("models", "--configs", "--json").records
    assert [r["name"] for r in listed] == list(VARIANTS)
    sizes = {r["name"]: r["parameters"] for r in listed}
    assert sizes["clip-vit-base-32"] == 151277313  # as openai's ViT-B/32


def test_configs_is_readable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: VARIANTS[name] for name in ("vit-tiny-16", "clip-vit-base-32", "clip-rn50")}
    monkeypatch.setattr("patchword.variants.VARIANTS", few)
    lines = run("models", "--configs").out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(few)
    assert max(map(len, lines)) <= 60
    lines = run("models", "clip", "--configs").out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(few)[1:]


# --- receipt, verify ------------------------------------------------------------------------------


def test_receipt_then_verify(run: Run) -> None:
    ran = run("receipt", "demo", "-o", "r.json")
    assert (ran.code, ran.out, ran.err) == (0, "", "wrote r.json\n")
    assert (
        receipts.verify(patchword.load("demo"), json.loads(Path("r.json").read_text("utf-8"))) == []
    )
    ran = run("verify", "demo", "r.json")
    assert ran.code == 0
    assert "the same" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 60
    assert run("verify", "r.json", "--model", "demo").code == 0
    printed = json.loads(run("receipt").out)
    assert printed == json.loads(run("receipt", "--json").out)
    assert printed == json.loads(Path("r.json").read_text("utf-8"))


def test_verify_names_the_first_stage(run: Run) -> None:
    known = receipts.make(patchword.load("demo"))
    known["text_tower"] = [[value + 0.25 for value in row] for row in known["text_tower"]]
    Path("r.json").write_text(receipts.to_text(known), encoding="utf-8")
    ran = run("verify", "r.json")
    assert ran.code == 1
    assert "first in: text tower" in ran.out
    assert "2.5e-01" in ran.out
    assert "LayerNorm eps" in " ".join(ran.out.split())
    assert max(map(len, ran.out.splitlines())) <= 60
    ran = run("verify", "r.json", "--json")
    assert ran.code == 1
    assert [r["stage"] for r in ran.records if not r["same"]] == ["text_tower"]
    assert ran.records[3]["largest"] == pytest.approx(0.25)
    assert run("verify", "r.json", "--atol", "0.3").code == 0


def test_verify_names_stages_that_the_receipt_lacks(run: Run) -> None:
    known = receipts.make(patchword.load("demo"))
    assert receipts.not_compared(patchword.load("demo"), known) == []
    known["text_tower"], known["pair_logits"] = [], []
    Path("r.json").write_text(receipts.to_text(known), encoding="utf-8")
    ran = run("verify", "r.json")
    assert ran.code == 0
    assert "not compared text tower, pair logits: the receipt has nothing" in " ".join(
        ran.out.split()
    )


def test_verify_of_what_is_no_receipt_is_2(run: Run) -> None:
    Path("bad.json").write_text("{")
    Path("other.json").write_text('{"a": 1}')
    for name, message in (
        ("bad.json", "not readable JSON"),
        ("other.json", "other.json: no receipt"),
        ("none.json", "No such file"),
    ):
        ran = run("verify", "demo", name)
        assert ran.code == 2
        assert message in ran.err
    assert run("verify", "demo", "demo", "r.json").code == 2
    Path("file").touch()
    assert run("receipt", "demo", "-o", "file/receipt.json").code == 2


def test_verify_states_the_defaults() -> None:
    """They are written there once more, so that --help waits for no torch."""
    stated = inspect.signature(cli_receipts.verify).parameters
    assert (stated["rtol"].default, stated["atol"].default) == (RTOL, ATOL)
