"""Finds and opens a model, embedded, at a path, on the hub or in another store, and its adapter."""

from __future__ import annotations

import importlib.resources
import os
from dataclasses import replace
from pathlib import Path

from patchword.checkpoints import adapters, hub, layouts, other_hubs
from patchword.checkpoints.read import Checkpoint, open_path
from patchword.checkpoints.weight_files import SUFFIXES, preferred
from patchword.checkpoints.wrappers import Weights
from patchword.errors import CheckpointError, warn

EMBEDDED = ("demo", "demo-blip")  # the models that travel in the package: a CLIP and a BLIP
EXPORT = "patchword.json"  # a file in each folder that `patchword.export` wrote
NO_ADAPTER = f"{layouts.ADAPTER_CONFIG}, but no {' or '.join(layouts.ADAPTER_WEIGHTS)}"


def is_export(source: object) -> bool:
    """Whether `source` is a folder that `patchword.export` wrote, and not a checkpoint."""
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source) or source in EMBEDDED:
        return False
    return (Path(source).expanduser() / EXPORT).is_file()


def locate(
    source: str,
    token: str | None = None,
    subfolder: str | None = None,
    adapter: str | None = None,
    weights: Weights | None = None,
) -> Checkpoint:
    """The opened model that the user named, with its adapter merged into its weights.

    subfolder: the folder inside with the model. adapter: a folder or hub id of an adapter, instead
    of the one beside the weights. weights: which of two sets in a file. Raises CheckpointError if
    something does not exist.
    """
    path, name = place(source, token, subfolder)
    if adapter is None:
        return _opened(path, name, token, weights)
    folder = _adapter_folder(place(adapter, token)[0])
    file = adapters.find(folder)
    if file is None:
        needed = f"{layouts.ADAPTER_CONFIG} and {' or '.join(layouts.ADAPTER_WEIGHTS)}"
        raise CheckpointError(f"{adapter} is no adapter, which is {needed}")
    if path.is_dir() and adapters.find(path) and not path.samefile(folder):
        raise CheckpointError(f"{source} has an adapter of its own; give a base without one")
    return adapters.merge(open_path(path, name, weights), file)


def place(
    source: str, token: str | None = None, subfolder: str | None = None, revision: str | None = None
) -> tuple[Path, str]:
    """The local folder or file of the model that the user named, downloaded if necessary, and the
    name by which another process can find it."""
    if source in EMBEDDED:
        path = Path(str(importlib.resources.files("patchword"))) / "assets" / source
        name = source
    elif Path(source).expanduser().exists():
        path = hub.snapshot(Path(source).expanduser())
        name = str(path.resolve())
    elif other_hubs.is_url(source):
        path, name = other_hubs.fetch(source, token, subfolder), source
    elif hub.is_id(source):
        path, name = hub.fetch(source, token, subfolder, revision), source
    else:
        raise CheckpointError(
            f"{source}: no such file or folder, nor is it a hub id like organisation/name; "
            f'the embedded models are "{EMBEDDED[0]}" and "{EMBEDDED[1]}"'
        )
    if path.is_dir():
        return layouts.local_model_folder(path, name, subfolder), name
    if subfolder is not None:
        raise CheckpointError(f"{name} is a file and has no folder {subfolder}")
    return path, name


def _adapter_folder(path: Path) -> Path:
    """The folder of an adapter that may be named by its file; any other path as it is."""
    return path.parent if path.name in layouts.ADAPTER_WEIGHTS else path


def _opened(
    path: Path,
    name: str,
    token: str | None,
    weights: Weights | None,
    above: tuple[Path, ...] = (),
) -> Checkpoint:
    """The weights of a path, with the adapter in them or beside them merged.

    above: adapters whose base this is.
    """
    path = _adapter_folder(path)
    if is_export(path):  # reached only where weights are wanted, as for training
        raise CheckpointError(
            f"{name} is an exported model, graphs without weights; give the model that it was "
            "exported from"
        )
    adapter = adapters.find(path if path.is_dir() else path.parent)
    if path.is_dir() and adapter is not None:
        return _on_base(adapter, name, token, weights, above)
    has_config = path.is_dir() and (path / layouts.ADAPTER_CONFIG).is_file()
    if has_config and not any(file.name.endswith(SUFFIXES) for file in path.iterdir()):
        raise CheckpointError(f"{name} has {NO_ADAPTER}")
    opened = adapters.merge_inside(open_path(path, name, weights))
    if has_config and opened.adapter is None:
        raise CheckpointError(f"{name} has {NO_ADAPTER}, and none is in {opened.weights.name}")
    if adapter is not None and opened.adapter is None:
        warn(
            f"{path} is loaded without {adapter.name} beside it; give the folder, and it is merged"
        )
    return opened


def _on_base(
    file: Path, name: str, token: str | None, weights: Weights | None, above: tuple[Path, ...]
) -> Checkpoint:
    """An adapter, merged into the weights beside it, as in transformers, else into the base that
    its config names."""
    folder = file.parent
    lora = adapters.read_config(folder)
    if preferred([p.name for p in folder.iterdir()]) is not None:
        if lora.base is not None and not _is_here(lora.base, folder):
            warn(
                f"{name} holds weights, and an adapter made on {lora.base}: it is merged into the "
                f"weights beside it; for the other base load({lora.base!r}, adapter={name!r})",
            )
        return adapters.merge(open_path(folder, name, weights), file)
    advice = f"give the base, with this as its adapter: load(BASE, adapter={name!r})"
    if lora.base is None:
        raise CheckpointError(f"{lora.where} names no base_model_name_or_path; {advice}")
    if file in above:
        raise CheckpointError(f"{name} is an adapter whose base is itself; {advice}")
    try:
        path, base_name = place(_base_path(lora.base, folder), token, revision=lora.revision)
    except CheckpointError as error:
        raise CheckpointError(
            f"{name} is an adapter whose base, {lora.base}, cannot be loaded ({error}); {advice}"
        ) from error
    base = _opened(path, base_name, token, weights, (*above, file))
    return replace(adapters.merge(base, file), name=name)


def _base_path(base: str, folder: Path) -> str:
    """The base that an adapter names; its path may be relative to the adapter's folder."""
    beside = folder / base
    return str(beside) if not Path(base).exists() and beside.exists() else base


def _is_here(base: str, folder: Path) -> bool:
    path = Path(_base_path(base, folder)).expanduser()
    return path.is_dir() and os.path.samefile(path, folder)
