"""A config in plain English: one phrase or sentence for each part of a model."""

from __future__ import annotations

from patchword.config import (
    DenseHeadConfig,
    MaskedConfig,
    ModelConfig,
    PreprocessConfig,
    ResNetConfig,
    SwinConfig,
    TextConfig,
    VisionConfig,
)


def family(config: ModelConfig) -> str:
    """What kind of model a config is, from its fields."""
    if config.vision is None:
        return f"text encoder, {_text_kind(config.text)}" if config.text else "nothing"
    tower = tower_kind(config.vision)
    if config.masked is not None:
        return f"masked autoencoder (MAE), {tower}"
    if config.decoder is not None:
        kinds = []
        if config.writes_captions:
            kinds.append("captioner")
        if config.answers_questions:
            kinds.append("question answerer")
        return f"BLIP {' and '.join(kinds)}, {tower}"
    if config.matching:
        return f"BLIP retrieval, {tower}"
    if config.text is not None:
        return _pair(config, config.text, tower)
    if config.classes:
        return f"{tower} classifier"
    return f"image tower, {tower}"


def _text_kind(text: TextConfig) -> str:
    """A text tower's architecture."""
    if text.post_norm:
        return "BERT"
    return "causal Transformer" if text.causal else "Transformer"


def _pair(config: ModelConfig, text: TextConfig, tower: str) -> str:
    """An image tower and a text tower."""
    if config.score == "sigmoid":
        native = " in native shapes (NaFlex)" if config.preprocess.resize == "patches" else ""
        return f"SigLIP, {tower}{native}"
    return f"CLIP, {tower} and BERT" if text.post_norm else f"CLIP, {tower}"


def tower_kind(vision: VisionConfig) -> str:
    """The image tower's architecture."""
    if isinstance(vision, SwinConfig):
        return "Swin"
    if isinstance(vision, ResNetConfig):
        return "ResNet"
    if vision.stem_stages:
        return "ViT with convolutional stem"
    if vision.pool == "distilled":
        return "DeiT (distilled)"
    return "ViT with layer scale (DeiT III, DINOv2)" if vision.layer_scale else "ViT"


def vision_summary(vision: VisionConfig, size: tuple[int, int]) -> str:
    """The image tower in one sentence. size: of its input, pixels (H, W)."""
    patch = vision.patch_size
    rows, columns = size[0] // patch, size[1] // patch
    grid = f"{'x'.join(map(str, size))} pixels in {rows}x{columns} patches of {patch}"
    if size != vision.image_size and not isinstance(vision, SwinConfig):
        grid += f", whose positions are of {'x'.join(map(str, vision.image_size))} pixels"
    if isinstance(vision, ResNetConfig):
        stages = f"{_stages(vision.stages)}, width {vision.width} at first"
        return f"{grid}; {stages}, pooled by attention in {vision.heads} heads"
    if isinstance(vision, SwinConfig):
        heads = f"{vision.heads} heads at first"
        if vision.stage_heads:
            heads = f"{', '.join(map(str, vision.stage_heads))} heads by stage"
        return (
            f"{grid}; {_stages(vision.stages)}, windows of {vision.window}x{vision.window}, width "
            f"{vision.width} and {heads}, {vision.activation}, relative "
            f"positions, pooled by norm_avg, eps {vision.eps:g}"
        )
    stem = f"stem of {_stages(vision.stem_stages)}, " if vision.stem_stages else ""
    registers = f"{vision.registers} registers, " if vision.registers else ""
    return (
        f"{grid}; {stem}{vision.depth} blocks, width {vision.width}, {vision.heads} heads, "
        f"{vision.activation}, {registers}{vision.positions} positions, pooled by {vision.pool}, "
        f"eps {vision.eps:g}"
    )


def _stages(stages: tuple[int, ...]) -> str:
    return f"stages {'-'.join(map(str, stages))}"


def text_summary(text: TextConfig, pooled: bool = True) -> str:
    """A text tower in one sentence. pooled: False for a decoder."""
    at = f", pooled at {text.pool}" if pooled else ""
    mask = "causal" if text.causal else f"padding {text.padding}"
    cross = "; attends to the image" if text.cross_width else ""
    norm = "norms as in BERT, " if text.post_norm else ""
    return (
        f"{text.depth} blocks, width {text.width}, {text.heads} heads, {text.activation}, "
        f"{norm}{mask}{at}, eps {text.eps:g}{cross}"
    )


def token_summary(text: TextConfig) -> str:
    """The tokens of a text in one sentence."""
    end = f"end {text.end_token}, " if text.end_token >= 0 else ""
    cleaning = "" if text.cleaning == "none" else f"; texts cleaned first: {text.cleaning}"
    return (
        f"{text.vocab_size} in the vocabulary; context length {text.context}; "
        f"{end}padding {text.pad_token}{cleaning}"
    )


def matching_summary(text: TextConfig) -> str:
    """The first token of a text that is matched with an image, in one sentence."""
    if text.start_token >= 0:
        return f'texts begin with [ENC] ({text.start_token}), as trained; start="cls": with [CLS]'
    return (
        "texts begin with [CLS], as transformers begins them; BLIP is trained with [ENC], which "
        'start="enc" puts there, and then matches otherwise'
    )


def masked_summary(masked: MaskedConfig) -> str:
    """A masked autoencoder's decoder in one sentence."""
    return (
        f"{masked.depth} blocks, width {masked.width}, {masked.heads} heads; "
        f"{masked.mask_ratio:.0%} of the patches are masked"
    )


def dense_head_summary(head: DenseHeadConfig) -> str:
    """A head for maps in one sentence."""
    blocks = " and ".join(map(str, head.layers))
    return (
        f"tokens of blocks {blocks}, and pixels, decoded at half of {head.size}x{head.size}; "
        f"logits are {head.scale:g} x cosine"
    )


def joint_summary(config: ModelConfig, scale: float, bias: float) -> str:
    """The score of an image and a text in one sentence."""
    sign = "+" if bias > 0 else "-"
    plus = f" {sign} {abs(bias):.4g}" if bias else ""
    return f"{config.embed_dim} numbers; {config.score} of {scale:.4g} x cosine{plus}"


def preprocess_summary(preprocess: PreprocessConfig) -> str:
    """Resizing and cropping in one sentence."""
    size = "x".join(map(str, preprocess.size))
    if preprocess.resize == "patches":
        side = preprocess.patch_size
        return (
            f"own shape kept, {preprocess.interpolation}, to whole patches of {side}x{side}, "
            f"at most {preprocess.max_patches}"
        )
    if preprocess.resize == "squash":
        return f"squashed to {size}, {preprocess.interpolation}"
    if preprocess.resize == "cover":
        return f"smallest that covers {size}, {preprocess.interpolation}; centre of it"
    if preprocess.resize == "contain":
        padded = f"padded with level {preprocess.fill}"
        return f"largest inside {size}, {preprocess.interpolation}; {padded}"
    first = "squashed to a side of" if preprocess.resize == "square" else "shorter side to"
    return (
        f"{first} {preprocess.resize_to}, {preprocess.interpolation}; "
        f"centre {size} (margins: {preprocess.crop_rounding})"
    )


def normalisation_summary(preprocess: PreprocessConfig) -> str:
    """The normalisation of pixel values in one sentence."""
    levels = f"mean {_triple(preprocess.mean)}, std {_triple(preprocess.std)}"
    if preprocess.rescale == 1 / 255:
        return levels
    return f"times {preprocess.rescale:.6g}, {levels}"


def _triple(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
