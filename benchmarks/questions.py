"""Other wordings of questions that demo-blip knows: how many are answered right, warned about, or
neither.

    python benchmarks/questions.py [--each 6]

questions.txt was written before the rules (`tools/rewordings.py`), questions_others.txt after them;
the last part of the second has questions that are close to a known one but mean something else.
Each wording is asked about --each scenes, unseen in training, that answer the known question.
Wordings about clothing, which no scene shows, are only counted as understood or warned about.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import patchword
from patchword import ScopeWarning
from patchword.scenes import scene
from patchword.scenes.captions import with_article
from patchword.scenes.shapes import COLOURS, SHAPES
from patchword.scope import Scope

HERE = Path(__file__).parent
SEED = 97
MAX_SCENES = 4000  # to search for scenes that answer a question
OPPOSITE = {"yes": "no", "no": "yes"}
NAME = rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
SLOTS = {
    "{a}": rf"(?:an? )?(?P<a>{NAME})",
    "{b}": rf"(?P<b>{NAME})",
    "{colour}": rf"(?P<colour>{'|'.join(COLOURS)})",
    "{shape}": rf"(?P<shape>{'|'.join(SHAPES)})",
}


class Wording(NamedTuple):
    """Another wording of a known question. opposite: yes means no to the known one."""

    known: str
    text: str
    opposite: bool


def wordings(path: Path) -> list[Wording]:
    """Read the wordings of a file; `known` is "-" for questions that are not known."""
    out, known = [], ""
    for line in path.read_text().splitlines():
        if line.startswith("    "):
            text = line.strip()
            out.append(Wording(known, text.removeprefix("!"), text.startswith("!")))
        elif not line.startswith("#"):
            known = line
    return out


def pattern(known: str) -> re.Pattern[str]:
    """A known question with {slots} as a regular expression."""
    parts = re.split(r"(\{\w+\})", known)
    return re.compile("".join(SLOTS.get(part) or re.escape(part) for part in parts))


def fill(wording: Wording, match: re.Match[str]) -> str:
    """The wording with the words in the slots of the known question."""
    slots = match.groupdict()
    if wording.known.startswith("is there {a}"):
        slots["a"] = with_article(slots["a"])
        colour, shape = match["a"].split()
        slots |= {"colour": colour, "shape": shape}
    return wording.text.format(**slots)


def cases(wording: Wording, count: int) -> Iterator[tuple[patchword.scenes.Scene, str, str]]:
    """Scene, question and right answer, each for another scene."""
    known = pattern(wording.known)
    for index in range(MAX_SCENES):
        drawn = small_scene(index)
        for question, answer in drawn.questions:
            if match := known.fullmatch(question):
                right = OPPOSITE[answer] if wording.opposite else answer
                yield drawn, fill(wording, match), right
                count -= 1
                break
        if not count:
            return


@cache
def small_scene(index: int) -> patchword.scenes.Scene:
    """A scene of 96 pixels, drawn once."""
    return scene(SEED, index, 96)


def ask(model: patchword.Model, wording: Wording, count: int) -> Counter[str]:
    """Counts of the outcomes: "right", "warned", or "wrong" without a warning."""
    out: Counter[str] = Counter()
    for drawn, question, right in cases(wording, count):
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            answer = model.ask(drawn.image, question)
        warned = any(
            record.category is ScopeWarning and "not trained on questions" in str(record.message)
            for record in records
        )
        if warned:
            out["warned"] += 1
        elif answer.text == right:
            out["right"] += 1
        else:
            out["wrong"] += 1
            print(f"  wrong: {question!r}: {answer.text!r}, not {right!r}")
    return out


def is_understood(scope: Scope, wording: Wording) -> bool:
    """True if a question has the form of a known one, or a rule maps it to one."""
    return scope.is_known(wording.text) or scope.understood(wording.text) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--each", type=int, default=6)
    options = parser.parse_args()
    model = patchword.load("demo-blip")
    assert model.scope is not None
    for name in ("questions.txt", "questions_others.txt"):
        all_wordings = wordings(HERE / name)
        total: Counter[str] = Counter()
        asked = [w for w in all_wordings if w.known not in ("-", "what is this?")]
        for wording in asked:
            total += ask(model, wording, options.each)
        shares = ", ".join(
            f"{k} {total[k] / total.total():.1%}" for k in ("right", "warned", "wrong")
        )
        print(f"{name}: {len(asked)} wordings, {total.total()} answers: {shares}")
        for known, kind in (("what is this?", "of clothing"), ("-", "that mean something else")):
            if group := [w for w in all_wordings if w.known == known]:
                count = sum(is_understood(model.scope, wording) for wording in group)
                print(f"  {count} of {len(group)} {kind} are taken for a known question")


if __name__ == "__main__":
    main()
