"""Columns that `index` stores beside vectors: the caller's own, captions and tags."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.cli.inputs import load
from patchword.cli.options import EMBEDDED, EMBEDDED_BLIP
from patchword.cli.output import progress, show_warnings, warn
from patchword.errors import ImageError, counted, listed

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.index import Index

COMMIT = 32  # captions that are stored together
TAGGED = 1000  # images whose tags are stored together
PROBABLE = 0.5  # the probability from which on an image is given a label
NAMED = 10  # rows of a table that a warning names


def add_metadata(store: Index, table: Path) -> None:
    """Store the columns of a table; a warning names the rows that belong to no image."""
    lost = store.describe(table)
    if lost:
        warn(
            f"{table}: {counted(len(lost), 'row belongs', 'rows belong')} to no image of the "
            f"index: {listed(lost, NAMED)}"
        )


def add_captions(store: Index, captioner: str | None, device: str, dtype: str) -> list[ImageError]:
    """Caption the images that have no caption; a few are stored at a time. Returns the errors of
    those that cannot be opened any more."""
    from patchword.index import members
    from patchword.tasks.caption import caption_each

    default = EMBEDDED_BLIP if store.model_name == EMBEDDED else store.model_name
    bundle = load(captioner or default, device, dtype)
    todo = store.empty("caption")
    failed: list[ImageError] = []
    images = iter(todo)
    done = 0
    with progress("caption", len(todo)) as advance:
        while paths := list(islice(images, COMMIT)):
            told: dict[str, str] = {}
            sources = map(members.content_or_path, paths)
            for path, (_, found) in zip(paths, caption_each(bundle, sources), strict=True):
                if isinstance(found, ImageError):
                    failed.append(ImageError(path, found.reason))
                else:
                    told[path] = found.text
                done += 1
                advance(done, len(todo))
            store.fill(list(told), {"caption": list(told.values())})
    return failed


def add_tags(store: Index, labels: list[str], bundle: Model) -> None:
    """Give the images that have no tags those of the labels that each is probable to show, each
    label by itself."""
    import numpy as np

    from patchword.index.schema import id_of
    from patchword.tasks.classify import scorer

    store.check(bundle)
    with show_warnings():
        score = scorer(bundle, labels, multi_label=True)
    todo = store.empty("tags")
    with progress("tag", len(todo)) as advance:
        for start in range(0, len(todo), TAGGED):
            paths = todo[start : start + TAGGED]
            rows = store.rows([id_of(path) for path in paths], ["vector"])
            scores = [score(np.array(row["vector"], np.float32)) for row in rows]
            tags = [[one.label for one in each if one.probability >= PROBABLE] for each in scores]
            store.fill(paths, {"tags": tags})
            advance(start + len(paths), len(todo))
