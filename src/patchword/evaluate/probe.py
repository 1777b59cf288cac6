"""Frozen features -> classes: a linear probe and the nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchword.evaluate.metrics import Indices, Scores

# Of C: 8 steps a decade (Radford et al. 2021, appendix A.3).
GRID = np.logspace(-6, 6, 97)
ITERATIONS, TOLERANCE = 1000, 1e-5  # of L-BFGS; the former as in A.3
HELD_OUT = 0.2  # share of the training images of a class that C is chosen on
UNCHOSEN = 64  # place in GRID, of C = 100, where nothing is held out: so few images need a large C
NEIGHBOURS, TEMPERATURE = 20, 0.07  # as DINO (Caron et al. 2021, section 4.1 and its code)
BLOCK = 1 << 24  # similarities that exist at a time


@dataclass(frozen=True)
class Probe:
    """A fitted multinomial logistic regression: scores = features @ weight.T + bias."""

    weight: NDArray[np.float64]  # (C, D)
    bias: NDArray[np.float64]  # (C,)
    c: float  # inverse strength of its regularisation
    held_out: float | None = None  # accuracy by which c was chosen

    def __call__(self, features: Scores) -> NDArray[np.float64]:
        """Logits (N, C) of features (N, D)."""
        return features.astype(np.float64) @ self.weight.T + self.bias


def linear_probe(features: Scores, targets: Indices, classes: int) -> Probe:
    """A logistic regression whose C is the best on a held-out part of the training images.

    As in Radford et al. 2021, appendix A.3: every 16th of `GRID` is tried, then the interval around
    the best is halved until neighbours on the grid are compared; with that C, all images are
    fitted. Of equally accurate ones that of the lowest cross-entropy is taken: with few images held
    out, the smallest C may be as accurate, which always answers with the largest class. The paper
    uses a data set's own validation split where there is one; this always holds out every fifth
    image of each class. Where none can be, as of two images of each class, C is 100.
    """
    held = held_out(targets, classes)
    if not held.any():
        return fit(features, targets, classes, float(GRID[UNCHOSEN]))
    known = Samples.of(features[~held], targets[~held], classes)
    answers = torch.from_numpy(targets[held])
    fitted: dict[int, tuple[float, float, Probe]] = {}

    def score(at: int) -> tuple[float, float]:
        if at not in fitted:
            near = min(fitted, key=lambda other: abs(other - at), default=None)
            start = None if near is None else fitted[near][2]
            probe = known.fit(float(GRID[at]), start)
            logits = torch.from_numpy(probe(features[held]))
            right = float((logits.argmax(dim=1) == answers).double().mean())
            fitted[at] = right, -float(F.cross_entropy(logits, answers)), probe
        return fitted[at][:2]

    step = 16
    peak = max(range(0, len(GRID), step), key=score)
    while step > 1:
        step //= 2
        around = (peak - step, peak, peak + step)
        peak = max((at for at in around if 0 <= at < len(GRID)), key=score)
    best, _, start = fitted[peak]
    final = Samples.of(features, targets, classes).fit(float(GRID[peak]), start)
    return replace(final, held_out=best)


def held_out(targets: Indices, classes: int) -> NDArray[np.bool_]:
    """Which images C is chosen on, (N,): of each class `HELD_OUT`, rounded, sampled with a fixed
    seed; of a class with a single image, none."""
    out = np.zeros(len(targets), bool)
    rng = np.random.default_rng(0)
    for label in range(classes):
        order = rng.permutation(np.flatnonzero(targets == label))
        out[order[: min(round(HELD_OUT * len(order)), len(order) - 1)]] = True
    return out


def fit(
    features: Scores, targets: Indices, classes: int, c: float = 1.0, tolerance: float = TOLERANCE
) -> Probe:
    """Logistic regression of features (N, D) by L-BFGS in float64: weights W and bias b with

        min  (1 / N) sum_i -log softmax(W x_i + b)[y_i]  +  |W|^2 / (2 C N)

    which is what scikit-learn's LogisticRegression(C=c) minimises. patchword does not depend on it:
    a search over C starts each fit from the nearest one, in coordinates that need fewer steps. As
    there, two classes share one row of weights (here w / 2 and -w / 2), and the bias is not
    penalised.
    """
    return Samples.of(features, targets, classes).fit(c, tolerance=tolerance)


@dataclass(frozen=True)
class Samples:
    """Features in the coordinates that L-BFGS runs in, which do not change the solution.

    They are centred, which changes only the bias, and rotated to the axes of their covariance,
    which does not change |W|. There each axis of variance s has a curvature of about h s + 1 / (C
    N), where h is that of the cross-entropy at equal probabilities, and is scaled by its root: this
    saves many steps, above all for a small or a large C.
    """

    z: Tensor  # (N, D) float64
    onehot: Tensor  # (N, classes)
    mean: NDArray[np.float64]  # (D,)
    axes: NDArray[np.float64]  # (D, D), a column each
    spread: Tensor  # (D,): variance of z

    @classmethod
    def of(cls, features: Scores, targets: Indices, classes: int) -> Samples:
        """From features (N, D) and targets (N,)."""
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features - mean
        spread, axes = np.linalg.eigh(centred.T @ centred / len(features))
        onehot = F.one_hot(torch.from_numpy(targets), classes).double()
        variance = torch.from_numpy(spread.clip(0))
        return cls(torch.from_numpy(centred @ axes), onehot, mean, axes, variance)

    def fit(self, c: float, start: Probe | None = None, tolerance: float = TOLERANCE) -> Probe:
        """The minimum of `fit`'s loss. start: where to begin. tolerance: of the largest component
        of the gradient in these coordinates."""
        count, classes = self.onehot.shape
        rows = 1 if classes == 2 else classes
        decay, curved = 1 / (c * count), (classes - 1) / classes**2 or 1.0
        scale = torch.cat([curved * self.spread + decay, torch.tensor([curved])]).rsqrt()
        w = torch.zeros(rows, len(scale), dtype=torch.float64)  # the bias is its last column
        if start is not None:
            turned = np.c_[start.weight @ self.axes, start.bias + start.weight @ self.mean]
            w += torch.from_numpy(turned[-rows:]) * (2.0 if classes == 2 else 1.0) / scale
        x = torch.cat([self.z, torch.ones(count, 1)], dim=1) * scale
        _minimise(w, x, self.onehot, decay * scale[:-1].square(), tolerance)
        solved = (w * scale).numpy()
        if classes == 2:
            solved = np.concatenate([-solved, solved]) / 2
        weight = solved[:, :-1] @ self.axes.T
        return Probe(weight, solved[:, -1] - weight @ self.mean, c)


def _minimise(w: Tensor, x: Tensor, onehot: Tensor, decay: Tensor, tolerance: float) -> None:
    """Move `w` (rows, D + 1) to the minimum for samples x (N, D + 1); decay (D,) of each weight."""
    optimizer = torch.optim.LBFGS(
        [w],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=1e-14,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        logits = x @ w.T  # (N, rows)
        if len(w) == 1:
            logits = F.pad(logits, (1, 0))  # the first class has logit 0
        logs = logits.log_softmax(dim=1)
        error = (logs.exp() - onehot)[:, -len(w) :] / len(x)
        w.grad = error.T @ x
        w.grad[:, :-1] += decay * w[:, :-1]
        penalty = (decay * w[:, :-1].square()).sum() / 2
        return penalty - (logs * onehot).sum() / len(x)

    with torch.no_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]


def nearest(
    known: Scores,
    labels: Indices,
    features: Scores,
    classes: int,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> NDArray[np.float64]:
    """Scores (N, C) of features (N, D) by a vote of their k nearest among `known` (M, D), labelled
    (M,): the log of

        sum over the k neighbours i of class c of  exp(cos(x, x_i) / temperature)

    (Wu et al. 2018, section 3.4: k = 200, temperature 0.07; DINO finds k = 20 best). -inf for a
    class that no neighbour has. Both are unit vectors.
    """
    k = min(k, len(known))
    theirs, votes = torch.from_numpy(known).T, torch.from_numpy(labels)
    out = []
    rows = max(1, BLOCK // len(known))
    for start in range(0, len(features), rows):
        part = torch.from_numpy(features[start : start + rows])
        cosines, at = (part @ theirs).topk(k, dim=1)
        weights = (cosines.double() / temperature).exp()
        tally = torch.zeros(len(part), classes, dtype=torch.float64)
        out.append(tally.scatter_add_(1, votes[at], weights).log().numpy())
    return np.concatenate(out) if out else np.empty((0, classes))
