"""info, models: what there is, and what a model is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.common import (
    EMBEDDED,
    DeviceOption,
    JsonOption,
    emit,
    load,
    notes,
    screen,
    wrong,
)

if TYPE_CHECKING:
    from torch import nn

    from patchword.api import Model
    from patchword.config import ModelConfig, PreprocessConfig, TextConfig, VisionConfig


def info(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Hub id, folder, file, or “demo”, the default."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The same, as in the other commands.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say what a model is: its towers, its preprocessing, and which values its files leave open."""
    if source and model:
        wrong("give the model once")
    bundle = load(source or model or EMBEDDED, device)
    if as_json:
        from patchword.config import to_dict

        emit(
            {
                "name": bundle.name,
                "family": family(bundle.config),
                "fingerprint": bundle.fingerprint,
                "parameters": parameters(bundle.network),
                "device": str(bundle.device),
                **to_dict(bundle.config),
            }
        )
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in described(bundle):
        table.add_row(name, words)
    screen().print(table)


def models(as_json: JsonOption = False) -> None:
    """List the named configurations.

    A checkpoint of any of them loads by its hub id, folder or file; the names themselves are for
    training from nothing. The one model that travels in the package is “demo”.
    """
    from patchword.variants import VARIANTS

    origin, out = "", screen()
    for name, variant in VARIANTS.items():
        config, size = variant.config, "x".join(map(str, variant.config.vision.image_size))
        count = total_parameters(config)
        if as_json:
            keys = {"name": name, "family": family(config), "image_size": size}
            emit({**keys, "parameters": count, "source": variant.source})
            continue
        if (title := f"{family(config)} ({variant.source})") != origin:
            out.print(title, style="bold")
            origin = title
        out.print(f"  {name:<22}{size:>8}{short_count(count):>8} parameters")
    if not as_json:
        notes().print("The embedded model is “demo”: patchword info demo")


def family(config: ModelConfig) -> str:
    """What kind of model a config is, from its fields."""
    tower = {"vit": "ViT", "resnet": "ResNet"}[config.vision.kind]
    if config.vision.kind == "vit" and config.vision.stages:
        tower = "ViT with convolutional stem"
    if config.text is not None:
        return f"CLIP, {tower}"
    return f"{tower} classifier" if config.classes else tower


def described(model: Model) -> Iterator[tuple[str, str]]:
    """A model as rows of a name and words."""
    config, counts = model.config, parameters(model.network)
    yield "model", model.name
    yield "family", family(config)
    yield "read from", config.source
    yield "parameters", ", ".join(f"{name} {short_count(count)}" for name, count in counts.items())
    yield "image tower", vision_words(config.vision)
    if config.text:
        yield "text tower", text_words(config.text)
        yield (
            "joint space",
            f"{config.embed_dim} numbers; cosines are multiplied by {model.scale:.1f}",
        )
    if config.classes:
        named = f": {', '.join(config.labels[:3])}, ..." if config.labels else ", unnamed"
        yield "classes", f"{config.classes}{named}"
    yield "preprocessing", preprocess_words(config.preprocess)
    yield (
        "normalised by",
        f"mean {_triple(config.preprocess.mean)}, std {_triple(config.preprocess.std)}",
    )
    yield "fingerprint", model.fingerprint
    yield "device", str(model.device)
    if not config.assumed:
        yield "assumed", "nothing: every value is stated by the checkpoint's own files"
    for number, (name, why) in enumerate(config.assumed.items()):
        yield "" if number else "assumed", f"{name}: {why}"


def vision_words(vision: VisionConfig) -> str:
    """The image tower in one sentence."""
    height, width = vision.image_size
    rows, columns = vision.grid
    grid = f"{height}x{width} pixels in {rows}x{columns} patches of {vision.patch_size}"
    stages = f"stages {'-'.join(map(str, vision.stages))}" if vision.stages else ""
    blocks = f"{vision.depth} blocks" if vision.depth else ""
    body = ", ".join(filter(None, [stages, blocks]))
    return (
        f"{grid}; {body}, width {vision.width}, {vision.heads} heads, {vision.activation}, "
        f"pooled by {vision.pool}, eps {vision.eps:g}"
    )


def text_words(text: TextConfig) -> str:
    """The text tower in one sentence."""
    return (
        f"{text.vocab_size} tokens, context {text.context}; {text.depth} blocks, "
        f"width {text.width}, {text.heads} heads, {text.activation}, eps {text.eps:g}"
    )


def preprocess_words(preprocess: PreprocessConfig) -> str:
    """Resizing and cropping in one sentence."""
    size = "x".join(map(str, preprocess.size))
    if preprocess.resize == "squash":
        return f"squashed to {size}, {preprocess.interpolation}"
    return (
        f"shorter side to {preprocess.resize_to}, {preprocess.interpolation}; "
        f"centre {size} (margins: {preprocess.crop_rounding})"
    )


def parameters(network: nn.Module) -> dict[str, int]:
    """How many numbers a network has: in all, and in each part that has some."""
    counts = {"all": sum(p.numel() for p in network.parameters())}
    for name, part in network.named_children():
        count = sum(p.numel() for p in part.parameters())
        if count and name in ("image", "text"):
            counts[name] = count
    return counts


def total_parameters(config: ModelConfig) -> int:
    """How many numbers a network of this config has; none is made."""
    import torch

    from patchword.models import build

    with torch.device("meta"):
        return sum(p.numel() for p in build(config).parameters())


def short_count(count: int) -> str:
    """A number in three digits: 151 M."""
    size, unit = (1e9, "G") if count >= 1e9 else (1e6, "M")
    return f"{count / size:.3g} {unit}"


def _triple(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


COMMANDS = (info, models)
