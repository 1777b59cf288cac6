"""Opens a checkpoint as names, shapes, and tensors that are read when needed. No code in it is run.

Weights are memory-mapped. Pages that were read count as memory in use until their mapping is
closed, so a file is mapped again after every `REMAP_BYTES`.
"""

from __future__ import annotations

import pickle
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from patchword.checkpoints import torchscript, training_folders, weight_files, wrappers
from patchword.checkpoints.json_files import Files
from patchword.checkpoints.weight_files import SUFFIXES
from patchword.checkpoints.wrappers import Entry, Weights
from patchword.errors import CheckpointError

REMAP_BYTES = 32 << 20
MAX_MAPPINGS = 16  # of one file
GIT_LFS_POINTER = b"version https://git-lfs"
ZIP = b"PK\x03\x04"
MAX_CODE_BYTES = 64 << 20  # unpacked code of a TorchScript archive


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file: its shape, and how to read it (a view of the mapped file)."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its tensors by name, and the JSON files beside them."""

    name: str  # as the user named it
    weights: Path
    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]  # of a safetensors file
    files: Files
    adapter: Path | None = None  # the file of an adapter that is merged into the tensors
    entry: Entry = field(default_factory=Entry)  # where in the file the tensors are

    @property
    def folder(self) -> Path:
        """The folder of the JSON files."""
        return self.files.folder


def open_path(path: Path, name: str, wanted: Weights | None = None) -> Checkpoint:
    """Open a file of weights, or a folder with one.

    name: for the user. wanted: which of two sets of weights in the file. Raises CheckpointError if
    there are no weights.
    """
    weights = weight_files.choose(path) if path.is_dir() else path
    if (advice := training_folders.part_of(weights)) is not None:
        raise CheckpointError(advice)
    is_index = weights.name.endswith(".index.json")
    tensors: dict[str, LazyTensor] = {}
    metadata: dict[str, str] = {}
    entry = Entry()
    for file in weight_files.shards(weights) if is_index else [weights]:
        size = _checked_size(file)
        if file.suffix == ".safetensors":
            in_file, metadata = _open_safetensors(file, size)
        else:
            in_file, entry = _open_pytorch(file, size, wanted)
        tensors.update(in_file)
    if not tensors:
        raise CheckpointError(f"{weights} holds no tensors")
    inner_names, entry = wrappers.part(tensors, entry, wanted)
    if wanted == "ema" and entry.kind != wanted:
        raise CheckpointError(wrappers.missing(weights, wanted))
    tensors = {inner: tensors[stored] for stored, inner in inner_names.items()}
    bare_names = wrappers.bare_names(tensors, weights)
    tensors = {bare: tensors[stored] for stored, bare in bare_names.items()}
    return Checkpoint(name, weights, tensors, metadata, Files(weights.parent), entry=entry)


class OpenFile(Protocol):
    """Tensors of one mapped file."""

    def get_tensor(self, name: str) -> Tensor: ...


class StateDict(dict[str, Tensor]):
    """A dict of tensors as an `OpenFile`."""

    def get_tensor(self, name: str) -> Tensor:
        return self[name].detach()  # a Parameter, if the state dict was made by hand


class MappedFile:
    """Reads tensors of one file through a mapping that is renewed (see the module's docstring).

    opener: maps the file. file: mapped already. size: in bytes.
    """

    def __init__(self, opener: Callable[[], OpenFile], file: OpenFile, size: int) -> None:
        self.opener = opener
        self.file: OpenFile | None = file
        self.limit = max(REMAP_BYTES, size // MAX_MAPPINGS)
        self.bytes_read = 0

    def read(self, name: str) -> Tensor:
        """The tensor as a view of the file."""
        if self.file is None or self.bytes_read > self.limit:
            self.file = None  # first, so that its pages are released before new ones are read
            self.file, self.bytes_read = self.opener(), 0
        tensor = self.file.get_tensor(name)
        self.bytes_read += tensor.nbytes
        return tensor

    def lazy_tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
        """The tensors of these names and shapes."""

        def reader(name: str) -> Callable[[], Tensor]:
            return lambda: self.read(name)

        return {name: LazyTensor(shape, reader(name)) for name, shape in shapes.items()}


def _checked_size(path: Path) -> int:
    """The size in bytes of a file of weights. Raises CheckpointError for any other file."""
    try:
        status = path.stat()
        if stat.S_ISFIFO(status.st_mode):  # opening one waits for a writer
            raise CheckpointError(f"{path} is a pipe, not a file; save what it gives as one")
        with path.open("rb") as file:
            start = file.read(len(GIT_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not status.st_size:
        raise CheckpointError(f"{path} is empty")
    if start == GIT_LFS_POINTER:
        raise CheckpointError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`")
    if path.suffix == training_folders.DISTRIBUTED:
        raise CheckpointError(training_folders.distributed(path.parent))
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path} is no file of weights: {', '.join(SUFFIXES)} are read")
    return status.st_size


def _open_safetensors(path: Path, size: int) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata."""

    def opener() -> Any:
        return safe_open(path, framework="pt")

    try:
        file = opener()
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); was its download cut short?"
        ) from error
    return MappedFile(opener, file, size).lazy_tensors(shapes), dict(file.metadata() or {})


def _open_pytorch(
    path: Path, size: int, wanted: Weights | None
) -> tuple[dict[str, LazyTensor], Entry]:
    """The tensors of a PyTorch file, which is a dict of tensors, a trainer's file with such a dict
    in it, or a TorchScript archive; and where in the file they are."""
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    if is_zip:
        _refuse_zip_bomb(path, size)
    is_script = is_zip and torchscript.is_archive(path)

    def read() -> tuple[dict[str, Tensor], Entry]:
        if is_script:
            return torchscript.read(path), Entry(archive=True)
        return wrappers.unwrap(_load(path, mmap=is_zip), path, wanted)

    def opener() -> StateDict:
        return StateDict(read()[0])

    tensors, entry = read()
    for name, tensor in tensors.items():
        _refuse_unusual(path, name, tensor)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    mapped = MappedFile(opener, StateDict(tensors), size)
    if not is_zip:  # PyTorch before 1.6: cannot be mapped, so it is read once and kept
        mapped.limit = 1 << 62
    return mapped.lazy_tensors(shapes), entry


def _refuse_unusual(path: Path, name: str, tensor: Tensor) -> None:
    """Raise CheckpointError for a tensor that is not stored as ordinary numbers."""
    kind = None
    if tensor.is_meta:
        kind = "without its numbers (on the device meta)"
    elif tensor.is_quantized:
        kind = "quantised"
    elif tensor.layout != torch.strided:
        kind = "sparse"
    if kind is not None:
        raise CheckpointError(
            f"{path}: the tensor {name} is {kind}; save ordinary ones: of a sparse one what "
            "to_dense() gives, of another the weights that it was made from"
        )
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: the tensor {name} claims {tuple(tensor.shape)} numbers, and the file "
            "holds fewer: it would fill the memory with copies of them"
        )


def _refuse_zip_bomb(path: Path, size: int) -> None:
    """Raise CheckpointError for an archive that unpacks to much more than its size. Weights are
    stored uncompressed; only the code of TorchScript is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return  # torch raises the error
    if unpacked > 2 * size + MAX_CODE_BYTES:
        raise CheckpointError(
            f"{path} has {size:,} bytes and unpacks to {unpacked:,}: no library writes weights so"
        )


def _load(path: Path, mmap: bool) -> Any:
    """The content of a PyTorch file. Raises CheckpointError for one that is not safe to read."""
    try:
        return wrappers.load(path, mmap)
    except pickle.UnpicklingError as error:
        name = wrappers.blocked(error)
        reason = f"it names {name}" if name else str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} holds more than weights, or is damaged: {reason}; reading it could run code, "
            "so nothing was read. Save the state dict alone where it was made, or ask its maker "
            "for safetensors"
        ) from error
    except Exception as error:  # damage shows as errors of any kind
        if (advice := _tar_advice(path)) is not None:
            raise CheckpointError(advice) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable PyTorch file: {reason}") from error


def _tar_advice(path: Path) -> str | None:
    """What to do with a tar archive; None for any other file."""
    try:
        with tarfile.open(path, "r:") as archive:
            names = archive.getnames()
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return None
    if {"pickle", "storages", "tensors"} <= set(names):
        return (
            f"{path} was written by PyTorch of before 2017, in a form that only runs what it "
            "names: open it with that PyTorch, if you trust it, and save the state dict again"
        )
    weights = [name for name in names if name.endswith(SUFFIXES)]
    return (
        f"{path} is an archive of {len(names)} files, no PyTorch file, whatever its name ends in: "
        f"unpack it (tar -xf) and give {', '.join((weights or ['what is in it'])[:3])}"
    )
