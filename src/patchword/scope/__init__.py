"""The scope of a small model: which images, words and questions are like those of its training.

A model answers every question, also about things that it was never trained on, where its answers
mean nothing. A model with a scope warns of these.
"""

from patchword.scope.answers import UNKNOWN, is_possible
from patchword.scope.check import Check
from patchword.scope.knowledge import WORD, Boundary, Domain, Rewording, Scope, Understood
from patchword.scope.report import (
    GOOD,
    IMAGES,
    UNLIKE,
    ScopeReport,
    apart,
    canonical_name,
    current,
    file_name,
    noted,
    together,
    untold,
    warn_of_stored,
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
    "ScopeReport",
    "Understood",
    "apart",
    "canonical_name",
    "current",
    "file_name",
    "is_possible",
    "noted",
    "together",
    "untold",
    "warn_of_stored",
]
