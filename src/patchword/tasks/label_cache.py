"""A cache of label vectors on disk: labels are embedded once, not once for every call.

A cache is a convenience. A file that is damaged is made again, a folder that cannot be written is
done without, and what has not been used for longest is deleted beyond `MOST` files.
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

MOST = 256  # files of each model


def label_features(model: Bundle, labels: Sequence[str], templates: Sequence[str]) -> Vector:
    """Unit vectors (L, D) of labels, each the mean over the templates (Radford et al. 2021, section
    3.1.4).

    They are kept by the model's fingerprint, and by its weights as they are now where somebody may
    have changed them since; not for a model without one, which is used once and
    is another after the next step of its training. Sentences beyond the context give a
    LongTextWarning, and labels that the model cannot tell apart a SameLabelsWarning, whether their
    vectors were kept or not.
    """
    sentences = [filled(template, label) for label in labels for template in templates]
    tokenizer = model.reader()
    rows = tokenizer.rows(sentences)
    long_text.warn_of_long(tokenizer, rows)
    _warn_of_alike(labels, rows, tokenizer.context)

    def compute() -> Vector:
        vectors = model.embed_rows(rows).reshape(len(labels), len(templates), -1)
        means = vectors.mean(axis=1)
        return means / np.linalg.norm(means, axis=-1, keepdims=True)  # type: ignore[no-any-return]

    if not model.fingerprint:
        return compute()
    asked = repr((tuple(labels), tuple(templates))) + state(model)
    key = hashlib.sha256(asked.encode()).hexdigest()[:32]
    path = folder() / model.fingerprint / f"{key}.npy"
    return _kept(path, (len(labels), model.dim), compute)


def _warn_of_alike(labels: Sequence[str], rows: Sequence[Sequence[int]], context: int) -> None:
    """Warn of the first two labels whose sentences have the same ids in `rows`, cut to the context:
    by letter case, spaces or signs that the tokenizer does not keep."""
    first: dict[tuple[tuple[int, ...], ...], str] = {}
    each = len(rows) // max(len(labels), 1)  # sentences of a label
    for number, label in enumerate(labels):
        mine = rows[number * each : (number + 1) * each]
        same = first.setdefault(tuple(tuple(row[: context - 1]) for row in mine), label)
        if same != label:
            warn(
                f"the model reads {begun(same)!r} and {begun(label)!r} as the same, and scores "
                "them alike: leave one out, or say it in other words",
                SameLabelsWarning,
            )
            return


def state(model: Bundle) -> str:
    """By which the weights that read texts are known as they are now; "" where they are those of
    the fingerprint, since nobody has had the network, or there is none."""
    if not (model.fingerprint and getattr(model.engine, "weights_may_change", False)):
        return ""
    text = getattr(model.own_network, "text", None)
    return checksum(text if isinstance(text, nn.Module) else model.own_network)


def folder() -> Path:
    """Where label vectors are kept."""
    return cache.folder() / "texts"


def _kept(path: Path, shape: tuple[int, int], compute: Callable[[], Vector]) -> Vector:
    """The array of that shape in `path`, computed and written there first if need be."""
    try:
        values: Vector = np.load(path)
        if values.shape == shape and values.dtype == np.float32 and np.isfinite(values).all():
            with contextlib.suppress(OSError):
                os.utime(path)  # used now: deleted after the others
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
    """Delete the files of one model that have not been used for longest, beyond `MOST`."""
    files = sorted(place.glob("*.npy"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files[MOST:]:
        file.unlink(missing_ok=True)
