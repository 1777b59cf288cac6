"""Defects by words: windows of a photo beside sentences about good and bad things, and beside good
photos where there are some."""

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
from patchword.inspect.protocol import RGB, WHOLE, Finding, Needs, State, View
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

TEXTS = 256  # at once
AGGREGATES = ("badness", "goodness")
TEMPERATURES = {"badness": 0.07, "goodness": 0.01}


@dataclass(frozen=True)
class Vectors:
    """What a model makes of images (B, 3, H, W)."""

    image: Tensor  # (B, D)
    windows: tuple[Tensor, ...]  # (B, W, D) of each scale
    patches: Tensor  # (B, h * w, D')
    sliding: tuple[Tensor, ...]  # (W, K) of each scale: the patches of its windows
    grid: Grid


@dataclass(frozen=True)
class WinCLIP:
    """WinCLIP (Jeong et al. 2023). How bad an image or a window of patches is: the probability of
    the mean of the sentences about bad things against that of those about good ones. A patch's
    value is the harmonic mean over the windows that cover it, and over the scales, of which the
    whole image is one; a photo's score is that of the whole image. With good photos, half of both
    is how unlike the photo's windows and patches are to all of theirs (WinCLIP+).

    subject      what the photos show, in a word or two
    good, bad    states of it, the subject at "{}"
    scales       sides of the windows, patches
    exact        run every window through the network by itself, some 12 encodings of the photo;
                 otherwise a window is the mean of its patches' vectors of one encoding
    method       the heatmap method that these come from; "auto": as for heatmaps
    aggregate    "badness", as the paper; "goodness": the harmonic mean is taken of the probability
                 of good, the patches by themselves are a scale and the whole image is none, as
                 caoyunkang/WinClip has it; then a photo's score is the largest value
    temperature  of the softmax; None: 0.07, of "goodness" 0.01
    """

    name: ClassVar[str] = "winclip"
    needs: ClassVar[Needs] = Needs(good=0, words=True)

    view: View = WHOLE
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
        """The prototypes (2, D) of good and bad; of good photos all vectors of each scale (M, D)
        and of patches (M, D')."""
        state = {"prototypes": prototypes(model, self.subject, self.good, self.bad)}
        seen = [self.vectors(model, tiles(model, photo, self.view).pixels) for photo in good]
        if seen:
            state["patches"] = torch.cat([each.patches.flatten(0, 1) for each in seen])
            for place, side in enumerate(self.scales):
                rows = [each.windows[place].flatten(0, 1) for each in seen]
                state[f"windows.{side}"] = torch.cat(rows)
            for values in state.values():
                check_finite(values, lambda: model.no_vector("a good photo"))
        return state

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """The score of a photo in several tiles is that of the worst."""
        for photo in photos:
            found = tiles(model, photo, self.view)
            scores, maps = self.judged(self.vectors(model, found.pixels), state)
            grid = joined(maps[None, ..., None], found.rows, found.columns)[0, ..., 0]
            yield Finding(float(scores.max()), grid.numpy(), found.geometry)

    def vectors(self, model: Bundle, pixels: Tensor) -> Vectors:
        """Raises UnsupportedError for a tower whose patches cannot be left out, if `exact`."""
        tower = model.image_tower
        grid = tower.grid((pixels.shape[-2], pixels.shape[-1]))
        places = tuple(sliding(grid, side) for side in self.scales)
        with inference(model.own_network):
            image = tower(pixels).float().cpu()
            if self.exact:
                windows = tuple(tower.windows(pixels, each).float().cpu() for each in places)
                alone = self.aggregate == "goodness"  # compared with words, patches by themselves
                patches = tower.dense(pixels, DenseEdit(), project=alone).float().cpu()
            else:
                name = usual_of(model, EDITS) if self.method == "auto" else self.method
                patches = dense(model, pixels, edit_of(name)).cpu()
                windows = tuple(patches[:, each].mean(dim=2) for each in places)
        return Vectors(image, windows, patches, places, grid)

    def judged(self, seen: Vectors, state: State) -> tuple[Tensor, Tensor]:
        """Scores (B,) and maps (B, h, w)."""
        if self.aggregate == "goodness":
            maps = self._by_goodness(seen, state)
            return maps.flatten(1).amax(dim=1), maps
        texts, heat = state["prototypes"], self.temperature or TEMPERATURES[self.aggregate]
        scores = badness(seen.image, texts, heat)
        values = [badness(each, texts, heat) for each in seen.windows]
        maps = harmonic([scores[:, None, None], *_spread(values, seen)])
        if "patches" not in state:
            return scores, maps
        patches, windows = self._unlike(seen, state)
        unlike = torch.stack([patches, *_spread(windows, seen)]).mean(dim=0)
        return (scores + unlike.flatten(1).amax(dim=1)) / 2, (maps + unlike) / 2

    def _by_goodness(self, seen: Vectors, state: State) -> Tensor:
        texts, heat = state["prototypes"].flip(0), self.temperature or TEMPERATURES[self.aggregate]
        values = [badness(each, texts, heat) for each in seen.windows]  # of good: texts are flipped
        patches = badness(seen.patches, texts, heat).unflatten(1, seen.grid)  # type: ignore[no-untyped-call]
        maps = 1 - harmonic([patches, *_spread(values, seen)])
        if "patches" not in state:
            return maps
        patches, windows = self._unlike(seen, state)
        spread = [mean_over(*each, seen.grid) for each in zip(windows, seen.sliding, strict=True)]
        return harmonic([maps, torch.stack([patches, *spread]).mean(dim=0)]) / 2

    def _unlike(self, seen: Vectors, state: State) -> tuple[Tensor, list[Tensor]]:
        """How unlike to good photos patches (B, h, w) and the windows of each scale (B, W) are."""
        windows = [
            unlikeness(each, state[f"windows.{side}"])
            for each, side in zip(seen.windows, self.scales, strict=True)
        ]
        patches = unlikeness(seen.patches, state["patches"])
        return patches.unflatten(1, seen.grid), windows  # type: ignore[no-untyped-call]


def prototypes(model: Bundle, subject: str, good: Sequence[str], bad: Sequence[str]) -> Tensor:
    """The mean vectors (2, D) of the sentences about good and about bad things, taken before they
    are normalised. Raises UnsupportedError for a model without a space of images and texts."""
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


def _spread(values: Sequence[Tensor], seen: Vectors) -> list[Tensor]:
    """Values (B, W) of the windows of each scale, as harmonic means of patches (B, h, w)."""
    pairs = zip(values, seen.sliding, strict=True)
    return [harmonic_over(each, windows, seen.grid) for each, windows in pairs]
