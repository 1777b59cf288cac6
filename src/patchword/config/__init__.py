"""Configurations of models: frozen dataclasses without torch.

A config that contradicts itself raises a ConfigError when it is created.
"""

from patchword.config.model import (
    BlipConfig,
    DenseHeadConfig,
    MaskedConfig,
    ModelConfig,
    PreprocessConfig,
)
from patchword.config.towers import (
    LAST_ID,
    Activation,
    Cleaning,
    Positions,
    ResNetConfig,
    SwinConfig,
    TextConfig,
    VisionConfig,
    ViTConfig,
)
from patchword.config.validation import TYPE_NAMES, from_dict, to_dict

__all__ = [
    "LAST_ID",
    "TYPE_NAMES",
    "Activation",
    "BlipConfig",
    "Cleaning",
    "DenseHeadConfig",
    "MaskedConfig",
    "ModelConfig",
    "Positions",
    "PreprocessConfig",
    "ResNetConfig",
    "SwinConfig",
    "TextConfig",
    "ViTConfig",
    "VisionConfig",
    "from_dict",
    "to_dict",
]
