"""Every argument of every public function and method, given what it may be and what it may not.

Signatures are looked at, so that an argument that is added is tried too: `GOOD` must know a value
for it if it has no default. What an annotation allows is decided here, and not by the checks under
test: what it does not allow must end in an error of patchword's own that names something to do.
"""

import collections.abc
import functools
import inspect
import math
import operator
import timeit
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import tiny_bundle, tiny_clip, tiny_vit

import patchword
from patchword import bundle
from patchword import models as networks
from patchword.api.model import with_methods
from patchword.images.tensors import Tensor as TensorLike
from patchword.index.schema import id_of
from patchword.options import SYNONYMS, checked

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
PLUMBING = ("open", "reader", "run_each", "tensor", "embed_rows")  # not of the public face
WRITERS = ("caption", "ask", "match", "rerank")  # jobs of the embedded BLIP
PLACES = ("heatmap", "segment", "locate")  # jobs that encode each image more than once


class Anything:
    """A class, which can be called with whatever there is."""

    def __init__(self, *given: Any) -> None:
        pass


class Word(str):
    """Text that is more than text."""


ODD: dict[str, Callable[[], Any]] = {  # made anew for each call: a generator is empty after one
    "None": lambda: None,
    "object": object,
    "int": lambda: 3,
    "zero": lambda: 0,
    "negative": lambda: -1,
    "large": lambda: 10**12,
    "huge": lambda: 10**30,
    "numpy int": lambda: np.int64(2),
    "float": lambda: 0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "numpy float": lambda: np.float32(0.25),
    "True": lambda: True,
    "numpy bool": lambda: np.True_,
    "text": lambda: "hat",
    "number as text": lambda: "3",
    "empty text": lambda: "",
    "subclass of str": lambda: Word("hat"),
    "null byte": lambda: "a\0b",
    "bytes": lambda: b"hat",
    "empty list": list,
    "list of None": lambda: [None],
    "list of texts": lambda: ["hat", "shoe"],
    "list of one number": lambda: [3],
    "nested list": lambda: [[1], [1, 2]],
    "generator": lambda: (word for word in ("hat", "shoe")),
    "array of texts": lambda: np.array(["hat", "shoe"]),
    "array of no axes": lambda: np.array("hat"),
    "array of floats": lambda: np.array([0.5, math.nan]),
    "tensor": lambda: torch.zeros(3, requires_grad=True),
    "set": lambda: {"hat", "shoe"},
    "dict": lambda: {"hat": 1},
    "keys of a dict": lambda: {"hat": 1}.keys(),
    "class": lambda: Anything,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("arguments")
    Image.fromarray(PIXELS).save(place / "photo.png")
    patchword.open_index(place / "index").add(place / "photo.png", patchword.load("demo"))
    return place


@pytest.fixture(scope="module")
def models() -> dict[str, patchword.Model]:
    loaded = {name: patchword.load(name) for name in ("demo", "demo-blip")}
    config = tiny_vit("patches")
    config = replace(config, vision=replace(config.vision, depth=1))
    return loaded | {
        "tiny": with_methods(bundle.make(networks.build(config), config, None, "tiny")),
        "tiny CLIP": with_methods(tiny_bundle(tiny_clip())),
    }


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written by accident, and label vectors, lie in a folder of the test; graphs, which
    take long to write, nowhere."""
    monkeypatch.setattr("patchword.exporting.folder.write_graphs", lambda *_: ({}, {}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def methods(kind: type) -> list[str]:
    return [
        f"{kind.__name__}.{name}"
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in PLUMBING
    ]


RESULTS = ("Heatmap", "AttentionMap", "Segmentation", "Located")
PUBLIC = [
    *(name for name in patchword.__all__ if inspect.isfunction(getattr(patchword, name))),
    *methods(patchword.Model),
    *methods(patchword.Index),
    *(each for name in RESULTS for each in methods(getattr(patchword, name))),
]


def bound(name: str, place: Path, models: dict[str, patchword.Model]) -> Callable[..., Any]:
    """The function or method of that name, of an object that exists."""
    owner, _, method = name.rpartition(".")
    kind = "demo-blip" if method in WRITERS else "tiny CLIP" if method in PLACES else "demo"
    model = models[kind]
    objects: dict[str, Callable[[], Any]] = {
        "": lambda: patchword,
        "Model": lambda: model,
        "Index": lambda: patchword.open_index(place / "index"),
        "Heatmap": lambda: models["demo"].heatmap(PIXELS, ["hat"]),
        "AttentionMap": lambda: models["demo"].attention(PIXELS),
        "Located": lambda: models["demo"].locate(PIXELS, ["hat"], present=0),
        "Segmentation": lambda: models["demo"].segment(PIXELS, ["hat", "shoe"]),
    }
    return getattr(objects[owner](), method)  # type: ignore[no-any-return]


def good(name: str, place: Path, models: dict[str, patchword.Model]) -> dict[str, Any]:
    """A value for each argument that has no default."""
    values: dict[str, Any] = {
        "source": "demo",
        "target": "cpu",
        "image": PIXELS,
        "images": [PIXELS],
        "sources": [PIXELS],
        "texts": ["hat"],
        "text": "hat",
        "labels": ["hat", "shoe"],
        "questions": "what is it?",
        "hits": [],
        "model": models["tiny" if name == "export" else "demo"],  # whose receipt takes less
        "path": place / "saved.png" if name in methods_of_results() else place / "index",
        "paths": [place / "photo.png"],
        "folder": place / "model",
        "query": "hat",
        "queries": ["hat"],
        "choose": lambda vector: ["hat"],
        "region": patchword.Region("hat", 0.5, (0, 0, 4, 4), 16),
        "height": 8,
        "width": 8,
        "number": id_of(str(place / "photo.png")),
        "ids": [id_of(str(place / "photo.png"))],
        "column": "caption",
        "where": "width > 1",
        "columns": {"price": [1]},
        "table": place / "about.csv",
        "vectors": np.ones((1, models["demo"].dim), np.float32),
    }
    needed = {"heatmap": ("texts",), "classify": ("labels",), "search": ("query",)}
    signature = inspect.signature(operator.attrgetter(name)(patchword))
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    extra = needed.get(name.rpartition(".")[2], ())
    names = [p.name for p in parameters if p.default is p.empty or p.name in extra]
    return {each: values[each] for each in names}


def methods_of_results() -> list[str]:
    return [each for name in RESULTS for each in methods(getattr(patchword, name))]


def arguments() -> Iterator[tuple[str, str]]:
    for name in PUBLIC:
        function = operator.attrgetter(name)(patchword)
        for parameter in inspect.signature(function).parameters:
            if parameter != "self":
                yield name, parameter


def allowed(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotation; a collection of texts is one in any order that is kept,
    and images are what they are by tests of their own."""
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if isinstance(hint, typing.TypeVar):
        return allowed(hint.__bound__, value)
    if origin in (typing.Union, types.UnionType):
        return any(allowed(part, value) for part in parts)
    if origin is bool:
        return isinstance(value, (bool, np.bool_))
    if origin is int:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if origin is float:
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if origin in (collections.abc.Sequence, collections.abc.Iterable):
        if isinstance(value, (str, bytes, dict)) or not isinstance(value, collections.abc.Iterable):
            return False
        if isinstance(value, set) and origin is collections.abc.Sequence:
            return False
        if getattr(value, "ndim", 1) == 0:
            return False
        return all(allowed(parts[0], each) for each in value)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is typing.Any:
        return True
    if origin is TensorLike:  # PyTorch's tensors, without importing torch
        return isinstance(value, torch.Tensor)
    return isinstance(value, origin)


@pytest.mark.parametrize(("name", "argument"), list(arguments()))
def test_every_argument_given_what_it_may_not_be(
    name: str, argument: str, place: Path, models: dict[str, patchword.Model]
) -> None:
    function = bound(name, place, models)
    results = {each: getattr(patchword, each) for each in patchword.__all__}  # imported when needed
    hint = typing.get_type_hints(inspect.unwrap(function), localns=results)[argument]
    given = good(name, place, models)
    wrong: list[str] = []
    for odd, make in ODD.items():
        try:
            found = function(**{**given, argument: make()})
            for _, row in found if isinstance(found, Iterator) else ():
                if isinstance(row, patchword.ImageError):
                    raise row
        except patchword.PatchwordError as error:
            if len(str(error)) > 1000:
                wrong.append(f"{odd}: an error of {len(str(error))} characters")
        except Exception as error:
            wrong.append(f"{odd}: {type(error).__name__}: {error}")
        else:
            if not allowed(hint, make()):
                wrong.append(f"{odd}: accepted")
    assert wrong == []


def test_what_is_read_becomes_plain() -> None:
    @checked
    def given(
        count: int, share: float, flag: bool, text: str, texts: str | Sequence[str]
    ) -> tuple[Any, ...]:
        return count, share, flag, text, texts

    found = given(np.int64(2), np.float32(0.25), np.True_, Word("hat"), np.array(["a", "b"]))
    assert found == (2, 0.25, True, "hat", ["a", "b"])
    assert [type(each) for each in found] == [int, float, bool, str, list]
    assert {type(text) for text in found[-1]} == {str}
    assert given(1, 1, False, "", texts=(text for text in ("a", Word("b"))))[-1] == ["a", "b"]


def test_labels_of_an_array_come_back_as_plain_texts(models: dict[str, patchword.Model]) -> None:
    (scores,) = models["demo"].classify(PIXELS, np.array(["hat", "shoe"]))
    assert {type(score.label) for score in scores} == {str}
    assert {type(score.probability) for score in scores} == {float}


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("caption", "num_beams", "it is called beams here"),
        ("caption", "max_new_tokens", "it is called max_length here"),
        ("caption", "num_return_sequences", "it is called count here"),
        ("caption", "do_sample", "texts are sampled where temperature, top_k or top_p is given"),
        ("classify", "candidate_labels", "it is called labels here"),
        ("classify", "hypothesis_template", "it is called templates here"),
        ("embed_texts", "return_tensors", "torch.from_numpy"),
        ("embed_texts", "padding", "texts are padded"),
        ("embed_images", "normalize", "vectors always have length 1"),
        ("heatmap", "labels", "it has image, texts"),
        ("attention", "num_beams", "it has image, layer"),
    ],
)
def test_names_of_other_libraries(
    name: str, option: str, said: str, models: dict[str, patchword.Model]
) -> None:
    with pytest.raises(patchword.UnsupportedError, match=f"has no option {option}.*{said}"):
        getattr(models["demo"], name)([], **{option: 1})


def test_names_of_other_libraries_lead_to_options_that_exist() -> None:
    known = {argument for _, argument in arguments()}
    assert set(SYNONYMS.values()) <= known


def test_checking_costs_next_to_nothing(models: dict[str, patchword.Model]) -> None:
    """A call of the smallest job takes some milliseconds; to check all it is given, a hundredth."""

    @checked
    def job(
        image: Any,
        texts: str | Sequence[str],
        layer: int | None = None,
        share: float = 0.5,
        flag: bool = False,
    ) -> None:
        pass

    def took(function: Callable[..., None]) -> float:
        call = functools.partial(function, PIXELS, ["hat"] * 10, layer=-1, share=0.25, flag=True)
        return min(timeit.repeat(call, number=200, repeat=5)) / 200

    assert took(job) - took(inspect.unwrap(job)) < 100e-6  # seconds
