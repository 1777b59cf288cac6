"""The server's page without a browser: its two languages, its words, its policy. With one:
tests/page, `make check-page`."""

import re
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import patchword
from patchword.inspect.calibration import Calibration, Judge, Rule
from patchword.scope.remarks import Told, stored
from patchword.serve.heard import heard
from patchword.serve.page import TABS, add_page, language, words
from patchword.unseen import Sight, noted

FILES = Path(str(files("patchword.serve")))
SCRIPTS = "\n".join(path.read_text("utf-8") for path in sorted(FILES.glob("static/**/*.js")))
TEMPLATES = "\n".join(path.read_text("utf-8") for path in sorted(FILES.glob("templates/**/*.html")))


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    add_page(app)
    return TestClient(app)


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


def test_the_page_is_written_in_it(client: TestClient) -> None:
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


def test_no_word_is_missing_or_left_over() -> None:
    used = set(re.findall(r"\bt\.(\w+)", TEMPLATES))
    used |= {f"about_{tab}" for tab in TABS} | set(TABS) | {f"send_{tab}" for tab in TABS[:5]}
    for call in re.findall(r"\bt\(([^,)]*)", SCRIPTS):  # t("a"), t(b ? "c" : "d")
        used |= set(re.findall(r'"(\w+)"', call))
    columns = re.search(r"KNOWN = \{.*?\}", SCRIPTS)
    assert columns
    used |= set(re.findall(r'"(\w+)"', columns.group()))
    assert used == set(words())
    for key, texts in words().items():
        assert set(texts) == {"en", "zh"}, key
        gaps = [sorted(re.findall(r"\{(\w+)\}", text)) for text in texts.values()]
        assert gaps[0] == gaps[1], key


def sentences_of(name: str) -> dict[str, re.Pattern[str]]:
    """What a table of the scripts looks for, by the key of its words."""
    found = re.search(rf"const {name} = \{{(.*?)\n\}};", SCRIPTS, re.DOTALL)
    assert found
    return {
        key: re.compile(pattern.replace("(?<", "(?P<"))
        for key, pattern in re.findall(r"(\w+): /(.*)/,", found[1])
    }


def test_the_page_knows_what_verdicts_guarantee() -> None:
    """Every sentence; in English its words are the server's."""
    known, met = sentences_of("GUARANTEED"), set[str]()
    calibrations = (
        Calibration("none"),
        Calibration("cross-validated", (1.0, 2.0, 3.0), names=("a.png", "b.png", "c.png")),
        *(Calibration("held out", tuple(np.arange(count, dtype=float))) for count in (9, 200)),
    )
    for calibration in calibrations:
        said = " ".join(Judge(calibration, Rule()).guarantee())
        for key, pattern in known.items():
            if found := pattern.search(said):
                met.add(key)
                assert words()[key]["en"].format(**found.groupdict()) == found[0]
                said = said.replace(found[0], "")
        assert not said.strip(), said
    assert met == set(known)


def test_the_page_knows_the_servers_warnings(client: TestClient) -> None:
    """In its own language; the sentences that it looks for are those that are said."""
    known = sentences_of("SAID")
    scope = patchword.load("demo").scope
    assert scope is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told = Told()
        told.words("demo", scope, ["a zeppelin over a volcano"])
        told.image("demo", scope, "a.jpg", True)
        told.tell()
        told.image("demo", scope, "b.jpg", False)
        told.tell()
        stored("demo", scope, {"c.jpg": True, "d.jpg": True})
        with noted() as sights:
            sights.note(Sight.whole("e.jpg", np.zeros((9, 9, 3), np.uint8)))
    sentences = [str(each.message) for each in caught] + told.sentences()
    keys = [[key for key, pattern in known.items() if pattern.match(one)] for one in sentences]
    unlike = ["unlike_training"]
    expected = [["unknown_words"], ["unlike_alone"], unlike, unlike, ["one_colour"], unlike]
    assert keys == expected
    found = known["unlike_training"].match(sentences[2])
    assert found
    groups = found.groupdict()
    assert (groups["some"], groups["all"], groups["names"]) == ("1", "2", "a.jpg")
    for key, pattern in known.items():
        assert set(pattern.groupindex) == set(re.findall(r"\{(\w+)\}", words()[key]["zh"]))


def test_the_page_knows_the_warning_of_unlike_questions() -> None:
    pattern = sentences_of("SAID")["unlike_questions"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = np.zeros((9, 9, 3), np.uint8)
        for question in ("这是什么?", "what's the meaning of life?"):
            patchword.load("demo-blip").ask(image, question)
    asked = [found for each in caught if (found := pattern.match(str(each.message)))]
    assert [found["question"] for found in asked] == ["这是什么?", "what's the meaning of life?"]
    assert asked[0]["model"] == "demo-blip"


def test_the_page_knows_the_warnings_of_large_and_long() -> None:
    """As the server says them, which advises nothing that a page cannot do."""
    known, model = sentences_of("SAID"), patchword.load("demo")
    photo = (np.indices((900, 1200)).sum(0) % 2 * 255).astype(np.uint8)
    with warnings.catch_warnings(), heard() as said:
        warnings.simplefilter("always")
        for photos in ([photo], [photo, photo]):
            model.similarity(photos, ["a ring " * 40, *["a hat"] * (len(photos) - 1)])
        model.locate(photo[:90, :90], ["a dress"])
        inspector = patchword.inspector(model, [], "winclip")
        inspector.smallest = 9.0
        seen = inspector.seen_small()
    met: dict[str, set[str]] = {}
    for one in [*said, seen]:
        (key,) = [key for key, pattern in known.items() if pattern.match(one)]
        met.setdefault(key, set()).add(one)
    assert [len(met[key]) for key in ("seen_in_part", "seen_small", "text_cut")] == [2, 2, 2]
    assert met.keys() >= {"defects_small", "hardly_placed"}


def test_nothing_runs_or_comes_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", answer.text)
    assert re.findall(r"<script[^>]*>", answer.text) == [
        '<script type="application/json" id="words">',
        '<script type="module" src="/static/main.js">',
    ]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", SCRIPTS)
    assert not re.search(r"https?://", SCRIPTS)
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert client.get(path).status_code == 200
