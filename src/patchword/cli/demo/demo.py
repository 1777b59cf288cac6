"""demo: every task once, on the samples or on one's own photos, and a page of the results."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.inputs import load
from patchword.cli.options import (
    EMBEDDED,
    EMBEDDED_BLIP,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LabelsOption,
    ModelOption,
)
from patchword.cli.output import emit, finish, notes, prepare_output, progress, refuse, screen
from patchword.cli.program import command
from patchword.cli.texts import read_list

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.cli.demo.findings import Findings


def demo(
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Your own photos instead of the samples; needs --labels."
        ),
    ] = None,
    labels: LabelsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where to write the page; by default demo-report, or photos-report with --photos.",
        ),
    ] = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Show every task on the samples that come with patchword, and write a page of the results.

    Classifies coloured shapes and surfaces of wafers with words, indexes and searches them, draws
    heatmaps and a similarity matrix; captions, answers, matches and shows defects with the model,
    or, where it cannot, with the embedded BLIP. Nothing is downloaded.

    With --photos and --labels the page shows your own photos and uses --model alone, which should
    know what they show: demo and demo-blip know shapes, wafers and clothes.
    """
    started = time.perf_counter()
    names = read_list(labels, split=True)
    out = out or Path("photos-report" if photos else "demo-report")
    prepare_output(out, is_folder=True)
    if photos is None:
        if names:
            refuse("--labels needs --photos; the samples have labels of their own")
        bundle = load(model, device, dtype)
        findings = _sample_findings(bundle, device, dtype, out)
    else:
        from patchword.cli.demo import own_photos

        own_photos.check(photos, names)
        bundle = load(model, device, dtype)
        if model in (EMBEDDED, EMBEDDED_BLIP):
            notes().print(f"{model} knows shapes, wafers and clothes alone: for others give -m")
        findings = own_photos.run(bundle, photos, names, out)
    _report(findings, bundle, out / "index.html", started, as_json)
    finish(findings.failed, findings.count)


def _sample_findings(bundle: Model, device: str, dtype: str, out: Path) -> Findings:
    from patchword.cli.demo import samples

    config = bundle.config
    if config.writes_captions and config.answers_questions and config.matching:
        describer = bundle
    else:
        describer = load(EMBEDDED_BLIP, device, dtype)
    with progress("demo", samples.JOBS) as advance:
        return samples.run(bundle, describer, out, lambda done: advance(done, samples.JOBS))


def _report(findings: Findings, bundle: Model, page: Path, started: float, as_json: bool) -> None:
    """Write the page, and print what is on it."""
    from patchword.cli.demo import pages
    from patchword.cli.demo.findings import records

    if page.exists():
        notes().print(f"{page} existed and is overwritten")
    pages.write(findings, bundle, page)
    seconds = time.perf_counter() - started
    if as_json:
        for record in records(findings):
            emit(record)
        emit({"report": str(page), "seconds": round(seconds, 2)})
        return
    pages.show(findings, screen())
    if not findings.descriptions:
        notes().print(f"{bundle.name} writes no captions and matches no texts; a BLIP does")
    notes().print(f"{seconds:.1f} s. The pictures: {page}")
    notes().print(f"Go on: {command('search', str(findings.index), next(iter(findings.hits)))}")


COMMANDS = (demo,)
