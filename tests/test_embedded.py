"""patchword inside of other programs: what they have told torch and Python stays as it was, and
changes no answer."""

import copy
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchword
from patchword.engines.torch_engine import TorchEngine
from patchword.inspect.memory import nearest
from patchword.inspect.mutual import mutual_scores
from patchword.inspect.rotations import rotated
from patchword.nn.inference_mode import evaluation
from patchword.tasks.tiled import told_elsewhere

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
ROWS = torch.nn.functional.normalize(torch.from_numpy(PIXELS[0]).float(), dim=1)

pytestmark = pytest.mark.filterwarnings("ignore::patchword.ScopeWarning")


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def other_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_type(torch.float64),
    "another device": other_device,
}
JOBS: dict[str, Callable[[patchword.Model, patchword.Model], Any]] = {
    "embed": lambda model, blip: model.embed_images(PIXELS),
    "texts": lambda model, blip: model.embed_texts(["a red ring", "a hat"]),
    "heatmap": lambda model, blip: model.heatmap(PIXELS, "a hat").maps,
    "window": lambda model, blip: model.heatmap(PIXELS, "a hat", window=40).maps,
    "chefer": lambda model, blip: model.heatmap(PIXELS, "a hat", method="chefer").maps,
    "rollout": lambda model, blip: model.attention(PIXELS, rollout=True).maps,
    "gradcam": lambda model, blip: blip.heatmap(PIXELS, "a hat", method="gradcam").maps,
    "match": lambda model, blip: blip.match(PIXELS, ["a hat", "a ring"]).probabilities,
    "sampled": lambda model, blip: blip.caption(PIXELS, temperature=1.0)[0].text,
    "inspect": lambda model, blip: (
        patchword.inspector(model, [PIXELS, PIXELS[::-1]]).inspect(PIXELS[:, ::-1])[0].grid
    ),
    "nearest": lambda model, blip: nearest(ROWS, ROWS[:20], 2)[0],
    "mutual": lambda model, blip: mutual_scores([ROWS[:20], ROWS[20:]], 1.0)[0],
    "rotated": lambda model, blip: list(rotated(PIXELS))[1],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def expected(demo: patchword.Model, blip: patchword.Model) -> dict[str, Any]:
    return {name: np.asarray(job(demo, blip)) for name, job in JOBS.items()}


@pytest.mark.parametrize("state", STATES)
def test_what_a_program_has_told_torch_changes_no_answer(
    state: str, demo: patchword.Model, blip: patchword.Model, expected: dict[str, Any]
) -> None:
    used = ("embed", "texts", "heatmap", "rollout", "inspect") if state == "autocast" else JOBS
    for name in used:
        with STATES[state]():
            found = JOBS[name](demo, blip)
        assert np.array_equal(np.asarray(found), expected[name]), name


def test_training_mode_changes_no_answer_and_stays_on(
    demo: patchword.Model, blip: patchword.Model, expected: dict[str, Any]
) -> None:
    models = copy.deepcopy((demo, blip))
    for model in models:
        model.network.train()
        model.network.get_submodule("text").eval()
    before = [
        (module, module.training, {k: v.clone() for k, v in module.named_buffers(recurse=False)})
        for model in models
        for module in model.network.modules()
    ]
    for name, job in JOBS.items():
        assert np.array_equal(np.asarray(job(*models)), expected[name]), name
    for module, training, buffers in before:
        assert module.training == training
        assert all(torch.equal(value, module.get_buffer(k)) for k, value in buffers.items())


def test_a_copy_of_a_compiled_model_runs_its_own_weights(
    demo: patchword.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda method, **_: lambda ids: method(ids))
    engine = TorchEngine(copy.deepcopy(demo.own_network), compiled=True)
    ids = np.ones((1, 4), np.int64)
    rows = engine.encode_text(ids)
    copied = copy.deepcopy(engine)
    with torch.no_grad():
        for weight in copied.network.parameters():
            weight.zero_()
    assert not copied.encode_text(ids).any()
    assert np.array_equal(pickle.loads(pickle.dumps(engine)).encode_text(ids), rows)


def test_a_thread_that_is_done_leaves_evaluation_mode_to_the_others() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3)).train()
    first, second = evaluation(network), evaluation(network)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not network[0].training
    second.__exit__(None, None, None)
    assert network.training
    assert network[0].training


def test_a_model_loaded_in_inference_mode_has_gradients() -> None:
    with torch.inference_mode():
        model = patchword.load("demo")
    model.heatmap(PIXELS, "a hat", method="legrad")
    with torch.inference_mode():
        assert not model.to("bfloat16").network.state_dict()["logit_scale"].is_inference()


def test_vectors_of_labels_are_not_kept_as_autocast_rounds_them(demo: patchword.Model) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        kept = demo.classify(PIXELS, ["hat", "ring"])
    demo.network  # noqa: B018  which somebody may change: the cache is not asked
    assert demo.classify(PIXELS, ["hat", "ring"]) == kept


def test_warnings_that_are_told_elsewhere_leave_the_filters_of_other_threads() -> None:
    before = list(warnings.filters)
    first, second = copy_context(), copy_context()
    one, two = told_elsewhere(first=False), told_elsewhere(first=False)
    first.run(one.__enter__)
    second.run(two.__enter__)
    first.run(one.__exit__, None, None, None)
    second.run(two.__exit__, None, None, None)
    assert warnings.filters == before


def test_a_user_without_a_home_is_answered(
    demo: patchword.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("PATCHWORD_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert len(demo.classify(PIXELS, ["hat", "ring"])[0]) == 2
    patchword.load("demo")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_process_that_is_forked_after_an_answer_answers_too(demo: patchword.Model) -> None:
    """OpenMP's threads are not there, and torch would wait for them."""
    before = torch.get_num_threads()
    here, there = multiprocessing.Pipe()

    def ask() -> None:
        there.send(demo.embed_images([PIXELS] * 4))

    torch.set_num_threads(2)
    try:
        expected = demo.embed_images([PIXELS] * 4)
        child = multiprocessing.get_context("fork").Process(target=ask)
        child.start()
        try:
            assert here.poll(60), "it waits without end"
            assert np.allclose(here.recv(), expected, atol=1e-5)
        finally:
            child.kill()
            child.join()
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_what_is_forked_in_the_middle_of_an_answer_trains_on() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3)).train()
    with evaluation(network):
        child = multiprocessing.get_context("fork").Process(
            target=lambda: os._exit(0 if network.training else 1)
        )
        child.start()
        child.join(60)
    assert child.exitcode == 0
    assert network.training
