"""A training run as data: a TOML file and `key=value` changes to it."""

from __future__ import annotations

import importlib.resources
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from patchword.config import ModelConfig, from_dict
from patchword.data import SourceConfig
from patchword.errors import ConfigError, RecipeError
from patchword.options import in_range, nearest
from patchword.train.monitor import MonitorConfig

# Old names of keys, which are refused, and the new ones.
RENAMED = {
    "smoothing": "label_smoothing",
    "watch": "monitor, and watch.guard monitor.forgetting,",
    "monitor.guard": "monitor.forgetting",
    "engine.recompute": "engine.gradient_checkpointing",
    "blip.places": "blip.sincos_positions",
    "blip.sharper": "blip.cross_query_scale",
    "blip.lend": "blip.text_from_decoder",
    "blip.soft": "blip.soft_targets",
    "blip.ramp": "blip.soft_targets_warmup",
    "data.about": "data.class_questions",
    "data.wrong": "data.wrong_captions",
}

Objective = Literal["contrastive", "sigmoid", "masked", "classification", "blip", "dense"]


@dataclass(frozen=True)
class MixConfig:
    """Images of a batch are mixed in pairs, and so are their targets. With both mixup and CutMix,
    each step uses one of them at random."""

    mixup: float = 0.0  # alpha of its Beta distribution; 0: never (Zhang et al. 2018; DeiT: 0.8)
    cutmix: float = 0.0  # the same (Yun et al. 2019; DeiT: 1.0)
    share: float = 1.0  # of the steps

    def __post_init__(self) -> None:
        in_range("mix.mixup", self.mixup, 0)
        in_range("mix.cutmix", self.cutmix, 0)
        in_range("mix.share", self.share, 0, 1)

    @property
    def enabled(self) -> bool:
        """Whether images are mixed at all."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside frozen linear layers (Hu et al. 2022, section 4.1)."""

    rank: int = 8
    alpha: int = 16  # their product is scaled by alpha / rank
    dropout: float = 0.0
    layers: tuple[str, ...] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # ends of names
    within: tuple[str, ...] = ()  # parts of the network: ["image"]; empty: everywhere

    def __post_init__(self) -> None:
        in_range("lora.rank", self.rank, 1)
        in_range("lora.alpha", self.alpha, 0, above=True)
        in_range("lora.dropout", self.dropout, 0, 1, below=True)


@dataclass(frozen=True)
class TeacherConfig:
    """A model to learn from besides the data, see `losses.distillation`."""

    model: str  # with the student's preprocessing; for "features" and "logits" also its tokenizer
    kind: Literal["hard", "soft", "features", "logits"] = "hard"
    # of the teacher's loss. "soft": the loss of the data has the weight 1 - weight; "features" and
    # "logits": the loss of the data has the weight 1; "hard": ignored, each has the weight 1/2
    weight: float = 0.1
    temperature: float = 3.0  # "soft"

    def __post_init__(self) -> None:
        in_range("teacher.weight", self.weight, 0, 1 if self.kind == "soft" else math.inf)
        in_range("teacher.temperature", self.temperature, 0, above=True)


@dataclass(frozen=True)
class BlipLosses:
    """The weights of a BLIP's losses (Li et al. 2022, section 3.2), and how they are computed. A
    loss of weight 0 is not computed. Pre-training uses the first three, retrieval the first two,
    captioning and question answering one each."""

    contrast: float = 1.0  # contrastive loss of image and text features
    match: float = 1.0  # image-text matching with hard negatives
    caption: float = 1.0  # language modelling of captions
    answer: float = 0.0  # language modelling of answers to questions
    texts: int = 1  # captions, and questions, for each image at a step
    # before the first step, sine and cosine position embeddings times this number are added to the
    # learned ones of the image tower: in a tower that was trained through its pooling, patch
    # features hardly contain their position
    sincos_positions: float = 0.0
    # factor of the random initial query weights of cross-attention, not of those that `init` gives:
    # with small weights attention is nearly uniform, all tokens read the same mean of the image,
    # and training takes long to leave that state
    cross_query_scale: float = 1.0
    # the text tower starts with the weights of the decoder, which has learned to attend to images
    text_from_decoder: bool = False
    prompt: str = ""  # before every caption, without a loss of its own: "a picture of "
    # features are compared with those of momentum encoders, the EMA of the weights (its decay `ema`
    # is 0.995 in the paper)
    momentum: bool = False
    queue: int = 0  # number of earlier momentum features used as negatives (paper: 57,600)
    soft_targets: float = 0.4  # share of each target that the momentum encoders give
    soft_targets_warmup: int = 0  # steps over which that share grows from 0

    def __post_init__(self) -> None:
        for name in ("contrast", "match", "caption", "answer", "queue"):
            in_range(f"blip.{name}", getattr(self, name), 0)
        in_range("blip.sincos_positions", self.sincos_positions, 0)
        in_range("blip.texts", self.texts, 1)
        in_range("blip.cross_query_scale", self.cross_query_scale, 0, above=True)
        in_range("blip.soft_targets", self.soft_targets, 0, 1)
        in_range("blip.soft_targets_warmup", self.soft_targets_warmup, 0)


@dataclass(frozen=True)
class EngineConfig:
    """How a run is computed. The samples and their order do not depend on it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast; weights float32
    parallel: Literal["ddp", "fsdp"] = "ddp"  # with torchrun
    workers: int = 2  # processes that open images, for each training process; 0: a thread
    gradient_checkpointing: bool = False  # in the blocks: less memory, 1/3 more time
    compile: bool = False  # compile the blocks with torch.compile

    def __post_init__(self) -> None:
        in_range("engine.workers", self.workers, 0)


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on. Paths are relative to the current folder."""

    out: str  # folder for checkpoints, metrics and the finished model
    data: tuple[SourceConfig, ...]
    steps: int  # length of the schedule
    objective: Objective = "contrastive"
    model: ModelConfig | None = None  # None: that of `init`
    init: str = ""  # a model to start from; its tokenizer is kept
    weights: Literal["", "ema", "raw"] = ""  # which of an init with two sets; as for `load`
    architecture: str = ""  # "ViT-B-32", for an init of open_clip that does not name its own
    fresh: tuple[str, ...] = ()  # parts that start from random weights: ["text", "image.head"]
    trainable: tuple[str, ...] = ()  # parts that are trained, the others are frozen; empty: all
    image_size: int = 0  # pixels a side; 0: those of the model's preprocessing, or dense head
    until: int = 0  # stop at this step of the schedule; 0: at its end
    batch: int = 128  # samples in a step, over all processes
    micro_batch: int = 0  # samples that each process has in memory at a time; 0: all of them
    learning_rate: float = 1e-3
    weight_decay: float = 0.05  # not of norms, biases, position embeddings and the temperature
    warmup: int = 500  # steps; then cosine decay to zero (Loshchilov & Hutter 2017)
    clip_norm: float = 1.0  # the norm that gradients are clipped to; 0: no clipping
    ema: float = 0.999  # decay of the EMA of the weights, which is saved; 0: no EMA
    label_smoothing: float = 0.0  # (Szegedy et al. 2016, section 7)
    mix: MixConfig = field(default_factory=MixConfig)
    blip: BlipLosses = field(default_factory=BlipLosses)
    lora: LoraConfig | None = None
    teacher: TeacherConfig | None = None
    seed: int = 0
    checkpoint_every: int = 500  # steps
    keep: int = 2  # how many of the last checkpoints are kept
    max_broken: int = 1000  # broken samples that may be skipped; one more stops the run
    engine: EngineConfig = field(default_factory=EngineConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "keep"):
            in_range(name, getattr(self, name), 1)
        for name in ("image_size", "warmup", "weight_decay", "clip_norm", "max_broken"):
            in_range(name, getattr(self, name), 0)
        in_range("seed", self.seed, 0, 2**64 - 1)  # as torch takes them
        in_range("until", self.until, 0, self.steps)
        in_range("micro_batch", self.micro_batch, 0, self.batch)
        in_range("learning_rate", self.learning_rate, 0, above=True)
        in_range("ema", self.ema, 0, 1)
        in_range("label_smoothing", self.label_smoothing, 0, 1, below=True)

    @property
    def last(self) -> int:
        """The step to stop at."""
        return self.until or self.steps


def shipped() -> dict[str, Path]:
    """The recipes in the package, by name."""
    folder = Path(str(importlib.resources.files("patchword"))) / "assets" / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def check_shipped_model(model: str) -> None:
    """Raise RecipeError for a missing model that a shipped recipe makes, with the command that
    makes it."""
    folder, name = os.path.split(os.path.normpath(model))
    if name != "model" or os.path.exists(model):
        return
    documented = re.compile(
        rf"^#\s+(patchword train .*\bout={re.escape(folder)}( .*)?)$", re.MULTILINE
    )
    for recipe, file in shipped().items():
        toml = file.read_text(encoding="utf-8")
        match = documented.search(toml)
        if match or tomllib.loads(toml)["out"] == folder:
            command = match[1] if match else f"patchword train {recipe}"
            raise RecipeError(f"{model} is not there; {command} makes it; or give init=...")


def load(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe: a file, or the name of a shipped one. `changes` are "key=value". A key may be
    nested, "data.0.path=photos": dots separate keys, numbers are places in lists. Values are TOML,
    or plain strings.

    Raises RecipeError for a file that is missing or not TOML, an unknown key, or a bad value.
    """
    try:
        values = tomllib.loads(read_text(path))
    except ValueError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    for change in changes:
        _apply_change(values, change)
    try:
        _refuse_old_names(values)
        recipe = from_dict(Recipe, values)
    except ConfigError as error:
        raise RecipeError(f"{path}: {error}") from error
    _check_consistent(recipe)
    return recipe


def _refuse_old_names(values: Mapping[str, Any], within: str = "") -> None:
    """Raise ConfigError for a key that has another name now."""
    for key, value in values.items():
        name = f"{within}{key}"
        if name in RENAMED:
            raise ConfigError(f"{name} is called {RENAMED[name]} now")
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                _refuse_old_names(part, f"{name}.")


def read_text(path: str | Path) -> str:
    """The text of a recipe, as for `load`. Raises RecipeError for a file that is not there."""
    known = shipped()
    file = Path(path)
    if str(path) in known and not file.exists():
        file = known[str(path)]
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        suggestion = nearest(str(path), known)
        raise RecipeError(
            f"{path}: {error.strerror}{suggestion}; shipped recipes: {', '.join(known)}"
        ) from error


def _check_consistent(recipe: Recipe) -> None:
    """Raise RecipeError for a recipe that contradicts itself, whatever the data are."""
    if recipe.model is None and not recipe.init:
        raise RecipeError("a recipe needs a [model], or init = a model to start from")
    options = [name for name in ("weights", "architecture") if getattr(recipe, name)]
    if options and not recipe.init:
        raise RecipeError(f"{' and '.join(options)} are options of init, and there is no init")
    if not recipe.data:
        raise RecipeError("a recipe needs data: one [[data]] or more")
    if recipe.batch < 2 and recipe.objective in ("contrastive", "sigmoid"):
        raise RecipeError(
            f"batch is {recipe.batch}: the objective {recipe.objective} compares the pairs of a "
            "batch, and needs 2 or more"
        )
    by_class = recipe.objective == "classification"
    if recipe.mix.enabled and recipe.objective not in ("classification", "contrastive"):
        raise RecipeError(f"[mix] is of no use to the objective {recipe.objective}")
    if recipe.label_smoothing and not by_class and recipe.objective != "blip":
        raise RecipeError(
            f"label_smoothing needs classes or tokens to predict; the objective {recipe.objective} "
            "has none"
        )
    if recipe.teacher and (recipe.teacher.kind in ("hard", "soft")) != by_class:
        kinds = "hard or soft" if by_class else "features or logits"
        raise RecipeError(f"with the objective {recipe.objective} a teacher's kind is {kinds}")
    if recipe.teacher and recipe.objective in ("masked", "blip", "dense"):
        raise RecipeError(f"the objective {recipe.objective} has no teacher")
    if recipe.objective == "blip":
        _check_blip(recipe)
    if recipe.objective == "dense":
        _check_dense(recipe)
    if recipe.lora and recipe.trainable:
        raise RecipeError("lora and trainable exclude each other; lora.within says where")


def _check_dense(recipe: Recipe) -> None:
    """`_check_consistent` for the objective dense."""
    if all(source.kind != "scenes" for source in recipe.data):
        raise RecipeError(
            'the objective dense needs masks: one source or more of kind = "scenes", which has them'
        )
    if recipe.lora or any(part.split(".")[0] != "dense_head" for part in recipe.trainable):
        raise RecipeError("the objective dense trains dense_head alone: leave out lora, trainable")


def check_batch(recipe: Recipe, processes: int) -> None:
    """Raise RecipeError for a batch that these processes cannot share evenly, and for one in which
    a BLIP's matching has no negatives. Negatives are the other samples in memory, or wrong
    captions."""
    if recipe.batch % processes:
        raise RecipeError(f"batch {recipe.batch} does not divide among {processes} processes")
    rows = recipe.batch // processes
    micro_batch = recipe.micro_batch or rows
    fewest = rows % micro_batch or micro_batch
    matches = recipe.objective == "blip" and recipe.blip.match > 0
    if matches and fewest < 2 and not any(source.wrong_captions for source in recipe.data):
        raise RecipeError(
            f"batch is {recipe.batch}, micro_batch {recipe.micro_batch}, processes {processes}: "
            "some image is alone in memory, and blip.match has no other text to compare it with; "
            "2 or more are needed"
        )


def _check_blip(recipe: Recipe) -> None:
    """`_check_consistent` for the objective blip."""
    blip = recipe.blip
    if max(blip.contrast, blip.match, blip.caption, blip.answer) <= 0:
        raise RecipeError("[blip] learns nothing: all its weights are 0")
    if blip.queue and not blip.momentum:
        raise RecipeError("blip.queue keeps features of momentum encoders: set blip.momentum")
    if blip.momentum and not (blip.contrast and recipe.ema):
        raise RecipeError("blip.momentum needs blip.contrast, and ema, best 0.995")
    if blip.momentum and recipe.engine.parallel == "fsdp":
        raise RecipeError('blip.momentum needs engine.parallel = "ddp"')
    if recipe.batch < 2 and blip.contrast and not blip.queue:
        raise RecipeError(
            f"batch is {recipe.batch}: blip.contrast compares the pairs of a batch and needs 2 or "
            "more, or a blip.queue of earlier ones"
        )
    if recipe.micro_batch and blip.contrast and not blip.momentum:
        raise RecipeError(
            "with micro_batch, blip.contrast needs blip.momentum, whose features are those of the "
            "whole batch"
        )


def _apply_change(values: Any, change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise RecipeError(f"{change!r} is not key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
    try:
        for part in parents:
            if isinstance(values, dict) and part not in values and isinstance(part, str):
                values[part] = {}  # a table that the file leaves out; its name is checked later
            values = values[part]
        values[last] = value
    except (KeyError, IndexError, TypeError) as error:
        raise RecipeError(f"{change!r}: the recipe has no {key!r}") from error
