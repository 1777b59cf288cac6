"""How good a model is: zero-shot classes, retrieval, probes, and models between two others.

`Evaluation` runs a model on folders. What it computes stands alone and takes arrays: `metrics`
(accuracy, recall), `probe` (logistic regression, nearest neighbours), `blend` (weights).
"""

from patchword.evaluate.blend import blend
from patchword.evaluate.confusion_plot import confusion_picture
from patchword.evaluate.run import (
    TASKS,
    Answer,
    Classified,
    Evaluation,
    Options,
    Retrieved,
    quality,
)

__all__ = [
    "TASKS",
    "Answer",
    "Classified",
    "Evaluation",
    "Options",
    "Retrieved",
    "blend",
    "confusion_picture",
    "quality",
]
