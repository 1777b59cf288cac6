"""What `info --bench` prints: each engine's speed, and how far it is from float32."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.cli.output import emit, notes, progress, refuse, screen
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from patchword.api import Model

MOST = 32  # photos


def bench(model: Model, photos: str | None, as_json: bool) -> None:
    """A row for each engine, in about two minutes. photos: a folder; None: the samples."""
    import torch

    from patchword.api.engine_bench import CPU, LIMIT, OTHER, engine_rows

    found, others = chosen(photos)
    total = len(CPU if model.device.type == "cpu" else OTHER)
    numbers = ["batch 1", "batch 32", "mean", "least", "same top-1"]
    answer = table("engine", "", *numbers, right=numbers)
    left_out = []
    with progress("engines", total) as step:
        for done, row in enumerate(engine_rows(model, found, others), start=1):
            step(done, total)
            if as_json:
                emit(asdict(row))
            elif row.why:
                left_out.append(f"{row.engine} {row.dtype}: {row.why}")
            else:
                speed = f"{row.one:.1f}", f"{row.many:.1f}"
                near = f"{row.mean:.5f}", f"{row.least:.5f}", f"{row.same:.0%}"
                answer.add_row(row.engine, row.dtype, *speed, *near)
    if as_json:
        return
    screen().print(answer)
    threads = torch.get_num_threads()
    notes().print(
        f"images/s with {threads} threads, at most {LIMIT:.0f} s in all; cosine to torch in "
        f"float32 and same nearest other photo, over {len(found)} "
        + ("photos" if photos else "generated samples: --photos FOLDER takes yours")
    )
    for words in left_out:
        notes().print(words)


def chosen(photos: str | None) -> tuple[list[str], list[str] | None]:
    """At most MOST photos of a folder, from all over it, to measure on, and others of it to
    calibrate int8 with; or the samples, and none."""
    from patchword.api import find_images

    place = photos or str(Path(__file__).parents[1] / "assets" / "samples")
    names = find_images(place)
    if len(names) < 4:
        refuse(f"{place} holds {len(names)} photos; --bench compares four or more")
    if not photos:
        return names[:MOST], None
    measured = names[::2]
    return measured[:: max(len(measured) // MOST, 1)][:MOST], names[1::2]
