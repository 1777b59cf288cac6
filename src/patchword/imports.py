"""Imports of many modules at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import here what brings torch. It makes 300,000 objects, none of which is ever garbage, and
    Python's collector goes through them again and again meanwhile: a seventh of the time. Within,
    it rests; afterwards they count as old, so that it does not go through them next either. Where
    torch is there, or a program arranges the collector itself, nothing is changed."""
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
