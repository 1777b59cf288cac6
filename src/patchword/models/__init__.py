"""Networks, each built from its config alone."""

from torch import nn

from patchword.config import ModelConfig
from patchword.models.two_tower import TwoTower
from patchword.models.vit import ImageModel


def build(config: ModelConfig) -> nn.Module:
    """The network that `config` describes, with fresh parameters."""
    return ImageModel(config) if config.text is None else TwoTower(config)
