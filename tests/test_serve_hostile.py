"""Wrong and hostile requests: their errors explain what is wrong, nothing in them is dropped
silently, and they do not delay others."""

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
from local_server import AT, RING, SCRATCH, SHAPES, http_scope, samples_index, sent, uri
from PIL import Image
from pydantic import ValidationError
from starlette.exceptions import HTTPException

import patchword
from patchword.api import Model
from patchword.images.reading import Content
from patchword.serve import bodies, localisation
from patchword.serve.app import create_app
from patchword.serve.decoding import Decoder
from patchword.serve.error_responses import RefusalError
from patchword.serve.models import Models
from patchword.serve.openai import Embeddings
from patchword.serve.queue import deadline, deadline_progress
from patchword.serve.settings import Settings

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples_index(demo, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(index=folder)), base_url=AT) as client:
        yield client


def error_message(answer: Any) -> str:
    """The message of a request that is refused as the client's fault."""
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
def test_invalid_json_is_refused(client: TestClient, body: bytes, expected: str) -> None:
    answer = client.post("/v1/embeddings", content=body, headers=JSON)
    assert expected in error_message(answer)


def test_a_body_that_is_not_json_is_refused(client: TestClient) -> None:
    body = b'{"text": "a ring"}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl -d sends it
    assert "Content-Type: application/json, not application/x-www-form-urlencoded" in error_message(
        client.post("/v1/search", content=body, headers=form)
    )
    assert "not nothing" in error_message(client.post("/v1/search", content=body))
    packed = {**JSON, "Content-Encoding": "gzip"}
    answer = client.post("/v1/search", content=gzip.compress(body), headers=packed)
    assert answer.status_code == 415
    assert "'gzip' is not read" in answer.json()["error"]["message"]


def test_head_is_answered_and_a_wrong_method_refused(client: TestClient) -> None:
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
        ("/v1/search", {"image": {"id": True}}, "image.id"),
        ("/v1/search", {"image": {"id": 2**53}}, "image.id"),
        ("/v1/search", {"image": {"id": -1}}, "image.id"),
        ("/v1/classify", {"images": ["x"], "labels": ["a"], "multi_label": "yes"}, "multi_label"),
        ("/v1/classify", {"images": ["x"], "labels": ["a"], "reject": True}, "reject"),
        ("/v1/embeddings", {"input": [True]}, "input.0"),
        ("/v1/embeddings", {"input": ["a ring", "a star", None]}, "input.2"),
        ("/v1/embeddings", {"input": [1, 2, "a"]}, "input.2"),
        ("/v1/embeddings", {"input": ["a ring", ["b"]]}, "input.1.0"),
        ("/v1/embeddings", {"input": ["a ring", {"text": "b", "tone": "x"}]}, "input.1.tone"),
        ("/v1/embeddings", {"input": 12}, "input"),
        ("/v1/classify", {"images": ["x", None], "labels": ["a"]}, "images.1"),
        ("/v1/chat/completions", {"messages": [], "temperature": True}, "temperature"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": []}, "embedding_types"),
    ],
)
def test_values_of_another_type_are_not_converted(
    client: TestClient, path: str, body: Any, field: str
) -> None:
    error = client.post(path, json=body).json()["error"]
    assert error["code"] == "invalid_request", error
    assert error["param"] == field
    assert error["message"].startswith(f"{field}: ")


def chat(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], **more}


PICTURE = {"type": "image_url", "image_url": {"url": uri(RING)}}
COLOUR = {"type": "text", "text": "what colour is the ring?"}


def test_parts_without_effect_are_warned_of(client: TestClient) -> None:
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


def test_contradicting_and_unsupported_parts_are_refused(client: TestClient) -> None:
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
        assert expected in error_message(client.post(path, json=body)), path
    assert client.post("/v1/inspect", json={**again, "method": "memory"}).status_code == 200


def test_answers_without_a_place_for_warnings_have_them_in_a_header(client: TestClient) -> None:
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


def test_an_empty_text_is_an_error_of_its_item(client: TestClient) -> None:
    for inputs in (["a red ring", ""], [[320, 321], []]):
        good, bad = client.post("/v1/embeddings", json={"input": inputs}).json()["data"]
        assert len(good["embedding"]) == 192
        assert bad["error"]["code"] in ("empty", "tokens")
    assert "input 0 is an empty text" in error_message(
        client.post("/v1/embeddings", json={"input": ""})
    )
    assert "input 1 is an empty text" in error_message(
        client.post("/v2/embed", json={"texts": ["a", ""]})
    )


def test_temperature_0_does_not_sample(client: TestClient) -> None:
    described = [{"type": "text", "text": "Describe this image."}, PICTURE]

    def text(**options: Any) -> str:
        answer = client.post("/v1/chat/completions", json=chat(*described, **options)).json()
        content: str = answer["choices"][0]["message"]["content"]
        return content

    default = text()
    assert text(temperature=1.9, seed=5) != default
    for options in ({"temperature": 0}, {"temperature": 0, "top_p": 0.9}, {"top_p": 1}):
        assert [text(**options, seed=seed) for seed in range(3)] == [default] * 3


def test_too_many_json_values_are_refused_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchword.serve.bodies.json.loads", None)
    for body in (b"[" + b"[]," * 200_000, b"[" + b'"",' * 200_000, b'{"' + b'":[],"' * 200_000):
        with pytest.raises(HTTPException, match="413: more than 50000 values"):
            bodies.parse(body)


def test_commas_in_a_text_count_only_where_it_is_parsed_too(client: TestClient) -> None:
    body = {"text": '\\",[' * 25_000, "k": 1}
    assert client.post("/v1/search", json=body).status_code == 200
    with pytest.raises(HTTPException, match="413"):
        bodies.parse(json.dumps(body).encode(), 1000, count_commas=True)


def test_validation_stops_at_the_first_wrong_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Embeddings.model_validate({"input": [True] * 1000})
    assert caught.value.error_count() < 20


@pytest.mark.parametrize("labels", [[1] * 2000, "[" + "[]," * 2000 + "1]"])
def test_messages_to_tools_are_limited(client: TestClient, labels: Any) -> None:
    call = {"name": "classify", "arguments": {"image": "a", "labels": labels}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    answer = client.post("/mcp", json=body, headers={"Accept": "application/json"})
    assert answer.status_code == 413
    assert "more than 1256 values" in error_message(answer)


def test_prompts_and_alternatives_count_as_items(client: TestClient) -> None:
    image, many = {"image": sent(RING)}, [str(number) for number in range(300)]
    labels = {"images": [sent(RING)], "labels": many[:255]}
    for path, body, expected in (
        ("/v1/classify", {**labels, "templates": ["{}"] * 200}, "255 labels in 200 templates"),
        ("/v1/segment", {**image, "labels": ["a"], "background": many}, "301 items"),
        ("/v1/segment", {**image, "labels": ["|".join(many)]}, "300 items"),
    ):
        assert expected in error_message(client.post(path, json=body))


def test_only_the_ratio_of_weights_counts(client: TestClient) -> None:
    def search(**weights: float) -> list[tuple[int, float]]:
        both = {"text": "a red ring", "image": sent(SCRATCH), "weights": weights}
        hits = client.post("/v1/search", json=both).json()["hits"]
        return [(hit["id"], round(hit["score"], 6)) for hit in hits]

    expected = search(text=2, image=1)
    assert search(text=1e308, image=5e307) == search(text=2e-300, image=1e-300) == expected
    none = {"text": "a ring", "weights": {"text": 0}}
    assert "are 0" in error_message(client.post("/v1/search", json=none))


def test_an_inspector_of_a_closed_model_is_forgotten() -> None:
    settings = Settings(models=("demo", "demo-blip"), memory=1)
    with TestClient(create_app(settings), base_url=AT) as client:
        good = {"good": [sent(RING)] * 2, "images": [sent(RING)]}
        fitted = client.post("/v1/inspect", json=good).json()["fitted"]
        again = {"fitted": fitted, "images": [sent(RING)]}
        assert client.post("/v1/inspect", json=again).status_code == 200
        assert client.post("/v1/caption", json={"images": [sent(RING)]}).status_code == 200
        answer = client.post("/v1/inspect", json=again)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_fitted")


def test_a_model_is_loaded_once_though_the_first_client_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, loads = threading.Event(), []

    load_model = patchword.load

    def load(name: str, **options: Any) -> Model:
        loads.append(name)
        free.wait(10)
        return load_model(name)

    monkeypatch.setattr("patchword.serve.models.api.load", load)

    async def work() -> None:
        models = Models(Settings(models=("demo",)), {})
        first = asyncio.ensure_future(models.first())
        await asyncio.sleep(0.05)
        first.cancel()
        deadline.set(time.monotonic() + 0.05)
        with pytest.raises(RefusalError, match="in time"):
            await models.first()
        deadline.set(None)
        free.set()
        assert (await models.first()).name == "demo"
        assert loads == ["demo"]
        models.close()

    asyncio.run(work())


def test_a_model_that_cannot_be_loaded_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = Settings(models=(str(tmp_path), "demo"))
    with TestClient(create_app(settings), base_url=AT) as client:
        broken, good = client.get("/v1/models").json()["data"]
        assert broken["can"] == []
        assert "cannot be opened" in broken["why_not"]["classify"]
        assert "classify" in good["can"]


def test_the_progress_callback_raises_after_the_deadline() -> None:
    deadline.set(time.monotonic() + 0.05)
    progress = deadline_progress()
    progress(1, 2)
    time.sleep(0.06)
    with pytest.raises(RefusalError, match="in time"):
        progress(2, 2)
    deadline.set(None)
    deadline_progress()(1, 2)


def test_masks_and_regions_call_the_progress_callback(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(
        localisation, "deadline_progress", lambda: lambda *done: called.append(done)
    )
    body = {"image": sent(RING), "labels": ["a red ring", "a wafer", "a green heart"]}
    height = client.post("/v1/segment", json=body).json()["size"][1]
    assert (height, height) in called  # the rows of the map
    assert (3, 3) in called  # the masks of labels
    called.clear()
    body = {"image": sent(RING), "texts": ["a red ring"]}
    assert client.post("/v1/locate", json=body).json()["data"][0]["regions"]
    assert (1, 1) in called


def test_photos_wait_while_others_fill_the_memory(demo: Model) -> None:
    """The photos of one request took gigabytes of memory."""
    out = io.BytesIO()
    Image.new("RGB", (100, 100)).save(out, "PNG")
    image = base64.b64encode(out.getvalue()).decode()

    async def work() -> None:
        decoder = Decoder(lambda number: b"", None, max_pixels=10_000)
        open_photos, most = 0, 0

        async def open_one() -> None:
            nonlocal open_photos, most
            async with decoder.photo_in_memory(image, demo, "image"):
                open_photos += 1
                most = max(most, open_photos)
                await asyncio.sleep(0.01)
                open_photos -= 1

        await asyncio.gather(*(open_one() for _ in range(60)))
        assert 2 <= most <= 2 + 16 + 1
        decoder.close()

    asyncio.run(work())


def test_photos_to_inspect_are_given_as_files(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 of the largest photos, which are small files, would take 77 GB at once."""
    good_photos: list[Content] = []

    def inspector(model: Model, good: list[Content], *rest: object, **more: object) -> object:
        good_photos.extend(good)
        return patchword.inspector(model, good, *rest, **more)

    monkeypatch.setattr("patchword.serve.inspection.inspector", inspector)
    body = {"good": [sent(RING)] * 2, "images": [sent(RING)]}
    assert client.post("/v1/inspect", json=body).json()["data"][0]["score"] < 1e-3
    assert [photo.getvalue() for photo in good_photos] == [RING.read_bytes()] * 2


def test_caches_and_etags_follow_the_index(demo: Model, tmp_path: Path) -> None:
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


def test_an_index_that_is_rebuilt_while_it_is_served(
    demo: Model, folder: Path, tmp_path: Path
) -> None:
    """By the same model, and by another one."""
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


def test_clusters_of_an_index_that_is_rebuilt_by_another_model(
    demo: Model, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "photos.index"
    patchword.open_index(path).add([RING], demo)
    settings = Settings(index=path, models=("demo", "demo-blip"))
    with TestClient(create_app(settings), base_url=AT) as client:

        def explored() -> Any:
            return client.post("/v1/explore", json={}).json()

        explored()
        blip = patchword.load("demo-blip")
        anew = patchword.open_index(path)
        anew.add([RING], blip, reindex=True)
        (cluster,) = anew.explore(model=blip)
        (record,) = explored()["clusters"]
        assert (record["name"], record["count"]) == (cluster.name, cluster.count)
        assert not cluster.name.startswith("unlike")


def test_a_request_is_refused_when_the_server_ends() -> None:
    app = create_app(Settings(models=("demo",)))
    messages: list[Any] = []

    async def work() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0 if not messages and first else 60)
            first.clear()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        first = [True]
        scope = http_scope("GET", "/wait")
        task = asyncio.ensure_future(app(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    @app.get("/wait")
    async def wait() -> None:
        await asyncio.sleep(60)

    app.router.routes.insert(0, app.router.routes.pop())
    asyncio.run(work())
    assert messages[0]["status"] == 503
    assert (b"retry-after", b"1") in messages[0]["headers"]
