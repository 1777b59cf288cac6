"""Whether an image lies outside of what a model was trained on, for whatever gives another answer
about it than a vector: maps, attention, defects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle, embed_checked
from patchword.images import ImageLike
from patchword.scope import Check, ScopeReport
from patchword.visible_area import untold


def judge(model: Bundle, check: Check, photo: NDArray[np.uint8]) -> None:
    """Let a check know of its next image, which is open already: (H, W, 3), all of its pixels."""
    if model.scope is not None:
        own = Check(model.scope, model.name, report=ScopeReport())
        with untold():  # how the photo is seen is told by whoever asks
            list(embed_checked(model, own, [photo]))
        check.judged(own.outside)


def judged(model: Bundle, image: ImageLike, photo: NDArray[np.uint8]) -> None:
    """Warn of one image, opened as `photo`, where it lies outside of the model's scope; in what is
    told together, with the others."""
    check = Check(model.scope, model.name, image)
    judge(model, check, photo)
    list(check.each([(image, photo)]))
