"""Thresholds from the scores of good photos, and the sentences about what they guarantee."""

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
    """When a photo is rejected.

    false_alarms  the share of good photos that may be rejected
    confidence    None: that share holds on average over the draw of the calibration photos; else it
                  holds for the photos that were drawn, with this probability
    threshold     scores above it are rejected, instead of the two above
    """

    false_alarms: float = 0.01
    confidence: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        conformal.needed(self.false_alarms, self.confidence)  # raises for what is not a share
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UnsupportedError(f"threshold is {self.threshold!r}; it is a finite number")


def changed(rule: Rule, numbers: Mapping[str, float]) -> Rule:
    """The rule with some fields replaced. A new rate or confidence removes its threshold. Raises
    UnsupportedError for numbers that are out of range."""
    if not numbers:
        return rule
    fields: dict[str, Any] = {"threshold": None, **numbers}
    return replace(rule, **fields)


@dataclass(frozen=True)
class Calibration:
    """Scores of good photos.

    kind    "held out": nothing was learned from these photos; "cross-validated": each was scored
            after learning from others, and the final method learned from all; "none": no scores
    peaks   the largest value of each photo's map
    groups  the group of each photo; (): there are no groups
    names   of their files, "" for an image without a file; (): not known
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
        numbers = [number for number, name in enumerate(self.groups) if name == group]
        scores = tuple(self.scores[n] for n in numbers)
        peaks = tuple(self.peaks[n] for n in numbers)
        names = tuple(self.names[n] for n in numbers) if self.names else ()
        return Calibration(self.kind if numbers else "none", scores, peaks, (), names)

    def check(self) -> None:
        """Raise ValueError if the fields contradict each other."""
        if not np.isfinite([*self.scores, *self.peaks]).all():
            raise ValueError("a score of the calibration is no finite number")
        lists = (self.scores, self.peaks, self.groups or self.scores, self.names or self.scores)
        if len({len(each) for each in lists}) > 1 or (self.kind == "none") == bool(self.scores):
            raise ValueError("the lists of the calibration do not belong together")

    @property
    def worst(self) -> str:
        """The name of the photo with the highest score; "" if not known."""
        return self.names[self.scores.index(max(self.scores))] if self.names else ""


class Judge:
    """Verdicts by one rule and one calibration without groups.

    limit   scores above it are rejected; infinite: there is no verdict
    edge    good photos have no values of a map above it
    rate    of false alarms that is guaranteed; None: no rate
    enough  True if there are enough calibration scores for the rule's rate
    """

    def __init__(self, calibration: Calibration, rule: Rule) -> None:
        self.calibration, self.rule = calibration, rule
        count = len(calibration.scores)
        self.enough = conformal.rank(count, rule.false_alarms, rule.confidence) <= count
        self.edge = self._threshold(calibration.peaks)
        self.limit = self._threshold(calibration.scores)
        self.rate: float | None = None
        if rule.threshold is not None:
            self.limit = rule.threshold
        elif calibration.kind == "held out" and count:
            lowest = conformal.lowest(count, rule.confidence)
            self.rate = rule.false_alarms if self.enough else lowest

    def _threshold(self, values: Sequence[float]) -> float:
        """The conformal threshold of values of good photos if there are enough, else the largest
        value."""
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
        """None where there is no limit."""
        return None if math.isinf(self.limit) else score > self.limit

    def above(self, p: float) -> float:
        """See `conformal.threshold_of_p`."""
        return conformal.threshold_of_p(self.calibration.scores, p)

    def guarantee(self) -> list[str]:
        """Sentences: what the verdicts guarantee, and what they do not."""
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
            sentences = [
                f"The threshold is not calibrated: it is the highest score that the {count} good "
                "photos reached when each was scored after learning from others. No rate of false "
                "alarms is guaranteed, and no p-value is given."
            ]
            if worst := self.calibration.worst:
                sentences.append(f"It is that of {worst}: make sure that it shows no defect.")
            return [*sentences, self._needed()]
        sentences = self._rate_sentences()
        if not self.enough:
            sentences.append(self._needed())
        return [*sentences, LIMITS]

    def _rate_sentences(self) -> list[str]:
        """Which rate of false alarms the photos held out guarantee."""
        rule, count = self.rule, len(self.calibration.scores)
        rate = self.rate or 0.0
        if rule.confidence is not None:
            return [
                f"With {rule.confidence:g} confidence in the {count} good photos of the "
                f"calibration, at most {rate:.2%} of good photos like them are rejected."
            ]
        from scipy.stats import beta  # type: ignore[import-untyped]

        # The rate of one calibration has the distribution Beta(n + 1 - k, k) (Vovk 2012).
        k = conformal.rank(count, rule.false_alarms) if self.enough else count
        most = float(beta.ppf(0.95, count + 1 - k, k))
        return [
            f"At most {rate:.2%} of good photos like the {count} of the calibration are rejected, "
            "in the mean over all calibrations that might have been drawn.",
            f"With this one it is at most {most:.2%}, with 95% confidence.",
        ]

    def _needed(self) -> str:
        rule = self.rule
        count = conformal.needed(rule.false_alarms, rule.confidence)
        return (
            f"A rate of {rule.false_alarms:.3g} takes {count} good photos that nothing is learned "
            "from, beside those for learning."
        )


def list_guarantee(rate: float, photos: int, held_out: int) -> list[str]:
    """Sentences: what the verdicts on a list of `photos` photos guarantee, with `held_out` good
    ones. Raises UnsupportedError for a rate that is not between 0 and 1."""
    conformal.between("false_discoveries", rate)
    sentences = [
        f"The photos are judged as one list: in the mean at most {rate:.2%} of those that are "
        "rejected are good."
    ]
    # The least p-value is 1 / (held_out + 1): k photos are rejected if it is <= rate * k / photos.
    fewest = math.ceil(photos / (Fraction(str(rate)) * (held_out + 1)))
    if fewest > 1:
        needed = math.ceil(photos / Fraction(str(rate))) - 1
        possible = f"{fewest} or more are rejected, or none"
        if fewest > photos:
            possible = "none can be rejected"
        sentences.append(
            f"With {held_out} good photos held out, of {photos} photos {possible}: to reject a "
            f"single one takes {needed}."
        )
    return [*sentences, LIMITS]


def colours(edge: float, highest: float = 0.0) -> tuple[float, float] | None:
    """The ends (low, high) of the logarithmic colour scale of maps. Visible colours begin at `edge`
    and end at the highest value, or at twice the edge if that is not given. None where the edge is
    not known."""
    if math.isinf(edge) or edge <= 0:
        return None
    high = max(highest, 1.2 * edge) if highest else 2 * edge
    # Colours begin at the share CLEAR of the scale: log(edge / low) = CLEAR log(high / low).
    return edge * (edge / high) ** (CLEAR / (1 - CLEAR)), high
