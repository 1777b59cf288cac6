"""Reads and writes the scope of a model, what it was trained on, as two files beside its weights:
words and limits in scope.json; in scope.safetensors the means and bases of its images' vectors, and
the classifiers that tell other images apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from patchword.atomic_write import replacing, write
from patchword.errors import CheckpointError
from patchword.scope import Boundary, Domain, Rewording, Scope

TEXT_FILE, VECTOR_FILE = "scope.json", "scope.safetensors"
DAMAGE = (  # errors at damaged files
    OSError, ValueError, KeyError, TypeError, re.error, RecursionError, safetensors.SafetensorError,
)  # fmt: skip


def read(folder: Path) -> Scope | None:
    """The scope of the model in a folder; None without one. Raises CheckpointError if it is
    damaged."""
    if not (folder / TEXT_FILE).is_file():
        return None
    try:
        stated = json.loads((folder / TEXT_FILE).read_text(encoding="utf-8"))
        vectors = safetensors.numpy.load_file(folder / VECTOR_FILE)
        domains = tuple(
            Domain(
                name,
                vectors[f"{name}.mean"],
                vectors[f"{name}.basis"],
                float(limit),
                stated.get("called", {}).get(name, name),
            )
            for name, limit in stated["limits"].items()
        )
        return Scope(
            stated["knows"],
            domains,
            frozenset(stated["words"]),
            dict(stated["questions"]),
            dict(stated["slots"]),
            tuple((re.compile(of), to) for of, to in stated.get("substitutions", ())),
            tuple(
                Rewording(re.compile(pattern), known, bool(opposite))
                for pattern, known, opposite in stated.get("rewordings", ())
            ),
            _boundary(vectors, stated, "boundary"),
            _boundary(vectors, stated, "inner"),
            dict(stated.get("asked_of", {})),
            {word: name for name, words in stated.get("words_of", {}).items() for word in words},
            frozenset(stated.get("unplaced", ())),
        )
    except DAMAGE as error:
        raise CheckpointError(
            f"{folder / TEXT_FILE} and {VECTOR_FILE} are not the scope of a model ({error}); "
            "take both from where the model came from, or delete both"
        ) from error


def _boundary(
    vectors: Mapping[str, NDArray[np.float32]], stated: Mapping[str, Any], name: str
) -> Boundary | None:
    if name not in stated:
        return None
    return Boundary(
        vectors[f"{name}.weight"],
        vectors[f"{name}.bias"],
        vectors[f"{name}.out"],
        float(stated[name]),
        str(stated["layer"]) if name == "inner" else "",
    )


def save(scope: Scope | None, folder: Path) -> None:
    """Write the files of a scope; for None, delete those that are there."""
    if scope is None:
        for name in (TEXT_FILE, VECTOR_FILE):
            (folder / name).unlink(missing_ok=True)
        return
    vectors = {}
    words_of: dict[str, list[str]] = {}  # the words of one domain alone, by its name
    for word, name in sorted(scope.words_of.items()):
        words_of.setdefault(name, []).append(word)
    for domain in scope.domains:
        vectors[f"{domain.name}.mean"] = domain.mean
        vectors[f"{domain.name}.basis"] = domain.basis
    limits: dict[str, float | str] = {}
    for name, boundary in (("boundary", scope.boundary), ("inner", scope.inner)):
        if boundary is not None:
            vectors[f"{name}.weight"] = boundary.weight
            vectors[f"{name}.bias"] = boundary.bias
            vectors[f"{name}.out"] = boundary.out
            limits[name] = boundary.limit
            if boundary.layer:
                limits["layer"] = boundary.layer
    # safetensors writes the memory of an array as it is, whatever its order.
    contiguous = {name: np.ascontiguousarray(values) for name, values in vectors.items()}
    with replacing(folder / VECTOR_FILE) as part:
        safetensors.numpy.save_file(contiguous, part)
    stated = {
        "knows": scope.knows,
        "limits": {domain.name: domain.limit for domain in scope.domains},
        "called": {domain.name: domain.called for domain in scope.domains},
        **limits,
        "words": sorted(scope.words),
        "words_of": words_of,
        "unplaced": sorted(scope.unplaced),
        "questions": dict(sorted(scope.questions.items())),
        "asked_of": dict(sorted(scope.asked_of.items())),
        "slots": dict(sorted(scope.slots.items())),
        "substitutions": [[pattern.pattern, to] for pattern, to in scope.substitutions],
        "rewordings": [[rule.pattern.pattern, *rule[1:]] for rule in scope.rewordings],
    }
    write(folder / TEXT_FILE, json.dumps(stated, indent=1, ensure_ascii=False) + "\n")
