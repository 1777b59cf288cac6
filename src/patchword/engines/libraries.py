"""Libraries that run graphs on a CPU: how each writes one to a file, and runs it from there."""

from __future__ import annotations

import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from patchword.atomic_write import room_told
from patchword.errors import UnsupportedError
from patchword.optional import optional

Arrays = Mapping[str, NDArray[Any]]
Graph = Callable[[Arrays], Arrays]  # inputs by their names -> outputs by theirs


@dataclass(frozen=True)
class Library:
    """One of them.

    name    as `load(engine=...)` calls it
    suffix  of its files
    dtypes  what it computes in
    save    writes a graph to a file, its outputs called so; inputs have the names of the program
    read    a graph from a file, to compute in that type; one of int8 weights in torch.int8
    """

    name: str
    suffix: str
    dtypes: tuple[torch.dtype, ...]
    save: Callable[[ExportedProgram, Path, Sequence[str]], None]
    read: Callable[[Path, torch.dtype], Graph]

    def check(self, dtype: torch.dtype) -> None:
        """Raise UnsupportedError for a type that it does not compute in."""
        if dtype not in self.dtypes:
            known = " and ".join(map(_short, self.dtypes))
            raise UnsupportedError(
                f"engine {self.name} computes in {known}, not in {_short(dtype)}"
            )


@dataclass(frozen=True)
class Opened:
    """A graph of a file. A pickle of it holds the names alone, and opens the file again."""

    library: str
    path: Path
    dtype: torch.dtype
    run: Graph

    def __call__(self, inputs: Arrays) -> Arrays:
        return self.run(inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Opened:
        return self

    def __reduce__(self) -> tuple[Callable[..., Graph], tuple[str, Path, torch.dtype]]:
        return _again, (self.library, self.path.absolute(), self.dtype)


def _again(library: str, path: Path, dtype: torch.dtype) -> Graph:
    """The graph of a pickle. Raises UnsupportedError where its file cannot be read here."""
    try:
        return LIBRARIES[library].read(path, dtype)
    except UnsupportedError:  # the library is not installed
        raise
    except Exception as error:  # of onnxruntime's own errors there is no narrower class
        raise UnsupportedError(
            f"a pickled model reads its graph from {path}, which cannot be read here "
            f"({cause(error)}): load the model anew in place of the pickle"
        ) from error


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cause(error: BaseException) -> str:
    """What an error of one of them says in the end: OpenVINO's begin with lines of its sources."""
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)


def unreporting(name: str, purpose: str) -> Any:
    """openvino or nncf. They would tell their makers of each import and each graph, by a process
    each time; where the package that does so is not there, they tell nobody. Raises
    UnsupportedError where they are not installed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return optional(name, "fast", purpose, UnsupportedError)


@cache
def core() -> Any:
    """OpenVINO's one core of this process, kept to its end. A core gives signals a stack of its own
    and takes it away when it goes: where two of them go, the older first, signals are left with a
    stack that is no more, and the next signal ends the process."""
    return unreporting("openvino", "engine openvino").Core()


@contextmanager
def torch_untold() -> Iterator[None]:
    """Without what torch says of itself as its graphs are made, copied and written: a warning, and
    lines about a torchvision that is not there, which nothing here needs."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        log.setLevel(before)


@torch_untold()
def _save_openvino(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    library = unreporting("openvino", "engine openvino")
    failures = library.frontend.OpConversionFailure, library.frontend.NotImplementedFailure
    try:
        model = library.convert_model(program)
    except failures as error:
        said = f"OpenVINO does not compute this model ({cause(error)}); onnx and torch do"
        raise UnsupportedError(said) from error
    for value, name in zip(model.outputs, outputs, strict=True):
        value.get_tensor().set_names({name})
    with room_told(path, str(path)):
        library.save_model(model, path, compress_to_fp16=False)


def _read_openvino(path: Path, dtype: torch.dtype) -> Graph:
    # Without a hint OpenVINO takes bfloat16 where the processor has it, which is what is wanted of
    # the operations of an int8 graph that are not int8: they are rounded less than those that are.
    hints = {torch.float32: "f32", torch.bfloat16: "bf16"}
    options = {"INFERENCE_PRECISION_HINT": hints[dtype]} if dtype in hints else {}
    compiled = core().compile_model(path, "CPU", options)
    names = [each.any_name for each in compiled.outputs]
    one_at_a_time = threading.Lock()  # it refuses a call while another thread's runs

    def run(inputs: Arrays) -> Arrays:
        with one_at_a_time:
            found = compiled(dict(inputs))
        return {name: found[i] for i, name in enumerate(names)}

    return Opened("openvino", path, dtype, run)


@torch_untold()
def _save_onnx(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    optional("onnxscript", "fast", "engine onnx", UnsupportedError)
    try:
        model = torch.onnx.export(program, dynamo=True, verbose=False, output_names=list(outputs))
    except (ModuleNotFoundError, torch.onnx.errors.OnnxExporterError) as error:
        raise UnsupportedError(
            f"torch {torch.__version__} with onnxscript {version('onnxscript')} does not write "
            "this model as ONNX; a newer one may: pip install --upgrade onnxscript"
        ) from error
    assert model is not None  # only without dynamo it is
    _name_axes(model.model.graph)
    with room_told(path, str(path)):
        model.save(str(path))


def _name_axes(graph: Any) -> None:
    """Call the axes of a graph whose lengths are free as optimum does, in place of torch's s72."""
    names: dict[str, str] = {}
    for given in graph.inputs:
        encoder = "encoder_" * given.name.startswith("encoder_")
        for axis, dim in enumerate(given.shape):
            if not isinstance(dim, int):
                name = f"{encoder}sequence_length" if axis else "batch_size"
                names.setdefault(str(dim.value), name)
    made = [value for node in graph for value in node.outputs]
    for value in [*graph.inputs, *graph.outputs, *made]:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) and dim.value:
                free = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), str(dim.value))
                value.shape[axis] = free


def _read_onnx(path: Path, dtype: torch.dtype) -> Graph:
    library = optional("onnxruntime", "fast", "engine onnx", UnsupportedError)
    session = library.InferenceSession(path)
    names = [each.name for each in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(None, dict(inputs)), strict=True))

    return Opened("onnx", path, dtype, run)


OPENVINO = Library(
    "openvino", ".xml", (torch.float32, torch.bfloat16), _save_openvino, _read_openvino
)
ONNX = Library("onnx", ".onnx", (torch.float32,), _save_onnx, _read_onnx)
LIBRARIES = {library.name: library for library in (OPENVINO, ONNX)}
