"""Linear probe on features of a real ViT: accuracy and time, beside scikit-learn.

    python benchmarks/probe.py [--data ../shared/data]

ViT-Tiny/16 (timm's pretrained weights, frozen) on clothing photos. Both fit on the features of the
training photos, choose C by the same sweep on the same held-out fifth, and classify the validation
photos. Top-1 accuracy and seconds, in one round: a sweep takes a minute. Both stop at a gradient of
1e-5 or after 1,000 steps. Features are the class token after the norm, of unit length, in float64.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from rows import Rows, option_parser
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from patchword import api
from patchword.evaluate import Evaluation, folders, metrics, probe

CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}


def vit(weights: Path) -> api.Model:
    """Load timm's ViT-Tiny with these weights."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        (Path(folder) / "model.safetensors").symlink_to(weights.resolve())
        return api.load(folder)


def fit_sklearn(features: np.ndarray, targets: np.ndarray, c: float) -> Callable[..., np.ndarray]:
    """scikit-learn's regression as a function from features to logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=c, tol=probe.TOLERANCE, max_iter=probe.ITERATIONS)
        return fitted.fit(features, targets).decision_function


def sweep_sklearn(
    features: np.ndarray, targets: np.ndarray, classes: int
) -> tuple[float, Callable]:
    """C and regression by the sweep of `probe.linear_probe`, with scikit-learn's fits."""
    held = probe.held_out(targets, classes)
    scores: dict[int, float] = {}

    def score(at: int) -> tuple[float, int]:
        if at not in scores:
            logits = fit_sklearn(features[~held], targets[~held], float(probe.GRID[at]))(
                features[held]
            )
            scores[at] = float(np.mean(logits.argmax(axis=1) == targets[held]))
        return scores[at], -at

    peak, step = max(range(0, len(probe.GRID), 16), key=score), 16
    while step > 1:
        step //= 2
        around = (peak - step, peak, peak + step)
        peak = max((at for at in around if 0 <= at < len(probe.GRID)), key=score)
    c = float(probe.GRID[peak])
    return c, fit_sklearn(features, targets, c)


def timed(run: Callable) -> tuple[object, float]:
    """The result of a call, and its seconds."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def main(data: Path, results: Path | None) -> None:
    rows = Rows(results)
    model = vit(data / "vit_tiny" / "model.safetensors")
    known, test = (folders.labelled(data / "clothing" / s) for s in ("train", "validation"))
    run, start = Evaluation(model), time.perf_counter()
    features, embedded = run.embed(known.images)
    features, targets = features.astype(np.float64), known.targets[embedded]
    unseen, embedded = run.embed(test.images)
    unseen, right = unseen.astype(np.float64), folders.agreeing(known, test)[embedded]
    seconds, classes = time.perf_counter() - start, len(known.names)
    print(f"{len(features)} + {len(unseen)} photos -> {features.shape[1]} numbers: {seconds:.0f} s")
    print(f"{torch.get_num_threads()} threads, {len(run.broken)} broken images")
    ours, spent = timed(lambda: probe.linear_probe(features, targets, classes))
    (c, peer), peer_spent = timed(lambda: sweep_sklearn(features, targets, classes))
    top = {}
    for name, at, logits, each in (
        ("patchword", ours.c, ours(unseen), spent),
        ("scikit-learn", c, peer(unseen), peer_spent),
    ):
        rank = metrics.ranks(logits, right)
        top[name] = 100 * metrics.within(rank, 1)
        counts = metrics.confusion(right, logits.argmax(axis=1), classes)
        print(
            f"sweep of C, {name}: top-1 {metrics.within(rank, 1):.1%}, "
            f"top-5 {metrics.within(rank, 5):.1%}, "
            f"mean per class {metrics.mean_per_class_recall(counts):.1%}, "
            f"C = {at:.3g}, {each:.1f} s"
        )
    what = "linear probe of ViT-Tiny on clothing"
    agreement = f"C = {ours.c:.3g} and {c:.3g}, one round"
    seconds_of_sweep = {"scikit-learn": peer_spent, "patchword": spent}
    rows.add_peers(f"{what}, sweep of C", "s", seconds_of_sweep, agreement=agreement)
    rows.add_peers(f"{what}, top-1", "%", top, agreement=agreement)
    for c in (0.01, 1.0, 100.0, 1e4):
        mine, spent = timed(lambda c=c: probe.fit(features, targets, classes, c)(unseen))
        other, peer_spent = timed(lambda c=c: fit_sklearn(features, targets, c)(unseen))
        same = np.mean(mine.argmax(axis=1) == other.argmax(axis=1))
        accuracy = [np.mean(logits.argmax(axis=1) == right) for logits in (mine, other)]
        print(
            f"C = {c:g}: patchword {accuracy[0]:.1%} in {spent:.2f} s, scikit-learn "
            f"{accuracy[1]:.1%} in {peer_spent:.2f} s; {same:.1%} of the answers the same"
        )
    votes = probe.nearest(features, targets, unseen, classes)
    print(f"k-NN, k = {probe.NEIGHBOURS}: top-1 {np.mean(votes.argmax(axis=1) == right):.1%}")


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    main(options.data, options.results)
