"""Evaluation of a model: zero-shot classification, retrieval, probes, and blends of two models.

`Evaluation` runs a model on folders. The computations take arrays and know no model: `metrics`
(accuracy, recall) and `probe` (logistic regression, nearest neighbours). `blend` takes weights.
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
