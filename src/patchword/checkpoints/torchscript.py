"""Reads the tensors of a TorchScript archive without TorchScript: `torch.jit.load` would run its
code.

An archive is a zip with a pickle of the module tree (`data.pkl`) and one record of raw bytes for
each storage (`data/0`, ...). The unpickler here accepts the few names that such a pickle needs, and
replaces module classes by objects without code; any other name is an error. The code is never read.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchword.errors import CheckpointError

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
HEADER = 30  # bytes of a zip's local header before name and extra field (APPNOTE 4.3.7)
MAX_TREE = 64 << 20  # bytes of data.pkl; that of CLIP's largest model takes less than 1 MiB


def is_archive(path: Path) -> bool:
    """Whether a zip is a TorchScript archive: only those have constants (torch.serialization has
    the same test). Raises CheckpointError for a damaged zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception as error:  # damage shows as errors of any kind
        # Not left to torch: older versions would run code of a file that newer ones refuse.
        raise CheckpointError(f"{path} is not a whole PyTorch file: {error}") from error


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor by its path in the module tree, mapped from the file.

    Raises CheckpointError for an archive that is damaged or names anything unexpected.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].split("/")[0]
            records = _records(archive, path, f"{root}/data/")
            tree = archive.getinfo(f"{root}/data.pkl")
            if tree.file_size > MAX_TREE:
                raise CheckpointError(f"its module tree takes {tree.file_size} bytes")
            with archive.open(tree) as file:
                module = _Unpickler(file, path, records).load()
        return dict(_walk(module, "", set()))
    except Exception as error:  # damage and hostility show as errors of any kind
        raise CheckpointError(f"{path} is not a TorchScript archive of weights: {error}") from error


def _records(archive: zipfile.ZipFile, path: Path, prefix: str) -> dict[str, tuple[int, int]]:
    """Where the bytes of each storage are in the file: key -> (offset, length)."""
    records = {}
    with path.open("rb") as file:
        for info in archive.infolist():
            if not info.filename.startswith(prefix):
                continue
            if info.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{info.filename} is compressed; it must be stored")
            file.seek(info.header_offset)
            header = file.read(HEADER)
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            start = info.header_offset + HEADER + name_length + extra_length
            records[info.filename.removeprefix(prefix)] = start, info.file_size
    return records


class _Module:
    """A module of the archive: its attributes without its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


def _walk(value: Any, path: str, visited: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor below `value` with its dotted name. A module is visited once."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, _Module) and id(value) not in visited:
        visited.add(id(value))
        for name, attribute in value.attributes.items():
            yield from _walk(attribute, f"{path}.{name}" if path else name, visited)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path, records: dict[str, tuple[int, int]]) -> None:
        super().__init__(file)
        self.records = records
        size = path.stat().st_size
        self.file: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)

    def find_class(self, module: str, name: str) -> Any:
        """One of the few types of a module tree; any other raises CheckpointError.

        Each is created for this call alone: a pickle can set attributes of the types that it names.
        """
        if module == "__torch__" or module.startswith("__torch__."):
            return type("Module", (_Module,), {})
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if (module, name) == ("collections", "OrderedDict"):
            return lambda: OrderedDict()
        if module == "torch.jit._pickle":
            return lambda *arguments: arguments[0]  # typed lists and dicts: the type is not needed
        raise CheckpointError(
            f"it names {module}.{name}, and reading that could run code, so nothing was read"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat tensor of a storage, mapped from the file. pid: ("storage", dtype, key, device,
        number of elements)."""
        _, dtype, key, _, count = pid
        start, length = self.records[str(key)]
        width = torch.empty(0, dtype=dtype).element_size()
        if count * width > length:
            raise CheckpointError(f"storage {key} is shorter than its tensor")
        # PyTorch aligns records to 64 bytes, so that each type can be mapped in place.
        if start % width:
            raise CheckpointError(f"storage {key} is not aligned")
        return torch.empty(0, dtype=dtype).set_(self.file, start // width, (count,), (1,))


def _tensor(flat: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2, but with an error for a tensor that leaves its storage."""
    size, stride = tuple(size), tuple(stride)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(flat)):
        raise CheckpointError(f"a tensor of {size} at {offset} leaves its storage of {len(flat)}")
    return flat.as_strided(size, stride, flat.storage_offset() + offset)
