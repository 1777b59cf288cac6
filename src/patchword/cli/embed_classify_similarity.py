"""classify, embed, similarity: zero-shot classification and embeddings."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from patchword.cli.inputs import embed_texts, expand, load
from patchword.cli.member_images import Source
from patchword.cli.options import (
    EMBEDDED,
    SOURCES,
    DeviceOption,
    DtypeOption,
    ImagesLabelsArgument,
    ImagesTextsArgument,
    JsonOption,
    LabelsOption,
    LongTextOption,
    MaxPixelsOption,
    ModelOption,
    PictureOption,
    SaveOption,
    SquashOption,
    StretchOption,
    TemplateOption,
    TextsOption,
    TwoViewsOption,
)
from patchword.cli.output import (
    SHOWN,
    check_save,
    emit,
    finish,
    heading_and_names,
    notes,
    prepare_output,
    progress,
    refuse,
    refuse_overwriting,
    screen,
    successes,
    warn,
)
from patchword.cli.result_display import match_matrices, rejection, save_matrices, save_scores
from patchword.cli.texts import images_then_texts, no_texts, read_list
from patchword.cli.tiles import (
    EachTileOption,
    TileSizeOption,
    TilesOption,
    box_field,
    collect,
    tile_options,
)
from patchword.cli.vectors_file import (
    check_lines,
    save_vectors,
    show_vectors,
    vector_record,
    vector_size,
)
from patchword.errors import ImageError, counted
from patchword.show.percent import share
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

    from patchword.api import Model
    from patchword.cli.result_display import TitledMatrix
    from patchword.cli.vectors_file import Row
    from patchword.tasks.classify import Score
    from patchword.tasks.tiled import Tiled

BAR_CELLS = 24  # columns of a bar in the terminal
NAME_CELLS, NUMBER_CELLS = 22, 9  # columns of a matrix: at least, for names; for each number

OnError = Literal["nan", "error"]


def classify(
    images: ImagesLabelsArgument,
    labels: LabelsOption = None,
    template: TemplateOption = None,
    multi_label: Annotated[
        bool,
        typer.Option(
            "--multi-label",
            help="Score each label independently: probabilities need not sum to one.",
        ),
    ] = False,
    reject: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help='Answer "none of these" where no label has this probability, and, for any P, '
            "where an image looks unlike what the model knows; for clothing photos the "
            "latter is wrong in 12.4% with demo and 11.2% with demo-blip. With "
            "--multi-label, and with a SigLIP, each label is judged by itself, so that "
            "several can pass.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of labels to show for each image.")] = 5,
    save: SaveOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    tiles: TilesOption = False,
    tile_size: TileSizeOption = None,
    each_tile: EachTileOption = False,
    two_views: TwoViewsOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Say which words fit each image best.

    Without labels, a classifier predicts its own classes.
    """
    files, words = images_then_texts(images, labels, "--labels", split=True)
    if labels and not words:
        refuse("--labels names no label")
    check_save(save, pages=True, images=files)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    from patchword.tasks.classify import classify_each
    from patchword.tasks.tiled import classify_tiled

    templates = read_list(template) or None
    tiling = tile_options(tiles, tile_size, each_tile)
    if two_views and (tiling.wanted or squash):
        refuse("--two-views shows the whole beside the crop; leave --squash and --tiles out")
    if tiling.wanted and not words:
        refuse("--tiles needs labels: a classifier's own classes are not joined over tiles")
    if words and len(words) == 1 and not multi_label and reject is None:
        warn(
            f"one label is always 100%, for probabilities of labels sum to one: give others beside "
            f"{words[0]!r}, or --multi-label, which judges it by itself"
        )

    def print_record(image: dict[str, Any], scores: list[Score]) -> None:
        if scores[0].outside:
            image = image | {"outside": True}
        emit(image | {"scores": [_score_record(score) for score in scores[:top]]})

    scored: Iterable[tuple[object, list[Score] | Tiled[list[Score]] | ImageError]]
    if tiling.wanted:
        scored = classify_tiled(bundle, files, words, templates, multi_label, reject, tiling.size)
    else:
        scored = classify_each(
            bundle, files, words or None, templates, multi_label, reject, two_views
        )
    printer = print_record if as_json else None
    results = collect(scored, len(files), "classify", tiling.each, printer)
    if results.photos and not as_json:
        rows = [(name, scores[:top]) for name, scores in results.rows]
        screen().print(scores_table(rows, reject, bundle.name))
    if results.photos and save:
        best = [(name, scores[:top]) for name, scores in results.photos[:SHOWN]]
        save_scores(best, save, bundle, reject)
    finish(results.failed, len(results.photos))


def embed(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGES]...", help=SOURCES),
    ] = None,
    text: TextsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write .npz (vectors and names), .npy (vectors) or .jsonl.",
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(help="For an image that fails: write a row of NaN, or stop with an error."),
    ] = "nan",
    long_text: LongTextOption = "truncate",
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Turn images, or texts, into unit vectors.

    Each image or text gives one row, in the order given. If an image fails, its row is NaN (null
    in JSON) and the exit code is 1; with --on-error error, nothing is written.

    Without --out a terminal shows a summary; a pipe, or with --json a terminal too, gets one line
    of JSON for each. An .npz holds "vectors" (N, D), "names", "model" and "fingerprint". The names
    of the rows of x.npy are in x.paths.txt (x.texts.txt for texts), one per line.
    """
    texts = read_list(text)
    if bool(images) == bool(texts):
        refuse("give either images or --text")
    if out and out.suffix not in (".npz", ".npy", ".jsonl"):
        refuse(f"--out {out}: the name must end in .npz, .npy or .jsonl")
    files = expand(images) if images else []
    refuse_overwriting([out], files)
    prepare_output(out)
    kind, names = ("image", files) if files else ("text", texts)  # fields of records
    if out and out.suffix == ".npy":
        check_lines(names)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    failed: list[ImageError] = []
    rows: Iterator[Row]
    if files:
        rows = _image_rows(bundle.embed_each(files), len(files), failed, on_error == "error")
    else:
        rows = zip(texts, embed_texts(bundle, texts, long_text), strict=True)
    width, rows = vector_size(rows)
    if out is None and (as_json or not sys.stdout.isatty()):
        for name, row in rows:
            emit(vector_record(kind, name, row))
    elif out is None and width:
        show_vectors(kind, rows, bundle)
    elif out and width:
        save_vectors(out, kind, rows, (len(names), width), bundle)
        if as_json:
            emit({"file": str(out), "vectors": len(names), "dim": width})
        notes().print(f"wrote {counted(len(names), 'vector')} of {width} numbers to {out}")
    finish(failed, len(names) - len(failed))


def similarity(
    images: ImagesTextsArgument,
    text: TextsOption = None,
    long_text: LongTextOption = "truncate",
    save: PictureOption = None,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A second model, whose matrix --save draws beside that of the first.",
        ),
    ] = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Print the cosine of every image with every text.

    --save draws them. For a BLIP with a matching head it also draws the probability that image and
    text belong together.
    """
    if beside and not save:
        refuse("--beside needs --save, which draws both matrices")
    files, texts = images_then_texts(images, text, "--text")
    if not texts:
        no_texts("texts", "--text")
    check_save(save, images=files)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    other = load(beside, device, dtype, stretch, max_pixels, squash) if beside else None
    text_vectors = embed_texts(bundle, texts, long_text)
    names: list[Source] = []
    rows = []
    failed: list[ImageError] = []
    vectors = bundle.embed_each(files)
    for name, vector in successes(vectors, len(files), "embed", failed, as_json):
        cosines = text_vectors @ vector
        names.append(name)
        rows.append(cosines)
        if as_json:
            pairs = zip(texts, cosines.tolist(), strict=True)
            emit({"image": str(name), "texts": [{"text": t, "cosine": c} for t, c in pairs]})
    if rows and not as_json:
        _print_matrix(names, texts, rows)
    if rows and save:
        import numpy as np

        shown = names[:SHOWN]
        matrices = _matrices(bundle, np.stack(rows[:SHOWN]), shown, texts)
        if other:
            cosines = other.similarity(shown, texts, long_text=long_text)
            matrices += _matrices(other, cosines, shown, texts)
        save_matrices(shown, texts, matrices, save, bundle.opener)
    finish(failed, len(rows))


def _score_record(score: Score) -> dict[str, Any]:
    return {"label": score.label, "probability": score.probability, **box_field(score.box)}


def scores_table(
    results: Sequence[tuple[Source, list[Score]]], reject: float | None = None, model: str = ""
) -> Table:
    """Of one image a row per label; of several a row per image, its answer first. The answer of an
    image that is rejected is the reason, without a number. model: its name."""
    from rich.text import Text

    def answer(scores: list[Score]) -> tuple[str, str]:
        if reason := rejection(scores, reject, model):
            return reason, ""
        return scores[0].label, share(scores[0].probability, reject)

    if len(results) == 1:
        name, scores = results[0]
        out = table(str(name), " ", "  ", right=(" ",))
        sign = "#" if screen().options.ascii_only else "█"
        for rank, score in enumerate(scores):
            label, number = answer(scores[rank:])
            cells = 0
            if number and not math.isnan(score.probability):
                cells = round(BAR_CELLS * score.probability)
            out.add_row(label, number, Text(sign * cells, style="blue"))
        return out
    heading, names = heading_and_names([name for name, _ in results])
    out = table(heading, "answer", " ", "others", right=(" ",))
    for name, (_, scores) in zip(names, results, strict=True):
        label, number = answer(scores)
        others = ", ".join(
            f"{s.label} {share(s.probability, reject)}" for s in scores[1:] if s.probability >= 0.01
        )
        out.add_row(name, Text(label, style="bold"), number, Text(others, style="dim"))
    return out


def _print_matrix(sources: list[Source], texts: list[str], rows: list[NDArray[Any]]) -> None:
    """Print cosines: a row per image, whose best is bold, and a column per text. Several texts are
    numbered, and make as many tables as the width of the screen needs."""
    from rich.text import Text

    titles = texts
    if len(texts) > 1:
        titles = [str(number) for number in range(1, len(texts) + 1)]
        for number, text in zip(titles, texts, strict=True):
            screen().print(f"{number}  {text}")
    heading, names = heading_and_names(sources)
    per_table = max((screen().width - NAME_CELLS) // NUMBER_CELLS, 1)
    for start in range(0, len(texts), per_table):
        shown = slice(start, start + per_table)
        out = table(heading, *titles[shown], right=titles[shown])
        for name, row in zip(names, rows, strict=True):
            cells = [
                Text(f"{value:.3f}", style="bold green" if value == row.max() else "")
                for value in row[shown]
            ]
            out.add_row(name, *cells)
        screen().print(out)


def _matrices(
    bundle: Model, cosines: NDArray[Any], names: list[Source], texts: list[str]
) -> list[TitledMatrix]:
    """The cosines of a model; where it has a matching head, also its match probabilities."""
    name = Path(bundle.name).name
    if bundle.config.matching:
        return match_matrices(cosines, bundle.match(names, texts).probabilities, name)
    return [(f"{name}: cosine of the vectors", cosines)]


def _image_rows(
    results: Iterable[tuple[object, NDArray[Any] | ImageError]],
    total: int,
    failed: list[ImageError],
    stop: bool,
) -> Iterator[Row]:
    """Name and vector, or error, of each image, with a progress bar. Errors are added to `failed`;
    stop: the first one is raised."""
    with progress("embed", total) as advance:
        for number, (source, result) in enumerate(results, start=1):
            advance(number, total)
            if isinstance(result, ImageError):
                result = ImageError(str(source), result.reason)
                if stop:
                    raise result
                failed.append(result)
            yield cast(Source, source), result


COMMANDS = (classify, embed, similarity)
