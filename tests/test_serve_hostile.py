"""Requests of clumsy and of hostile clients: each is told what is wrong with it, nothing in it is
dropped in silence, and none costs the others their answers."""

import asyncio
import base64
import gzip
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from local_server import AT, RING, SCRATCH, SHAPES, samples_index, sent, uri
from PIL import Image
from pydantic import ValidationError
from starlette.exceptions import HTTPException

import patchword
from patchword.api import Model
from patchword.images.reading import Content
from patchword.serve import bodies, localisation, models
from patchword.serve.app import create_app
from patchword.serve.decoding import Decoder
from patchword.serve.error_responses import RefusalError
from patchword.serve.models import Models
from patchword.serve.openai import Embeddings
from patchword.serve.queue import deadline, steps
from patchword.serve.settings import Settings

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples_index(demo, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(index=folder)), base_url=AT) as found:
        yield found


def said(answer: Any) -> str:
    """The sentence of a request that is refused as the client's fault."""
    assert answer.status_code in (400, 413), answer.text
    message: str = answer.json()["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"input": "a", "input": "b"}', "'input' is given twice"),
        (b'{"input": [{"text": "a", "text": "b"}]}', "'text' is given twice"),
        (b'{"input": "a", "dimensions": NaN}', "NaN is not a finite number"),
        (b'{"input": "a", "dimensions": 1e999}', "1e999 is not a finite number"),
        (b'{"input": "a", "dimensions": 1' + b"0" * 5000 + b"}", "thousands of digits"),
        (b'{"messages": [{"content": [{"text": "\\ud800"}]}]}', r"\ud800, which is half a char"),
        (b'{"messages": [{"content": "\xed\xa0\x80"}]}', "not text"),
        (b'{"input": "\xe9"}', "not text"),
        (b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
        (b'{"input": ["a", ' + b'"a", ' * 100_000 + b'"a"]}', "more than 50000 values"),
        (b'{"input": "a"} x', "not JSON: Extra data"),
        (b"{", "not JSON"),
        (b"", "the body is empty"),
        (b"[]", "must be a JSON object"),
    ],
)
def test_json_is_read_as_it_is_meant(client: TestClient, body: bytes, expected: str) -> None:
    answer = client.post("/v1/embeddings", content=body, headers=JSON)
    assert expected in said(answer)


def test_a_body_of_another_kind_is_told_which_is_wanted(client: TestClient) -> None:
    body = b'{"text": "a ring"}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl -d sends it
    assert "Content-Type: application/json, not application/x-www-form-urlencoded" in said(
        client.post("/v1/search", content=body, headers=form)
    )
    assert "not nothing" in said(client.post("/v1/search", content=body))
    packed = {**JSON, "Content-Encoding": "gzip"}
    answer = client.post("/v1/search", content=gzip.compress(body), headers=packed)
    assert answer.status_code == 415
    assert "'gzip' is not read" in answer.json()["error"]["message"]


def test_methods(client: TestClient) -> None:
    for path in ("/", "/health", "/v1/index", "/static/page.css"):
        assert client.head(path).status_code == 200, path
    for path in ("/v1/search", "/mcp"):
        answer = client.get(path, headers={"accept": "text/event-stream"})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), path


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/search", {"text": "a ring", "k": True}, "k"),
        ("/v1/search", {"text": "a ring", "k": "5"}, "k"),
        ("/v1/search", {"text": "a ring", "weights": {"text": False}}, "weights.text"),
        ("/v1/search", {"image": {"id": True}}, "image.PhotoId.id"),
        ("/v1/search", {"image": {"id": 2**53}}, "image.PhotoId.id"),
        ("/v1/search", {"image": {"id": -1}}, "image.PhotoId.id"),
        ("/v1/classify", {"images": ["x"], "labels": ["a"], "multi_label": "yes"}, "multi_label"),
        ("/v1/classify", {"images": ["x"], "labels": ["a"], "reject": True}, "reject"),
        ("/v1/embeddings", {"input": [True]}, "input"),
        ("/v1/chat/completions", {"messages": [], "temperature": True}, "temperature"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": []}, "embedding_types"),
    ],
)
def test_values_are_not_guessed(client: TestClient, path: str, body: Any, field: str) -> None:
    error = client.post(path, json=body).json()["error"]
    assert error["code"] == "invalid_request", error
    assert error["param"].startswith(field.split(".")[0])


def chat(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], **more}


PICTURE = {"type": "image_url", "image_url": {"url": uri(RING)}}
COLOUR = {"type": "text", "text": "what colour is the ring?"}


def test_what_is_not_used_is_named(client: TestClient) -> None:
    closely = {"type": "image_url", "image_url": {"url": uri(RING), "detail": "high"}}
    first = {"role": "user", "content": "answer in French"}
    last = {"role": "user", "content": [COLOUR, PICTURE]}
    beside = {"content": [{"type": "text", "text": "an instruction"}, PICTURE]}
    text = {"content": [{"type": "text", "text": "a ring", "truncate": True}], "priority": 1}
    for path, body, name in (
        ("/v1/embeddings", {"input": "a ring", "dimensionz": 5, "user": "me"}, ": dimensionz"),
        ("/v1/embeddings", {"messages": [beside]}, "texts beside the image"),
        ("/v2/embed", {"texts": ["a ring"], "truncate": "NONE"}, ": truncate"),
        ("/v1/multimodalembeddings", {"inputs": [text]}, ": truncate"),
        ("/v1/multimodalembeddings", {"inputs": [text], "truncation": False}, ": truncation"),
        ("/v1/chat/completions", chat(COLOUR, closely), ": detail"),
        ("/v1/chat/completions", chat(COLOUR, PICTURE, stream_options={"x": 1}), ": stream_opt"),
        ("/v1/chat/completions", {"messages": [first, last]}, "only the last user's message"),
        ("/v1/search", {"text": "a ring", "weights": {"image": 2}}, "weights of image"),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert name in " ".join(answer.json()["warnings"]), (path, answer.json()["warnings"])
    plain = client.post("/v1/embeddings", json={"input": "a red ring", "user": "me"}).json()
    assert "warnings" not in plain


def test_what_would_change_the_answer_is_refused(client: TestClient) -> None:
    two = {"inputs": sent(RING), "image": sent(SCRATCH), "question": "is it red?"}
    fitted = {"good": [sent(RING)] * 2, "images": [sent(RING)]}
    name = client.post("/v1/inspect", json=fitted).json()["fitted"]
    again = {"fitted": name, "images": [sent(RING)]}
    for path, body, expected in (
        ("/v1/chat/completions", chat(COLOUR, PICTURE, {"type": "file"}), "not 'file'"),
        ("/v1/chat/completions", chat({"type": "text", "text": None}, PICTURE), "needs text"),
        ("/v1/classify", {"images": [sent(RING)], "reject": 0.5}, "reject is of labels"),
        ("/visual-question-answering", two, "image is given twice"),
        ("/v1/inspect", {**again, "method": "subspace"}, "has the method memory"),
        ("/v1/inspect", {**again, "model": "demo-blip"}, "has the model demo"),
    ):
        assert expected in said(client.post(path, json=body)), path
    assert client.post("/v1/inspect", json={**again, "method": "memory"}).status_code == 200


def test_answers_without_room_for_warnings_have_them_in_a_header(client: TestClient) -> None:
    labels = {"candidate_labels": ["a giraffe", "a wafer"]}
    bodies = {
        "/v1/heatmap": {"image": sent(RING), "texts": ["a giraffe"]},
        "/zero-shot-image-classification": {"inputs": sent(RING), "parameters": labels},
    }
    for path, body in bodies.items():
        answer = client.post(path, json=body)
        assert "giraffe" in json.loads(answer.headers["x-warnings"])[0]
    unused = client.post("/image-to-text", json={"inputs": sent(RING), "parameters": {"n": 1}})
    assert json.loads(unused.headers["x-warnings"]) == ["not used here: parameters"]
    known = client.post("/v1/heatmap", json={"image": sent(RING), "texts": ["a red ring"]})
    assert "x-warnings" not in known.headers


def test_an_empty_text_is_its_own_error(client: TestClient) -> None:
    for given in (["a red ring", ""], [[320, 321], []]):
        good, bad = client.post("/v1/embeddings", json={"input": given}).json()["data"]
        assert len(good["embedding"]) == 192
        assert bad["error"]["code"] in ("empty", "tokens")
    assert "input 0 is an empty text" in said(client.post("/v1/embeddings", json={"input": ""}))
    assert "input 1 is an empty text" in said(client.post("/v2/embed", json={"texts": ["a", ""]}))


def test_temperature_0_is_no_sampling(client: TestClient) -> None:
    described = [{"type": "text", "text": "Describe this image."}, PICTURE]

    def text(**options: Any) -> str:
        answer = client.post("/v1/chat/completions", json=chat(*described, **options)).json()
        found: str = answer["choices"][0]["message"]["content"]
        return found

    usual = text()
    assert text(temperature=1.9, seed=5) != usual
    for options in ({"temperature": 0}, {"temperature": 0, "top_p": 0.9}, {"top_p": 1}):
        assert [text(**options, seed=seed) for seed in range(3)] == [usual] * 3


def test_values_beyond_the_limit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchword.serve.bodies.json.loads", None)
    for body in (b"[" + b"[]," * 200_000, b"[" + b'"",' * 200_000, b'{"' + b'":[],"' * 200_000):
        with pytest.raises(HTTPException, match="413: more than 50000 values"):
            bodies.parsed(body)


def test_a_text_may_have_many_commas(client: TestClient) -> None:
    body = {"text": '\\",[' * 25_000, "k": 1}
    assert client.post("/v1/search", json=body).status_code == 200
    with pytest.raises(HTTPException, match="413"):
        bodies.parsed(json.dumps(body).encode(), 1000, inside=True)


def test_one_wrong_value_is_enough() -> None:
    with pytest.raises(ValidationError) as found:
        Embeddings.model_validate({"input": [True] * 1000})
    assert found.value.error_count() < 20


@pytest.mark.parametrize("labels", [[1] * 2000, "[" + "[]," * 2000 + "1]"])
def test_tools_are_not_given_endless_lists(client: TestClient, labels: Any) -> None:
    call = {"name": "classify", "arguments": {"image": "a", "labels": labels}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    answer = client.post("/mcp", json=body, headers={"Accept": "application/json"})
    assert answer.status_code == 413
    assert "more than 1256 values" in said(answer)


def test_a_request_cannot_ask_for_endless_work(client: TestClient) -> None:
    image, many = {"image": sent(RING)}, [str(number) for number in range(300)]
    labels = {"images": [sent(RING)], "labels": many[:255]}
    for path, body, expected in (
        ("/v1/classify", {**labels, "templates": ["{}"] * 200}, "255 labels in 200 templates"),
        ("/v1/segment", {**image, "labels": ["a"], "background": many}, "301 items"),
        ("/v1/segment", {**image, "labels": ["|".join(many)]}, "300 items"),
    ):
        assert expected in said(client.post(path, json=body))


def test_weights_are_compared_whatever_their_size(client: TestClient) -> None:
    def found(**weights: float) -> list[tuple[int, float]]:
        both = {"text": "a red ring", "image": sent(SCRATCH), "weights": weights}
        hits = client.post("/v1/search", json=both).json()["hits"]
        return [(hit["id"], round(hit["score"], 6)) for hit in hits]

    expected = found(text=2, image=1)
    assert found(text=1e308, image=5e307) == found(text=2e-300, image=1e-300) == expected
    none = {"text": "a ring", "weights": {"text": 0}}
    assert "are 0" in said(client.post("/v1/search", json=none))


def test_what_was_fitted_to_a_closed_model_is_forgotten() -> None:
    settings = Settings(models=("demo", "demo-blip"), memory=1)
    with TestClient(create_app(settings), base_url=AT) as client:
        good = {"good": [sent(RING)] * 2, "images": [sent(RING)]}
        fitted = client.post("/v1/inspect", json=good).json()["fitted"]
        again = {"fitted": fitted, "images": [sent(RING)]}
        assert client.post("/v1/inspect", json=again).status_code == 200
        assert client.post("/v1/caption", json={"images": [sent(RING)]}).status_code == 200
        answer = client.post("/v1/inspect", json=again)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_fitted")


def test_a_model_is_opened_once_though_who_asked_first_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, loads = threading.Event(), []

    usual = patchword.load

    def load(name: str, **options: Any) -> Model:
        loads.append(name)
        free.wait(10)
        return usual(name)

    monkeypatch.setattr(models.api, "load", load)

    async def work() -> None:
        found = Models(Settings(models=("demo",)), {})
        first = asyncio.ensure_future(found.first())
        await asyncio.sleep(0.05)
        first.cancel()
        deadline.set(time.monotonic() + 0.05)
        with pytest.raises(RefusalError, match="in time"):
            await found.first()
        deadline.set(None)
        free.set()
        assert (await found.first()).name == "demo"
        assert loads == ["demo"]
        found.close()

    asyncio.run(work())


def test_a_model_that_cannot_be_opened_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = Settings(models=(str(tmp_path), "demo"))
    with TestClient(create_app(settings), base_url=AT) as client:
        broken, good = client.get("/v1/models").json()["data"]
        assert broken["can"] == []
        assert "cannot be opened" in broken["why_not"]["classify"]
        assert "classify" in good["can"]


def test_work_ends_when_its_time_is_over() -> None:
    deadline.set(time.monotonic() + 0.05)
    step = steps()
    step(1, 2)
    time.sleep(0.06)
    with pytest.raises(RefusalError, match="in time"):
        step(2, 2)
    deadline.set(None)
    steps()(1, 2)


def test_masks_and_regions_end_when_their_time_is_over(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(localisation, "steps", lambda: lambda *done: called.append(done))
    body = {"image": sent(RING), "labels": ["a red ring", "a wafer", "a green heart"]}
    height = client.post("/v1/segment", json=body).json()["size"][1]
    assert (height, height) in called  # the rows of the map
    assert (3, 3) in called  # the masks of labels
    called.clear()
    body = {"image": sent(RING), "texts": ["a red ring"]}
    assert client.post("/v1/locate", json=body).json()["data"][0]["regions"]
    assert (1, 1) in called


def test_photos_that_are_held_wait_for_each_other(demo: Model) -> None:
    """Whole photos of one request took a gigabyte for each twelve of the largest."""
    out = io.BytesIO()
    Image.new("RGB", (100, 100)).save(out, "PNG")
    image = base64.b64encode(out.getvalue()).decode()

    async def work() -> None:
        decoder = Decoder(lambda number: b"", None, max_pixels=10_000)
        held, most = 0, 0

        async def one() -> None:
            nonlocal held, most
            async with decoder.held(image, demo, "image"):
                held += 1
                most = max(most, held)
                await asyncio.sleep(0.01)
                held -= 1

        await asyncio.gather(*(one() for _ in range(60)))
        assert 2 <= most <= 2 + 16 + 1
        assert most < 40
        decoder.close()

    asyncio.run(work())


def test_photos_to_inspect_are_opened_one_by_one(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 of the largest photos, which are small files, would take 77 GB at once."""
    learned: list[Content] = []

    def learning(model: Model, good: list[Content], *rest: object, **more: object) -> object:
        learned.extend(good)
        return patchword.inspector(model, good, *rest, **more)

    monkeypatch.setattr("patchword.serve.inspection.inspector", learning)
    body = {"good": [sent(RING)] * 2, "images": [sent(RING)]}
    assert client.post("/v1/inspect", json=body).json()["data"][0]["score"] < 1e-3
    assert [each.getvalue() for each in learned] == [RING.read_bytes()] * 2


def test_a_photo_is_shown_while_the_index_has_it(demo: Model, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(SHAPES[1].read_bytes())
    index = patchword.open_index(tmp_path / "photos.index")
    index.add([photo, RING], demo)
    with TestClient(create_app(Settings(index=tmp_path / "photos.index")), base_url=AT) as client:
        hits = client.post("/v1/search", json={"text": "a ring"}).json()["hits"]
        (number,) = (hit["id"] for hit in hits if hit["path"] == str(photo))
        before = [client.get(f"/v1/images/{number}{part}") for part in ("", "/thumbnail")]
        for answer in before:
            tag = {"if-none-match": answer.headers["etag"]}
            assert answer.headers["cache-control"] == "private, no-cache"
            assert client.get(answer.url.path, headers=tag).status_code == 304
        photo.write_bytes(SHAPES[2].read_bytes())
        index.add([photo], demo)
        for answer in before:
            tag = {"if-none-match": answer.headers["etag"]}
            now = client.get(answer.url.path, headers=tag)
            assert (now.status_code, now.content == answer.content) == (200, False)
        index.remove([photo])
        for answer in before:
            gone = client.get(answer.url.path)
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "no_photo")
        labels = {"images": [{"id": number}], "labels": ["a ring", "a wafer"]}
        (one,) = client.post("/v1/classify", json=labels).json()["data"]
        assert one["error"]["code"] == "no_photo"


def test_an_index_that_is_made_anew_while_it_is_served(
    demo: Model, folder: Path, tmp_path: Path
) -> None:
    """By the same model it is searched, by another one it is that one's."""
    path = tmp_path / "photos.index"
    other = patchword.open_index(path)
    for each in (RING, SCRATCH):  # several commits, so that a new table has fewer
        other.add([each], demo)
    settings = Settings(index=path, models=("demo", "demo-blip"))
    with TestClient(create_app(settings), base_url=AT) as client:
        query = {"text": "a red ring", "k": 1}
        assert client.post("/v1/search", json=query).json()["total"] == 2
        for model, photo in (("demo", SCRATCH), ("demo-blip", RING)):
            anew = patchword.open_index(path)
            anew.add([photo], patchword.load(model), reindex=True)
            about = client.get("/v1/index").json()
            assert (about["images"], about["model"]) == (1, model)
            (hit,) = client.post("/v1/search", json=query).json()["hits"]
            assert hit["path"] == str(photo)


def test_requests_that_the_server_ends_are_told_so() -> None:
    app = create_app(Settings(models=("demo",)))
    sent_: list[Any] = []

    async def work() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0 if not sent_ and first else 60)
            first.clear()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent_.append(message)

        first = [True]
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "path": "/wait",
            "raw_path": b"/wait", "query_string": b"", "scheme": "http", "root_path": "",
            "headers": [(b"host", b"127.0.0.1")], "client": None, "server": None,
        }  # fmt: skip
        task = asyncio.ensure_future(app(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    @app.get("/wait")
    async def wait() -> None:
        await asyncio.sleep(60)

    app.router.routes.insert(0, app.router.routes.pop())
    asyncio.run(work())
    assert sent_[0]["status"] == 503
    assert (b"retry-after", b"1") in sent_[0]["headers"]
