"""Which answers a question can have at all: a yes or a no, a colour, a number, a place."""

from __future__ import annotations

import re
from collections.abc import Mapping

from patchword.scope.knowledge import WORD

UNKNOWN = "does not know"  # in the place of an answer that cannot be one
NUMBERS = "one two three four five six seven eight nine ten zero none few many several"
PLACES = "top bottom left right centre center middle above below inside outside everywhere nowhere"
SIZES = "large small long short big tiny little"
YES_NO = re.compile(
    r"(is|are|am|was|were|do|does|did|can|could|has|have|had|will|would|should|may|must"
    r"|isn|aren|wasn|doesn|don|didn|hasn|haven) "
)
# By how a question begins: the words, or kinds of `Scope.slots`, of which an answer has one.
KINDS = (
    (r"how many ", f"{NUMBERS} {{number}}"),
    (r"(on |at |to )?(what|which) (side|place|part) |where ", PLACES),
    (r"how (large|big|small|long|short|wide|tall|high) ", SIZES),
    (r"(in |of )?(what|which) colou?rs? |what( s| is| are) (the|its|their) colou?rs? ", "{colour}"),
    (r"(what|which) shapes? |what( s| is| are) (the|its|their) shapes? ", "{shape}"),
    (r"(who|whose|whom|why|when) ", ""),
)


def possible(question: str, answer: str, slots: Mapping[str, str]) -> bool:
    """Whether an answer is of the kind that a question in English asks for: "the trousers" is none
    to "is there a dog?". True of any where the kind is not known."""
    asked = " ".join(WORD.findall(question.lower())) + " "
    said = WORD.findall(answer.lower())
    kinds = {*said, *(slots.get(word, "") for word in said)}
    kinds |= {"{number}"} if any(word.isdigit() for word in said) else set()
    if YES_NO.match(asked):
        if " or " in asked:
            return set(said) <= set(asked.split())
        return answer.strip().lower() in ("yes", "no")
    for begins, allowed in KINDS:
        if re.match(begins, asked):
            return not kinds.isdisjoint(allowed.split())
    return True
