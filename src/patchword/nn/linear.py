"""Linear layers that, in inference on a CPU, are computed by oneDNN where that is faster.

Nothing is kept between two products: each reads the weight as it is now, however it was changed
(an optimiser, `weight.data += delta`, another Parameter, another type). A copy in the layout of
oneDNN's kernels would spare the pass that brings the weight into it, at the cost of the weight's
memory again; but torch tells nobody when a weight is changed through `.data`, `numpy()` or a view,
so such a copy may be stale, and to compare it with the weight costs as much as it spares.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.nn.inference_mode import eager_inference

# With AVX-512 and float32 oneDNN's product took 0.45 to 0.70 of the time of torch's (MKL's) on an
# AMD EPYC, for 2 to 1,600 rows and weights of 768 x 768 to 768 x 30,522. On an Intel Xeon, for
# whose maker MKL is written, 1.2 to 2.0 of it for one row, 0.83 to 1.02 for 50 to 400, and more for
# more: 1.05 to 1.13 for 1,600. In bfloat16, where torch calls oneDNN itself, 0.93 to 1.03. Without
# AVX-512 neither gains.
X86 = platform.machine() in ("x86_64", "AMD64")
AVX512 = X86 and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
ONEDNN = AVX512 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
TYPES = [torch.float32] if ONEDNN else []
if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    TYPES.append(torch.bfloat16)
# Below both, the call costs more than the product: 2 to 16 rows of a weight of 192 x 768 took
# oneDNN 1.0 to 1.9 times as long.
LARGE, MANY = 1 << 18, 32  # numbers of a weight, rows
MOST = 512  # rows, of Intel's


def _of_intel() -> bool:
    """Whether Intel made the processor."""
    named = Path("/proc/cpuinfo")
    return "GenuineIntel" in (named.read_text() if named.exists() else platform.processor())


INTEL = _of_intel()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) @ weight (out, in).T + bias (out,): `F.linear`, in inference mode (which records
    no gradients) by oneDNN where that is faster. The values are the same in bfloat16, and in
    float32 within its rounding."""
    if not _faster(x, weight):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _faster(x: Tensor, weight: Tensor) -> bool:
    return (
        eager_inference()
        and x.is_cpu
        and x.dtype in TYPES
        and x.dtype == weight.dtype
        and x.numel() > 0
        and _fits(x.numel() // x.shape[-1], weight)
        and type(weight) is nn.Parameter  # not what an adapter or a sharded run makes of it
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )


def _fits(rows: int, weight: Tensor) -> bool:
    if INTEL and weight.dtype == torch.float32:
        return MANY <= rows < MOST
    return weight.numel() >= LARGE or rows >= MANY


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`: (..., in) -> (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
