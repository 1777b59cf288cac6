"""classify, embed, similarity: images and words as numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.atomic_write import replacing, write
from patchword.cli.inputs import embed_texts, expand, load, read_list
from patchword.cli.options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    JsonOption,
    LabelsOption,
    LongTextOption,
    ModelOption,
    PictureOption,
    SaveOption,
    TemplateOption,
    TextsOption,
)
from patchword.cli.output import (
    SHOWN,
    check_save,
    emit,
    finish,
    good,
    make_folder,
    notes,
    print_saved,
    screen,
    shortened,
    wrong,
)
from patchword.errors import ImageError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

    from patchword.api import Model
    from patchword.tasks.classify import Score

BAR_CELLS = 24  # columns of a bar in the terminal


def classify(
    images: ImagesArgument,
    labels: LabelsOption = None,
    template: TemplateOption = None,
    multi_label: Annotated[
        bool,
        typer.Option(
            "--multi-label",
            help="Judge each label by itself: probabilities need not sum to one.",
        ),
    ] = False,
    reject: Annotated[
        float | None,
        typer.Option(
            metavar="P", min=0, max=1, help="Answer “none of these” below this probability."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of labels shown for each image.")] = 5,
    save: SaveOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Say which words fit each image best.

    Without --labels, a classifier answers in its own classes.
    """
    words = read_list(labels, split=True) or None
    if labels and not words:
        wrong("--labels names no label")
    check_save(save, pages=True)
    files = expand(images)
    bundle = load(model, device, dtype)
    from patchword.tasks.classify import classify_each

    sentences = read_list(template) or None
    each = classify_each(bundle, files, words, sentences, multi_label, reject)
    results: list[tuple[str, list[Score]]] = []
    failed: list[ImageError] = []
    for name, scores in good(each, len(files), "classify", failed):
        results.append((name, scores[:top]))
        if as_json:
            pairs = [{"label": s.label, "probability": s.probability} for s in scores[:top]]
            emit({"image": name, "scores": pairs})
    if results and not as_json:
        screen().print(scores_table(results))
    if results and save:
        _save_scores(results[:SHOWN], save)
    finish(failed, len(results))


def embed(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]...", help="Image files, folders of them, or glob patterns."
        ),
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
    long_text: LongTextOption = "truncate",
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Turn images, or texts, into unit vectors.

    Without --out they are printed, one line of JSON each. An .npz holds “vectors” (N, D), “names”,
    “model” and “fingerprint”.
    """
    texts = read_list(text)
    if bool(images) == bool(texts):
        wrong("give either images or --text")
    if out and out.suffix not in (".npz", ".npy", ".jsonl"):
        wrong(f"--out {out}: the name must end in .npz, .npy or .jsonl")
    make_folder(out)
    files = expand(images) if images else []
    bundle = load(model, device, dtype)
    failed: list[ImageError] = []
    each: Iterator[tuple[str, NDArray[Any]]]
    if files:
        each = good(bundle.embed_each(files), len(files), "embed", failed)
    else:
        each = zip(texts, embed_texts(bundle, texts, long_text), strict=True)
    kind, done = "image" if files else "text", 0
    if out is None:
        for name, row in each:
            emit({kind: name, "vector": row.tolist()})
            done += 1
    elif out.suffix == ".jsonl":
        done, dim = _save_lines(out, kind, each)
    else:
        done, dim = _save_array(out, each, len(files or texts), bundle)
    if out is not None and done:
        if as_json:
            emit({"file": str(out), "vectors": done, "dim": dim})
        notes().print(f"wrote {done} vectors of {dim} numbers to {out}")
    finish(failed, done)


def similarity(
    images: ImagesArgument,
    text: TextsOption = None,
    long_text: LongTextOption = "truncate",
    save: PictureOption = None,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A second model, whose matrix --save draws beside the first."
        ),
    ] = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Print the cosine of every image with every text.

    --save draws them, and for a BLIP with a matching head also the probability that image and text
    belong together.
    """
    if beside and not save:
        wrong("--beside is drawn by --save")
    texts = read_list(text)
    if not texts:
        wrong("give at least one --text")
    check_save(save)
    files = expand(images)
    bundle = load(model, device, dtype)
    other = load(beside, device, dtype) if beside else None
    columns = embed_texts(bundle, texts, long_text)
    names, rows = [], []
    failed: list[ImageError] = []
    for name, row in good(bundle.embed_each(files), len(files), "embed", failed):
        cosines = columns @ row
        names.append(name)
        rows.append(cosines)
        if as_json:
            pairs = zip(texts, cosines.tolist(), strict=True)
            emit({"image": name, "texts": [{"text": t, "cosine": c} for t, c in pairs]})
    if rows and not as_json:
        _print_matrix(names, texts, rows)
    if rows and save:
        import numpy as np

        found = [(bundle, np.stack(rows[:SHOWN]))]
        if other:
            found.append((other, other.similarity(names[:SHOWN], texts, long_text=long_text)))
        _save_matrices(names[:SHOWN], texts, found, save)
    finish(failed, len(rows))


def scores_table(results: list[tuple[str, list[Score]]]) -> Table:
    """One image: a row per label. More: a row per image, its best label first."""
    from rich.text import Text

    if len(results) == 1:
        name, scores = results[0]
        out = table(name, " ", "  ", right=(" ",))
        for score in scores:
            bar = Text("█" * round(BAR_CELLS * score.probability), style="blue")
            out.add_row(score.label, f"{score.probability:.1%}", bar)
        return out
    heading, names = shortened([name for name, _ in results])
    out = table(heading, "best", " ", "then", right=(" ",))
    for name, (_, (best, *others)) in zip(names, results, strict=True):
        rest = ", ".join(f"{s.label} {s.probability:.0%}" for s in others if s.probability >= 0.01)
        label = Text(best.label, style="bold")
        out.add_row(name, label, f"{best.probability:.1%}", Text(rest, style="dim"))
    return out


def _print_matrix(names: list[str], texts: list[str], rows: list[NDArray[Any]]) -> None:
    """A column per text, numbered where there are several; the best of each image is bold."""
    from rich.text import Text

    titles = [str(i) for i in range(1, len(texts) + 1)] if len(texts) > 1 else texts
    heading, names = shortened(names)
    out = table(heading, *titles, right=titles)
    for name, row in zip(names, rows, strict=True):
        cells = [
            Text(f"{value:.3f}", style="bold green" if value == row.max() else "") for value in row
        ]
        out.add_row(name, *cells)
    if len(texts) > 1:
        for number, text in zip(titles, texts, strict=True):
            screen().print(f"{number}  {text}")
    screen().print(out)


def _save_matrices(
    names: list[str], texts: list[str], found: list[tuple[Model, NDArray[Any]]], path: Path
) -> None:
    """The cosines of each model as a picture; with a matching head, its probabilities too."""
    from patchword import images as opener
    from patchword.cli.caption_ask_match import Titled, both, save_matrices
    from patchword.show import plots

    matrices: list[Titled] = []
    for bundle, cosines in found:
        name = Path(bundle.name).name if len(found) > 1 else ""
        if bundle.config.matching:
            matrices += both(cosines, bundle.match(names, texts).probabilities, name)
        else:
            matrices.append((f"{name}: cosine of the vectors", cosines))
    if len(matrices) > 1:
        save_matrices(names, texts, matrices, path)
        return
    thumbs = [opener.open(name, at_least=plots.TILE // 2) for name in names]
    plots.save(plots.similarity_matrix(thumbs, texts, matrices[0][1]), path)
    print_saved(path)


def _save_scores(results: list[tuple[str, list[Score]]], path: Path) -> None:
    """The images with their labels as a picture or a page."""
    from patchword import images as opener
    from patchword.show import html_page, plots

    photos = [opener.open(name, at_least=plots.TILE) for name, _ in results]
    names = [Path(name).name for name, _ in results]
    bars = [[(score.label, score.probability) for score in scores] for _, scores in results]
    if path.suffix.lower() == ".html":
        items = [html_page.Card(p, n, bars=b) for p, n, b in zip(photos, names, bars, strict=True)]
        write(path, html_page.page("Which words fit", "", [html_page.cards(items)]))
    else:
        plots.save(plots.classify_panel(photos, bars, names), path)
    print_saved(path)


def _save_lines(path: Path, kind: str, each: Iterator[tuple[str, NDArray[Any]]]) -> tuple[int, int]:
    """A line of JSON for each vector; how many there are, and of how many numbers. No file is made
    of none."""
    first = next(each, None)
    if first is None:
        return 0, 0
    done = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for name, row in chain([first], each):
            file.write(json.dumps({kind: name, "vector": row.tolist()}) + "\n")
            done += 1
    return done, len(first[1])


def _save_array(
    path: Path, each: Iterator[tuple[str, NDArray[Any]]], most: int, bundle: Model
) -> tuple[int, int]:
    """Vectors as one array, made once and filled as they come, of which there are at most so many;
    how many there are, and of how many numbers. No file is made of none."""
    import numpy as np

    names: list[str] = []
    rows = np.empty((0, 0), np.float32)
    for name, row in each:
        if not names:
            rows = np.empty((most, len(row)), np.float32)
        rows[len(names)] = row
        names.append(name)
    if names:
        rows = rows[: len(names)]
        with replacing(path) as part:
            if path.suffix == ".npy":
                np.save(part, rows)
            else:
                made_by = {"model": bundle.name, "fingerprint": bundle.fingerprint}
                arrays: dict[str, Any] = {"vectors": rows, "names": np.array(names), **made_by}
                np.savez(part, **arrays)
    return len(names), rows.shape[1]


COMMANDS = (classify, embed, similarity)
