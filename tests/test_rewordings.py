"""Other wordings of the questions that demo-blip knows are answered as those, or warned of."""

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import skimage
from cli_runner import Run

import patchword
from patchword import CheckpointError, ScopeWarning
from patchword.checkpoints import scope_files
from patchword.scenes import scene
from patchword.scope import Scope, is_possible

ASSETS = Path(patchword.__file__).parent / "assets"
WAFER = str(ASSETS / "samples" / "wafers" / "scratch-1.jpg")
CAT = str(Path(skimage.data_dir) / "chelsea.png")
PERFECT = str(ASSETS / "samples" / "wafers" / "perfect-1.jpg")
LISTS = Path(__file__).parents[1] / "benchmarks"
FILL = {"a": "orange circle", "b": "blue star", "colour": "orange", "shape": "circle"}


@pytest.fixture(scope="module")
def scope() -> Scope:
    found = scope_files.read(ASSETS / "demo-blip")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model() -> patchword.Model:
    return patchword.load("demo-blip")


def listed(name: str) -> list[tuple[str, str, bool]]:
    """(known question or "-", wording, whether it is answered the other way round)."""
    known, out = "", []
    for line in (LISTS / name).read_text().splitlines():
        if not line.startswith(("#", " ")):
            known = line
        elif line.startswith(" "):
            slots = {**FILL, "a": "an orange circle"} if "is there {a}" in known else FILL
            text = line.strip()
            out.append(
                (known.format(**slots), text.removeprefix("!").format(**slots), text[0] == "!")
            )
    return out


def test_a_rule_never_takes_a_question_for_another_one(scope: Scope) -> None:
    understood = 0
    for name in ("questions.txt", "questions_others.txt"):
        for known, wording, opposite in listed(name):
            taken = (wording, False) if scope.is_known(wording) else scope.understood(wording)
            if known == "-":
                assert taken is None, wording
            elif taken is not None and not scope.is_known(wording):
                assert taken == (known, opposite), wording
                understood += 1
    assert understood >= 200


def test_what_only_looks_like_a_known_form(scope: Scope) -> None:
    assert scope.is_known("Is there an orange ring?")
    for question in ("is there a red shape?", "what colour is the shape?", "where is the shape?"):
        assert not scope.is_known(question)


def test_answers(model: patchword.Model) -> None:
    """The rows that a person tried: each answered as if it had been asked as the model knows it."""
    asked = {
        "is there a defect?": "yes",
        "is this wafer good?": "no",
        "what defect?": "scratch",
        "Does the wafer have a defect?": "yes",
        "What colour is the wafer?": "",
        "what color is it?": "",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScopeWarning)
        found = model.ask(WAFER, list(asked))
    assert [answer.text for answer in found[:4]] == list(asked.values())[:4]
    assert found[4].text == found[5].text
    assert found[0].understood == "is the wafer perfect?"
    assert found[4].understood == ""
    plain = model.ask(WAFER, "is the wafer perfect?")
    assert (plain.text, plain.log_probability) == ("no", found[0].log_probability)
    assert model.ask(PERFECT, "is there a defect?").text == "no"


def test_chosen_answers_change_places(model: patchword.Model) -> None:
    plain = model.ask(WAFER, "is the wafer perfect?", ["yes", "no"])
    turned = model.ask(WAFER, "is there a defect?", ["yes", "no"])
    assert (plain.text, turned.text) == ("no", "yes")
    assert [c.probability for c in turned.ranking] == [c.probability for c in plain.ranking]
    assert [c.text for c in turned.ranking] == ["yes", "no"]
    with pytest.warns(ScopeWarning, match="not trained on questions like 'is there a defect"):
        other = model.ask(WAFER, "is there a defect?", ["scratch", "stain"])
    assert other.understood == ""


@pytest.mark.parametrize("answers", [["Yes", "No"], ["NO", "YES"], [" no ", "Yes"]])
def test_chosen_answers_change_places_however_they_are_written(
    model: patchword.Model, answers: list[str]
) -> None:
    usual = model.ask(WAFER, "is there a defect?", ["yes", "no"])
    turned = model.ask(WAFER, "is there a defect?", answers)
    assert turned.text in answers
    assert turned.text.strip().lower() == "yes"
    assert {c.text for c in turned.ranking} == set(answers)
    assert turned.ranking[0].probability == pytest.approx(usual.ranking[0].probability)
    alone = model.ask(WAFER, "is there a defect?", answers, shortlist=1)
    assert [c.text for c in alone.ranking] == [turned.text]


def test_what_is_not_understood_is_warned_of(model: patchword.Model) -> None:
    questions = ["isn't the wafer perfect?", "is there a dog?"]
    with pytest.warns(ScopeWarning) as told:
        answers = model.ask(WAFER, questions)
    assert [answer.text for answer in answers] == ["does not know"] * 2
    public = replace(model, scope=None).ask(WAFER, questions)
    assert [answer.declined for answer in answers] == [answer.text for answer in public]
    first, second = (str(one.message) for one in told)
    assert 'not trained on questions like "isn\'t the wafer perfect?"' in first
    assert "(the word dog is unknown to it)" in second
    assert "but on such as 'is there a" in second


@pytest.mark.parametrize(
    ("question", "fitting", "other"),
    [
        ("Is there a dog?", "no", "trousers"),
        ("is it large or small?", "small", "yes"),
        ("what color is it?", "dark blue", "a skirt"),
        ("what's the colour of the sky?", "grey", "pair of shoes"),
        ("how many birds are there?", "3", "yes"),
        ("how many shoes are there?", "two", "no"),
        ("what shape is red?", "circle", "red"),
        ("where is it?", "top", "red"),
        ("how large is it?", "small", "a hat"),
        ("what colours are the shapes?", "red", "two"),
    ],
)
def test_what_can_be_an_answer(scope: Scope, question: str, fitting: str, other: str) -> None:
    assert is_possible(question, fitting, scope.slots)
    assert not is_possible(question, other, scope.slots)
    assert not is_possible("who is this?", fitting, scope.slots)
    assert is_possible("what is this?", other, scope.slots)


def test_what_can_be_no_answer_is_not_given(model: patchword.Model) -> None:
    """Of all questions of the training the model's own answers are of the right kind."""
    with pytest.warns(ScopeWarning):
        found = model.ask(CAT, ["is there a dog?", "what is this?"])
    assert (found[0].text, found[0].declined) == ("does not know", found[1].text)
    assert found[1].declined == ""
    public = replace(model, scope=None)
    assert public.ask(CAT, "is there a dog?").text == found[1].text
    for number in range(60):
        for question, answer in scene(5, number).questions:
            assert is_possible(question, answer, model.scope.slots), (question, answer)


def test_command(run: Run) -> None:
    done = run("ask", WAFER, "is there a defect?", "is the wafer perfect?", "--json")
    assert [r.get("understood") for r in done.records] == ["is the wafer perfect?", None]
    assert [r["answer"] for r in done.records] == ["yes", "no"]
    assert "'is there a defect?' was asked as 'is the wafer perfect?'" in done.err


def test_rules_are_kept_and_damaged_ones_refused(scope: Scope, tmp_path: Path) -> None:
    scope_files.save(scope, tmp_path)
    again = scope_files.read(tmp_path)
    assert again is not None
    assert again.rewordings == scope.rewordings
    assert again.substitutions == scope.substitutions
    shutil.copytree(ASSETS / "demo-blip", tmp_path / "model")
    stated = json.loads((tmp_path / "model" / "scope.json").read_text())
    stated["rewordings"][0][0] = "("
    (tmp_path / "model" / "scope.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match="are not the scope of a model"):
        patchword.load(tmp_path / "model")
    bare = replace(scope, rewordings=(), substitutions=())
    assert bare.understood("is there a defect?") is None
    assert re.search("wafer", scope.nearest_question("is the wafer ok?"))
