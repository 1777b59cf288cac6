"""info, models: a model in detail, and the list of public models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.info_bench import bench as measured
from patchword.cli.inputs import load, named_once
from patchword.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    ModelTooOption,
)
from patchword.cli.output import emit, notes, screen, wrong
from patchword.errors import PatchwordError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from torch import nn

    from patchword.api import Model
    from patchword.config import ModelConfig
    from patchword.variants.catalogue import Checkpoint, Group

GRADIENTS = ("torch", "compile")  # engines that give more than vectors


def info(
    source: ModelArgument = None,
    model: ModelTooOption = None,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            help="Measure each engine here instead, in about two minutes: images/s, and how far "
            "its vectors are from float32.",
        ),
    ] = False,
    photos: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="For --bench: photos to compare on; by default the samples."
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Show a model's architecture, cost and preprocessing, and where each value was read.

    GFLOPs are billions of floating-point operations for one image, or one text as long as the
    context: 2 for each multiply-add of convolutions, linear layers and attention; what is smaller
    (norms, activations, softmax) is not counted.
    """
    if photos and not bench:
        wrong("--photos is for --bench")
    bundle = load(named_once(source, model), device, dtype)
    if bench:
        if bundle.engine.name != "torch" or dtype != "float32":
            wrong("--bench runs every engine of the model itself: leave out --engine and --dtype")
        measured(bundle, photos, as_json)
        return
    if as_json:
        from patchword.config import to_dict
        from patchword.show.config_summary import family

        emit(
            {
                "name": bundle.name,
                "family": family(bundle.config),
                "fingerprint": bundle.fingerprint,
                "parameters": parameters(structure(bundle)),
                "gflops": gflops(bundle.config),
                "tokenizer": bundle.tokenizer and Path(bundle.tokenizer.name).name,
                "device": str(bundle.device),
                **to_dict(bundle.config),
            }
        )
        return
    from rich.table import Table

    answer = Table(box=None, pad_edge=False, show_header=False)
    answer.add_column(style="bold", no_wrap=True)
    answer.add_column(overflow="fold")
    for name, words in described(bundle):
        answer.add_row(name, words)
    screen().print(answer)


def models(
    words: Annotated[
        str,
        typer.Argument(metavar="[WORDS]", help="Part of a name or family: siglip, swin, laion."),
    ] = "",
    configs: Annotated[
        bool,
        typer.Option("--configs", help="The named configurations, to train from random weights."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List public checkpoints that load by their hub id, by family.

    Beside each its size, licence and published accuracy. The models in the package are “demo” and
    “demo-blip”.
    """
    some = show_configurations(words, as_json) if configs else show_checkpoints(words, as_json)
    if not some:
        raise PatchwordError(
            f"no public checkpoint has {words!r} in its name or family; leave it out for all. The "
            "embedded models are demo and demo-blip: patchword info demo"
        )
    if not as_json:
        notes().print("The embedded models are “demo” and “demo-blip”: patchword info demo")


def show_checkpoints(words: str, as_json: bool) -> bool:
    """The public checkpoints with `words` in name or family, and whether there is one."""
    from patchword.variants import catalogue

    groups = list(catalogue.search(words))
    for group, rows in groups:
        if not as_json:
            show_group(group, rows)
            continue
        shared = {"licence": group.licence, "measure": group.measure, "source": group.source}
        for row in rows:
            emit({"family": group.title, **vars(row), **shared})
    return bool(groups)


def show_group(group: Group, rows: list[Checkpoint]) -> None:
    """Checkpoints that came together, as a table under their title."""
    out = screen()
    measured = f"; top-1 on ImageNet-1k, {group.measure}, in percent" if group.source else ""
    out.print(f"{group.title} (licence: {group.licence})", style="bold")
    out.print(f"size in parameters{measured}", style="dim")
    if group.source:
        out.print(f"from {group.source}", style="dim")
    numbers = ["size", "px", "top-1"]
    answer = table("checkpoint", *numbers, right=numbers)
    for column in answer.columns[1:]:
        column.no_wrap = True
    for row in rows:
        name = f"{row.name}\n  {row.note}" if row.note else row.name
        accuracy = "-" if row.top1 is None else f"{row.top1:.1f}"
        answer.add_row(name, short_count(row.parameters * 1e6), str(row.pixels), accuracy)
    out.print(answer)
    out.print()


def show_configurations(words: str, as_json: bool) -> bool:
    """The named configurations with `words` in name or family, and whether there is one."""
    from patchword.show.config_summary import family
    from patchword.variants import VARIANTS

    wanted, out, origin = words.lower(), screen(), ""
    chosen = {
        name: variant
        for name, variant in VARIANTS.items()
        if wanted in f"{name} {family(variant.config)}".lower()
    }
    longest = max(map(len, chosen), default=0)
    for name, variant in chosen.items():
        config, vision = variant.config, variant.config.vision
        size = "x".join(map(str, vision.image_size)) if vision else "texts"
        count = total_parameters(config)
        if as_json:
            keys = {"name": name, "family": family(config), "image_size": size}
            emit({**keys, "parameters": count, "source": variant.source})
            continue
        if (title := f"{family(config)} ({variant.source})") != origin:
            out.print(title, style="bold")
            origin = title
        out.print(f"  {name:<{longest}} {size:>7} {short_count(count):>7}")
    return bool(chosen)


def described(model: Model) -> Iterator[tuple[str, str]]:
    """A model as rows of a name and words."""
    from patchword.show import config_summary

    config, counts = model.config, parameters(structure(model))
    yield "model", model.name
    yield "family", config_summary.family(config)
    yield "parameters", ", ".join(f"{name} {short_count(count)}" for name, count in counts.items())
    yield "GFLOPs", cost_words(config)
    if config.vision is not None:
        yield "image tower", config_summary.vision_summary(config.vision, config.preprocess.size)
    if config.text:
        yield "text tower", config_summary.text_summary(config.text)
    if config.decoder:
        yield "decoder", config_summary.text_summary(config.decoder, pooled=False)
    if config.masked:
        yield "decoder", config_summary.masked_summary(config.masked)
    if text := config.text_or_decoder:
        yield "tokens", config_summary.token_summary(text)
    if config.text and config.embed_dim and config.vision is not None:
        yield "joint space", config_summary.joint_summary(config, model.scale, model.bias)
    if config.dense_head:
        yield "dense head", config_summary.dense_head_summary(config.dense_head)
    if config.matching and config.text:
        yield "matching", config_summary.matching_summary(config.text)
    if config.classes:
        named = f": {', '.join(config.labels[:3])}, ..." if config.labels else ", unnamed"
        yield "classes", f"{config.classes}{named}"
    if config.vision is not None:
        yield "preprocessing", config_summary.preprocess_summary(config.preprocess)
        yield "normalised by", config_summary.normalisation_summary(config.preprocess)
        if model.engine.name in GRADIENTS:
            yield from heatmaps(model)
            yield "inspect", inspecting(model)
    yield "fingerprint", model.fingerprint
    kind = str(model.engine.dtype).removeprefix("torch.")
    yield "device", f"{model.device}, engine {model.engine.name}, {kind}"
    for part, agreement in getattr(model.engine, "agreement", {}).items():
        yield "", f"{part} vectors, {agreement}"
    for number, words in enumerate(origins(model)):
        yield "" if number else "read from", words
    if not config.assumed:
        yield "assumed", "nothing: every value is in the checkpoint's own files"
    for number, (name, why) in enumerate(config.assumed.items()):
        yield "" if number else "assumed", f"{name}: {why}"


def heatmaps(model: Model) -> Iterator[tuple[str, str]]:
    """Which heatmap method is taken by default and why; what is known to go wrong."""
    from patchword.config import ViTConfig
    from patchword.models import outline
    from patchword.where.auto import usual, warning
    from patchword.where.cost import least

    words = bool(model.config.text and (model.config.embed_dim or model.config.matching))
    method, why = usual(model, like=not words)
    yield "heatmap", f"{method}{'' if words else ' with --like'}: {why}"
    if found := warning(model.config):
        yield "", found
    dear = ["gem"] if words and isinstance(model.config.vision, ViTConfig) else []
    dear += ["head"] if model.config.dense_head else []
    if dear:
        network = outline(model.config).eval().requires_grad_(False)
        costs = [f"{name} {least(network, model.config, name):.3g}" for name in dear]
        yield "", f"encodings of the same pixels that a map costs at least: {', '.join(costs)}"


def inspecting(model: Model) -> str:
    """Which layers `inspect` compares by default and why."""
    from patchword.inspect.features import usual_layers

    layers, why = usual_layers(model)
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers)) or -1}, {why}"


def origins(model: Model) -> Iterator[str]:
    """Which file each group of values was read from."""
    from patchword.checkpoints.json_files import PROCESSOR_FILES, TOKENIZER_FILES

    weights, *configs = model.config.read_from or ("memory",)
    processors = [name for name in configs if name in PROCESSOR_FILES]
    tokens = [Path(model.tokenizer.name).name] if model.tokenizer else []
    tokens += [name for name in configs if name in TOKENIZER_FILES and name not in tokens]
    others = [name for name in configs if name not in (*processors, *tokens)]
    yield f"format: {model.config.source}"
    yield f"weights and their sizes: {weights}"
    yield f"towers: {', '.join(others) or f'the sizes in {weights}'}"
    if model.config.vision is not None:
        # transformers' config.json says nothing of it; other libraries' has both.
        both = [] if model.config.source == "huggingface" else others
        yield f"preprocessing: {', '.join(processors or both) or 'nowhere: see assumed'}"
    if model.config.text_or_decoder:
        yield f"tokens: {', '.join(tokens) if model.tokenizer else 'none came with it'}"


def cost_words(config: ModelConfig) -> str:
    """The cost of an image and of a text, in one sentence."""
    size = config.preprocess.size
    what = {
        "image": f"an image of {size[0]}x{size[1]}",
        "text": f"a text of {config.text.context if config.text else 0} tokens",
    }
    return ", ".join(f"{what[name]} {count:.3g}" for name, count in gflops(config).items())


def gflops(config: ModelConfig) -> dict[str, float]:
    """Billions of operations of each tower, one input each; nothing is computed, so a large model
    takes no longer than a small one. A text tower that always attends to an image is left out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from patchword.models import outline

    network: Any = outline(config).eval().requires_grad_(False)
    inputs = {}
    if config.vision is not None:
        inputs["image"] = torch.empty(1, 3, *config.preprocess.size, device="meta")
    if config.text is not None and (config.embed_dim or not config.text.cross_width):
        inputs["text"] = torch.zeros(1, config.text.context, dtype=torch.long, device="meta")
    out = {}
    for name, batch in inputs.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.encode_image(batch) if name == "image" else network.encode_text(batch)
        out[name] = counter.get_total_flops() / 1e9
    return out


def structure(model: Model) -> nn.Module:
    """A model's network, or one like it without weights where the engine has none."""
    from patchword.models import outline

    return model.own_network if model.engine.name in GRADIENTS else outline(model.config)


def parameters(network: nn.Module) -> dict[str, int]:
    """How many numbers a network has: in all, and in each part that has some."""
    counts = {"all": sum(p.numel() for p in network.parameters())}
    for name, part in network.named_children():
        count = sum(p.numel() for p in part.parameters())
        if count:
            counts[name] = count
    return counts


def total_parameters(config: ModelConfig) -> int:
    """How many numbers a network of this config has; none is made."""
    from patchword.models import outline

    return sum(p.numel() for p in outline(config).parameters())


def short_count(count: float) -> str:
    """A number in three digits: 151 M."""
    size, unit = (1e9, "G") if count >= 1e9 else (1e6, "M")
    return f"{count / size:.3g} {unit}"


COMMANDS = (info, models)
