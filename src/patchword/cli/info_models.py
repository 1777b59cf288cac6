"""info, models: a model in detail, and the list of public models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.info_bench import bench as print_bench
from patchword.cli.inputs import load, model_name
from patchword.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    ModelTooOption,
)
from patchword.cli.output import emit, notes, refuse, screen
from patchword.errors import PatchwordError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from torch import nn

    from patchword.api import Model
    from patchword.config import ModelConfig
    from patchword.variants.catalogue import Checkpoint, Group

WITH_NETWORK = ("torch", "compile")  # engines that hold a network; others give vectors alone


def info(
    source: ModelArgument = None,
    model: ModelTooOption = None,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            help="Measure each engine on this machine instead, in about two minutes: images/s, "
            "and how far its vectors are from float32.",
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
        refuse("--photos is for --bench")
    bundle = load(model_name(source, model), device, dtype)
    if bench:
        if bundle.engine.name != "torch" or dtype != "float32":
            refuse("--bench runs every engine of the model itself: leave out --engine and --dtype")
        print_bench(bundle, photos, as_json)
        return
    if as_json:
        from patchword.config import to_dict
        from patchword.show.config_summary import family

        emit(
            {
                "name": bundle.name,
                "family": family(bundle.config),
                "fingerprint": bundle.fingerprint,
                "parameters": parameters(network_of(bundle)),
                "gflops": gflops(bundle.config),
                "tokenizer": bundle.tokenizer and Path(bundle.tokenizer.name).name,
                "device": str(bundle.device),
                **to_dict(bundle.config),
            }
        )
        return
    from rich.table import Table

    out = Table(box=None, pad_edge=False, show_header=False)
    out.add_column(style="bold", no_wrap=True)
    out.add_column(overflow="fold")
    for name, value in summary_rows(bundle):
        out.add_row(name, value)
    screen().print(out)


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

    Each is listed with its size, licence and published accuracy. The models in the package are
    "demo" and "demo-blip".
    """
    show = show_configurations if configs else show_checkpoints
    if not show(words, as_json):
        raise PatchwordError(
            f"no public checkpoint has {words!r} in its name or family; leave it out for all. The "
            "embedded models are demo and demo-blip: patchword info demo"
        )
    if not as_json:
        notes().print('The embedded models are "demo" and "demo-blip": patchword info demo')


def show_checkpoints(words: str, as_json: bool) -> bool:
    """Print the public checkpoints with `words` in their name or family. Returns whether there is
    one."""
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
    """Print the checkpoints of a family as a table under its title."""
    console = screen()
    console.print(f"{group.title} (licence: {group.licence})", style="bold")
    if group.source:
        measure = f"top-1 on ImageNet-1k, {group.measure}, in percent"
        console.print(f"size in parameters; {measure}", style="dim")
        console.print(f"from {group.source}", style="dim")
    else:
        console.print("size in parameters", style="dim")
    numbers = ["size", "px", "top-1"]
    out = table("checkpoint", *numbers, right=numbers)
    for column in out.columns[1:]:
        column.no_wrap = True
    for row in rows:
        name = f"{row.name}\n  {row.note}" if row.note else row.name
        accuracy = "-" if row.top1 is None else f"{row.top1:.1f}"
        out.add_row(name, short_count(row.parameters * 1e6), str(row.pixels), accuracy)
    console.print(out)
    console.print()


def show_configurations(words: str, as_json: bool) -> bool:
    """Print the named configurations with `words` in their name or family. Returns whether there is
    one."""
    from patchword.models import outline
    from patchword.show.config_summary import family
    from patchword.variants import VARIANTS

    chosen = {
        name: variant
        for name, variant in VARIANTS.items()
        if words.lower() in f"{name} {family(variant.config)}".lower()
    }
    console, last_title = screen(), ""
    longest = max(map(len, chosen), default=0)
    for name, variant in chosen.items():
        config, vision = variant.config, variant.config.vision
        size = "x".join(map(str, vision.image_size)) if vision else "texts"
        count = parameters(outline(config))["all"]
        if as_json:
            keys = {"name": name, "family": family(config), "image_size": size}
            emit({**keys, "parameters": count, "source": variant.source})
            continue
        title = f"{family(config)} ({variant.source})"
        if title != last_title:
            console.print(title, style="bold")
            last_title = title
        console.print(f"  {name:<{longest}} {size:>7} {short_count(count):>7}")
    return bool(chosen)


def summary_rows(model: Model) -> Iterator[tuple[str, str]]:
    """A model as rows of a name and a value; a row without a name goes on with the one above."""
    from patchword.show import config_summary

    config, counts = model.config, parameters(network_of(model))
    yield "model", model.name
    yield "family", config_summary.family(config)
    yield "parameters", ", ".join(f"{name} {short_count(count)}" for name, count in counts.items())
    yield "GFLOPs", cost_summary(config)
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
        labels = f": {', '.join(config.labels[:3])}, ..." if config.labels else ", unnamed"
        yield "classes", f"{config.classes}{labels}"
    if config.vision is not None:
        yield "preprocessing", config_summary.preprocess_summary(config.preprocess)
        yield "normalised by", config_summary.normalisation_summary(config.preprocess)
        if model.engine.name in WITH_NETWORK:
            yield from heatmap_rows(model)
            yield "inspect", inspect_summary(model)
    yield "fingerprint", model.fingerprint
    dtype = str(model.engine.dtype).removeprefix("torch.")
    yield "device", f"{model.device}, engine {model.engine.name}, {dtype}"
    for part, agreement in getattr(model.engine, "agreement", {}).items():
        yield "", f"{part} vectors, {agreement}"
    for number, origin in enumerate(origin_rows(model)):
        yield "" if number else "read from", origin
    if not config.assumed:
        yield "assumed", "nothing: every value is in the checkpoint's own files"
    for number, (name, why) in enumerate(config.assumed.items()):
        yield "" if number else "assumed", f"{name}: {why}"


def heatmap_rows(model: Model) -> Iterator[tuple[str, str]]:
    """The default heatmap method and the reason for it, known problems, and costs."""
    from patchword.config import ViTConfig
    from patchword.models import outline
    from patchword.where.auto import usual, warning
    from patchword.where.cost import least

    config = model.config
    reads_texts = bool(config.text and (config.embed_dim or config.matching))
    method, why = usual(model, like=not reads_texts)
    yield "heatmap", f"{method}{'' if reads_texts else ' with --like'}: {why}"
    if problem := warning(config):
        yield "", problem
    expensive = []
    if reads_texts and isinstance(config.vision, ViTConfig):
        expensive.append("gem")
    if config.dense_head:
        expensive.append("head")
    if expensive:
        network = outline(config).eval().requires_grad_(False)
        costs = [f"{name} {least(network, config, name):.3g}" for name in expensive]
        yield "", f"encodings of the same pixels that a map costs at least: {', '.join(costs)}"


def inspect_summary(model: Model) -> str:
    """The default layers of `inspect` and the reason for them."""
    from patchword.inspect.features import default_layers

    layers, why = default_layers(model)
    noun = "layers" if len(layers) > 1 else "layer"
    return f"{noun} {', '.join(map(str, layers)) or -1}, {why}"


def origin_rows(model: Model) -> Iterator[str]:
    """The file that each group of values was read from."""
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
        # The config.json of other libraries holds the preprocessing too; that of transformers not.
        if not processors and model.config.source != "huggingface":
            processors = others
        yield f"preprocessing: {', '.join(processors) or 'nowhere: see assumed'}"
    if model.config.text_or_decoder:
        yield f"tokens: {', '.join(tokens) if model.tokenizer else 'none came with it'}"


def cost_summary(config: ModelConfig) -> str:
    """The GFLOPs of an image and of a text, in words."""
    height, width = config.preprocess.size
    inputs = {
        "image": f"an image of {height}x{width}",
        "text": f"a text of {config.text.context if config.text else 0} tokens",
    }
    return ", ".join(f"{inputs[name]} {count:.3g}" for name, count in gflops(config).items())


def gflops(config: ModelConfig) -> dict[str, float]:
    """Billions of operations of each tower for one input. A text tower that needs an image is left
    out. The network has no weights ("meta" device), so that nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from patchword.models import outline

    network: Any = outline(config).eval().requires_grad_(False)
    inputs = {}
    if config.vision is not None:
        inputs["image"] = torch.empty(1, 3, *config.preprocess.size, device="meta")
    if config.text is not None and (config.embed_dim or not config.text.cross_width):
        inputs["text"] = torch.zeros(1, config.text.context, dtype=torch.long, device="meta")
    counts = {}
    for name, batch in inputs.items():
        encode = network.encode_image if name == "image" else network.encode_text
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encode(batch)
        counts[name] = counter.get_total_flops() / 1e9
    return counts


def network_of(model: Model) -> nn.Module:
    """A model's network; where the engine has none, one of the same shape without weights."""
    from patchword.models import outline

    return model.own_network if model.engine.name in WITH_NETWORK else outline(model.config)


def parameters(network: nn.Module) -> dict[str, int]:
    """The number of parameters of a network: of all, and of each part that has some."""
    counts = {"all": sum(p.numel() for p in network.parameters())}
    for name, part in network.named_children():
        count = sum(p.numel() for p in part.parameters())
        if count:
            counts[name] = count
    return counts


def short_count(count: float) -> str:
    """A number with three digits: 151 M."""
    size, unit = (1e9, "G") if count >= 1e9 else (1e6, "M")
    return f"{count / size:.3g} {unit}"


COMMANDS = (info, models)
