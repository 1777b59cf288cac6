"""Every named variant made small, so that one suite can run them all."""

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

WORDS = 600


def shrunk(config: ModelConfig) -> ModelConfig:
    """The same model with the same choices and hardly any width or depth."""
    vision, preprocess = config.vision, config.preprocess
    if vision is not None:
        # Windows of a Swin shift only where there are several.
        sides = 10 if isinstance(vision, SwinConfig) else 3
        size = (64, 64) if isinstance(vision, ResNetConfig) else (vision.patch_size * sides,) * 2
        vision = small_vision(replace(vision, image_size=size))
        preprocess = replace(preprocess, size=size, resize_to=size[0])
    # Attention pooling lands in the joint space by itself, at the tower's width.
    joint = 32 if isinstance(vision, ViTConfig) and vision.pool == "map" else 24
    decoder = config.decoder and small_text(config.decoder)
    return replace(
        config,
        vision=vision,
        preprocess=preprocess,
        text=config.text and small_text(config.text),
        blip=config.blip and replace(config.blip, decoder=decoder),
        masked=config.masked and replace(config.masked, width=32, depth=2, heads=2, mlp_width=64),
        embed_dim=config.embed_dim and joint,
        classes=config.classes and 7,
        labels=(),
    )


def shallow(config: ModelConfig) -> ModelConfig:
    """A shrunk model with one block in each part, of a Swin the fewest that have a shifted one and
    a merge of patches: graphs take seconds to make, longer by every block."""
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
    """A tower of width 32 and two blocks, which looks at one as wide."""
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
    """A tower of width 32 and two blocks, or of one bottleneck a stage and two in the first."""
    if isinstance(vision, ResNetConfig):
        stages = (2, *(1 for _ in vision.stages[1:]))
        return replace(vision, width=8, stages=stages, heads=4)
    if isinstance(vision, SwinConfig):
        return replace(vision, width=16, stages=(2, 2), heads=2, mlp_width=32, window=2)
    stem = tuple(1 for _ in vision.stem_stages)
    stem_width = 8 if stem else 0
    return replace(
        vision,
        width=32,
        depth=2,
        heads=2,
        mlp_width=64,
        stem_stages=stem,
        stem_width=stem_width,
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
    """A ViT classifier of seven classes that says in this way where its patches are."""
    return shrunk(ModelConfig(ViTConfig(positions=positions), classes=7))


def tiny_bundle(config: ModelConfig) -> Bundle:
    """A model of random weights that reads words, always the same."""
    if config.text is None:
        raise ValueError("tiny_bundle is for two towers")
    tokenizer = Tokenizer.train(["a photo of a cat", "a dog", "a wafer"], WORDS, 16)
    text = replace(config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end_token)
    torch.manual_seed(5)
    network = models.build(replace(config, text=text))
    models.initialise(network)
    return make(network, replace(config, text=text), tokenizer, "tiny")


def pixels(config: ModelConfig, count: int = 3, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *config.image_tower.image_size, generator=generator)


def ids(config: ModelConfig) -> Tensor:
    """Three texts, padded to the longest, or to the context where padding is attended to."""
    text = config.text_or_decoder
    assert text is not None
    end, pad = WORDS - 1, text.pad_token
    length = text.context if text.padding == "attended" else 5
    rows = [[1, 7, 8, end], [1, 9, end], [1, 2, 3, 4, end]]
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])


def embeds_text(config: ModelConfig) -> bool:
    """Whether texts have vectors: a question that is only answered has none."""
    return config.text is not None and (config.writes_captions or not config.answers_questions)
