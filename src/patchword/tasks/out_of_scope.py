"""Whether an image is unlike a model's training images, for tasks that do not compute its vector:
maps, attention, defects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle, embed_checked
from patchword.images import ImageLike
from patchword.scope import Check, ScopeReport
from patchword.visible_area import untold


def judge(model: Bundle, check: Check, photo: NDArray[np.uint8]) -> None:
    """Give a check the result for its next image, an opened photo (H, W, 3)."""
    if model.scope is not None:
        of_photo = Check(model.scope, model.name, report=ScopeReport())
        with untold():  # the caller warns of what the model does not see
            list(embed_checked(model, of_photo, [photo]))
        check.judged(of_photo.outside)


def judged(model: Bundle, image: ImageLike, photo: NDArray[np.uint8]) -> None:
    """Warn if one image, opened as `photo`, is outside of the model's scope. Within
    `scope.together` the warning is joined with those of other images."""
    check = Check(model.scope, model.name, image)
    judge(model, check, photo)
    list(check.each([(image, photo)]))
