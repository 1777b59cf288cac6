"""Which answers a question can have at all: a yes or a no, a colour, a number, a place."""

from __future__ import annotations

import re
from collections.abc import Mapping

from patchword.scope.knowledge import WORD

UNKNOWN = "does not know"  # instead of an answer that is impossible
NUMBERS = "one two three four five six seven eight nine ten zero none few many several"
PLACES = "top bottom left right centre center middle above below inside outside everywhere nowhere"
SIZES = "large small long short big tiny little"
YES_NO = re.compile(
    r"(is|are|am|was|were|do|does|did|can|could|has|have|had|will|would|should|may|must"
    r"|isn|aren|wasn|doesn|don|didn|hasn|haven) "
)
# The beginning of a question, and words, or kinds of `Scope.slots`: a possible answer has one of
# them.
KINDS = (
    (r"how many ", f"{NUMBERS} {{number}}"),
    (r"(on |at |to )?(what|which) (side|place|part) |where ", PLACES),
    (r"how (large|big|small|long|short|wide|tall|high) ", SIZES),
    (r"(in |of )?(what|which) colou?rs? |what( s| is| are) (the|its|their) colou?rs? ", "{colour}"),
    (r"(what|which) shapes? |what( s| is| are) (the|its|their) shapes? ", "{shape}"),
    (r"(who|whose|whom|why|when) ", ""),
)


def is_possible(question: str, answer: str, slots: Mapping[str, str]) -> bool:
    """Whether an answer is of the kind that an English question asks for: "the trousers" is no
    answer to "is there a dog?". True if the kind of the question is not known."""
    asked = " ".join(WORD.findall(question.lower())) + " "
    words = WORD.findall(answer.lower())
    if YES_NO.match(asked):
        if " or " in asked:
            return set(words) <= set(asked.split())
        return answer.strip().lower() in ("yes", "no")
    kinds = {*words, *(slots.get(word, "") for word in words)}
    if any(word.isdigit() for word in words):
        kinds.add("{number}")
    for beginning, allowed in KINDS:
        if re.match(beginning, asked):
            return not kinds.isdisjoint(allowed.split())
    return True
