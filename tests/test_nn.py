"""Layers of the towers against torch's own layers and against their formulas."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from patchword.errors import UnsupportedError
from patchword.nn import attention, patches
from patchword.nn.attention import Attention, KVCache
from patchword.nn.mlp import Mlp, QuickGELU
from patchword.nn.patches import PatchEmbed
from patchword.nn.pooling import end_position
from patchword.nn.positions import resample
from patchword.nn.taps import Taps
from patchword.nn.transformer import Block, causal_mask


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_attention_equals_torch() -> None:
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x, mask = torch.randn(2, 7, 32), causal_mask(7, torch.zeros(()))
    taps = Taps(["attn"])
    expected, weights = theirs(x, x, x, attn_mask=mask, average_attn_weights=False)
    assert_close(ours(x, mask=mask), expected)
    assert_close(ours(x, mask=mask, taps=taps), expected)
    assert_close(taps.result()["attn"], weights)


def test_cross_attention_equals_torch() -> None:
    ours = Attention(32, 4, context_width=20)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True, kdim=20, vdim=20)
    k, v = ours.kv.weight.chunk(2)
    theirs.load_state_dict(
        {
            "q_proj_weight": ours.q.weight,
            "k_proj_weight": k,
            "v_proj_weight": v,
            "in_proj_bias": torch.cat([ours.q.bias, ours.kv.bias]),
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x, context = torch.randn(2, 3, 32), torch.randn(2, 9, 20)
    assert_close(ours(x, context), theirs(x, context, context)[0])


def test_one_query_of_self_attention_is_its_row() -> None:
    attention, x = Attention(32, 4), torch.randn(2, 5, 32)
    assert_close(attention(x[:, :1], context=x), attention(x)[:, :1])


def test_a_hook_of_the_projection_runs_with_a_context_too() -> None:
    attention, x = Attention(32, 4), torch.randn(2, 5, 32)
    plain = attention(x[:, :1], context=x)
    attention.qkv.register_forward_hook(lambda _layer, _inputs, output: 2 * output)
    hooked = attention(x[:, :1], context=x)
    assert_close(hooked, attention(x)[:, :1])
    assert not torch.allclose(hooked, plain)


def test_explicit_and_fused_attention_agree() -> None:
    attention, x = Attention(48, 3), torch.randn(3, 11, 48)
    taps = Taps(["attn", "attn.q", "attn.k", "attn.v"])
    assert_close(attention(x, taps=taps), attention(x))
    tensors = taps.result()
    scores = tensors["attn.q"].double() @ tensors["attn.k"].double().mT / 16**0.5
    assert_close(tensors["attn"], scores.softmax(-1).float())
    assert_close(tensors["attn"].sum(-1), torch.ones(3, 3, 11))


# Scores of a chunk: those of one head, of two heads, of two rows, of all; None: torch's kernel, as
# with AMX.
@pytest.mark.parametrize("scores", [1, 60, 200, 2**19, None])
@pytest.mark.parametrize("masked", ["no", "causal", "padding"])
def test_attention_in_bfloat16(
    masked: str, scores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In inference mode the result is that of float32, up to rounding."""
    monkeypatch.setattr(attention, "HAS_AMX", scores is None)
    monkeypatch.setattr(attention, "SCORES_PER_THREAD", scores)
    ours, x = Attention(32, 4), torch.randn(5, 5, 32)
    padding = torch.zeros(5, 1, 1, 5)
    padding[1, ..., 3:] = padding[4, ..., 1:] = -torch.inf
    mask = {"no": None, "causal": causal_mask(5, x), "padding": padding}[masked]
    ours, x = ours.bfloat16().float(), x.bfloat16().float()
    expected = ours(x, mask=mask)
    with torch.inference_mode():
        half = None if mask is None else mask.bfloat16()
        result = ours.bfloat16()(x.bfloat16(), mask=half)
    # bfloat16 has 8 bits: rounding a value below 1 changes it by at most 2**-9, and intermediate
    # values are rounded too.
    assert expected.abs().max() < 1
    assert_close(result.float(), expected, rtol=0, atol=2**-8)


def test_cached_equals_uncached() -> None:
    attention, x = Attention(32, 4), torch.randn(2, 6, 32)
    expected = attention(x, mask=causal_mask(6, x))
    cache = KVCache()
    steps = [attention(x[:, i : i + 1], cache=cache) for i in range(6)]
    assert_close(torch.cat(steps, dim=1), expected)


@pytest.mark.parametrize(("post_norm", "norm_first"), [(False, True), (True, False)])
def test_block_equals_torch(post_norm: bool, norm_first: bool) -> None:
    ours = Block(32, 4, 64, "gelu", 1e-5, post_norm=post_norm)
    theirs = nn.TransformerEncoderLayer(
        32, 4, 64, dropout=0, activation=F.gelu, batch_first=True, norm_first=norm_first
    )
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = {}
    for name in theirs.state_dict():
        (prefix,) = (p for p in names if name.startswith(p))
        state[name] = ours.state_dict()[name.replace(prefix, names[prefix])]
    theirs.load_state_dict(state)
    x = torch.randn(2, 5, 32)
    assert_close(ours(x), theirs.train()(x))


def test_activations() -> None:
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    assert_close(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))
    for name, approximate in (("gelu", "none"), ("gelu_tanh", "tanh")):
        assert_close(Mlp(4, 8, name).act(x), F.gelu(x, approximate=approximate))


def test_patches_equal_unfold_and_linear() -> None:
    embed, pixels = PatchEmbed(3, 24, 8), torch.randn(2, 3, 32, 48)
    columns = F.unfold(pixels, 8, stride=8).mT  # (B, h * w, 3 * 8 * 8)
    linear = columns @ embed.proj.weight.flatten(1).T + embed.proj.bias
    assert_close(embed(pixels).flatten(2).mT, linear)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Patches are multiplied on any processor; the list gets the shape of each product."""
    found = []
    linear = F.linear

    def recorded(*arguments: Any) -> torch.Tensor:
        out = linear(*arguments)
        found.append(out.shape)
        return out

    monkeypatch.setattr(patches, "ONEDNN_TYPES", [torch.bfloat16])
    monkeypatch.setattr(F, "linear", recorded)
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_patches_in_bfloat16(bias: bool, products: list[torch.Size]) -> None:
    """As the convolution in float64, also where pixels are left over."""
    embed, pixels = PatchEmbed(3, 24, 8, bias).bfloat16(), torch.randn(2, 3, 37, 50).bfloat16()
    shift = embed.proj.bias.double() if bias else None
    expected = F.conv2d(pixels.double(), embed.proj.weight.double(), shift, stride=8)
    with torch.inference_mode():
        assert_close(embed(pixels).double(), expected, rtol=2**-8, atol=1e-5)
    assert products == [(2, 4, 6, 24)]


def test_patches_that_only_the_convolution_embeds(products: list[torch.Size]) -> None:
    embed, pixels = PatchEmbed(3, 24, 8).bfloat16(), torch.randn(2, 3, 32, 48).bfloat16()
    other = PatchEmbed(3, 24, 8).bfloat16()
    other.proj.stride = (4, 4)
    with torch.inference_mode():
        assert embed(pixels[:0]).shape == (0, 24, 4, 6)
        assert products.pop() == (0, 4, 6, 24)
        assert other(pixels).shape == (2, 24, 7, 11)
        assert embed(pixels[0]).shape == (24, 4, 6)
        with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
            embed(pixels[..., :7])
        in_float32 = PatchEmbed(3, 24, 8)
        assert in_float32(pixels.float()).equal(in_float32.proj(pixels.float()))
        plain = embed.proj(pixels)
        handle = embed.proj.register_forward_hook(lambda _layer, _inputs, output: output + 1)
        assert_close(embed(pixels), plain + 1)
        handle.remove()
        handle = nn.modules.module.register_module_forward_hook(
            lambda layer, _inputs, output: output + 1 if layer is embed.proj else None
        )
        assert_close(embed(pixels), plain + 1)
        handle.remove()
        assert not products
        embed(pixels)
        assert products


def test_the_first_end_token_counts() -> None:
    ids = torch.tensor([[1, 5, 9, 9, 9], [1, 9, 0, 0, 0]])
    assert end_position(ids, 9).tolist() == [2, 1]


def test_positions_resample_to_any_grid() -> None:
    positions = torch.randn(1, 1 + 49, 16)
    assert resample(positions, (7, 7), (7, 7)) is positions
    wide = resample(positions, (7, 7), (7, 14))
    assert wide.shape == (1, 1 + 98, 16)
    assert_close(wide[:, 0], positions[:, 0])
    flat = resample(torch.ones(1, 1 + 49, 16), (7, 7), (10, 5))
    assert_close(flat, torch.ones(1, 51, 16))


def test_an_unknown_tap_is_refused_with_the_known_names() -> None:
    taps = Taps(["nonsense", "attn"])
    Attention(8, 2)(torch.randn(1, 2, 8), taps=taps)
    with pytest.raises(UnsupportedError, match=r"no tap nonsense; it has attn, attn\.k"):
        taps.result()
