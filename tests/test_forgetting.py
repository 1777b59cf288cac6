"""The forgetting monitor: it warns of forgetting, and keeps the best blend."""

import copy
import itertools
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword import checkpoints
from patchword.bundle import Bundle, make
from patchword.errors import ConfigError, RecipeError
from patchword.scenes import scene
from patchword.train import forgetting
from patchword.train.evaluator import EvaluateConfig, Evaluator
from patchword.train.forgetting import ForgettingConfig, ForgettingMonitor
from patchword.train.monitor import Monitor, MonitorConfig

pytestmark = pytest.mark.slow

SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"
ALPHAS = (0.25, 0.5)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in class folders: the wafers of the samples, whose names are like "stain-1.jpg", and
    two images of every single shape."""
    place = tmp_path_factory.mktemp("photos")
    for file in SAMPLES.glob("wafers/*.jpg"):
        folder = place / "wafers" / file.stem.rpartition("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    left = dict.fromkeys(SHAPES, 2)
    drawn = (scene(2026, index, kind="shapes") for index in itertools.count())
    while any(left.values()):
        found = next(drawn)
        name = found.label.split()[-1]
        if len(found.objects) == 1 and left[name]:
            (place / "shapes" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(found.image).save(place / "shapes" / name / f"{left[name]}.jpg")
            left[name] -= 1
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def start() -> Bundle:
    return checkpoints.load("demo")


def trained(model: Bundle, noise: float, part: str = "text.", seed: int = 0) -> Bundle:
    """The model with noise on the weights of one tower, relative to each tensor's deviation."""
    network = copy.deepcopy(model.network)
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for name, value in state.items():
        if name.startswith(part) and value.is_floating_point() and value.ndim > 1:
            value += noise * value.std() * torch.randn(value.shape, generator=generator)
    return make(network, model.config, model.tokenizer, "trained")


@pytest.fixture(scope="module")
def forgetful(start: Bundle) -> Bundle:
    return trained(start, 2.8, seed=3)


def accuracy(model: Bundle, folder: Path) -> float:
    """The share of images whose class has the highest cosine, computed step by step."""
    names = sorted(path.name for path in folder.iterdir())
    texts = model.embed_texts([f"a photo of a {name}" for name in names])
    files = sorted(folder.glob("*/*.jpg"))
    scores = [[float(image @ text) for text in texts] for image in model.embed_images(files)]
    hits = [names[int(np.argmax(s))] == f.parent.name for s, f in zip(scores, files, strict=True)]
    return sum(hits) / len(hits)


def blended(start: Bundle, end: Bundle, alpha: float) -> Bundle:
    """(1 - alpha) start + alpha end, tensor by tensor."""
    network = copy.deepcopy(start.network)
    with torch.no_grad():
        for mine, theirs in zip(
            [*network.parameters(), *network.buffers()],
            [*end.network.parameters(), *end.network.buffers()],
            strict=True,
        ):
            if mine.is_floating_point():
                mine.copy_((mine.double() * (1 - alpha) + theirs.double() * alpha).float())
    return make(network, start.config, start.tokenizer, f"at {alpha}")


Accuracies = dict[float, dict[str, float]]  # by alpha and data set


@pytest.fixture(scope="module")
def accuracies(
    photos: Path, start: Bundle, forgetful: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Accuracies:
    """The accuracies of all blends on both data sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHWORD_CACHE", str(tmp_path_factory.mktemp("cache")))
        blends = {alpha: blended(start, forgetful, alpha) for alpha in (0.0, *ALPHAS, 1.0)}
        sets = ("wafers", "shapes")
        return {a: {name: accuracy(m, photos / name) for name in sets} for a, m in blends.items()}


@pytest.mark.parametrize(("old", "new"), [("wafers", "shapes"), ("shapes", "wafers")])
def test_a_model_that_forgets_raises_the_alarm_and_its_best_blend_is_kept(
    old: str, new: str, tmp_path: Path, photos: Path, start: Bundle, forgetful: Bundle,
    accuracies: Accuracies,
) -> None:  # fmt: skip
    config = MonitorConfig(
        evaluate=(EvaluateConfig(str(photos / new)),),
        forgetting=ForgettingConfig(str(photos / old), alphas=ALPHAS),
    )
    monitor = Monitor(tmp_path, config, 0, 7)
    monitor.check(forgetful, start)
    with pytest.warns(UserWarning, match=f"step 7: the model forgets: on {old}") as warned:
        metrics = monitor.evaluate(7, forgetful)

    best = max(accuracies, key=lambda alpha: accuracies[alpha][old] + accuracies[alpha][new])
    before, now = accuracies[0.0][old], accuracies[1.0][old]
    assert best in ALPHAS  # otherwise the test would show nothing
    assert before - now > 0.02
    assert metrics["forgetting/initial"] == pytest.approx(before)
    assert metrics["forgetting/quality"] == pytest.approx(now)
    assert metrics["forgetting/alpha"] == best
    assert metrics["forgetting/blend"] == pytest.approx(accuracies[best][old])
    assert metrics[f"eval/{new} zero-shot acc1"] == pytest.approx(accuracies[1.0][new])

    saved_blend = checkpoints.load(tmp_path / "blend")
    assert saved_blend.fingerprint == blended(start, forgetful, best).fingerprint
    saved = json.loads((tmp_path / "forgetting.json").read_text())
    assert (saved["best"]["step"], saved["best"]["alpha"]) == (7, best)
    assert saved["best"]["score"] == pytest.approx(
        (accuracies[best][old] + accuracies[best][new]) / 2
    )
    assert saved["initial"]["forgetting"] == pytest.approx(before)
    (message,) = [str(each.message) for each in warned]
    for part in (
        f"{now:.1%} are right", f"with the initial model {before:.1%}", "allows 2 points less",
        "learning_rate", "[lora]", "patchword blend", str(tmp_path / "blend"),
    ):  # fmt: skip
        assert part in message, part
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 7, **metrics}]


def test_a_model_that_does_not_forget_is_left_in_peace(
    tmp_path: Path, photos: Path, start: Bundle
) -> None:
    monitor = Monitor(
        tmp_path, MonitorConfig(forgetting=ForgettingConfig(str(photos / "wafers"))), 0, 1
    )
    same = trained(start, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.check(same, start)
        metrics = monitor.evaluate(1, same)
    assert (
        metrics["forgetting/quality"]
        == metrics["forgetting/initial"]
        == metrics["forgetting/blend"]
    )
    assert metrics["forgetting/alpha"] == 1


def test_without_evaluations_the_last_that_forgets_little_is_kept(
    tmp_path: Path, photos: Path, start: Bundle, forgetful: Bundle, accuracies: Accuracies
) -> None:
    config = ForgettingConfig(str(photos / "wafers"), alphas=ALPHAS, drop=0.15)
    monitor = ForgettingMonitor(config, start, tmp_path, Evaluator())
    with pytest.warns(UserWarning, match="allows 15 points less"):
        metrics = monitor.evaluate(3, forgetful)
    shares = {alpha: by_set["wafers"] for alpha, by_set in accuracies.items()}
    highest = max(alpha for alpha in shares if shares[0] - shares[alpha] <= 0.15)
    assert 0 < highest < 1
    assert metrics["forgetting/alpha"] == highest
    expected = blended(start, forgetful, highest).fingerprint
    assert checkpoints.load(tmp_path / "blend").fingerprint == expected
    milder = trained(start, 0.5)
    assert monitor.evaluate(4, milder)["forgetting/alpha"] == 1  # the later step's is kept
    assert checkpoints.load(tmp_path / "blend").fingerprint == milder.fingerprint


def test_a_fall_of_just_what_is_allowed_is_no_alarm(
    tmp_path: Path, photos: Path, start: Bundle, forgetful: Bundle, accuracies: Accuracies
) -> None:
    wafers = photos / "wafers"
    fall = accuracies[0.0]["wafers"] - accuracies[1.0]["wafers"]
    for drop, alarms in ((fall, 0), (fall - 1e-6, 1)):
        monitor = ForgettingMonitor(
            ForgettingConfig(str(wafers), drop=drop, alphas=()), start, tmp_path, Evaluator()
        )
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            monitor.evaluate(1, forgetful)
        assert len(warned) == alarms


class Counting(Evaluator):
    """Records which models were evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[str] = []

    def answers(self, model, config, most=None):  # type: ignore[no-untyped-def]
        self.models.append(model.fingerprint)
        return super().answers(model, config, most)


def test_a_resumed_run_compares_with_the_same_start(
    tmp_path: Path, photos: Path, start: Bundle
) -> None:
    data = ForgettingConfig(str(photos / "wafers"), alphas=(0.5,))
    sets = (EvaluateConfig(str(photos / "shapes")),)
    evaluator = Counting()
    ForgettingMonitor(data, start, tmp_path, evaluator, sets)
    assert evaluator.models == [start.fingerprint] * 2
    text = (tmp_path / "forgetting.json").read_text()
    saved = json.loads(text)
    saved["initial"]["forgetting"] = 0.123
    (tmp_path / "forgetting.json").write_text(json.dumps(saved))
    evaluator = Counting()
    assert ForgettingMonitor(data, start, tmp_path, evaluator, sets).before.forgetting == 0.123
    changed = replace(data, drop=0.3, alphas=(0.1,))  # they do not change the measured qualities
    assert ForgettingMonitor(changed, start, tmp_path, evaluator, sets).before.forgetting == 0.123
    assert evaluator.models == []
    for other in (
        ForgettingMonitor(data, start, tmp_path, evaluator, sets, fresh=True),
        ForgettingMonitor(replace(data, templates=("{}",)), start, tmp_path, evaluator, sets),
        ForgettingMonitor(data, trained(start, 0.1), tmp_path, evaluator, sets),
    ):
        assert other.before.forgetting != 0.123
        assert other.saved["best"] is None
    assert len(evaluator.models) == 6
    (tmp_path / "forgetting.json").write_text("{")
    with pytest.raises(RecipeError, match=r"forgetting\.json: not JSON .*delete it"):
        ForgettingMonitor(data, start, tmp_path, evaluator, sets)


def test_only_a_better_blend_replaces_the_kept_one(
    tmp_path: Path, photos: Path, start: Bundle, forgetful: Bundle
) -> None:
    data = ForgettingConfig(str(photos / "wafers"), alphas=(), drop=1.0)
    sets = (EvaluateConfig(str(photos / "shapes")),)
    steps = []
    for step, model in enumerate((trained(start, 1.8), start, forgetful)):
        monitor = ForgettingMonitor(
            data, forgetful, tmp_path, Evaluator(), sets
        )  # as after a resume
        monitor.evaluate(step, model)
        steps.append(monitor.saved["best"]["step"])
    assert steps == [0, 1, 1]
    assert checkpoints.load(tmp_path / "blend").fingerprint == start.fingerprint


def test_a_blend_is_saved_before_it_is_said(
    tmp_path: Path, photos: Path, start: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ForgettingConfig(str(photos / "wafers"), alphas=())
    monitor = ForgettingMonitor(data, start, tmp_path, Evaluator())

    def killed(model: Bundle, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(forgetting.checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        monitor.evaluate(1, start)
    assert json.loads((tmp_path / "forgetting.json").read_text())["best"] is None


def test_models_that_cannot_be_blended_have_the_alarm_alone(
    tmp_path: Path, photos: Path, start: Bundle
) -> None:
    tiny = tiny_bundle(tiny_clip())
    monitor = Monitor(
        tmp_path, MonitorConfig(forgetting=ForgettingConfig(str(photos / "wafers"), drop=0)), 0, 1
    )
    with pytest.warns(UserWarning, match="keeps no blend: the configs .*are different, "):
        monitor.check(tiny, start)
    with pytest.warns(UserWarning, match=r"the model forgets: .*train with \[lora\]$"):
        metrics = monitor.evaluate(1, tiny)
    assert set(metrics) == {"forgetting/quality", "forgetting/initial"}
    assert not (tmp_path / "blend").exists()


def test_wrong_settings_are_said_at_the_start(tmp_path: Path, photos: Path, start: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"forgetting\.alphas is \(0\.5, 2\)"):
        ForgettingConfig("x", alphas=(0.5, 2))
    with pytest.raises(ConfigError, match=r"forgetting\.drop is 2"):
        ForgettingConfig("x", drop=2)
    for config, message in (
        (ForgettingConfig(str(photos / "nowhere")), "no such folder"),
        (ForgettingConfig(str(photos / "wafers"), labels=("a", "b")), "2 labels for 5 classes"),
    ):
        monitor = Monitor(tmp_path, MonitorConfig(forgetting=config), 0, 1)
        with pytest.raises(RecipeError, match=rf"\[monitor\.forgetting\]: .*{message}"):
            monitor.check(start, start)
    assert not (tmp_path / "forgetting.json").exists()
