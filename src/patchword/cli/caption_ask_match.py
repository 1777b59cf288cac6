"""caption, ask, match: image captioning, visual question answering, image-text matching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.atomic_write import write
from patchword.cli.inputs import expand, load, read_list
from patchword.cli.options import (
    EMBEDDED_BLIP,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    PictureOption,
    SaveOption,
    StretchOption,
    TextsOption,
)
from patchword.cli.output import (
    SHOWN,
    check_save,
    emit,
    finish,
    good,
    print_saved,
    screen,
    shortened,
    warnings_said,
    wrong,
)
from patchword.errors import ImageError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

    from patchword.images import Opener
    from patchword.tasks.ask import Answer, Choice
    from patchword.tasks.caption import Caption
    from patchword.tasks.match import Match

Titled = tuple[str, "NDArray[Any]"]  # a matrix of images and texts

SHOWN_ANSWERS = 5  # of a ranking, in a table and a picture

BeamsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Beam width of the beam search, by default 3; 1 is greedy search."),
]
CountOption = Annotated[
    int,
    typer.Option(
        "--count", "-n", min=1, help="Captions for each image: the best beams, or samples."
    ),
]
MinLengthOption = Annotated[
    int, typer.Option(min=0, help="Least number of tokens, start and end included.")
]
LengthPenaltyOption = Annotated[
    float,
    typer.Option(
        help="Exponent of the length by which scores are divided: above 0 favours long texts."
    ),
]
RepetitionPenaltyOption = Annotated[
    float, typer.Option(help="Above 1, tokens that were used before become less probable.")
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Nucleus sampling, from the most probable tokens whose probabilities sum to P.",
    ),
]
TopKOption = Annotated[
    int | None, typer.Option(metavar="K", help="Sample from the K most probable tokens.")
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(help="Sample at this temperature: above 1 is more varied, below 1 less."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of the sampling.")]


def caption(
    images: ImagesArgument,
    prompt: Annotated[
        str, typer.Option(help="First words of every caption, which the model continues.")
    ] = "",
    beams: BeamsOption = None,
    count: CountOption = 1,
    max_length: Annotated[
        int, typer.Option(min=2, help="Largest number of tokens, start and end included.")
    ] = 20,
    min_length: MinLengthOption = 0,
    length_penalty: LengthPenaltyOption = 1.0,
    repetition_penalty: RepetitionPenaltyOption = 1.0,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = 0,
    save: SaveOption = None,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED_BLIP,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Say what is in each image, in a sentence.

    Beam search looks for the most probable sentence; with --top-p, --top-k or --temperature it is
    sampled instead, always the same for the same image and --seed. The embedded BLIP knows wafers,
    coloured shapes and clothes; for photos of the world: --model
    Salesforce/blip-image-captioning-base.
    """
    check_save(save, pages=True)
    files = expand(images)
    bundle = load(model, device, dtype, None, stretch, max_pixels)
    from patchword.models.generate import GenerationOptions
    from patchword.tasks.caption import caption_each

    options = GenerationOptions(
        beams=beams, count=count, max_length=max_length, min_length=min_length,
        length_penalty=length_penalty, repetition_penalty=repetition_penalty, top_p=top_p,
        top_k=top_k, temperature=temperature, seed=seed,
    )  # fmt: skip
    each = caption_each(bundle, files, prompt, options)
    results: list[tuple[str, Caption]] = []
    failed: list[ImageError] = []
    for name, found in good(each, len(files), "caption", failed):
        results.append((name, found))
        if as_json:
            record = _written(found, "caption")
            others = [_written(other, "caption") for other in found.others]
            emit({"image": name, **record} | ({"others": others} if count > 1 else {}))
    if results and not as_json:
        screen().print(captions_table(results))
    if results and save:
        _save_captions(results[:SHOWN], save, bundle.opener)
    finish(failed, len(results))


def ask(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTIONS...", help="Questions, each in quotes.")
    ],
    answers: Annotated[
        list[str] | None,
        typer.Option(
            "--answers",
            "-a",
            metavar="ANSWERS",
            help="Choose among these, separated by commas: “yes, no”; repeat, or @FILE.",
        ),
    ] = None,
    shortlist: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --answers: score in full only the N with the likeliest first tokens.",
        ),
    ] = None,
    beams: BeamsOption = None,
    max_length: Annotated[
        int, typer.Option(min=2, help="Largest number of tokens of a generated answer.")
    ] = 10,
    save: PictureOption = None,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED_BLIP,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Answer questions about an image.

    The answer is generated, or, with --answers, chosen: each candidate is scored in full, and the
    probabilities of those that were scored sum to one. The embedded BLIP knows wafers, coloured
    shapes and clothes; for photos of the world: --model Salesforce/blip-vqa-base.
    """
    given = read_list(answers, split=True) or None
    if answers and not given:
        wrong("--answers names no answer")
    if shortlist and not given:
        wrong("--shortlist needs --answers")
    if beams and given:
        wrong("--beams is for generated answers; leave out --beams or --answers")
    check_save(save)
    bundle = load(model, device, dtype, None, stretch, max_pixels)
    if given:
        found = bundle.ask(image, questions, given, shortlist=shortlist)
    else:
        found = bundle.ask(image, questions, beams=beams, max_length=max_length)
    for question, answer in zip(questions, found, strict=True):
        if as_json:
            record = {"image": image, "question": question, **_written(answer, "answer")}
            emit(record | ({"answers": [_choice(c) for c in answer.ranking]} if given else {}))
    if not as_json:
        screen().print(answers_table(questions, found))
    if save:
        from patchword.show import plots
        from patchword.show.answers_picture import SIDE, answers_picture

        told = [(a.text, [(c.text, c.probability) for c in a.ranking]) for a in found]
        picture = answers_picture(bundle.opener(image, at_least=SIDE), questions, told)
        plots.save(picture, save)
        print_saved(save)


def match(
    images: ImagesArgument,
    text: TextsOption = None,
    save: PictureOption = None,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED_BLIP,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    start: Annotated[
        str | None,
        typer.Option(
            metavar="enc|cls",
            help="What a text begins with: [ENC], as BLIP is trained, or [CLS], as transformers "
            "begins it; by default as the checkpoint's own library.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how probable it is that images and texts belong together.

    The text cross-attends to the image: slower and more exact than the cosine of their vectors,
    which is shown too. The embedded BLIP knows wafers, coloured shapes and clothes; for photos of
    the world: --model Salesforce/blip-itm-base-coco.
    """
    texts = read_list(text)
    if not texts:
        wrong("give at least one --text")
    check_save(save)
    files = expand(images)
    bundle = load(model, device, dtype, None, stretch, max_pixels)
    from patchword.tasks.match import match_each

    results: list[tuple[str, Match]] = []
    failed: list[ImageError] = []
    with warnings_said():
        each = match_each(bundle, files, texts, start=start)
        for name, found in good(each, len(files), "match", failed):
            results.append((name, found))
            if as_json:
                emit({"image": name, "texts": [_matched(*row) for row in rows_of(found, texts)]})
    if results and not as_json:
        screen().print(matches_table(results, texts))
    if results and save:
        import numpy as np

        shown = [found for _, found in results[:SHOWN]]
        cosines = np.stack([found.cosines for found in shown])
        told = both(cosines, np.stack([found.probabilities for found in shown]))
        save_matrices([name for name, _ in results[:SHOWN]], texts, told, save, bundle.opener)
    finish(failed, len(results))


def captions_table(results: list[tuple[str, Caption]]) -> Table:
    """A row per caption, the image's name at its first."""
    heading, names = shortened([name for name, _ in results])
    out = table(heading, "caption", "log probability", right=("log probability",))
    for name, (_, first) in zip(names, results, strict=True):
        written: list[Caption] = [first, *first.others]
        for one in written:
            out.add_row(name if one is first else "", one.text, f"{one.log_probability:.2f}")
    return out


def answers_table(questions: list[str], found: list[Answer]) -> Table:
    """A row per question, or per candidate answer, the best first."""
    out = table("question", "answer", "probability", right=("probability",))
    for question, answer in zip(questions, found, strict=True):
        rows = _bars(answer) or [(answer.text, answer.probability)]
        for number, (text, probability) in enumerate(rows):
            out.add_row("" if number else question, text, _share(probability))
    return out


def matches_table(results: list[tuple[str, Match]], texts: list[str]) -> Table:
    """A row per pair, each image's texts in order of their match."""
    from rich.text import Text

    heading, names = shortened([name for name, _ in results])
    out = table(heading, "text", "match", "cosine", right=("match", "cosine"))
    for name, (_, found) in zip(names, results, strict=True):
        rows = sorted(rows_of(found, texts), key=lambda row: -row[1])
        for number, (text, probability, cosine) in enumerate(rows):
            bold = "" if number or len(texts) == 1 else "bold"
            cells = Text(text, style=bold), Text(_share(probability), style=bold)
            out.add_row("" if number else name, *cells, _number(cosine))
    return out


def rows_of(found: Match, texts: list[str]) -> list[tuple[str, float, float]]:
    """Text, probability and cosine of each text of one image."""
    return list(zip(texts, found.probabilities.tolist(), found.cosines.tolist(), strict=True))


def save_matrices(
    names: list[str], texts: list[str], told: list[Titled], path: Path, opener: Opener
) -> None:
    """Save matrices of images and texts side by side."""
    from patchword.show import plots

    thumbs = [opener(name, at_least=plots.TILE // 2) for name in names]
    pictures = [plots.similarity_matrix(thumbs, texts, each, columns=6) for _, each in told]
    plots.save(plots.side_by_side(pictures, [title for title, _ in told]), path)
    print_saved(path)


def both(cosines: NDArray[Any], probabilities: NDArray[Any], model: str = "") -> list[Titled]:
    """Cosines and match probabilities of images and texts, with titles."""
    before = f"{model}: " if model else ""
    return [
        (f"{before}cosine of the vectors (ITC)", cosines),
        (f"{before}probability of a match (ITM)", probabilities),
    ]


def _save_captions(results: list[tuple[str, Caption]], path: Path, opener: Opener) -> None:
    """The images with their captions, as a picture or a page."""
    from patchword.show import html_page, plots

    photos = [opener(name, at_least=plots.TILE) for name, _ in results]
    if path.suffix.lower() == ".html":
        cards = [
            html_page.Card(photo, found.text, Path(name).name)
            for photo, (name, found) in zip(photos, results, strict=True)
        ]
        write(path, html_page.page("Captions", "", [html_page.cards(cards)]))
    else:
        tiles = [plots.Tile(p, found.text) for p, (_, found) in zip(photos, results, strict=True)]
        plots.save(plots.panel(tiles), path)
    print_saved(path)


def _written(found: Caption, kind: str) -> dict[str, Any]:
    said = list(found.token_log_probabilities)
    return {kind: found.text, "log_probability": found.log_probability, "tokens": said}


def _choice(found: Choice) -> dict[str, Any]:
    shares = {"probability": found.probability, "log_probability": found.log_probability}
    return {"answer": found.text, **shares}


def _matched(text: str, probability: float, cosine: float) -> dict[str, Any]:
    return {"text": text, "match": probability, "cosine": cosine if cosine == cosine else None}


def _bars(answer: Answer) -> list[tuple[str, float]]:
    """The best candidate answers with their probabilities."""
    return [(choice.text, choice.probability) for choice in answer.ranking[:SHOWN_ANSWERS]]


def _share(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.0005 else "<0.1%"


def _number(cosine: float) -> str:
    return f"{cosine:.3f}" if cosine == cosine else "–"


COMMANDS = (caption, ask, match)
