"""Small models: every named variant with little width and depth, so that one suite can run them
all, and a few tiny models with random weights."""

from dataclasses import replace

import torch
from torch import Tensor

from patchword import models
from patchword.bundle import Bundle, make
from patchword.config import (
    ModelConfig,
    Positions,
    ResNetConfig,
    SwinConfig,
    TextConfig,
    VisionConfig,
    ViTConfig,
)
from patchword.text.tokenizer import Tokenizer

WORDS = 600  # size of the vocabulary


def shrunk(config: ModelConfig) -> ModelConfig:
    """The same architecture with the same options, but little width and depth."""
    vision, preprocess = config.vision, config.preprocess
    if vision is not None:
        if isinstance(vision, ResNetConfig):
            side = 64
        elif isinstance(vision, SwinConfig):
            side = 10 * vision.patch_size  # a Swin shifts its windows only if there are several
        else:
            side = 3 * vision.patch_size
        size = (side, side)
        vision = small_vision(replace(vision, image_size=size))
        preprocess = replace(preprocess, size=size, resize_to=size[0])
    # Attention pooling has no projection: the joint space is as wide as the tower.
    pools_by_attention = isinstance(vision, ViTConfig) and vision.pool == "map"
    joint_width = 32 if pools_by_attention else 24
    decoder = config.decoder and small_text(config.decoder)
    return replace(
        config,
        vision=vision,
        preprocess=preprocess,
        text=config.text and small_text(config.text),
        blip=config.blip and replace(config.blip, decoder=decoder),
        masked=config.masked and replace(config.masked, width=32, depth=2, heads=2, mlp_width=64),
        embed_dim=config.embed_dim and joint_width,
        classes=config.classes and 7,
        labels=(),
    )


def shallow(config: ModelConfig) -> ModelConfig:
    """A shrunk model with one block in each part, because exporting a graph takes longer with every
    block. A Swin keeps the fewest blocks that include shifted windows and patch merging."""
    vision = config.vision
    if isinstance(vision, ViTConfig):
        vision = replace(vision, depth=1)
    elif isinstance(vision, SwinConfig):
        vision = replace(vision, stages=(2, 1))
    decoder = config.decoder and replace(config.decoder, depth=1)
    return replace(
        config,
        vision=vision,
        text=config.text and replace(config.text, depth=1),
        blip=config.blip and replace(config.blip, decoder=decoder),
    )


def small_text(text: TextConfig) -> TextConfig:
    """A text tower of width 32 with two blocks; it cross-attends, if at all, to image tokens of
    width 32."""
    return replace(
        text,
        vocab_size=WORDS,
        end_token=WORDS - 1,
        pad_token=min(text.pad_token, WORDS - 1),
        start_token=min(text.start_token, 5),
        cross_width=text.cross_width and 32,
        context=16,
        width=32,
        depth=2,
        heads=2,
        mlp_width=64,
    )


def small_vision(vision: VisionConfig) -> VisionConfig:
    """An image tower: a ViT of width 32 with two blocks, a Swin with two stages, or a ResNet with
    two bottlenecks in the first stage and one in the others."""
    if isinstance(vision, ResNetConfig):
        stages = (2,) + (1,) * (len(vision.stages) - 1)
        return replace(vision, width=8, stages=stages, heads=4)
    if isinstance(vision, SwinConfig):
        return replace(vision, width=16, stages=(2, 2), heads=2, mlp_width=32, window=2)
    return replace(
        vision,
        width=32,
        depth=2,
        heads=2,
        mlp_width=64,
        stem_stages=(1,) * len(vision.stem_stages),
        stem_width=8 if vision.stem_stages else 0,
    )


def tiny_clip() -> ModelConfig:
    """A CLIP with a ViT tower that runs in milliseconds."""
    return shrunk(ModelConfig(ViTConfig(pre_norm=True), text=TextConfig(), embed_dim=512))


def tiny_clip_resnet() -> ModelConfig:
    """A CLIP with a ResNet tower that runs in milliseconds."""
    return shrunk(ModelConfig(ResNetConfig(), text=TextConfig(), embed_dim=1024))


def tiny_hybrid() -> ModelConfig:
    """A CLIP whose ViT has a convolutional stem, like the embedded model's."""
    vision = ViTConfig(patch_size=8, stem_stages=(2, 2), stem_width=32)
    return shrunk(ModelConfig(vision, text=TextConfig(), embed_dim=192))


def tiny_vit(positions: Positions) -> ModelConfig:
    """A ViT classifier with seven classes and this kind of positions."""
    return shrunk(ModelConfig(ViTConfig(positions=positions), classes=7))


def tiny_bundle(config: ModelConfig) -> Bundle:
    """A two-tower model with a tokenizer and always the same random weights. Raises ValueError for
    a config without a text tower."""
    if config.text is None:
        raise ValueError("tiny_bundle is for two towers")
    tokenizer = Tokenizer.train(["a photo of a cat", "a dog", "a wafer"], WORDS, 16)
    text = replace(config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end_token)
    torch.manual_seed(5)
    network = models.build(replace(config, text=text))
    models.initialise(network)
    return make(network, replace(config, text=text), tokenizer, "tiny")


def pixels(config: ModelConfig, count: int = 3, seed: int = 2) -> Tensor:
    """Random images (count, 3, H, W) of the model's size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *config.image_tower.image_size, generator=generator)


def ids(config: ModelConfig) -> Tensor:
    """Ids (3, length) of three texts, padded to the longest, or to the context length in models
    that attend to padding."""
    text = config.text_or_decoder
    assert text is not None
    end, pad = WORDS - 1, text.pad_token
    length = text.context if text.padding == "attended" else 5
    rows = [[1, 7, 8, end], [1, 9, end], [1, 2, 3, 4, end]]
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])


def embeds_text(config: ModelConfig) -> bool:
    """Whether the model gives texts vectors; one that only answers questions does not."""
    return config.text is not None and (config.writes_captions or not config.answers_questions)
