"""Networks, each built from its config alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from patchword.config import ModelConfig
from patchword.models.blip import Blip
from patchword.models.mae import MaskedAutoencoder
from patchword.models.towers import ImageModel, TextModel
from patchword.models.two_tower import TwoTower

TEXT = "text."  # names of the tensors of a text tower begin with it


def build(config: ModelConfig) -> nn.Module:
    """The network that `config` describes, with new parameters."""
    if config.blip:
        return Blip(config)
    if config.masked:
        return MaskedAutoencoder(config)
    if config.text is None:
        return ImageModel(config)
    if config.vision is None:
        return TextModel(config)
    return TwoTower(config)


def initialise(network: nn.Module) -> None:
    """Initialise weights for training: truncated normal with standard deviation 0.02, biases 0, as
    ViT's code.

    In a BLIP linear layers are Xavier-uniform (Glorot & Bengio 2010, eq. 16), as in MAE's code:
    there are many of them between image and words, and narrow models with 0.02 take long to learn
    to use the image at all.
    """
    xavier = isinstance(network, Blip)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            if xavier:
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def outline(config: ModelConfig) -> nn.Module:
    """The result of `build` on the meta device: names and shapes, to which the tensors of a
    checkpoint are assigned."""
    with torch.device("meta"), _NoInitialisation():
        return build(config)


def text_outline(config: ModelConfig) -> nn.Module:
    """The outline of only the text tower of a two-tower model: the tensors of `build` whose names
    begin with `TEXT`."""
    with torch.device("meta"), _NoInitialisation():
        return TextModel(config)


class _NoInitialisation(TorchFunctionMode):
    """Skips `normal_`, which on the meta device imports torch's compiler, in a second, and
    `uniform_`, of which each call is slow there."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = keywords or {}
        if function in (nn.init.normal_, torch.Tensor.uniform_):
            return arguments[0] if arguments else keywords["tensor"]
        return function(*arguments, **keywords)
