"""Finds the weights in what training code saves: nested dicts, prefixes, and other objects.

A trainer saves its optimiser, its arguments and its best score in the same file. Objects of their
types become `Inert` ones, so that nothing that a file names is ever called. The tensors are under
keys that trainers use (`AVERAGE_KEYS`, `RAW_KEYS`), and their names have the prefixes that wrappers
of modules add, which are removed.
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
# Keys of the moving average of the weights, and of the weights themselves, in the order of timm's
# load_state_dict (timm/models/_helpers.py); "module" is DeepSpeed's.
AVERAGE_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict")
RAW_KEYS = ("state_dict", "model_state_dict", "model", "module")
# Key of the weights of Lightning's WeightAveraging; "state_dict" is their average then.
LIGHTNING_RAW_KEY = "current_model_state"
MAX_DEPTH = 4  # of nested dicts
# What DDP and averages, torch.compile, FSDP and activation checkpointing insert into names.
WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
ATTRIBUTE = "model."  # of a LightningModule, before each name
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside "module.*"
# Names that a module of two networks gives the average: "model_ema.*", "ema_model.*", "ema.*", and
# in ema-pytorch "ema.ema_model.*"; and the names of counters beside it.
AVERAGED = re.compile(r"(?:^|_)(?:ema|swa|averaged?)(?:_|$)")
COUNTERS = (COUNTER, "initted", "step", "decay", "num_updates")
BLOCKED = re.compile(r"GLOBAL ([\w.]+)")  # in the messages of torch's safe unpickler

_allowed_names_lock = threading.Lock()  # torch has one list of allowed names for the process


class Inert:
    """Replaces an object that was saved beside the weights; ignores all arguments."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class InertArray(Inert):
    """Replaces a NumPy array."""


class InertType(Inert):
    """Replaces a type in the description of a NumPy number or array."""


# The types that may be saved beside weights, and what replaces them: the arguments of a run, with
# paths and times, and NumPy's numbers and arrays, such as the state of its generator.
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
]
for _module in ("pathlib", "pathlib._local"):  # the latter of Python 3.13
    for _kind in ("Posix", "Windows", "PurePosix", "PureWindows"):
        ALLOWED.append((Inert, f"{_module}.{_kind}Path"))


@dataclass(frozen=True)
class Entry:
    """The place of a set of weights in a file.

    name      its key, or keys: "state_dict", "model.module"; "" for the file itself
    kind      "ema" for a moving average, else "raw"
    others    names of other sets in the file, which are not read; of a list, with "[]" at the end
    metadata  texts that the trainer wrote beside them: the run's "name", timm's "arch"
    archive   whether the file is a TorchScript archive
    """

    name: str = ""
    kind: Weights = "raw"
    others: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    archive: bool = False


WeightSet = tuple[dict[str, Tensor], Entry]


def load(path: Path, mmap: bool) -> Any:
    """The content of a PyTorch file, read by torch's weights-only unpickler, with objects of the
    types in `ALLOWED` replaced. Raises what torch raises."""
    with _allowed_names_lock, torch.serialization.safe_globals(ALLOWED):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def blocked(error: Exception) -> str:
    """The name that the safe unpickler refused; "" if it refused something else."""
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


def unwrap(loaded: Any, path: Path, wanted: Weights | None = None) -> WeightSet:
    """The weights in the content of a file, and where they are. Of two sets the wanted one, by
    default the average.

    Raises CheckpointError if there are none, if "raw" is wanted and there is the average alone, and
    for a set with something in it that is no tensor.
    """
    sets = list(_sets(loaded))
    if not sets:
        raise CheckpointError(f"{path} {_why_no_weights(loaded)}")
    preferred = [pair for pair in sets if pair[1].kind == (wanted or "ema")]
    tensors, entry = (preferred or sets)[0]
    if wanted == "raw" and entry.kind == "ema":
        raise CheckpointError(missing(path, "raw"))
    if "ds_version" in loaded and any(tensor.numel() == 0 for tensor in tensors.values()):
        raise CheckpointError(
            f"{path} is one part of a DeepSpeed ZeRO-3 checkpoint, without the weights: run "
            "zero_to_fp32.py, which is in the folder above, and give what it writes"
        )
    others = [other.name for _, other in sets if other is not entry]
    others += _unknown_copies(loaded, tensors, {entry.name, *others})
    return tensors, replace(entry, others=tuple(others), metadata=_texts(loaded))


def missing(path: Path, wanted: Weights) -> str:
    """The error for a file without the wanted set."""
    has = "no moving average of its weights" if wanted == "ema" else "the moving average alone"
    return f'{path} holds {has}; leave out weights="{wanted}" (--weights)'


def described(file: str, entry: Entry) -> str:
    """A file and the place of the weights in it, for `patchword info`."""
    details = [entry.name] if entry.name else []
    if entry.kind == "ema":
        details.append("the moving average")
    if entry.others:
        details.append(f"not read: {', '.join(entry.others)}".replace("[]", " (a list)"))
    return f"{file} ({'; '.join(details)})" if details else file


def warn_of_others(file: str, entry: Entry) -> None:
    """Warn which of several sets of weights is read, and how to read another."""
    if not entry.others:
        return
    kind = "moving average" if entry.kind == "ema" else "set"
    dicts = [name for name in entry.others if not name.endswith("[]")]
    if entry.kind == "ema":
        advice = 'weights="raw" (--weights raw) reads the weights themselves'
    elif dicts:
        keys = "".join(f'["{key}"]' for key in dicts[0].split("."))
        advice = (
            f"to read it, save it in a file of its own, "
            f'torch.save(torch.load("{file}"){keys}, "{dicts[0]}.pt")'
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
    """The names of one network, mapped to the names inside it, and where it is in the file.

    A module may hold two networks, the weights and their average: one of them is chosen, by default
    the average. If there is no average, all names are returned.

    names: of all tensors in the file. entry: where they are.
    """
    for prefix in _average_prefixes(names):
        attribute = prefix.split(".")[0]
        average = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        average = {name: inner for name, inner in average.items() if inner not in COUNTERS}
        raw = [name for name in names if not name.startswith(f"{attribute}.")]
        if not raw or sorted(map(_plain, average.values())) != sorted(map(_plain, raw)):
            continue
        above = f"{entry.name}." if entry.name else ""
        raw_attributes = {name.split(".")[0] for name in raw}
        average_name = f"{above}{prefix.removesuffix('.')}"
        raw_name = f"{above}{raw_attributes.pop() if len(raw_attributes) == 1 else '*'}"
        if wanted == "raw":
            others = (average_name, *entry.others)
            return {name: name for name in raw}, replace(entry, name=raw_name, others=others)
        others = (raw_name, *entry.others)
        return average, replace(entry, name=average_name, kind="ema", others=others)
    return {name: name for name in names}, entry


def bare_names(names: Collection[str], where: Path) -> dict[str, str]:
    """Each name of a set of weights, and that name without what wrappers insert.

    Raises CheckpointError if two names become one.
    """
    stored = list(names)
    others = [name for name in stored if name != COUNTER]
    if others and all(name.startswith("module.") for name in others):
        stored = others
    bare = [WRAPPERS.sub("", name) for name in stored]
    while bare and all(name.startswith(ATTRIBUTE) for name in bare):
        bare = [name.removeprefix(ATTRIBUTE) for name in bare]
    if len(set(bare)) < len(stored):
        twice = next(name for name in bare if bare.count(name) > 1)
        raise CheckpointError(f"{where} has {twice} twice, in two wrappers of the same module")
    return dict(zip(stored, bare, strict=True))


def _sets(loaded: Any, entry: Entry = Entry(), depth: int = 0) -> Iterator[WeightSet]:
    """Every dict of tensors under the keys that trainers use, in the order of these keys."""
    if not isinstance(loaded, dict) or not loaded or depth > MAX_DEPTH:
        return
    if all(isinstance(value, Tensor) for value in loaded.values()):
        yield {str(name): tensor for name, tensor in loaded.items()}, entry
        return
    averages: tuple[str, ...] = AVERAGE_KEYS
    if isinstance(loaded.get(LIGHTNING_RAW_KEY), dict):
        averages = (*averages, "state_dict")
    for key in dict.fromkeys((*averages, *RAW_KEYS, LIGHTNING_RAW_KEY)):
        name = f"{entry.name}.{key}" if entry.name else key
        kind: Weights = "ema" if key in averages else entry.kind
        yield from _sets(loaded.get(key), Entry(name, kind), depth + 1)


def _unknown_copies(
    loaded: dict[Any, Any], tensors: dict[str, Tensor], known: set[str]
) -> list[str]:
    """The places in the file that hold most of the tensors once more, under a key that is not
    known; "[]" after that of a list.

    Averages are often of the parameters alone, inside an object of their own ("ema.shadow"), with
    the names of another wrapper, or in a list without names ("ema.shadow_params").
    """
    shapes = {_plain(name): tensor.shape for name, tensor in tensors.items()}
    return [
        f"{name}[]" if isinstance(value, list) else name
        for name, value in _containers(loaded)
        if name not in known and _repeats(value, shapes)
    ]


def _average_prefixes(names: Collection[str]) -> list[str]:
    """Possible prefixes of the names of an average, the longer ones first."""
    prefixes = set()
    for name in names:
        parts = name.split(".")
        if AVERAGED.search(parts[0]):
            prefixes.add(f"{parts[0]}.")
            if len(parts) > 2 and AVERAGED.search(parts[1]):
                prefixes.add(f"{parts[0]}.{parts[1]}.")
    return sorted(prefixes, key=lambda prefix: (-prefix.count("."), prefix))


def _plain(name: object) -> str:
    """A name without what wrappers insert and a LightningModule's attribute."""
    return WRAPPERS.sub("", str(name)).removeprefix(ATTRIBUTE)


def _containers(
    loaded: dict[Any, Any], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Every dict and list inside dicts, with its keys: "ema", "ema.shadow"."""
    for key, value in loaded.items():
        name = f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            yield name, value
        if isinstance(value, dict) and depth < MAX_DEPTH:
            yield from _containers(value, f"{name}.", depth + 1)


def _repeats(value: dict[Any, Any] | list[Any], shapes: dict[str, torch.Size]) -> bool:
    """Whether a dict or a list holds tensors of these shapes, at least half as many."""
    items = list(value.values()) if isinstance(value, dict) else value
    tensors = [item for item in items if isinstance(item, Tensor)]
    if 2 * len(tensors) < max(len(shapes), 2):
        return False
    if isinstance(value, dict):
        named = {_plain(key): v.shape for key, v in value.items() if isinstance(v, Tensor)}
        same = sum(shapes.get(name) == shape for name, shape in named.items())
        return 2 * same >= len(shapes)
    return Counter(tensor.shape for tensor in tensors) <= Counter(shapes.values())


def _texts(loaded: Any) -> dict[str, str]:
    """The texts that a trainer wrote beside the weights."""
    items = loaded.items() if isinstance(loaded, dict) else ()
    return {str(k): v for k, v in items if isinstance(v, str)}


def _type_of(value: Any) -> str:
    """The type of a value, in words."""
    if isinstance(value, InertArray):
        return "a NumPy array"
    return "another object" if isinstance(value, Inert) else f"a {type(value).__name__}"


def _why_no_weights(loaded: Any) -> str:
    """What a file without weights is instead, as the rest of a sentence."""
    if not isinstance(loaded, dict):
        return f"is not a dict of tensors but {_type_of(loaded)}"
    if "param_groups" in loaded and "state" in loaded:
        return (
            "is the state of an optimizer, which holds no weights: give the file of the model that "
            "was saved beside it, or its folder"
        )
    for key in ("", *AVERAGE_KEYS, *RAW_KEYS):
        inner = loaded.get(key) if key else loaded
        if isinstance(inner, dict) and any(isinstance(v, Tensor) for v in inner.values()):
            other = next(k for k, v in inner.items() if not isinstance(v, Tensor))
            where = f'its "{key}"' if key else "it"
            return (
                f"is not a dict of tensors: {where} holds tensors and {other!r}, which is "
                f"{_type_of(inner[other])}; save the state dict alone"
            )
        if isinstance(inner, dict) and any(isinstance(v, InertArray) for v in inner.values()):
            return "holds NumPy arrays where tensors are read: save torch.from_numpy(array) of each"
    keys = ", ".join(repr(str(key)) for key in list(loaded)[:10]) or "nothing"
    known = ", ".join(map(repr, (*RAW_KEYS, *AVERAGE_KEYS)))
    return (
        f"is not a dict of tensors, nor has it one under a name that trainers use ({known}); it "
        f"holds {keys}: save the state dict that you mean by itself"
    )
