"""The model that a run starts from: a network, its config and its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from patchword import checkpoints
from patchword.bundle import Bundle
from patchword.config import (
    DenseHeadConfig,
    ModelConfig,
    PreprocessConfig,
    TextConfig,
    ViTConfig,
    to_dict,
)
from patchword.data import Source
from patchword.errors import ConfigError, RecipeError, warn
from patchword.images.preprocess import at_size
from patchword.models import build, initialise
from patchword.models.blip import Blip
from patchword.nn.positions import sincos_2d
from patchword.text.tokenizer import Tokenizer
from patchword.train.recipe import BlipLosses, Recipe, check_made

NAMED = 4  # tensors that an error lists
# Whole parts of the models that are trained, of which each has some.
PARTS = ("image", "text", "decoder", "match_head", "logit_scale", "logit_bias", "dense_head")

Shape = tuple[int, ...] | None  # of a tensor that may be missing


@dataclass(frozen=True)
class InitialModel:
    """A network to train, with its config and tokenizer."""

    network: nn.Module
    config: ModelConfig
    tokenizer: Tokenizer | None  # None for a model without text

    def reader(self) -> Tokenizer:
        """Its tokenizer. Raises RecipeError for a model without one."""
        if self.tokenizer is None:
            raise RecipeError("the model has no tokenizer, which the objective needs")
        return self.tokenizer


def load_init(recipe: Recipe) -> Bundle | None:
    """The model that the recipe starts from, if it names one. Raises RecipeError for what another
    recipe of the package makes and is not there yet."""
    if not recipe.init:
        return None
    check_made(recipe.init)
    return checkpoints.load(
        recipe.init, weights=recipe.weights or None, architecture=recipe.architecture or None
    )


def model_config(recipe: Recipe, init: Bundle | None) -> ModelConfig:
    """The model's config, as far as it does not depend on the data. Raises RecipeError for one
    that does not fit the objective."""
    config = recipe.model or (init.config if init else None)
    if config is None:
        raise RecipeError("a recipe needs a [model], or init = a model to start from")
    if recipe.objective == "dense":
        return _dense(recipe, config)
    if not (recipe.model is None and _leaves_towers(recipe, config)):
        config = replace(config, dense_head=None)  # it fits the weights that it was trained with
    if recipe.image_size:
        config = replace(config, preprocess=at_size(config.preprocess, recipe.image_size))
    if recipe.objective == "masked":
        if config.masked is None:
            raise RecipeError("the objective masked needs [model.masked], its decoder")
        _check_hides(config)
        return config
    if recipe.objective == "classification":
        return replace(
            config, text=None, blip=None, masked=None, dense_head=None, embed_dim=0, score="softmax"
        )
    if recipe.objective == "blip":
        return _blip(recipe, config)
    if config.text is None or not config.embed_dim:
        raise RecipeError(
            f"the objective {recipe.objective} trains two towers: the model needs [model.text] and "
            "embed_dim"
        )
    if recipe.objective == "sigmoid" and config.blip:
        raise RecipeError("a BLIP has no bias for the objective sigmoid; take contrastive")
    return replace(config, score="sigmoid" if recipe.objective == "sigmoid" else "softmax")


def _check_hides(config: ModelConfig) -> None:
    """Raise RecipeError for a masked autoencoder that hides no patch of an image, as those of
    transformers do that are for features."""
    assert config.masked is not None
    ratio, patch = config.masked.mask_ratio, config.image_tower.patch_size
    count = math.prod(side // patch for side in config.preprocess.size)
    if int(count * (1 - ratio)) == count:
        raise RecipeError(
            f"model.masked.mask_ratio {ratio:g} hides none of {count} patches, and the objective "
            "masked predicts hidden ones; MAE hides 0.75"
        )


def _leaves_towers(recipe: Recipe, config: ModelConfig) -> bool:
    """Whether the image tower and the text tower stay as they are, bit for bit, and with them what
    a head for maps stands on."""
    changed = (*recipe.trainable, *recipe.fresh)
    towers = any(within(part, ("image", "text", "dense_head")) for part in changed)
    copied = recipe.blip.sincos_positions or recipe.blip.text_from_decoder
    shared = config.blip and config.blip.shared_decoder
    others = recipe.lora or recipe.image_size or copied or shared
    return bool(recipe.trainable) and not (towers or others)


def _dense(recipe: Recipe, config: ModelConfig) -> ModelConfig:
    """The config with a head for maps, by default on the tokens of the middle block and of the
    last. Raises RecipeError for a model that cannot have one."""
    if recipe.model is None and config.dense_head is None:
        vision = config.image_tower
        depth = vision.depth if isinstance(vision, ViTConfig) else 1
        layers = tuple(dict.fromkeys([max(depth // 2 - 1, 0), depth - 1]))
        head = DenseHeadConfig(layers, recipe.image_size or min(config.preprocess.size))
    elif config.dense_head is None:
        raise RecipeError("the objective dense needs [model.dense_head]")
    else:
        head = config.dense_head
        head = replace(head, size=recipe.image_size or head.size)
    try:
        return replace(config, dense_head=head)
    except ConfigError as error:
        raise RecipeError(str(error)) from error


def seen(recipe: Recipe, config: ModelConfig) -> PreprocessConfig:
    """How images are preprocessed in training: for a head for maps at its own size."""
    if recipe.objective == "dense" and config.dense_head:
        return at_size(config.preprocess, config.dense_head.size)
    return config.preprocess


def _blip(recipe: Recipe, config: ModelConfig) -> ModelConfig:
    """The config of a BLIP that has a part for each loss of the recipe. A shared decoder may learn
    to answer questions besides writing captions. Raises RecipeError, naming what is missing."""
    losses = recipe.blip
    if losses.answer and config.blip and config.blip.shared_decoder:
        config = replace(config, blip=replace(config.blip, answers_questions=True))
    for weight, has, needs in (
        (1.0, config.blip, "[model.blip], and a text tower or decoder that attends to images"),
        (losses.contrast, config.text and config.embed_dim, "[model.text] and embed_dim"),
        (losses.match, config.matching, "blip.matching = true"),
        (losses.caption, config.writes_captions, "[model.blip.decoder] and writes_captions = true"),
        (
            losses.answer,
            config.answers_questions,
            "[model.text], [model.blip.decoder] and answers_questions = true",
        ),
    ):
        if weight and not has:
            raise RecipeError(f"a loss of [blip] needs a BLIP with {needs}")
    return config


def create(
    recipe: Recipe, config: ModelConfig, init: Bundle | None, sources: Sequence[Source]
) -> InitialModel:
    """The network of `config`, with the classes or the vocabulary of the data, and with the weights
    of `init` or random ones.

    Raises RecipeError where `init` and the recipe do not go together.
    """
    words = None
    if recipe.objective in ("contrastive", "sigmoid", "blip", "dense"):
        words = tokenizer(recipe, config, init, sources)
        config = with_vocabulary(config, words)
        if init and words is init.tokenizer:
            config = _with_rows(config, init.config)
    elif recipe.objective == "classification":
        config = with_classes(recipe, config, sources)
    config = replace(config, source="patchword", assumed={}, read_from=())
    network = build(config)
    initialise(network)
    if init:
        fresh = recipe.fresh
        if (config.dense_head is None) != (init.config.dense_head is None):
            fresh = (*fresh, "dense_head")
        if config.text and config.dense_head is None and init.config.dense_head:
            warn(
                f"heatmaps of the new model will be less exact than those of {init.name}: the "
                "layer that makes its maps (its head for maps) fits only the weights it was "
                "trained with, which change here"
            )
        load_weights(network, config, init, fresh)
    if isinstance(network, Blip):
        adapt_blip(network, recipe.blip, recipe.fresh if init else ("text", "decoder"))
    return InitialModel(network, config, words)


def tokenizer(
    recipe: Recipe, config: ModelConfig, init: Bundle | None, sources: Sequence[Source]
) -> Tokenizer:
    """That of `init`, or one trained on the texts of the data, with at most the model's vocabulary
    size: byte-pair encoding, or WordPiece for a BLIP."""
    if init and init.tokenizer and "text" not in recipe.fresh:
        return init.tokenizer
    text = config.text_or_decoder
    if text is None:
        raise RecipeError(f"the objective {recipe.objective} needs [model.text] or a decoder")
    captions = (caption for source in sources for caption in source.captions())
    size, context = text.vocab_size, text.context
    if not config.blip:
        return Tokenizer.train(captions, size, context)
    questions = (text for source in sources for text in source.questions_and_answers())
    texts = chain(captions, questions, [recipe.blip.prompt])
    return Tokenizer.train_wordpiece(texts, size, context)


def with_vocabulary(config: ModelConfig, words: Tokenizer) -> ModelConfig:
    """The config with the vocabulary and special tokens of its tokenizer."""
    text, blip = config.text, config.blip
    if text is not None:
        text = _with_token_ids(text, words, words.encoder_start if text.cross_width else -1)
    if blip is not None and blip.decoder is not None:
        blip = replace(blip, decoder=_with_token_ids(blip.decoder, words, words.decoder_start))
    return replace(config, text=text, blip=blip)


def _with_rows(config: ModelConfig, init: ModelConfig) -> ModelConfig:
    """The config with as many embeddings of tokens as `init` has, which may be more than its
    tokenizer has ids: those of mT5 are padded."""
    text, blip = config.text, config.blip
    if text is not None and init.text is not None:
        text = replace(text, vocab_size=init.text.vocab_size)
    if blip and blip.decoder and init.decoder:
        decoder = replace(blip.decoder, vocab_size=init.decoder.vocab_size)
        blip = replace(blip, decoder=decoder)
    return replace(config, text=text, blip=blip)


def _with_token_ids(config: TextConfig, words: Tokenizer, start: int) -> TextConfig:
    """A tower's config with a tokenizer's ids; start: of the token that begins a text, -1 for
    none."""
    return replace(
        config,
        vocab_size=words.vocab_size,
        end_token=words.end_token,
        pad_token=words.pad_token,
        start_token=start if start >= 0 else config.start_token,
    )


def with_classes(recipe: Recipe, config: ModelConfig, sources: Sequence[Source]) -> ModelConfig:
    """The config with the classes of the data."""
    labels = sources[0].labels
    if recipe.model and recipe.model.classes not in (0, len(labels)):
        raise RecipeError(
            f"model.classes is {recipe.model.classes}, the data has {len(labels)}: "
            f"{', '.join(labels)}"
        )
    return replace(config, classes=len(labels), labels=labels)


def load_weights(
    network: nn.Module, config: ModelConfig, init: Bundle, fresh: Iterable[str]
) -> None:
    """Load the weights of `init` into the network, except for the fresh parts. Raises RecipeError,
    naming them, for tensors that one of the two does not have or has in another shape."""
    parts = tuple(fresh)
    ours, theirs = network.state_dict(), init.own_network.state_dict()
    check_fresh(parts, {*ours, *theirs})
    state: dict[str, Tensor] = dict(ours)
    different: list[tuple[str, Shape, Shape]] = []
    for name in sorted({*ours, *theirs}):
        if within(name, parts):
            continue
        mine, other = (tuple(s[name].shape) if name in s else None for s in (ours, theirs))
        if mine == other:
            state[name] = theirs[name]
        else:
            different.append((name, mine, other))
    if different:
        lines = [
            f"{name} is {_shape(mine)} here and {_shape(other)} there"
            for name, mine, other in different[:NAMED]
        ]
        more = [f"and {len(different) - NAMED} more"] if len(different) > NAMED else []
        heads = sorted({*parts, *(".".join(name.split(".")[:2]) for name, _, _ in different)})
        raise RecipeError(
            f"{init.name} does not fit the recipe's model: {'; '.join([*lines, *more])}. To start "
            f"these parts from random weights, set fresh = {heads}"
        )
    if found := list(_different_fields(config, init.config, parts)):
        raise RecipeError(f"{init.name} does not fit the recipe's model: {'; '.join(found)}")
    network.load_state_dict(state)


def check_fresh(parts: Iterable[str], names: Collection[str]) -> None:
    """Raise RecipeError for a part that no tensor is of, but for a whole one that these models do
    not have, as the text tower of a classifier."""
    tops = {name.split(".")[0] for name in names}
    for part in parts:
        absent = part in PARTS and part not in tops
        if not absent and not any(within(name, (part,)) for name in names):
            inner = {".".join(name.split(".")[:2]) for name in names}
            raise RecipeError(
                f"fresh: no part {part!r}; there are {', '.join(sorted(tops | inner))}"
            )


@torch.no_grad()
def adapt_blip(network: Blip, blip: BlipLosses, fresh: Sequence[str]) -> None:
    """Apply `sincos_positions`, `cross_query_scale` and `text_from_decoder` to a BLIP, in place.
    Raises RecipeError for a BLIP that they do not fit."""
    if blip.sincos_positions:
        image = network.image
        if "pos_embed" not in dict(image.named_parameters(recurse=False)):
            raise RecipeError(
                f"blip.sincos_positions: the image tower's positions are {image.config.positions}, "
                "and not learned; leave it out"
            )
        sines = sincos_2d(image.config.grid, image.config.width)
        image.pos_embed[:, -len(sines) :] += blip.sincos_positions * sines
    for name, value in network.named_parameters():
        if name.endswith(".cross.q.weight") and within(name, fresh):
            value.mul_(blip.cross_query_scale)
    if blip.text_from_decoder:
        text, config = network.config.text, network.config.blip
        if text is None or config is None or config.decoder is None or config.shared_decoder:
            raise RecipeError(
                "blip.text_from_decoder needs a text tower and a decoder that is not shared"
            )
        theirs = dict(network.decoder.named_parameters())
        for name, value in network.text.named_parameters():
            if name.startswith("head."):
                continue
            other = theirs.get(name)
            if other is None or other.shape != value.shape:
                raise RecipeError(
                    f"blip.text_from_decoder: text.{name} is {_shape(tuple(value.shape))}, in the "
                    f"decoder {_shape(None if other is None else tuple(other.shape))}; both towers "
                    "need the same shapes"
                )
            value.copy_(other)


def _shape(shape: Shape) -> str:
    return "missing" if shape is None else str(shape)


def _different_fields(
    ours: ModelConfig, theirs: ModelConfig, fresh: Sequence[str]
) -> Iterable[str]:
    """Fields that change what weights of the same shapes compute; pooling, image size, and how
    positions come to it may differ."""
    if theirs.labels and ours.labels != theirs.labels and "image.head" not in fresh:
        yield "its classes are others: fresh = ['image.head']"
    for part, mine, other in (
        ("image", ours.vision, theirs.vision),
        ("text", ours.text, theirs.text),
        ("decoder", ours.decoder, theirs.decoder),
    ):
        if part in fresh or mine is None or other is None:
            continue
        left, right = to_dict(mine), to_dict(other)
        for key in left:
            if left[key] != right.get(key) and key not in ("pool", "image_size", "antialias"):
                yield f"{part}: {key} is {left[key]} here and {right.get(key)} there"


def within(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of these parts of a network."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def freeze_others(network: nn.Module, recipe: Recipe) -> None:
    """Freeze all but the parts that the recipe trains; none if it names none. Raises RecipeError
    for unknown ones."""
    trainable = recipe.trainable
    if recipe.objective == "dense":
        trainable = trainable or ("dense_head",)
    if not trainable:
        return
    names = [name for name, _ in network.named_parameters()]
    for part in trainable:
        if not any(within(name, (part,)) for name in names):
            tops = sorted({".".join(name.split(".")[:2]) for name in names})
            raise RecipeError(f"trainable: no part {part!r}; there are {', '.join(tops)}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(within(name, trainable))
