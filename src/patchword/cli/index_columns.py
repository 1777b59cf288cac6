"""Columns that `index` stores beside vectors: those of the user's tables, captions and tags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from patchword.cli.inputs import load
from patchword.cli.options import EMBEDDED, EMBEDDED_BLIP
from patchword.cli.output import progress, show_warnings, warn
from patchword.errors import ImageError, counted, listed

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.index import Index

CAPTION_BATCH = 32  # captions that are stored together
TAG_BATCH = 1000  # images whose tags are stored together
TAG_THRESHOLD = 0.5  # an image is given a label from this probability on
MAX_NAMED = 10  # rows of a table that a warning names


def add_metadata(store: Index, table: Path) -> None:
    """Store the columns of a table. A warning names the rows that belong to no image."""
    unmatched = store.describe(table)
    if unmatched:
        warn(
            f"{table}: {counted(len(unmatched), 'row belongs', 'rows belong')} to no image of the "
            f"index: {listed(unmatched, MAX_NAMED)}"
        )


def add_captions(store: Index, captioner: str | None, device: str, dtype: str) -> list[ImageError]:
    """Caption the images that have no caption, and store the captions in batches. Returns the
    errors of images that cannot be opened any more."""
    from patchword.index import members
    from patchword.tasks.caption import caption_each

    default = EMBEDDED_BLIP if store.model_name == EMBEDDED else store.model_name
    bundle = load(captioner or default, device, dtype)
    todo = store.empty("caption")
    failed: list[ImageError] = []
    done = 0
    with progress("caption", len(todo)) as advance:
        for start in range(0, len(todo), CAPTION_BATCH):
            paths = todo[start : start + CAPTION_BATCH]
            captions: dict[str, str] = {}
            results = caption_each(bundle, map(members.content_or_path, paths))
            for path, (_, result) in zip(paths, results, strict=True):
                if isinstance(result, ImageError):
                    failed.append(ImageError(path, result.reason))
                else:
                    captions[path] = result.text
                done += 1
                advance(done, len(todo))
            store.fill(list(captions), {"caption": list(captions.values())})
    return failed


def add_tags(store: Index, labels: list[str], bundle: Model) -> None:
    """Give each image without tags the labels that it probably shows. Each label is judged by
    itself."""
    import numpy as np

    from patchword.index.schema import id_of
    from patchword.tasks.classify import scorer

    store.check(bundle)
    with show_warnings():
        score = scorer(bundle, labels, multi_label=True)
    todo = store.empty("tags")
    with progress("tag", len(todo)) as advance:
        for start in range(0, len(todo), TAG_BATCH):
            paths = todo[start : start + TAG_BATCH]
            tags = []
            for row in store.rows([id_of(path) for path in paths], ["vector"]):
                scores = score(np.array(row["vector"], np.float32))
                tags.append([each.label for each in scores if each.probability >= TAG_THRESHOLD])
            store.fill(paths, {"tags": tags})
            advance(start + len(paths), len(todo))
