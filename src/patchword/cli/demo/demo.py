"""demo: every job once, on the pictures that travel in the package, and a page about it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from patchword.cli.common import (
    EMBEDDED,
    SPEAKING,
    DeviceOption,
    JsonOption,
    ModelOption,
    emit,
    load,
    notes,
    progress,
    screen,
)


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("demo-report"),
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show every job on the samples that come with patchword, and write one page about it.

    Classifies photos of clothes and surfaces of wafers with words, indexes and searches them, draws
    heatmaps and a similarity matrix; captions, answers, matches and shows defects with the model,
    or, where it cannot, with the embedded BLIP. Nothing is fetched from anywhere.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    bundle = load(model, device)
    config = bundle.config
    able = config.writes_captions and config.answers_questions and config.matching
    speaker = bundle if able else load(SPEAKING, device)
    from patchword.cli.demo import jobs, pages

    with progress("demo", jobs.JOBS) as advance:
        found = jobs.run(bundle, speaker, out, lambda done: advance(done, jobs.JOBS))
    page = out / "index.html"
    pages.write(found, bundle, page)
    seconds = time.perf_counter() - started
    if as_json:
        for record in jobs.records(found):
            emit(record)
        emit({"report": str(page), "seconds": round(seconds, 2)})
        return
    pages.show(found, screen())
    notes().print(f"{seconds:.1f} s. The pictures: {page}")
    store = jobs.index_of(out, bundle)
    notes().print(f'Go on: patchword search {store} "a green wafer with a stain"')


COMMANDS = (demo,)
