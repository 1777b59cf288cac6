"""The server's page without a browser: its languages, texts and policy. Tests with a browser are in
tests/page: `make check-page`."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from local_server import AT

from patchword.serve.app import create_app
from patchword.serve.page import TABS, language, words
from patchword.serve.settings import Settings

FILES = Path(str(files("patchword.serve")))
SCRIPTS = "\n".join(path.read_text("utf-8") for path in sorted(FILES.glob("static/**/*.js")))
TEMPLATES = "\n".join(path.read_text("utf-8") for path in sorted(FILES.glob("templates/**/*.html")))


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app(Settings()), base_url=AT)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.5", "en"),
        ("fr,zh-TW;q=0.3", "zh"),
        ("fr", "en"),
        ("zh;q=0", "en"),
        ("zh;q=x", "en"),
        ("", "en"),
    ],
)
def test_the_browsers_language(accepted: str, chosen: str) -> None:
    assert language(accepted) == chosen


def test_the_page_is_in_the_browsers_language(client: TestClient) -> None:
    english = client.get("/", headers={"Accept-Language": "de,en;q=0.5"})
    chinese = client.get("/", headers={"Accept-Language": "zh"})
    assert (english.headers["Content-Language"], chinese.headers["Content-Language"]) == (
        "en",
        "zh-CN",
    )
    assert '<html lang="zh-CN">' in chinese.text
    for tab in TABS:
        assert f">{words()[tab]['en']}</button>" in english.text
        assert f">{words()[tab]['zh']}</button>" in chinese.text
    assert client.get("/?lang=zh", headers={"Accept-Language": "en"}).text == chinese.text


def test_no_text_is_missing_or_unused() -> None:
    used = set(re.findall(r"\bt\.(\w+)", TEMPLATES))
    used |= {f"about_{tab}" for tab in TABS} | set(TABS) | {f"send_{tab}" for tab in TABS[:5]}
    for call in re.findall(r"\bt\(([^,)]*)", SCRIPTS):  # t("a"), t(b ? "c" : "d")
        used |= set(re.findall(r'"(\w+)"', call))
    columns = re.search(r"LABELS = \{.*?\}", SCRIPTS)
    assert columns
    used |= set(re.findall(r'"(\w+)"', columns.group()))
    assert used == set(words())
    for key, texts in words().items():
        assert set(texts) == {"en", "zh"}, key
        gaps = [sorted(re.findall(r"\{(\w+)\}", text)) for text in texts.values()]
        assert gaps[0] == gaps[1], key


def test_the_policy_and_no_inline_scripts_or_other_sites(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", answer.text)
    assert re.findall(r"<script[^>]*>", answer.text) == [
        '<script type="application/json" id="words">',
        '<script type="application/json" id="translations">',
        '<script type="module" src="/static/main.js">',
    ]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", SCRIPTS)
    assert not re.search(r"https?://", SCRIPTS)
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert client.get(path).status_code == 200
