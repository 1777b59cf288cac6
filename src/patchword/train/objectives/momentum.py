"""A BLIP trained with momentum encoders, a queue of their features and soft targets (Li et al.
2021, ALBEF, section 3.2; Li et al. 2022, section 3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from patchword import losses
from patchword.data import TextBatch
from patchword.models.blip import Blip
from patchword.train import distributed
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import SHARED
from patchword.train.objectives.blip import BlipBase, BlipInputs
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class MomentumInputs(BlipInputs):
    """`BlipInputs` with the momentum encoders' features of these samples, and of the M images and
    texts with which all samples are compared: first those of all processes, then the queue."""

    teacher_image: Tensor  # (n, D), unit
    teacher_text: Tensor  # (n, D), unit
    teacher_share: Tensor = field(metadata=SHARED)  # (): the momentum encoders' share of targets
    all_images: Tensor = field(metadata=SHARED)  # (M, D)
    all_texts: Tensor = field(metadata=SHARED)  # (M, D)


class MomentumBlipObjective(BlipBase[MomentumInputs]):
    """A BLIP whose features are compared with those of momentum encoders: the EMA of its weights.

    The queue holds their features of earlier steps, newest first, and a key for the facts of each
    text. Texts with the same key are positives.
    """

    def __init__(self, initial: InitialModel, recipe: Recipe, world: World) -> None:
        super().__init__(initial, recipe, world)
        width = initial.config.embed_dim
        self.queued_images, self.queued_texts = torch.empty(2, 0, width, device=world.device)
        self.queued_keys = torch.empty(0, dtype=torch.int64, device=world.device)

    def prepare(self, batch: TextBatch, step: int) -> MomentumInputs:
        inputs, device = self.inputs_of(batch), batch.pixels.device
        keys = _keys(batch.caption_facts).to(device)
        queued = (keys[:, None] == self.queued_keys)[:, None].expand(-1, 2, -1)
        image, text = self._features(batch)
        images, texts = image, text
        if self.world.size > 1:
            images, texts = distributed.gather(image), distributed.gather(text)
            keys = torch.cat(self.world.gather(keys.cpu())).to(device)
        images = torch.cat([images, self.queued_images])
        texts = torch.cat([texts, self.queued_texts])
        size, keys = self.blip.queue, torch.cat([keys, self.queued_keys])
        self.queued_images, self.queued_texts = images[:size], texts[:size]
        self.queued_keys = keys[:size]
        share, warmup = self.blip.soft_targets, self.blip.soft_targets_warmup
        if step < warmup:
            share *= step / warmup
        return MomentumInputs(
            **vars(replace(inputs, positives=torch.cat([inputs.positives, queued], dim=2))),
            teacher_image=image,
            teacher_text=text,
            teacher_share=image.new_tensor(share),
            all_images=images,
            all_texts=texts,
        )

    def _features(self, batch: TextBatch) -> list[Tensor]:
        """The momentum encoders' features of this process's images and texts. Their batch norms'
        statistics do not change: the buffers are copied."""
        buffers = {name for name, _ in self.network.named_buffers()}
        weights = {
            f"network.{name}": value.clone() if name in buffers else value
            for name, value in self.average.items()
        }
        encoders = _Encoders(self.network)

        def encode(rows: slice) -> tuple[Tensor, Tensor]:
            pair = (batch.pixels[rows], batch.ids[rows])
            return functional_call(encoders, weights, pair)  # type: ignore[no-any-return]

        with self.precision():
            return self.in_parts(encode, len(batch))

    def contrast(
        self, inputs: MomentumInputs, image: Tensor, text: Tensor, scale: Tensor
    ) -> Tensor:
        true_texts, true_images = inputs.positives.unbind(dim=1)
        to_texts = losses.soft_contrastive(
            scale * image @ inputs.all_texts.mT,
            true_texts,
            scale.detach() * inputs.teacher_image @ inputs.all_texts.mT,
            inputs.teacher_share,
        )
        to_images = losses.soft_contrastive(
            scale * text @ inputs.all_images.mT,
            true_images,
            scale.detach() * inputs.teacher_text @ inputs.all_images.mT,
            inputs.teacher_share,
        )
        return (to_texts + to_images) / 2

    def state(self) -> dict[str, Tensor]:
        return {
            "queued_images": self.queued_images,
            "queued_texts": self.queued_texts,
            "queued_keys": self.queued_keys,
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.to(self.world.device))


class _Encoders(nn.Module):
    """The part of a BLIP that momentum encoders compute."""

    def __init__(self, network: Blip) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        image = self.network.image_features(self.network.image_tokens(pixels))
        return image, F.normalize(self.network.text(ids).float(), dim=-1)


def _keys(caption_facts: Sequence[frozenset[str]]) -> Tensor:
    """A number (n,) for the facts of each caption, the same in every process and run."""
    texts = ["\n".join(sorted(facts)) for facts in caption_facts]
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(each, "big", signed=True) for each in digests])
