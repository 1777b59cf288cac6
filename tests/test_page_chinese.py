"""The Chinese page can translate the server's texts: they are read from the source, and one that
`chinese.json` lacks fails here."""

import ast
import re
import warnings
from collections.abc import Iterator
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import patchword
from patchword.errors import PatchwordError
from patchword.finite import reason
from patchword.images import kinds
from patchword.index.cluster_names import phrases
from patchword.index.common_labels import COMMON_LABELS
from patchword.inspect import acquisition
from patchword.inspect.acquisition import Appearance, GoodPhoto, InspectedPhoto
from patchword.inspect.calibration import Calibration, Judge, Rule
from patchword.scope.report import ScopeReport, warn_of_stored
from patchword.serve.models import why_not
from patchword.serve.page import translations
from patchword.serve.request_warnings import collect_warnings
from patchword.visible_area import Sight, noted

SOURCE = Path(str(files("patchword")))
TABLES = {
    kind: [(re.compile(found.replace("(?<", "(?P<"), re.DOTALL), told) for _, found, told in rows]
    for kind, rows in translations().items()
}
# Not translated: names, and what users have typed.
NAME = re.compile(
    r"\S+\.(jpg|png)\b|#\w{6}|demo(-blip)?\b|'[^']*'|\"[^\"]*\"|zeppelin|volcano|meaning|life|person|wearing|scr?a?tch"
)

# Files whose sentences the page can show.
FILES = (
    *(
        f"serve/{name}.py"
        for name in ("collection", "decoding", "middleware", "inspection", "jobs")
    ),
    *(
        f"serve/{name}.py"
        for name in ("models", "photos", "localisation", "queue", "security", "server")
    ),
    *(f"images/{name}.py" for name in ("decode", "dicom", "high_bit_depth", "npy", "pillow")),
    *("images/raws.py", "images/unreadable.py", "images/tiff.py", "text/long_text.py", "bundle.py"),
    *(f"tasks/{name}.py" for name in ("ask", "caption", "classify", "label_cache", "match")),
    *("where/auto.py", "where/heatmap.py", "where/locate.py", "where/segment.py"),
    *("index/condition.py", "index/duplicates.py", "inspect/bank.py"),
)
# Functions whose arguments are sentences, and functions that return one.
SAY = {"RefusalError", "RefusedError", "refuse_if", "UnsupportedError", "IndexStoreError", "warn"}
SAY |= {"refused", "check_length"}
RETURN = {"_reason", "warning"}
# The beginnings of sentences that no request of the page causes.
NEVER = (
    "Content-Encoding",
    "give good photos, ",
    "7 has the 7 7, not",
    "7 must be a list of one or more",
    "7; a request may have 7 prompts",
    "characters of ",
    "7 is of labels, and none are given",
    "7 can only be given with labels",
    "7 is shown the whole of each image already",
    "7 is what reject answers by itself",
    "7 has no classes of its own",
    "labels must be a list, not one string",
    "texts must be a list of one or more",
    "7s must be a list of one or more",
    "start is 7",
    "7 has no token [ENC]",
    "beams, max_length and the like",
    "shortlist is of answers",
    "give text, image, or both",
    "all weights of what is looked for",
    "this server has no index",
    "this server fetches no addresses",
    "nothing fitted is called",
    "7 gives vectors of 7 numbers",
    "long_text is 7",
    "no heatmap method 7",
    "7 has no head for maps",
    "method 7 has no",
    "7 is 7; it is",
    "logit_scale is 7",
    "like ",
    "like_image ",
    "layer is of methods",
    "words is of method",
    "present and negatives",
    "no pixel 7, 7",
    "a heatmap needs",
    "locate needs",
    "segment needs",
    "boxes are scored as they are",
    "box 7",
    "not a regular file",
    "a file of text",
    "no page 7",
    "no page 0",
    "a URL",
    "not an image: give a path",
    "shape 7 is neither (H, W)",
    "an array",
    "7 array: convert it",
)


def chinese(text: str, kind: str = "sentences") -> str | None:
    """The translation of static/translation.js; None if there is none."""
    for pattern, words in TABLES[kind]:
        if found := pattern.fullmatch(text):
            inner = {
                name: chinese(part, kind if kind == "names" else "parts") or part
                for name, part in found.groupdict().items()
            }
            for name, part in found.groupdict().items():
                words = words.replace(f"{{{name}}}", part).replace(f"[{name}]", inner[name])
            return words
    return None


def check(sentence: str) -> None:
    """Check that a sentence has a translation in which only names are English."""
    translation = chinese(sentence)
    assert translation, f"chinese.json has no Chinese for: {sentence}"
    assert not re.search(r"[A-Za-z]{2,}", NAME.sub("", translation)), translation


def literal(node: ast.AST) -> str:
    """A text in the source, with 7 for each value in it; "" for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "7" for v in node.values)
    if isinstance(node, ast.BinOp):
        return literal(node.left) + (literal(node.right) or "7")
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def sentences_of(path: str) -> Iterator[str]:
    """The sentences in a file that are arguments of `SAY`, or returned by `RETURN`."""
    tree = ast.parse((SOURCE / path).read_text("utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values.setdefault(node.targets[0].id, []).append(node.value)
        for node in ast.walk(function):
            expressions: list[ast.expr] = []
            prefix = ""
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                called = node.func.id if isinstance(node.func, ast.Name) else called
                expressions = node.args if called in SAY else []
                prefix = "7: " if called == "warn" and path.startswith("images/") else ""
            elif isinstance(node, ast.Return) and function.name in RETURN:
                expressions = [node.value] if node.value else []
            for expression in expressions:
                assigned = [expression]
                if isinstance(expression, ast.Name):
                    assigned = values.get(expression.id, [])
                texts = map(literal, assigned)
                yield from (prefix + text for text in texts if re.search(r"[a-z] [a-z]", text))


@pytest.mark.parametrize("path", FILES)
def test_every_sentence_has_a_chinese_form(path: str) -> None:
    sentences = [text for text in sentences_of(path) if not text.startswith(NEVER)]
    kinds = ("sentences", "parts") if path == "index/condition.py" else ("sentences",)
    missing = [text for text in sentences if not any(chinese(text, kind) for kind in kinds)]
    assert missing == []


def test_every_exception_is_a_sentence() -> None:
    found = [text for path in FILES for text in sentences_of(path)]
    assert [start for start in NEVER if not any(text.startswith(start) for text in found)] == []


def looks(count: int, **other: float) -> list[Appearance]:
    """How photos were taken: each with pixels of its own, and otherwise alike."""
    alike = {"height": 100, "width": 100, "grey": 0.0, "brightness": 100.0, "contrast": 20.0}
    return [Appearance(f"{number}{other}", **{**alike, **other}) for number in range(count)]  # type: ignore[arg-type]


def test_every_remark_of_inspect_has_a_chinese_form() -> None:
    """Also a new one: every text in `acquisition` must occur in the remarks of this test."""
    same, grey = looks(4), looks(4, grey=1.0)
    others = [
        *looks(1, width=150), *looks(1, height=150), *looks(1, width=150, height=150),
        *looks(1, brightness=30.0), *looks(1, contrast=90.0), *grey,
    ]  # fmt: skip
    sizes = [*looks(2, width=96), *looks(2, width=104, height=96)]
    levels = [*looks(2, brightness=95.0), *looks(2, brightness=105.0)]
    remarks = list[str]()
    for good, new in product(
        (same, grey, [same[0]] * 2, [same[0]] * 3, sizes, levels), (others, same)
    ):
        for count in (1, 2, len(new)):
            for first in range(len(new) - count + 1):
                photos = [
                    InspectedPhoto(f"{n}.jpg", "", look, look in good)
                    for n, look in enumerate(new[first : first + count])
                ]
                remarks += acquisition.remarks([GoodPhoto("", look) for look in good], photos)
    dim = [
        InspectedPhoto(f"{n}.jpg", "", look, False)
        for n, look in enumerate(looks(9, brightness=85.0))
    ]
    spread = [
        GoodPhoto("", look) for level in range(90, 111, 2) for look in looks(2, brightness=level)
    ]
    remarks += acquisition.remarks(spread, dim)
    remarks += acquisition.remarks(
        spread, [*dim, InspectedPhoto("x.jpg", "", looks(1, brightness=9.0)[0], False)]
    )
    for remark in set(remarks):
        check(remark)
    all_remarks = " ".join(remarks)
    for node in ast.walk(ast.parse((SOURCE / "inspect/acquisition.py").read_text("utf-8"))):
        for piece in literal(node).split("7") if isinstance(node, ast.JoinedStr) else []:
            if piece.count(" ") > 1:
                assert piece in all_remarks


def test_what_verdicts_guarantee_has_a_chinese_form() -> None:
    calibrations = (
        Calibration("none"),
        Calibration("cross-validated", (1.0, 2.0, 3.0), names=("a.png", "b.png", "c.png")),
        *(Calibration("held out", tuple(np.arange(count, dtype=float))) for count in (9, 200)),
    )
    for calibration, rule in product(calibrations, (Rule(), Rule(confidence=0.9))):
        for sentence in re.split(
            r"(?<=\.) (?=[A-Z])", " ".join(Judge(calibration, rule).guarantee())
        ):
            check(sentence)


def test_warnings_have_chinese_forms() -> None:
    model, writer = patchword.load("demo"), patchword.load("demo-blip")
    assert model.scope is not None
    photo = (np.indices((900, 1200)).sum(0) % 2 * 255).astype(np.uint8)
    inspector = patchword.inspector(model, [], "mutual")
    with warnings.catch_warnings(), collect_warnings() as caught:
        warnings.simplefilter("always")
        report = ScopeReport()
        report.check_words("demo", model.scope, ["a zeppelin over a volcano, and a scrtch"])
        report.check_words("demo", model.scope, ["a red dress", "a ring and a hat"])
        for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"):
            report.add_image("demo", model.scope, name, True)
            report.tell()
        report.add_image("demo", model.scope, "f.jpg", True, "good photos")
        report.add_image("demo", model.scope, "g.jpg", False)
        report.tell()
        warn_of_stored("demo", model.scope, {"c.jpg": True, "d.jpg": True})
        with noted() as sights:
            sights.note(Sight.whole("e.jpg", np.zeros((9, 9, 3), np.uint8)))
        for photos in ([photo], [photo] * 4):
            model.similarity(photos, ["a ring " * 40, *["a hat"] * (len(photos) - 1)])
        model.locate(photo[:90, :90], ["a dress"])
        model.classify(photo, ["A ring", "a Ring"])
        for question in (
            "这是什么?",
            "what's the meaning of life?",
            "is there a wafer and a scrtch?",
        ):
            writer.ask(photo[:90, :90], question)
        writer.ask(np.asarray(photo[:300, :300]), "what is the person wearing?")
        inspector.smallest = 9.0
        caught.append(inspector.seen_small())
    assert len(caught) > 20
    for warning in caught:
        check(re.sub(r"image (\d+)", r"\1.jpg", warning))


def test_refusals_of_files_and_models_have_chinese_forms() -> None:
    for kind in (each for each in vars(kinds).values() if isinstance(each, kinds.Kind)):
        if kind.advice:
            assert chinese(kinds.refusal(kind))
    for name in ("demo", "demo-blip"):
        for why in why_not(patchword.load(name)).values():
            assert chinese(why)
    network = torch.nn.Linear(1, 1)
    for dtype in (torch.float32, torch.bfloat16):
        assert chinese(reason("demo", dtype, network, "a text"))
        torch.nn.init.constant_(network.weight, float("nan"))
        assert chinese(reason("demo", dtype, network))
        torch.nn.init.constant_(network.weight, 0.0)
    with pytest.raises(PatchwordError) as error:
        patchword.load("demo").caption("x.jpg")
    assert "Salesforce" in str(chinese(str(error.value)))


def test_names_of_clusters_have_chinese_forms() -> None:
    scope = patchword.load("demo").scope
    assert scope is not None
    levels = (level for each in phrases(scope) for level in each.names)
    for name in {*COMMON_LABELS, *(name for level in levels for name in level)}:
        for called in (name, f"{name}, like a.jpg"):
            translation = chinese(called, "names")
            assert translation, name
            assert not re.search(r"[a-z]{2,}", NAME.sub("", translation)), translation
    assert (
        chinese("unlike what demo knows, like a.jpg", "names") == "与 demo 所认识的不同，例如 a.jpg"
    )
    assert chinese("unnamed, like a.jpg", "names") == "未命名，例如 a.jpg"
    assert chinese("cluster 3", "names") == "第 3 组"


def test_the_chinese_has_the_gaps_of_the_english() -> None:
    for table in TABLES.values():
        for pattern, words in table:
            used = re.findall(r"[{\[](\w+)[}\]]", words)
            assert set(used) <= set(pattern.groupindex), words
