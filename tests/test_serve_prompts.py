"""What the text beside an image asks for: an answer, or a description."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from local_server import AT, RING, uri

import patchword
from patchword.serve.app import create_app
from patchword.serve.prompts import is_of_the_whole, is_question
from patchword.serve.settings import Settings

WHOLE = [
    "What is in this image?", "What's in this image?", "What’s in this image", "What is this?",
    "What do you see?", "What can you see in the picture?", "What does this image show?",
    "What is shown in this photo?", "What is happening here?", "What is this a picture of?",
    "What am I looking at?", "Can you describe this image?", "Please tell me what you see?",
    "Could you please describe the attached image?", "这张图片里有什么?", "图片里有什么",
    "图中有什么东西？", "这是什么？", "你看到了什么？", "这张照片显示了什么？",
    "图片的内容是什么？", "请描述一下这张图片", "你能描述一下这张图片吗？",
]  # fmt: skip
QUESTIONS = [
    "what colour is the ring?", "what shape is red?", "what is the defect in this image?",
    "What is in the left half of this image?", "what is above the ring?", "what colour is this?",
    "is this a photo?", "how many rings do you see?", "can you see a ring in this image?",
    "what is this made of?", "what is the colour of this image?", "图片里有戒指吗？",
    "这是什么颜色的？", "图里有几个圆？",
]  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models=("demo", "demo-blip"))), base_url=AT) as found:
        yield found


@pytest.fixture(scope="module")
def caption() -> str:
    return patchword.load("demo-blip").caption(RING)[0].text


def said(client: TestClient, text: str) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": uri(RING)}},
    ]
    body = {"messages": [{"role": "user", "content": parts}]}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_what_asks_for_the_whole_is_told_from_questions() -> None:
    assert [text for text in WHOLE if not is_of_the_whole(text)] == []
    assert [text for text in QUESTIONS if is_of_the_whole(text) or not is_question(text)] == []


@pytest.mark.parametrize("text", [*WHOLE, "Describe what you see."])
def test_what_asks_for_the_whole_gets_a_caption(
    client: TestClient, caption: str, text: str
) -> None:
    answer = said(client, text)
    assert text_of(answer) == caption
    assert not any("request for a caption" in each for each in answer.get("warnings", ()))


def test_a_question_gets_an_answer(client: TestClient) -> None:
    assert text_of(said(client, "what colour is the ring?")) == "red"
    assert text_of(said(client, "is there a red ring?")) == "yes"
