"""Read from a caption what it states about a scene: the inverse of `scenes.captions`.

Captions that a model wrote may make no sense. They are parsed phrase by phrase; what cannot be
parsed is reported, never dropped.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from patchword.scenes.captions import (
    AMOUNTS,
    DEFECT_NAMES,
    NOUNS,
    NUMBERS,
    PERFECT,
    PLACES,
    RELATIONS,
    SILICON,
    SIZES,
    TEMPLATES,
    canonical,
)
from patchword.scenes.shapes import COLOURS, SHAPES
from patchword.scenes.wafer import FILMS


@dataclass(frozen=True)
class Stated:
    """What a caption states.

    facts   `"; ".join(sorted(facts))` is the `meaning` of a scene's own caption
    names   the named shapes, in order
    count   the stated number of shapes: 2 in "two shapes: ..."; None if there is none
    unread  words that state nothing about a scene, stand in a wrong place, or are repeated
    """

    facts: frozenset[str]
    names: tuple[str, ...] = ()
    count: int | None = None
    unread: tuple[str, ...] = ()

    @property
    def meaning(self) -> str:
        """The facts as `holds` takes them."""
        return "; ".join(sorted(self.facts))


@dataclass(frozen=True)
class _Form:
    """A form of noun phrases: its kind, one of _NOUNS; its pattern, with the groups "name", of a
    shape, and keys of _MEANINGS; and the facts that all its wordings state."""

    kind: str
    pattern: re.Pattern[str]
    fixed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A part of a caption: a noun phrase with its facts, a link between two, or another word."""

    kind: str  # one of _NOUNS, "link" or "word"
    text: str
    name: str = ""  # of a shape or a defect
    facts: tuple[str, ...] = ()


def _any(wordings: Iterable[str]) -> str:
    """A pattern for any of these wordings, which prefers longer ones."""
    return f"(?:{'|'.join(map(re.escape, sorted(set(wordings), key=len, reverse=True)))})"


def _inverted(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The meaning of each wording."""
    return {wording: key for key, wordings in table.items() for wording in wordings}


_NOUNS = ("shape", "wafer", "defect")
# The meanings of wordings, for each kind of fact.
_MEANINGS: dict[str, dict[str, str]] = {
    "film": {film: film for film in FILMS},
    "size": {word: size for (_, size), words in SIZES.items() for word in words},
    "amount": {w: k for k, word in AMOUNTS.items() for w in (word, word.removeprefix("a "))},
    "spread": {"scattered": "scattered"},
    "place": _inverted(PLACES),
}
# Two noun phrases and the words that may stand between them; the relation that these state.
_LINKS = {
    **{
        ("shape", link, "shape"): relation
        for link, relation in (*_inverted(RELATIONS).items(), (",", ""), ("and", ""), (", and", ""))
    },
    ("wafer", "with", "defect"): "",
    ("defect", "on", "wafer"): "",
}
_LINK = re.compile(rf"{_any(link for _, link, _ in _LINKS)}(?!\w)")
_OPENING = re.compile(_any(template.format("") for template in TEMPLATES if template != "{}"))
_COUNT = re.compile(rf"({_any(NUMBERS)}) shapes: ")
_ARTICLE = "(?:an (?=[aeiou])|a (?=[^aeiou]))?"
_PLACE = rf"(?: (?P<place>{_any(_MEANINGS['place'])}))?(?!\w)"


def _forms() -> Iterator[_Form]:
    """All forms of noun phrases; those with more words come first."""
    film = rf"(?:(?P<film>{_any(FILMS)}) )?"
    for form in PERFECT:
        words = form.format(f"{film}wafer")
        yield _Form("wafer", re.compile(rf"{_ARTICLE}{words}(?!\w)"), (("defect", "none"),))
    for form in sorted(SILICON, key=len, reverse=True):
        words = form.replace("{} ", film)
        yield _Form("wafer", re.compile(rf"{_ARTICLE}{words}(?!\w)"))
    dust = _any(NOUNS["particles"])
    fixed = (("defect", "particles"),)
    few = _any(word.removeprefix("a ") for word in AMOUNTS.values())
    cluster = rf"a cluster of (?:(?P<amount>{few}) )?{dust}{_PLACE}"
    yield _Form("defect", re.compile(cluster), (*fixed, ("spread", "clustered")))
    amount = rf"(?:(?P<amount>{_any(AMOUNTS.values())}) )?"
    yield _Form("defect", re.compile(rf"{amount}(?:(?P<spread>scattered) )?{dust}{_PLACE}"), fixed)
    for defect in (name for name in DEFECT_NAMES if (name, "large") in SIZES):
        size = rf"(?:(?P<size>{_sizes(defect)}) )?"
        words = rf"{_ARTICLE}{size}{_any(NOUNS[defect])}{_PLACE}"
        yield _Form("defect", re.compile(words), (("defect", defect),))
    size = rf"(?:(?P<size>{_sizes('stain')}) )?"
    name = rf"(?P<name>{_any(COLOURS)} {_any(SHAPES)})"
    yield _Form("shape", re.compile(rf"{_ARTICLE}{size}{name}{_PLACE}"))


def _sizes(name: str) -> str:
    """A pattern for the sizes of a thing."""
    return _any(word for (thing, _), words in SIZES.items() if thing == name for word in words)


_FORMS = tuple(_forms())


def stated(caption: str) -> Stated:
    """Parse a caption of a scene, in any of the wordings of `scenes.captions`.

    A shape, a defect or a wafer that is named a second time, or is not linked to the phrase before
    it, is reported as unread: no scene has two equal ones, and no right caption says so.
    """
    text = re.sub(r"\s+", " ", caption.lower()).strip().removesuffix(".")
    text = re.sub(r" ?([,:]) ?", r"\1 ", text).strip()
    if opening := _OPENING.match(text):
        text = text[opening.end() :]
    count = None
    if stated_count := _COUNT.match(text):
        count, text = NUMBERS.index(stated_count[1]), text[stated_count.end() :]
    return _combine(list(_pieces(text)), count)


def _pieces(text: str) -> Iterator[_Piece]:
    """The parts of a caption in order."""
    while text:
        piece = _noun(text) or _link(text) or _Piece("word", text.split(" ")[0])
        yield piece
        text = text[len(piece.text) :].lstrip()


def _noun(text: str) -> _Piece | None:
    """The noun phrase at the start of a text, or None."""
    for form in _FORMS:
        match = form.pattern.match(text)
        if not match:
            continue
        groups = {key: value for key, value in match.groupdict().items() if value}
        name = groups.pop("name", "")
        facts = [f"{key}={value}" for key, value in form.fixed]
        facts += [f"{key}={_MEANINGS[key][wording]}" for key, wording in groups.items()]
        if form.kind == "shape":
            facts = [name, *(f"{name} {fact}" for fact in facts)]
        elif form.kind == "defect":
            name = dict(form.fixed)["defect"]
        return _Piece(form.kind, match[0], name, tuple(facts))
    return None


def _link(text: str) -> _Piece | None:
    """The link between noun phrases at the start of a text, or None."""
    match = _LINK.match(text)
    return _Piece("link", match[0]) if match else None


def _combine(pieces: list[_Piece], count: int | None) -> Stated:
    """What the parts of a caption state together."""
    facts: set[str] = set()
    names: list[tuple[str, str]] = []
    unread: list[str] = []
    nothing = _Piece("", "")
    padded = [nothing, *pieces, nothing]
    for before, piece, after in zip(padded, padded[1:], padded[2:], strict=False):
        relation = _LINKS.get((before.kind, piece.text, after.kind))
        noun = piece.kind in _NOUNS and before.kind not in _NOUNS
        if noun and (piece.kind, piece.name) not in names:
            names.append((piece.kind, piece.name))
            facts.update(piece.facts)
        elif piece.kind == "link" and relation is not None:
            if relation:  # a link such as "and" states nothing
                facts.add(canonical(before.name, relation, after.name))
        else:
            unread.append(piece.text)
    shapes = tuple(name for kind, name in names if kind == "shape")
    return Stated(frozenset(facts), shapes, count, tuple(unread))
