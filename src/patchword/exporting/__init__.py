"""Exports models for other programs: graphs that onnxruntime and OpenVINO run without patchword,
and preprocessing and tokenizer in files that transformers, transformers.js and optimum read."""

from patchword.exporting.exported_model import opened
from patchword.exporting.folder import Exported, export
from patchword.exporting.int8 import MOST, Agreement, Photos, calibrated
from patchword.exporting.int8_engine import in_int8

__all__ = [
    "MOST",
    "Agreement",
    "Exported",
    "Photos",
    "calibrated",
    "export",
    "in_int8",
    "opened",
]
