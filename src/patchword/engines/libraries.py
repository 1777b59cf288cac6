"""Libraries that run graphs on a CPU: how each writes a graph to a file and reads it."""

from __future__ import annotations

import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from patchword.atomic_write import explain_full_disk
from patchword.engines.streams import MOST
from patchword.errors import UnsupportedError
from patchword.optional import optional

Arrays = Mapping[str, NDArray[Any]]
Graph = Callable[[Arrays], Arrays]  # inputs by name -> outputs by name
LEAST = 4  # images for each thread from which OpenVINO computes a batch in streams


@dataclass(frozen=True)
class Library:
    """A library that runs graphs.

    name    in `load(engine=...)`
    suffix  of its files
    dtypes  the types in which it computes
    save    writes a graph to a file, with names for its outputs; inputs have the program's names
    read    reads a graph from a file, to compute in a type; torch.int8 for int8 weights
    """

    name: str
    suffix: str
    dtypes: tuple[torch.dtype, ...]
    save: Callable[[ExportedProgram, Path, Sequence[str]], None]
    read: Callable[[Path, torch.dtype], Graph]

    def check(self, dtype: torch.dtype) -> None:
        """Raise UnsupportedError for a type in which it does not compute."""
        if dtype not in self.dtypes:
            known = " and ".join(map(_short, self.dtypes))
            raise UnsupportedError(
                f"engine {self.name} computes in {known}, not in {_short(dtype)}"
            )


@dataclass(frozen=True)
class OpenedGraph:
    """A graph from a file. A pickle of it contains the path only, and reads the file again."""

    library: str
    path: Path
    dtype: torch.dtype
    run: Graph

    def __call__(self, inputs: Arrays) -> Arrays:
        return self.run(inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenedGraph:
        return self

    def __reduce__(self) -> tuple[Callable[..., Graph], tuple[str, Path, torch.dtype]]:
        return _reopen, (self.library, self.path.absolute(), self.dtype)


def _reopen(library: str, path: Path, dtype: torch.dtype) -> Graph:
    """The graph of a pickle. Raises UnsupportedError if its file cannot be read."""
    try:
        return LIBRARIES[library].read(path, dtype)
    except UnsupportedError:  # the library is not installed
        raise
    except Exception as error:  # onnxruntime's errors have no narrower base class
        raise UnsupportedError(
            f"a pickled model reads its graph from {path}, which cannot be read here "
            f"({last_line(error)}): load the model anew in place of the pickle"
        ) from error


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def last_line(error: BaseException) -> str:
    """The last line of an error's message: OpenVINO's messages begin with lines of its source."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def import_without_telemetry(name: str, purpose: str) -> Any:
    """Import openvino or nncf. Their package openvino_telemetry would report each import and each
    graph to Intel, in a process each time; without that package they report nothing. Raises
    UnsupportedError if they are not installed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return optional(name, "fast", purpose, UnsupportedError)


@cache
def core() -> Any:
    """The only OpenVINO core of this process, which is never destroyed. A core installs its own
    stack for signals and removes it when it is destroyed. If two cores are destroyed, the older one
    first, signals use a stack that no longer exists, and the next signal ends the process."""
    return import_without_telemetry("openvino", "engine openvino").Core()


@contextmanager
def quiet_export() -> Iterator[None]:
    """Hide torch's messages when graphs are exported, copied and written: a warning, and log lines
    about a missing torchvision, which is not needed."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        log.setLevel(before)


@quiet_export()
def _save_openvino(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    library = import_without_telemetry("openvino", "engine openvino")
    failures = library.frontend.OpConversionFailure, library.frontend.NotImplementedFailure
    try:
        model = library.convert_model(program)
    except failures as error:
        raise UnsupportedError(
            f"OpenVINO does not compute this model ({last_line(error)}); onnx and torch do"
        ) from error
    for value, name in zip(model.outputs, outputs, strict=True):
        value.get_tensor().set_names({name})
    with explain_full_disk(path, str(path)):
        library.save_model(model, path, compress_to_fp16=False)


def _read_openvino(path: Path, dtype: torch.dtype) -> Graph:
    # Without a hint OpenVINO computes in bfloat16 if the processor has it. This is right for graphs
    # in int8: their other operations are then still more exact than those in int8.
    hints = {torch.float32: "f32", torch.bfloat16: "bf16"}
    options = {"INFERENCE_PRECISION_HINT": hints[dtype]} if dtype in hints else {}
    model = core().read_model(path)
    compiled = core().compile_model(model, "CPU", options)
    names = [output.any_name for output in compiled.outputs]
    threads = compiled.get_property("INFERENCE_NUM_THREADS")
    # For texts, and in float32, streams are hardly faster than one, and they need a second copy of
    # the weights.
    is_image = [len(each.partial_shape) for each in compiled.inputs] == [4]
    splits = is_image and dtype != torch.float32 and threads > 1
    streams = _Streams(model, options, min(threads, MOST)) if splits else None
    lock = threading.Lock()  # OpenVINO refuses a call while one of another thread runs

    def run(inputs: Arrays) -> Arrays:
        with lock:
            if streams is not None and len(next(iter(inputs.values()))) >= LEAST * threads:
                outputs = streams(*inputs.values())
            else:
                outputs = compiled(dict(inputs), share_inputs=True)
        return {name: outputs[i] for i, name in enumerate(names)}

    return OpenedGraph("openvino", path, dtype, run)


class _Streams:
    """A graph of one input that OpenVINO computes for parts of a batch at the same time, each in a
    share of the threads. It is compiled when it is first called."""

    def __init__(self, model: Any, options: Mapping[str, str], count: int) -> None:
        self._model, self._options, self._count = model, options, count
        self._requests: list[Any] = []

    def __call__(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs in the graph's order. Not for two threads at a time."""
        if not self._requests:
            options = {**self._options, "NUM_STREAMS": self._count}
            compiled = core().compile_model(self._model, "CPU", options)
            self._requests = [compiled.create_infer_request() for _ in range(self._count)]
        parts = np.array_split(batch, self._count)
        with ExitStack() as running:  # waits for all parts, also if one fails
            for request, part in zip(self._requests, parts, strict=True):
                request.start_async({0: part}, share_inputs=True)
                running.callback(request.wait)
        outputs = ([output.data for output in each.output_tensors] for each in self._requests)
        return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]


@quiet_export()
def _save_onnx(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    optional("onnxscript", "fast", "engine onnx", UnsupportedError)
    try:
        model = torch.onnx.export(program, dynamo=True, verbose=False, output_names=list(outputs))
    except (ModuleNotFoundError, torch.onnx.errors.OnnxExporterError) as error:
        raise UnsupportedError(
            f"torch {torch.__version__} with onnxscript {version('onnxscript')} does not write "
            "this model as ONNX; a newer one may: pip install --upgrade onnxscript"
        ) from error
    assert model is not None  # None only without dynamo
    _name_axes(model.model.graph)
    with explain_full_disk(path, str(path)):
        model.save(str(path))


def _name_axes(graph: Any) -> None:
    """Give the axes of variable length optimum's names, instead of torch's, such as s72."""
    names: dict[str, str] = {}
    for graph_input in graph.inputs:
        of_encoder = graph_input.name.startswith("encoder_")
        for axis, dim in enumerate(graph_input.shape):
            if not isinstance(dim, int):
                name = "batch_size"
                if axis:
                    name = "encoder_sequence_length" if of_encoder else "sequence_length"
                names.setdefault(str(dim.value), name)
    intermediates = [value for node in graph for value in node.outputs]
    for value in [*graph.inputs, *graph.outputs, *intermediates]:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) and dim.value:
                # An expression such as "s72 + 1": each name in it is replaced.
                renamed = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), str(dim.value))
                value.shape[axis] = renamed


def _read_onnx(path: Path, dtype: torch.dtype) -> Graph:
    library = optional("onnxruntime", "fast", "engine onnx", UnsupportedError)
    session = library.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(None, dict(inputs)), strict=True))

    return OpenedGraph("onnx", path, dtype, run)


OPENVINO = Library(
    "openvino", ".xml", (torch.float32, torch.bfloat16), _save_openvino, _read_openvino
)
ONNX = Library("onnx", ".onnx", (torch.float32,), _save_onnx, _read_onnx)
LIBRARIES = {library.name: library for library in (OPENVINO, ONNX)}
