"""Whether the text beside an image gets an answer or a caption."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from local_server import AT, RING, uri

import patchword
from patchword.serve.app import create_app
from patchword.serve.prompts import asks_for_caption, describes, is_question
from patchword.serve.settings import Settings

CAPTION_PROMPTS = [
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
    with TestClient(create_app(Settings(models=("demo", "demo-blip"))), base_url=AT) as client:
        yield client


def chat(client: TestClient, text: str) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": uri(RING)}},
    ]
    body = {"messages": [{"role": "user", "content": parts}]}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_questions_about_the_whole_image_are_distinguished_from_others() -> None:
    prompts = [*CAPTION_PROMPTS, "Describe what you see."]
    assert [text for text in CAPTION_PROMPTS if not asks_for_caption(text)] == []
    assert [text for text in prompts if not describes(text)] == []  # none is warned of
    assert [text for text in QUESTIONS if asks_for_caption(text) or not is_question(text)] == []


@pytest.mark.parametrize(
    "text", ["What is in this image?", "图片里有什么", "Describe what you see."]
)
def test_a_question_about_the_whole_image_gets_a_caption(client: TestClient, text: str) -> None:
    answer = chat(client, text)
    assert text_of(answer) == patchword.load("demo-blip").caption(RING)[0].text
    assert not any("request for a caption" in each for each in answer.get("warnings", ()))


def test_a_question_gets_an_answer(client: TestClient) -> None:
    assert text_of(chat(client, "what colour is the ring?")) == "red"
    assert text_of(chat(client, "is there a red ring?")) == "yes"
