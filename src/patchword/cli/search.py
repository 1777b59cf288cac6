"""search: the images of an index, or of a folder, by words and images."""

from __future__ import annotations

import os
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
from patchword.cli.inputs import KEEP_ALL, embed_texts, expand, load
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


PICTURED = 100  # searches in one picture
WEIGHTS = 1.0, 1.0, 0.5  # of words, --image and --without


@dataclass(frozen=True)
class _Asked:
    """The options of a search that are the same for each of its queries."""

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
            help="What to look for, in words; @FILE: many queries, one a line.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", "-t", metavar="QUERY", help="The same as the argument QUERY."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", "-i", metavar="IMAGE", help="An image to look for, with or without words."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What is not wanted: “a dog”; repeat for more."),
    ] = None,
    text_weight: Annotated[
        float, typer.Option(metavar="W", help="Weight of the words beside --image and --without.")
    ] = WEIGHTS[0],
    image_weight: Annotated[float, typer.Option(metavar="W", help="Weight of --image.")] = WEIGHTS[
        1
    ],
    without_weight: Annotated[
        float, typer.Option(metavar="W", help="Weight of --without.")
    ] = WEIGHTS[2],
    condition: WhereOption = None,
    k: Annotated[int, typer.Option("-k", min=1, metavar="K", help="Number of images.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Leave out the N best.")] = 0,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Compare all images, in an index so large that a search is approximate."
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say whether the search is exact, and what it may miss."),
    ] = False,
    rerank: Annotated[
        int, typer.Option(min=0, help="Rerank the N best with a model that matches; 0 is off.")
    ] = 0,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A BLIP with a matching head, for --rerank. By default the index's own model, or "
            "demo-blip where that is demo.",
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
    """Find images by words, by an image, or by both, and without what is not wanted.

    The score is the cosine with the sum of the weighed queries. With --rerank, a BLIP with a
    matching head reorders the best hits by the probability that image and query belong together.
    """
    if words and text is not None:
        refuse("give the words to look for once")
    queries = _queries([*(words or []), *([] if text is None else [text])])
    _check(queries, image, rerank, reranker, heatmap, heatmap and not save)
    _check_weights((text_weight, image_weight, without_weight), bool(image), bool(without))
    picture = _only(image) if image else None
    check_save(save, pages=True, images=[picture] if picture else ())
    if save and save.suffix.lower() != ".html" and len(queries) > PICTURED:
        refuse(f"--save {save}: {len(queries):,} searches are no picture; save a page (.html)")
    from patchword.tasks.match import matcher

    words_alone = not (image or rerank or heatmap)
    store, bundle, failed = index_and_model(index, model, device, dtype, words_alone)
    if save:
        _spare_photos(save, store)
    photos = len(store) if failed else 0  # of a folder, where some are not in its index
    reranker = reranker or (EMBEDDED_BLIP if bundle.name == EMBEDDED else None)
    scorer = load(reranker, device, dtype or "float32") if rerank and reranker else bundle
    if rerank:
        matcher(scorer)
    weights = text_weight, image_weight, without_weight
    asked = _Asked(k, offset, picture, without or [], weights, condition, exact, long_text, rerank)
    each: list[str | None] = [*queries] or [None]
    # Many are embedded together, which takes a fraction of the time of one after the other.
    vectors = embed_texts(bundle, queries, long_text) if len(queries) > 1 else each
    found = []
    with progress("search", len(each)) as advance:
        for query, vector in zip(each, vectors, strict=True):
            found.append(_find(store, bundle, scorer, query, vector, asked))
            advance(len(found), len(each))
    if explain:
        notes().print(explained(store.explain(k + offset, where=condition, exact=exact)))
    failed += [each.error for one in found for each in one.answers if each.error]
    print_hits(found, failed, as_json)
    hits = [one for one in found if one.answers]
    if hits and save:
        texts = [one.query if heatmap else None for one in hits]
        failed += save_hits(hits, save, bundle, texts)
    elif save:
        warn(f"{save}: not written, because nothing was found")
    by_name = {error.image: error for error in failed}
    done = sum(each.hit.path not in by_name for one in found for each in one.answers)
    finish(list(by_name.values()), photos or done)


def _spare_photos(save: Path, store: Index) -> None:
    """Refuse to write a result over a photo of the index."""
    from patchword.index.schema import id_of

    with suppress(IndexStoreError):  # no such photo
        store.rows([id_of(os.path.abspath(save))], ["path"])
        refuse(f"--save {save}: a photo of the index would be overwritten; give another name")


def _only(name: str) -> Source:
    """The one image that --image names, in any of the ways of `expand`."""
    found = expand([name])
    if len(found) > 1:
        refuse(f"--image {name}: {counted(len(found), 'image')}; give one")
    return found[0]


def _queries(words: list[str]) -> list[str]:
    """The words to look for; the lines of a file of "@FILE"."""
    text = " ".join(words)
    if words and not text.strip():
        refuse("the words to look for are empty")
    return read_list([text]) if text.startswith("@") else words and [text]


def _check(
    queries: list[str],
    image: str | None,
    rerank: int,
    reranker: str | None,
    heatmap: bool,
    unsaved: bool,
) -> None:
    if not queries and not image:
        refuse("give words to look for, or --image")
    if reranker and not rerank:
        refuse("--reranker needs --rerank N, the number of hits to rerank")
    if rerank and not queries:
        refuse("--rerank needs words to look for")
    if heatmap and not queries:
        refuse("--heatmap draws where words apply: give words to look for")
    if unsaved:
        refuse("--heatmap draws over the hits: give --save FILE too")


def _check_weights(weights: tuple[float, float, float], image: bool, without: bool) -> None:
    """Refuse a weight of what is not there."""
    has = (image or without, "--image or --without"), (image, "--image"), (without, "--without")
    names = "--text-weight", "--image-weight", "--without-weight"
    for name, given, usual, (there, what) in zip(names, weights, WEIGHTS, has, strict=True):
        if given != usual and not there:
            refuse(f"{name} needs {what}")


def _find(
    store: Index,
    bundle: Model,
    scorer: Model,
    query: str | None,
    vector: str | NDArray[Any] | None,
    asked: _Asked,
) -> QueryHits:
    """The answers to one query, given in words and as it is searched."""
    from patchword.images import name_of
    from patchword.tasks.match import Reranked

    # What is reranked is the same on each page, so that no page has a hit of another.
    offset = 0 if asked.rerank else asked.offset
    first = asked.offset - offset
    with show_warnings(KEEP_ALL):
        hits = store.search(
            vector, max(first + asked.k, asked.rerank), offset=offset, image=asked.image,
            without=asked.without, text_weight=asked.weights[0], image_weight=asked.weights[1],
            without_weight=asked.weights[2], where=asked.where, exact=asked.exact, model=bundle,
            long_text=asked.long_text,
        )  # fmt: skip
    answers: list[Reranked[Hit]] = [Reranked(hit, None) for hit in hits]
    if asked.rerank and query:
        with show_warnings():
            answers = scorer.rerank(hits, query, asked.rerank)
    shown = None if asked.image is None else name_of(asked.image)
    title = " + ".join(filter(None, [query, shown]))
    title += "".join(f" − {each}" for each in asked.without)
    answers = answers[first : first + asked.k]
    return QueryHits(title, query or str(shown), answers, asked.rerank > 0, asked.offset + 1)


def explained(found: Explained) -> str:
    """How an index is searched, in a line for people."""
    line = f"{found.way} search of {counted(found.rows, 'image')}: {found.why}"
    if found.way == "approximate" and found.later:
        line += f"; {found.later} came later and are all compared"
    if found.way == "approximate" and found.recall:
        recall = found.recall
        line += (
            f"; of the 10 nearest it found {share(recall.image)} for images and "
            f"{share(recall.text)} for texts ({recall.queries} of each, texts {recall.texts}), "
            f"measured with {recall.rows} images; --exact finds all"
        )
    return line


COMMANDS = (search,)
