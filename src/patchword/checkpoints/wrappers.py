"""Finds the weights in what training code saves: nested dicts, prefixes, and other objects.

A trainer saves its optimiser, its arguments and its best score in the same file. Their types are
read as `Inert`, so that nothing that a file names is ever called; the tensors are found under the
names that trainers use, and the prefixes that wrappers of modules add are removed.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from patchword.errors import CheckpointError, CheckpointWarning, UnsupportedError, warn
from patchword.options import nearest

Weights = Literal["ema", "raw"]
KINDS: tuple[Weights, ...] = ("ema", "raw")
# Keys under which trainers save weights, in the order of timm's load_state_dict
# (timm/models/_helpers.py); "module" is DeepSpeed's.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict")
RAW = ("state_dict", "model_state_dict", "model", "module")
# Where Lightning's WeightAveraging puts the weights; "state_dict" is their average then.
CURRENT = "current_model_state"
DEEPEST = 4  # wrappers in each other
# What DDP and averages, torch.compile, FSDP and activation checkpointing insert into names.
WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
ATTRIBUTE = "model."  # of a LightningModule, before each name
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside "module.*"
# What a module of two networks calls the average of one: "model_ema.*", "ema_model.*", "ema.*"; of
# ema-pytorch, "ema.ema_model.*". And what is counted beside it.
AVERAGED = re.compile(r"(?:^|_)(?:ema|swa|averaged?)(?:_|$)")
COUNTERS = (COUNTER, "initted", "step", "decay", "num_updates")
BLOCKED = re.compile(r"GLOBAL ([\w.]+)")  # in the messages of torch's safe unpickler

_one_at_a_time = threading.Lock()  # torch's list of allowed names is one for the whole process


class Inert:
    """Replaces an object beside the weights: it takes any arguments and ignores them."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class InertArray(Inert):
    """Replaces a NumPy array."""


class InertType(Inert):
    """Replaces a type that is named beside NumPy's numbers."""


# The types that are read beside weights: the arguments of a run, with paths and times among them,
# and NumPy's numbers and arrays, such as the state of its generator.
ALLOWED: list[Any] = [
    (Inert, "argparse.Namespace"),
    (Inert, "types.SimpleNamespace"),
    (OrderedDict, "yacs.config.CfgNode"),  # dicts with attributes
    (OrderedDict, "easydict.EasyDict"),
    (Inert, "datetime.datetime"),
    (Inert, "datetime.timedelta"),
    (Inert, "numpy._core.multiarray.scalar"),
    (Inert, "numpy.core.multiarray.scalar"),  # before NumPy 2
    (InertArray, "numpy._core.multiarray._reconstruct"),
    (InertArray, "numpy.core.multiarray._reconstruct"),
    (InertType, "numpy.ndarray"),
    (InertType, "numpy.dtype"),
    *(
        (Inert, f"{module}.{kind}Path")
        for module in ("pathlib", "pathlib._local")  # the latter of Python 3.13
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    ),
]


@dataclass(frozen=True)
class Entry:
    """The place of a set of weights in a file.

    name    "state_dict", "model.module", ...; "" for the file itself
    kind    "ema" for a moving average, else "raw"
    others  names of the sets beside it, which are not read; "[]" after that of a mere list
    metadata  texts that the trainer wrote beside them: the run's "name", timm's "arch"
    archive whether the file is one of TorchScript
    """

    name: str = ""
    kind: Weights = "raw"
    others: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    archive: bool = False


Set = tuple[dict[str, Tensor], Entry]


def load(path: Path, mmap: bool) -> Any:
    """The content of a PyTorch file, read by torch's weights-only unpickler with `ALLOWED` as
    inert.

    Raises what torch raises.
    """
    with _one_at_a_time, torch.serialization.safe_globals(ALLOWED):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def blocked(error: Exception) -> str:
    """The name that the safe unpickler refused; "" where it refused something else."""
    match = BLOCKED.search(str(error))
    return match[1] if match else ""


def checked(weights: Any) -> Weights | None:
    """`weights` as one of `KINDS`, or None. Raises UnsupportedError for anything else."""
    if weights is None or weights in KINDS:
        return weights  # type: ignore[no-any-return]
    raise UnsupportedError(
        f'weights is {weights!r}{nearest(str(weights), KINDS)}; give "ema" for the moving average '
        'of the weights, or "raw" for the weights themselves'
    )


def unwrap(
    loaded: Any, path: Path, wanted: Weights | None = None
) -> tuple[dict[str, Tensor], Entry]:
    """The weights in the content of a file; of two sets the wanted one, by default the average.

    Raises CheckpointError when there are none, when there is the average alone and the weights are
    wanted, and for a set with something in it that is no tensor.
    """
    sets = list(_sets(loaded))
    if not sets:
        raise CheckpointError(f"{path} {_without(loaded)}")
    first: Weights = wanted or "ema"
    tensors, entry = min(sets, key=lambda each: each[1].kind != first)
    if wanted == "raw" and entry.kind == "ema":
        raise CheckpointError(missing(path, "raw"))
    if "ds_version" in loaded and any(tensor.numel() == 0 for tensor in tensors.values()):
        raise CheckpointError(
            f"{path} is one part of a DeepSpeed ZeRO-3 checkpoint, without the weights: run "
            "zero_to_fp32.py, which is in the folder above, and give what it writes"
        )
    others = [each.name for _, each in sets if each is not entry]
    others += _unnamed(loaded, tensors, {entry.name, *others})
    return tensors, replace(entry, others=tuple(others), metadata=_texts(loaded))


def missing(path: Path, wanted: Weights) -> str:
    """The error for a file without the wanted set."""
    has = "no moving average of its weights" if wanted == "ema" else "the moving average alone"
    return f'{path} holds {has}; leave out weights="{wanted}" (--weights)'


def described(file: str, entry: Entry) -> str:
    """A file and the place of the weights in it, for `patchword info`."""
    words = [entry.name] if entry.name else []
    if entry.kind == "ema":
        words.append("the moving average")
    if entry.others:
        words.append(f"not read: {', '.join(entry.others)}".replace("[]", " (a list)"))
    return f"{file} ({'; '.join(words)})" if words else file


def warn_of_others(file: str, entry: Entry) -> None:
    """Warn which of several sets of weights is read, and how to read another, if none was
    chosen."""
    if not entry.others:
        return
    kind, advice = "set", 'weights="raw" (--weights raw) reads the weights themselves'
    if entry.kind == "ema":
        kind = "moving average"
    elif (named := next((n for n in entry.others if not n.endswith("[]")), None)) is not None:
        inside = "".join(f'["{key}"]' for key in named.split("."))
        advice = (
            f"to read it, save it in a file of its own, "
            f'torch.save(torch.load("{file}"){inside}, "{named}.pt")'
        )
    else:
        advice = "it has no names; to read it, copy it into the model where it was made, and save"
    others = ", ".join(repr(name.removesuffix("[]")) for name in entry.others)
    warn(
        f"{file} holds several sets of weights; the {kind} in {entry.name!r} is read, and not "
        f"{others}: {advice}",
        CheckpointWarning,
    )


def part(
    names: Collection[str], entry: Entry, wanted: Weights | None
) -> tuple[dict[str, str], Entry]:
    """The names of one network in a module of two, the weights and their average, mapped to the
    names inside that network; by default the average. All names of any other set.

    entry: where the names are.
    """
    for prefix in _averages(names):
        start = prefix.split(".")[0]
        average = {n: n.removeprefix(prefix) for n in names if n.startswith(prefix)}
        average = {name: bare for name, bare in average.items() if bare not in COUNTERS}
        raw = {name: name for name in names if not name.startswith(f"{start}.")}
        if not raw or sorted(map(_plain, average.values())) != sorted(map(_plain, raw)):
            continue
        inside = f"{entry.name}." if entry.name else ""
        common = {name.split(".")[0] for name in raw}
        called = f"{inside}{prefix[:-1]}", f"{inside}{common.pop() if len(common) == 1 else '*'}"
        if wanted == "raw":
            return raw, replace(entry, name=called[1], others=(called[0], *entry.others))
        found = replace(entry, name=called[0], kind="ema", others=(called[1], *entry.others))
        return average, found
    return {name: name for name in names}, entry


def bare_names(names: Collection[str], where: Path) -> dict[str, str]:
    """Each name of a set of weights, and that name without what wrappers insert.

    Raises CheckpointError when two names become one.
    """
    kept = list(names)
    others = [name for name in kept if name != COUNTER]
    if others and all(name.startswith("module.") for name in others):
        kept = others
    bare = [WRAPPERS.sub("", name) for name in kept]
    while bare and all(name.startswith(ATTRIBUTE) for name in bare):
        bare = [name.removeprefix(ATTRIBUTE) for name in bare]
    if len(set(bare)) < len(kept):
        twice = next(name for name in bare if bare.count(name) > 1)
        raise CheckpointError(f"{where} has {twice} twice, in two wrappers of the same module")
    return dict(zip(kept, bare, strict=True))


def _sets(loaded: Any, entry: Entry = Entry(), depth: int = 0) -> Iterator[Set]:
    """Every dict of tensors under the names that trainers use, in their order."""
    if not isinstance(loaded, dict) or not loaded or depth > DEEPEST:
        return
    if all(isinstance(value, Tensor) for value in loaded.values()):
        yield {str(name): tensor for name, tensor in loaded.items()}, entry
        return
    averages = (*AVERAGES, RAW[0]) if isinstance(loaded.get(CURRENT), dict) else AVERAGES
    for key in dict.fromkeys((*averages, *RAW, CURRENT)):
        name = f"{entry.name}.{key}" if entry.name else key
        kind: Weights = "ema" if key in averages else entry.kind
        yield from _sets(loaded.get(key), Entry(name, kind), depth + 1)


def _unnamed(loaded: dict[Any, Any], tensors: dict[str, Tensor], known: set[str]) -> list[str]:
    """The places in the file where most of the tensors are once more, under an unknown name.

    Averages are often of the parameters alone, inside an object of their own ("ema.shadow"), with
    the names of another wrapper, or a list without names ("ema.shadow_params").
    """
    shapes = {_plain(name): tensor.shape for name, tensor in tensors.items()}
    return [
        f"{name}[]" if isinstance(value, list) else name
        for name, value in _inside(loaded)
        if name not in known and value is not tensors and _repeats(value, shapes)
    ]


def _averages(names: Collection[str]) -> list[str]:
    """Possible prefixes of the names of an average, the longer ones first."""
    parts = [name.split(".") for name in names]
    found = {f"{p[0]}." for p in parts if AVERAGED.search(p[0])}
    found |= {f"{p[0]}.{p[1]}." for p in parts if len(p) > 2 and all(map(AVERAGED.search, p[:2]))}
    return sorted(found, key=lambda prefix: (-prefix.count("."), prefix))


def _plain(name: object) -> str:
    return WRAPPERS.sub("", str(name)).removeprefix(ATTRIBUTE)


def _inside(loaded: dict[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every dict and list in dicts, with its name: "ema", "ema.shadow"."""
    for key, value in loaded.items():
        name = f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            yield name, value
        if isinstance(value, dict) and depth < DEEPEST:
            yield from _inside(value, f"{name}.", depth + 1)


def _repeats(value: dict[Any, Any] | list[Any], shapes: dict[str, torch.Size]) -> bool:
    """Whether a dict or a list holds tensors of these shapes, at least half as many."""
    items = list(value.values()) if isinstance(value, dict) else value
    tensors = [item for item in items if isinstance(item, Tensor)]
    if 2 * len(tensors) < max(len(shapes), 2):
        return False
    if isinstance(value, dict):
        named = {_plain(k): v.shape for k, v in value.items() if isinstance(v, Tensor)}
        return sum(shapes.get(name) == shape for name, shape in named.items()) * 2 >= len(shapes)
    return Counter(tensor.shape for tensor in tensors) <= Counter(shapes.values())


def _texts(loaded: Any) -> dict[str, str]:
    """The texts that a trainer wrote beside the weights."""
    items = loaded.items() if isinstance(loaded, dict) else ()
    return {str(k): v for k, v in items if isinstance(v, str)}


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, InertArray):
        return "a NumPy array"
    return "another object" if isinstance(value, Inert) else f"a {type(value).__name__}"


def _without(loaded: Any) -> str:
    """The content of a file without weights, in words."""
    if not isinstance(loaded, dict):
        return f"is not a dict of tensors but {_kind(loaded)}"
    if "param_groups" in loaded and "state" in loaded:
        return (
            "is the state of an optimizer, which holds no weights: give the file of the model that "
            "was saved beside it, or its folder"
        )
    for key in ("", *AVERAGES, *RAW):
        inner = loaded.get(key) if key else loaded
        if isinstance(inner, dict) and any(isinstance(v, Tensor) for v in inner.values()):
            odd = next(k for k, v in inner.items() if not isinstance(v, Tensor))
            where = f'its "{key}"' if key else "it"
            return (
                f"is not a dict of tensors: {where} holds tensors and {odd!r}, which is "
                f"{_kind(inner[odd])}; save the state dict alone"
            )
        if isinstance(inner, dict) and any(isinstance(v, InertArray) for v in inner.values()):
            return "holds NumPy arrays where tensors are read: save torch.from_numpy(array) of each"
    keys = ", ".join(repr(str(key)) for key in list(loaded)[:10]) or "nothing"
    known = ", ".join(map(repr, (*RAW, *AVERAGES)))
    return (
        f"is not a dict of tensors, nor has it one under a name that trainers use ({known}); it "
        f"holds {keys}: save the state dict that you mean by itself"
    )
