"""The server's own endpoints: each gives the result of the same call in Python."""

import asyncio
import base64
import io
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from fastapi import FastAPI
from fastapi.testclient import TestClient
from local_server import AT, RING, SAMPLES, SCRATCH, SHAPES, samples_index, sent, uri
from PIL import Image
from prometheus_client import parser

import patchword
from patchword.api import Model
from patchword.serve.app import create_app
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import scores_record
from patchword.serve.models import Models
from patchword.serve.settings import Settings
from patchword.tasks.classify import NONE, Score


@pytest.fixture(scope="module")
def folder(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples_index(demo, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(index=folder)), base_url=AT) as client:
        yield client


def ask(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: TestClient, path: str, **body: Any) -> tuple[int, str, str]:
    """Status, code and message of the error."""
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"], error["message"]


def test_models_and_their_jobs(client: TestClient) -> None:
    found = {record["id"]: record for record in client.get("/v1/models").json()["data"]}
    assert list(found) == ["demo", "demo-blip"]
    assert "heatmap" in found["demo"]["can"]
    assert "caption" not in found["demo"]["can"]
    assert "demo does not caption images" in found["demo"]["why_not"]["caption"]
    assert found["demo-blip"]["why_not"] == {}
    assert client.get("/ready").json()["ready"]
    assert client.get("/health").json() == {"healthy": True, "model": "demo"}


def test_the_list_of_models_may_end_in_a_slash(client: TestClient) -> None:
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()


def test_two_names_of_an_option_may_not_contradict(client: TestClient) -> None:
    both = {"input": "a ring", "encoding_format": "float", "embedding_type": "base64"}
    assert client.post("/v1/embeddings", json=both).json()["error"]["param"] == "embedding_type"
    both["encoding_format"] = "base64"
    assert client.post("/v1/embeddings", json=both).status_code == 200


def test_a_model_without_classes_needs_labels(client: TestClient) -> None:
    status, code, message = refused(client, "/v1/classify", images=[sent(RING)])
    assert (status, code) == (400, "unsupported")
    assert "demo has no classes of its own" in message


@pytest.mark.parametrize(
    ("path", "function", "empty"),
    [
        ("/v1/duplicates", "find_groups", {"groups": []}),
        ("/v1/explore", "explore.clusters", {"clusters": []}),
    ],
)
def test_long_work_delays_no_search(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    function: str,
    empty: dict[str, list[Any]],
) -> None:
    """Of two long requests, one waits; searches and images are answered."""
    begun, ended = threading.Event(), threading.Event()

    def work(*_: Any) -> list[Any]:
        begun.set()
        assert ended.wait(20)
        return []

    monkeypatch.setattr(f"patchword.index.index.{function}", work)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.post, path, json={}) for _ in range(2)]
        try:
            assert begun.wait(10)
            (first, *_) = ask(client, "/v1/search", text="a red ring")["hits"]
            assert client.get(f"/v1/images/{first['id']}/thumbnail").status_code == 200
            ask(client, "/v1/embeddings", input=[uri(RING)])
            assert not any(answer.done() for answer in answers)
        finally:
            ended.set()
        assert [answer.result().json() for answer in answers] == [empty] * 2


def test_a_label_none_of_these_is_not_a_rejection() -> None:
    scores = [Score(NONE, 0.8), Score("a hat", 0.2)]
    assert scores_record(scores, {"a hat": 0.1})["rejected"]
    assert not scores_record(scores, {"a hat": 0.1, NONE: 0.3})["rejected"]


def test_classify(client: TestClient, demo: Model) -> None:
    labels = ["a red ring", "a wafer"]
    paths = [RING, SCRATCH]
    data = ask(client, "/v1/classify", images=[sent(p) for p in paths], labels=labels)["data"]
    scored = demo.classify(paths, labels)
    cosines = demo.similarity(paths, [f"a photo of a {label}" for label in labels])
    for record, scores, row in zip(data, scored, cosines, strict=True):
        assert [each["label"] for each in record["labels"]] == [each.label for each in scores]
        np.testing.assert_allclose(
            [each["probability"] for each in record["labels"]],
            [each.probability for each in scores], rtol=1e-3, atol=1e-7,
        )  # fmt: skip
        by_label = {each["label"]: each["cosine"] for each in record["labels"]}
        np.testing.assert_allclose([by_label[x] for x in labels], row, atol=1e-5)


def test_a_bad_image_is_an_error_of_its_item(client: TestClient) -> None:
    broken = base64.b64encode(b"not an image").decode()
    images = [sent(RING), broken, "/etc/passwd", {"id": 5}, "https://example.com/x.jpg"]
    data = ask(client, "/v1/classify", images=images, labels=["a red ring", "a wafer"])["data"]
    assert [record["index"] for record in data] == [0, 1, 2, 3, 4]
    assert data[0]["labels"][0]["label"] == "a red ring"
    codes = [record["error"]["code"] for record in data[1:]]
    assert codes == ["image", "image", "no_photo", "urls"]
    assert data[1]["error"]["message"].startswith("image 2: not an image")


def test_warnings_are_in_the_answer_to_their_request_only(client: TestClient) -> None:
    unknown = ask(client, "/v1/similarity", images=[sent(RING)], texts=["a giraffe"])
    assert "does not know giraffe" in unknown["warnings"][0]
    out = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((512, 200)).save(out, "PNG")
    image = base64.b64encode(out.getvalue()).decode()
    found = ask(client, "/v1/classify", images=[image, sent(RING)], labels=["a red ring"])
    assert [record.get("outside") for record in found["data"]] == [True, None]
    warnings = " ".join(found["warnings"])
    assert "seen in part" in warnings
    assert "of image 1 is cropped away" in warnings
    assert "unlike what demo was trained on" in warnings
    assert warnings.count("image 1") == 2
    known = ask(client, "/v1/similarity", images=[sent(RING)], texts=["a red ring"])
    assert "warnings" not in known


def test_similarity_and_embeddings(client: TestClient, demo: Model) -> None:
    texts = ["a red ring", "a white square"]
    expected = demo.similarity(SHAPES, texts)
    found = ask(client, "/v1/similarity", images=[sent(p) for p in SHAPES], texts=texts)
    np.testing.assert_allclose(found["cosines"], expected, atol=1e-5)
    mixed = ask(client, "/v1/embeddings", input=[texts[0], f"data:image/jpeg;base64,{sent(RING)}"])
    rows = [record["embedding"] for record in mixed["data"]]
    np.testing.assert_allclose(rows[0], demo.embed_texts(texts)[0], atol=1e-6)
    np.testing.assert_allclose(rows[1], demo.embed_images([RING])[0], atol=1e-5)


def test_search_and_photos(client: TestClient, folder: Path) -> None:
    hits = patchword.open_index(folder).search("a white square", 3)
    found = ask(client, "/v1/search", text="a white square", k=2)
    assert found["total"] == 4
    assert [hit["path"] for hit in found["hits"]] == [hit.path for hit in hits[:2]]
    scores = [hit["score"] for hit in found["hits"]]
    np.testing.assert_allclose(scores, [hit.score for hit in hits[:2]])
    assert (found["hits"][0]["width"], found["hits"][0]["height"]) == (256, 256)
    later = ask(client, "/v1/search", text="a white square", k=1, offset=2)["hits"]
    assert later[0]["path"] == hits[2].path
    number = found["hits"][0]["id"]
    similar = ask(client, "/v1/search", image={"id": number}, k=1)["hits"][0]
    assert similar["id"] == number
    assert similar["score"] == pytest.approx(1, abs=1e-4)
    both = {"image": sent(SCRATCH), "text": "a white square"}
    pulled = [ask(client, "/v1/search", **both, weights={"text": w})["hits"] for w in (0, 9)]
    assert [Path(hits[0]["path"]).name for hits in pulled] == [SCRATCH.name, "white-square.jpg"]
    pushed = ask(client, "/v1/search", text="a red ring", without="a white square", k=4)["hits"]
    assert pushed[-1]["id"] == number
    cancelled = refused(client, "/v1/search", text="a red ring", without="a red ring")
    assert cancelled[:2] == (400, "empty")
    assert client.get("/v1/index").json()["images"] == 4
    assert client.get(f"/v1/images/{number}").content == Path(hits[0].path).read_bytes()
    with Image.open(io.BytesIO(client.get(f"/v1/images/{number}/thumbnail").content)) as small:
        assert (small.format, small.size) == ("JPEG", (256, 256))
    assert client.get("/v1/images/1").status_code == 404
    where = refused(client, "/v1/search", text="a ring", where="path = 'x'; drop table")
    assert where[:2] == (400, "index")
    assert refused(client, "/v1/search")[1] == "empty"
    for words in ({"text": " "}, {"text": "a ring", "without": ""}):
        assert refused(client, "/v1/search", **words)[:2] == (400, "empty")


def test_conditions_and_weights_of_a_search(client: TestClient, folder: Path) -> None:
    index = patchword.open_index(folder)
    squares = {"where": "path LIKE '%square%'"}
    assert index.count(squares["where"]) == 1
    found = ask(client, "/v1/search", text="a red ring", **squares)
    assert (found["total"], len(found["hits"])) == (1, 1)
    assert ask(client, "/v1/search", text="a ring", where="width > 9999")["total"] == 0
    texts = {"text": "a red ring", "without": "a white square"}
    for weight in (0.0, 0.3):
        expected = index.search("a red ring", without="a white square", without_weight=weight)
        found = ask(client, "/v1/search", **texts, weights={"without": weight})
        assert [each["path"] for each in found["hits"]] == [hit.path for hit in expected]
        scores = [hit.score for hit in expected]
        np.testing.assert_allclose([each["score"] for each in found["hits"]], scores, atol=1e-6)


def test_too_many_characters_are_refused(client: TestClient) -> None:
    """Before they are tokenized: 20 million characters took a minute."""
    text, photo = "a red ring " * 10_000, sent(RING)
    chat = {
        "role": "user",
        "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": photo}],
    }
    images = {"images": [photo]}
    sentence = "{} " * 3000
    bodies: dict[str, Any] = {
        "/v1/embeddings": {"input": ["a", text]},
        "/v1/search": {"text": text},
        "/v1/similarity": {**images, "texts": [text]},
        "/v1/match": {**images, "texts": [text]},
        "/v1/ask": {"image": photo, "question": text},
        "/v1/heatmap": {"image": photo, "texts": [text]},
        "/v1/segment": {"image": photo, "labels": [text]},
        "/v1/locate": {"image": photo, "texts": [text]},
        "/v1/chat/completions": {"messages": [chat]},
        "/v2/embed": {"texts": [text]},
        "/zero-shot-image-classification": {
            "inputs": photo,
            "parameters": {"candidate_labels": [text, "a"]},
        },
        "/v1/classify": {**images, "labels": ["a" * 3000, "b"], "templates": [sentence]},
    }
    started = time.perf_counter()
    for path, body in bodies.items():
        assert refused(client, path, **body)[:2] == (413, "too_long"), path
    for body in ({"input": [1] * 60_000}, {"input": [[1] * 30_000] * 2}):
        assert refused(client, "/v1/embeddings", **body)[:2] == (413, "too_long")
    assert time.perf_counter() - started < 5
    refused_labels = refused(client, "/v1/classify", **images, labels=[text, "a"])
    assert refused_labels[2] == "110016 characters of texts; a request may have 100000: send less"


def test_heatmap(client: TestClient, demo: Model) -> None:
    wide = Image.open(RING).resize((512, 256))
    out = io.BytesIO()
    wide.save(out, "PNG")
    image = base64.b64encode(out.getvalue()).decode()
    found = ask(
        client, "/v1/heatmap", image=image, texts=["a red ring", "a blue star"], format="numbers"
    )
    assert found["size"] == [512, 256]
    ring, star = found["maps"]
    expected = demo.heatmap(np.asarray(wide), ["a red ring", "a blue star"])
    assert (ring["found"], star["found"]) == expected.found
    grid = np.array(ring["grid"], float)
    assert grid.shape == expected.grid.shape[1:]
    left, top, right, bottom = ring["box"]
    row, column = np.unravel_index(np.nanargmax(grid), grid.shape)
    x = left + (column + 0.5) * (right - left) / grid.shape[1]
    y = top + (row + 0.5) * (bottom - top) / grid.shape[0]
    values = expected.values[0]
    assert values[int(y), int(x)] > np.quantile(values, 0.99)
    assert np.isnan(grid).any() == (left < 0 or top < 0 or right > 512 or bottom > 256)
    picture = client.post("/v1/heatmap", json={"image": image, "texts": ["a red ring"]})
    assert Image.open(io.BytesIO(picture.content)).format == "PNG"


def test_locate_and_segment(client: TestClient, demo: Model) -> None:
    found = ask(client, "/v1/locate", image=sent(RING), texts=["a red ring", "a blue star"])
    expected = demo.locate(RING, ["a red ring", "a blue star"])
    assert [record["found"] for record in found["data"]] == [True, False]
    assert found["least"] == expected.least == 0.65
    assert found["data"][0]["regions"][0]["box"] == list(expected.regions[0].box)
    assert found["data"][0]["regions"][0]["rle"] == expected.rle(expected.regions[0])
    answer = ask(client, "/v1/segment", image=sent(RING), labels=["a red ring"])
    segmented = demo.segment(RING, ["a red ring"])
    picture = base64.b64decode(answer["png"].partition(",")[2])
    assert (np.asarray(Image.open(io.BytesIO(picture))) == segmented.map).all()
    assert [entry["label"] for entry in answer["legend"]] == ["background", "a red ring"]
    assert answer["legend"][1]["share"] == segmented.shares[1].share
    assert answer["least"] == 0.65
    (warning,) = ask(client, "/v1/locate", image=sent(RING), texts=["a hat"])["warnings"]
    assert warning.startswith("demo hardly knows where clothing is in a photo")


def test_the_gate_of_segment(client: TestClient, demo: Model) -> None:
    """A label that the head does not find has no pixels, unless `present` says otherwise."""
    request = {"image": sent(RING), "labels": ["a red ring", "a blue star"]}
    for present in (None, 0, 0.3, 1):
        answer = ask(client, "/v1/segment", **request, present=present)
        expected = demo.segment(RING, request["labels"], present=present)
        assert [entry["share"] for entry in answer["legend"]] == [s.share for s in expected.shares]
        assert answer["least"] == (0.65 if present is None else present)
    _, ring, star = demo.segment(RING, request["labels"]).shares
    assert ring.share > star.share == 0
    assert demo.segment(RING, request["labels"], present=1).shares[1].share == 0
    for present in (-0.1, 1.1, "0.5", True):
        refused = client.post("/v1/segment", json=request | {"present": present})
        assert refused.status_code == 400
        assert "present" in refused.json()["error"]["param"]


def test_caption_ask_and_match(client: TestClient, blip: Model) -> None:
    images = [sent(RING), sent(SCRATCH)]
    captions = ask(client, "/v1/caption", images=images)["data"]
    expected = blip.caption([RING, SCRATCH])
    assert [record["caption"] for record in captions] == [caption.text for caption in expected]
    assert len(ask(client, "/v1/caption", images=images[:1], n=2)["data"][0]["captions"]) == 2
    question = "what colour is the ring?"
    assert ask(client, "/v1/ask", image=images[0], question=question)["answer"] == "red"
    choice = ask(client, "/v1/ask", image=images[0], question=question, answers=["red", "blue"])
    ranking = blip.ask(RING, question, ["red", "blue"]).ranking
    assert [each["answer"] for each in choice["answers"]] == [each.text for each in ranking]
    assert choice["probability"] == pytest.approx(ranking[0].probability, rel=1e-3)
    texts = ["a red ring", "a blue star"]
    matched = ask(client, "/v1/match", images=images[:1], texts=texts)["data"][0]
    found = blip.match(RING, texts)
    np.testing.assert_allclose(matched["probabilities"], found.probabilities[0], rtol=1e-3)


def test_errors_have_the_form_of_openai_s_api(client: TestClient) -> None:
    assert refused(client, "/v1/classify", images="x")[:2] == (400, "invalid_request")
    unknown = refused(client, "/v1/classify", images=["x"], labels=["a"], lables=["a"])
    assert unknown == (400, "invalid_request", "lables: Extra inputs are not permitted")
    assert refused(client, "/v1/classify", images=[], labels=["a"])[:2] == (400, "empty")
    twice = refused(client, "/v1/classify", images=[sent(RING)], labels=["a", "a"])
    assert twice[:2] == (400, "unsupported")
    assert refused(client, "/v1/caption", images=[sent(RING)], model="demo")[1] == "unsupported"
    assert refused(client, "/v1/caption", images=[sent(RING)], model="x")[:2] == (
        404, "model_not_found",
    )  # fmt: skip
    message = refused(client, "/v1/preview", image=sent(RING), model="x")[2]
    assert message == "model: Extra inputs are not permitted"  # it uses no model
    assert refused(client, "/v1/nothing")[:2] == (404, "not_found")
    assert refused(client, "/v1/ask", image="x", question="is it red?")[:2] == (400, "image")
    many = ["x"] * 257
    assert refused(client, "/v1/classify", images=many, labels=["a"])[:2] == (413, "too_many_items")
    for body in (b"{", b"[" * 200_000, b'{"input": "\\ud800"}', b"\xff\xfe", b"1" * 5000):
        answer = client.post(
            "/v1/embeddings", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_inspect(client: TestClient, demo: Model) -> None:
    good = sorted((SAMPLES / "wafers").glob("perfect-*"))
    bad = base64.b64encode(b"no image").decode()
    images = [sent(SCRATCH), bad, sent(good[0])]
    found = ask(client, "/v1/inspect", good=[*map(sent, good), bad], images=images)
    expected = patchword.inspector(demo, good, false_alarms=0.05).inspect([SCRATCH, good[0]])
    scratch, broken, perfect = found["data"]
    assert broken["error"]["code"] == "image"
    assert found["good"][0]["index"] == 3
    scores = [scratch["score"], perfect["score"]]
    np.testing.assert_allclose(scores, [each.score for each in expected], rtol=1e-4, atol=1e-5)
    assert scratch["rejected"] == expected[0].rejected
    assert scratch["boxes"] == [list(box) for box in expected[0].boxes]
    assert scratch["score"] > 10 * perfect["score"]
    picture = base64.b64decode(scratch["map"].partition(",")[2])
    assert Image.open(io.BytesIO(picture)).size == (512, 512)
    assert "No rate of false alarms is guaranteed" in found["note"]
    again = {"fitted": found["fitted"], "images": images[:1], "false_alarms": 0.2}
    later = ask(client, "/v1/inspect", **again)
    assert later["data"][0]["score"] == pytest.approx(scratch["score"])
    assert "0.2" in later["note"]
    other = ask(
        client, "/v1/inspect", good=[sent(good[0])] * 2, images=images[:1], false_alarms=0.3
    )
    assert "0.3" in ask(client, "/v1/inspect", fitted=other["fitted"], images=[])["note"]
    assert refused(client, "/v1/inspect", images=images, fitted="x")[:2] == (404, "not_fitted")
    _, code, message = refused(client, "/v1/inspect", images=images)
    assert code == "empty"
    assert "[] for winclip and mutual" in message
    alone = ask(client, "/v1/inspect", good=[], images=images, method="mutual")
    assert [each.get("rejected", "broken") for each in alone["data"]] == [None, "broken", None]
    assert alone["threshold"] is None
    message = refused(client, "/v1/inspect", good=[], images=images)[2]
    assert "memory needs 1 good photo" in message


def test_every_example_of_the_documentation_works(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    paths = []
    for path, methods in api["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if not content:
            continue
        kind = content["application/json"]
        if "schema" in kind:
            name = kind["schema"]["$ref"].rpartition("/")[2]
            examples = api["components"]["schemas"][name]["examples"]
        else:
            examples = [kind["example"]]
        for example in examples:
            answer = client.post(path, json=example)
            assert answer.status_code == 200, (path, answer.text)
            assert "error" not in answer.text[:200]
            paths.append(path)
    assert len(paths) >= 14
    assert not [path for path, methods in api["paths"].items() if "summary" not in str(methods)]


def test_counts_for_prometheus(client: TestClient) -> None:
    client.get("/v1/nowhere/1")
    text = client.get("/metrics").text
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    requests = {
        (s.labels["route"], s.labels["status"]): s.value
        for s in families["patchword_requests"].samples
        if s.name.endswith("_total")
    }
    assert requests["/v1/search", "200"] >= 1
    assert requests["other", "404"] >= 1
    batches = families["patchword_batch_items"].samples
    assert any(s.labels.get("model") == "demo" and s.value for s in batches)
    assert families["patchword_items"].samples[0].value == 0
    assert families["patchword_models_open"].samples[0].value == 2
    assert "process_resident_memory_bytes" in families


def test_models_that_do_not_fit_are_closed(demo: Model) -> None:
    settings = Settings(models=("demo", "demo-blip"), memory=1)

    async def work() -> None:
        models = Models(settings, {})
        first = await models.get("demo", "classify")
        assert list(models.loaded()) == ["demo"]
        await models.get(None, "caption")
        assert list(models.loaded()) == ["demo-blip"]
        with pytest.raises(RefusalError, match="was closed"):
            await first.queue.call(lambda: None)
        assert (await models.get(None, "classify")).name == "demo"  # opened again
        models.close()

    asyncio.run(work())


def test_a_busy_server_refuses_at_once(folder: Path) -> None:
    app = create_app(Settings(index=folder, waiting=2))
    with TestClient(app, base_url=AT) as client, _blocked(app, client) as free:
        server = app.state.server
        body = {"images": [sent(RING)], "texts": ["a"]}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.post, "/v1/similarity", json=body)
            while not (server.admission.items or waiting.done()):
                time.sleep(0.005)
            busy = client.post("/v1/search", json={"text": "a ring"})
            free.set()
        assert waiting.result().status_code == 200
        assert busy.status_code == 429
        assert int(busy.headers["retry-after"]) >= 1
        assert busy.json()["error"]["type"] == "rate_limit_error"
        assert client.post("/v1/search", json={"text": "a ring"}).status_code == 200


def test_a_request_that_waits_too_long_is_refused(folder: Path) -> None:
    app = create_app(Settings(index=folder, seconds=0.3))
    with TestClient(app, base_url=AT) as client, _blocked(app, client):
        late = client.post("/v1/similarity", json={"images": [sent(RING)], "texts": ["a"]})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "deadline")


@contextmanager
def _blocked(app: FastAPI, client: TestClient) -> Iterator[threading.Event]:
    """Blocks the queue of the first model until the event is set."""
    assert client.portal
    loaded, free = client.portal.call(app.state.server.models.first), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(client.portal.call, loaded.queue.call, partial(free.wait, 60))
        try:
            yield free
        finally:
            free.set()


def test_a_photo_in_a_tar(demo: Model, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(RING, "ring.jpg")
    patchword.open_index(tmp_path / "index").add([tmp_path / "photos.tar"], demo)
    with TestClient(create_app(Settings(index=tmp_path / "index")), base_url=AT) as client:
        hit = ask(client, "/v1/search", text="a red ring")["hits"][0]
        assert hit["path"].endswith("photos.tar/ring.jpg")
        assert client.get(f"/v1/images/{hit['id']}").content == RING.read_bytes()
        labels = {"labels": ["a red ring", "a wafer"]}
        found = ask(client, "/v1/classify", images=[{"id": hit["id"]}], **labels)
        assert found["data"][0]["labels"][0]["label"] == "a red ring"
        (tmp_path / "photos.tar").unlink()
        assert client.get(f"/v1/images/{hit['id']}").json()["error"]["code"] == "gone"
        assert "gone" not in hit
        assert ask(client, "/v1/search", text="a red ring")["hits"][0]["gone"] is True
        (cluster,) = ask(client, "/v1/explore", clusters=1)["clusters"]
        assert cluster["photos"][0]["gone"] is True
