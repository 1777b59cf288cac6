"""Converts names to torch's devices and number types."""

from __future__ import annotations

import reprlib
from typing import Any

import torch

from patchword.errors import UnsupportedError
from patchword.options import nearest

INT8 = "int8"  # only the engines openvino and onnx have it
DTYPES = ("float32", "bfloat16", "float16", "float64")
DEVICES = "cpu, cuda, cuda:1, mps, or auto: cuda where there is one, else cpu"


def as_device(device: Any) -> torch.device:
    """The device of a name, or a device of torch. Raises UnsupportedError for one that is not
    available, and for anything else."""
    if not isinstance(device, (str, torch.device)):
        raise UnsupportedError(f"device is {reprlib.repr(device)}; there are {DEVICES}")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        result = torch.device(device)
        torch.zeros(1, device=result).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        known = ("cpu", "cuda", "mps")
        if not str(device).startswith(known):
            reason = f"no such device{nearest(str(device), known)}"
        raise UnsupportedError(f"device {device}: {reason}; there are {DEVICES}") from error
    return result


def is_int8(dtype: Any) -> bool:
    """True for "int8" and for torch.int8."""
    return str(dtype).removeprefix("torch.") == INT8


def as_dtype(dtype: Any) -> torch.dtype:
    """The number type of a name ("bfloat16", "torch.float16"), or a type of torch. Raises
    UnsupportedError for any other."""
    name = str(dtype).removeprefix("torch.")
    if isinstance(dtype, (str, torch.dtype)) and name in DTYPES:
        result: torch.dtype = getattr(torch, name)
        return result
    raise UnsupportedError(
        f"dtype is {reprlib.repr(dtype)}{nearest(name, DTYPES)}; there are {', '.join(DTYPES)}"
    )


def check(device: torch.device, dtype: torch.dtype) -> None:
    """Raise UnsupportedError for a number type that a device does not support."""
    if device.type == "mps" and dtype == torch.float64:
        raise UnsupportedError("device mps has no float64; load it there in float32, or on the cpu")
