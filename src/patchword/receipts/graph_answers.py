"""The outputs of a model that another library than torch runs, stage by stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle
from patchword.engines.graph_engine import GraphEngine
from patchword.errors import UnsupportedError
from patchword.receipts.answers import Answers
from patchword.receipts.receipt import Ids, Inputs


class GraphAnswers(Answers):
    """Features come from the engine, all else from the graphs that an export has beside it."""

    def __init__(self, bundle: Bundle, engine: GraphEngine) -> None:
        super().__init__(bundle, None)
        self.engine = engine

    def image_tower(self, inputs: Inputs) -> Tensor:
        return torch.from_numpy(self.engine.encode_image(inputs))

    def text_tower(self, rows: Ids) -> Tensor:
        return torch.cat([torch.from_numpy(self.engine.encode_text(_ids(row))) for row in rows])

    def class_logits(self, inputs: Inputs) -> Tensor:
        return self._graph("image", "logits", pixel_values=np.stack(inputs))

    def match_logits(self, inputs: Inputs, rows: Ids) -> Tensor:
        tokens = self._tokens(inputs)
        logits = [
            self._graph(
                "matching", "logits", input_ids=_ids(row, len(tokens)), encoder_hidden_states=tokens
            )
            for row in rows
        ]
        return torch.cat(logits, dim=1)

    def word_logits(self, inputs: Inputs, rows: Ids) -> Tensor:
        tokens = self._tokens(inputs)
        ids = _ids(rows[0], len(tokens))
        graph_inputs: dict[str, NDArray[Any]] = {"input_ids": ids, "encoder_hidden_states": tokens}
        blip = self.bundle.config.blip
        if blip is not None and blip.answers_questions:  # see `exporting.parts.Answering`
            mask = np.ones(tokens.shape[:2], np.int64)
            mask[:, 0] = blip.image_tokens == "all"
            graph_inputs["encoder_attention_mask"] = mask
        return self._graph("decoder", "logits", **graph_inputs)[:, -1]

    def painted_patches(self, inputs: Inputs) -> Tensor:
        raise UnsupportedError("no engine but torch runs a masked autoencoder's decoder")

    def _tokens(self, inputs: Inputs) -> NDArray[np.float32]:
        tokens = self._graph("image", "last_hidden_state", pixel_values=np.stack(inputs))
        return tokens.numpy()

    def _graph(self, part: str, output: str, **inputs: NDArray[Any]) -> Tensor:
        """An output of one of the engine's graphs."""
        outputs = self.engine.graphs[part](inputs) if part in self.engine.graphs else {}
        if output not in outputs:
            raise UnsupportedError(
                f"the engine {self.engine.name} gives vectors alone here; an exported model, or "
                'engine="torch", gives this too'
            )
        return torch.from_numpy(np.asarray(outputs[output], np.float32))


def answers_of(bundle: Bundle) -> Answers:
    """The outputs of a model, with torch or another library."""
    if isinstance(bundle.engine, GraphEngine):
        return GraphAnswers(bundle, bundle.engine)
    return Answers(bundle, bundle.own_network)


def _ids(row: list[int], count: int = 1) -> NDArray[np.int64]:
    return np.repeat(np.array([row], np.int64), count, axis=0)
