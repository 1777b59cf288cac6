"""capfilt: better captions for a dataset, written and filtered by models."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.inputs import load
from patchword.cli.options import (
    EMBEDDED_BLIP,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxPixelsOption,
    SquashOption,
    StretchOption,
)
from patchword.cli.output import (
    emit,
    finish,
    make_folder,
    notes,
    print_saved,
    progress,
    screen,
    warnings_said,
    wrong,
)
from patchword.errors import ImageError, UnsupportedError, listed

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.capfilt.dataset import Photo, Photos
    from patchword.capfilt.filtering import ScoredText
    from patchword.capfilt.store import Shard, Store
    from patchword.images import ImageLike


def capfilt(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A folder of images, with a metadata.csv or .jsonl of captions; a table; a .tar.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the new dataset.")],
    captioner: Annotated[
        str,
        typer.Option(
            "--captioner", "--model", "-m", metavar="MODEL", help="The model that writes captions."
        ),
    ] = EMBEDDED_BLIP,
    filter: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that filters captions; by default the captioner, if it can match.",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="Captions sampled for each image.")
    ] = 1,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="Nucleus sampling, from the most probable tokens whose probabilities sum to P.",
        ),
    ] = 0.9,
    min_length: Annotated[
        int, typer.Option(min=0, help="Least number of tokens of a sampled caption.")
    ] = 5,
    max_length: Annotated[
        int, typer.Option(min=2, help="Largest number of tokens, start and end included.")
    ] = 20,
    prompt: Annotated[str, typer.Option(help="First words of every sampled caption.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="P", min=0, max=1, help="Keep captions with a match probability of P or more."
        ),
    ] = 0.5,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="0/4: the first of four parts; other processes do the others."
        ),
    ] = "0/1",
    image_column: Annotated[
        str, typer.Option(metavar="NAME", help="By default a column of a usual name.")
    ] = "",
    caption_column: Annotated[
        str, typer.Option(metavar="NAME", help="By default a column of a usual name.")
    ] = "",
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Write captions for a dataset's images, and drop those, old or new, that do not match.

    IN is a dataset as “patchword train” reads it: a folder, a .csv, .tsv, .json, .jsonl or
    .parquet, or a webdataset .tar; images without captions get sampled ones alone. OUT becomes a
    folder that “patchword train” reads: metadata.jsonl with the captions that are kept,
    provenance.jsonl with all of them and their scores, and report.html. Interrupted at any moment,
    the same command continues. With --json, one line per image.
    """
    part = _shard(shard)
    make_folder(out, itself=True)
    from patchword.capfilt.dataset import open_photos
    from patchword.capfilt.filtering import BATCH
    from patchword.capfilt.store import Store

    photos = open_photos(source, out, image_column, caption_column)
    if photos.left_out:
        notes().print(f"captions alone are written; left out: {listed(photos.left_out, 8)}")
    writer = load(captioner, device, dtype, stretch, max_pixels, squash)
    scorer = _scorer(writer, filter, device, dtype)
    options = {
        "count": count, "top_p": top_p, "min_length": min_length, "max_length": max_length,
        "prompt": prompt, "seed": seed, "threshold": threshold,
    }  # fmt: skip
    data = {"name": f"{source}, {len(photos)} images", "fingerprint": photos.digest}
    plan: dict[str, Any] = {"captioner": _named(writer), "filter": _named(scorer), "data": data}
    plan |= options | {"shards": part.count, "batch": BATCH}
    store = Store(out, plan, part, -(-len(photos) // BATCH))
    with warnings_said():
        for name, scored in _run(photos, store, (writer, scorer), options):
            if as_json:
                emit({"image": name, "captions": [each.record() for each in scored]})
    missing = store.unfinished()
    if missing:
        left = ", ".join(map(str, missing))
        notes().print(f"shard {part} is done; left before the dataset is written: {left}")
    else:
        _write(store, plan, as_json)
    rows = list(store.shard_images())
    failed = [ImageError(row["image"], row["error"]) for row in rows if "error" in row]
    finish(failed, len(rows) - len(failed), as_json)


def _run(
    photos: Photos, store: Store, models: tuple[Model, Model], options: Mapping[str, Any]
) -> Iterator[tuple[str, list[ScoredText]]]:
    """Score the images that have no scores yet, batch by batch: name and scored texts of each one
    that could be opened, after its batch is stored."""
    from patchword.capfilt.filtering import BATCH, capfilt_each
    from patchword.models.generate import GenerationOptions

    todo = store.resume()
    blocks = [range(b * BATCH, min((b + 1) * BATCH, len(photos))) for b in todo]
    waiting: deque[Photo] = deque()

    def pairs() -> Iterator[tuple[ImageLike, Sequence[str]]]:
        for block in blocks:
            for number in block:
                waiting.append(photos[number])
                yield waiting[-1].image, waiting[-1].texts

    how = {name: value for name, value in options.items() if name not in ("prompt", "threshold")}
    each = capfilt_each(
        *models,
        pairs(),
        options["prompt"],
        options["threshold"],
        GenerationOptions(**how),
    )
    total = sum(map(len, blocks))
    with progress("capfilt", total) as advance:
        done = 0
        for batch, block in zip(todo, blocks, strict=True):
            images, results = [], []
            pictures: dict[str, bytes] = {}
            for _, scored in islice(each, len(block)):
                photo = waiting.popleft()
                row = _row(photos, photo, scored, pictures)
                images.append(row)
                results += [] if isinstance(scored, ImageError) else [(photo.name, scored)]
                advance(done := done + 1, total)
            store.append(batch, images, pictures)
            yield from results


def _row(
    photos: Photos, photo: Photo, scored: list[ScoredText] | ImageError, pictures: dict[str, bytes]
) -> dict[str, Any]:
    """An image as it is stored; one that was inside a table or a tar is added to `pictures`."""
    from patchword.capfilt.store import IMAGES
    from patchword.images.kinds import suffix_of

    if isinstance(scored, ImageError):
        return {"image": photo.name, "error": photo.fault or scored.reason}
    if isinstance(photo.image, str):
        name = photos.file_name(photo.image)
    else:
        name = f"{IMAGES}/{photo.number:07d}{suffix_of(photo.image)}"
        pictures[name] = photo.image
    return {"image": name, "captions": [each.record() for each in scored]}


def _write(store: Store, plan: Mapping[str, Any], as_json: bool) -> None:
    """Write the dataset, the score of every caption, and the page."""
    from patchword.capfilt import page
    from patchword.capfilt.store import DATASET, PROVENANCE, REPORT

    store.replace(DATASET, _lines(store.images(), _kept))
    store.replace(PROVENANCE, _lines(store.images(), _all))
    found = page.Tally.of(store.images())
    store.replace(REPORT, [page.report(found, plan, store.folder)])
    (notes() if as_json else screen()).print(page.tally_table(found))
    notes().print(f"{found.summary()}: {store.folder / DATASET}")
    print_saved(store.folder / REPORT)


def _lines(
    rows: Iterable[Mapping[str, Any]], each: Callable[[Mapping[str, Any]], Iterable[Any]]
) -> Iterator[str]:
    """JSON Lines of the records that `each` makes of every image that could be opened."""
    good = (row for row in rows if "error" not in row)
    return (json.dumps(record) + "\n" for row in good for record in each(row))


def _kept(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The record of an image in the dataset, with its distinct texts; none without a text."""
    texts = list(dict.fromkeys(each["text"] for each in row["captions"] if each["kept"]))
    if texts:
        yield {"file_name": row["image"], "captions": texts}


def _all(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A record for each text of an image, kept or not."""
    return ({"image": row["image"], **each} for each in row["captions"])


def _scorer(writer: Model, filter: str | None, device: str, dtype: str) -> Model:
    """The model that scores captions; the captioner itself where that is the same."""
    from patchword.tasks.match import matcher

    scorer = load(filter, device, dtype) if filter else writer
    scorer = scorer.opening(
        writer.opener.stretch,
        writer.opener.max_pixels,
        squash=bool(writer.options.get("squash")),
        exact=writer.opener.exact,
    )
    try:
        matcher(scorer)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error}, as --filter") from error
    return writer if scorer.fingerprint == writer.fingerprint else scorer


def _named(model: Model) -> dict[str, str]:
    return {"name": model.name, "fingerprint": model.fingerprint}


def _shard(text: str) -> Shard:
    """ "0/4" """
    from patchword.capfilt.store import Shard

    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        wrong(f"--shard {text}: say 0/4, 1/4, 2/4 and 3/4 for four parts")
    return Shard(int(number), int(count))


COMMANDS = (capfilt,)
