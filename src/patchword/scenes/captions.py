"""The texts about scenes, made from their facts: captions, their meanings, questions with answers.

The tables of wordings are used to generate captions here, and to parse captions in the benchmarks.
"""

import numpy as np

from patchword.scenes.base import Facts, Questions, choose
from patchword.scenes.shapes import COLOURS, SHAPES
from patchword.scenes.wafer import FILMS

WAFER_CLASSES = (
    "a perfect wafer",
    "a wafer with a scratch",
    "a wafer with particles",
    "a wafer with a stain",
    "a wafer with an edge chip",
)
# The defect of each class, in the same order.
DEFECT_NAMES = ("none", "scratch", "particles", "stain", "edge chip")
OBJECT_NAMES = {
    "scratch": "a scratch",
    "particles": "particles",
    "stain": "a stain",
    "edge chip": "an edge chip",
}
# Beginnings of captions, which are also templates for zero-shot classification.
TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a close photo of {}",
    "a view of {}",
)
_SIDE = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
_CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PLACES = {
    "centre": ("in the centre", "near the centre", "in the middle"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
}
SIZES = {
    ("scratch", "large"): ("long", "large"),
    ("scratch", "small"): ("short", "small"),
    ("stain", "large"): ("large", "big"),
    ("stain", "small"): ("small", "little"),
    ("edge chip", "large"): ("large", "big"),
    ("edge chip", "small"): ("small", "little"),
}
NUMBERS = ("no", "one", "two", "three")
# Names of each defect.
NOUNS = {
    "scratch": ("scratch",),
    "particles": ("particles", "dust particles"),
    "stain": ("stain",),
    "edge chip": ("edge chip", "chip in the edge"),
}
AMOUNTS = {"few": "a few", "many": "many"}  # of particles; a cluster is "of few" or "of many"
# The possible values of facts, by the first word of their names.
_VALUES = {
    "film": tuple(FILMS),
    "amount": tuple(AMOUNTS),
    "spread": ("scattered", "clustered"),
    "size": ("large", "small"),
    "place": tuple(PLACES),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "relation": tuple(RELATIONS),
}
# Names of a wafer without defects, and of any wafer, with the film or without it.
PERFECT = ("perfect {}", "clean {}", "flawless {}", "{} without defects")
SILICON = ("{} wafer", "{} silicon wafer")


def with_article(phrase: str) -> str:
    """ "orange star" -> "an orange star"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _listed(phrases: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


# --- wafers -------------------------------------------------------------------------------------


def _perfect(rng: np.random.Generator, film: str) -> str:
    wafer = f"{film} wafer" if film else "wafer"
    return with_article(choose(rng, PERFECT).format(wafer))


def _defect_phrase(rng: np.random.Generator, mentioned: Facts) -> str:
    """The defect as a noun phrase, with the other facts that are mentioned."""
    defect = str(mentioned["defect"])
    if defect == "particles":
        amount = AMOUNTS.get(str(mentioned.get("amount")), "")
        noun = choose(rng, NOUNS[defect])
        if mentioned.get("spread") == "clustered":
            phrase = f"a cluster of {amount.removeprefix('a ')} {noun}"
        else:
            phrase = f"{amount} {mentioned.get('spread', '')} {noun}"
        phrase = " ".join(phrase.split())
    else:
        size = SIZES.get((defect, str(mentioned.get("size"))))
        adjective = f"{choose(rng, size)} " if size else ""
        phrase = with_article(adjective + choose(rng, NOUNS[defect]))
    if "place" not in mentioned:
        return phrase
    return f"{phrase} {choose(rng, PLACES[str(mentioned['place'])])}"


def noun_phrases(name: str) -> tuple[str, ...]:
    """Phrases that are true of an object in a scene, its name first: "a red circle", "red circle",
    "the red circle", "a circle", "circle", "a red shape"; for a defect also "a wafer with a
    scratch"."""
    if name in OBJECT_NAMES.values():
        bare = name.removeprefix("an ").removeprefix("a ")
        return name, bare, f"the {bare}", f"a wafer with {name}", f"{name} on a wafer"
    _, colour, shape = name.split(" ")
    bare = f"{colour} {shape}"
    less_specific = (with_article(shape), shape, with_article(f"{colour} shape"))
    return name, bare, f"the {bare}", *less_specific


def wafer_caption(rng: np.random.Generator, facts: Facts) -> tuple[str, str]:
    """A true caption that tells the defect and some of the other facts, and its meaning."""
    mentioned: Facts = {"defect": facts["defect"]}
    detailed = rng.random() < 0.6
    for key in ("film", "size", "amount", "spread", "place"):
        if rng.random() < 0.5 and detailed and key in facts:
            mentioned[key] = facts[key]
    film = str(mentioned.get("film", ""))
    wafer = with_article(choose(rng, SILICON).format(film).strip())
    if mentioned["defect"] == "none":
        text = _perfect(rng, film)
    else:
        phrase = _defect_phrase(rng, mentioned)
        with_defect = f"{wafer} with {phrase}"  # twice as often as the other wording
        text = choose(rng, (with_defect, with_defect, f"{phrase} on {wafer}"))
    meaning = "; ".join(f"{key}={value}" for key, value in sorted(mentioned.items()))
    return choose(rng, TEMPLATES).format(text), meaning


def wafer_questions(facts: Facts) -> Questions:
    """Every question that the facts answer."""
    defect = str(facts["defect"])
    pairs = [
        ("what defect does the wafer have?", defect),
        ("is the wafer perfect?", "yes" if defect == "none" else "no"),
        ("what colour is the wafer?", str(facts["film"])),
        ("where is the notch?", str(facts["notch"])),
    ]
    for name, phrase in OBJECT_NAMES.items():
        verb = "are" if name == "particles" else "is"
        pairs.append((f"{verb} there {phrase}?", "yes" if name == defect else "no"))
    noun = "cluster" if defect == "particles" else defect
    if "place" in facts:
        pairs.append((f"where is the {noun}?", str(facts["place"])))
    if "size" in facts:
        adjective = "long" if defect == "scratch" else "large"
        size = SIZES[defect, str(facts["size"])][0]
        pairs.append((f"how {adjective} is the {noun}?", size))
    if "amount" in facts:
        pairs.append(("are there few or many particles?", str(facts["amount"])))
        pairs.append(("are the particles clustered or scattered?", str(facts["spread"])))
    return tuple(pairs)


# --- shapes -------------------------------------------------------------------------------------


def _names(facts: Facts) -> list[str]:
    """The names of all shapes, such as "red circle"."""
    return [f"{facts[f'colour {i + 1}']} {facts[f'shape {i + 1}']}" for i in range(_count(facts))]


def _count(facts: Facts) -> int:
    return int(facts["count"])


def _relations(facts: Facts) -> list[tuple[str, str, str]]:
    """(name, relation, name) of each pair of shapes with a clear relation."""
    names = _names(facts)
    relations = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            relation = facts.get(f"relation {i + 1} {j + 1}")
            if relation:
                relations.append((names[i], str(relation), names[j]))
    return relations


def _left_or_above(one: str, relation: str, other: str) -> tuple[str, str, str]:
    """The same relation as "left of" or "above"."""
    if relation in ("right of", "below"):
        return other, _CONVERSE[relation], one
    return one, relation, other


def canonical(one: str, relation: str, other: str) -> str:
    """One wording for a relation and its converse."""
    return " ".join(_left_or_above(one, relation, other))


def truths(facts: Facts) -> frozenset[str]:
    """Everything that a caption may say of a scene with these facts."""
    if "film" in facts:
        return frozenset(f"{key}={value}" for key, value in facts.items())
    names = _names(facts)
    statements = {*names, *(canonical(*triple) for triple in _relations(facts))}
    for key in ("size", "place"):
        if f"{key} 1" in facts:
            statements.add(f"{names[0]} {key}={facts[f'{key} 1']}")
    return frozenset(statements)


def holds(meaning: str, facts: Facts) -> bool:
    """Whether a caption with this meaning is true of a scene with these facts.

    It need not name everything: "a red circle" is true of a red circle left of a blue square.
    """
    return truths(facts).issuperset(meaning.split("; "))


def shapes_label(facts: Facts) -> str:
    """The canonical description: all shapes, sorted; of two shapes their relation if it is
    clear."""
    relations = _relations(facts)
    names = _names(facts)
    if len(names) == 2 and relations:
        one, relation, other = _left_or_above(*relations[0])
        return f"{with_article(one)} {relation} {with_article(other)}"
    return _listed([with_article(name) for name in sorted(names)])


def _single(rng: np.random.Generator, facts: Facts, name: str) -> tuple[str, list[str]]:
    """A description of the only shape, and what it says."""
    text, mentioned = name, [name]
    if rng.random() < 0.4:
        mentioned.append(f"{name} size={facts['size 1']}")
        text = f"{choose(rng, SIZES['stain', str(facts['size 1'])])} {text}"
    text = with_article(text)
    if rng.random() < 0.5 and "place 1" in facts:
        mentioned.append(f"{name} place={facts['place 1']}")
        text = f"{text} {choose(rng, PLACES[str(facts['place 1'])])}"
    return text, mentioned


def shapes_caption(rng: np.random.Generator, facts: Facts) -> tuple[str, str]:
    """A true caption that names every shape, often with a relation, and its meaning."""
    names, relations = _names(facts), _relations(facts)
    mentioned = list(names)
    if len(names) == 1:
        text, mentioned = _single(rng, facts, names[0])
    elif relations and rng.random() < 0.75:
        one, relation, other = relations[int(rng.integers(len(relations)))]
        mentioned.append(canonical(one, relation, other))
        if rng.random() < 0.5:
            one, relation, other = other, _CONVERSE[relation], one
        text = f"{with_article(one)} {choose(rng, RELATIONS[relation])} {with_article(other)}"
        for name in names:
            if name not in (one, other):
                text += f", and {with_article(name)}"
    else:
        text = _listed([with_article(str(name)) for name in rng.permutation(names)])
        if rng.random() < 0.3:
            text = f"{NUMBERS[len(names)]} shapes: {text}"
    template = "{}" if text.startswith(NUMBERS) else choose(rng, TEMPLATES)
    return template.format(text), "; ".join(sorted(mentioned))


def caption(rng: np.random.Generator, facts: Facts) -> tuple[str, str]:
    """A true caption of a scene with these facts, and its meaning."""
    if "film" in facts:
        return wafer_caption(rng, facts)
    return shapes_caption(rng, facts)


def wrong_caption(rng: np.random.Generator, facts: Facts) -> str:
    """A caption that is false for a scene with these facts: it is true of a scene with one fact
    changed. Each kind of facts (colour, place, relation, ...) is changed equally often. No scene
    has two shapes of the same name."""
    kinds = {key.split()[0] for key in facts} & _VALUES.keys()
    kind = choose(rng, tuple(sorted(kinds)))
    keys = tuple(key for key in facts if key.split()[0] == kind)
    while True:
        changed = {**facts, choose(rng, keys): choose(rng, _VALUES[kind])}
        same_names = "film" not in facts and len(set(_names(changed))) < _count(facts)
        text, meaning = caption(rng, changed)
        if not (same_names or holds(meaning, facts)):
            return text


def shapes_questions(facts: Facts) -> Questions:
    """Every question that the facts answer unambiguously with one word."""
    count, names, relations = _count(facts), _names(facts), _relations(facts)
    colours = [str(facts[f"colour {i + 1}"]) for i in range(count)]
    shapes = [str(facts[f"shape {i + 1}"]) for i in range(count)]
    pairs = [("how many shapes are there?", NUMBERS[count])]
    for i, (colour, shape) in enumerate(zip(colours, shapes, strict=True)):
        pairs.append((f"is there {with_article(names[i])}?", "yes"))
        if shapes.count(shape) == 1:
            pairs.append((f"what colour is the {shape}?", colour))
        if colours.count(colour) == 1:
            pairs.append((f"what shape is {colour}?", shape))
        other = f"{colours[i - 1]} {shape}"
        if other not in names:
            pairs.append((f"is there {with_article(other)}?", "no"))
    for one, word, other in relations:
        for a, relation, b in ((one, word, other), (other, _CONVERSE[word], one)):
            pairs.append((f"is the {a} {relation} the {b}?", "yes"))
            pairs.append((f"is the {a} {_CONVERSE[relation]} the {b}?", "no"))
            pairs.append((f"what side of the {b} is the {a} on?", _SIDE[relation]))
            if count == 2:
                pairs.append((f"what is {relation} the {b}?", a))
    for key in ("size", "place"):
        if f"{key} 1" in facts:
            question = "how large" if key == "size" else "where"
            pairs.append((f"{question} is the {shapes[0]}?", str(facts[f"{key} 1"])))
    return tuple(pairs)
