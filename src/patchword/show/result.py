"""Base classes of results: a short repr, and pictures that can be saved and shown in notebooks."""

from __future__ import annotations

import dataclasses
import io
import os
from typing import Any

import numpy as np
from PIL import Image

from patchword.options import checked
from patchword.show import plots

MAX_ITEMS = 12  # of a tuple in a repr


class Brief:
    """A dataclass whose repr shows the type and shape of arrays instead of their numbers."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        parts = [f"{field.name}={_brief(getattr(self, field.name))}" for field in fields]
        return f"{type(self).__name__}({', '.join(parts)})"


class Pictured(Brief):
    """A result that draws itself. In a notebook it is shown as its picture."""

    def picture(self) -> Image.Image:
        """The result as an RGB image."""
        raise NotImplementedError

    @checked
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `picture()`; the suffix of `path`, .png or .jpg, chooses the format. Raises
        UnsupportedError for one that pictures are not written in."""
        plots.save(self.picture(), path)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.picture().save(file, "PNG")
        return file.getvalue()


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    if isinstance(value, tuple) and len(value) > MAX_ITEMS:
        return f"<{len(value)} of {_brief(value[0])}, ...>"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(map(_brief, value))})"
    return repr(value)
