"""search: the images of an index, or of a folder, by words and images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.hits import QueryHits, print_hits, save_hits
from patchword.cli.indexes import (
    IndexArgument,
    OwnDtypeOption,
    OwnModelOption,
    WhereOption,
    index_and_model,
)
from patchword.cli.inputs import KEEP_ALL, STDIN, embed_texts, expand, load
from patchword.cli.member_images import Source
from patchword.cli.options import (
    EMBEDDED,
    EMBEDDED_BLIP,
    DeviceOption,
    JsonOption,
    LongTextOption,
    SaveOption,
)
from patchword.cli.output import (
    check_save,
    finish,
    notes,
    progress,
    refuse,
    show_warnings,
    warn,
)
from patchword.cli.texts import read_list
from patchword.errors import IndexStoreError, counted
from patchword.show.percent import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from patchword.api import Model
    from patchword.index import Explained, Hit, Index
    from patchword.tasks.match import Reranked


MAX_PICTURED = 100  # searches in one picture
DEFAULT_WEIGHTS = 1.0, 1.0, 0.5  # of words, --image and --without


@dataclass(frozen=True)
class _SearchOptions:
    """The options that all queries share. weights: of words, --image and --without."""

    k: int
    offset: int
    image: Source | None
    without: list[str]
    weights: tuple[float, float, float]
    where: str | None
    exact: bool
    long_text: str
    rerank: int


def search(
    index: IndexArgument,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]",
            help="What to search for, in words; @FILE: many queries, one per line.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", "-t", metavar="QUERY", help="The same as the argument QUERY."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", "-i", metavar="IMAGE", help="An image to search with, alone or with words."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help='What the images should not show: "a dog"; repeat for more, or @FILE.',
        ),
    ] = None,
    text_weight: Annotated[
        float, typer.Option(metavar="W", help="Weight of the words beside --image and --without.")
    ] = DEFAULT_WEIGHTS[0],
    image_weight: Annotated[
        float, typer.Option(metavar="W", help="Weight of --image.")
    ] = DEFAULT_WEIGHTS[1],
    without_weight: Annotated[
        float, typer.Option(metavar="W", help="Weight of --without.")
    ] = DEFAULT_WEIGHTS[2],
    condition: WhereOption = None,
    k: Annotated[int, typer.Option("-k", min=1, metavar="K", help="Number of images.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Skip the N best.")] = 0,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Compare with all images, also in an index that is so large that searches are "
            "approximate.",
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Tell whether the search is exact, and how much it may miss."
        ),
    ] = False,
    rerank: Annotated[
        int, typer.Option(min=0, help="Rerank the N best with a model that matches; 0 is off.")
    ] = 0,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The BLIP with a matching head for --rerank. By default the model of the index, "
            "or demo-blip where that is demo.",
        ),
    ] = None,
    heatmap: Annotated[
        bool,
        typer.Option("--heatmap", help="Draw where the words apply over each hit of --save."),
    ] = False,
    long_text: LongTextOption = "truncate",
    save: SaveOption = None,
    model: OwnModelOption = None,
    device: DeviceOption = "auto",
    dtype: OwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for images by words, by an image or by both; --without excludes things.

    The score is the cosine with the weighted sum of the queries. With --rerank, a BLIP with a
    matching head reorders the best hits by the probability that image and query belong together.
    """
    if words and text is not None:
        refuse("give the words to look for once")
    queries = _queries([*(words or []), *([] if text is None else [text])])
    others = _others(without)
    _check_options(queries, image, rerank, reranker, heatmap, save)
    weights = text_weight, image_weight, without_weight
    _check_weights(weights, bool(image), bool(without))
    query_image = _single_image(image) if image else None
    check_save(save, pages=True, images=[query_image] if query_image else ())
    if save and save.suffix.lower() != ".html" and len(queries) > MAX_PICTURED:
        refuse(f"--save {save}: {len(queries):,} searches are no picture; save a page (.html)")
    from patchword.tasks.match import matcher

    texts_alone = not (image or rerank or heatmap)
    store, bundle, failed = index_and_model(index, model, device, dtype, texts_alone)
    if save:
        _check_not_indexed(save, store)
    photos = len(store) if failed else 0  # of a folder with images that cannot be indexed
    scorer = bundle
    if rerank:
        if reranker or bundle.name == EMBEDDED:
            scorer = load(reranker or EMBEDDED_BLIP, device, dtype or "float32")
        matcher(scorer)
    options = _SearchOptions(
        k, offset, query_image, others, weights, condition, exact, long_text, rerank
    )
    # Many texts are embedded together, which is much faster than one after the other.
    vectors: Sequence[str | NDArray[Any] | None] = queries or [None]
    if len(queries) > 1:
        vectors = list(embed_texts(bundle, queries, long_text))
    results = []
    with progress("search", len(vectors)) as advance:
        for query, vector in zip(queries or [""], vectors, strict=True):
            results.append(_search_one(store, bundle, scorer, query, vector, options))
            advance(len(results), len(vectors))
    if explain:
        explanation = store.explain(k + offset, where=condition, exact=exact)
        notes().print(explanation_line(explanation))
    failed += [ranked.error for result in results for ranked in result.hits if ranked.error]
    print_hits(results, failed, as_json)
    with_hits = [result for result in results if result.hits]
    if with_hits and save:
        texts = [result.query if heatmap else None for result in with_hits]
        failed += save_hits(with_hits, save, bundle, texts)
    elif save:
        warn(f"{save}: not written, because nothing was found")
    errors = {error.image: error for error in failed}
    opened = sum(ranked.hit.path not in errors for result in results for ranked in result.hits)
    finish(list(errors.values()), photos or opened)


def _check_not_indexed(save: Path, store: Index) -> None:
    """Refuse to write a result over a photo of the index."""
    from patchword.index.schema import id_of

    with suppress(IndexStoreError):  # no such photo
        store.rows([id_of(os.path.abspath(save))], ["path"])
        refuse(f"--save {save}: a photo of the index would be overwritten; give another name")


def _single_image(name: str) -> Source:
    """The image that --image names, in any way that `expand` knows."""
    images = expand([name])
    if len(images) > 1:
        refuse(f"--image {name}: {counted(len(images), 'image')}; give one")
    return images[0]


def _queries(words: list[str]) -> list[str]:
    """The text to look for, as a list of one; of "@FILE" the lines of the file."""
    if not words:
        return []
    text = " ".join(words)
    if not text.strip():
        refuse("the words to look for are empty")
    if text == STDIN:
        refuse(f"{text}: words are not read from standard input; a list is: @/dev/stdin")
    _check_is_text(text)
    return read_list([text])


def _others(texts: list[str] | None) -> list[str]:
    """The texts of --without; of "@FILE" the lines of the file."""
    for text in texts or ():
        _check_is_text(text)
    return read_list(texts)


def _check_is_text(text: str) -> None:
    """Refuse the name of an image where words are wanted: as words it would find anything."""
    from patchword.images.files import picture_suffixes

    if os.path.isfile(text) and os.path.splitext(text)[1].lower() in picture_suffixes():
        refuse(f"{text} is a file and stands where words are wanted; to search with it: --image")


def _check_options(
    queries: list[str],
    image: str | None,
    rerank: int,
    reranker: str | None,
    heatmap: bool,
    save: Path | None,
) -> None:
    """Refuse options that lack what they need."""
    if not queries and not image:
        refuse("give words to look for, or --image")
    if reranker and not rerank:
        refuse("--reranker needs --rerank N, the number of hits to rerank")
    if rerank and not queries:
        refuse("--rerank needs words to look for")
    if heatmap and not queries:
        refuse("--heatmap draws where words apply: give words to look for")
    if heatmap and not save:
        refuse("--heatmap draws over the hits: give --save FILE too")


def _check_weights(weights: tuple[float, float, float], image: bool, without: bool) -> None:
    """Refuse the weight of a query that is not given."""
    text_weight, image_weight, without_weight = weights
    if text_weight != DEFAULT_WEIGHTS[0] and not (image or without):
        refuse("--text-weight needs --image or --without")
    if image_weight != DEFAULT_WEIGHTS[1] and not image:
        refuse("--image-weight needs --image")
    if without_weight != DEFAULT_WEIGHTS[2] and not without:
        refuse("--without-weight needs --without")


def _search_one(
    store: Index,
    bundle: Model,
    scorer: Model,
    query: str,
    vector: str | NDArray[Any] | None,
    options: _SearchOptions,
) -> QueryHits:
    """The hits of one query. query: its words, or empty. vector: the words or their vector; None
    where only the image is looked for."""
    from patchword.tasks.match import Reranked

    # Reranking always begins with the first hit, so that no hit is on two pages.
    offset = 0 if options.rerank else options.offset
    first = options.offset - offset
    with show_warnings(KEEP_ALL):
        hits = store.search(
            vector, max(first + options.k, options.rerank), offset=offset, image=options.image,
            without=options.without, text_weight=options.weights[0],
            image_weight=options.weights[1], without_weight=options.weights[2],
            where=options.where, exact=options.exact, model=bundle, long_text=options.long_text,
        )  # fmt: skip
    answers: list[Reranked[Hit]] = [Reranked(hit, None) for hit in hits]
    if options.rerank and query:
        with show_warnings():
            answers = scorer.rerank(hits, query, options.rerank)
    image_name = "" if options.image is None else str(options.image)
    title = " + ".join(filter(None, [query, image_name]))
    title += "".join(f" − {text}" for text in options.without)
    answers = answers[first : first + options.k]
    return QueryHits(title, query or image_name, answers, options.rerank > 0, options.offset + 1)


def explanation_line(explanation: Explained) -> str:
    """How an index is searched, in one line."""
    line = f"{explanation.way} search of {counted(explanation.rows, 'image')}: {explanation.why}"
    if explanation.way == "approximate" and explanation.later:
        line += f"; {explanation.later} came later and are all compared"
    if explanation.way == "approximate" and explanation.recall:
        recall = explanation.recall
        line += (
            f"; of the 10 nearest it found {share(recall.image)} for images and "
            f"{share(recall.text)} for texts ({recall.queries} of each, texts {recall.texts}), "
            f"measured with {recall.rows} images; --exact finds all"
        )
    return line


COMMANDS = (search,)
