"""A cache of label vectors on disk, so that labels are embedded once for all calls.

The cache is never needed: a damaged file is written again, and a folder that cannot be written is
ignored. Of more than `MAX_FILES` files those unused for longest are deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from patchword import cache
from patchword.atomic_write import replacing
from patchword.bundle import Bundle, Vector
from patchword.errors import SameLabelsWarning, begun, warn
from patchword.fingerprint import checksum
from patchword.text import long_text
from patchword.text.templates import filled

MAX_FILES = 256  # files of each model


def label_features(model: Bundle, labels: Sequence[str], templates: Sequence[str]) -> Vector:
    """Unit vectors (L, D) of labels, each the mean over the templates (Radford et al. 2021, section
    3.1.4), from the cache if they are in it.

    The key is the model's fingerprint, and also the current weights if somebody may have changed
    them. A model without a fingerprint, as one in training, is not cached. Sentences longer than
    the context give a LongTextWarning, and labels with equal ids a SameLabelsWarning, cached or
    not.
    """
    sentences = [filled(template, label) for label in labels for template in templates]
    tokenizer = model.reader()
    rows = tokenizer.rows(sentences)
    long_text.warn_of_long(tokenizer, rows)
    _warn_of_same_ids(labels, rows, tokenizer.context)

    def compute() -> Vector:
        vectors = model.embed_rows(rows).reshape(len(labels), len(templates), -1)
        means = vectors.mean(axis=1)
        return means / np.linalg.norm(means, axis=-1, keepdims=True)  # type: ignore[no-any-return]

    if not model.fingerprint:
        return compute()
    request = repr((tuple(labels), tuple(templates))) + state(model)
    key = hashlib.sha256(request.encode()).hexdigest()[:32]
    path = folder() / model.fingerprint / f"{key}.npy"
    return _cached(path, (len(labels), model.dim), compute)


def _warn_of_same_ids(labels: Sequence[str], rows: Sequence[Sequence[int]], context: int) -> None:
    """Warn of the first two labels whose sentences have the same ids in `rows`, cut to the context,
    because the tokenizer ignores a difference in letter case, spaces or signs."""
    first: dict[tuple[tuple[int, ...], ...], str] = {}
    count = len(rows) // max(len(labels), 1)  # sentences of a label
    for number, label in enumerate(labels):
        sentences = rows[number * count : (number + 1) * count]
        same = first.setdefault(tuple(tuple(row[: context - 1]) for row in sentences), label)
        if same != label:
            warn(
                f"the model reads {begun(same)!r} and {begun(label)!r} as the same, and scores "
                "them alike: leave one out, or say it in other words",
                SameLabelsWarning,
            )
            return


def state(model: Bundle) -> str:
    """A checksum of the current weights of the text tower; "" if they are those of the fingerprint,
    because no caller has had the network, and for a model without a fingerprint."""
    if not (model.fingerprint and getattr(model.engine, "weights_may_change", False)):
        return ""
    text = getattr(model.own_network, "text", None)
    return checksum(text if isinstance(text, nn.Module) else model.own_network)


def folder() -> Path:
    """The folder of the cache."""
    return cache.folder() / "texts"


def _cached(path: Path, shape: tuple[int, int], compute: Callable[[], Vector]) -> Vector:
    """The array of that shape in `path`; if it is not there, it is computed and written."""
    try:
        values: Vector = np.load(path)
        if values.shape == shape and values.dtype == np.float32 and np.isfinite(values).all():
            with contextlib.suppress(OSError):
                os.utime(path)  # marks it as used
            return values
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    values = compute()
    with contextlib.suppress(OSError):
        with replacing(path) as part:
            np.save(part, values)
        _prune(path.parent)
    return values


def _prune(place: Path) -> None:
    """Delete the files of one model that were unused for longest, beyond `MAX_FILES`."""
    files = sorted(place.glob("*.npy"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files[MAX_FILES:]:
        file.unlink(missing_ok=True)
