"""Classes from frozen features: a linear probe, and a vote of the nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchword.evaluate.metrics import Indices, Scores

GRID = np.logspace(-6, 6, 97)  # values of C, 8 per decade (Radford et al. 2021, appendix A.3)
ITERATIONS, TOLERANCE = 1000, 1e-5  # of L-BFGS; the iterations are those of A.3
HELD_OUT = 0.2  # share of each class's training images that C is chosen on
DEFAULT_C = 64  # index of C = 100 in GRID, if no image can be held out: few images need a large C
NEIGHBOURS, TEMPERATURE = 20, 0.07  # those of DINO (Caron et al. 2021, section 4.1 and its code)
BLOCK = 1 << 24  # similarities that are computed at a time


@dataclass(frozen=True)
class Probe:
    """A fitted multinomial logistic regression: scores = features @ weight.T + bias."""

    weight: NDArray[np.float64]  # (C, D)
    bias: NDArray[np.float64]  # (C,)
    c: float  # inverse strength of its regularisation
    held_out: float | None = None  # accuracy on the held-out images that c was chosen by

    def __call__(self, features: Scores) -> NDArray[np.float64]:
        """Logits (N, C) of features (N, D)."""
        return features.astype(np.float64) @ self.weight.T + self.bias


def linear_probe(features: Scores, targets: Indices, classes: int) -> Probe:
    """A logistic regression whose C is the best on held-out training images.

    As in Radford et al. 2021, appendix A.3: every 16th value of `GRID` is tried, then the interval
    around the best is halved until it is one step of the grid; all images are then fitted with that
    C. Of values with equal accuracy the one with the lowest cross-entropy is taken: on few held-out
    images the smallest C, which always predicts the largest class, may be as accurate. The paper
    uses the validation split of a data set, if any; this always holds out a fifth of each class. If
    none can be held out, C is 100.
    """
    held = held_out(targets, classes)
    if not held.any():
        return fit(features, targets, classes, float(GRID[DEFAULT_C]))
    samples = Samples.of(features[~held], targets[~held], classes)
    answers = torch.from_numpy(targets[held])
    fitted: dict[int, tuple[float, float, Probe]] = {}  # by index in GRID

    def score(index: int) -> tuple[float, float]:
        if index not in fitted:
            nearest_fit = min(fitted, key=lambda other: abs(other - index), default=None)
            start = None if nearest_fit is None else fitted[nearest_fit][2]
            probe = samples.fit(float(GRID[index]), start)
            logits = torch.from_numpy(probe(features[held]))
            accuracy = float((logits.argmax(dim=1) == answers).double().mean())
            fitted[index] = accuracy, -float(F.cross_entropy(logits, answers)), probe
        return fitted[index][:2]

    step = 16
    best = max(range(0, len(GRID), step), key=score)
    while step > 1:
        step //= 2
        around = (best - step, best, best + step)
        best = max((index for index in around if 0 <= index < len(GRID)), key=score)
    accuracy, _, start = fitted[best]
    final = Samples.of(features, targets, classes).fit(float(GRID[best]), start)
    return replace(final, held_out=accuracy)


def held_out(targets: Indices, classes: int) -> NDArray[np.bool_]:
    """Which images C is chosen on, (N,): the rounded share `HELD_OUT` of each class, sampled with a
    fixed seed, and none of a class with a single image."""
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

    the loss of scikit-learn's LogisticRegression(C=c). patchword does not use that, because a
    search over C can start each fit from the nearest one, in coordinates that need fewer steps. As
    in scikit-learn two classes share one row of weights (here w / 2 and -w / 2), and the bias is
    not penalised.
    """
    return Samples.of(features, targets, classes).fit(c, tolerance=tolerance)


@dataclass(frozen=True)
class Samples:
    """Features in the coordinates that L-BFGS runs in, which do not change the solution.

    They are centred, which changes only the bias, and rotated to the axes of their covariance,
    which does not change |W|. The loss along an axis of variance s then has a curvature of about
    h s + 1 / (C N), with h that of the cross-entropy at equal probabilities; `fit` divides the axis
    by the root of that curvature. This saves many steps, most of all for a small or a large C.
    """

    z: Tensor  # (N, D) float64
    onehot: Tensor  # (N, classes)
    mean: NDArray[np.float64]  # (D,)
    axes: NDArray[np.float64]  # (D, D), a column each
    variance: Tensor  # (D,): of z

    @classmethod
    def of(cls, features: Scores, targets: Indices, classes: int) -> Samples:
        """From features (N, D) and targets (N,)."""
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features - mean
        variance, axes = np.linalg.eigh(centred.T @ centred / len(features))
        onehot = F.one_hot(torch.from_numpy(targets), classes).double()
        z = torch.from_numpy(centred @ axes)
        return cls(z, onehot, mean, axes, torch.from_numpy(variance.clip(0)))

    def fit(self, c: float, start: Probe | None = None, tolerance: float = TOLERANCE) -> Probe:
        """The minimum of `fit`'s loss. start: where L-BFGS begins. tolerance: on the largest
        component of the gradient in these coordinates."""
        count, classes = self.onehot.shape
        rows = 1 if classes == 2 else classes
        decay = 1 / (c * count)
        curvature = (classes - 1) / classes**2 if classes > 1 else 1.0
        scale = torch.cat([curvature * self.variance + decay, torch.tensor([curvature])]).rsqrt()
        w = torch.zeros(rows, len(scale), dtype=torch.float64)  # the bias is its last column
        if start is not None:
            rotated = np.c_[start.weight @ self.axes, start.bias + start.weight @ self.mean]
            w += torch.from_numpy(rotated[-rows:]) * (2.0 if classes == 2 else 1.0) / scale
        x = torch.cat([self.z, torch.ones(count, 1)], dim=1) * scale
        _minimise(w, x, self.onehot, decay * scale[:-1].square(), tolerance)
        solved = (w * scale).numpy()
        if classes == 2:
            solved = np.concatenate([-solved, solved]) / 2
        weight = solved[:, :-1] @ self.axes.T
        return Probe(weight, solved[:, -1] - weight @ self.mean, c)


def _minimise(w: Tensor, x: Tensor, onehot: Tensor, decay: Tensor, tolerance: float) -> None:
    """Change `w` (rows, D + 1) to the minimum for samples x (N, D + 1). decay (D,): of the
    weights."""
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
            logits = F.pad(logits, (1, 0))  # of two classes the first has the logit 0
        log_probabilities = logits.log_softmax(dim=1)
        error = (log_probabilities.exp() - onehot)[:, -len(w) :] / len(x)
        w.grad = error.T @ x
        w.grad[:, :-1] += decay * w[:, :-1]
        penalty = (decay * w[:, :-1].square()).sum() / 2
        return penalty - (log_probabilities * onehot).sum() / len(x)

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
    """Scores (N, C) of unit features (N, D) by a vote of their k nearest among `known` unit vectors
    (M, D) with labels (M,): for class c the log of

        sum over the k nearest i of class c of exp(cos(x, x_i) / temperature)

    (Wu et al. 2018, section 3.4: k = 200, temperature 0.07; DINO finds k = 20 best). -inf for a
    class that no neighbour has.
    """
    k = min(k, len(known))
    columns, classes_of_known = torch.from_numpy(known).T, torch.from_numpy(labels)
    scores = []
    rows = max(1, BLOCK // len(known))
    for start in range(0, len(features), rows):
        part = torch.from_numpy(features[start : start + rows])
        cosines, indices = (part @ columns).topk(k, dim=1)
        weights = (cosines.double() / temperature).exp()
        votes = torch.zeros(len(part), classes, dtype=torch.float64)
        votes.scatter_add_(1, classes_of_known[indices], weights)
        scores.append(votes.log().numpy())
    return np.concatenate(scores) if scores else np.empty((0, classes))
