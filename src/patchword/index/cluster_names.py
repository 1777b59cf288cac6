"""Sentences like those of a small model's training, and the names that each gives to a cluster."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.scope import Scope

MARGIN = 0.03  # by how much less than the best sentence's cosine that of another that fits may be
SURE = 0.85  # the least share of a colour or shape: of scenes with several, one is misread sooner
WAFERS = ("with a scratch", "with a stain", "with particles", "with an edge chip")
CLOTHES = (
    *("coat", "dress", "hat", "longsleeve", "pants", "shirt", "shoes", "shorts", "skirt"),
    *("sweater", "tee"),
)


class Phrase(NamedTuple):
    """A sentence, and the names of what it is about, from narrow to broad."""

    sentence: str
    names: tuple[tuple[str, ...], ...]


def phrases(scope: Scope) -> list[Phrase]:
    """The sentences whose words a model all knows: of each shape and each wafer in each colour,
    and of clothes. One word alone, which is no sentence of its training, says little to it."""
    colours = [word for word, kind in scope.slots.items() if kind == "{colour}"]
    shapes = [word for word, kind in scope.slots.items() if kind == "{shape}"]
    found = [
        Phrase(f"a {colour} {shape}", ((f"{colour} {shape}",), (colour, shape), ("shape",)))
        for colour in colours
        for shape in shapes
    ]
    for colour in colours:
        found += [
            Phrase(f"a {colour} wafer {what}", ((f"wafer {what}",), (), ("wafer",)))
            for what in WAFERS
        ]
        found.append(Phrase(f"a clean {colour} wafer", (("clean wafer",), (), ("wafer",))))
    found += [Phrase(f"a photo of a {each}", ((each,), (), ("clothing",))) for each in CLOTHES]
    return [each for each in found if not scope.unknown_words([each.sentence])]


def name(cosines: NDArray[np.float64], said: list[Phrase], mostly: float) -> str:
    """The narrowest name that fits at least the share `mostly` of a cluster's members (`SURE` of
    colours and shapes by themselves), of those the one that fits most; "" for none.

    cosines: (N, P), of each member with each sentence."""
    fits = cosines >= cosines.max(axis=1, keepdims=True) - MARGIN
    for level, least in enumerate((mostly, SURE, mostly)):
        about: dict[str, list[int]] = {}
        for number, each in enumerate(said):
            for word in each.names[level]:
                about.setdefault(word, []).append(number)
        found = [
            (fits[:, columns].any(axis=1).mean(), cosines[:, columns].max(axis=1).mean(), word)
            for word, columns in about.items()
        ]
        share, _, best = max(found, default=(0.0, 0.0, ""))
        if share >= least:
            return best
    return ""
