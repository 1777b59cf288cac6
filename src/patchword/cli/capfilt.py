"""capfilt: better captions for a dataset, written and filtered by models."""

from __future__ import annotations

import json
import math
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
    notes,
    prepare_output,
    print_saved,
    progress,
    refuse,
    screen,
    show_warnings,
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
            metavar="I/N",
            help="Do one of several parts; 0/4 is the first of four. Other processes do the "
            "others.",
        ),
    ] = "0/1",
    image_column: Annotated[
        str, typer.Option(metavar="NAME", help="By default a column with a common name.")
    ] = "",
    caption_column: Annotated[
        str, typer.Option(metavar="NAME", help="By default a column with a common name.")
    ] = "",
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Write captions for a dataset's images, and drop those, old or new, that do not match.

    IN is a dataset as "patchword train" reads it: a folder, a .csv, .tsv, .json, .jsonl or
    .parquet, or a webdataset .tar; for images without captions, all are sampled. OUT becomes a
    folder that "patchword train" reads: metadata.jsonl with the captions that are kept,
    provenance.jsonl with all of them and their scores, and report.html. Interrupted at any moment,
    the same command continues. With --json, one line per image.
    """
    part = _shard(shard)
    prepare_output(out, is_folder=True)
    from patchword.capfilt.dataset import open_photos
    from patchword.capfilt.filtering import BATCH
    from patchword.capfilt.store import Store

    photos = open_photos(source, out, image_column, caption_column)
    if photos.left_out:
        columns = listed(photos.left_out, 8)
        notes().print(f"only captions are written; other columns are left out: {columns}")
    captioning = load(captioner, device, dtype, stretch, max_pixels, squash)
    matching = _matching_model(captioning, filter, device, dtype)
    options = {
        "count": count, "top_p": top_p, "min_length": min_length, "max_length": max_length,
        "prompt": prompt, "seed": seed, "threshold": threshold,
    }  # fmt: skip
    plan: dict[str, Any] = {
        "captioner": {"name": captioning.name, "fingerprint": captioning.fingerprint},
        "filter": {"name": matching.name, "fingerprint": matching.fingerprint},
        "data": {"name": f"{source}, {len(photos)} images", "fingerprint": photos.digest},
        **options,
        "shards": part.count,
        "batch": BATCH,
    }
    store = Store(out, plan, part, math.ceil(len(photos) / BATCH))
    with show_warnings():
        for name, scored in _run(photos, store, (captioning, matching), options):
            if as_json:
                emit({"image": name, "captions": [each.record() for each in scored]})
    unfinished = store.unfinished()
    if unfinished:
        shards = ", ".join(map(str, unfinished))
        notes().print(f"shard {part} is done; left before the dataset is written: {shards}")
    else:
        _write(store, plan, as_json)
    rows = list(store.shard_images())
    failed = [ImageError(row["image"], row["error"]) for row in rows if "error" in row]
    finish(failed, len(rows) - len(failed), as_json)


def _run(
    photos: Photos, store: Store, models: tuple[Model, Model], options: Mapping[str, Any]
) -> Iterator[tuple[str, list[ScoredText]]]:
    """Caption and score the images that have no scores yet, batch by batch. Yields the name and the
    scored texts of each image that could be opened, after its batch is stored."""
    from patchword.capfilt.filtering import BATCH, capfilt_each
    from patchword.models.generate import GenerationOptions

    todo = store.resume()
    batches = [range(b * BATCH, min((b + 1) * BATCH, len(photos))) for b in todo]
    opened: deque[Photo] = deque()  # photos whose result has not come yet

    def pairs() -> Iterator[tuple[ImageLike, Sequence[str]]]:
        for batch in batches:
            for number in batch:
                photo = photos[number]
                opened.append(photo)
                yield photo.image, photo.texts

    sampling = {k: value for k, value in options.items() if k not in ("prompt", "threshold")}
    results = capfilt_each(
        *models, pairs(), options["prompt"], options["threshold"], GenerationOptions(**sampling)
    )
    total = sum(map(len, batches))
    done = 0
    with progress("capfilt", total) as advance:
        for number, batch in zip(todo, batches, strict=True):
            rows, scored_photos = [], []
            pictures: dict[str, bytes] = {}
            for _, scored in islice(results, len(batch)):
                photo = opened.popleft()
                rows.append(_row(photos, photo, scored, pictures))
                if not isinstance(scored, ImageError):
                    scored_photos.append((photo.name, scored))
                done += 1
                advance(done, total)
            store.append(number, rows, pictures)
            yield from scored_photos


def _row(
    photos: Photos, photo: Photo, scored: list[ScoredText] | ImageError, pictures: dict[str, bytes]
) -> dict[str, Any]:
    """The stored row of an image. An image from inside a table or a tar is added to `pictures`."""
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
    """Write the dataset, the scores of all captions, and the page."""
    from patchword.capfilt import page
    from patchword.capfilt.store import DATASET, PROVENANCE, REPORT

    store.replace(DATASET, _lines(store.images(), _dataset_records))
    store.replace(PROVENANCE, _lines(store.images(), _score_records))
    tally = page.Tally.of(store.images())
    store.replace(REPORT, [page.report(tally, plan, store.folder)])
    (notes() if as_json else screen()).print(page.tally_table(tally))
    notes().print(f"{tally.summary()}: {store.folder / DATASET}")
    print_saved(store.folder / REPORT)


def _lines(
    rows: Iterable[Mapping[str, Any]], to_records: Callable[[Mapping[str, Any]], Iterable[Any]]
) -> Iterator[str]:
    """JSON Lines of the records of each image that could be opened."""
    for row in rows:
        if "error" not in row:
            for record in to_records(row):
                yield json.dumps(record) + "\n"


def _dataset_records(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The record of an image with its distinct texts that are kept; none without such a text."""
    texts = list(dict.fromkeys(each["text"] for each in row["captions"] if each["kept"]))
    if texts:
        yield {"file_name": row["image"], "captions": texts}


def _score_records(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A record for each text of an image, kept or not."""
    return ({"image": row["image"], **each} for each in row["captions"])


def _matching_model(captioning: Model, filter: str | None, device: str, dtype: str) -> Model:
    """The model that filters captions; the captioner itself where that is the same model."""
    from patchword.tasks.match import matcher

    matching = load(filter, device, dtype) if filter else captioning
    matching = matching.opening(
        captioning.opener.stretch,
        captioning.opener.max_pixels,
        squash=bool(captioning.options.get("squash")),
        exact=captioning.opener.exact,
    )
    try:
        matcher(matching)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error}, as --filter") from error
    return captioning if matching.fingerprint == captioning.fingerprint else matching


def _shard(text: str) -> Shard:
    """ "0/4" as numbers."""
    from patchword.capfilt.store import Shard

    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        refuse(f"--shard {text}: say 0/4, 1/4, 2/4 and 3/4 for four parts")
    return Shard(int(number), int(count))


COMMANDS = (capfilt,)
