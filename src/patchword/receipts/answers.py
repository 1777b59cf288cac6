"""A patchword model's own answers, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle
from patchword.fingerprint import renewed
from patchword.nn.inference_mode import inference
from patchword.receipts.inputs import order
from patchword.receipts.receipt import VERSION, Ids, Inputs, filled
from patchword.show.config_summary import family


def make(bundle: Bundle) -> dict[str, Any]:
    """The receipt of a model as JSON values. Raises TokenizerError for one that reads texts and has
    no tokenizer."""
    answers, config = Answers(bundle, bundle.own_network), bundle.config
    return {
        "receipt": VERSION,
        "made_by": f"patchword {version('patchword')}",
        "model": bundle.name,
        "family": family(config),
        "fingerprint": renewed(bundle).fingerprint,
        **filled(
            answers.attended,
            pixels=answers.pixels if answers.sees else None,
            ids=answers.ids if config.text_or_decoder else None,
            image=answers.image_tower if answers.sees else None,
            text=answers.text_tower if answers.reads else None,
            classes=answers.class_logits if config.classes else None,
            pairs=answers.pair_logits if answers.sees and answers.reads else None,
            matches=answers.match_logits if config.matching else None,
            words=answers.word_logits if answers.writes else None,
            painted=answers.painted_patches if config.masked else None,
        ),
    }


class Answers:
    """The stages of a patchword model."""

    def __init__(self, bundle: Bundle, network: Any) -> None:
        """network: what torch runs; None where another library does."""
        config = bundle.config
        text = config.text
        self.bundle = bundle
        self.network = network
        self.sees = config.vision is not None
        # A BLIP that answers questions has a text tower that always attends to an image.
        self.reads = text is not None and (config.embed_dim > 0 or not text.cross_width)
        self.writes = config.writes_captions
        self.attended = text is not None and not text.causal and text.padding == "attended"

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.bundle.preprocess(image)[0]

    @property
    def end(self) -> int:
        """The id at the end of every text: padding may follow it."""
        return self.bundle.reader().rows([""])[0][-1]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text by itself, so that none is padded to the length of another."""
        read = self.bundle.reader()
        return [read([text])[0].tolist() for text in texts]

    def image_tower(self, inputs: Inputs) -> Tensor:
        return self._run(lambda: self.network.encode_image(self._pixels(inputs)))

    def text_tower(self, rows: Ids) -> Tensor:
        return torch.cat([self._run(partial(self._encode, row)) for row in rows])

    def class_logits(self, inputs: Inputs) -> Tensor:
        return self._run(lambda: self.network(self._pixels(inputs)))

    def pair_logits(self, inputs: Inputs, rows: Ids) -> Tensor:
        images = F.normalize(self.image_tower(inputs), dim=-1)
        texts = F.normalize(self.text_tower(rows), dim=-1)
        return self.bundle.scale * images @ texts.T + self.bundle.bias

    def match_logits(self, inputs: Inputs, rows: Ids) -> Tensor:
        """(B, 2 T): each image with each text by itself."""

        def run() -> Tensor:
            tokens = self.network.image_tokens(self._pixels(inputs))
            ids = [self._ids(row).expand(len(tokens), -1) for row in rows]
            return torch.cat([self.network.match(tokens, each) for each in ids], dim=1)

        return self._run(run)

    def word_logits(self, inputs: Inputs, rows: Ids) -> Tensor:
        def run() -> Tensor:
            tokens = self.network.image_tokens(self._pixels(inputs))
            ids = self._ids(rows[0]).expand(len(tokens), -1)
            seen = self.network.image_mask(tokens)
            return self.network.word_logits(self.network.decode(ids, tokens, seen)[:, -1])  # type: ignore[no-any-return]

        return self._run(run)

    def painted_patches(self, inputs: Inputs) -> Tensor:
        pixels = self._pixels(inputs)
        patch = self.bundle.config.image_tower.patch_size
        noise = torch.from_numpy(order(inputs[0][0].size // patch**2)).to(self.bundle.device)
        return self._run(lambda: self.network(pixels, noise.expand(len(inputs), -1))[0].flatten(1))

    def _encode(self, row: Sequence[int]) -> Tensor:
        return self.network.encode_text(self._ids(row))  # type: ignore[no-any-return]

    def _ids(self, row: Sequence[int]) -> Tensor:
        return torch.tensor([row], device=self.bundle.device)

    def _pixels(self, inputs: Inputs) -> Tensor | list[Tensor]:
        """A batch, or a list of tensors of different shapes."""
        like = next(self.network.parameters())
        tensors = [torch.from_numpy(each).to(like.device, like.dtype) for each in inputs]
        return batched(tensors)

    def _run(self, work: Callable[[], Tensor]) -> Tensor:
        with inference(self.network):
            return work().float().cpu()


def batched(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    """(B, ...) where all are of one shape; else the list as it is."""
    same = len({tensor.shape for tensor in tensors}) == 1
    return torch.stack(tensors) if same else tensors
