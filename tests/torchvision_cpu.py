"""Import this before torchvision, open_clip, timm or transformers: it makes torchvision importable.

The package index builds torchvision against CUDA. Beside a CPU-only torch its compiled library
cannot load, so its operators do not exist, and torchvision fails as soon as it describes their
output shapes. None of them is called here, so declaring the names is enough.
"""

import importlib.util
import re
from pathlib import Path

import torch

_OPERATOR = re.compile(r'register_(?:fake|meta)\("(?:torchvision::)?(\w+)"\)')


def _compiled_library_loads(folder: Path) -> bool:
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        return False
    return True


def _declare(folder: Path) -> torch.library.Library:
    """An empty operator for every name that torchvision describes; lives as long as the result."""
    operators = torch.library.Library("torchvision", "FRAGMENT")
    source = (folder / "_meta_registrations.py").read_text(encoding="utf-8")
    for name in sorted(set(_OPERATOR.findall(source))):
        operators.define(f"{name}(Tensor input) -> Tensor")
    return operators


_spec = importlib.util.find_spec("torchvision")
assert _spec is not None, "torchvision is not installed"
assert _spec.origin is not None
_folder = Path(_spec.origin).parent
OPERATORS = None if _compiled_library_loads(_folder) else _declare(_folder)
