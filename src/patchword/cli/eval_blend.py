"""eval, blend: evaluation of a model, and weight interpolation of two."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import load, model_and_path
from patchword.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxPixelsOption,
    ModelTooOption,
    PictureOption,
    SquashOption,
    StretchOption,
    TemplateOption,
    TwoViewsOption,
)
from patchword.cli.output import (
    check_save,
    emit,
    finish,
    notes,
    prepare_output,
    print_error,
    print_saved,
    progress,
    refuse,
    screen,
    show_warnings,
    warn,
)
from patchword.cli.suggestions import with_near_file
from patchword.cli.texts import read_list
from patchword.errors import PatchwordError, counted, listed
from patchword.show.terminal_table import table
from patchword.text.templates import PLAIN

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.evaluate import Answer, Classified, Evaluation, Options, Retrieved

MAX_CLASSES = 40  # rows of the table of classes; --json has all
MAX_LABELS = 4  # that a hint names

TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="zero-shot|classifier|probe|knn|retrieval",
        help="What to measure, by default all that the model and the data allow; repeat, or "
        "separate by commas.",
    ),
]
TrainOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DATA", help="Training images of probe and knn: class folders or a table."
    ),
]
WordsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        "-l",
        metavar="LABELS",
        help="Names of the classes, in the order of their folders; or @FILE.",
    ),
]


def eval(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA", help="The model, and a folder or a table of images."
        ),
    ],
    task: TaskOption = None,
    train: TrainOption = None,
    template: TemplateOption = None,
    labels: WordsOption = None,
    neighbours: Annotated[int, typer.Option("-k", min=1, help="Number of neighbours of knn.")] = 20,
    save: PictureOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    two_views: TwoViewsOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelTooOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on images with known classes or captions.

    DATA is a folder with one folder per class; or one that holds the splits "train" and
    "validation" or "test" of that kind, and then a linear probe and k-NN learn from the first; or
    a metadata.jsonl or metadata.csv, or its folder, with "file_name" and "caption" in each row,
    several rows or a list for an image of several captions; or any other .csv, .tsv, .json, .jsonl
    or .parquet with a column of images and one of captions or classes; or a webdataset .tar.
    --save draws the confusion matrix.
    """
    name, data = model_and_path(arguments, model, "folder: patchword eval MODEL DATA")
    check_save(save)
    if not data.exists():
        refuse(f"{data}: no such file or folder")
    if two_views and squash:
        refuse("--two-views shows the whole beside the crop; leave --squash out")
    bundle = load(name, device, dtype, stretch, max_pixels, squash)
    from patchword.evaluate import Classified, Evaluation, confusion_picture

    options = evaluation_options(template, labels, neighbours, two_views)
    with progress("images") as advance:
        run = Evaluation(bundle, options, advance)
        answers = run_tasks(run, data, train, read_list(task, split=True) or None)
    _warn_of_unused(answers, template, labels, train)
    if train and os.path.realpath(train) == os.path.realpath(data):
        warn(
            f"--train {train} is also the evaluated data: these numbers say nothing about other "
            "photos"
        )
    if not (template or labels):
        _hint_at_labels(answers)
    if as_json:
        seen = {"two_views": True} if two_views else {}
        of_model = {"model": bundle.name, "fingerprint": bundle.fingerprint, **seen}
        for answer in answers:
            emit(of_model | answer.record())
    else:
        print_tables(answers)
    by_class = [answer for answer in answers if isinstance(answer, Classified)]
    if save and not by_class:
        notes().print("no picture: retrieval has no confusion matrix")
    elif save:
        from patchword.show import plots

        plots.save(confusion_picture(by_class), save)
        print_saved(save)
    finish(run.broken, run.opened, as_json)


def _warn_of_unused(
    answers: Sequence[Answer], template: object, labels: object, train: object
) -> None:
    """Warn of options that no task uses."""
    done = [answer.task for answer in answers]
    for option, value, users in (
        ("--template", template, ["zero-shot"]),
        ("--labels", labels, ["zero-shot"]),
        ("--train", train, ["knn", "probe"]),
    ):
        if value and not set(users) & set(done):
            tasks = " and ".join(users)
            warn(f"{option} is for {tasks} and has no effect on {' and '.join(done)}")


def _hint_at_labels(answers: Sequence[Answer]) -> None:
    """For zero-shot classification by the names of folders: tell that better labels help."""
    for answer in answers:
        if answer.task == "zero-shot":
            names = listed(answer.record()["labels"], MAX_LABELS)
            notes().print(
                f"zero-shot used the names of the folders as labels ({names}), in the sentence "
                f'"{PLAIN[0]}"; others may do better: --labels "a name for each", --template'
            )


def blend(
    first: Annotated[
        str, typer.Argument(metavar="A", help="The model at alpha 0, before fine-tuning.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The model at alpha 1, after fine-tuning.")
    ],
    alpha: Annotated[
        str,
        typer.Option(
            metavar="ALPHA",
            help="Weight of B, 0 to 1; several, separated by commas, need --eval.",
        ),
    ] = "0.5",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where to save the result.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--eval", metavar="DATA", help="Evaluate each alpha on this data and keep the best."
        ),
    ] = None,
    task: TaskOption = None,
    template: TemplateOption = None,
    labels: WordsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Mix the weights of two models of the same shape: (1 - alpha) A + alpha B (WiSE-FT).

    The mean of the weights before and after fine-tuning often keeps both what the model learned by
    fine-tuning and what it would have forgotten by it. With --eval the alpha with the best top-1
    accuracy is kept (for retrieval: the best mean of recall@1 both ways), the first of equals.
    """
    alphas = parse_alphas(alpha)
    if len(alphas) > 1 and data is None:
        refuse("several alphas need --eval DATA, by which the best is kept")
    if out is None and data is None:
        refuse("give -o FOLDER for the result, or --eval DATA")
    if data is not None and not data.exists():
        refuse(f"--eval {data}: no such file or folder")
    prepare_output(out, is_folder=True)
    first_model, second_model = load(first, device, dtype), load(second, device, dtype)
    from patchword import api, evaluate
    from patchword.checkpoints.formats import own

    if out is not None and out.exists() and not own.may_replace(out):
        refuse(f"-o {out}: it holds something other than a patchword model")
    best, best_alpha = None, alphas[0]
    results: list[evaluate.Answer] = []
    for share in alphas:
        # Warnings of the first blend hold for all of them.
        with warnings.catch_warnings(action="ignore") if results else nullcontext():
            mixed = evaluate.blend(first_model, second_model, share)
        if data is None:
            best = mixed
            break
        with progress(f"alpha {share:g}") as advance:
            run = evaluate.Evaluation(mixed, evaluation_options(template, labels), advance)
            tasks = read_list(task, split=True) or None
            [answer] = run_tasks(run, data, None, tasks, first_only=True)
        if not results or evaluate.quality(answer) > max(map(evaluate.quality, results)):
            best, best_alpha = mixed, share
        results.append(answer)
        if as_json:
            emit({"alpha": share, **answer.record()})
    if results and not as_json:
        screen().print(alphas_table(alphas, results, best_alpha))
    if out is not None and best is not None:
        api.save(best, out)
        print_saved(out)
        if as_json:
            emit({"model": str(out), "alpha": best_alpha, "fingerprint": best.fingerprint})
    if results:
        finish(run.broken, results[-1].images, as_json)


def parse_alphas(text: str) -> list[float]:
    """The values of --alpha."""
    try:
        alphas = [float(number) for number in text.split(",")]
    except ValueError:
        refuse(f"--alpha {text}: give numbers from 0 to 1, separated by commas")
    if not all(0 <= alpha <= 1 for alpha in alphas):
        refuse(f"--alpha {text}: numbers go from 0, the first model, to 1, the second")
    return alphas


def evaluation_options(
    template: list[str] | None,
    labels: list[str] | None,
    neighbours: int | None = None,
    two_views: bool = False,
) -> Options:
    """The options of the command line as evaluation takes them."""
    from patchword.evaluate import Options

    options = Options(
        read_list(template) or None, read_list(labels, split=True) or None, two_views=two_views
    )
    return options if neighbours is None else replace(options, neighbours=neighbours)


def run_tasks(
    run: Evaluation,
    data: Path,
    train: Path | None,
    tasks: list[str] | None,
    first_only: bool = False,
) -> list[Answer]:
    """The answers of all tasks, or of the first. Where there is none, the images that failed are
    printed before the error is raised."""
    try:
        with show_warnings(": their ends are not read"):
            answers = run.on(data, train, tasks)
            return [next(answers)] if first_only else list(answers)
    except PatchwordError:
        for error in run.broken:
            print_error(with_near_file(error))
        raise


def print_tables(answers: Sequence[Answer]) -> None:
    """Print a table of the tasks, and one of the classes."""
    from patchword.evaluate import Classified, Retrieved

    by_class = [answer for answer in answers if isinstance(answer, Classified)]
    for answer in answers:
        if isinstance(answer, Retrieved):
            screen().print(retrieval_table(answer))
    if not by_class:
        return
    numbers = ("images", "top-1", "top-5", "mean per class")
    out = table("task", *numbers, "", right=numbers)
    for answer in by_class:
        top5 = "-" if answer.top5 is None else percent(answer.top5)
        scores = percent(answer.top1), top5, percent(answer.mean_per_class_recall)
        out.add_row(answer.task, str(answer.images), *scores, details(answer))
    screen().print(out)
    by_classes: dict[tuple[str, ...], list[Classified]] = {}  # tasks with the same classes
    for answer in by_class:
        by_classes.setdefault(tuple(answer.classes), []).append(answer)
    for same in by_classes.values():
        screen().print("")
        screen().print(classes_table(same))


def classes_table(answers: Sequence[Classified]) -> Table:
    """A row per class: its accuracy by each task, and the label with which the first task most
    often confused it."""
    import numpy as np

    first, tasks = answers[0], [answer.task for answer in answers]
    out = table("class", "images", *tasks, "else taken for", right=("images", *tasks))
    occurring = np.flatnonzero(first.confusion.sum(axis=1))
    for row in occurring[:MAX_CLASSES].tolist():
        counts = [answer.confusion[row] for answer in answers]
        accuracies = [percent(each[row] / each.sum()) for each in counts]
        errors = counts[0].copy()
        errors[row] = 0
        worst, total = int(errors.argmax()), int(counts[0].sum())
        confused = ""
        if errors[worst]:
            confused = f"{first.classes[worst]} {percent(errors[worst] / total)}"
        out.add_row(first.classes[row], str(total), *accuracies, confused)
    if len(occurring) > MAX_CLASSES:
        out.caption = f"{len(occurring) - MAX_CLASSES} more classes: --json"
    return out


def retrieval_table(answer: Retrieved) -> Table:
    """Recall in both directions."""
    columns = [f"recall@{k}" for k in answer.image_recall]
    out = table("from", "to", *columns, right=columns)
    images, captions = counted(answer.images, "image"), counted(answer.captions, "caption")
    out.add_row(captions, images, *map(percent, answer.image_recall.values()))
    out.add_row(images, captions, *map(percent, answer.text_recall.values()))
    return out


def alphas_table(alphas: Sequence[float], results: Sequence[Answer], best_alpha: float) -> Table:
    """A row for each blend; the best one is bold."""
    rows = [numbers(answer) for answer in results]
    out = table("alpha", *rows[0], "", right=("alpha", *rows[0]))
    for alpha, row in zip(alphas, rows, strict=True):
        mark, style = ("best", "bold") if alpha == best_alpha else ("", "")
        out.add_row(f"{alpha:g}", *row.values(), mark, style=style)
    return out


def numbers(answer: Answer) -> dict[str, str]:
    """The main numbers of a result, by name."""
    from patchword.evaluate import Classified

    if isinstance(answer, Classified):
        return {
            f"{answer.task} top-1": percent(answer.top1),
            "mean per class": percent(answer.mean_per_class_recall),
        }
    return {
        "captions to images, recall@1": percent(answer.image_recall[1]),
        "images to captions, recall@1": percent(answer.text_recall[1]),
    }


def details(answer: Classified) -> str:
    """How a task was measured, in a few words."""
    known = answer.details
    if answer.task == "zero-shot":
        return counted(known["templates"], "template")
    if answer.task == "probe":
        return f"C = {known['C']:.3g}, {known['train_images']} training images"
    return f"k = {known['k']}, {known['train_images']} known images" if known else ""


def percent(share: float) -> str:
    """0.5 -> 50.0%"""
    return f"{share:.1%}"


COMMANDS = (eval, blend)
