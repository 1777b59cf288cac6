"""The forgetting monitor. During fine-tuning it evaluates the model on data that it could handle
before, warns when that quality falls, and keeps the best blend of the initial and the current
weights (WiSE-FT, Wortsman et al. 2022)."""

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
ROUNDING = 1e-9  # tolerance, so that a fall of exactly `drop` is allowed


@dataclass(frozen=True)
class ForgettingConfig:
    """[monitor.forgetting]: data that the model could handle before fine-tuning and must not
    forget. It is evaluated by the `evaluate.quality` of the first task that fits the data:
    zero-shot for class folders."""

    path: str  # as in an EvaluateConfig
    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    drop: float = 0.02  # warn if the quality falls below the initial model's by more than this
    # shares of the trained weights in the blends that are tried, besides 0 and 1
    alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

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
    evaluation: float | None  # on the data of [[monitor.evaluate]]; None without any

    @property
    def score(self) -> float:
        """The number by which blends are compared: the mean of both."""
        if self.evaluation is None:
            return self.forgetting
        return fmean((self.forgetting, self.evaluation))


class ForgettingMonitor:
    """Warns of forgetting in one run, and keeps the best blend.

    forgetting.json holds the qualities of the initial model, which are measured once, and those of
    the best blend. The blend itself is in the folder `blend`.
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
        sets: other data on which blends are compared. fresh: ignore an existing forgetting.json. It
        is also ignored if it is about another initial model or other data."""
        self.config, self.initial, self.sets = config, initial, tuple(sets)
        self.evaluator = evaluator
        self.file, self.folder = out / FILE, out / BLEND
        data = [asdict(each) for each in (config.data, *self.sets)]
        subject = json.loads(json.dumps({"model": initial.fingerprint, "data": data}))
        saved = {} if fresh else self._read_saved()
        if saved.get("subject") != subject:
            qualities = self._measure(initial)
            saved = {"subject": subject, "initial": asdict(qualities), "best": None}
            write(self.file, json.dumps(saved, indent=2) + "\n")
        self.saved = saved
        self.before = Qualities(**saved["initial"])

    def evaluate(
        self, step: int, model: Bundle, evaluation: float | None = None
    ) -> dict[str, float]:
        """Evaluate the model at this step; returns metrics. Warns if it has forgotten more than is
        allowed, and keeps its best blend with the initial model.

        The best blend is the one with the highest score; of equal ones, that of the smallest alpha.
        It is kept if its score is higher than at all steps before. Without [[monitor.evaluate]],
        the best blend is the one with the highest alpha whose quality is within `drop` of the
        initial model's, and the blend of the last step is kept. evaluation: the model's quality on
        the sets, if it is known.
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
            alpha, best = self._best_blend(model, now)
            self._keep_if_best(step, model, alpha, best)
            metrics |= {"forgetting/blend": best.forgetting, "forgetting/alpha": alpha}
            saved = self.saved["best"]
            advice = (
                f", or take {self.folder} (alpha {saved['alpha']:g} of step {saved['step']}), "
                f"which has {saved['forgetting']:.1%}; `patchword blend` makes others"
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

    def _best_blend(self, model: Bundle, now: Qualities) -> tuple[float, Qualities]:
        """The alpha of the best blend, and its qualities. now: the model's qualities."""
        alphas = sorted({0.0, *self.config.alphas, 1.0})
        if not self.sets:
            for alpha in reversed(alphas):
                qualities = self._blend_qualities(alpha, model, now)
                if not self._forgets(qualities):
                    return alpha, qualities
        blends = [(alpha, self._blend_qualities(alpha, model, now)) for alpha in alphas]
        return max(blends, key=lambda blend: blend[1].score)

    def _blend_qualities(self, alpha: float, model: Bundle, now: Qualities) -> Qualities:
        if alpha == 0:
            return self.before
        if alpha == 1:
            return now
        mixed = blend(self.initial, model, alpha)
        mixed.own_network.to(model.device)
        return self._measure(mixed)

    def _measure(self, model: Bundle) -> Qualities:
        evaluation = self.evaluator.quality(model, self.sets) if self.sets else None
        return Qualities(self._forgetting_quality(model), evaluation)

    def _forgetting_quality(self, model: Bundle) -> float:
        return mean_quality(self.evaluator.answers(model, self.config.data, most=1))

    def _keep_if_best(self, step: int, model: Bundle, alpha: float, qualities: Qualities) -> None:
        """Save a blend unless an earlier one is better. It is saved before forgetting.json names
        it, so that a run that is killed in between does both again."""
        best = self.saved["best"]
        if best and self.sets and qualities.score <= best["score"]:
            return
        checkpoints.save(blend(self.initial, model, alpha), self.folder)
        self.saved["best"] = {
            "step": step,
            "alpha": alpha,
            **asdict(qualities),
            "score": qualities.score,
        }
        write(self.file, json.dumps(self.saved, indent=2) + "\n")

    def _read_saved(self) -> dict[str, Any]:
        """The content of forgetting.json; {} if there is no such file."""
        try:
            saved = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RecipeError(f"{self.file}: not JSON ({error}); delete it") from error
        return saved if isinstance(saved, dict) else {}
