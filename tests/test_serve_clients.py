"""The APIs of OpenAI, Hugging Face, Cohere, Voyage, and the Model Context Protocol, by clients."""

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
from patchword.serve.mcp import Tools, strict_tool, tools_server
from patchword.serve.settings import Settings


@pytest.fixture(scope="module")
def folder(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples_index(demo, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running(create_app(Settings(index=folder, api_key="secret"))) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)


def messages(text: str, path: Path = RING) -> Any:
    picture = {"type": "image_url", "image_url": {"url": uri(path)}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, picture]}]


def test_openai_embeddings(client: openai.OpenAI, demo: Model) -> None:
    texts = ["a red ring", "a white square"]
    expected = demo.embed_texts(texts)
    found = client.embeddings.create(model="demo", input=texts)  # as base64
    np.testing.assert_allclose([each.embedding for each in found.data], expected, atol=1e-6)
    plain = client.embeddings.create(model="demo", input=texts, encoding_format="float")
    assert [each.embedding for each in plain.data] == [each.embedding for each in found.data]
    ids = demo.tokenizer.rows(texts)
    bare = [row[1:-1] for row in ids]
    for tokens in (ids, bare):
        rows = client.embeddings.create(model="demo", input=tokens).data
        np.testing.assert_allclose([each.embedding for each in rows], expected, atol=1e-6)
    single = client.embeddings.create(model="demo", input=bare[0], dimensions=demo.dim)
    np.testing.assert_allclose(single.data[0].embedding, expected[0], atol=1e-6)
    assert found.usage.prompt_tokens == sum(map(len, ids))
    with pytest.raises(openai.BadRequestError, match="vectors of 192 numbers"):
        client.embeddings.create(model="demo", input="x", dimensions=64)


def test_images_in_the_forms_of_other_embedding_apis(
    client: openai.OpenAI, address: str, demo: Model
) -> None:
    expected = demo.embed_images([RING])[0]
    infinity = client.embeddings.create(
        model="demo", input=[uri(RING)], extra_body={"modality": "image"}
    )
    bodies: list[dict[str, Any]] = [
        {"input": [{"image": sent(RING)}], "embedding_type": "float", "normalized": True},  # Jina
        {"messages": messages(""), "encoding_format": "float"},  # vLLM
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
    assert answer["usage"] == {  # Voyage's own client needs all of these
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
    colour_question = messages("what colour is the ring?")
    answer = client.chat.completions.create(model="demo-blip", messages=colour_question)
    assert answer.choices[0].message.content == "red"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    described = messages("Describe this image.", SCRATCH)
    complete = client.chat.completions.create(model="demo-blip", messages=described)
    text = patchword.load("demo-blip").caption(SCRATCH)[0].text
    assert complete.choices[0].message.content == text
    with client.chat.completions.create(
        model="demo-blip", messages=described, stream=True, stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
    words = [event.choices[0].delta.content for event in events if event.choices]
    assert "".join(word or "" for word in words) == text
    assert len(words) > 4
    assert events[-1].usage == complete.usage
    sampled = client.chat.completions.create(
        model="demo-blip", messages=described, temperature=0.5, seed=3, tool_choice="none"
    )
    assert sampled.model_extra is not None
    assert "not used here: tool_choice" in sampled.model_extra["warnings"]
    with pytest.raises(openai.BadRequestError, match="demo answers no questions"):
        client.chat.completions.create(model="demo", messages=colour_question)
    with pytest.raises(openai.BadRequestError, match="no image"):
        client.chat.completions.create(
            model="demo-blip", messages=[{"role": "user", "content": "hello"}]
        )


def test_options_of_a_chat(address: str) -> None:
    """Other forms of answers and unknown roles are refused; a text is cut before a stop text."""
    request: dict[str, Any] = {"messages": messages("what colour is the ring?")}
    key = {"x-api-key": "secret"}

    def chat(**more: Any) -> dict[str, Any]:
        body = {**request, **more}
        answer = httpx2.post(f"{address}/v1/chat/completions", json=body, headers=key)
        assert answer.status_code == (400 if "error" in answer.json() else 200)
        return dict(answer.json())

    refused: list[dict[str, Any]] = [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    ]
    for body in refused:
        assert chat(**body)["error"]["param"] == next(iter(body))
    longer = chat(response_format={"type": "text"}, max_completion_tokens=1)
    warning = "max_completion_tokens is 1, and the text has 2: texts here are not cut"
    assert longer["warnings"] == [warning]
    wrong = chat(messages=[{**request["messages"][0], "role": "usr"}])["error"]
    assert (wrong["param"], "'assistant'" in wrong["message"]) == ("messages.0.role", True)
    for stop, expected in (("d", "re"), (["x", "ed", "d"], "r"), (["x", ""], "red"), ([], "red")):
        found = chat(stop=stop)
        choice = found["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop")
        assert "warnings" not in found


def test_options_without_effect_are_warned_of(address: str) -> None:
    """Except those that are null: typed clients send all fields."""
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
        warnings = [each for each in answer.json().get("warnings", ()) if "not used" in each]
        assert warnings == ([f"not used here: {expected}"] if expected else []), body


def test_chat_with_nulls_usage_and_finish_reasons(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usage is in every chunk, null except in the last; a text that was cut has reason "length"."""
    described = messages("Describe this image.", SCRATCH)
    nulls: dict[str, Any] = {"stream": None, "n": None, "stop": None, "tools": None}
    raw = client.post(
        "/chat/completions", body={"messages": described, **nulls}, cast_to=httpx2.Response
    )
    answer = json.loads(raw.text)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert not any("not used" in each for each in answer.get("warnings", ()))
    request: dict[str, Any] = {"messages": described, "model": "demo-blip", "stream": True}
    for usage in (False, True):
        chunks = list(
            client.chat.completions.create(**request, stream_options={"include_usage": usage})
        )
        has_usage = ["usage" in chunk.model_fields_set for chunk in chunks]
        assert has_usage == [usage] * len(chunks)
        assert [chunk.usage is None for chunk in chunks[:-1]] == [True] * (len(chunks) - 1)
    monkeypatch.setattr("patchword.serve.jobs.MAX_LENGTH", 6)
    cut = client.chat.completions.create(model="demo-blip", messages=described).choices[0]
    assert cut.finish_reason == "length"
    assert str(answer["choices"][0]["message"]["content"]).startswith(str(cut.message.content)[:8])
    ends = [chunk.choices[0].finish_reason for chunk in client.chat.completions.create(**request)]
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
    assert [score.label for score in found] == [score.label for score in expected]
    assert found[0].score == pytest.approx(expected[0].probability, abs=1e-6)
    answers = client("visual-question-answering").visual_question_answering(
        image=str(RING), question="what colour is the ring?"
    )
    assert answers[0].answer == "red"
    written = client("image-to-text").image_to_text(str(SCRATCH))
    assert "scratch" in str(written.generated_text)
    with pytest.raises(Exception, match="not an image"):
        client("image-to-text").image_to_text(b"no image at all")


async def call_tools(client: Client, image: str) -> dict[str, Any]:
    """The names of all tools, the result of each, and that of a call that fails."""
    async with client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        calls = {
            "search": {"text": "a white square", "k": 1},
            "classify": {"image": image, "labels": ["a red ring", "a wafer"]},
            "caption": {"image": image},
            "ask": {"image": image, "question": "what colour is the ring?"},
            "locate": {"image": image, "texts": ["a red ring"]},
        }
        results: dict[str, Any] = {"tools": tools}
        for name, arguments in calls.items():
            answer = await client.call_tool(name, arguments)
            assert not answer.is_error, answer
            results[name] = answer.structured_content or json.loads(answer.content[0].text)
        bad = await client.call_tool("caption", {"image": "/nowhere.jpg"})
        results["error"] = (bad.is_error, bad.content[0].text)
    return results


def check_results(found: dict[str, Any]) -> None:
    assert found["tools"] == {"search", "classify", "caption", "ask", "locate"}
    assert found["search"]["hits"][0]["path"].endswith("white-square.jpg")
    assert found["classify"]["labels"][0]["label"] == "a red ring"
    assert "red ring" in found["caption"]["caption"]
    assert found["ask"]["answer"] == "red"
    assert found["locate"]["data"][0]["regions"][0]["area"] > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"label": 1},
            r"has no argument 'label' \(do you mean labels\?\); \w+ takes image, labels$",
        ),
        ({}, "classify needs the argument labels; classify takes image, labels$"),
        ({"labels": "a"}, "^labels: Input should be a valid list; classify takes image, labels$"),
    ],
)
def test_wrong_arguments_of_a_tool(arguments: dict[str, Any], message: str) -> None:
    tool = strict_tool(Tools.classify.__get__(object()))
    arguments = {"image": uri(RING), **arguments}
    if "label" in arguments:
        arguments["labels"] = ["a"]
    with pytest.raises(ToolError, match=message):
        asyncio.run(tool.run(arguments, None))


def test_tools_over_http(address: str) -> None:
    from mcp.client.streamable_http import streamable_http_client

    async def work() -> dict[str, Any]:
        async with httpx2.AsyncClient(headers={"Authorization": "Bearer secret"}) as http:
            return await call_tools(
                Client(streamable_http_client(f"{address}/mcp", http_client=http)), uri(RING)
            )

    found = asyncio.run(work())
    check_results(found)
    assert found["error"][0]
    assert "a server opens no paths" in found["error"][1]


def test_paths_as_images_of_tools(demo: Model, tmp_path: Path) -> None:
    """Paths of the index, also in a tar; other paths only for an assistant on this machine."""
    for name in ("in", "out"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(RING, "ring.jpg")
    patchword.open_index(tmp_path / "index").add([tmp_path / "in.tar"], demo)
    server = make_server(Settings(index=tmp_path / "index"))
    indexed, other = (f"{tmp_path}/{name}.tar/ring.jpg" for name in ("in", "out"))

    async def work() -> None:
        for tools in (Tools(server, paths=False), Tools(server, paths=True)):
            path = (await tools.search("a red ring"))["hits"][0]["path"]
            assert path == indexed
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


def test_misspelt_arguments_and_missing_files(folder: Path) -> None:
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


def test_base64_like_a_path_and_limits_of_lists(demo: Model, folder: Path) -> None:
    """Small images in base64 may contain a / like paths."""
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
    found = asyncio.run(
        call_tools(Client(stdio_client(command)), f"{tmp_path}/photos.tar/ring.jpg")
    )
    check_results(found)
    assert found["error"] == (True, "Error executing tool caption: /nowhere.jpg: no such file")
