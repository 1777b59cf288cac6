"""What `info --bench` prints: each engine's speed, and how far it is from float32."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.cli.output import emit, notes, progress, refuse, screen
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from patchword.api import Model

MAX_PHOTOS = 32


def bench(model: Model, photos: str | None, as_json: bool) -> None:
    """Print a row for each engine, in about two minutes. photos: a folder; None: the samples."""
    import torch

    from patchword.api.engine_bench import CPU, LIMIT, OTHER, engine_rows

    measured, calibration = choose_photos(photos)
    total = len(CPU if model.device.type == "cpu" else OTHER)
    numbers = ["batch 1", "batch 32", "mean", "least", "same top-1"]
    out = table("engine", "", *numbers, right=numbers)
    left_out = []
    with progress("engines", total) as advance:
        for done, row in enumerate(engine_rows(model, measured, calibration), start=1):
            advance(done, total)
            if as_json:
                emit(asdict(row))
            elif row.why:
                left_out.append(f"{row.engine} {row.dtype}: {row.why}")
            else:
                speeds = f"{row.one:.1f}", f"{row.many:.1f}"
                agreement = f"{row.mean:.5f}", f"{row.least:.5f}", f"{row.same:.0%}"
                out.add_row(row.engine, row.dtype, *speeds, *agreement)
    if as_json:
        return
    screen().print(out)
    threads = torch.get_num_threads()
    source = "photos" if photos else "generated samples: --photos FOLDER takes yours"
    notes().print(
        f"images/s with {threads} threads, at most {LIMIT:.0f} s in all; cosine to torch in "
        f"float32 and same nearest other photo, over {len(measured)} {source}"
    )
    for reason in left_out:
        notes().print(reason)


def choose_photos(folder: str | None) -> tuple[list[str], list[str] | None]:
    """At most MAX_PHOTOS photos to measure on, from all parts of a folder, and other photos of it
    to calibrate int8 with. Without a folder the samples, and none for int8."""
    from patchword.api import find_images

    place = folder or str(Path(__file__).parents[1] / "assets" / "samples")
    names = find_images(place)
    if len(names) < 4:
        refuse(f"{place} holds {len(names)} photos; --bench compares four or more")
    if not folder:
        return names[:MAX_PHOTOS], None
    measured = names[::2]
    step = max(len(measured) // MAX_PHOTOS, 1)
    return measured[::step][:MAX_PHOTOS], names[1::2]
