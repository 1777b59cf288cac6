"""Makes the import of many modules faster."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A context for importing torch, without garbage collection. The import creates 300,000
    objects, none of which becomes garbage; to go through them repeatedly takes a seventh of the
    time. Afterwards they are in the oldest generation, which is collected rarely. Nothing is
    changed if torch is imported already, or if the program controls the collector itself."""
    if "torch" in sys.modules or not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # into the oldest generation
        gc.enable()
