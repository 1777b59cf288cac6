"""Open a checkpoint as names, shapes and tensors that are read when needed. No code in it is run.

Weights are memory-mapped. Pages that were read count as memory in use until their mapping is
closed, so a file is mapped again after every `FRESH` bytes.
"""

from __future__ import annotations

import json
import pickle
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from patchword.checkpoints import torchscript, training_folders, wrappers
from patchword.checkpoints.wrappers import Entry, Weights
from patchword.errors import CheckpointError, listed

FRESH = 32 << 20  # bytes
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")  # ".pth.tar" is among them
# In order of preference. Hub repositories may hold the same model twice, for two libraries.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # of images
# JSON files of a tokenizer.
WORDS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "added_tokens.json",
)
# Files of the same kinds that trainers write beside the weights.
NO_WEIGHTS = (
    "optimizer.", "optimizer_", "scheduler.", "scheduler_", "scaler.", "sampler", "rng_state",
    "training_args.", "random_states",
)  # fmt: skip
OPTIMIZER_OF_DEEPSPEED = "_optim_states.pt"
LFS = b"version https://git-lfs"
ZIP = b"PK\x03\x04"
SPARE = 64 << 20  # bytes of compressed code that an archive may hold


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape, and how to read it (a view of the mapped file)."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class Files(Mapping[str, Any]):
    """The JSON files of a folder by name, parsed when read.

    words, pixels: other folders that the files of the tokenizer (`WORDS`) and of the image
    processor (`PROCESSORS`) are taken from, where they have any. known: contents of files that are
    missing. Raises CheckpointError for a file that is not JSON.
    """

    def __init__(
        self,
        folder: Path,
        words: Path | None = None,
        pixels: Path | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.words, self.pixels = folder, folder
        self.known = known or {}
        if words is not None and any((words / name).is_file() for name in WORDS):
            self.words = words
        if pixels is not None and any((pixels / name).is_file() for name in PROCESSORS):
            self.pixels = pixels
        self._parsed: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self.known:
            return self.known[name]
        if name not in self._parsed:
            path = self._folder(name) / name
            if not name.endswith(".json") or not path.is_file():
                raise KeyError(name)
            try:
                self._parsed[name] = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, OSError, RecursionError) as error:
                raise CheckpointError(f"{path} is not readable JSON: {error}") from error
        return self._parsed[name]

    def _folder(self, name: str) -> Path:
        if name in WORDS:
            return self.words
        return self.pixels if name in PROCESSORS else self.folder

    def anew(self) -> Files:
        """The same files, none of them read yet."""
        return Files(self.folder, self.words, self.pixels, self.known)

    @property
    def parsed(self) -> tuple[str, ...]:
        """The files that were read so far, in order."""
        return tuple(self._parsed)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.known, *(p.name for p in self.folder.glob("*.json"))}))

    def __len__(self) -> int:
        return len(list(iter(self)))


@dataclass(frozen=True)
class Source:
    """An opened checkpoint: its tensors by name, and the folder with the files beside them."""

    name: str  # as the user named it
    weights: Path
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]  # of a safetensors file
    files: Files
    adapter: Path | None = None  # the file of an adapter that is merged into the tensors
    entry: Entry = field(default_factory=Entry)  # where in the file the tensors are

    @property
    def folder(self) -> Path:
        """The folder of the other files."""
        return self.files.folder


def open_path(path: Path, name: str, wanted: Weights | None = None) -> Source:
    """Open a weights file, or a folder with one. wanted: of a file with two sets of weights.

    Raises CheckpointError if there is none.
    """
    weights = choose(path) if path.is_dir() else path
    if (why := training_folders.part_of(weights)) is not None:
        raise CheckpointError(why)
    paths = _shards(weights) if weights.name.endswith(".index.json") else [weights]
    tensors: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    entry = Entry()
    for shard in paths:
        if shard.suffix == ".safetensors":
            found, metadata = _safetensors(shard, _size(shard))
        else:
            found, entry = _pickled(shard, _size(shard), wanted)
        tensors.update(found)
    if not tensors:
        raise CheckpointError(f"{weights} holds no tensors")
    part, entry = wrappers.part(tensors, entry, wanted)
    if wanted == "ema" and entry.kind != wanted:
        raise CheckpointError(wrappers.missing(weights, wanted))
    tensors = {name: tensors[theirs] for theirs, name in part.items()}
    bare = wrappers.bare_names(tensors, weights)
    tensors = {bare[theirs]: stored for theirs, stored in tensors.items() if theirs in bare}
    return Source(name, weights, tensors, metadata, Files(weights.parent), entry=entry)


def choose(folder: Path) -> Path:
    """The weights file of a folder: of a usual name, else the only one there is."""
    here = sorted(p.name for p in folder.iterdir() if p.is_file())
    known = preferred(here)
    if known:
        return folder / known
    loose = [name for name in here if may_be_weights(name)]
    if len(loose) == 1:
        return folder / loose[0]
    if loose:
        raise CheckpointError(training_folders.one_of(folder, loose))
    if (why := training_folders.without_weights(folder)) is not None:
        raise CheckpointError(why)
    raise CheckpointError(no_weights(str(folder), here))


def no_weights(where: str, here: Sequence[str]) -> str:
    """What is said of a place that holds files of these names, none of them weights."""
    return (
        f"{where} has no weights; looked for {', '.join(WEIGHTS)}, or one file ending in "
        f"{', '.join(SUFFIXES)}; found {listed(here, 10) or 'nothing'}"
    )


def may_be_weights(name: str) -> bool:
    """Whether a file of any name may hold weights, by its suffix, and is no trainer's own."""
    own = name.startswith(NO_WEIGHTS) or name.endswith(OPTIMIZER_OF_DEEPSPEED)
    return name.endswith(SUFFIXES) and not own


def preferred(names: list[str]) -> str | None:
    """The first of `WEIGHTS` among the names of a folder's files."""
    return next((name for name in WEIGHTS if name in names), None)


def shard_names(index: Any, where: Path | str) -> list[str]:
    """The files that an index.json names. Raises CheckpointError when it names none, or a path."""
    names = sorted(set(index["weight_map"].values())) if _is_index(index) else []
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{where} is not an index of weight files beside it")
    return names


def _is_index(index: Any) -> bool:
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    return isinstance(weight_map, dict) and all(isinstance(v, str) for v in weight_map.values())


def _shards(index: Path) -> list[Path]:
    """The files of a sharded checkpoint."""
    names = shard_names(Files(index.parent)[index.name], index)
    lost = [name for name in names if not (index.parent / name).is_file()]
    if lost:
        raise CheckpointError(f"{index} names {', '.join(lost)}, which is not there")
    return [index.parent / name for name in names]


class Opened(Protocol):
    """Tensors of one mapped file."""

    def get_tensor(self, name: str) -> Tensor: ...


class Mapped:
    """Reads tensors of one file through a mapping that is renewed (see the module)."""

    def __init__(self, opener: Callable[[], Opened], opened: Opened, size: int) -> None:
        self.opener = opener
        self.opened: Opened | None = opened
        self.limit = max(FRESH, size // 16)  # large files are opened 16 times at most
        self.count = 0

    def read(self, name: str) -> Tensor:
        """The tensor as a view of the file."""
        if self.opened is None or self.count > self.limit:
            self.opened = None  # first, so that the old pages are released before new ones are read
            self.opened, self.count = self.opener(), 0
        tensor = self.opened.get_tensor(name)
        self.count += tensor.nbytes
        return tensor


class StateDict(dict[str, Tensor]):
    """A dict of tensors as `Opened`."""

    def get_tensor(self, name: str) -> Tensor:
        return self[name].detach()  # a Parameter, of a model whose state was taken by hand


def _size(path: Path) -> int:
    """The size in bytes of a file of weights. Raises CheckpointError for any other file."""
    try:
        status = path.stat()
        size = status.st_size
        if stat.S_ISFIFO(status.st_mode):  # to open one waits for a writer; weights are sought in
            raise CheckpointError(f"{path} is a pipe, not a file; save what it gives as one")
        with path.open("rb") as file:
            start = file.read(len(LFS))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not size:
        raise CheckpointError(f"{path} is empty")
    if start == LFS:
        raise CheckpointError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`")
    if path.suffix == training_folders.DISTRIBUTED:
        raise CheckpointError(training_folders.distributed(path.parent))
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path} is no file of weights: {', '.join(SUFFIXES)} are read")
    return size


def _safetensors(path: Path, size: int) -> tuple[dict[str, Stored], dict[str, str]]:
    def opener() -> Any:
        return safe_open(path, framework="pt")

    try:
        file = opener()
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); was its download cut short?"
        ) from error
    return _stored(Mapped(opener, file, size), shapes), dict(file.metadata() or {})


def _pickled(path: Path, size: int, wanted: Weights | None) -> tuple[dict[str, Stored], Entry]:
    """A PyTorch file: a dict of tensors, a trainer's with one in it, or a TorchScript archive."""
    with path.open("rb") as file:
        archive = file.read(len(ZIP)) == ZIP
    if archive:
        _refuse_bomb(path, size)
    script = archive and torchscript.is_archive(path)

    def held() -> tuple[dict[str, Tensor], Entry]:
        if script:
            return torchscript.read(path), Entry(archive=True)
        return wrappers.unwrap(_load(path, mmap=archive), path, wanted)

    def opener() -> StateDict:
        return StateDict(held()[0])

    tensors, entry = held()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else "sparse"
            kind = "without its numbers (on the device meta)" if tensor.is_meta else kind
            raise CheckpointError(
                f"{path}: the tensor {name} is {kind}; save ordinary ones: of a sparse one what "
                "to_dense() gives, of another the weights that it was made from"
            )
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: the tensor {name} claims {tuple(tensor.shape)} numbers, and the file "
                "holds fewer: it would fill the memory with copies of them"
            )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    mapped = Mapped(opener, StateDict(tensors), size)
    if not archive:  # PyTorch before 1.6: cannot be mapped, so is read once and kept
        mapped.limit = 1 << 62
    return _stored(mapped, shapes), entry


def _refuse_bomb(path: Path, size: int) -> None:
    """Raise CheckpointError for an archive that unpacks to much more than its size: weights are
    stored uncompressed, and only the code of TorchScript is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return  # torch raises the error
    if whole > 2 * size + SPARE:
        raise CheckpointError(
            f"{path} has {size:,} bytes and unpacks to {whole:,}: no library writes weights so"
        )


def _stored(mapped: Mapped, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Stored]:
    def reader(name: str) -> Callable[[], Tensor]:
        return lambda: mapped.read(name)

    return {name: Stored(shape, reader(name)) for name, shape in shapes.items()}


def _load(path: Path, mmap: bool) -> Any:
    """The content of a PyTorch file. Raises CheckpointError for one that is not safe to read."""
    try:
        return wrappers.load(path, mmap)
    except pickle.UnpicklingError as error:
        name = wrappers.blocked(error)
        named = f"it names {name}" if name else str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} holds more than weights, or is damaged: {named}; reading it could run code, "
            "so nothing was read. Save the state dict alone where it was made, or ask its maker "
            "for safetensors"
        ) from error
    except Exception as error:  # damage shows as errors of any kind
        if (inside := _unpacked(path)) is not None:
            raise CheckpointError(inside) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable PyTorch file: {reason}") from error


def _unpacked(path: Path) -> str | None:
    """The advice for a tar archive; None for any other file."""
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
