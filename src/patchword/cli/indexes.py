"""Indexes that commands read, and the models that made them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword import cache
from patchword.cli.inputs import load
from patchword.cli.options import EMBEDDED
from patchword.cli.output import finish, notes, progress, refuse
from patchword.cli.program import command
from patchword.errors import ImageError, PatchwordError, counted

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.index import Index

IndexArgument = Annotated[
    str,
    typer.Argument(
        metavar="INDEX",
        help="The index, a folder or s3://bucket/name; or a folder of images, which is then "
        "indexed first.",
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only images that meet it: \"path LIKE '%hat%' AND width > 640 AND modified > date "
        "'2026-01-31'\".",
    ),
]
OwnModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="By default the model of the index."),
]
OwnDtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="int8|float32|bfloat16|float16",
        help="Number type of the weights; by default that of the index.",
    ),
]


def index_and_model(
    index: str, model: str | None, device: str, dtype: str | None, texts_alone: bool = False
) -> tuple[Index, Model, list[ImageError]]:
    """The index to read, its model, and for a folder of images the errors of those that are not in
    its index. texts_alone: load only what texts need."""
    from patchword.images.broken_links import dangling
    from patchword.index import open_index

    if not index:  # as of a variable of the shell that is not set; Path("") is the current folder
        refuse("the name of the index is empty")
    if reason := dangling(index):
        refuse(f"{index}: {reason}")
    folder = Path(index)
    if folder.is_dir() and not any(folder.glob("*.lance")):
        bundle = load(model or EMBEDDED, device, dtype or "float32")
        store, failed = index_of(folder, bundle)
        return store, bundle, failed
    store = open_index(index)
    name = model or store.model_name
    options: dict[str, Any] = {"dtype": "float32"}
    if not model:
        options |= store.options
    if dtype:
        options["dtype"] = dtype
    store.read_ahead()
    return store, load(name, device, texts_alone=texts_alone, **options), []


def index_of(folder: Path, model: Model) -> tuple[Index, list[ImageError]]:
    """The index of a folder of images, brought up to date, and the errors of images that are not in
    it. The user's cache holds one for each folder and model."""
    from patchword.index import open_index
    from patchword.index.schema import FORMAT

    real = os.path.realpath(folder)
    key = f"{real}\0{model.fingerprint}\0{FORMAT}".encode(errors="surrogateescape")
    digest = hashlib.sha256(key).hexdigest()[:12]
    place = cache.folder() / "indexes" / f"{Path(real).name}-{digest}"
    if not place.exists():
        own_place = command("index", str(folder), "--into", "photos.index")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place.parent).close()
        except OSError as error:
            raise PatchwordError(
                f"{folder}: no index of it can be kept in {place.parent}: {error.strerror}; let "
                "PATCHWORD_CACHE name a folder that can be written, or choose the place: "
                f"{own_place}"
            ) from error
        notes().print(
            f"making an index in {place} ($PATCHWORD_CACHE); to choose the place: {own_place}"
        )
    store = open_index(place)
    with progress("index") as advance:
        report = store.add(folder, model, progress=advance)
    if not (report.added or report.unchanged or report.moved or report.failed):
        message = f"{folder}: neither an index nor a folder with images in it"
        if len(store):
            message += f"; what was there is still indexed: {counted(len(store), 'image')}"
        raise PatchwordError(message)
    pruned = len(store.prune()) if len(store) else 0
    if report.added or pruned:
        counts = f"{report.added} added, {report.unchanged} unchanged, {pruned} pruned"
        notes().print(f"{folder} is indexed in {place}: {counted(len(store), 'image')} ({counts})")
    if not len(store):
        finish(report.failed, 0)
    return store, report.failed
