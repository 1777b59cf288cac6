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
from patchword.train.recipe import BlipLosses, Recipe, check_shipped_model

LISTED = 4  # tensors in an error
# The parts that a trained model can have.
PARTS = ("image", "text", "decoder", "match_head", "logit_scale", "logit_bias", "dense_head")


@dataclass(frozen=True)
class InitialModel:
    """A network to train, with its config and tokenizer."""

    network: nn.Module
    config: ModelConfig
    tokenizer: Tokenizer | None  # None: the model has no text

    def reader(self) -> Tokenizer:
        """Its tokenizer. Raises RecipeError for a model without one."""
        if self.tokenizer is None:
            raise RecipeError("the model has no tokenizer, which the objective needs")
        return self.tokenizer


def load_init(recipe: Recipe) -> Bundle | None:
    """The model that the recipe starts from, if it names one. Raises RecipeError for a missing
    model that another recipe of the package makes."""
    if not recipe.init:
        return None
    check_shipped_model(recipe.init)
    return checkpoints.load(
        recipe.init, weights=recipe.weights or None, architecture=recipe.architecture or None
    )


def model_config(recipe: Recipe, init: Bundle | None) -> ModelConfig:
    """The model's config, without what depends on the data. Raises RecipeError for a config that
    does not fit the objective."""
    config = recipe.model or (init.config if init else None)
    if config is None:
        raise RecipeError("a recipe needs a [model], or init = a model to start from")
    if recipe.objective == "dense":
        return _with_dense_head(recipe, config)
    if not (recipe.model is None and _keeps_towers(recipe, config)):
        config = replace(config, dense_head=None)  # it fits only the weights it was trained with
    if recipe.image_size:
        config = replace(config, preprocess=at_size(config.preprocess, recipe.image_size))
    if recipe.objective == "masked":
        if config.masked is None:
            raise RecipeError("the objective masked needs [model.masked], its decoder")
        _check_mask_ratio(config)
        return config
    if recipe.objective == "classification":
        return replace(
            config, text=None, blip=None, masked=None, dense_head=None, embed_dim=0, score="softmax"
        )
    if recipe.objective == "blip":
        return _blip_config(recipe, config)
    if config.text is None or not config.embed_dim:
        raise RecipeError(
            f"the objective {recipe.objective} trains two towers: the model needs [model.text] and "
            "embed_dim"
        )
    if recipe.objective == "sigmoid" and config.blip:
        raise RecipeError("a BLIP has no bias for the objective sigmoid; take contrastive")
    return replace(config, score="sigmoid" if recipe.objective == "sigmoid" else "softmax")


def _check_mask_ratio(config: ModelConfig) -> None:
    """Raise RecipeError for a masked autoencoder that hides no patch of an image, such as those of
    transformers for feature extraction."""
    assert config.masked is not None
    ratio, patch = config.masked.mask_ratio, config.image_tower.patch_size
    count = math.prod(side // patch for side in config.preprocess.size)
    if int(count * (1 - ratio)) == count:
        raise RecipeError(
            f"model.masked.mask_ratio {ratio:g} hides none of {count} patches, and the objective "
            "masked predicts hidden ones; MAE hides 0.75"
        )


def _keeps_towers(recipe: Recipe, config: ModelConfig) -> bool:
    """Whether training leaves the image tower and the text tower unchanged, bit for bit. A head for
    maps then still fits."""
    changed_parts = (*recipe.trainable, *recipe.fresh)
    if any(within(part, ("image", "text", "dense_head")) for part in changed_parts):
        return False
    adapted = recipe.blip.sincos_positions or recipe.blip.text_from_decoder
    shared = config.blip and config.blip.shared_decoder
    changed = recipe.lora or recipe.image_size or adapted or shared
    return bool(recipe.trainable) and not changed


def _with_dense_head(recipe: Recipe, config: ModelConfig) -> ModelConfig:
    """The config with a head for maps; by default it reads the tokens of the middle block and of
    the last one. Raises RecipeError for a model that cannot have such a head."""
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


def training_preprocess(recipe: Recipe, config: ModelConfig) -> PreprocessConfig:
    """How images are preprocessed in training; for a head for maps, at the head's size."""
    if recipe.objective == "dense" and config.dense_head:
        return at_size(config.preprocess, config.dense_head.size)
    return config.preprocess


def _blip_config(recipe: Recipe, config: ModelConfig) -> ModelConfig:
    """The config of a BLIP, checked to have a part for each loss of the recipe. A shared decoder
    may learn to answer questions besides writing captions. Raises RecipeError, naming what is
    missing."""
    losses = recipe.blip
    if losses.answer and config.blip and config.blip.shared_decoder:
        config = replace(config, blip=replace(config.blip, answers_questions=True))
    for weight, present, needed in (
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
        if weight and not present:
            raise RecipeError(f"a loss of [blip] needs a BLIP with {needed}")
    return config


def create(
    recipe: Recipe, config: ModelConfig, init: Bundle | None, sources: Sequence[Source]
) -> InitialModel:
    """The network of `config` with the classes or the vocabulary of the data, and with the weights
    of `init` or random weights.

    Raises RecipeError if `init` does not fit the recipe.
    """
    tokenizer = None
    if recipe.objective in ("contrastive", "sigmoid", "blip", "dense"):
        tokenizer = choose_tokenizer(recipe, config, init, sources)
        config = with_vocabulary(config, tokenizer)
        if init and tokenizer is init.tokenizer:
            config = _with_embedding_rows(config, init.config)
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
    return InitialModel(network, config, tokenizer)


def choose_tokenizer(
    recipe: Recipe, config: ModelConfig, init: Bundle | None, sources: Sequence[Source]
) -> Tokenizer:
    """The tokenizer of `init`, or one trained on the texts of the data, with at most the model's
    vocabulary size: byte-pair encoding, or WordPiece for a BLIP."""
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


def with_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The config with the vocabulary and special tokens of its tokenizer."""
    text, blip = config.text, config.blip
    if text is not None:
        start = tokenizer.encoder_start if text.cross_width else -1
        text = _with_token_ids(text, tokenizer, start)
    if blip is not None and blip.decoder is not None:
        decoder = _with_token_ids(blip.decoder, tokenizer, tokenizer.decoder_start)
        blip = replace(blip, decoder=decoder)
    return replace(config, text=text, blip=blip)


def _with_embedding_rows(config: ModelConfig, init: ModelConfig) -> ModelConfig:
    """The config with as many token embeddings as `init` has. They may be more than the tokenizer's
    ids: those of mT5 are padded."""
    text, blip = config.text, config.blip
    if text is not None and init.text is not None:
        text = replace(text, vocab_size=init.text.vocab_size)
    if blip and blip.decoder and init.decoder:
        decoder = replace(blip.decoder, vocab_size=init.decoder.vocab_size)
        blip = replace(blip, decoder=decoder)
    return replace(config, text=text, blip=blip)


def _with_token_ids(config: TextConfig, tokenizer: Tokenizer, start: int) -> TextConfig:
    """A tower's config with a tokenizer's ids. start: the id of the token that begins a text, -1
    for none."""
    return replace(
        config,
        vocab_size=tokenizer.vocab_size,
        end_token=tokenizer.end_token,
        pad_token=tokenizer.pad_token,
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
    """Load the weights of `init` into the network, except for the fresh parts. Raises RecipeError
    for tensors that only one of the two has, or that have different shapes; it names them."""
    parts = tuple(fresh)
    ours, theirs = network.state_dict(), init.own_network.state_dict()
    check_fresh(parts, {*ours, *theirs})
    state: dict[str, Tensor] = dict(ours)
    different: dict[str, str] = {}  # name -> how it differs
    for name in sorted({*ours, *theirs}):
        if within(name, parts):
            continue
        here, there = _shape(ours.get(name)), _shape(theirs.get(name))
        if here == there:
            state[name] = theirs[name]
        else:
            different[name] = f"{name} is {here} here and {there} there"
    if different:
        lines = list(different.values())[:LISTED]
        if len(different) > LISTED:
            lines.append(f"and {len(different) - LISTED} more")
        suggested = sorted({*parts, *map(_block, different)})
        raise RecipeError(
            f"{init.name} does not fit the recipe's model: {'; '.join(lines)}. To start "
            f"these parts from random weights, set fresh = {suggested}"
        )
    fields = list(_different_fields(config, init.config, parts))
    if fields:
        raise RecipeError(f"{init.name} does not fit the recipe's model: {'; '.join(fields)}")
    network.load_state_dict(state)


def check_fresh(parts: Iterable[str], names: Collection[str]) -> None:
    """Raise RecipeError for a part that has no tensors. One of `PARTS` may have none: a classifier
    has no text tower."""
    tops = {name.split(".")[0] for name in names}
    for part in parts:
        if part in PARTS or any(within(name, (part,)) for name in names):
            continue
        known = sorted(tops | set(map(_block, names)))
        raise RecipeError(f"fresh: no part {part!r}; there are {', '.join(known)}")


@torch.no_grad()
def adapt_blip(network: Blip, blip: BlipLosses, fresh: Sequence[str]) -> None:
    """Apply `sincos_positions`, `cross_query_scale` and `text_from_decoder` to a BLIP, in place.
    fresh: the parts with random weights. Raises RecipeError for a BLIP that they do not fit."""
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
        decoder = dict(network.decoder.named_parameters())
        for name, value in network.text.named_parameters():
            if name.startswith("head."):
                continue
            source = decoder.get(name)
            if source is None or source.shape != value.shape:
                raise RecipeError(
                    f"blip.text_from_decoder: text.{name} is {_shape(value)}, in the decoder "
                    f"{_shape(source)}; both towers need the same shapes"
                )
            value.copy_(source)


def _shape(tensor: Tensor | None) -> str:
    """The shape of a tensor in an error."""
    return "missing" if tensor is None else str(tuple(tensor.shape))


def _block(name: str) -> str:
    """The part of a network that a tensor belongs to, by two names: "image.blocks"."""
    return ".".join(name.split(".")[:2])


def _different_fields(
    ours: ModelConfig, theirs: ModelConfig, fresh: Sequence[str]
) -> Iterable[str]:
    """Differences between two configs that change what weights of the same shapes compute. Pooling,
    image size, and how position embeddings are resized may differ."""
    if theirs.labels and ours.labels != theirs.labels and "image.head" not in fresh:
        yield "its classes are others: fresh = ['image.head']"
    for part, here, there in (
        ("image", ours.vision, theirs.vision),
        ("text", ours.text, theirs.text),
        ("decoder", ours.decoder, theirs.decoder),
    ):
        if part in fresh or here is None or there is None:
            continue
        other = to_dict(there)
        for key, value in to_dict(here).items():
            if value != other.get(key) and key not in ("pool", "image_size", "antialias"):
                yield f"{part}: {key} is {value} here and {other.get(key)} there"


def within(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of these parts of a network."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def freeze_others(network: nn.Module, recipe: Recipe) -> None:
    """Freeze all parts except those that the recipe trains. If it names none, all are trained.
    Raises RecipeError for unknown parts."""
    trainable = recipe.trainable
    if recipe.objective == "dense":
        trainable = trainable or ("dense_head",)
    if not trainable:
        return
    names = [name for name, _ in network.named_parameters()]
    for part in trainable:
        if not any(within(name, (part,)) for name in names):
            known = sorted(set(map(_block, names)))
            raise RecipeError(f"trainable: no part {part!r}; there are {', '.join(known)}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(within(name, trainable))
