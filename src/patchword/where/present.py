"""Whether a text is in a photo at all: a number beside each map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle, as_texts
from patchword.tasks.match import match

NEGATIVES = ("a photo", "background", "nothing")


def present(
    model: Bundle,
    photo: NDArray[np.uint8],
    texts: Sequence[str],
    negatives: str | Sequence[str] | None = None,
) -> tuple[float, ...]:
    """How probable each text is in a photo (H, W, 3), 0 to 1, whatever the other texts are.

    With `negatives` a softmax of the text's scaled cosine against theirs. Without: the probability
    of a BLIP's matching head; the sigmoid of a SigLIP, which was trained for that; and of other
    models the softmax against `NEGATIVES`, which is too willing: name what else there could be.
    """
    if negatives is None and model.config.matching:
        return tuple(match(model, [photo], texts).probabilities[0].tolist())
    row = model.embed_images([photo])[0]
    cosines = model.embed_texts(texts) @ row
    if negatives is None and model.config.score == "sigmoid":
        return tuple((1 / (1 + np.exp(-(model.scale * cosines + model.bias)))).tolist())
    against = model.embed_texts(as_texts(NEGATIVES if negatives is None else negatives))
    logits = model.scale * (against @ row - cosines[:, None])  # (T, negatives)
    return tuple((1 / (1 + np.exp(logits).sum(axis=1))).tolist())
