"""caption, ask, match: image captioning, visual question answering, image-text matching."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.inputs import expand, load
from patchword.cli.options import (
    EMBEDDED_BLIP,
    SOURCES,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    ImagesTextsArgument,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    PictureOption,
    SaveOption,
    SquashOption,
    StretchOption,
    TextsOption,
)
from patchword.cli.output import (
    SHOWN,
    check_save,
    emit,
    finish,
    notes,
    refuse,
    screen,
    show_warnings,
)
from patchword.cli.result_display import (
    answers_table,
    captions_table,
    match_matrices,
    matches_table,
    rows_of,
    save_answers,
    save_captions,
    save_matrices,
)
from patchword.cli.texts import images_then_texts, no_texts, read_list
from patchword.cli.tiles import (
    EachTileOption,
    TileSizeOption,
    TilesOption,
    box_field,
    collect,
    tile_options,
)
from patchword.errors import ImageError

if TYPE_CHECKING:
    from patchword.tasks.ask import Answer
    from patchword.tasks.caption import Caption
    from patchword.tasks.match import Match
    from patchword.tasks.tiled import Tiled

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
    squash: SquashOption = False,
    tiles: TilesOption = False,
    tile_size: TileSizeOption = None,
    each_tile: EachTileOption = False,
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
    files = expand(images)
    check_save(save, pages=True, images=files)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    from patchword.models.generate import GenerationOptions
    from patchword.tasks.caption import caption_each
    from patchword.tasks.tiled import caption_tiled

    options = GenerationOptions(
        beams=beams, count=count, max_length=max_length, min_length=min_length,
        length_penalty=length_penalty, repetition_penalty=repetition_penalty, top_p=top_p,
        top_k=top_k, temperature=temperature, seed=seed,
    )  # fmt: skip
    tiling = tile_options(tiles, tile_size, each_tile)

    def print_record(image: dict[str, Any], caption: Caption) -> None:
        emit(image | _caption_fields(caption, count > 1 or tiling.wanted))

    captions: Iterable[tuple[object, Caption | Tiled[Caption] | ImageError]]
    if tiling.wanted:
        captions = caption_tiled(bundle, files, prompt, options, tiling.size)
    else:
        captions = caption_each(bundle, files, prompt, options)
    printer = print_record if as_json else None
    results = collect(captions, len(files), "caption", tiling.each, printer)
    if results.photos and not as_json:
        screen().print(captions_table(results.rows))
    if results.photos and save:
        save_captions(results.photos[:SHOWN], save, bundle)
    finish(results.failed, len(results.photos))


def ask(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES... [QUESTIONS]...",
            help=f"{SOURCES} Then questions, each in quotes; or give them by --text.",
        ),
    ],
    text: TextsOption = None,
    answers: Annotated[
        list[str] | None,
        typer.Option(
            "--answers",
            "-a",
            metavar="ANSWERS",
            help='Possible answers to choose from, separated by commas: "yes, no"; repeat for '
            "more. @FILE reads one per line.",
        ),
    ] = None,
    shortlist: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --answers: compute the full score only for the N answers with the most "
            "probable first tokens.",
        ),
    ] = None,
    beams: BeamsOption = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Largest number of tokens of a generated answer, by default 10."),
    ] = None,
    save: PictureOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    tiles: TilesOption = False,
    tile_size: TileSizeOption = None,
    each_tile: EachTileOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED_BLIP,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Answer questions about images.

    The answer is generated, or, with --answers, chosen: each candidate is scored in full, and the
    probabilities of those that were scored sum to one. The embedded BLIP knows wafers, coloured
    shapes and clothes; for photos of the world: --model Salesforce/blip-vqa-base.
    """
    candidates = read_list(answers, split=True) or None
    if answers and not candidates:
        refuse("--answers names no answer")
    if shortlist and not candidates:
        refuse("--shortlist needs --answers")
    for option, value in (("--beams", beams), ("--max-length", max_length)):
        if value and candidates:
            refuse(f"{option} is for generated answers; leave out {option} or --answers")
    files, questions = images_then_texts(images, text, "--text", questions=True)
    if not questions:
        no_texts("questions", "--text")
    check_save(save, images=files)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    from patchword.models.generate import GenerationOptions
    from patchword.tasks.ask import ask_each
    from patchword.tasks.tiled import ask_tiled

    options = None if candidates else GenerationOptions(beams=beams, max_length=max_length or 10)
    tiling = tile_options(tiles, tile_size, each_tile)

    def print_record(image: dict[str, Any], answers: list[Answer]) -> None:
        _emit_answers(image, questions, answers)

    answered: Iterable[tuple[object, list[Answer] | Tiled[list[Answer]] | ImageError]]
    if tiling.wanted:
        answered = ask_tiled(bundle, files, questions, candidates, shortlist, options, tiling.size)
    else:
        answered = ask_each(bundle, files, questions, candidates, shortlist, options)
    printer = print_record if as_json else None
    results = collect(answered, len(files), "ask", tiling.each, printer)
    if results.photos:
        _note_understood(questions, results.photos[0][1])
    if results.photos and not as_json:
        screen().print(answers_table(questions, results.rows))
    if results.photos and save:
        save_answers(questions, results.photos[:SHOWN], save, bundle)
    finish(results.failed, len(results.photos))


def match(
    images: ImagesTextsArgument,
    text: TextsOption = None,
    save: PictureOption = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    tiles: TilesOption = False,
    tile_size: TileSizeOption = None,
    each_tile: EachTileOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED_BLIP,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    start: Annotated[
        str | None,
        typer.Option(
            metavar="enc|cls",
            help="The first token of a text: [ENC], as in BLIP's training, or [CLS], as in "
            "transformers; by default as in the library that the checkpoint is for.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how probable it is that images and texts belong together.

    The text cross-attends to the image: slower and more exact than the cosine of their vectors,
    which is shown too. The embedded BLIP knows wafers, coloured shapes and clothes; for photos of
    the world: --model Salesforce/blip-itm-base-coco.
    """
    files, texts = images_then_texts(images, text, "--text")
    if not texts:
        no_texts("texts", "--text")
    check_save(save, images=files)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    from patchword.tasks.match import match_each
    from patchword.tasks.tiled import match_tiled

    tiling = tile_options(tiles, tile_size, each_tile)

    def print_record(image: dict[str, Any], match: Match) -> None:
        emit(image | {"texts": _match_records(match, texts)})

    matches: Iterable[tuple[object, Match | Tiled[Match] | ImageError]]
    with show_warnings():
        if tiling.wanted:
            matches = match_tiled(bundle, files, texts, start, tiling.size)
        else:
            matches = match_each(bundle, files, texts, start=start)
        printer = print_record if as_json else None
        results = collect(matches, len(files), "match", tiling.each, printer)
    if results.photos and not as_json:
        screen().print(matches_table(results.rows, texts))
    if results.photos and save:
        import numpy as np

        names, saved = zip(*results.photos[:SHOWN], strict=True)
        cosines = np.stack([match.cosines for match in saved])
        probabilities = np.stack([match.probabilities for match in saved])
        matrices = match_matrices(cosines, probabilities, bundle.name)
        save_matrices(names, texts, matrices, save, bundle.opener)
    finish(results.failed, len(results.photos))


def _caption_fields(caption: Caption, with_all: bool) -> dict[str, Any]:
    """A caption for JSON. with_all: and a list of all captions of the image, this one first."""
    best = _generated_text(caption, "caption")
    if not with_all:
        return best
    others = [_generated_text(other, "caption") for other in caption.others]
    return best | {"captions": [best, *others]}


def _generated_text(generated: Caption, key: str) -> dict[str, Any]:
    return {
        key: generated.text,
        "log_probability": generated.log_probability,
        "tokens": list(generated.token_log_probabilities),
    }


def _note_understood(questions: list[str], answers: list[Answer]) -> None:
    """Tell which questions were replaced by a wording of the model's training."""
    for question, answer in zip(questions, answers, strict=True):
        if answer.understood:
            notes().print(f"{question!r} was asked as {answer.understood!r}")


def _emit_answers(image: dict[str, Any], questions: list[str], answers: list[Answer]) -> None:
    """Print a record for each question. image: the fields that name the image."""
    for question, answer in zip(questions, answers, strict=True):
        record = {**image, "question": question, **_generated_text(answer, "answer")}
        record |= {"probability": answer.probability, **box_field(answer.box)}
        if answer.understood:
            record["understood"] = answer.understood
        if answer.declined:
            record["declined"] = answer.declined
        if answer.ranking:
            record["answers"] = [
                {
                    "answer": choice.text,
                    "probability": choice.probability,
                    "log_probability": choice.log_probability,
                }
                for choice in answer.ranking
            ]
        emit(record)


def _match_records(match: Match, texts: list[str]) -> list[dict[str, Any]]:
    """A record for each text. Its cosine is null where the model has none."""
    boxes: list[Any] = [None] * len(texts) if match.boxes is None else match.boxes.tolist()
    return [
        {
            "text": text,
            "match": probability,
            "cosine": None if math.isnan(cosine) else cosine,
            **box_field(box),
        }
        for (text, probability, cosine), box in zip(rows_of(match, texts), boxes, strict=True)
    ]


COMMANDS = (caption, ask, match)
