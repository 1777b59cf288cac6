"""The forgetting monitor: evaluates a model during fine-tuning on data that it could handle before,
warns when that quality falls, and keeps the best blend of the weights before and now (WiSE-FT,
Wortsman et al. 2022)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from patchword import checkpoints
from patchword.atomic_write import write
from patchword.bundle import Bundle
from patchword.errors import ConfigError, RecipeError, warn
from patchword.evaluate import blend
from patchword.evaluate.blend import differences
from patchword.train.evaluator import EvaluateConfig, Evaluator, mean_quality

FILE, BLEND = "forgetting.json", "blend"  # in the run's folder
ROUNDING = 1e-9  # a fall of exactly `drop` is allowed, in floating point too


@dataclass(frozen=True)
class ForgettingConfig:
    """[monitor.forgetting]: data that the model could handle before fine-tuning and must not
    forget. It is evaluated on the first task that makes sense there, zero-shot for class folders,
    as one number: `evaluate.quality`."""

    path: str  # as in an EvaluateConfig
    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    drop: float = 0.02  # warn if the quality is lower than that of the initial model by more
    alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # and 0 and 1

    def __post_init__(self) -> None:
        if not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise ConfigError(
                f"forgetting.alphas is {self.alphas}; each is from 0 (the initial model) to 1"
            )
        if not 0 <= self.drop <= 1:
            raise ConfigError(f"forgetting.drop is {self.drop}; it is a share, 0.02 for two points")

    @property
    def data(self) -> EvaluateConfig:
        """What to evaluate on."""
        return EvaluateConfig(self.path, labels=self.labels, templates=self.templates)


@dataclass(frozen=True)
class Qualities:
    """The qualities of one model, 0 to 1."""

    forgetting: float  # on the data of [monitor.forgetting]
    evaluation: float | None  # on that of [[monitor.evaluate]]; None without any

    @property
    def score(self) -> float:
        """The number by which blends are compared."""
        if self.evaluation is None:
            return self.forgetting
        return fmean((self.forgetting, self.evaluation))


class ForgettingMonitor:
    """Warns of forgetting, and keeps the best blend, of one run.

    forgetting.json holds the qualities of the initial model, which are measured once, and those of
    the best blend, which is itself in the folder `blend`.
    """

    def __init__(
        self,
        config: ForgettingConfig,
        initial: Bundle,
        out: Path,
        evaluator: Evaluator,
        sets: Sequence[EvaluateConfig] = (),
        fresh: bool = False,
    ) -> None:
        """initial: the model before training; its network must not be the one that is trained.
        sets: other data that blends are compared on. fresh: ignore an existing forgetting.json. It
        is also ignored where it is about another initial model or other data."""
        self.config, self.initial, self.sets = config, initial, tuple(sets)
        self.evaluator = evaluator
        self.file, self.folder = out / FILE, out / BLEND
        data = [asdict(each) for each in (config.data, *self.sets)]
        subject = json.loads(json.dumps({"model": initial.fingerprint, "data": data}))
        saved = {} if fresh else self._read()
        if saved.get("subject") != subject:
            qualities = self._measure(initial)
            saved = {"subject": subject, "initial": asdict(qualities), "best": None}
            write(self.file, json.dumps(saved, indent=2) + "\n")
        self.saved = saved
        self.before = Qualities(**saved["initial"])

    def evaluate(
        self, step: int, model: Bundle, evaluation: float | None = None
    ) -> dict[str, float]:
        """Metrics of the model at this step. Warns where it has forgotten more than is allowed, and
        keeps its best blend with the initial model.

        That is the one with the highest score, the smallest alpha of equals, and it is kept if it
        is better than at any step before. Without [[monitor.evaluate]] it is the one with the
        highest alpha whose quality is within `drop` of the initial model's, and the last step's is
        kept. evaluation: the model's quality on the sets, if it is known.
        """
        if evaluation is None:
            now = self._measure(model)
        else:
            now = Qualities(self._forgetting_quality(model), evaluation)
        metrics = {
            "forgetting/quality": now.forgetting,
            "forgetting/initial": self.before.forgetting,
        }
        if list(differences(self.initial, model)):
            advice = ""
        else:
            alpha, best = self._best(model, now)
            self._keep(step, model, alpha, best)
            metrics |= {"forgetting/blend": best.forgetting, "forgetting/alpha": alpha}
            kept = self.saved["best"]
            advice = (
                f", or take {self.folder} (alpha {kept['alpha']:g} of step {kept['step']}), which "
                f"has {kept['forgetting']:.1%}; `patchword blend` makes others"
            )
        if self._forgets(now):
            warn(
                f"step {step}: the model forgets: on {self.config.data.title} "
                f"{now.forgetting:.1%} are right, with the initial model "
                f"{self.before.forgetting:.1%}, and [monitor.forgetting] allows "
                f"{100 * self.config.drop:g} points less. Lower learning_rate, train with [lora]"
                f"{advice}",
            )
        return metrics

    def _forgets(self, now: Qualities) -> bool:
        return self.before.forgetting - now.forgetting > self.config.drop + ROUNDING

    def _best(self, model: Bundle, now: Qualities) -> tuple[float, Qualities]:
        """The best alpha, and its blend's qualities."""
        alphas = sorted({0.0, *self.config.alphas, 1.0})
        if not self.sets:
            for alpha in reversed(alphas):
                qualities = self._of_blend(alpha, model, now)
                if not self._forgets(qualities):
                    return alpha, qualities
        tried = [(alpha, self._of_blend(alpha, model, now)) for alpha in alphas]
        return max(tried, key=lambda each: each[1].score)

    def _of_blend(self, alpha: float, model: Bundle, now: Qualities) -> Qualities:
        if alpha in (0, 1):
            return now if alpha else self.before
        mixed = blend(self.initial, model, alpha)
        mixed.own_network.to(model.device)
        return self._measure(mixed)

    def _measure(self, model: Bundle) -> Qualities:
        rest = self.evaluator.quality(model, self.sets) if self.sets else None
        return Qualities(self._forgetting_quality(model), rest)

    def _forgetting_quality(self, model: Bundle) -> float:
        return mean_quality(self.evaluator.answers(model, self.config.data, most=1))

    def _keep(self, step: int, model: Bundle, alpha: float, found: Qualities) -> None:
        """Save the blend, then note it in forgetting.json; in this order, so that a run that is
        killed between them does both again."""
        best = self.saved["best"]
        if best and self.sets and found.score <= best["score"]:
            return
        checkpoints.save(blend(self.initial, model, alpha), self.folder)
        self.saved["best"] = {"step": step, "alpha": alpha, **asdict(found), "score": found.score}
        write(self.file, json.dumps(self.saved, indent=2) + "\n")

    def _read(self) -> dict[str, Any]:
        """The content of forgetting.json; empty where there is none."""
        try:
            saved = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RecipeError(f"{self.file}: not JSON ({error}); delete it") from error
        return saved if isinstance(saved, dict) else {}
