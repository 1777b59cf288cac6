"""How networks are run: what goes into an engine and comes out, and what a model can do with one
that is not torch's."""

import dataclasses

import numpy as np
import pytest
import torch
from small_models import pixels, tiny_bundle, tiny_clip
from torch.testing import assert_close

from patchword.api import Model
from patchword.bundle import Bundle
from patchword.engines.pixel_values import look_up
from patchword.engines.protocol import Engine, Ids, Pixels, Rows
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import UnsupportedError


class OtherEngine:
    """An engine that knows the vectors of everything beforehand, and has no network."""

    name = "other"
    device = torch.device("cpu")
    dtype = torch.float32
    scale = 10.0
    bias = 0.0
    streams = False

    def encode_image(self, pixels: Pixels) -> Rows:
        return np.stack([np.full(24, each.mean() + 9, np.float32) for each in pixels])

    def encode_text(self, ids: Ids) -> Rows:
        return np.ones((len(ids), 24), np.float32)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle(tiny_clip())


def other(bundle: Bundle) -> Model:
    engine: Engine = OtherEngine()
    parts = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
    return Model(**parts | {"engine": engine})


def test_torch_gives_what_the_network_gives(bundle: Bundle) -> None:
    engine = bundle.engine
    x = pixels(bundle.config)
    ids = bundle.reader()(["a photo of a cat", "a dog"])
    with torch.inference_mode():
        images, texts = (
            bundle.network.encode_image(x),
            bundle.network.encode_text(torch.tensor(ids)),
        )
    assert_close(torch.from_numpy(engine.encode_image(list(x.numpy()))), images)
    assert_close(torch.from_numpy(engine.encode_text(ids)), texts)
    assert engine.scale == pytest.approx(float(bundle.network.scale))
    assert (engine.device, engine.dtype) == (torch.device("cpu"), torch.float32)


def test_vectors_come_from_any_engine(bundle: Bundle) -> None:
    model = other(bundle)
    photo = np.full((48, 48, 3), 200, np.uint8)
    assert model.similarity(photo, ["a", "b"]) == pytest.approx(np.ones((1, 2)))
    assert [score.probability for score in model.classify(photo, ["a", "b"])[0]] == [0.5, 0.5]


def test_what_needs_the_network_names_the_engine(bundle: Bundle) -> None:
    model, photo = other(bundle), np.zeros((48, 48, 3), np.uint8)
    for job in (
        lambda: model.heatmap(photo, "a"),
        lambda: model.attention(photo),
        lambda: model.patch_features(photo),
        lambda: model.caption(photo),
        lambda: model.match(photo, "a"),
        lambda: model.network,
    ):
        with pytest.raises(UnsupportedError, match=r'on the engine other.*engine="torch"'):
            job()


def test_a_network_without_a_tower(bundle: Bundle) -> None:
    engine = TorchEngine(torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match="no image tower"):
        engine.encode_image([np.zeros((3, 8, 8), np.float32)])
    with pytest.raises(UnsupportedError, match="no text tower"):
        engine.encode_text(np.zeros((1, 2), np.int64))
    assert (engine.scale, engine.bias) == (1.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_level_is_what_the_table_says(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8, generator=generator)
    levels = torch.randn(3, 256, generator=generator).to(dtype)
    found = look_up(seen, levels)
    assert found.dtype == dtype
    for channel in range(3):
        assert_close(found[:, channel], levels[channel][seen[:, channel].long()], rtol=0, atol=0)
