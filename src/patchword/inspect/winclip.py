"""WinCLIP (Jeong et al. 2023): windows of a photo are compared with sentences about good and bad
states of the subject, and with good photos if there are any.

With the mean vectors t_good and t_bad of the sentences (section 4.1), a vector x has the score

    s(x) = exp(cos(x, t_bad) / T) / (exp(cos(x, t_good) / T) + exp(cos(x, t_bad) / T))

A patch's value is the harmonic mean of s over the windows that cover it, then over the window
scales and the whole image (section 4.2); a photo's score is s of the whole image. With good photos
(WinCLIP+, section 4.3) x is also compared with their vectors y at the same scale,

    u(x) = min over y of (1 - cos(x, y)) / 2

Then the map is the mean of the harmonic mean of s and the mean of u over patches and window scales,
and the score the mean of s of the image and the largest value of that map of u.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.finite import check_finite
from patchword.inspect.features import joined, tiles
from patchword.inspect.prompts import BAD, GOOD, sentences
from patchword.inspect.protocol import DEFAULT_VIEW, RGB, Finding, Needs, State, View
from patchword.inspect.windows import (
    Grid,
    badness,
    harmonic,
    harmonic_over,
    mean_over,
    sliding,
    unlikeness,
)
from patchword.models.edits import DenseEdit
from patchword.nn.inference_mode import inference
from patchword.scope import Check
from patchword.text import long_text
from patchword.where.auto import usual_of
from patchword.where.dense import EDITS, dense, edit_of

TEXTS = 256  # in one pass of the text tower
AGGREGATES = ("badness", "goodness")
TEMPERATURES = {"badness": 0.07, "goodness": 0.01}


@dataclass(frozen=True)
class Vectors:
    """The vectors of images (B, 3, H, W)."""

    image: Tensor  # (B, D)
    windows: tuple[Tensor, ...]  # (B, W, D) for each scale
    patches: Tensor  # (B, h * w, D')
    sliding: tuple[Tensor, ...]  # (W, K) for each scale: the patches of its windows
    grid: Grid


@dataclass(frozen=True)
class WinCLIP:
    """WinCLIP (Jeong et al. 2023): the probability of the sentences about bad states, against those
    about good states, for windows of patches and the whole image. With good photos (WinCLIP+) half
    of each value is the distance from their windows and patches.

    subject      what the photos show, in a word or two
    good, bad    states of the subject, which stands at "{}"
    scales       sides of the windows, in patches
    exact        run every window through the network by itself, which takes as long as about 12
                 encodings of the photo; else a window is the mean of its patches' dense features
    method       the heatmap method of those features; "auto": as for heatmaps
    aggregate    "badness", as in the paper; "goodness", as in caoyunkang/WinClip: the harmonic mean
                 of the probability of good, with single patches as a scale but not the whole
                 image; a photo's score is then its largest value
    temperature  of the softmax; None: 0.07, for "goodness" 0.01
    """

    name: ClassVar[str] = "winclip"
    needs: ClassVar[Needs] = Needs(good=0, words=True)

    view: View = DEFAULT_VIEW
    subject: str = "object"
    good: tuple[str, ...] = GOOD
    bad: tuple[str, ...] = BAD
    scales: tuple[int, ...] = (2, 3)
    exact: bool = True
    method: str = "auto"
    aggregate: str = "badness"
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.view.layers:
            raise UnsupportedError("winclip reads what the whole network gives: it has no layers")
        if not self.subject.strip():
            raise UnsupportedError('subject is empty; say what the photos show, or "object"')
        if not self.good or not self.bad:
            raise UnsupportedError("winclip needs at least one state of good things and one of bad")
        if not self.scales or min(self.scales) < 1:
            raise UnsupportedError(f"scales are {self.scales}; each is 1 or more patches")
        if self.aggregate not in AGGREGATES:
            raise UnsupportedError(
                f"aggregate is {self.aggregate!r}; it is {' or '.join(AGGREGATES)}"
            )
        if self.temperature is not None and self.temperature <= 0:
            raise UnsupportedError(f"temperature is {self.temperature!r}; it is above 0")

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """The prototypes (2, D) of good and bad; from good photos the vectors (M, D) of all windows
        of each scale, and those of all patches (M, D')."""
        state = {"prototypes": prototypes(model, self.subject, self.good, self.bad)}
        known = [self.vectors(model, tiles(model, photo, self.view).pixels) for photo in good]
        if known:
            state["patches"] = torch.cat([photo.patches.flatten(0, 1) for photo in known])
            for number, side in enumerate(self.scales):
                rows = [photo.windows[number].flatten(0, 1) for photo in known]
                state[f"windows.{side}"] = torch.cat(rows)
            for values in state.values():
                check_finite(values, lambda: model.no_vector("a good photo"))
        return state

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """The score of a photo in several tiles is that of the worst tile."""
        for photo in photos:
            cut = tiles(model, photo, self.view)
            scores, maps = self.scores_and_maps(self.vectors(model, cut.pixels), state)
            grid = joined(maps[None, ..., None], cut.rows, cut.columns)[0, ..., 0]
            yield Finding(float(scores.max()), grid.numpy(), cut.geometry)

    def vectors(self, model: Bundle, pixels: Tensor) -> Vectors:
        """If `exact`, raises UnsupportedError for a tower that cannot run on some patches alone."""
        tower = model.image_tower
        grid = tower.grid((pixels.shape[-2], pixels.shape[-1]))
        positions = tuple(sliding(grid, side) for side in self.scales)
        with inference(model.own_network):
            image = tower(pixels).float().cpu()
            if self.exact:
                windows = tuple(tower.windows(pixels, each).float().cpu() for each in positions)
                joint = self.aggregate == "goodness"  # patches are compared with texts
                patches = tower.dense(pixels, DenseEdit(), project=joint).float().cpu()
            else:
                name = usual_of(model, EDITS) if self.method == "auto" else self.method
                patches = dense(model, pixels, edit_of(name)).cpu()
                windows = tuple(patches[:, each].mean(dim=2) for each in positions)
        return Vectors(image, windows, patches, positions, grid)

    def scores_and_maps(self, vectors: Vectors, state: State) -> tuple[Tensor, Tensor]:
        """Scores (B,) and maps (B, h, w)."""
        temperature = self.temperature or TEMPERATURES[self.aggregate]
        if self.aggregate == "goodness":
            maps = self._maps_by_goodness(vectors, state, temperature)
            return maps.flatten(1).amax(dim=1), maps
        texts = state["prototypes"]
        scores = badness(vectors.image, texts, temperature)
        windows = [badness(each, texts, temperature) for each in vectors.windows]
        maps = harmonic([scores[:, None, None], *_harmonic_maps(windows, vectors)])
        if "patches" not in state:
            return scores, maps
        patches, windows = self._unlikeness(vectors, state)
        unlike = torch.stack([patches, *_harmonic_maps(windows, vectors)]).mean(dim=0)
        return (scores + unlike.flatten(1).amax(dim=1)) / 2, (maps + unlike) / 2

    def _maps_by_goodness(self, vectors: Vectors, state: State, temperature: float) -> Tensor:
        """Maps (B, h, w) as in caoyunkang/WinClip."""
        texts = state["prototypes"].flip(0)  # so that `badness` is the probability of good
        windows = [badness(each, texts, temperature) for each in vectors.windows]
        patches = badness(vectors.patches, texts, temperature).unflatten(1, vectors.grid)  # type: ignore[no-untyped-call]
        maps = 1 - harmonic([patches, *_harmonic_maps(windows, vectors)])
        if "patches" not in state:
            return maps
        patches, windows = self._unlikeness(vectors, state)
        pairs = zip(windows, vectors.sliding, strict=True)
        means = [mean_over(values, places, vectors.grid) for values, places in pairs]
        return harmonic([maps, torch.stack([patches, *means]).mean(dim=0)]) / 2

    def _unlikeness(self, vectors: Vectors, state: State) -> tuple[Tensor, list[Tensor]]:
        """`unlikeness` to good photos of the patches (B, h, w) and the windows of each scale
        (B, W)."""
        windows = [
            unlikeness(each, state[f"windows.{side}"])
            for each, side in zip(vectors.windows, self.scales, strict=True)
        ]
        patches = unlikeness(vectors.patches, state["patches"])
        return patches.unflatten(1, vectors.grid), windows  # type: ignore[no-untyped-call]


def prototypes(model: Bundle, subject: str, good: Sequence[str], bad: Sequence[str]) -> Tensor:
    """The mean features (2, D) of the sentences about good and about bad states, not normalised
    before or after the mean. Raises UnsupportedError for a model without a joint space of
    images and texts."""
    tokenizer = model.reader()
    if not model.config.embed_dim:
        raise UnsupportedError(
            f"{model.name} has no space that images and texts share; load a CLIP or SigLIP model, "
            'or the embedded one: patchword.load("demo")'
        )
    means = []
    for states in (good, bad):
        Check(model.scope, model.name).texts([state.replace("{}", subject) for state in states])
        rows = tokenizer.rows(sentences(subject, states))
        long_text.warn_of_long(tokenizer, rows)
        ids = tokenizer.pad(rows)
        parts = [
            torch.from_numpy(model.engine.encode_text(ids[start : start + TEXTS]))
            for start in range(0, len(ids), TEXTS)
        ]
        means.append(torch.cat(parts).mean(dim=0))
    check_finite(torch.stack(means), lambda: model.no_vector("a text"))
    return torch.stack(means)


def _harmonic_maps(values: Sequence[Tensor], vectors: Vectors) -> list[Tensor]:
    """Values (B, W) of the windows of each scale -> a map (B, h, w) of each scale."""
    pairs = zip(values, vectors.sliding, strict=True)
    return [harmonic_over(each, windows, vectors.grid) for each, windows in pairs]
