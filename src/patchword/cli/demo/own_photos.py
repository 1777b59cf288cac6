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
    described,
    index_of,
    listed,
    named,
)
from patchword.cli.output import SHOWN, finish, progress, refuse, successes
from patchword.errors import PatchwordError

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.errors import ImageError

SEARCHED = 6  # labels that are searched for
COMPARED = 8  # photos, and labels, of the table of cosines
DESCRIBED = 5  # photos


def check(photos: Path, labels: Sequence[str]) -> None:
    """Refuse, before a model is opened, photos and labels of which no page can be made."""
    from patchword.images.files import find

    if not photos.is_dir():
        refuse(f"--photos {photos}: no such folder")
    if not labels:
        refuse("--photos needs --labels, words for what may be on them: --labels dog,cat,car")
    if twice := [word for word in labels if labels.count(word) > 1]:
        refuse(f"--labels: {twice[0]!r} comes twice")
    failed: list[ImageError] = []
    if not find([photos], failed) and not failed:
        raise PatchwordError(f"no images in {photos}")


def run(model: Model, photos: Path, labels: Sequence[str], out: Path) -> Findings:
    """Do every task that the model can, on the photos below a folder; those that cannot be read are
    left out and named. Where none can be read, the command ends."""
    import numpy as np

    from patchword.images.files import find
    from patchword.index import open_index
    from patchword.tasks.classify import classify_each

    model.embed_texts(labels)  # a model that reads no text is refused before photos are opened
    root = Path(os.path.realpath(photos))
    index = index_of(out, model, root)
    store = open_index(index)
    with progress("index") as advance:
        report = store.add(root, model, advance)
    if len(store):
        store.prune()
    failed, broken = list(report.failed), {error.image for error in report.failed}
    paths = [file.path for file in find([root], []) if file.path not in broken]
    shown = paths[:SHOWN]
    each = successes(classify_each(model, shown, labels), len(shown), "classify", failed)
    answers = [Answer(Path(path), scores) for path, scores in each]
    if not answers:
        finish(failed, 0)
    near = {text: store.search(text, SEARCHED, model=model) for text in labels[:SEARCHED]}
    nearest = one_each({text: [named(h.path, root) for h in hits] for text, hits in near.items()})
    others = (named(answer.path, root) for answer in answers)
    compared = list(dict.fromkeys([*nearest.values(), *others]))[:COMPARED]
    captions = labels[:COMPARED]
    words = listed(labels, out / "labels.txt")
    able = model.config.writes_captions or model.config.matching
    return Findings(
        root,
        len(paths),
        {"photos": answers},
        {"photos": ("classify", program.near(root), "--labels", words)},
        {text: hits[:HITS] for text, hits in near.items()},
        [(name, model.heatmap(root / name, [text]), model.name) for text, name in nearest.items()],
        [described(model, root, name, (), captions) for name in compared[:DESCRIBED] if able],
        model.name,
        compared,
        captions,
        np.asarray(model.similarity([root / name for name in compared], captions)),
        index,
        notes(len(paths), len(labels)),
        failed,
    )


def one_each(near: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of each label the nearest photo that no label before it has, while there is one."""
    out: dict[str, str] = {}
    for label, names in near.items():
        out[label] = next((name for name in names if name not in out.values()), names[0])
    return out


def notes(photos: int, labels: int) -> dict[str, str]:
    """What a page leaves out, by the title of the section."""
    few, some = f"The first {SEARCHED} of {labels} labels.", f"The first {COMPARED} of {labels}"
    said = {"Where is it?": "Each label on the nearest photo that no label before it has."}
    if labels > SEARCHED:
        said["Where is it?"] += f" {few}"
        said["Find by words"] = few
    if labels > COMPARED:
        said["Pictures and sentences"] = f"{some} labels."
    if photos > SHOWN:
        said["Which words fit?"] = f"The first {SHOWN} of {photos} photos; all are in the index."
    return said
