"""Programs that were written for other servers: OpenAI's client, Hugging Face's, MCP's."""

import asyncio
import base64
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from local_server import RING, SCRATCH, running, samples_index, sent, uri
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server.mcpserver.exceptions import ToolError
from PIL import Image

import patchword
from patchword.api import Model
from patchword.serve.app import create_app, make_server
from patchword.serve.mcp import Tools, strict, tools_server
from patchword.serve.settings import Settings


@pytest.fixture(scope="module")
def folder(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples_index(demo, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running(create_app(Settings(index=folder, api_key="secret"))) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)


def question(text: str, path: Path = RING) -> Any:
    picture = {"type": "image_url", "image_url": {"url": uri(path)}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, picture]}]


def test_openai_embeddings(client: openai.OpenAI, demo: Model) -> None:
    texts = ["a red ring", "a white square"]
    expected = demo.embed_texts(texts)
    found = client.embeddings.create(model="demo", input=texts)  # base64, unless told
    np.testing.assert_allclose([one.embedding for one in found.data], expected, atol=1e-6)
    plain = client.embeddings.create(model="demo", input=texts, encoding_format="float")
    assert [one.embedding for one in plain.data] == [one.embedding for one in found.data]
    ids = demo.tokenizer.rows(texts)
    bare = [row[1:-1] for row in ids]
    for tokens in (ids, bare):
        rows = client.embeddings.create(model="demo", input=tokens).data
        np.testing.assert_allclose([one.embedding for one in rows], expected, atol=1e-6)
    one = client.embeddings.create(model="demo", input=bare[0], dimensions=demo.dim)
    np.testing.assert_allclose(one.data[0].embedding, expected[0], atol=1e-6)
    assert found.usage.prompt_tokens == sum(map(len, ids))
    with pytest.raises(openai.BadRequestError, match="vectors of 192 numbers"):
        client.embeddings.create(model="demo", input="x", dimensions=64)


def test_images_as_other_servers_of_embeddings_take_them(
    client: openai.OpenAI, address: str, demo: Model
) -> None:
    expected = demo.embed_images([RING])[0]
    infinity = client.embeddings.create(
        model="demo", input=[uri(RING)], extra_body={"modality": "image"}
    )
    bodies: list[dict[str, Any]] = [
        {"input": [{"image": sent(RING)}], "embedding_type": "float", "normalized": True},  # Jina
        {"messages": question(""), "encoding_format": "float"},  # vLLM
        {"input": sent(RING), "modality": "image"},
    ]
    rows = [infinity.data[0].embedding]
    for body in bodies:
        answer = httpx2.post(
            f"{address}/v1/embeddings", json=body, headers={"x-api-key": "secret"}
        ).json()
        rows += [answer["data"][0]["embedding"]]
    cohere = {"images": [uri(RING)], "input_type": "image", "embedding_types": ["float"]}
    voyage = {"inputs": [{"content": [{"type": "image_base64", "image_base64": uri(RING)}]}]}
    key = {"x-api-key": "secret"}
    answer = httpx2.post(f"{address}/v2/embed", json=cohere, headers=key).json()
    rows += answer["embeddings"]["float"]
    answer = httpx2.post(f"{address}/v1/multimodalembeddings", json=voyage, headers=key).json()
    rows += [answer["data"][0]["embedding"]]
    np.testing.assert_allclose(rows, [expected] * 6, atol=1e-5)
    with Image.open(RING) as ring:
        pixels = ring.width * ring.height
    assert answer["usage"] == {  # all of them, or Voyage's own client fails
        "text_tokens": 0, "image_pixels": pixels, "total_tokens": pixels // 560
    }  # fmt: skip
    bad = base64.b64encode(b"no image").decode()
    with pytest.raises(openai.BadRequestError, match="not an image") as caught:
        client.embeddings.create(model="demo", input=bad, extra_body={"modality": "image"})
    assert caught.value.code == "image"
    both = client.embeddings.create(
        model="demo", input=[uri(RING), bad], encoding_format="float",
        extra_body={"modality": "image"},
    )  # fmt: skip
    assert both.data[1].model_extra["error"]["code"] == "image"


def test_openai_chat(client: openai.OpenAI) -> None:
    asked = question("what colour is the ring?")
    answer = client.chat.completions.create(model="demo-blip", messages=asked)
    assert answer.choices[0].message.content == "red"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    described = question("Describe this image.", SCRATCH)
    whole = client.chat.completions.create(model="demo-blip", messages=described)
    text = patchword.load("demo-blip").caption(SCRATCH)[0].text
    assert whole.choices[0].message.content == text
    with client.chat.completions.create(
        model="demo-blip", messages=described, stream=True, stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
    words = [event.choices[0].delta.content for event in events if event.choices]
    assert "".join(word or "" for word in words) == text
    assert len(words) > 4
    assert events[-1].usage == whole.usage
    said = client.chat.completions.create(
        model="demo-blip", messages=described, temperature=0.5, seed=3, tool_choice="none"
    )
    assert said.model_extra is not None
    assert "not used here: tool_choice" in said.model_extra["warnings"]
    with pytest.raises(openai.BadRequestError, match="demo answers no questions"):
        client.chat.completions.create(model="demo", messages=asked)
    with pytest.raises(openai.BadRequestError, match="no image"):
        client.chat.completions.create(
            model="demo-blip", messages=[{"role": "user", "content": "hello"}]
        )


def test_what_a_chat_cannot_be_is_refused_by_name(address: str) -> None:
    """Answers of another form, and turns of nobody; a text ends before what is to end it."""
    asked: dict[str, Any] = {"messages": question("what colour is the ring?")}
    key = {"x-api-key": "secret"}

    def chat(**more: Any) -> dict[str, Any]:
        body = {**asked, **more}
        found = httpx2.post(f"{address}/v1/chat/completions", json=body, headers=key)
        assert found.status_code == (400 if "error" in found.json() else 200)
        return dict(found.json())

    refused: list[dict[str, Any]] = [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    ]
    for body in refused:
        assert chat(**body)["error"]["param"] == next(iter(body))
    usual = chat(response_format={"type": "text"}, max_completion_tokens=1)
    said = "max_completion_tokens is 1, and the text has 2: texts here are not cut"
    assert usual["warnings"] == [said]
    wrong = chat(messages=[{**asked["messages"][0], "role": "usr"}])["error"]
    assert (wrong["param"], "'assistant'" in wrong["message"]) == ("messages.0.role", True)
    for stop, expected in (("d", "re"), (["x", "ed", "d"], "r"), (["x", ""], "red"), ([], "red")):
        found = chat(stop=stop)
        choice = found["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop")
        assert "warnings" not in found


def test_what_is_asked_for_in_vain_is_named(address: str) -> None:
    """Vectors of another length, texts that are not cut; not what is null, as typed clients send
    all that there is."""
    voyage = {"inputs": [{"content": [{"type": "text", "text": "a ring"}]}]}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("v1/embeddings", {"input": "a ring", "normalized": False}, "normalized, which is false"),
        ("v1/embeddings", {"input": "a ring", "normalized": True, "task": None}, ""),
        ("v2/embed", {"texts": ["a ring"], "truncate": "NONE"}, "truncate, NONE"),
        ("v2/embed", {"texts": ["a ring"], "truncate": "END", "embedding_types": None}, ""),
        ("v1/multimodalembeddings", {**voyage, "truncation": False}, "truncation, which is false"),
        ("v1/multimodalembeddings", {**voyage, "truncation": True}, ""),
    ]
    for path, body, expected in cases:
        answer = httpx2.post(f"{address}/{path}", json=body, headers={"x-api-key": "secret"})
        assert answer.status_code == 200, answer.text
        said = [each for each in answer.json().get("warnings", ()) if "not used" in each]
        assert said == ([f"not used here: {expected}"] if expected else []), body


def test_chat_as_typed_clients_ask_and_read_it(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nulls; usage in every chunk, null but in the last; and a text that was cut says so."""
    described = question("Describe this image.", SCRATCH)
    nulls: dict[str, Any] = {"stream": None, "n": None, "stop": None, "tools": None}
    raw = client.post(
        "/chat/completions", body={"messages": described, **nulls}, cast_to=httpx2.Response
    )
    answer = json.loads(raw.text)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert not any("not used" in each for each in answer.get("warnings", ()))
    asked: dict[str, Any] = {"messages": described, "model": "demo-blip", "stream": True}
    for usage in (False, True):
        chunks = list(
            client.chat.completions.create(**asked, stream_options={"include_usage": usage})
        )
        sent_ = ["usage" in chunk.model_fields_set for chunk in chunks]
        assert sent_ == [usage] * len(chunks)
        assert [chunk.usage is None for chunk in chunks[:-1]] == [True] * (len(chunks) - 1)
    monkeypatch.setattr("patchword.serve.jobs.MAX_LENGTH", 6)
    cut = client.chat.completions.create(model="demo-blip", messages=described).choices[0]
    assert cut.finish_reason == "length"
    assert str(answer["choices"][0]["message"]["content"]).startswith(str(cut.message.content)[:8])
    ends = [chunk.choices[0].finish_reason for chunk in client.chat.completions.create(**asked)]
    assert ends == [None] * (len(ends) - 1) + ["length"]


def test_openai_models_and_keys(client: openai.OpenAI, address: str) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "demo-blip"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.embeddings.create(model="gpt", input="x")
    other = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="a key is needed"):
        other.models.list()


def test_hugging_face(address: str, demo: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # loopback alone

    def client(task: str) -> InferenceClient:
        return InferenceClient(f"{address}/{task}", token="secret")

    labels = ["a red ring", "a wafer"]
    found = client("zero-shot-image-classification").zero_shot_image_classification(
        str(RING), candidate_labels=labels, hypothesis_template="a picture of {}"
    )
    expected = demo.classify([RING], labels, "a picture of {}")[0]
    assert [one.label for one in found] == [one.label for one in expected]
    assert found[0].score == pytest.approx(expected[0].probability, abs=1e-6)
    answers = client("visual-question-answering").visual_question_answering(
        image=str(RING), question="what colour is the ring?"
    )
    assert answers[0].answer == "red"
    written = client("image-to-text").image_to_text(str(SCRATCH))
    assert "scratch" in str(written.generated_text)
    with pytest.raises(Exception, match="not an image"):
        client("image-to-text").image_to_text(b"no image at all")


async def _tools(client: Client, image: str) -> dict[str, Any]:
    async with client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        calls = {
            "search": {"text": "a white square", "k": 1},
            "classify": {"image": image, "labels": ["a red ring", "a wafer"]},
            "caption": {"image": image},
            "ask": {"image": image, "question": "what colour is the ring?"},
            "locate": {"image": image, "texts": ["a red ring"]},
        }
        found: dict[str, Any] = {"tools": tools}
        for name, arguments in calls.items():
            answer = await client.call_tool(name, arguments)
            assert not answer.is_error, answer
            found[name] = answer.structured_content or json.loads(answer.content[0].text)
        bad = await client.call_tool("caption", {"image": "/nowhere.jpg"})
        found["error"] = (bad.is_error, bad.content[0].text)
    return found


def _told(found: dict[str, Any]) -> None:
    assert found["tools"] == {"search", "classify", "caption", "ask", "locate"}
    assert found["search"]["hits"][0]["path"].endswith("white-square.jpg")
    assert found["classify"]["labels"][0]["label"] == "a red ring"
    assert "red ring" in found["caption"]["caption"]
    assert found["ask"]["answer"] == "red"
    assert found["locate"]["data"][0]["regions"][0]["area"] > 500


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"label": 1},
            r"has no argument 'label' \(do you mean labels\?\); \w+ takes image, labels$",
        ),
        ({}, "classify needs the argument labels; classify takes image, labels$"),
        ({"labels": "a"}, "^labels: Input should be a valid list; classify takes image, labels$"),
    ],
)
def test_wrong_arguments_of_a_tool_are_one_sentence(arguments: dict[str, Any], said: str) -> None:
    tool = strict(Tools.classify.__get__(object()))
    given = {"image": uri(RING), **({"labels": ["a"]} if "label" in arguments else {}), **arguments}
    with pytest.raises(ToolError, match=said):
        asyncio.run(tool.run(given, None))


def test_tools_over_http(address: str) -> None:
    from mcp.client.streamable_http import streamable_http_client

    async def work() -> dict[str, Any]:
        async with httpx2.AsyncClient(headers={"Authorization": "Bearer secret"}) as http:
            return await _tools(
                Client(streamable_http_client(f"{address}/mcp", http_client=http)), uri(RING)
            )

    found = asyncio.run(work())
    _told(found)
    assert found["error"][0]
    assert "a server opens no paths" in found["error"][1]


def test_an_assistant_names_photos_as_a_search_does(demo: Model, tmp_path: Path) -> None:
    """By id or path of the index, in a tar too; by no other path unless it runs on this machine."""
    for name in ("in", "out"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(RING, "ring.jpg")
    patchword.open_index(tmp_path / "index").add([tmp_path / "in.tar"], demo)
    server = make_server(Settings(index=tmp_path / "index"))
    held, other = (f"{tmp_path}/{name}.tar/ring.jpg" for name in ("in", "out"))

    async def work() -> None:
        for tools in (Tools(server, paths=False), Tools(server, paths=True)):
            path = (await tools.search("a red ring"))["hits"][0]["path"]
            assert path == held
            found = await tools.classify(path, ["a wafer", "a red ring"])
            assert found["labels"][0]["label"] == "a red ring"
        with pytest.raises(ToolError, match="a server opens no paths"):
            await Tools(server, paths=False).classify(other, ["a wafer"])
        assert (await tools.classify(other, ["a wafer", "a red ring"]))["labels"] == found["labels"]
        with pytest.raises(ToolError, match=r"out.tar/no.jpg: not in the tar"):
            await tools.classify(f"{tmp_path}/out.tar/no.jpg", ["a wafer"])
        (tmp_path / "a ring.jpg").write_bytes(RING.read_bytes())
        address = (tmp_path / "a ring.jpg").as_uri()
        assert "%20" in address
        assert (await tools.classify(address, ["a wafer", "a red ring"]))["labels"]
        with pytest.raises(ToolError, match="not an image"):
            await Tools(server, paths=False).classify(address, ["a wafer"])

    asyncio.run(work())
    server.close()


def test_an_argument_that_a_tool_does_not_have_is_refused(folder: Path) -> None:
    """It might have been a condition, misspelt; and a file that is not there is called so."""
    server = make_server(Settings(index=folder))
    tools = tools_server(server, paths=True)

    async def work() -> None:
        every = {tool.name: tool for tool in await tools.list_tools()}
        assert all(not tool.input_schema["additionalProperties"] for tool in every.values())
        with pytest.raises(ToolError, match=r"no argument .wher. .do you mean where"):
            await tools.call_tool("search", {"text": "a ring", "wher": "width > 1"})
        assert await tools.call_tool("search", {"text": "a ring", "where": "width > 1"})
        for name in ("nope.jpg", "/nope/nope", "~/nope.jpg"):
            with pytest.raises(ToolError, match=f"{name}: no such file"):
                await tools.call_tool("caption", {"image": name})

    asyncio.run(work())
    server.close()


def test_an_assistant_is_told_what_is_wrong(demo: Model, folder: Path) -> None:
    """Small images as base64 have a / in them, as paths do; and lists have ends."""
    out = io.BytesIO()
    with Image.open(RING) as ring:
        ring.resize((24, 24)).save(out, "PNG")
    small = base64.b64encode(out.getvalue()).decode()
    assert "/" in small
    server = make_server(Settings(index=folder))
    tools = Tools(server, paths=True)
    assert tools_server(server).version == patchword.__version__
    many = [str(number) for number in range(300)]

    async def work() -> None:
        assert "caption" in await tools.caption(small)
        for wrong, expected in (
            (tools.classify(small, many), "300 items in labels"),
            (tools.ask(small, "which?", many), "300 items in answers"),
            (tools.locate(small, many), "300 items in texts"),
            (tools.locate(small, []), "texts must be a list of one or more"),
            (tools.caption("9999999999999999"), "not an image"),
            (tools.caption("missing/ring.jpg"), "missing/ring.jpg: no such file"),
        ):
            with pytest.raises(ToolError, match=expected):
                await wrong

    asyncio.run(work())
    server.close()


def test_tools_over_stdio(folder: Path, tmp_path: Path) -> None:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "patchword", "mcp", str(folder)], env=dict(os.environ)
    )
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(RING, "ring.jpg")
    found = asyncio.run(_tools(Client(stdio_client(command)), f"{tmp_path}/photos.tar/ring.jpg"))
    _told(found)
    assert found["error"] == (True, "Error executing tool caption: /nowhere.jpg: no such file")
