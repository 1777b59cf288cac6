"""The server gives the warnings of the command line, in each answer anew."""

import asyncio
import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from fastapi.testclient import TestClient
from local_server import AT, RING, SHAPES, sent
from PIL import Image

import patchword
from patchword import ScopeWarning, scope, visible_area
from patchword.serve.app import create_app, make_server
from patchword.serve.mcp import Tools
from patchword.serve.settings import Settings

# Their vectors are not unusual; a layer in the middle shows that they are unlike the training.
GRASS = Path(skimage.data_dir) / "grass.png"
ASTRONAUT = Path(skimage.data_dir) / "astronaut.png"


@contextmanager
def as_command() -> Iterator[scope.ScopeReport]:
    """The context of `patchword serve`: like every command it reports warnings once, at its end."""
    with scope.together(brief=True) as told, visible_area.together():
        yield told


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("warned") / "photos.index"
    with pytest.warns(ScopeWarning):
        patchword.open_index(path).add([*SHAPES, ASTRONAUT], patchword.load("demo"))
    settings = Settings(index=path, models=("demo", "demo-blip"))
    with TestClient(create_app(settings), base_url=AT) as client:
        yield client


def warnings_of(client: TestClient, path: str, body: dict[str, Any]) -> list[str]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if isinstance(answer.json(), list):
        return list(json.loads(answer.headers.get("x-warnings", "[]")))
    return list(answer.json().get("warnings", []))


def bodies(photo: str) -> dict[str, dict[str, Any]]:
    """By path a request of each kind that embeds an image."""
    uri = f"data:image/png;base64,{photo}"
    return {
        "/v1/classify": {"images": [photo], "labels": ["a dress", "a hat"]},
        "/v1/similarity": {"images": [photo], "texts": ["a hat"]},
        "/v1/embeddings": {"input": [uri]},
        "/v2/embed": {"images": [uri]},
        "/v1/multimodalembeddings": {
            "inputs": [{"content": [{"type": "image_base64", "image_base64": uri}]}]
        },
        "/zero-shot-image-classification": {
            "inputs": photo, "parameters": {"candidate_labels": ["a dress", "a hat"]}
        },
        "/v1/search": {"image": photo},
    }  # fmt: skip


@pytest.mark.parametrize("path", bodies(""))
def test_an_image_unlike_the_training_is_warned_of(client: TestClient, path: str) -> None:
    choices: list[dict[str, str]] = [{"model": "demo"}, {"model": "demo-blip"}]
    if path.startswith(("/zero", "/v1/search")):  # they have no field for the model
        choices = [{}]
    with as_command() as told:
        for choice in choices:
            name = choice.get("model", "demo")
            start = f"the image looks unlike what {name} was trained on: image 1"
            for _ in range(2):
                found = warnings_of(client, path, bodies(sent(GRASS))[path] | choice)
                assert any(each.startswith(start) for each in found), found
            found = warnings_of(client, path, bodies(sent(RING))[path] | choice)
            assert not any(each.startswith("the image") for each in found)
    assert told.remarks() == []  # the server reports nothing when it ends


def test_hits_and_unknown_words_are_warned_of(client: TestClient) -> None:
    requests: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/search", {"text": "a red ring"}, "1 of 4 images listed looks unlike"),
        ("/v1/search", {"text": "a giraffe"}, "demo does not know giraffe"),
        ("/v1/embeddings", {"input": "a giraffe"}, "demo does not know giraffe"),
        ("/v1/duplicates", {"threshold": 0.01}, "images listed looks unlike"),
    ]
    with as_command() as told:
        for path, body, message in requests * 2:
            found = warnings_of(client, path, body)
            assert any(message in each for each in found), (path, body, found)
    assert told.remarks() == []


def test_hits_before_the_offset_are_not_warned_of(client: TestClient) -> None:
    hits = client.post("/v1/search", json={"image": sent(ASTRONAUT)}).json()["hits"]
    assert hits[0]["path"] == str(ASTRONAUT)
    found = warnings_of(client, "/v1/search", {"image": sent(ASTRONAUT), "offset": 1})
    assert not any(ASTRONAUT.name in each for each in found), found


def test_equal_labels_and_cut_texts_are_warned_of(client: TestClient) -> None:
    """Without naming long_text, which is no option of a request."""
    long = list(range(1, 400))
    alike = "the model reads 'A Ring' and 'a ring' as the same"
    requests: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/classify", {"images": [sent(RING)], "labels": ["A Ring", "a ring"]}, alike),
        (
            "/zero-shot-image-classification",
            {"inputs": sent(RING), "parameters": {"candidate_labels": ["A Ring", "a ring"]}},
            alike,
        ),
        ("/v1/embeddings", {"input": long}, "the text exceeds 48 tokens; it loses 353 of 401"),
        ("/v1/embeddings", {"input": ["a", long]}, "the text exceeds 48 tokens"),
        ("/v1/embeddings", {"input": "a ring " * 40}, "the text exceeds 48 tokens; it loses"),
    ]
    for path, body, message in requests * 2:
        found = warnings_of(client, path, body)
        assert any(each.startswith(message) for each in found), (path, found)
        assert not any("long_text" in each for each in found)


def test_an_image_unlike_the_training_is_rejected_as_in_python(client: TestClient) -> None:
    model, labels = patchword.load("demo"), ["a dress", "a hat"]
    body = {"images": [sent(GRASS)], "labels": labels, "reject": 0.01}
    found = client.post("/v1/classify", json=body).json()["data"][0]
    with pytest.warns(ScopeWarning):
        expected = model.classify(GRASS, labels, reject=0.01)[0]
    assert found["rejected"]
    assert [(one["label"], one["probability"]) for one in found["labels"]] == [
        (one.label, one.probability) for one in expected
    ]


def test_assistants_are_warned_too() -> None:
    server = make_server(Settings(models=("demo",)))
    with as_command() as told:
        found = asyncio.run(Tools(server, paths=True).classify(str(GRASS), ["a hat", "a giraffe"]))
    server.close()
    text = " ".join(found["warnings"])
    assert "the image looks unlike what demo was trained on" in text
    assert "demo does not know giraffe" in text
    assert told.remarks() == []


def oblong() -> str:
    """A photo that is seen in part, as JSON takes it."""
    out = io.BytesIO()
    Image.open(GRASS).convert("RGB").resize((64, 16)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_warnings_number_the_images_of_their_request(client: TestClient) -> None:
    """And they advise no options that requests do not have."""
    images = ["none", sent(RING), oblong(), sent(GRASS)]
    requests: dict[str, dict[str, Any]] = {
        "/v1/classify": {"images": images, "labels": ["a ring", "a hat"]},
        "/v1/caption": {"images": images},
        "/v1/match": {"images": images, "texts": ["a ring"]},
    }
    for path, body in requests.items():
        found = warnings_of(client, path, body | {"model": "demo-blip"})
        assert "1 of 3 photos is seen in part, 75% of image 3 is cropped away: a square" in found[0]
        assert "image 4. It knows" in found[-1], (path, found)
        assert "image 2" not in found[-1]
        assert not any("=True" in each for each in found)
    body = {"good": ["none", sent(RING), sent(RING)], "images": ["none", sent(GRASS)]}
    text = " ".join(warnings_of(client, "/v1/inspect", body))
    assert "on: image 2. It" in text
    assert "1 of 2 good photos is a copy of another, pixel for pixel" in text
    assert "the photo differs in size from the good ones (256 x 256 px): image 2 (" in text
    assert "contrast" not in text  # one good photo does not tell how it varies


def test_a_dark_photo_is_warned_of_by_its_number(client: TestClient) -> None:
    """Good photos are numbered separately."""
    out = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 40, (16, 16)).astype(np.uint16)
    Image.fromarray(levels).save(out, "PNG")
    dark = base64.b64encode(out.getvalue()).decode()
    good = [sent(RING), sent(SHAPES[1])]
    requests: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/classify", {"images": [sent(RING), dark], "labels": ["a hat"]}, "image 2"),
        ("/v1/heatmap", {"image": dark, "texts": ["a hat"], "format": "numbers"}, "image 1"),
        ("/v1/inspect", {"good": good, "images": [sent(RING), dark]}, "image 2"),
        ("/v1/inspect", {"good": [*good, dark], "images": [sent(RING)]}, "good photo 3"),
    ]
    for path, body, name in requests:
        found = warnings_of(client, path, body)
        assert any(each.startswith(f"{name}: its samples reach") for each in found), (path, found)
    answer = client.post("/v1/inspect", json={"good": good, "images": [dark]}).json()
    assert re.search(r"It is that of good photo [12]:", answer["note"])


def test_no_request_gets_warnings_of_another(tmp_path: Path) -> None:
    """With a model without a scope, whose requests are run together."""
    model = patchword.load("demo-blip")
    patchword.save(model, tmp_path / "blip")
    (tmp_path / "blip/scope.json").unlink()
    server = make_server(Settings(models=(str(tmp_path / "blip"),)))
    square, flat = sent(RING), oblong()

    async def captions() -> list[dict[str, Any]]:
        tools = Tools(server, paths=False)
        return await asyncio.gather(*map(tools.caption, [square, flat, square, flat]))

    warnings = [answer.get("warnings", []) for answer in asyncio.run(captions())]
    server.close()
    start = "the photo is seen in part, 75% of image 1 is cropped away: a square part of it is"
    assert [len(messages) for messages in warnings] == [0, 1, 0, 1]
    assert warnings[1][0].startswith(start)
    assert warnings[3][0].startswith(start)


def test_warnings_of_cut_texts_name_no_option_of_python(client: TestClient) -> None:
    for path, more in (("/v1/heatmap", {"format": "numbers"}), ("/v1/locate", {})):
        body = {"image": sent(RING), "texts": ["a ring " * 40], **more}
        assert "the text exceeds 48 tokens; it loses 34 of 82" in warnings_of(client, path, body)


def test_without_a_usable_mcp_library_all_else_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    with pytest.warns(UserWarning, match=r"nothing is served at /mcp: .*patchword\[mcp\]"):
        app = create_app(Settings())
    with TestClient(app, base_url=AT) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/mcp", json={}).status_code == 404
