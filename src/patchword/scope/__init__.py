"""The scope of a small model: which images, words and questions are like those of its training.

A model answers every question, also about things that it was never trained on, where its answers
mean nothing. One with a scope warns of them.
"""

from patchword.scope.answers import UNKNOWN, possible
from patchword.scope.knowledge import WORD, Boundary, Domain, Rewording, Scope, Understood
from patchword.scope.remarks import (
    GOOD,
    IMAGES,
    UNLIKE,
    Check,
    Told,
    apart,
    current,
    file_name,
    noted,
    same,
    stored,
    together,
    untold,
)

__all__ = [
    "GOOD",
    "IMAGES",
    "UNKNOWN",
    "UNLIKE",
    "WORD",
    "Boundary",
    "Check",
    "Domain",
    "Rewording",
    "Scope",
    "Told",
    "Understood",
    "apart",
    "current",
    "file_name",
    "noted",
    "possible",
    "same",
    "stored",
    "together",
    "untold",
]
