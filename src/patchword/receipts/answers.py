"""The outputs of a patchword model, stage by stage."""

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
from patchword.receipts.inputs import shuffled
from patchword.receipts.receipt import VERSION, Ids, Inputs, stages
from patchword.show.config_summary import family


def make(bundle: Bundle) -> dict[str, Any]:
    """The receipt of a model as JSON values. Raises TokenizerError for a model with a text tower
    and without a tokenizer."""
    answers, config = Answers(bundle, bundle.own_network), bundle.config
    return {
        "receipt": VERSION,
        "made_by": f"patchword {version('patchword')}",
        "model": bundle.name,
        "family": family(config),
        "fingerprint": renewed(bundle).fingerprint,
        **stages(
            answers.attends_padding,
            pixels=answers.pixels if answers.has_images else None,
            ids=answers.ids if config.text_or_decoder else None,
            image=answers.image_tower if answers.has_images else None,
            text=answers.text_tower if answers.has_texts else None,
            classes=answers.class_logits if config.classes else None,
            pairs=answers.pair_logits if answers.has_images and answers.has_texts else None,
            matches=answers.match_logits if config.matching else None,
            words=answers.word_logits if answers.writes_captions else None,
            painted=answers.painted_patches if config.masked else None,
        ),
    }


class Answers:
    """The stages of a patchword model."""

    def __init__(self, bundle: Bundle, network: Any) -> None:
        """network: that torch runs; None if another library runs the model."""
        config = bundle.config
        text = config.text
        self.bundle = bundle
        self.network = network
        self.has_images = config.vision is not None
        # The text tower of a BLIP that answers questions needs an image: it has no outputs alone.
        self.has_texts = text is not None and (config.embed_dim > 0 or not text.cross_width)
        self.writes_captions = config.writes_captions
        self.attends_padding = text is not None and not text.causal and text.padding == "attended"

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.bundle.preprocess(image)[0]

    @property
    def end_id(self) -> int:
        """The id at the end of every text, before the padding."""
        return self.bundle.reader().rows([""])[0][-1]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, not padded to the length of another."""
        tokenizer = self.bundle.reader()
        return [tokenizer([text])[0].tolist() for text in texts]

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
        """(B, 2 T): no match and match, of each image with each text."""

        def run() -> Tensor:
            tokens = self.network.image_tokens(self._pixels(inputs))
            ids = [self._ids(row).expand(len(tokens), -1) for row in rows]
            return torch.cat([self.network.match(tokens, text_ids) for text_ids in ids], dim=1)

        return self._run(run)

    def word_logits(self, inputs: Inputs, rows: Ids) -> Tensor:
        def run() -> Tensor:
            tokens = self.network.image_tokens(self._pixels(inputs))
            ids = self._ids(rows[0]).expand(len(tokens), -1)
            mask = self.network.image_mask(tokens)
            states = self.network.decode(ids, tokens, mask)
            return self.network.word_logits(states[:, -1])  # type: ignore[no-any-return]

        return self._run(run)

    def painted_patches(self, inputs: Inputs) -> Tensor:
        pixels = self._pixels(inputs)
        patch = self.bundle.config.image_tower.patch_size
        noise = torch.from_numpy(shuffled(inputs[0][0].size // patch**2)).to(self.bundle.device)
        return self._run(lambda: self.network(pixels, noise.expand(len(inputs), -1))[0].flatten(1))

    def _encode(self, row: Sequence[int]) -> Tensor:
        return self.network.encode_text(self._ids(row))  # type: ignore[no-any-return]

    def _ids(self, row: Sequence[int]) -> Tensor:
        return torch.tensor([row], device=self.bundle.device)

    def _pixels(self, inputs: Inputs) -> Tensor | list[Tensor]:
        """A batch, or a list of tensors of different shapes."""
        like = next(self.network.parameters())
        return batched([torch.from_numpy(x).to(like.device, like.dtype) for x in inputs])

    def _run(self, compute: Callable[[], Tensor]) -> Tensor:
        with inference(self.network):
            return compute().float().cpu()


def batched(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    """A batch (B, ...) if all have the same shape; else the list."""
    one_shape = len({tensor.shape for tensor in tensors}) == 1
    return torch.stack(tensors) if one_shape else tensors
