"""A checkpoint never runs code: each hostile file gives an error and leaves no trace."""

import gzip
import os
import pickle
import random
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from forked_processes import start
from torch import nn

import patchword
from patchword import checkpoints
from patchword.checkpoints import torchscript
from patchword.checkpoints.read import open_path
from patchword.errors import CheckpointError, TokenizerError
from patchword.text import tokenizer_files

ASSETS = Path(patchword.__file__).parent / "assets"


class Evil:
    """Unpickled, it creates a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.sentinel}",)


class Sly:
    """Unpickled, it gets an attribute of a class that is allowed."""

    def __reduce__(self) -> Any:
        return getattr, (torch.Tensor, "__subclasses__")


def archive(path: Path) -> None:
    """A TorchScript archive of a linear layer."""
    script(nn.Linear(3, 2), path)


def script(network: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is old, and so are files
        torch.jit.script(network).save(path)


def replaced(path: Path, record: str, content: bytes, compress: int = zipfile.ZIP_STORED) -> None:
    """Put other bytes in one record of a zip."""
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    name = next(name for name in records if name.endswith(record))
    records[name] = content
    with zipfile.ZipFile(path, "w", compress) as new:
        for name, data in records.items():
            new.writestr(name, data)


def as_torch_zip(path: Path, evil: object) -> None:
    torch.save({"weight": torch.ones(2), "evil": evil}, path)


def as_old_torch(path: Path, evil: object) -> None:
    torch.save({"evil": evil}, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(path: Path, evil: object) -> None:
    path.write_bytes(pickle.dumps(evil, protocol=2))


def inside_state_dict(path: Path, evil: object) -> None:
    torch.save({"state_dict": {"weight": torch.ones(2)}, "hyper_parameters": evil}, path)


def as_torchscript(path: Path, evil: object) -> None:
    archive(path)
    replaced(path, "data.pkl", pickle.dumps(evil, protocol=2))


def as_torchscript_constant(path: Path, evil: object) -> None:
    """Constants are never read, so this archive is merely no CLIP."""
    archive(path)
    replaced(path, "constants.pkl", pickle.dumps(evil, protocol=2))


FORMS = [
    as_torch_zip, as_old_torch, as_bare_pickle, inside_state_dict, as_torchscript,
    as_torchscript_constant,
]  # fmt: skip


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_hostile_files_run_nothing(
    write: Callable[[Path, object], None], name: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model" / name, Evil(tmp_path / "ran"))
    for source in (tmp_path / "model", tmp_path / "model" / name):
        with pytest.raises(CheckpointError, match=name):
            checkpoints.load(source)
    assert not (tmp_path / "ran").exists()


def test_the_error_says_what_to_do(tmp_path: Path) -> None:
    as_torch_zip(tmp_path / "m.bin", Evil(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match=r"could run code.*nothing was read.*safetensors"):
        checkpoints.load(tmp_path / "m.bin")
    as_torchscript(tmp_path / "m.pt", Evil(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match=r"posix\.system.*could run code"):
        checkpoints.load(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "program",
    [
        pickle.dumps(Sly(), protocol=2),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ctorch\nload\n(S'/etc/passwd'\ntR.",
        b"ctorch._utils\n_rebuild_parameter\n(tR.",
        b"ctorch.jit._pickle\n__loader__\n.",  # a module's own attribute
        b"(lp0\n.",  # a list, no module
        b"",
        b"\x80\x02",
    ],
)
def test_archives_may_name_little(program: bytes, tmp_path: Path) -> None:
    archive(tmp_path / "m.pt")
    replaced(tmp_path / "m.pt", "data.pkl", program)
    with pytest.raises(CheckpointError, match=r"m\.pt"):
        checkpoints.load(tmp_path / "m.pt")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    writer = os.open(tmp_path / "model.pt", os.O_RDWR)  # so that this cannot hang
    os.write(writer, bytes(1000))
    try:
        with pytest.raises(CheckpointError, match="is a pipe"):
            checkpoints.load(tmp_path / "model.pt")
    finally:
        os.close(writer)


def test_every_tensor_of_an_archive_is_read(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(4, 5).half())
    script(network, tmp_path / "m.pt")
    read = torchscript.read(tmp_path / "m.pt")
    assert set(read) == set(network.state_dict())
    for name, value in network.state_dict().items():
        assert torch.equal(read[name], value), name


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    archive(path)
    content = path.read_bytes()
    replaced(path, "data/0", b"\0" * 4)
    with pytest.raises(CheckpointError, match="shorter than its tensor"):
        checkpoints.load(path)
    path.write_bytes(content)
    replaced(path, "data/0", b"\0" * 24, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        checkpoints.load(path)
    for length in (len(content) // 2, len(content) - 30, 100, 4):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"m\.pt"):
            checkpoints.load(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:'torch.load' received")
@pytest.mark.parametrize("kind", ["zip", "old", "script", "safetensors"])
def test_flipped_bytes_crash_nothing(kind: str, tmp_path: Path) -> None:
    """Whatever a damaged file says, it is read or refused with a CheckpointError."""
    path = tmp_path / ("m.safetensors" if kind == "safetensors" else "m.pt")
    if kind == "script":
        archive(path)
    elif kind == "safetensors":
        safetensors.torch.save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, path)
    else:
        torch.save({"a": torch.ones(6)}, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for position in generator.sample(range(len(content)), 3):
            damaged[position] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            for stored in open_path(path, "m").tensors.values():
                stored.read().sum()
        except CheckpointError:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (1, (2, 3), (3, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (5, 1))],
)
def test_a_tensor_stays_inside_its_storage(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    storage = torch.arange(6.0)
    assert torch.equal(torchscript._tensor(storage, 1, (2, 2), (2, 1)), storage[1:5].view(2, 2))
    assert torchscript._tensor(storage, 6, (0,), (1,)).shape == (0,)
    assert torchscript._tensor(storage, 5, (), ()) == 5
    with pytest.raises(CheckpointError, match="leaves its storage"):
        torchscript._tensor(storage, offset, size, stride)


def peak_memory() -> float:
    """The most memory that this process has had, in GB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6


def print_error_and_memory(path: Path) -> None:
    """Load a checkpoint; print the error, and by how much the peak memory grew, in GB."""
    before = peak_memory()
    try:
        checkpoints.load(path)
    except CheckpointError as error:
        print(error)
    print(peak_memory() - before)


def error_and_memory(path: Path) -> tuple[str, float]:
    """The output of `print_error_and_memory` in a process of its own."""
    output = path.with_name("output")
    process = start(output, partial(print_error_and_memory, path))
    process.join()
    assert process.exitcode == 0, Path(f"{output}.err").read_text()
    *error, memory = Path(f"{output}.out").read_text().splitlines()
    return "\n".join(error), float(memory)


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pt", tmp_path / "small.pt"
    torch.save({"weight": torch.zeros(2**20)}, plain)
    fast = partial(zipfile.ZipFile, mode="w", compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    with zipfile.ZipFile(plain) as old, fast(packed) as new:
        for entry in old.infolist():
            content = old.read(entry)
            with new.open(entry.filename, "w") as file:
                for _ in range(100 if entry.filename.endswith("/0") else 1):
                    file.write(content)
    assert packed.stat().st_size < 1e7
    error, memory = error_and_memory(packed)
    assert "unpacks to 419,4" in error
    assert memory < 0.2


def test_a_table_that_is_one_number_many_times(tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    torch.save({"text.weight": torch.zeros(1).expand(2**20, 2**11)}, path)
    assert path.stat().st_size < 1e5
    error, memory = error_and_memory(path)
    assert "claims (1048576, 2048) numbers" in error
    assert memory < 0.2


def test_a_small_vocabulary_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / tokenizer_files.OPENAI_FILE
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(65):
            file.write(bytes(1 << 20))
    with pytest.raises(TokenizerError, match=r"unpacks to more than 67,108,864 bytes"):
        tokenizer_files.read(tmp_path, 49408)


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["config.json", "scope.json"])
def test_json_that_is_nested_too_deeply_is_damaged(name: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ASSETS / "demo", model)
    (model / name).write_text(DEEP)
    with pytest.raises(CheckpointError, match="recursion"):
        checkpoints.load(model)


def test_a_panic_of_the_tokenizers_library_is_an_error() -> None:
    text = '{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}'
    with pytest.raises(TokenizerError, match=r"not a readable tokenizer\.json"):
        tokenizer_files.parse(text, "tokenizer.json")
