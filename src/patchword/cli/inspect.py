"""inspect: defects, from photos of good products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.cli.inputs import check_beside, expand, load
from patchword.cli.inspect_run import Run
from patchword.cli.inspect_table import hint_at_one_good
from patchword.cli.member_images import Source
from patchword.cli.options import (
    EMBEDDED,
    SOURCES,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    OnePassOption,
    StretchOption,
    SubjectOption,
)
from patchword.cli.output import notes, prepare_output, print_saved, progress, refuse
from patchword.errors import ImageError

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.inspect.inspector import Inspector
    from patchword.inspect.protocol import Method


def inspect(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="GOOD IMAGES...",
            help=f"Good photos: a folder, a glob in quotes or @FILE; then the images to inspect. "
            f"{SOURCES} With --fitted and --without-good there is no GOOD.",
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="memory, subspace, winclip, mutual or reference; by default memory.",
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(help="The share of good photos that may be rejected, by default 0.01."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: guarantee the share with this probability for the photos that were held "
            "out, instead of on average over all possible ones."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Reject scores above this, instead of a threshold learned from good photos."
        ),
    ] = None,
    false_discoveries: Annotated[
        float | None,
        typer.Option(
            help="Judge all photos together: on average at most this share of the rejected ones "
            "is good (Benjamini-Hochberg)."
        ),
    ] = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GOOD",
            help="Good photos to hold out for the threshold; by default drawn from GOOD.",
        ),
    ] = None,
    without_good: Annotated[
        bool,
        typer.Option(
            "--without-good",
            help="Inspect without good photos: for winclip and mutual.",
        ),
    ] = False,
    by_folder: Annotated[
        bool,
        typer.Option("--by-folder", help="Learn a threshold for each folder name."),
    ] = False,
    fitted: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Use what --save-fitted wrote, instead of GOOD."),
    ] = None,
    save_fitted: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write what was learned from GOOD, for --fitted."),
    ] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            metavar="NUMBER",
            help="The block whose patches are compared, 0 the first and -1 the last; repeat for "
            "more. The default, which patchword info shows, is the block measured to be the "
            "best, as for the embedded models; else the middle block of a network trained "
            "with texts or classes; else the last.",
        ),
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            help="Pixels: resize the shorter side of photos to this, and process them in tiles of "
            "the network's input size. By default the whole photo is one tile: take more for "
            "small defects."
        ),
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(
            help="memory: the number of nearest good patches whose mean distance is the score."
        ),
    ] = None,
    rotations: Annotated[
        bool,
        typer.Option(
            "--rotations",
            help="Learn from each good photo in 8 rotations: for parts that lie in any direction.",
        ),
    ] = False,
    coreset: Annotated[
        float | None,
        typer.Option(help="memory: keep this share of the good patches, chosen to be far apart."),
    ] = None,
    reweight: Annotated[
        bool,
        typer.Option("--reweight", help="memory: weight the score of a photo as PatchCore does."),
    ] = False,
    half: Annotated[
        bool, typer.Option("--half", help="memory: keep good patches as float16.")
    ] = False,
    patches: Annotated[
        int | None, typer.Option(help="memory: the most good patches to keep, by default 100000.")
    ] = None,
    foreground: Annotated[
        float | None,
        typer.Option(
            help="memory: the threshold of AnomalyDINO's mask of the object; 10 for DINOv2."
        ),
    ] = None,
    mask_good: Annotated[
        bool,
        typer.Option(
            "--mask-good", help="memory: with --foreground, learn only from patches of the object."
        ),
    ] = False,
    variance: Annotated[
        float | None,
        typer.Option(
            help="subspace: the share of the variance that the components keep, by default 0.99."
        ),
    ] = None,
    components: Annotated[
        int | None, typer.Option(help="subspace: the number of components, instead of --variance.")
    ] = None,
    subject: SubjectOption = None,
    one_pass: OnePassOption = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a report (index.html), results.csv and maps in full resolution (16-bit "
            "TIFF).",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with code 3 when a photo is rejected.")
    ] = False,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Find defects, from photos of good products: 2 are enough to begin.

    Each photo gets a score, a map and boxes of what good photos do not have, and a verdict. With
    enough good photos (103 for 1%) some are held out, so that on average no more than the share
    --false-alarms of good photos is rejected. With fewer the threshold is not calibrated, and the
    command says so.
    """
    if fitted is None and not without_good and len(photos) < 2:
        refuse(
            "give a folder of good photos, and then the images to inspect; where there are no good "
            "photos: --without-good --method mutual, or winclip"
        )
    options = {
        "layers": layer, "short_side": short_side, "neighbours": neighbours,
        "rotations": rotations or None, "coreset": coreset, "reweight": reweight or None,
        "half": half or None, "patches": patches, "foreground": foreground,
        "mask_good": mask_good or None,
        "variance": variance, "components": components, "subject": subject,
        "exact": False if one_pass else None,
    }  # fmt: skip
    if one_pass and not fitted and method != "winclip":
        refuse(f"--one-pass is for winclip, not of {method or 'memory'}")
    fitting = [save_fitted, method, calibration, by_folder or None, without_good or None]
    if fitted and any(value is not None for value in (*fitting, *options.values())):
        refuse(
            "--fitted replaces GOOD, --without-good, --calibration, --by-folder, --method and "
            "its options"
        )
    if false_discoveries is not None and not 0 < false_discoveries < 1:
        refuse(f"--false-discoveries {false_discoveries:g}: it is a share, between 0 and 1")
    if false_discoveries is not None and threshold is not None:
        refuse("--false-discoveries judges by p-values, --threshold does not; give one of them")
    for folder in (save, save_fitted):
        prepare_output(folder, is_folder=True)
    if save:
        check_beside(save, [*photos, *(calibration or ())])
    if save_fitted:
        from patchword.inspect.inspector_folder import free

        free(save_fitted)  # refuses a folder of something else, before any work is done
    given = {"false_alarms": false_alarms, "confidence": confidence, "threshold": threshold}
    rule = {name: value for name, value in given.items() if value is not None}
    failed: list[ImageError] = []
    good: Sequence[Source] = []
    held_out: Sequence[Source] | None = None
    if fitted:
        sources = expand(photos)
        from patchword.inspect.inspector import reopened

        inspector = reopened(load(model, device, dtype, stretch, max_pixels), fitted, rule)
    else:
        good_argument = photos[0]
        if not without_good:
            good, photos = expand(photos[:1]), photos[1:]
        sources = expand(photos)
        held_out = expand(calibration) if calibration else None
        hint = hint_at_one_good(good_argument, good, sources) if good else ""
        if hint and method != "reference":
            notes().print(hint)
        bundle = load(model, device, dtype, stretch, max_pixels)
        from patchword.inspect.methods import chosen

        configured = chosen(method or "memory", options)
        inspector = learn(bundle, good, held_out, configured, rule, by_folder, failed)
    if save_fitted:
        print_saved(inspector.save(save_fitted))
    good_count = len({*map(str, good), *map(str, held_out or ())})
    run = Run(inspector, sources, false_discoveries, save, as_json, good_count, failed)
    run.inspect_all()
    if drift_folder := fitted or save_fitted:
        run.save_drift(drift_folder)
    run.finish(check)


def learn(
    bundle: Model,
    good: Sequence[Source],
    held_out: Sequence[Source] | None,
    method: Method,
    rule: dict[str, Any],
    by_folder: bool,
    failed: list[ImageError],
) -> Inspector:
    """Fit a method to good photos. The errors of those that cannot be opened are added to
    `failed`."""
    from patchword.inspect.calibration import Rule
    from patchword.inspect.fitting import fit

    with progress("good photos") as advance:
        return fit(
            bundle, good, method, Rule(**rule), calibration=held_out, grouped=by_folder,
            failed=failed, progress=advance,
        )  # fmt: skip


COMMANDS = (inspect,)
