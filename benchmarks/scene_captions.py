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
    """What a caption says.

    facts   of its meaning: `"; ".join(sorted(facts))` is the `meaning` of a scene's own caption
    names   of the shapes that it names, in its order
    count   how many shapes it says there are: 2 in "two shapes: ..."; None where it does not say
    unread  what says nothing of a scene, stands where it makes no sense, or comes twice
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
    """A noun phrase: its kind, one of _NOUNS, how it is written, and the facts that it states in
    all its wordings. Groups of the pattern: "name", of a shape, and keys of _MEANS."""

    kind: str
    pattern: re.Pattern[str]
    fixed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A part of a caption: a noun phrase with what it states, a link between two, or a word."""

    kind: str  # one of _NOUNS, "link" or "word"
    text: str
    name: str = ""  # of a shape or a defect
    facts: tuple[str, ...] = ()


def _any(wordings: Iterable[str]) -> str:
    """A pattern of any of them, the longest that fits first."""
    return f"(?:{'|'.join(map(re.escape, sorted(set(wordings), key=len, reverse=True)))})"


def _turned(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """What each wording means."""
    return {wording: key for key, wordings in table.items() for wording in wordings}


_NOUNS = ("shape", "wafer", "defect")
# What a wording means, by the fact that it tells.
_MEANS: dict[str, dict[str, str]] = {
    "film": {film: film for film in FILMS},
    "size": {word: size for (_, size), words in SIZES.items() for word in words},
    "amount": {w: k for k, word in AMOUNTS.items() for w in (word, word.removeprefix("a "))},
    "spread": {"scattered": "scattered"},
    "place": _turned(PLACES),
}
# Two noun phrases and what may stand between them.
_LINKS = {
    **{
        ("shape", link, "shape"): relation
        for link, relation in (*_turned(RELATIONS).items(), (",", ""), ("and", ""), (", and", ""))
    },
    ("wafer", "with", "defect"): "",
    ("defect", "on", "wafer"): "",
}
_LINK = re.compile(rf"{_any(link for _, link, _ in _LINKS)}(?!\w)")
_OPENING = re.compile(_any(template.format("") for template in TEMPLATES if template != "{}"))
_COUNT = re.compile(rf"({_any(NUMBERS)}) shapes: ")
_ARTICLE = "(?:an (?=[aeiou])|a (?=[^aeiou]))?"
_PLACE = rf"(?: (?P<place>{_any(_MEANS['place'])}))?(?!\w)"


def _forms() -> Iterator[_Form]:
    """All noun phrases, those before that hold more words."""
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


def _sizes(of: str) -> str:
    """A pattern of the sizes that a thing may have."""
    return _any(word for (thing, _), words in SIZES.items() if thing == of for word in words)


_FORMS = tuple(_forms())


def stated(caption: str) -> Stated:
    """What a caption of a scene states, in any of the wordings of `words`.

    A shape, a defect or a wafer that is named again, and one that is not linked to what stands
    before it, is not read: no scene has two that are alike, and no caption says so.
    """
    text = re.sub(r"\s+", " ", caption.lower()).strip().removesuffix(".")
    text = re.sub(r" ?([,:]) ?", r"\1 ", text).strip()
    if opening := _OPENING.match(text):
        text = text[opening.end() :]
    count = None
    if said := _COUNT.match(text):
        count, text = NUMBERS.index(said[1]), text[said.end() :]
    return _read(list(_pieces(text)), count)


def _pieces(text: str) -> Iterator[_Piece]:
    """The parts of a caption in order."""
    while text:
        piece = _noun(text) or _link(text) or _Piece("word", text.split(" ")[0])
        yield piece
        text = text[len(piece.text) :].lstrip()


def _noun(text: str) -> _Piece | None:
    """The noun phrase that a text begins with."""
    for form in _FORMS:
        if found := form.pattern.match(text):
            said = {key: value for key, value in found.groupdict().items() if value}
            name = said.pop("name", "")
            told = [*form.fixed, *((key, _MEANS[key][value]) for key, value in said.items())]
            facts = [f"{key}={value}" for key, value in told]
            if form.kind == "shape":
                facts = [name, *(f"{name} {fact}" for fact in facts)]
            elif form.kind == "defect":
                name = dict(form.fixed)["defect"]
            return _Piece(form.kind, found[0], name, tuple(facts))
    return None


def _link(text: str) -> _Piece | None:
    """What a text begins with that may stand between noun phrases."""
    found = _LINK.match(text)
    return _Piece("link", found[0]) if found else None


def _read(pieces: list[_Piece], count: int | None) -> Stated:
    """What the parts of a caption state together."""
    facts: set[str] = set()
    names: list[tuple[str, str]] = []
    unread: list[str] = []
    nothing = _Piece("", "")
    around = zip([nothing, *pieces[:-1]], pieces, [*pieces[1:], nothing], strict=True)
    for before, piece, after in around if pieces else ():
        relation = _LINKS.get((before.kind, piece.text, after.kind))
        noun = piece.kind in _NOUNS and before.kind not in _NOUNS
        if noun and (piece.kind, piece.name) not in names:
            names.append((piece.kind, piece.name))
            facts.update(piece.facts)
        elif piece.kind == "link" and relation is not None:
            facts |= {canonical(before.name, relation, after.name)} if relation else set()
        else:
            unread.append(piece.text)
    shapes = tuple(name for kind, name in names if kind == "shape")
    return Stated(frozenset(facts), shapes, count, tuple(unread))
