"""Images with masks: a head for maps on a model that is otherwise frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword import losses
from patchword.data import Collate, RegionBatch, collate_regions
from patchword.models.blip import Blip
from patchword.models.dense_head import STRIDE
from patchword.models.two_tower import TwoTower
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import SHARED, Inputs, Objective
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class DenseInputs(Inputs):
    """Images, and where in them each of T texts applies."""

    coverage: Tensor  # (n, T, h, w): the share of each place that a text's mask covers
    unknown_place: Tensor  # (n, T) bool: the text is true of the image, nobody knows where
    ids: Tensor = field(metadata=SHARED)  # (T + 1, L): the texts, then the background's text


class Dense(Objective[RegionBatch, DenseInputs]):
    """Maps that show at each place of an image which texts apply there, see `losses.text_maps`. The
    texts are the queries of all regions of the batch."""

    network: TwoTower | Blip

    def __init__(self, initial: InitialModel, recipe: Recipe, world: World) -> None:
        super().__init__(initial, recipe, world)
        assert initial.config.dense_head is not None  # `model_config` adds it
        self.tokenizer, self.head = initial.reader(), initial.config.dense_head

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        return frozenset({"captions", "regions"})

    def collate(self) -> Collate[RegionBatch]:
        return partial(collate_regions, STRIDE)

    def prepare(self, batch: RegionBatch, step: int) -> DenseInputs:
        texts = sorted(set(chain.from_iterable(self.world.gather(batch.queries))))
        columns = {text: number for number, text in enumerate(texts)}
        coverage = batch.coverage.new_zeros(len(batch), len(texts), *batch.coverage.shape[1:])
        unknown_place = torch.zeros(coverage.shape[:2], dtype=torch.bool, device=coverage.device)
        regions = zip(batch.rows, batch.phrases, batch.coverage, batch.has_mask, strict=True)
        for row, phrases, region_coverage, has_mask in regions:
            true = [columns[phrase] for phrase in phrases if phrase in columns]
            coverage[row, true] = torch.maximum(coverage[row, true], region_coverage)
            unknown_place[row, true] |= not has_mask
        ids = torch.from_numpy(self.tokenizer([*texts, self.head.background])).to(coverage.device)
        return DenseInputs(batch.pixels, coverage, unknown_place, ids)

    def forward(self, inputs: DenseInputs) -> tuple[Tensor, ...]:
        with torch.no_grad():
            texts = F.normalize(self.network.text(inputs.ids).float(), dim=-1)
        return (self.network.dense_cosines(inputs.pixels, texts),)

    def loss(self, inputs: DenseInputs, *outputs: Tensor) -> Tensor:
        (cosines,) = outputs
        texts, background = cosines[:, :-1], cosines[:, -1]
        return losses.text_maps(
            texts, background, inputs.coverage, inputs.unknown_place, self.head.scale
        )
