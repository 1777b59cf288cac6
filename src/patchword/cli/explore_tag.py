"""explore, tag: what the images of an index show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.hits import Member, check_page, relative_to_current, save_groups
from patchword.cli.indexes import (
    IndexArgument,
    OwnDtypeOption,
    OwnModelOption,
    WhereOption,
    index_and_model,
)
from patchword.cli.options import DeviceOption, JsonOption, LabelsOption, TemplateOption
from patchword.cli.output import emit, finish, notes, progress, screen, show_warnings
from patchword.cli.texts import no_texts, read_list
from patchword.errors import ImageError, counted, one_line
from patchword.scope import warn_of_stored
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from patchword.index import Cluster

MANY_TAGS = 2.0  # an image, on average, from which on a note says how to get fewer


def explore(
    index: IndexArgument,
    clusters: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most clusters to make; by default 2 to 64, depending on the number of "
            "images.",
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="Words to name clusters with; @FILE reads one per line. By default names of "
            "common things, or what the model states that it knows.",
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=1, help="Number of images to show of each cluster.")
    ] = 12,
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
    """Show what is in an index: clusters of similar images, named with words."""
    check_page(save)
    store, bundle, unread = index_and_model(index, model, device, dtype, texts_alone=True)
    failed: list[ImageError] = []  # of images in the index
    names = read_list(words, split=True) if words else None
    with show_warnings():
        found_clusters = store.explore(
            clusters, words=names, examples=examples, where=condition, model=bundle
        )
    if as_json:
        for cluster in found_clusters:
            paths = [hit.path for hit in cluster.examples]
            emit({"cluster": cluster.name, "images": cluster.count, "examples": paths})
    elif found_clusters:
        _print_clusters(found_clusters)
        if any(cluster.name.startswith("unnamed") for cluster in found_clusters):
            other = "other " if words else ""
            notes().print(
                "unnamed: no word fits most of its images clearly best; "
                f"--words a,b,c gives {other}words to choose from"
            )
    else:
        notes().print("nothing found")
    if save and found_clusters:
        groups = [
            (
                f"{cluster.name}: {counted(cluster.count, 'image')}",
                [Member(hit.path) for hit in cluster.examples],
            )
            for cluster in found_clusters
        ]
        failed += save_groups("What is in the index", groups, save, bundle)
    images = sum(cluster.count for cluster in found_clusters)
    finish([*unread, *failed], max(images - len(failed), 1))


def _print_clusters(clusters: list[Cluster]) -> None:
    """A row for each cluster, with its first example."""
    examples = relative_to_current([cluster.examples[0].path for cluster in clusters])
    names = numbered(
        [
            cluster.name.removesuffix(f", like {Path(path).name}")
            for cluster, path in zip(clusters, examples, strict=True)
        ]
    )
    out = table("cluster", "images", "for example", right=("images",))
    for cluster, name, path in zip(clusters, names, examples, strict=True):
        out.add_row(name, str(cluster.count), one_line(path))
    screen().print(out)


def tag(
    index: IndexArgument,
    labels: LabelsOption = None,
    threshold: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="The least probability with which an image gets a label. A label is not compared "
            "with the others, so of labels that are alike, as shirt and t-shirt, many images get "
            "several; 0.9 gives fewer.",
        ),
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
    """Tag the images of an index with the labels that they probably show.

    Each label is judged by itself. The tags are stored in the column tags and replace earlier ones;
    search --where "array_has(tags, 'dog')" finds them.
    """
    if not labels:
        no_texts("labels", "--labels")
    from patchword.tasks.classify import scorer

    names = read_list(labels, split=True)
    store, bundle, failed = index_and_model(index, model, device, dtype)
    store.check(bundle)
    with show_warnings():
        score = scorer(bundle, names, templates, multi_label=True)

    outside: list[bool] = []  # of each image that is tagged

    def choose(vector: Any) -> list[str]:
        outside.extend(bundle.scope.outside(vector[None]) if bundle.scope else [False])
        return [each.label for each in score(vector) if each.probability >= threshold]

    with progress("tag") as advance:
        tagged = store.tag(choose, where=condition, store=not dry, progress=advance)
    warn_of_stored(bundle.name, bundle.scope, dict(zip(tagged, outside, strict=True)))
    if as_json:
        for path, tags in tagged.items():
            emit({"image": path, "tags": tags})
    else:
        out = table("label", "images", right=("images",))
        for name in names:
            out.add_row(name, str(sum(name in tags for tags in tagged.values())))
        screen().print(out)
    untagged = sum(not tags for tags in tagged.values())
    result = "nothing is stored" if dry else "stored in the column tags"
    notes().print(f"{counted(len(tagged), 'image')}, {untagged} without a tag; {result}")
    if tagged and (mean := sum(map(len, tagged.values())) / len(tagged)) > MANY_TAGS:
        notes().print(
            f"an image has {mean:.1f} tags on average: a label is not compared with the others; a "
            "higher --threshold gives fewer"
        )
    finish(failed, len(tagged) or 1)


def numbered(names: list[str]) -> list[str]:
    """Names; those that occur several times get a number."""
    totals = Counter(names)
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(f"{name} ({seen[name]})" if totals[name] > 1 else name)
    return out


COMMANDS = (explore, tag)
