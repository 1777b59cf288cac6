"""OpenAI's original CLIP files: a TorchScript archive, or a plain state dict, and nothing else.

Sizes are read from the tensors as `build_model` of openai/CLIP's clip/model.py does; what that code
fixes for every model is noted as assumed. open_clip's towers have the same names, so its format
file takes the rules from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, depth, end_of, scale_limit, shape_of
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Const, Drop, Fuse, Rename, Rule, Transpose, Unsqueeze
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
# No published model is narrower: such files are from experiments with that code, which sets the
# heads by the width. Wider ones are other libraries', and may have other heads.
NARROWEST = 256
EPS = 1e-5  # torch.nn.LayerNorm's default


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """CLIP's original names, with no configuration of open_clip beside them."""
    return layout(keys) and "open_clip_config.json" not in files


def layout(keys: Collection[str]) -> bool:
    """Whether these are the original names of a CLIP."""
    return {"visual.conv1.weight", "text_projection", "token_embedding.weight"} <= set(keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """The config, from shapes alone. Raises CheckpointError for sizes that OpenAI's code cannot
    make."""
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


def _vision(reader: ConfigReader, tensors: Mapping[str, Stored]) -> ViTConfig | ResNetConfig:
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
    reader: ConfigReader, tensors: Mapping[str, Stored], files: Mapping[str, Any]
) -> TextConfig:
    context, width = shape_of(tensors, "positional_embedding", 2)
    vocab_size = shape_of(tensors, "token_embedding.weight", 2)[0]
    end, pool = end_of(files, vocab_size)
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


def text_rules(config: ModelConfig, theirs: str = "") -> Iterator[Rule]:
    """The text tower; theirs: the prefix of its names, its dot included."""
    text = config.text
    assert text is not None
    yield Rename(f"{theirs}token_embedding.weight", "text.token_embed.weight")
    yield Unsqueeze(f"{theirs}positional_embedding", "text.pos_embed")
    if text.head_bias:
        yield from _pair(f"{theirs}text_projection", "text.head")
    else:
        yield Transpose(f"{theirs}text_projection", "text.head.weight")
    yield from _pair(f"{theirs}ln_final", "text.norm")
    for i in range(text.depth):
        yield from _block(f"{theirs}{BLOCKS}{i}", f"text.blocks.{i}")
        yield Drop(f"{theirs}{BLOCKS}{i}.attn_mask", why="the causal mask, made anew")
    for name in ("input_resolution", "context_length", "vocab_size"):
        yield Drop(name, why="a size, which the tensors show too")


def image_rules(config: ModelConfig) -> Iterator[Rule]:
    """The image tower, a ViT or a ModifiedResNet."""
    vision = config.vision
    assert isinstance(vision, (ViTConfig, ResNetConfig))
    yield from _resnet_rules(vision) if isinstance(vision, ResNetConfig) else _vit_rules(vision)


def resnet(reader: ConfigReader, tensors: Mapping[str, Stored], head_width: int) -> ResNetConfig:
    """A ModifiedResNet; `reader` may have its image_size. head_width: of its attention pooling."""
    width = shape_of(tensors, "visual.layer1.0.conv1.weight", 4)[0]
    positions = "visual.attnpool.positional_embedding"
    pooled = width * RESNET_STRIDE  # channels of the last stage
    if head_width < 1 or pooled % head_width:
        reader.fail("head_width", f"which does not divide the width {pooled}", head_width)
    return ResNetConfig(
        image_size=reader.grid("image_size", tensors, positions, RESNET_STRIDE),
        width=width,
        heads=pooled // head_width,
        stages=tuple(depth(tensors, f"visual.layer{i}.") for i in (1, 2, 3, 4)),
    )


def vit(tensors: Mapping[str, Stored]) -> ViTConfig:
    """A ViT; each head has a width of `HEAD_WIDTH`."""
    width, _, patch, _ = shape_of(tensors, "visual.conv1.weight", 4)
    reader, positions = ConfigReader("the file", {}), "visual.positional_embedding"
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, positions, patch),
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
        yield from _pair("visual.ln_pre", "image.norm_pre")
    yield from _pair("visual.ln_post", "image.norm")
    for i in range(vision.depth):
        theirs, ours = f"visual.{BLOCKS}{i}", f"image.blocks.{i}"
        yield from _block(theirs, ours)
        if vision.layer_scale:
            yield Rename(f"{theirs}.ls_1.gamma", f"{ours}.ls1.gamma")
            yield Rename(f"{theirs}.ls_2.gamma", f"{ours}.ls2.gamma")


def _resnet_rules(vision: ResNetConfig) -> Iterator[Rule]:
    for i in (1, 2, 3):
        yield from _convolution("visual.", "image.", f"conv{i}", f"bn{i}")
    for stage, count in enumerate(vision.stages, start=1):
        for block in range(count):
            theirs, ours = f"visual.layer{stage}.{block}.", f"image.layer{stage}.{block}."
            for i in (1, 2, 3):
                yield from _convolution(theirs, ours, f"conv{i}", f"bn{i}")
            if block == 0:  # theirs are called -1 (average pool), 0 and 1
                yield Rename(f"{theirs}downsample.0.weight", f"{ours}downsample.1.weight")
                yield from _norm(f"{theirs}downsample.1", f"{ours}downsample.2")
    pool = "attnpool"
    yield Unsqueeze(f"visual.{pool}.positional_embedding", f"image.{pool}.pos_embed")
    for kind in ("weight", "bias"):
        qkv = tuple(f"visual.{pool}.{part}_proj.{kind}" for part in "qkv")
        yield Fuse(qkv, f"image.{pool}.attn.qkv.{kind}")
        yield Rename(f"visual.{pool}.c_proj.{kind}", f"image.{pool}.attn.proj.{kind}")


def _block(theirs: str, ours: str) -> Iterator[Rule]:
    """One Transformer block around torch.nn.MultiheadAttention."""
    yield Rename(f"{theirs}.attn.in_proj_weight", f"{ours}.attn.qkv.weight")
    yield Rename(f"{theirs}.attn.in_proj_bias", f"{ours}.attn.qkv.bias")
    yield from _pair(f"{theirs}.attn.out_proj", f"{ours}.attn.proj")
    yield from _pair(f"{theirs}.ln_1", f"{ours}.norm1")
    yield from _pair(f"{theirs}.ln_2", f"{ours}.norm2")
    yield from _pair(f"{theirs}.mlp.c_fc", f"{ours}.mlp.fc1")
    yield from _pair(f"{theirs}.mlp.c_proj", f"{ours}.mlp.fc2")


def _pair(theirs: str, ours: str) -> Iterator[Rule]:
    for kind in ("weight", "bias"):
        yield Rename(f"{theirs}.{kind}", f"{ours}.{kind}")


def _convolution(theirs: str, ours: str, conv: str, norm: str) -> Iterator[Rule]:
    yield Rename(f"{theirs}{conv}.weight", f"{ours}{conv}.weight")
    yield from _norm(f"{theirs}{norm}", f"{ours}{norm}")


def _norm(theirs: str, ours: str) -> Iterator[Rule]:
    """A batch norm."""
    for kind in ("weight", "bias", "running_mean", "running_var"):
        yield Rename(f"{theirs}.{kind}", f"{ours}.{kind}")
    counter = "num_batches_tracked"
    yield Drop(f"{theirs}.{counter}", why="counts training batches; unused with a momentum")
    yield Const(f"{ours}.{counter}", 0)
