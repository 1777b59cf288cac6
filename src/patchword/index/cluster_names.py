"""Names of clusters for a small model: sentences like those of its training, and what they name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.scope import Scope

MARGIN = 0.03  # a sentence fits an image if its cosine is at most this much below the best one's
# The share of a cluster's members that the name of a colour or a shape must fit. It is higher than
# for other names: in scenes of several shapes these are mistaken more often.
SURE = 0.85
WAFER_COLOURS = ("violet", "gold", "grey", "copper")  # no shape has them
WAFERS = ("with a scratch", "with a stain", "with particles", "with an edge chip")
CLOTHES = (
    "coat", "dress", "hat", "longsleeve", "pants", "shirt", "shoes", "shorts", "skirt", "sweater",
    "tee",
)  # fmt: skip


class Phrase(NamedTuple):
    """A sentence, and the names of what it describes at three levels, from narrow to broad."""

    sentence: str
    names: tuple[tuple[str, ...], ...]


def phrases(scope: Scope) -> list[Phrase]:
    """The sentences of which a model knows every word: about each shape and each wafer in each
    colour, and about clothes. They are sentences because a single word, which no text of its
    training was, means little to such a model."""
    colours = [word for word, kind in scope.slots.items() if kind == "{colour}"]
    shapes = [word for word, kind in scope.slots.items() if kind == "{shape}"]
    all_phrases = [
        Phrase(f"a {colour} {shape}", ((f"{colour} {shape}",), (colour, shape), ("shape",)))
        for colour in colours
        if colour not in WAFER_COLOURS
        for shape in shapes
    ]
    for colour in colours:
        all_phrases += [
            Phrase(f"a {colour} wafer {defect}", ((f"wafer {defect}",), (), ("wafer",)))
            for defect in WAFERS
        ]
        all_phrases.append(Phrase(f"a clean {colour} wafer", (("clean wafer",), (), ("wafer",))))
    for item in CLOTHES:
        all_phrases.append(Phrase(f"a photo of a {item}", ((item,), (), ("clothing",))))
    return [phrase for phrase in all_phrases if not scope.unknown_words([phrase.sentence])]


def names_of(all_phrases: Sequence[Phrase]) -> set[str]:
    """All names that sentences give."""
    return {each for phrase in all_phrases for level in phrase.names for each in level}


def naming(all_phrases: Sequence[Phrase], words: Collection[str]) -> list[Phrase]:
    """The same sentences, of whose names only `words` are left."""
    return [
        Phrase(sentence, tuple(tuple(each for each in level if each in words) for level in levels))
        for sentence, levels in all_phrases
    ]


def name(cosines: NDArray[np.float64], phrases: list[Phrase], min_share: float) -> str:
    """The narrowest name that fits at least `min_share` of a cluster's members (`SURE` for a colour
    or shape alone), and of several the one that fits most members; "" for none.

    cosines: (N, P), of each member with each sentence."""
    fits = cosines >= cosines.max(axis=1, keepdims=True) - MARGIN
    for level, required in enumerate((min_share, SURE, min_share)):
        columns_of: dict[str, list[int]] = {}  # the sentences of each name
        for column, phrase in enumerate(phrases):
            for word in phrase.names[level]:
                columns_of.setdefault(word, []).append(column)
        candidates = [
            (fits[:, columns].any(axis=1).mean(), cosines[:, columns].max(axis=1).mean(), word)
            for word, columns in columns_of.items()
        ]
        share, _, best = max(candidates, default=(0.0, 0.0, ""))
        if share >= required:
            return best
    return ""
