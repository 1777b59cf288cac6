"""Variants of BLIP."""

from __future__ import annotations

from dataclasses import replace

from patchword.config import BlipConfig, ModelConfig, PreprocessConfig, TextConfig, ViTConfig
from patchword.variants.base import VIT_SIZES, Variant


def blip(size: str, pixels: int, use: str) -> ModelConfig:
    """A BLIP; size: one of VIT_SIZES; use: "pretraining", which has every part, "caption",
    "retrieval" or "vqa"."""
    width, depth, heads = VIT_SIZES[size]
    vision = ViTConfig(
        image_size=(pixels, pixels),
        patch_size=16,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=4 * width,
    )
    text = _text_encoder(width)
    answers_questions = use == "vqa"
    # Cross-attends to the encoded question for answers, else to the image.
    decoder = _text_decoder(text, cross_width=text.width if answers_questions else width)
    matching = use in ("pretraining", "retrieval")
    return ModelConfig(
        vision=vision,
        text=None if use == "caption" else text,
        blip=BlipConfig(
            decoder=None if use == "retrieval" else decoder,
            writes_captions=use in ("pretraining", "caption"),
            answers_questions=answers_questions,
            shared_decoder=use == "pretraining",
            matching=matching,
        ),
        preprocess=PreprocessConfig(
            size=vision.image_size, resize="squash", resize_to=pixels, crop_rounding="round"
        ),
        embed_dim=256 if matching else 0,
        scale_limit=1000.0,
    )


def _text_encoder(image_width: int) -> TextConfig:
    """BERT with cross-attention to image tokens."""
    return TextConfig(
        vocab_size=30524,  # bert-base-uncased's, [DEC] and [ENC]
        context=512,
        width=768,
        heads=12,
        mlp_width=3072,
        eps=1e-12,
        causal=False,
        post_norm=True,
        pool="first",
        head_bias=True,
        end_token=102,
        cross_width=image_width,
        start_token=30523,
    )


def _text_decoder(encoder: TextConfig, cross_width: int) -> TextConfig:
    """The encoder as a causal decoder. cross_width: of the tokens that it cross-attends to."""
    return replace(
        encoder,
        causal=True,
        head_bias=False,
        pool="end",
        start_token=30522,
        cross_width=cross_width,
    )


_BLIP = "Li et al. 2022 (BLIP), section 4.1; configs of salesforce/BLIP"

VARIANTS = {
    "blip-base-224": Variant(blip("base", 224, "pretraining"), _BLIP),
    "blip-base-caption-384": Variant(blip("base", 384, "caption"), _BLIP),
    "blip-base-retrieval-384": Variant(blip("base", 384, "retrieval"), _BLIP),
    "blip-base-vqa-480": Variant(blip("base", 480, "vqa"), _BLIP),
    "blip-large-224": Variant(blip("large", 224, "pretraining"), _BLIP),
    "blip-large-caption-384": Variant(blip("large", 384, "caption"), _BLIP),
    "blip-large-retrieval-384": Variant(blip("large", 384, "retrieval"), _BLIP),
}
