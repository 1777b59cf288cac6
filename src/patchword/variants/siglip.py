"""Variants of SigLIP and SigLIP 2."""

from __future__ import annotations

from dataclasses import replace

from patchword.config import ModelConfig, PreprocessConfig, TextConfig, ViTConfig
from patchword.variants.base import HALF, Variant

# Width, depth, heads and MLP width of both towers. The giant's text tower is that of so400m.
SIGLIP_SIZES = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),  # Alabdulmohsin et al. 2023, section 5
    "giant": (1536, 40, 16, 6144),
}
SENTENCEPIECE = TextConfig(vocab_size=32_000, end_token=1, pad_token=1, cleaning="canonicalize")
MULTILINGUAL = replace(SENTENCEPIECE, vocab_size=250_000)
GEMMA = TextConfig(vocab_size=256_000, end_token=1, pad_token=0, cleaning="lowercase")
# Size, patch, image sizes. SigLIP's so400m of 224 pixels is below: its context is 16 tokens.
SIGLIPS = (
    ("base", 16, (224, 256, 384, 512)),
    ("large", 16, (256, 384)),
    ("so400m", 14, (384,)),
)
SIGLIP2S = (
    ("base", 32, (256,)),
    ("base", 16, (224, 256, 384, 512)),
    ("large", 16, (256, 384, 512)),
    ("so400m", 14, (224, 384)),
    ("so400m", 16, (256, 384, 512)),
    ("giant", 16, (256, 384)),
)


def siglip(
    size: str, patch: int, pixels: int, words: TextConfig = GEMMA, context: int = 64
) -> ModelConfig:
    """A SigLIP or, with the vocabulary GEMMA, a SigLIP 2; size: one of SIGLIP_SIZES; words: the
    fields of the text tower that depend on the vocabulary."""
    width, depth, heads, mlp_width = SIGLIP_SIZES[size]
    vision = ViTConfig(
        image_size=(pixels, pixels),
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=mlp_width,
        activation="gelu_tanh",
        pool="map",
        class_token=False,
        positions="patches",
    )
    text_size = "so400m" if size == "giant" else size
    text_width, text_depth, text_heads, text_mlp_width = SIGLIP_SIZES[text_size]
    text = replace(
        words,
        context=context,
        width=text_width,
        depth=text_depth,
        heads=text_heads,
        mlp_width=text_mlp_width,
        activation="gelu_tanh",
        eps=1e-6,
        causal=False,
        pool="last",
        head_bias=True,
        padding="attended",
    )
    preprocess = PreprocessConfig(
        size=(pixels, pixels), resize="squash", resize_to=pixels, mean=HALF, std=HALF
    )
    return ModelConfig(vision, preprocess, text, embed_dim=width, score="sigmoid")


def naflex(size: str, patch: int = 16) -> ModelConfig:
    """A SigLIP 2 for images in their own shapes, by default in at most 256 patches."""
    square = siglip(size, patch, 16 * patch)
    assert isinstance(square.vision, ViTConfig)
    return replace(
        square,
        vision=replace(square.vision, positions="flexible"),
        preprocess=replace(
            square.preprocess,
            resize="patches",
            interpolation="bilinear",
            max_patches=256,
            patch_size=patch,
        ),
    )


_SIGLIP = "Zhai et al. 2023, section 4; google-research/big_vision, configs/proj/image_text"
_SIGLIP2 = "Tschannen et al. 2025, sections 2.1, 2.4 and table 1"

VARIANTS = {
    **{
        f"siglip-{size}-{patch}-{pixels}": Variant(
            siglip(size, patch, pixels, SENTENCEPIECE), _SIGLIP
        )
        for size, patch, sizes in SIGLIPS
        for pixels in sizes
    },
    "siglip-so400m-14-224": Variant(siglip("so400m", 14, 224, SENTENCEPIECE, 16), _SIGLIP),
    "siglip-base-16-256-multilingual": Variant(siglip("base", 16, 256, MULTILINGUAL), _SIGLIP),
    **{
        f"siglip2-{size}-{patch}-{pixels}": Variant(siglip(size, patch, pixels), _SIGLIP2)
        for size, patch, sizes in SIGLIP2S
        for pixels in sizes
    },
    "siglip2-base-16-naflex": Variant(naflex("base"), _SIGLIP2),
    "siglip2-so400m-16-naflex": Variant(naflex("so400m"), _SIGLIP2),
}
