"""Linear layers that, in a loaded model on a CPU, keep their weights in the processor's layout."""

from __future__ import annotations

import platform
from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# On other processors oneDNN's packed product was not measured.
X86 = platform.machine() in ("x86_64", "AMD64")
PACKS = X86 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
TYPES = [torch.float32] if PACKS else []
if PACKS and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    TYPES.append(torch.bfloat16)
# Without AVX-512, oneDNN's packed product is the faster one of a few rows alone, as in decoding
# (measured on an AMD EPYC with AVX2, widths of 768 and 3072: 1.2 to 2.6 times as fast for 8 rows,
# 0.73 to 0.81 for 577; of width 192, 0.8 to 0.9 for either).
WIDE = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
FEW = range(2, 17)  # rows


class Packed:
    """x @ weight.T + bias, of a weight that is packed at first use, once `on`.

    oneDNN blocks the rows of a weight for its kernels, and `F.linear` asks for that with each call.
    Kept, it costs the weight's memory again; the values are the same in bfloat16, and in float32
    within its rounding. In inference mode alone, which records no gradients. A weight changed in
    place is packed anew, but not one changed behind torch's back (`weight.data.mul_(2)`).
    """

    def __init__(self) -> None:
        self.on = False
        # Which weight in which state, and it packed; one value, for several threads.
        self.held: tuple[Hashable, Tensor] | None = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (self.on and _can(x, weight)):
            return F.linear(x, weight, bias)
        version = None if weight.is_inference() else weight._version
        of, held = (weight.data_ptr(), version, weight.dtype), self.held
        if held is None or of != held[0]:
            held = self.held = of, torch.ops.mkldnn._reorder_linear_weight(weight)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, held[1], bias, "none", [], "")
        return product

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, ()  # a copy of the network packs its own weights, once told


def _can(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and x.is_cpu
        and x.dtype in TYPES
        and x.dtype == weight.dtype
        and x.numel() > 0
        and (WIDE or x.numel() // x.shape[-1] in FEW)
        and type(weight) is nn.Parameter  # not what an adapter or a sharded run makes of it
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class Linear(nn.Linear):
    """`nn.Linear`, packed once `pack` was called: (..., in) -> (..., out)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.packed = Packed()

    def forward(self, x: Tensor) -> Tensor:
        return self.packed(x, self.weight, self.bias)


def pack(network: nn.Module) -> None:
    """Let the layers of a network that is to be used, not trained, keep their weights packed."""
    for module in network.modules():
        packed = getattr(module, "packed", None)
        if isinstance(packed, Packed):
            packed.on = True
