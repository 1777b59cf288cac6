"""Images with masks: a head for maps on a model that is otherwise frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword import losses
from patchword.data import Collate, RegionBatch, collate_regions
from patchword.models.blip import Blip
from patchword.models.dense_head import STRIDE
from patchword.models.two_tower import TwoTower
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import SHARED, Objective, Work
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class DenseWork(Work):
    """Images, and where in them each text applies."""

    covers: Tensor  # (n, T, h, w): the share of each place that a text's mask covers
    somewhere: Tensor  # (n, T) bool: a text that is true of the image, at an unknown place
    ids: Tensor = field(metadata=SHARED)  # (T + 1, L) of the texts; the last is the background's


class Dense(Objective[RegionBatch, DenseWork]):
    """The map of an image tells what is at each place (see `losses.text_maps`), of the texts that
    are asked about any image of the batch."""

    network: TwoTower | Blip

    def __init__(self, initial: InitialModel, recipe: Recipe, world: World) -> None:
        super().__init__(initial, recipe, world)
        assert initial.config.dense_head is not None  # `model_config` has seen to it
        self.tokenizer, self.head = initial.reader(), initial.config.dense_head

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        return frozenset({"captions", "regions"})

    def collate(self) -> Collate[RegionBatch]:
        return partial(collate_regions, STRIDE)

    def prepare(self, batch: RegionBatch, step: int) -> DenseWork:
        texts = sorted({text for asked in self.world.gather(batch.asked) for text in asked})
        columns = {text: number for number, text in enumerate(texts)}
        covers = batch.covers.new_zeros(len(batch), len(texts), *batch.covers.shape[1:])
        somewhere = torch.zeros(covers.shape[:2], dtype=torch.bool, device=covers.device)
        regions = zip(batch.rows, batch.phrases, batch.covers, batch.placed, strict=True)
        for row, phrases, cover, placed in regions:
            true = [columns[phrase] for phrase in phrases if phrase in columns]
            covers[row, true] = torch.maximum(covers[row, true], cover)
            somewhere[row, true] |= not placed
        ids = torch.from_numpy(self.tokenizer([*texts, self.head.background])).to(covers.device)
        return DenseWork(batch.pixels, covers, somewhere, ids)

    def forward(self, work: DenseWork) -> tuple[Tensor, ...]:
        with torch.no_grad():
            texts = F.normalize(self.network.text(work.ids).float(), dim=-1)
        return (self.network.dense_cosines(work.pixels, texts),)

    def loss(self, work: DenseWork, *outputs: Tensor) -> Tensor:
        texts, background = outputs[0][:, :-1], outputs[0][:, -1]
        return losses.text_maps(texts, background, work.covers, work.somewhere, self.head.scale)
