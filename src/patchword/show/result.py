"""What the results of a model have in common: a short repr, and pictures that save and show
themselves."""

from __future__ import annotations

import dataclasses
import io
import os
from typing import Any

import numpy as np
from PIL import Image

from patchword.options import checked
from patchword.show import plots

SHOWN = 12  # items of a tuple


class Brief:
    """A dataclass whose repr has an array's type and shape instead of its numbers."""

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
    if isinstance(value, tuple) and len(value) > SHOWN:
        return f"<{len(value)} of {_brief(value[0])}, ...>"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(map(_brief, value))})"
    return repr(value)
