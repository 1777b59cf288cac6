"""caption, ask, match: image captioning, visual question answering, image-text matching."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.inputs import expand, load
from patchword.cli.language_tables import (
    answers_table,
    captions_table,
    match_matrices,
    matches_table,
    rows_of,
    save_answers,
    save_captions,
    save_matrices,
)
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
    successes,
)
from patchword.cli.texts import images_then_texts, no_texts, read_list
from patchword.cli.tiles import EachTileOption, TileSizeOption, TilesOption, box_field, tile_options
from patchword.errors import ImageError

if TYPE_CHECKING:
    from patchword.cli.member_images import Source
    from patchword.tasks.ask import Answer, Choice
    from patchword.tasks.caption import Caption
    from patchword.tasks.match import Match

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
    how = tile_options(tiles, tile_size, each_tile)
    each: Iterable[tuple[object, Caption | ImageError]]
    if how.wanted:
        each = how.joined(caption_tiled(bundle, files, prompt, options, how.size))
    else:
        each = caption_each(bundle, files, prompt, options)
    results: list[tuple[Source, Caption]] = []
    rows: list[tuple[Source, Caption]] = []
    failed: list[ImageError] = []
    for name, one in successes(each, len(files), "caption", failed, as_json):
        results.append((name, one))
        for called, record, found in how.rows(name, one):
            rows.append((called, found))
            if as_json:
                emit(record | _captions(found, count > 1 or how.wanted))
    if results and not as_json:
        screen().print(captions_table(rows))
    if results and save:
        save_captions(results[:SHOWN], save, bundle)
    finish(failed, len(results))


def ask(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES... [QUESTIONS]...",
            help=f"{SOURCES} Then questions, each in quotes, or by --text.",
        ),
    ],
    text: TextsOption = None,
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
    given = read_list(answers, split=True) or None
    if answers and not given:
        refuse("--answers names no answer")
    if shortlist and not given:
        refuse("--shortlist needs --answers")
    for option, value in (("--beams", beams), ("--max-length", max_length)):
        if value and given:
            refuse(f"{option} is for generated answers; leave out {option} or --answers")
    files, questions = images_then_texts(images, text, "--text", questions=True)
    if not questions:
        no_texts("questions", "--text")
    check_save(save, images=files)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    from patchword.models.generate import GenerationOptions
    from patchword.tasks.ask import ask_each
    from patchword.tasks.tiled import ask_tiled

    options = None if given else GenerationOptions(beams=beams, max_length=max_length or 10)
    how = tile_options(tiles, tile_size, each_tile)
    each: Iterable[tuple[object, list[Answer] | ImageError]]
    if how.wanted:
        told = ask_tiled(bundle, files, questions, given, shortlist, options, how.size)
        each = how.joined(told)
    else:
        each = ask_each(bundle, files, questions, given, shortlist, options)
    results: list[tuple[Source, list[Answer]]] = []
    rows: list[tuple[Source, list[Answer]]] = []
    failed: list[ImageError] = []
    for name, found in successes(each, len(files), "ask", failed, as_json):
        if not results:
            _note_understood(questions, found)
        results.append((name, found))
        for called, record, said in how.rows(name, found):
            rows.append((called, said))
            if as_json:
                _emit_answers(record, questions, said)
    if results and not as_json:
        screen().print(answers_table(questions, rows))
    if results and save:
        save_answers(questions, results[:SHOWN], save, bundle)
    finish(failed, len(results))


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
    files, texts = images_then_texts(images, text, "--text")
    if not texts:
        no_texts("texts", "--text")
    check_save(save, images=files)
    bundle = load(model, device, dtype, stretch, max_pixels, squash)
    from patchword.tasks.match import match_each
    from patchword.tasks.tiled import match_tiled

    how = tile_options(tiles, tile_size, each_tile)
    each: Iterable[tuple[object, Match | ImageError]]
    results: list[tuple[Source, Match]] = []
    rows: list[tuple[Source, Match]] = []
    failed: list[ImageError] = []
    with show_warnings():
        if how.wanted:
            each = how.joined(match_tiled(bundle, files, texts, start, how.size))
        else:
            each = match_each(bundle, files, texts, start=start)
        for name, one in successes(each, len(files), "match", failed, as_json):
            results.append((name, one))
            for called, record, found in how.rows(name, one):
                rows.append((called, found))
                if as_json:
                    emit(record | {"texts": _matched(found, texts)})
    if results and not as_json:
        screen().print(matches_table(rows, texts))
    if results and save:
        import numpy as np

        shown = [found for _, found in results[:SHOWN]]
        cosines = np.stack([found.cosines for found in shown])
        matches = np.stack([found.probabilities for found in shown])
        matrices = match_matrices(cosines, matches, bundle.name)
        save_matrices([name for name, _ in results[:SHOWN]], texts, matrices, save, bundle.opener)
    finish(failed, len(results))


def _captions(found: Caption, several: bool) -> dict[str, Any]:
    best = _written(found, "caption")
    others = [_written(other, "caption") for other in found.others]
    return best | ({"captions": [best, *others]} if several else {})


def _written(found: Caption, kind: str) -> dict[str, Any]:
    said = list(found.token_log_probabilities)
    return {kind: found.text, "log_probability": found.log_probability, "tokens": said}


def _note_understood(questions: list[str], found: list[Answer]) -> None:
    """Say which questions were asked in the words of the model's training."""
    for question, one in zip(questions, found, strict=True):
        if one.understood:
            notes().print(f"{question!r} was asked as {one.understood!r}")


def _emit_answers(image: dict[str, Any], questions: list[str], found: list[Answer]) -> None:
    """A record for each question about an image, which is named in it."""
    for question, one in zip(questions, found, strict=True):
        record = {**image, "question": question, **_written(one, "answer")}
        record |= {"probability": one.probability, **box_field(one.box)}
        record |= {"understood": one.understood} if one.understood else {}
        record |= {"declined": one.declined} if one.declined else {}
        emit(record | ({"answers": [_choice(c) for c in one.ranking]} if one.ranking else {}))


def _choice(found: Choice) -> dict[str, Any]:
    shares = {"probability": found.probability, "log_probability": found.log_probability}
    return {"answer": found.text, **shares}


def _matched(found: Match, texts: list[str]) -> list[dict[str, Any]]:
    """A record of each text, the best first."""
    boxes = {} if found.boxes is None else dict(zip(texts, found.boxes.tolist(), strict=True))
    return [
        {"text": text, "match": match, "cosine": cosine if cosine == cosine else None}
        | box_field(boxes.get(text))
        for text, match, cosine in rows_of(found, texts)
    ]


COMMANDS = (caption, ask, match)
