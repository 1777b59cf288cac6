"""The demo on a user's own photos, with their own labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.cli import program
from patchword.cli.demo.findings import (
    HITS,
    Answer,
    Findings,
    describe,
    index_path,
    labels_argument,
    relative_name,
)
from patchword.cli.output import SHOWN, finish, progress, refuse, successes
from patchword.errors import PatchwordError

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.errors import ImageError

SEARCHED = 6  # labels that are searched for
COMPARED = 8  # photos, and labels, in the table of cosines
DESCRIBED = 5  # photos that a BLIP describes


def check(photos: Path, labels: Sequence[str]) -> None:
    """Refuse, before a model is loaded, photos and labels that no page can be made of."""
    from patchword.images.files import find

    if not photos.is_dir():
        refuse(f"--photos {photos}: no such folder")
    if not labels:
        refuse("--photos needs --labels, words for what may be on them: --labels dog,cat,car")
    for label in labels:
        if labels.count(label) > 1:
            refuse(f"--labels: {label!r} comes twice")
    failed: list[ImageError] = []
    if not find([photos], failed) and not failed:
        raise PatchwordError(f"no images in {photos}")


def run(model: Model, photos: Path, labels: Sequence[str], out: Path) -> Findings:
    """Do every task that the model can do, on the photos below a folder. Photos that cannot be read
    are left out, and are in `failed`; where none can be read, the command ends."""
    import numpy as np

    from patchword.images.files import find
    from patchword.index import open_index
    from patchword.scope import Check
    from patchword.tasks.classify import classify_each

    model.embed_texts(labels)  # a model without a text tower is refused before photos are opened
    root = Path(os.path.realpath(photos))
    index = index_path(out, model, root)
    store = open_index(index)
    with progress("index") as advance:
        report = store.add(root, model, advance)
    if len(store):
        store.prune()
    failed, broken = list(report.failed), {error.image for error in report.failed}
    paths = [file.path for file in find([root], []) if file.path not in broken]
    shown = paths[:SHOWN]
    results = successes(classify_each(model, shown, labels), len(shown), "classify", failed)
    answers = [Answer(Path(str(path)), scores) for path, scores in results]
    if not answers:
        finish(failed, 0)
    hits = {label: store.search(label, SEARCHED, model=model) for label in labels[:SEARCHED]}
    nearest = nearest_photos(
        {label: [relative_name(hit.path, root) for hit in found] for label, found in hits.items()}
    )
    others = (relative_name(answer.path, root) for answer in answers)
    compared = list(dict.fromkeys([*nearest.values(), *others]))[:COMPARED]
    captions = labels[:COMPARED]
    # One warning of all labels: the heatmaps below are made one by one, and the first would name
    # its own alone.
    Check(model.scope, model.name).places(list(nearest))
    described = []
    if model.config.writes_captions or model.config.matching:
        described = compared[:DESCRIBED]
    return Findings(
        root=root,
        count=len(paths),
        answers={"photos": answers},
        classify={
            "photos": (
                "classify",
                program.near(root),
                "--labels",
                labels_argument(labels, out / "labels.txt"),
            )
        },
        hits={label: found[:HITS] for label, found in hits.items()},
        heatmaps=[
            (name, model.heatmap(root / name, [label]), model.name)
            for label, name in nearest.items()
        ],
        descriptions=[describe(model, root, name, (), captions) for name in described],
        describer=model.name,
        compared=compared,
        captions=captions,
        matrix=np.asarray(model.similarity([root / name for name in compared], captions)),
        index=index,
        notes=notes(len(paths), len(labels)),
        failed=failed,
    )


def nearest_photos(ranked: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """For each label the nearest photo that no earlier label has; where there is none, the
    nearest. ranked: the photos of each label, the nearest first."""
    nearest: dict[str, str] = {}
    for label, names in ranked.items():
        unused = [name for name in names if name not in nearest.values()]
        nearest[label] = (unused or names)[0]
    return nearest


def notes(photos: int, labels: int) -> dict[str, str]:
    """What a page leaves out, by the title of the section."""
    remarks = {"Where is it?": "Each label on the nearest photo that no label before it has."}
    if labels > SEARCHED:
        searched = f"The first {SEARCHED} of {labels} labels."
        remarks["Where is it?"] += f" {searched}"
        remarks["Find by words"] = searched
    if labels > COMPARED:
        remarks["Pictures and sentences"] = f"The first {COMPARED} of {labels} labels."
    if photos > SHOWN:
        shown = f"The first {SHOWN} of {photos} photos; all are in the index."
        remarks["Which words fit?"] = shown
    return remarks
