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
MOST = 4000  # scenes that are looked through
OPPOSITE = {"yes": "no", "no": "yes"}
NAME = rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
SLOTS = {
    "{a}": rf"(?:an? )?(?P<a>{NAME})",
    "{b}": rf"(?P<b>{NAME})",
    "{colour}": rf"(?P<colour>{'|'.join(COLOURS)})",
    "{shape}": rf"(?P<shape>{'|'.join(SHAPES)})",
}


class Wording(NamedTuple):
    known: str
    text: str
    opposite: bool


def wordings(path: Path) -> list[Wording]:
    """Those of a file; `known` is "-" for questions that are not known."""
    found, known = [], ""
    for line in path.read_text().splitlines():
        if line.startswith("    "):
            text = line.strip()
            found.append(Wording(known, text.removeprefix("!"), text.startswith("!")))
        elif not line.startswith("#"):
            known = line
    return found


def pattern(known: str) -> re.Pattern[str]:
    """A known question with {slots} as a regular expression."""
    parts = re.split(r"(\{\w+\})", known)
    return re.compile("".join(SLOTS.get(part) or re.escape(part) for part in parts))


def filled(wording: Wording, found: re.Match[str]) -> str:
    """The wording with what stands in the slots of the known question."""
    slots = found.groupdict()
    if wording.known.startswith("is there {a}"):
        slots["a"] = with_article(slots["a"])
        colour, shape = found["a"].split()
        slots |= {"colour": colour, "shape": shape}
    return wording.text.format(**slots)


def cases(wording: Wording, count: int) -> Iterator[tuple[patchword.scenes.Scene, str, str]]:
    """Scene, question and right answer, each from another scene."""
    wanted = pattern(wording.known)
    for index in range(MOST):
        if index not in SCENES:
            SCENES[index] = scene(SEED, index, 96)
        new = SCENES[index]
        for question, answer in new.questions:
            if found := wanted.fullmatch(question):
                right = OPPOSITE[answer] if wording.opposite else answer
                yield new, filled(wording, found), right
                count -= 1
                break
        if not count:
            return


SCENES: dict[int, patchword.scenes.Scene] = {}


def judged(model: patchword.Model, wording: Wording, count: int) -> Counter[str]:
    """How often it was answered right, warned of, or answered wrong without a word."""
    out: Counter[str] = Counter()
    for new, question, right in cases(wording, count):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answer = model.ask(new.image, question)
        doubt = any(
            one.category is ScopeWarning and "not trained on questions" in str(one.message)
            for one in told
        )
        out["warned" if doubt else "right" if answer.text == right else "wrong"] += 1
        if not doubt and answer.text != right:
            print(f"  wrong: {question!r}: {answer.text!r}, not {right!r}")
    return out


def taken(scope: Scope, wording: Wording) -> bool:
    """True if a rule, or the form of the training, takes a question for a known one."""
    return scope.known(wording.text) or scope.understood(wording.text) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--each", type=int, default=6)
    options = parser.parse_args()
    model = patchword.load("demo-blip")
    assert model.scope is not None
    for name in ("questions.txt", "questions_others.txt"):
        all_of = wordings(HERE / name)
        total: Counter[str] = Counter()
        asked = [one for one in all_of if one.known not in ("-", "what is this?")]
        for one in asked:
            total += judged(model, one, options.each)
        shares = ", ".join(
            f"{k} {total[k] / total.total():.1%}" for k in ("right", "warned", "wrong")
        )
        print(f"{name}: {len(asked)} wordings, {total.total()} answers: {shares}")
        for known, kind in (("what is this?", "of clothing"), ("-", "that mean something else")):
            if some := [one for one in all_of if one.known == known]:
                count = sum(taken(model.scope, one) for one in some)
                print(f"  {count} of {len(some)} {kind} are taken for a known question")


if __name__ == "__main__":
    main()
