"""Names that tensors have in memory in transformers 5, and those that they have in its files.

`save_pretrained` writes the latter. accelerate, DeepSpeed and Lightning save the state dict, and
peft the modules, under the names in memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.huggingface import model_type

# Parts of names: in memory, and in files.
VIT_QKV = {
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
}
SWIN_QKV = {
    "attention.q_proj.": "attention.self.query.",
    "attention.k_proj.": "attention.self.key.",
    "attention.v_proj.": "attention.self.value.",
    "attention.relative_position_bias.": "attention.self.",
}
ATTENTION_OUTPUT = {"attention.o_proj.": "attention.output.dense."}
MLP = {"mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense."}
VIT = VIT_QKV | ATTENTION_OUTPUT | MLP
DINOV2 = VIT_QKV | ATTENTION_OUTPUT
PARTS = {
    "vit": VIT,
    "deit": VIT,
    "vit_mae": VIT,
    "swin": SWIN_QKV | ATTENTION_OUTPUT | MLP,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
}
LAYER = re.compile(r"(^|\.)layers\.(\d+)\.")


def as_saved(names: Collection[str], files: Mapping[str, Any]) -> dict[str, str]:
    """Each name of a checkpoint, and that name in a file of transformers."""
    kind = model_type(files)
    if kind not in PARTS or not any(".attention.k_proj." in name for name in names):
        return {name: name for name in names}
    return {name: _saved(name, kind) for name in names}


def forms(module: str) -> Iterator[str]:
    """The name of a module, and every name that files may have for it. None comes twice."""
    names = [module] + [_saved(f"{module}.", kind).removesuffix(".") for kind in PARTS]
    yield from dict.fromkeys(names)


def _saved(name: str, kind: str) -> str:
    if kind != "swin":
        name = LAYER.sub(r"\1encoder.layer.\2.", name)
    for in_memory, in_file in PARTS[kind].items():
        name = name.replace(f".{in_memory}", f".{in_file}")
    return name
