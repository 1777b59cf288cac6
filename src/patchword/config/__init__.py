"""What a model is, as data: frozen dataclasses that any room may read. No torch here.

A config that contradicts itself is refused with a ConfigError when it is made.
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
