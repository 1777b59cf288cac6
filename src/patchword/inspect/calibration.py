"""What scores of good photos say of a threshold, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from patchword.errors import UnsupportedError
from patchword.inspect import conformal
from patchword.show.plots import CLEAR

Kind = Literal["held out", "cross-validated", "none"]
LIMITS = (
    "It says nothing about defects that are missed, and it holds only while product, light and "
    "camera stay as they were in the good photos."
)


@dataclass(frozen=True)
class Rule:
    """What is rejected.

    false_alarms  the share of good photos that may be rejected
    confidence    None: that share in the mean over all calibrations that might have been drawn;
                  else with this probability for the one that was
    threshold     scores above it, whatever good photos say
    """

    false_alarms: float = 0.01
    confidence: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        conformal.needed(self.false_alarms, self.confidence)  # raises for what is not a share
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UnsupportedError(f"threshold is {self.threshold!r}; it is a finite number")


def changed(rule: Rule, given: Mapping[str, float]) -> Rule:
    """The rule with other numbers, by their names. A threshold that it has gives way to a rate or a
    confidence. Raises UnsupportedError for numbers that cannot be."""
    numbers: dict[str, Any] = {"threshold": None, **given}
    return replace(rule, **numbers) if given else rule


@dataclass(frozen=True)
class Calibration:
    """Scores of good photos.

    kind    "held out": nothing was learned from them; "cross-validated": each was scored after
            learning from others, and then all were learned from; "none": there are none
    peaks   the largest value of each photo's map
    groups  the group of each; empty: all are one
    names   of their files, "" of what has none; empty: not known
    """

    kind: Kind
    scores: tuple[float, ...] = ()
    peaks: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def of(self, group: str) -> Calibration:
        """The scores of one group."""
        if not self.groups:
            return self
        chosen = [number for number, each in enumerate(self.groups) if each == group]
        scores = tuple(self.scores[n] for n in chosen)
        peaks = tuple(self.peaks[n] for n in chosen)
        names = tuple(self.names[n] for n in chosen) if self.names else ()
        return Calibration(self.kind if chosen else "none", scores, peaks, (), names)

    def check(self) -> None:
        """Raise ValueError for one that cannot be."""
        if not np.isfinite([*self.scores, *self.peaks]).all():
            raise ValueError("a score of the calibration is no finite number")
        lists = (self.scores, self.peaks, self.groups or self.scores, self.names or self.scores)
        if len({len(each) for each in lists}) > 1 or (self.kind == "none") == bool(self.scores):
            raise ValueError("the lists of the calibration do not belong together")

    @property
    def worst(self) -> str:
        """The name of the photo with the highest score; empty where it is not known."""
        return self.names[self.scores.index(max(self.scores))] if self.names else ""


class Judge:
    """Verdicts by one rule and one calibration without groups.

    limit  scores above it are rejected; infinite: none is
    edge   values of a map above it are not found in good photos
    rate   of false alarms that is guaranteed; None: none is
    """

    def __init__(self, calibration: Calibration, rule: Rule) -> None:
        self.calibration, self.rule = calibration, rule
        count = len(calibration.scores)
        self.enough = conformal.rank(count, rule.false_alarms, rule.confidence) <= count
        self.limit = self._highest(calibration.scores)
        self.edge = self._highest(calibration.peaks)
        if rule.threshold is not None:
            self.limit = rule.threshold
        sure = calibration.kind == "held out" and count and rule.threshold is None
        lowest = conformal.lowest(count, rule.confidence) if count else None
        self.rate = (rule.false_alarms if self.enough else lowest) if sure else None

    def _highest(self, values: Sequence[float]) -> float:
        """Of good photos: the conformal threshold where there are enough, else the largest."""
        if not values:
            return math.inf
        if not self.enough:
            return max(values)
        return conformal.threshold(values, self.rule.false_alarms, self.rule.confidence)

    def p_value(self, score: float) -> float | None:
        """None where no good photos were held out."""
        if self.calibration.kind != "held out":
            return None
        return float(conformal.p_values(self.calibration.scores, [score])[0])

    def rejected(self, score: float) -> bool | None:
        """None where nothing says what is too much."""
        return None if math.isinf(self.limit) else score > self.limit

    def above(self, p: float) -> float:
        """The score above which p-values are at most p, 0 to less than 1; infinite where none
        are."""
        return conformal.score_of(self.calibration.scores, p)

    def guarantee(self) -> list[str]:
        """What the verdicts guarantee and what they do not, in sentences."""
        rule, count, kind = self.rule, len(self.calibration.scores), self.calibration.kind
        if rule.threshold is not None:
            return [
                f"The threshold {rule.threshold:g} was given: no rate of false alarms is known."
            ]
        if kind == "none":
            return [
                "There is no verdict: no good photo was left to compare scores with. Two good "
                "photos are enough for a rough threshold.",
                self._needed(),
            ]
        if kind == "cross-validated":
            worst = self.calibration.worst
            return [
                f"The threshold is not calibrated: it is the highest score that the {count} good "
                "photos reached when each was scored after learning from others. No rate of false "
                "alarms is guaranteed, and no p-value is given.",
                *([f"It is that of {worst}: make sure that it shows no defect."] if worst else []),
                self._needed(),
            ]
        return [*self._held_out(), LIMITS]

    def _held_out(self) -> list[str]:
        rule, count = self.rule, len(self.calibration.scores)
        rate = self.rate or 0.0
        short = [] if self.enough else [self._needed()]
        if rule.confidence is not None:
            return [
                f"With {rule.confidence:g} confidence in the {count} good photos of the "
                f"calibration, at most {rate:.2%} of good photos like them are rejected.",
                *short,
            ]
        said = (
            f"At most {rate:.2%} of good photos like the {count} of the calibration are rejected, "
            "in the mean over all calibrations that might have been drawn."
        )
        from scipy.stats import beta  # type: ignore[import-untyped]

        k = conformal.rank(count, rule.false_alarms) if self.enough else count
        most = float(beta.ppf(0.95, count + 1 - k, k))
        return [said, f"With this one it is at most {most:.2%}, with 95% confidence.", *short]

    def _needed(self) -> str:
        rule = self.rule
        count = conformal.needed(rule.false_alarms, rule.confidence)
        return (
            f"A rate of {rule.false_alarms:.3g} takes {count} good photos that nothing is learned "
            "from, beside those for learning."
        )


def of_list(rate: float, photos: int, held: int) -> list[str]:
    """What the verdicts on a list of photos guarantee, by so many good ones that were held out.
    Raises UnsupportedError for a rate that is not between 0 and 1."""
    conformal.between("false_discoveries", rate)
    said = [
        f"The photos are judged as one list: in the mean at most {rate:.2%} of those that are "
        "rejected are good."
    ]
    fewest = math.ceil(photos / (Fraction(str(rate)) * (held + 1)))
    if fewest > 1:
        single = math.ceil(photos / Fraction(str(rate))) - 1
        most = (
            f"{fewest} or more are rejected, or none"
            if fewest <= photos
            else "none can be rejected"
        )
        said.append(
            f"With {held} good photos held out, of {photos} photos {most}: to reject a single one "
            f"takes {single}."
        )
    return [*said, LIMITS]


def colours(edge: float, highest: float = 0.0) -> tuple[float, float] | None:
    """The ends of the colours of maps, which are logarithmic: they begin at `edge`, above which
    nothing is in good photos, and end at the highest value; where none is known, at twice the edge.
    None where no good photos tell the edge."""
    if math.isinf(edge) or edge <= 0:
        return None
    high = max(highest, 1.2 * edge) if highest else 2 * edge
    # Colours begin at the share CLEAR of the scale: log(edge / low) = CLEAR log(high / low).
    return edge * (edge / high) ** (CLEAR / (1 - CLEAR)), high
