"""Networks as graphs: whole, for any batch, the same numbers; and the engines that run them."""

import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import ids, pixels, shallow, tiny_bundle, tiny_clip, tiny_clip_resnet, tiny_vit
from test_conformance import CONFIGS, embeds_text
from torch import Tensor
from torch.testing import assert_close

from patchword import models
from patchword.api.engines import on_engine
from patchword.api.model import Model, with_methods
from patchword.bundle import make
from patchword.config import ViTConfig
from patchword.engines import auto, libraries
from patchword.engines.torch_engine import FEW, TorchEngine, mode
from patchword.errors import UnsupportedError
from patchword.images.preprocess import at_size

# One of each kind of tower; every other variant was compiled and exported once in the same way.
KINDS = ["vit-tiny-16", "swin-tiny-7-224", "clip-rn50", "siglip-base-16-224", "blip-base-224"]
KINDS += ["chinese-clip-vit-base-16", "rope"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_for_every_batch(kind: str) -> None:
    """torch.compile meets nothing that it must leave out, and makes no third graph. By its own
    tracer with eager kernels: which kernels it would make does not matter here."""
    torch.manual_seed(0)
    config = shallow(CONFIGS[kind])
    network = models.build(config).eval()
    jobs: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (network.encode_image, pixels(config, 5))
    ]
    if embeds_text(config):
        jobs.append((network.encode_text, ids(config).repeat(2, 1)[:5]))
    for encode, x in jobs:
        torch._dynamo.reset()
        compiled = torch.compile(encode, fullgraph=True, backend="eager")
        with torch.inference_mode():
            compiled(x[:1])
            compiled(x[:3])
            with torch._dynamo.config.patch(error_on_recompile=True):
                for count in (5, 4, 2):
                    assert_close(compiled(x[:count]), encode(x[:count]), rtol=1e-5, atol=1e-5)


def test_models_of_other_sizes_do_not_use_up_each_others_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch.compile makes so many versions of one piece of code, and refuses the next."""
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **more: plain(f, **more | {"backend": "eager"}))
    torch._dynamo.reset()
    kept = []
    with torch._dynamo.config.patch(recompile_limit=1):
        for depth in (1, 2):
            config = tiny_clip()
            config = replace(config, vision=replace(config.vision, depth=depth))
            bundle = tiny_bundle(config)
            kept.append(TorchEngine(bundle.network, compiled=True))
            x = pixels(config).numpy()
            found, right = kept[-1].encode_image(x), bundle.engine.encode_image(x)
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_cuda_graphs_are_of_few_images_in_the_main_thread() -> None:
    gpu, few = torch.device("cuda:1"), "reduce-overhead"
    assert [mode(gpu, count) for count in (0, 1, FEW, FEW + 1)] == [None, few, few, None]
    assert mode(torch.device("cpu"), 1) is None
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(mode, gpu, 1).result() is None


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(autouse=True)
def cache(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests: a graph takes seconds to make."""
    monkeypatch.setenv("PATCHWORD_CACHE", str(graphs))


def vectors(model: Model, count: int, length: int) -> tuple[Tensor, Tensor]:
    """Of random images and of texts of that many ids."""
    torch.manual_seed(count)
    images = [each.numpy() for each in torch.randn(count, 3, *model.config.preprocess.size)]
    texts = torch.randint(5, 500, (count, length)).numpy()
    texts[:, -1] = model.config.text.end_token
    rows = model.engine.encode_image(images), model.engine.encode_text(texts)
    return torch.from_numpy(rows[0]), torch.from_numpy(rows[1])


@pytest.mark.parametrize(
    ("engine", "config"),
    [("openvino", shallow(tiny_clip())), ("onnx", shallow(tiny_clip_resnet()))],
)
def test_other_engines_give_the_same(engine: str, config: models.ModelConfig) -> None:
    bundle = tiny_bundle(config)
    ours, other = with_methods(bundle), on_engine(with_methods(bundle), engine)
    assert (other.engine.name, other.engine.scale) == (engine, ours.engine.scale)
    again = pickle.loads(pickle.dumps(other))  # reads the same graphs
    for found, right in zip(vectors(again, 2, 3), vectors(other, 2, 3), strict=True):
        assert_close(found, right, rtol=0, atol=0)
    for count, length in ((1, 2), (4, 7), (3, config.text.context)):
        expected = vectors(ours, count, length)
        for found, right in zip(vectors(other, count, length), expected, strict=True):
            assert_close(found, right, rtol=1e-4, atol=1e-5)
    photo = np.full((48, 48, 3), 200, np.uint8)
    both = [[each.probability for each in m.classify(photo, ["a", "b"])[0]] for m in (other, ours)]
    assert both[0] == pytest.approx(both[1], rel=1e-5)
    with pytest.raises(UnsupportedError, match=f'engine {engine}.*engine="torch"'):
        other.heatmap(photo, "a")


def test_bfloat16_by_openvino() -> None:
    ours = with_methods(tiny_bundle(shallow(tiny_clip())))
    other = on_engine(ours.to("bfloat16"), "openvino")
    assert other.engine.dtype == torch.bfloat16
    for found, right in zip(vectors(other, 3, 5), vectors(ours, 3, 5), strict=True):
        assert torch.cosine_similarity(found, right).min() > 0.999


def test_onnx_is_written_without_a_word_of_torchvision(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it is not installed, torch has something to say of each of its operations."""
    from torch.onnx._internal.exporter import _registration

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with libraries.quiet_export():
        _registration._get_overload("torchvision::nms")
    assert not caplog.records
    _registration._get_overload("torchvision::nms")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("torch_2_11"), torch.onnx.errors.OnnxExporterError("dim is None")]
)
def test_an_onnxscript_older_than_torch_is_told(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def export(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.onnx, "export", export)
    program: Any = None
    with pytest.raises(UnsupportedError, match="pip install --upgrade onnxscript"):
        libraries.ONNX.save(program, tmp_path / "a.onnx", [])


def test_auto_changes_after_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "MANY", 4)
    ours = with_methods(tiny_bundle(shallow(tiny_clip())))
    model = on_engine(ours, "auto")
    ran = []
    run = TorchEngine.run

    def counted(engine: TorchEngine, *given: Any) -> Any:
        ran.append(engine)
        return run(engine, *given)

    monkeypatch.setattr(TorchEngine, "run", counted)
    expected = vectors(ours, 3, 5)
    ran.clear()
    for torch_ran in (1, 2, 2):
        for found, right in zip(vectors(model, 3, 5), expected, strict=True):
            assert_close(found, right, rtol=1e-4, atol=1e-5)
        assert len(ran) == torch_ran
    ids = np.ones((2, 5), np.int64)
    of_torch = TorchEngine.encode_text(ours.engine, ids)
    np.testing.assert_array_equal(model.engine.encode_text(ids), of_torch)
    photo = np.full((48, 48, 3), 200, np.uint8)
    assert model.heatmap(photo, "a").values.shape[-2:] == (48, 48)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.mul_(1.1)
    for found, right in zip(vectors(model, 3, 5), vectors(ours, 3, 5), strict=True):
        assert torch.equal(found, right)  # by the weights of now


def test_openvino_in_threads() -> None:
    """Its own call refuses a second one meanwhile."""
    model = on_engine(with_methods(tiny_bundle(shallow(tiny_clip()))), "openvino")
    images = np.random.default_rng(0).random((8, 3, *model.config.preprocess.size), np.float32)
    expected = model.engine.encode_image(images)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: model.engine.encode_image(images), range(24)):
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Of OpenVINO, on any machine."""
    libraries.core().set_property("CPU", {"INFERENCE_NUM_THREADS": 2})
    yield
    libraries.core().set_property("CPU", {"INFERENCE_NUM_THREADS": 0})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("two_threads")
def test_openvino_computes_many_images_in_streams(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "graphs"))
    compiled, computed = [], []
    streams = libraries._Streams

    class Counted(streams):
        def __init__(self, *given: Any) -> None:
            compiled.append(self)
            super().__init__(*given)

        def __call__(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
            computed.append(len(batch))
            return super().__call__(batch)

    monkeypatch.setattr(libraries, "_Streams", Counted)
    model = on_engine(with_methods(tiny_bundle(shallow(tiny_clip()))).to(dtype), "openvino")
    (tmp_path / "graphs").rename(tmp_path / "elsewhere")  # they are compiled later, without files
    images = np.random.default_rng(0).random((14, 3, *model.config.preprocess.size), np.float32)
    encode = model.engine.encode_image
    for count in (8, 9, 14):  # half of them are too few for streams
        parts = np.array_split(images[:count], 2)
        expected = np.concatenate([encode(part) for part in parts])
        np.testing.assert_array_equal(encode(images[:count]), expected)
    model.engine.encode_text(np.ones((14, 4), np.int64))
    in_streams = dtype == "bfloat16"
    assert (len(compiled), computed) == ((1, [8, 9, 14]) if in_streams else (0, []))


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["clip", "clip-rn50", "swin-tiny-7-224", "hybrid", "flexible", "sincos", "rope"]
)
def test_openvino_at_another_size(kind: str) -> None:
    """It has no operation that resamples positions: they are constants of its graph."""
    torch.manual_seed(0)
    config = shallow(replace(tiny_clip() if kind == "clip" else CONFIGS[kind], text=None))
    network = models.build(config).eval()
    side = 2 * config.preprocess.size[0]
    size = (side, side // 2)
    images = np.random.default_rng(0).random((3, 3, *size), np.float32)
    expected = network.encode_image(torch.from_numpy(images))
    larger = replace(config, preprocess=at_size(config.preprocess, size))
    model = on_engine(with_methods(make(network, larger, None, "larger")), "openvino")
    assert_close(
        torch.from_numpy(model.engine.encode_image(images)), expected, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(network.encode_image(torch.from_numpy(images)), expected)


def test_what_openvino_does_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that are scaled down: it has no such operation."""
    monkeypatch.setattr(auto, "MANY", 2)
    config = shallow(tiny_clip())
    assert isinstance(config.vision, ViTConfig)
    vision = replace(config.vision, positions="pyramid", pool="norm_avg")
    model = with_methods(tiny_bundle(replace(config, vision=vision)))
    with pytest.raises(UnsupportedError, match=r"OpenVINO does not compute this model .*upsample"):
        on_engine(model, "openvino")
    expected = vectors(model, 2, 4)
    other = on_engine(model, "auto")
    vectors(other, 2, 4)
    with pytest.warns(UserWarning, match='"auto" stays with torch: OpenVINO does not compute'):
        assert_close(vectors(other, 2, 4), expected)


def test_auto_stays_with_torch_where_there_are_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "MANY", 1)
    ours = with_methods(tiny_bundle(shallow(tiny_clip())))
    monkeypatch.setenv("PATCHWORD_CACHE", "/dev/null")
    model = on_engine(ours, "auto")
    model.engine.encode_image([np.zeros((3, *ours.config.preprocess.size), np.float32)])
    with pytest.warns(UserWarning, match='"auto" stays with torch: .*cannot keep its graphs'):
        found = vectors(model, 3, 2)
    for one, right in zip(found, vectors(ours, 3, 2), strict=True):
        assert torch.equal(one, right)
    whole = with_methods(tiny_bundle(CONFIGS["siglip2-base-16-naflex"]))
    assert type(on_engine(whole, "auto").engine) is TorchEngine


def test_signals_outlive_engines_of_openvino() -> None:
    """Each engine gone in the order they came, as users replace one model by the next. A signal
    whose stack went with them would end this process."""
    model = with_methods(tiny_bundle(shallow(tiny_clip())))
    first, second = (on_engine(model, "openvino") for _ in range(2))
    del first
    del second
    assert sys.modules["openvino_telemetry"] is None  # and nothing was told to others
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert told == [signal.SIGUSR1]


def test_graphs_are_kept_and_damaged_ones_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path))
    config = shallow(tiny_vit("patches"))
    model = with_methods(make(models.build(config), config, None, "vit"))
    x = pixels(config).numpy()
    engine = on_engine(model, "onnx").engine
    before, pickled = engine.encode_image(x), pickle.dumps(engine)
    (graph,) = tmp_path.rglob("image.onnx")
    made = graph.stat().st_mtime_ns
    np.testing.assert_array_equal(on_engine(model, "onnx").engine.encode_image(x), before)
    assert graph.stat().st_mtime_ns == made
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UnsupportedError, match=r"^(?!.*delete).*pip install"):
            on_engine(model, "onnx")
    graph.write_bytes(b"no graph")
    with pytest.raises(UnsupportedError, match=rf"cannot read.*delete {graph.parent}"):
        on_engine(model, "onnx")
    graph.unlink()  # as a cleaner of old files may
    with pytest.raises(UnsupportedError, match=rf"cannot read.*delete {graph.parent}"):
        on_engine(model, "onnx")
    with pytest.raises(UnsupportedError, match=f"{graph}, which .* load the model anew"):
        pickle.loads(pickled)
    assert [each.name for each in graph.parent.parent.iterdir()] == ["onnx"]  # nothing half made


def test_what_an_engine_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_methods(tiny_bundle(shallow(tiny_clip())))
    with pytest.raises(UnsupportedError, match=r"no engine 'openvine'.*openvino"):
        on_engine(model, "openvine")
    with pytest.raises(UnsupportedError, match="float32, not in bfloat16"):
        on_engine(model.to("bfloat16"), "onnx")
    with pytest.raises(UnsupportedError, match="in its own shape"):
        on_engine(with_methods(tiny_bundle(CONFIGS["siglip2-base-16-naflex"])), "openvino")
    monkeypatch.setenv("PATCHWORD_CACHE", "/dev/null")
    with pytest.raises(UnsupportedError, match=r"cannot keep its graphs.*PATCHWORD_CACHE"):
        on_engine(model, "onnx")


def test_a_tower_that_is_not_there() -> None:
    config = shallow(tiny_vit("patches"))
    other = on_engine(with_methods(make(models.build(config), config, None, "vit")), "openvino")
    with pytest.raises(UnsupportedError, match="no text tower"):
        other.engine.encode_text(np.ones((1, 4), np.int64))
