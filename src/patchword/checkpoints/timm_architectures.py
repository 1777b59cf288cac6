"""The arguments of timm's Vision Transformers by architecture name.

A checkpoint of timm names an architecture; its heads, norm and activation are in timm's code alone
(timm/models/vision_transformer.py and deit.py), so that this table repeats them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from patchword.config import Activation


@dataclass(frozen=True)
class Architecture:
    """Arguments of timm's VisionTransformer, by timm's names; sizes that tensors show are left
    out."""

    num_heads: int = 0  # 0 in a family: the value in HEADS
    eps: float = 1e-6  # of its LayerNorms
    act_layer: Activation = "gelu"
    global_pool: Literal["token", "avg", "map"] = "token"
    fc_norm: bool | None = None  # the last norm follows the pooling; None: if that is an average
    class_token: bool = True
    reg_tokens: int = 0
    no_embed_class: bool = False  # positions are of the patches alone
    pre_norm: bool = False
    init_values: float = 0.0  # of layer scale; 0: there is none
    qkv_bias: bool = True
    qk_norm: bool = False
    pool_include_prefix: bool = False  # pooling sees class token and registers too
    distilled: bool = False  # timm's VisionTransformerDistilled


# By the second word of a name.
HEADS = {
    "tiny": 3, "wee": 4, "xsmall": 4, "little": 5, "small": 6, "medium": 8, "mediumd": 8,
    "betwixt": 10, "base": 12, "so150m": 14, "so150m2": 13, "large": 16, "so400m": 16,
    "huge": 16, "giant": 16, "giantopt": 16, "gigantic": 16,
}  # fmt: skip

# "{a,b}" stands for either.
PLAIN = """
vit_tiny_patch16_{224,384} vit_{small,base,large}_patch{16,32}_{224,384}
vit_{small,base}_patch8_224 vit_{large,huge,giant,gigantic}_patch14_224
deit_{tiny,small,base}_patch16_224 deit_base_patch16_384
"""
CLIP = """
vit_base_patch32_clip_{224,256,384,448} vit_base_patch16_clip_{224,384}
vit_large_patch14_clip_{224,336} vit_huge_patch14_clip_{224,336,378}
vit_giant_patch14_clip_224 vit_gigantic_patch14_clip_{224,378}
vit_xsmall_patch16_clip_224 vit_medium_patch{16,32}_clip_224 vit_betwixt_patch32_clip_224
"""
QUICK = """
vit_base_patch{16,32}_clip_quickgelu_224 vit_large_patch14_clip_quickgelu_{224,336}
vit_huge_patch14_clip_quickgelu_{224,378} vit_gigantic_patch14_clip_quickgelu_224
"""
DEIT_3 = """
deit3_{small,base,large}_patch16_{224,384} deit3_medium_patch16_224 deit3_huge_patch14_224
"""
REG_1 = "vit_{wee,little,medium,betwixt}_patch16_reg1_gap_256"
REG_4 = """
vit_{little,medium,mediumd,betwixt}_patch16_reg4_gap_256 vit_{mediumd,betwixt}_patch16_reg4_gap_384
"""
SIGLIP = """
vit_base_patch16_siglip_{224,256,384,512} vit_large_patch16_siglip_{256,384}
vit_so400m_patch14_siglip_{224,378,384}
"""
SIGLIP_TANH = """
vit_base_patch32_siglip_256 vit_large_patch16_siglip_512
vit_so400m_patch16_siglip_{256,384,512} vit_giantopt_patch16_siglip_{256,384}
"""
SIGLIP_GAP = """
vit_base_patch16_siglip_gap_{224,256,384,512} vit_large_patch16_siglip_gap_{256,384}
vit_so400m_patch14_siglip_gap_{224,378,384,448,896}
"""

_SCALED = Architecture(init_values=1e-5)
_APART = Architecture(init_values=1e-5, no_embed_class=True)
_CLIP = Architecture(eps=1e-5, pre_norm=True)
_AVG = Architecture(global_pool="avg", class_token=False)
_GAP = replace(_AVG, fc_norm=False)
_REG = replace(_AVG, init_values=1e-5, no_embed_class=True, reg_tokens=1)
_MAP = Architecture(global_pool="map", class_token=False)
_NO_BIAS = replace(_GAP, init_values=1e-6, qkv_bias=False)

FAMILIES: tuple[tuple[str, Architecture], ...] = (
    (PLAIN, Architecture()),
    ("test_vit", Architecture(num_heads=2)),
    ("test_vit2", replace(_AVG, num_heads=2, init_values=1e-5, reg_tokens=1)),
    (
        "test_vit3",
        replace(_MAP, num_heads=3, init_values=1e-5, reg_tokens=1, pool_include_prefix=True),
    ),
    ("vit_base_patch16_224_miil", Architecture(qkv_bias=False)),
    (
        "deit_{tiny,small,base}_distilled_patch16_224 deit_base_distilled_patch16_384",
        Architecture(distilled=True),
    ),
    (DEIT_3, replace(_APART, init_values=1e-6)),
    ("flexivit_{small,base,large}", Architecture(no_embed_class=True)),
    ("eva_large_patch14_{196,336}", Architecture(global_pool="avg")),
    ("vit_small_patch16_36x1_224 vit_{small,base,large}_patch14_dinov2", _SCALED),
    ("vit_base_patch16_plus_240 vit_base_patch32_plus_256", replace(_SCALED, num_heads=14)),
    ("vit_{small,base,large}_patch14_reg4_dinov2", replace(_APART, reg_tokens=4)),
    (
        "vit_{base,large,so400m}_patch14_reg1_tipsv2",
        replace(_APART, init_values=1.0, reg_tokens=1),
    ),
    (CLIP, _CLIP),
    ("vit_base_patch16_plus_clip_240", replace(_CLIP, num_heads=14)),
    (QUICK, replace(_CLIP, act_layer="quick_gelu")),
    ("vit_huge_patch14_gap_224 vit_huge_patch16_gap_448 vit_giant_patch16_gap_224", _GAP),
    ("vit_base_patch16_gap_224", replace(_GAP, num_heads=16)),
    ("vit_medium_patch16_gap_{240,256,384} vit_betwixt_patch16_gap_256", _NO_BIAS),
    (REG_1, _REG),
    (REG_4, replace(_REG, reg_tokens=4)),
    ("vit_base_patch16_reg4_gap_256", replace(_REG, init_values=0.0, reg_tokens=4)),
    ("vit_so150m_patch16_reg4_gap_{256,384}", replace(_GAP, reg_tokens=4)),
    (
        "vit_so150m2_patch16_reg1_gap_{256,384,448}",
        replace(_AVG, init_values=1e-5, reg_tokens=1, qkv_bias=False),
    ),
    (SIGLIP, _MAP),
    (SIGLIP_TANH, replace(_MAP, act_layer="gelu_tanh")),
    (SIGLIP_GAP, _GAP),
    (SIGLIP_TANH.replace("siglip", "siglip_gap"), replace(_GAP, act_layer="gelu_tanh")),
)


def _names(patterns: str) -> Iterator[str]:
    """The names that patterns with "{a,b}" stand for."""
    for pattern in patterns.split():
        parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
        yield from ("".join(choice) for choice in itertools.product(*parts))


ARCHITECTURES = {
    name: replace(known, num_heads=known.num_heads or HEADS[name.split("_")[1]])
    for patterns, known in FAMILIES
    for name in _names(patterns)
}
