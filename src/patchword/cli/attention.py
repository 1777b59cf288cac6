"""attention: which tokens attend to which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import expand, load
from patchword.cli.member_images import Source
from patchword.cli.options import (
    EMBEDDED,
    SOURCES,
    ColoursOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    SameScaleOption,
    SquashOption,
    StretchOption,
    TextsOption,
)
from patchword.cli.output import (
    emit,
    finish,
    one_by_one,
    picture_title,
    prepare_output,
    print_saved,
    refuse,
    screen,
    successes,
)
from patchword.cli.pictures import SaveOption, common_scale, picture_paths
from patchword.cli.result_display import title_with_caveat
from patchword.cli.texts import read_list
from patchword.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

    from patchword.tasks.attention import AttentionMap
    from patchword.tasks.caption_attention import CaptionAttention
    from patchword.tasks.token_attention import TokenAttention

    Maps = AttentionMap | CaptionAttention

Lines = Iterator[tuple[dict[str, object], str]]  # for each map or matrix a JSON record and a line


def attention(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGES]...", help=SOURCES)] = None,
    text: TextsOption = None,
    layer: Annotated[
        int | None,
        typer.Option(help="The block: 0 is the first, -1 the last, which is the default."),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(help="One head; by default the mean of all heads, and each of them."),
    ] = None,
    all_layers: Annotated[
        bool,
        typer.Option(
            "--all-layers",
            help="Show all layers in one picture: the mean of their heads, or --head.",
        ),
    ] = False,
    rollout: Annotated[
        bool,
        typer.Option(
            "--rollout",
            help="Attention rollout: the product over all layers (Abnar & Zuidema 2020).",
        ),
    ] = False,
    matrix: Annotated[
        bool,
        typer.Option(
            "--matrix",
            help="Show which patch attends to which, as a matrix with the patches on both axes; "
            "with --head, beside the mean.",
        ),
    ] = False,
    caption: Annotated[
        bool,
        typer.Option(
            "--caption",
            help="For a captioner: which patches it attends to for each word of its caption.",
        ),
    ] = False,
    prompt: Annotated[
        str, typer.Option(help="With --caption: its first words, which the model continues.")
    ] = "",
    colours: ColoursOption = None,
    same_scale: SameScaleOption = False,
    save: SaveOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Show what a model attends to: patches of an image, words of a text.

    For images: how much the pooled token attends to each patch. --matrix: which patch attends to
    which. --caption: which patches a captioner attends to for each word of its caption.

    With --text instead of images: which token of the text attends to which.
    """
    from patchword.show.colours import MAP, MATRIX, known

    texts = read_list(text)
    if bool(images) == bool(texts):
        refuse("give images, or texts by --text; --caption shows both together")
    _check_options(bool(texts), matrix, caption, prompt, rollout, same_scale)
    if texts and (stretch or squash or max_pixels is not None):
        refuse("--stretch, --squash and --max-pixels are for images; leave them out with --text")
    known(colours or MAP)
    sources: Sequence[Source] = texts or expand(images or ())
    text_names = [f"text-{i}" for i in range(1, len(texts) + 1)] if len(texts) > 1 else ["text"]
    targets = picture_paths(sources, save, "attention", text_names if texts else ())
    prepare_output(next(iter(targets.values())))  # without --save too
    bundle = load(model, device, dtype, stretch, max_pixels, squash)

    def matrix_of(source: Source) -> TokenAttention:
        if texts:
            return bundle.attention(
                text=str(source), layer=layer, head=head, rollout=rollout, all_layers=all_layers
            )
        return bundle.attention(source, layer, head, rollout, all_layers=all_layers).matrix

    def maps_of(source: Source) -> Maps:
        if caption:
            return bundle.caption_attention(source, prompt, layer, head, all_layers)
        return bundle.attention(source, layer, head, rollout, all_layers=all_layers)

    def title(name: Source) -> str:
        return picture_title(bundle, str(name)) if texts else title_with_caveat(bundle, name)

    failed: list[ImageError] = []
    total, several = len(sources), len(sources) > 1
    if texts or matrix:
        matrices = one_by_one(sources, matrix_of)
        for name, found in successes(matrices, total, "attention", failed, as_json):
            _print(_matrix_lines(found), "text" if texts else "image", name, several, as_json)
            _save(found.picture(title(name), colours or MATRIX), targets[name])
        finish(failed, total - len(failed))
        return
    later: list[tuple[Source, Maps]] = []  # for --same-scale, which needs the values of all
    results: Iterator[tuple[Source, Maps | ImageError]] = one_by_one(sources, maps_of)
    maps: Maps
    for name, maps in successes(results, total, "attention", failed, as_json):  # type: ignore[assignment]
        _print(_map_lines(maps), "image", name, several, as_json)
        if same_scale:
            later.append((name, maps.small()))
        else:
            _save(maps.picture(True, title(name), colours or MAP), targets[name])
    scale = common_scale([maps.grid for _, maps in later])
    for name, maps in later:
        _save(maps.picture(True, title(name), colours or MAP, scale), targets[name])
    finish(failed, total - len(failed))


def _check_options(
    texts: bool, matrix: bool, caption: bool, prompt: str, rollout: bool, same_scale: bool
) -> None:
    """Refuse options that contradict each other."""
    if texts and caption:
        refuse("--caption shows a caption that the model writes; leave out --text")
    if caption and (matrix or rollout):
        refuse("--caption shows where words look; leave out --matrix and --rollout, or --caption")
    if prompt and not caption:
        refuse("--prompt needs --caption")
    if same_scale and (texts or matrix):
        refuse("--same-scale is for maps over photos, not for matrices")


def _print(lines: Lines, key: str, name: Source, several: bool, as_json: bool) -> None:
    """Print each map or matrix as a record or as a line. key: "image" or "text", of the record."""
    for record, line in lines:
        if as_json:
            emit({key: str(name), **record})
        else:
            screen().print(f"{name}, {line}" if several else line)


def _matrix_lines(found: TokenAttention) -> Lines:
    for title, weights in zip(found.titles, found.weights.tolist(), strict=True):
        rows = [
            {"token": token, "weights": row}
            for token, row in zip(found.tokens, weights, strict=True)
        ]
        token, share = found.most(title)
        line = f"{title}: all tokens together attend most to {token} ({share:.1%})"
        yield {"map": title, "rows": rows}, line


def _map_lines(maps: Maps) -> Lines:
    from patchword.tasks.caption_attention import CaptionAttention

    labels: list[tuple[str, dict[str, object]]]  # of each map: of its line, and of its record
    if isinstance(maps, CaptionAttention):
        text = maps.caption.text
        labels = [
            (f"{title}, {word}", {"caption": text, "map": title, "word": word})
            for title in maps.titles
            for word in maps.words
        ]
    else:
        labels = [(title, {"map": title}) for title in maps.titles]
    for (label, fields), (weight, x, y) in zip(labels, maps.peaks(), strict=True):
        line = f"{label}: most on x {x}, y {y} (weight {weight:.3f})"
        yield {**fields, "value": weight, "x": x, "y": y}, line


def _save(picture: Image.Image, target: Path) -> None:
    from patchword.show import plots

    plots.save(picture, target)
    print_saved(target)


COMMANDS = (attention,)
