"""explore, tag: what the images of an index show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from patchword.cli.hits import Member, check_page, from_here, save_groups
from patchword.cli.indexes import (
    IndexArgument,
    OwnDtypeOption,
    OwnModelOption,
    WhereOption,
    index_and_model,
)
from patchword.cli.options import DeviceOption, JsonOption, LabelsOption, TemplateOption
from patchword.cli.output import emit, finish, notes, progress, screen, warnings_said
from patchword.cli.texts import no_texts, read_list
from patchword.errors import counted, one_line
from patchword.scope import warn_of_stored
from patchword.show.terminal_table import table


def explore(
    index: IndexArgument,
    clusters: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many clusters at most; by default more for more images, 2 to 64."
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="Words to name clusters by; @FILE reads one a line. By default what photos often "
            "show, or what the model says it knows.",
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Images of each cluster.")] = 12,
    condition: WhereOption = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save a page (.html) with a contact sheet of each."),
    ] = None,
    model: OwnModelOption = None,
    device: DeviceOption = "auto",
    dtype: OwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in an index: clusters of images that are alike, named by words."""
    check_page(save)
    store, bundle, failed = index_and_model(index, model, device, dtype, texts_alone=True)
    named = read_list(words, split=True) if words else None
    with warnings_said():
        found = store.explore(
            clusters, words=named, examples=examples, where=condition, model=bundle
        )
    if as_json:
        for each in found:
            paths = [hit.path for hit in each.examples]
            emit({"cluster": each.name, "images": each.count, "examples": paths})
    elif found:
        out = table("cluster", "images", "for example", right=("images",))
        firsts = from_here([each.examples[0].path for each in found])
        names = numbered(
            [
                each.name.removesuffix(f", like {Path(path).name}")
                for each, path in zip(found, firsts, strict=True)
            ]
        )
        for each, name, path in zip(found, names, firsts, strict=True):
            out.add_row(name, str(each.count), one_line(path))
        screen().print(out)
        if any(each.name.startswith("unnamed") for each in found):
            notes().print(
                "unnamed: no word fits most of its images clearly best; "
                f"--words a,b,c gives {'other ' * bool(words)}words to choose from"
            )
    else:
        notes().print("nothing found")
    if save and found:
        groups = [
            (
                f"{each.name}: {counted(each.count, 'image')}",
                [Member(h.path) for h in each.examples],
            )
            for each in found
        ]
        failed += save_groups("What is in the index", groups, save, bundle)
    finish(failed, sum(each.count for each in found) or 1)


def tag(
    index: IndexArgument,
    labels: LabelsOption = None,
    threshold: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Probability from which on an image is given a label."),
    ] = 0.5,
    templates: TemplateOption = None,
    condition: WhereOption = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Print the tags, and store nothing.")
    ] = False,
    model: OwnModelOption = None,
    device: DeviceOption = "auto",
    dtype: OwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give the images of an index those labels that each is probable to show, each by itself.

    They are stored in the column tags, in the place of what was there: search --where
    "array_has(tags, 'dog')" finds them.
    """
    if not labels:
        no_texts("labels", "--labels")
    from patchword.tasks.classify import scorer

    asked = read_list(labels, split=True)
    store, bundle, failed = index_and_model(index, model, device, dtype)
    store.check(bundle)
    with warnings_said():
        score = scorer(bundle, asked, templates, multi_label=True)

    outside: list[bool] = []  # of each image that is tagged

    def choose(vector: Any) -> list[str]:
        outside.extend(bundle.scope.outside(vector[None]) if bundle.scope else [False])
        return [each.label for each in score(vector) if each.probability >= threshold]

    with progress("tag") as advance:
        found = store.tag(choose, where=condition, store=not dry, progress=advance)
    warn_of_stored(bundle.name, bundle.scope, dict(zip(found, outside, strict=True)))
    if as_json:
        for path, tags in found.items():
            emit({"image": path, "tags": tags})
    else:
        counts = {label: sum(label in tags for tags in found.values()) for label in asked}
        out = table("label", "images", right=("images",))
        for label, count in counts.items():
            out.add_row(label, str(count))
        screen().print(out)
    none = sum(not tags for tags in found.values())
    kind = "nothing is stored" if dry else "stored in the column tags"
    notes().print(f"{counted(len(found), 'image')}, {none} without a tag; {kind}")
    finish(failed, len(found) or 1)


def numbered(names: list[str]) -> list[str]:
    """Names, those that several have with a number."""
    repeated = Counter(names)
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(f"{name} ({seen[name]})" if repeated[name] > 1 else name)
    return out


COMMANDS = (explore, tag)
