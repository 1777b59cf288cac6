"""Linear layers. In inference on a CPU, oneDNN computes them where that is faster.

Nothing is cached between two products: each reads the weight as it is now, however it was changed
(an optimiser, `weight.data += delta`, another Parameter, another type). A cached copy in the layout
of oneDNN's kernels would save its conversion, but takes the weight's memory again and may be stale:
torch does not report a change through `.data`, `numpy()` or a view, and comparing the copy with the
weight costs as much as it saves.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.nn.inference_mode import eager_inference

# Time of oneDNN's product, relative to that of torch's (MKL), with AVX-512 and weights of 768 x 768
# to 768 x 30,522. In float32 on an AMD EPYC: 0.45 to 0.70 for 2 to 1,600 rows. In float32 on an
# Intel Xeon, for which MKL is written: 1.2 to 2.0 for one row, 0.83 to 1.02 for 50 to 400 rows,
# 1.05 to 1.13 for 1,600. In bfloat16, where torch calls oneDNN itself: 0.93 to 1.03. Without
# AVX-512 neither is faster.
X86 = platform.machine() in ("x86_64", "AMD64")
AVX512 = X86 and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
ONEDNN = AVX512 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
ONEDNN_TYPES = [torch.float32] if ONEDNN else []
if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    ONEDNN_TYPES.append(torch.bfloat16)
# Below both, the call costs more than the product: for 2 to 16 rows and a weight of 192 x 768
# oneDNN took 1.0 to 1.9 times as long.
LARGE_WEIGHT = 1 << 18  # numbers
MANY_ROWS = 32
INTEL_ROWS = 512  # from this number on, MKL is faster on Intel's processors
# A single row waits for the weight to be read. On an Intel Xeon with AMX, in bfloat16, W x reads it
# faster than x W^T does: 0.73 to 0.96 of the time for 768 x 768 to 768 x 30,522; for 512 x 512 it
# is the same. Without AMX it took 1.2 to 2.2 times as long.
HAS_AMX = torch.cpu._is_amx_tile_supported()
WEIGHT_OF_ONE_ROW = 1 << 19


def _processor_is_intel() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    description = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    return "GenuineIntel" in description


INTEL = _processor_is_intel()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y = x W^T + b: x (..., in), weight (out, in), bias (out,) -> (..., out).

    In inference mode oneDNN computes it where that is faster than `F.linear`. The values are the
    same within the rounding of the type.
    """
    if not onednn_is_faster(x, weight):
        return F.linear(x, weight, bias)
    if _is_vector(x, weight):
        return _matrix_vector(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    """True if oneDNN, called directly, computes x W^T sooner than `F.linear`."""
    return (
        eager_inference()
        and x.is_cpu
        and x.dtype in ONEDNN_TYPES
        and x.dtype == weight.dtype
        and x.numel() > 0
        and _pays_off(x.numel() // x.shape[-1], weight)
        and type(weight) is nn.Parameter  # not a tensor of an adapter or of a sharded run
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )


def _pays_off(rows: int, weight: Tensor) -> bool:
    if INTEL and weight.dtype == torch.float32:
        return MANY_ROWS <= rows < INTEL_ROWS
    return weight.numel() >= LARGE_WEIGHT or rows >= MANY_ROWS


def _is_vector(x: Tensor, weight: Tensor) -> bool:
    """True if `_matrix_vector` is faster than oneDNN's product of matrices."""
    one_row = x.numel() == x.shape[-1] and weight.numel() >= WEIGHT_OF_ONE_ROW
    return HAS_AMX and one_row and x.dtype == torch.bfloat16


def _matrix_vector(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` for a single row x (..., in), as W x + b. It rounds the sum once, as `F.linear`."""
    row = x.reshape(-1)
    y = weight.mv(row) if bias is None else bias.addmv(weight, row)
    return y.view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`: (..., in) -> (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
