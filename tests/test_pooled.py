"""The last block computes only the tokens that are pooled; activations that were not kept are
recomputed."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from reference_vit import MODELS  # first: it prepares the libraries' imports

# isort: split
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from small_models import WORDS, shrunk, tiny_clip, tiny_clip_resnet
from torch import Tensor, nn
from torch.testing import assert_close

from patchword import checkpoints, models
from patchword.config import ModelConfig, ViTConfig
from patchword.nn.positions import rope_2d
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import Block, causal_mask, padding_mask, run_blocks, select_tokens
from patchword.variants import VARIANTS

pytestmark = pytest.mark.slow

LENGTHS = torch.tensor([[7], [4], [6]])
PLACES = torch.tensor([[2, 0], [3, 3], [5, 1]])  # of 7 tokens in 3 rows
MASKS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "no mask": lambda x: None,
    "causal": lambda x: causal_mask(7, x),
    "padding": lambda x: padding_mask(torch.arange(7) < LENGTHS, x),
}
KINDS: dict[str, dict[str, bool]] = {
    "pre-norm": {"layer_scale": True, "qk_norm": True},
    "post-norm": {"post_norm": True},
}


def tokens(*shape: int) -> Tensor:
    """Of float64, so that only a mistake is a difference."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def stack(count: int, width: int = 16, **options: object) -> nn.ModuleList:
    torch.manual_seed(0)
    blocks = [Block(width, 2, 4 * width, **options) for _ in range(count)]  # type: ignore[arg-type]
    for value in (value for block in blocks for value in block.parameters()):
        nn.init.normal_(value, std=0.3)
    return nn.ModuleList(blocks).double()


def gradients(network: nn.Module, out: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Of a sum in which every number of `out` has another weight, by all parameters and inputs."""
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return list(torch.autograd.grad((out * weights).sum(), [*inputs, *network.parameters()]))


# The last block computes selected tokens.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_selected_tokens_equal_those_of_the_full_block(kind: str, mask: str) -> None:
    (block,) = blocks = stack(1, **KINDS[kind])
    x = tokens(3, 7, 16).requires_grad_()
    turns = rope_2d((2, 3), 8, prefix=1).double()
    added = MASKS[mask](x)
    whole = block(x, added, rotary=turns)[torch.arange(3)[:, None], PLACES]
    some = block(x, added, rotary=turns, output_indices=PLACES)
    assert_close(some, whole)
    assert_close(run_blocks(blocks, x, added, rotary=turns, output_indices=PLACES), whole)
    found = gradients(block, some, x)
    assert_close(found, gradients(block, whole, x))
    assert all(gradient.abs().max() > 0 for gradient in found)


def test_selected_tokens_attend_to_a_context() -> None:
    (block,) = stack(1, cross_width=10)
    x, context = tokens(3, 7, 16), tokens(3, 4, 10)
    some = block(x, context=context, output_indices=PLACES)
    assert_close(some, select_tokens(block(x, context=context), PLACES))


def test_with_a_tap_the_last_block_computes_all_tokens() -> None:
    blocks, x = stack(2), tokens(3, 7, 16)
    plain = run_blocks(blocks, x, output_indices=PLACES)
    for tap, shape in (("attn", (3, 2, 7, 7)), ("attn.q", (3, 2, 7, 8)), ("", (3, 7, 16))):
        name = f"blocks.1.{tap}".rstrip(".")
        taps = Taps([name])
        assert_close(run_blocks(blocks, x, taps=taps, output_indices=PLACES), plain)
        assert taps.result()[name].shape == shape
    asked = Taps(["tower.blocks.1.attn.k"]).inside("tower")
    assert [asked.wants_inside(part) for part in ("blocks.1", "blocks.0", "blocks")] == [
        True,
        False,
        True,
    ]
    assert not asked.wants_inside("blocks.1.at")
    assert not NO_TAPS.wants_inside("blocks.1")
    assert run_blocks(nn.ModuleList(), x, output_indices=PLACES).shape == plain.shape


def towers() -> dict[str, ModelConfig]:
    return {
        name: shrunk(variant.config)
        for name, variant in VARIANTS.items()
        if isinstance(variant.config.vision, (ViTConfig, type(None))) and not variant.config.decoder
    }


@pytest.mark.parametrize("name", towers())
def test_towers_make_no_more_than_they_pool(name: str) -> None:
    config = towers()[name]
    torch.manual_seed(0)
    network = models.build(config).double().eval()
    made: list[int] = []

    def check(tower: str, encode: Callable[..., Tensor], x: Tensor, pooled: int) -> None:
        block = network.get_submodule(f"{tower}.blocks.1.mlp")
        with block.register_forward_hook(lambda part, given, out: made.append(out.shape[1])):
            some = encode(x)
            whole, taps = encode(x, taps=[f"{tower}.blocks.1"])
        assert_close(some, whole)
        count = taps[f"{tower}.blocks.1"].shape[1]
        assert made == [pooled or count, count]
        made.clear()

    if isinstance(config.vision, ViTConfig):
        pixels = tokens(3, 3, *config.vision.image_size)
        pooled = {"cls": 1, "distilled": 2}.get(config.vision.pool, 0)
        check("image", network.encode_image, pixels, pooled)
    if config.text is not None:
        ids = torch.randint(2, WORDS - 1, (3, 16), generator=torch.Generator().manual_seed(1))
        ids[[0, 1, 1, 2], [15, 4, 9, 1]] = WORDS - 1
        check("text", network.encode_text, ids, 1)


def test_all_tokens_of_a_text_on_request() -> None:
    network = models.build(tiny_clip()).double()
    ids = torch.tensor([[1, 7, 8, WORDS - 1], [1, 9, WORDS - 1, 0]])
    features, taps = network.encode_text(ids, taps=["text.hidden"])
    assert taps["text.hidden"].shape == (2, 4, 32)
    assert_close(features, network.encode_text(ids))


# DeiT's two heads


@torch.no_grad()
def test_two_heads_are_those_of_transformers(tmp_path: Path) -> None:
    reference = MODELS["huggingface deit with teacher"](tmp_path / "model")
    model = checkpoints.load(reference.path)
    pixels = torch.randn(2, 3, *model.config.vision.image_size)
    theirs = reference.network(pixels)
    first, second = model.network.heads(pixels)
    assert_close(first, theirs.cls_logits)
    assert_close(second, theirs.distillation_logits)
    assert (first - second).abs().max() > 1e-2
    assert_close(model.network(pixels), (first + second) / 2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["timm", "timm map"])
def test_one_head_speaks_for_both(name: str, tmp_path: Path) -> None:
    model = checkpoints.load(MODELS[name](tmp_path / "model").path)
    pixels = torch.randn(2, 3, *model.config.vision.image_size)
    first, second = model.network.heads(pixels)
    assert_close(first, model.network(pixels))
    assert second is first


# An adapter is seen wherever a projection is read in parts.


@torch.no_grad()
@pytest.mark.parametrize("name", ["siglip", "clip", "clip resnet"])
def test_lora_acts_in_every_tower(name: str) -> None:
    vits = [config for config in towers().values() if isinstance(config.vision, ViTConfig)]
    siglip = next(config for config in vits if config.vision.pool == "map")
    config = {"siglip": siglip, "clip": tiny_clip(), "clip resnet": tiny_clip_resnet()}[name]
    torch.manual_seed(0)
    network = models.build(config).eval()
    pixels = torch.randn(2, 3, *config.vision.image_size)
    before = network.encode_image(pixels)
    lora = LoraConfig(r=2, target_modules=["qkv"], init_lora_weights=False)
    inject_adapter_in_model(lora, network)
    adapted = network.encode_image(pixels)
    assert (adapted - before).abs().max() > 1e-3
    for part in network.modules():
        if isinstance(part, LoraLayer):
            part.merge()  # into the weight itself
    assert_close(network.encode_image(pixels), adapted)
    assert any("attnpool" in key or "attn_pool" in key for key in network.state_dict()) == (
        name != "clip"
    )


# Recomputed activations


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputing_changes_no_gradient(dropout: float) -> None:
    plain = stack(3)
    for block in plain:
        block.mlp.act = nn.Sequential(block.mlp.act, nn.Dropout(dropout))
    forgetful = copy.deepcopy(plain)
    for block in forgetful:
        block.recompute = True
    found = []
    for blocks in (plain, forgetful):
        torch.manual_seed(3)
        taps = Taps(["blocks.1.attn.v"])
        out = run_blocks(blocks, tokens(3, 7, 16), taps=taps, output_indices=PLACES)
        out = out + taps.result()["blocks.1.attn.v"].mean()
        found.append((out.detach(), gradients(blocks, out)))
    assert_close(*found)
    assert torch.equal(found[0][0], found[1][0])


def test_a_block_runs_again_in_training_alone() -> None:
    blocks, runs = stack(2), []
    blocks[0].recompute = True
    blocks[0].mlp.register_forward_pre_hook(lambda *given: runs.append(1))
    x = tokens(3, 7, 16)

    def count(backward: bool) -> int:
        runs.clear()
        out = run_blocks(blocks, x)
        if backward:
            out.sum().backward()
        return len(runs)

    assert count(backward=True) == 2
    with torch.no_grad():
        assert count(backward=False) == 1
    blocks.eval()
    assert count(backward=True) == 1


# kB that a forward and backward pass holds at most, above what was held before: of blocks that
# recompute, then of blocks that keep.
PEAKS = """
import re, torch
from pathlib import Path
from torch import nn
from patchword.nn.transformer import Block, run_blocks
blocks = nn.ModuleList(Block(128, 4, 512) for _ in range(12))
def step(batch):
    run_blocks(blocks, torch.ones(batch, 50, 128)).sum().backward()
def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
for recompute in (True, False):
    for block in blocks:
        block.recompute = recompute
    step(2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, from what is used now
    before = memory("VmRSS")
    step(32)
    print(memory("VmHWM") - before)
"""


def test_recomputing_needs_less_memory() -> None:
    # Tensors that are freed go back at once, or what is measured is how glibc keeps them.
    returning = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAKS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=returning)
    recompute, keep = map(int, done.stdout.split())
    assert 0 < recompute * 4 < keep
