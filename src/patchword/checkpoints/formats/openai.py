"""OpenAI's original CLIP files: a TorchScript archive, or a plain state dict, and nothing else.

Sizes are read from the tensors, as in `build_model` of openai/CLIP's clip/model.py. What that code
fixes for every model is noted as assumed. The formats of open_clip and Chinese-CLIP use the rules
of this one, since their towers have the same names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, depth, scale_limit, shape_of
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import (
    Const,
    Drop,
    Rename,
    Rule,
    Transpose,
    Unsqueeze,
    fuse_layers,
    rename_layer,
)
from patchword.checkpoints.special_tokens import end_token
from patchword.config import ModelConfig, PreprocessConfig, ResNetConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "an original OpenAI CLIP"
EXPECTS = "a .pt file with tensors visual.*, transformer.resblocks.* and text_projection"
NAMES = (
    "visual.conv1.weight",
    "transformer.resblocks.",
    "token_embedding.weight",
    "text_projection",
)

CODE = "as every model of openai/CLIP's clip/model.py"
BLOCKS = "transformer.resblocks."
HEAD_WIDTH = 64  # build_model: transformer_width // 64
RESNET_STRIDE = 32
WIDTHS = (768, 1024)  # of OpenAI's ViTs (Radford et al. 2021, table 20)
# No published model is narrower than this: such a file is from an experiment with OpenAI's code,
# which sets the heads by the width. Others are other libraries', and may have other heads.
NARROWEST = 256
EPS = 1e-5  # torch.nn.LayerNorm's default


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """CLIP's original names, with no configuration of open_clip beside them."""
    return has_original_names(keys) and "open_clip_config.json" not in files


def has_original_names(keys: Collection[str]) -> bool:
    """Whether tensors have the original names of a CLIP."""
    return {"visual.conv1.weight", "text_projection", "token_embedding.weight"} <= set(keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """The config, from the shapes of the tensors. Raises CheckpointError for sizes that OpenAI's
    code cannot make."""
    reader = ConfigReader("the file", {})
    vision = _vision(reader, tensors)
    text = _text(reader, tensors, files)
    reader.assume("preprocess", "bicubic to the shortest side, CLIP's mean and std", "clip/clip.py")
    size = vision.image_size
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=PreprocessConfig(size=size, resize_to=min(size), crop_rounding="round"),
        embed_dim=shape_of(tensors, "text_projection", 2)[1],
        scale_limit=scale_limit(tensors),
        source="openai",
        assumed=reader.assumed,
    )


def _vision(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> ViTConfig | ResNetConfig:
    """The image tower of one of OpenAI's own models."""
    if any(key.startswith("visual.layer1.") for key in tensors):
        return resnet(reader, tensors, HEAD_WIDTH)
    vision = vit(tensors)
    if vision.width not in WIDTHS and vision.width >= NARROWEST:
        known = " and ".join(map(str, WIDTHS))
        raise CheckpointError(
            f"its image tower is {vision.width} wide, and OpenAI's are {known}: if it is of "
            'open_clip, give the name that it was trained as, architecture="ViT-H-14" '
            "(--architecture), or put open_clip_config.json beside it"
        )
    reader.assume("vision.activation", "quick_gelu", CODE)
    reader.assume("vision.heads", vision.heads, f"{CODE}, width / {HEAD_WIDTH}")
    reader.assume("vision.eps", EPS, CODE)
    return vision


def _text(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]
) -> TextConfig:
    context, width = shape_of(tensors, "positional_embedding", 2)
    vocab_size = shape_of(tensors, "token_embedding.weight", 2)[0]
    end, pool = end_token(files, vocab_size)
    text = TextConfig(
        vocab_size=vocab_size,
        context=context,
        width=width,
        depth=depth(tensors, BLOCKS),
        heads=_heads(width, "positional_embedding"),
        mlp_width=shape_of(tensors, f"{BLOCKS}0.mlp.c_fc.weight", 2)[0],
        activation="quick_gelu",
        eps=EPS,
        pool=pool,
        end_token=end,
        cleaning="ftfy",
    )
    reader.assume("text.activation", "quick_gelu", CODE)
    reader.assume("text.heads", text.heads, f"{CODE}, width / {HEAD_WIDTH}")
    reader.assume("text.eps", EPS, CODE)
    reader.assume("text.end_token", end, "pooled at the highest id, " + CODE)
    return text


def rules(config: ModelConfig) -> Iterator[Rule]:
    """OpenAI's CLIP -> patchword."""
    yield Rename("logit_scale", "logit_scale")
    yield from text_rules(config)
    yield from image_rules(config)


def text_rules(config: ModelConfig, prefix: str = "") -> Iterator[Rule]:
    """The text tower; prefix: of its tensor names, with its dot."""
    text = config.text
    assert text is not None
    yield Rename(f"{prefix}token_embedding.weight", "text.token_embed.weight")
    yield Unsqueeze(f"{prefix}positional_embedding", "text.pos_embed")
    if text.head_bias:
        yield from rename_layer(f"{prefix}text_projection", "text.head")
    else:
        yield Transpose(f"{prefix}text_projection", "text.head.weight")
    yield from rename_layer(f"{prefix}ln_final", "text.norm")
    for i in range(text.depth):
        yield from _block(f"{prefix}{BLOCKS}{i}", f"text.blocks.{i}")
        yield Drop(f"{prefix}{BLOCKS}{i}.attn_mask", why="the causal mask, which is computed")
    for name in ("input_resolution", "context_length", "vocab_size"):
        yield Drop(name, why="a size, which the tensors show too")


def image_rules(config: ModelConfig) -> Iterator[Rule]:
    """The image tower, a ViT or a ModifiedResNet."""
    if isinstance(config.vision, ResNetConfig):
        yield from _resnet_rules(config.vision)
    else:
        assert isinstance(config.vision, ViTConfig)
        yield from _vit_rules(config.vision)


def resnet(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], head_width: int
) -> ResNetConfig:
    """A ModifiedResNet. reader: may have its image_size. head_width: of its attention pooling."""
    width = shape_of(tensors, "visual.layer1.0.conv1.weight", 4)[0]
    positions = "visual.attnpool.positional_embedding"
    pooled = width * RESNET_STRIDE  # channels of the last stage
    if head_width < 1 or pooled % head_width:
        reader.fail("head_width", f"which does not divide the width {pooled}", head_width)
    return ResNetConfig(
        image_size=reader.image_size("image_size", tensors, positions, RESNET_STRIDE),
        width=width,
        heads=pooled // head_width,
        stages=tuple(depth(tensors, f"visual.layer{i}.") for i in (1, 2, 3, 4)),
    )


def vit(tensors: Mapping[str, LazyTensor]) -> ViTConfig:
    """A ViT whose heads are `HEAD_WIDTH` wide."""
    width, _, patch, _ = shape_of(tensors, "visual.conv1.weight", 4)
    positions = "visual.positional_embedding"
    return ViTConfig(
        image_size=ConfigReader("the file", {}).image_size("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=depth(tensors, f"visual.{BLOCKS}"),
        heads=_heads(width, "visual.conv1.weight"),
        mlp_width=shape_of(tensors, f"visual.{BLOCKS}0.mlp.c_fc.weight", 2)[0],
        activation="quick_gelu",
        eps=EPS,
        pre_norm=True,
        patch_bias=False,
    )


def _heads(width: int, tensor: str) -> int:
    if not width or width % HEAD_WIDTH:
        raise CheckpointError(f"{tensor} has width {width}, not a multiple of {HEAD_WIDTH} a head")
    return width // HEAD_WIDTH


def _vit_rules(vision: ViTConfig) -> Iterator[Rule]:
    yield Rename("visual.conv1.weight", "image.patch_embed.proj.weight")
    yield Unsqueeze("visual.class_embedding", "image.cls_token", 2)
    yield Unsqueeze("visual.positional_embedding", "image.pos_embed")
    yield Transpose("visual.proj", "image.head.weight")
    if vision.pre_norm:
        yield from rename_layer("visual.ln_pre", "image.norm_pre")
    yield from rename_layer("visual.ln_post", "image.norm")
    for i in range(vision.depth):
        source, target = f"visual.{BLOCKS}{i}", f"image.blocks.{i}"
        yield from _block(source, target)
        if vision.layer_scale:
            yield Rename(f"{source}.ls_1.gamma", f"{target}.ls1.gamma")
            yield Rename(f"{source}.ls_2.gamma", f"{target}.ls2.gamma")


def _resnet_rules(vision: ResNetConfig) -> Iterator[Rule]:
    yield from _convolutions("visual", "image")
    for stage, count in enumerate(vision.stages, start=1):
        for block in range(count):
            source, target = f"visual.layer{stage}.{block}", f"image.layer{stage}.{block}"
            yield from _convolutions(source, target)
            if block == 0:  # in OpenAI's names the average pool, which comes first, is not counted
                yield Rename(f"{source}.downsample.0.weight", f"{target}.downsample.1.weight")
                yield from _batch_norm(f"{source}.downsample.1", f"{target}.downsample.2")
    source, target = "visual.attnpool", "image.attnpool"
    yield Unsqueeze(f"{source}.positional_embedding", f"{target}.pos_embed")
    yield from fuse_layers([f"{source}.{part}_proj" for part in "qkv"], f"{target}.attn.qkv")
    yield from rename_layer(f"{source}.c_proj", f"{target}.attn.proj")


def _block(source: str, target: str) -> Iterator[Rule]:
    """One Transformer block with torch.nn.MultiheadAttention."""
    yield Rename(f"{source}.attn.in_proj_weight", f"{target}.attn.qkv.weight")
    yield Rename(f"{source}.attn.in_proj_bias", f"{target}.attn.qkv.bias")
    yield from rename_layer(f"{source}.attn.out_proj", f"{target}.attn.proj")
    yield from rename_layer(f"{source}.ln_1", f"{target}.norm1")
    yield from rename_layer(f"{source}.ln_2", f"{target}.norm2")
    yield from rename_layer(f"{source}.mlp.c_fc", f"{target}.mlp.fc1")
    yield from rename_layer(f"{source}.mlp.c_proj", f"{target}.mlp.fc2")


def _convolutions(source: str, target: str) -> Iterator[Rule]:
    """The three convolutions of the stem or of a block, each with a batch norm."""
    for i in (1, 2, 3):
        yield Rename(f"{source}.conv{i}.weight", f"{target}.conv{i}.weight")
        yield from _batch_norm(f"{source}.bn{i}", f"{target}.bn{i}")


def _batch_norm(source: str, target: str) -> Iterator[Rule]:
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield Rename(f"{source}.{name}", f"{target}.{name}")
    counter = "num_batches_tracked"
    yield Drop(f"{source}.{counter}", why="counts training batches; unused with a momentum")
    yield Const(f"{target}.{counter}", 0)
