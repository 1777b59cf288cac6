"""What `info --bench` measures of each engine."""

import numpy as np
import pytest
from cli_runner import Run
from small_models import tiny_bundle, tiny_clip

from patchword.api import engine_bench
from patchword.api.model import Model, with_methods
from patchword.errors import PatchwordError, UnsupportedError


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers where an engine answers; where it does not, why: not installed, or out of time."""

    def engine(model: Model, name: str) -> Model:
        if name == "openvino":
            raise UnsupportedError('it is not installed: pip install "patchword[fast]"')
        while name == "compile":
            pass
        return model

    def broken(model: Model, name: str, photos: object) -> Model:
        raise RuntimeError(f"graph.cpp:12:\nno kernel of {name} for {photos}")

    monkeypatch.setattr(engine_bench, "on_engine", engine)
    monkeypatch.setattr(engine_bench, "in_int8", broken)
    monkeypatch.setattr(engine_bench, "LIMIT", 3.0)
    monkeypatch.setattr(engine_bench, "SECONDS", 0.01)
    model = with_methods(tiny_bundle(tiny_clip()))
    photos = list(np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8))
    found = engine_bench.engine_rows(model, photos, ["x.png"])
    rows = {(row.engine, row.dtype): row for row in found}
    assert list(rows) == list(engine_bench.CPU)
    exact, coarse = rows["torch", "float32"], rows["torch", "bfloat16"]
    assert min(exact.one, exact.many, coarse.one, coarse.many) > 0
    assert (exact.same, exact.why) == (1.0, "")
    assert exact.least == pytest.approx(1)
    right, rough = model.embed_images(photos), model.to("bfloat16").embed_images(photos)
    cosines = (right * rough).sum(axis=1)
    assert (coarse.least, coarse.mean) == pytest.approx((cosines.min(), cosines.mean()), abs=1e-5)
    assert "patchword[fast]" in rows["openvino", "float32"].why
    said = "RuntimeError: no kernel of onnx for ['x.png']"
    assert rows["onnx", "int8"].why == said
    assert "not ready" in rows["compile", "float32"].why


def test_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = (("torch", "float32"), ("nothing", "float32"))
    monkeypatch.setattr(engine_bench, "CPU", ways)
    monkeypatch.setattr(engine_bench, "SECONDS", 0.01)
    first, second = run("info", "demo", "--bench", "--json").records
    assert (first["engine"], first["same"]) == ("torch", 1)
    assert "there are torch" in second["why"]
    assert "--photos is for --bench" in run("info", "demo", "--photos", "x").err
    assert run("info", "demo", "--bench", "--dtype", "bfloat16").code == 2


def test_too_slow_for_the_first_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a machine with much else to do."""
    monkeypatch.setattr(engine_bench, "LIMIT", 0.5)
    model = with_methods(tiny_bundle(tiny_clip()))
    photos = [np.zeros((48, 48, 3), np.uint8)] * 2
    with pytest.raises(PatchwordError, match=r"torch in float32, .* was not ready in the 0 s"):
        next(engine_bench.engine_rows(model, photos))
