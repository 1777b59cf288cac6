"""The forgetting alarm: what a model could do before it was trained, asked again and again, and
the best model between the one before and the one now (WiSE-FT).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from patchword import checkpoints
from patchword.atomic_write import write
from patchword.bundle import Bundle
from patchword.errors import ConfigError, RecipeError
from patchword.evaluate import blend
from patchword.evaluate.blend import differences
from patchword.train.evaluator import EvaluateConfig, Judge, mean_quality

FILE, BLEND = "guard.json", "blend"  # in the run's folder
ROUNDING = 1e-9  # a fall of exactly `drop` is allowed, in floating point too


@dataclass(frozen=True)
class GuardConfig:
    """[watch.guard]: data of what the model could do before, which it shall not forget. Its first
    sensible task is asked, zero-shot for class folders, and `evaluate.quality` taken of it."""

    path: str  # as of an EvaluateConfig
    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    drop: float = 0.02  # the fall of its quality, below that at the start, that raises the alarm
    alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # and 0 and 1

    def __post_init__(self) -> None:
        if not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise ConfigError(f"guard.alphas is {self.alphas}; each goes from 0 (start) to 1 (end)")
        if not 0 <= self.drop <= 1:
            raise ConfigError(f"guard.drop is {self.drop}; it is a share, 0.02 for two points")

    @property
    def data(self) -> EvaluateConfig:
        """What to ask on."""
        return EvaluateConfig(self.path, labels=self.labels, templates=self.templates)


@dataclass(frozen=True)
class Qualities:
    """How good one model is, 0 to 1."""

    guard: float
    evaluation: float | None  # of [[watch.evaluate]]; None without any

    @property
    def score(self) -> float:
        """What blends are compared by."""
        return self.guard if self.evaluation is None else fmean((self.guard, self.evaluation))


class Guard:
    """The alarm, and the keeper of the best blend, of one run.

    guard.json holds the qualities of the start, which are measured once, and what is known of the
    best blend, which is itself in the folder `blend`.
    """

    def __init__(
        self,
        config: GuardConfig,
        start: Bundle,
        out: Path,
        judge: Judge,
        sets: Sequence[EvaluateConfig] = (),
        fresh: bool = False,
    ) -> None:
        """start: the model before training; its network must not be the one that is trained.
        sets: what else a blend is judged by. fresh: forget what guard.json says. It is also
        forgotten where it is of another start or other data."""
        self.config, self.start, self.judge, self.sets = config, start, judge, tuple(sets)
        self.file, self.folder = out / FILE, out / BLEND
        data = [asdict(each) for each in (config.data, *self.sets)]
        subject = json.loads(json.dumps({"start": start.fingerprint, "data": data}))
        known = {} if fresh else self._read()
        if known.get("of") != subject:
            first = self._measure(start)
            known = {"of": subject, "start": asdict(first), "best": None}
            write(self.file, json.dumps(known, indent=2) + "\n")
        self.known = known
        self.before = Qualities(**known["start"])

    def look(self, step: int, model: Bundle, evaluation: float | None = None) -> dict[str, float]:
        """Metrics of the model at this step. Warns where it has forgotten more than is allowed, and
        keeps its best blend with the start.

        That is the one of the highest mean of evaluation and guard quality, the smallest alpha of
        equals, kept if it is better than at any step before. With nothing to evaluate on, it is
        that of the highest alpha whose guard quality is within `drop` of the start's, and the last
        step's is kept. evaluation: the model's quality on the sets, where it is known.
        """
        if evaluation is None:
            now = self._measure(model)
        else:
            now = Qualities(self._guarded(model), evaluation)
        found = {"guard/quality": now.guard, "guard/start": self.before.guard}
        if list(differences(self.start, model)):
            advice = ""
        else:
            alpha, best = self._best(model, now)
            self._keep(step, model, alpha, best)
            found |= {"guard/blend": best.guard, "guard/alpha": alpha}
            kept = self.known["best"]
            advice = (
                f", or take {self.folder} (alpha {kept['alpha']:g} of step {kept['step']}), which "
                f"has {kept['guard']:.1%}; `patchword blend` makes others"
            )
        if self._forgets(now):
            title = self.config.data.title
            warnings.warn(
                f"step {step}: the model forgets: on {title} {now.guard:.1%} are right, at the "
                f"start {self.before.guard:.1%}, and [watch.guard] allows "
                f"{100 * self.config.drop:g} points less. Lower learning_rate, train with [lora]"
                f"{advice}",
                stacklevel=3,
            )
        return found

    def _forgets(self, now: Qualities) -> bool:
        return self.before.guard - now.guard > self.config.drop + ROUNDING

    def _best(self, model: Bundle, now: Qualities) -> tuple[float, Qualities]:
        """The best alpha, and its blend's qualities."""
        alphas = sorted({0.0, *self.config.alphas, 1.0})
        if not self.sets:
            for alpha in reversed(alphas):
                found = self._at(alpha, model, now)
                if not self._forgets(found):
                    return alpha, found
        tried = [(alpha, self._at(alpha, model, now)) for alpha in alphas]
        return max(tried, key=lambda each: each[1].score)

    def _at(self, alpha: float, model: Bundle, now: Qualities) -> Qualities:
        """The qualities of a blend."""
        if alpha in (0, 1):
            return now if alpha else self.before
        mixed = blend(self.start, model, alpha)
        mixed.network.to(model.device)
        return self._measure(mixed)

    def _measure(self, model: Bundle) -> Qualities:
        rest = self.judge.quality(model, self.sets) if self.sets else None
        return Qualities(self._guarded(model), rest)

    def _guarded(self, model: Bundle) -> float:
        return mean_quality(self.judge.answers(model, self.config.data, most=1))

    def _keep(self, step: int, model: Bundle, alpha: float, found: Qualities) -> None:
        """Save the blend, then say so in guard.json; in this order, so that a run that is killed
        between them does both again."""
        best = self.known["best"]
        if best and self.sets and found.score <= best["score"]:
            return
        checkpoints.save(blend(self.start, model, alpha), self.folder)
        self.known["best"] = {"step": step, "alpha": alpha, **asdict(found), "score": found.score}
        write(self.file, json.dumps(self.known, indent=2) + "\n")

    def _read(self) -> dict[str, Any]:
        """What guard.json says; nothing where there is none."""
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RecipeError(f"{self.file}: not JSON ({error}); delete it") from error
        return known if isinstance(known, dict) else {}
