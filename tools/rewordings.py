"""The rules by which demo-blip maps other wordings to the questions that it was trained on.

    python tools/rewordings.py

Writes the rules into the model's scope.json as regular expressions. `tools/scope.py` keeps them,
and `benchmarks/questions.py` measures them on wordings that were written before the rules.

A pattern consists of words: "a|b" is either word, "a_b" two words in sequence, "x?" is optional,
and <name> is any of the words in NAMES. A leading "!" means that yes is no to the known question. A
pattern must match a whole question, in lower case, without punctuation, and after SUBSTITUTIONS.
"exists: x" stands for every pattern of EXISTS with x in the place of "*".
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import patchword
from patchword.checkpoints import scope_files
from patchword.scenes import COLOURS
from patchword.scenes.shapes import SHAPES
from patchword.scenes.wafer import FILMS
from patchword.scope import Rewording

FOLDER = Path(patchword.__file__).parent / "assets" / "demo-blip"
ANY_COLOUR, ANY_SHAPE = "|".join((*COLOURS, *FILMS)), "|".join(SHAPES)

SUBSTITUTIONS = (
    (r"^(?:please|(?:can|could) you (?:please )?tell me|tell me) ", ""),
    (r" please$", ""),
    (r"\b(what|where|who|which|it|there) s\b", r"\1 is"),
    (r"\b(wafer|scratch|stain|shape|notch) s\b", r"\1"),
    (r"\bcolor(s|ed)?\b", r"colour\1"),
    (r"\bgray\b", "grey"),
    (r"\bcenter\b", "centre"),
    (r"\bpic\b|\bphoto(?:graph)?\b|\bimage\b|\bscene\b", "picture"),
    (r"\bwafer surface\b|\bsurface of the wafer\b|\bsilicon wafer\b|\bdisc\b", "wafer"),
    (r"(?<=.)(?: (?:on|of|in|at|with|from) (?:the|this|that) wafer| here| now)$", ""),
)
NAMES = {
    "the": "the|this|that|its",
    "some": "a|an|any|some|one",
    "it": "the_wafer|this_wafer|that_wafer|it|this|that",
    "kind": "kind_of|type_of|sort_of",
    "flaw": "defect|flaw|fault|problem|issue|error|damage",
    "flaws": "defect|defects|flaw|flaws|fault|faults|problem|problems|damage|damages|error|errors",
    "good": "perfect|good|ok|okay|fine|clean|flawless|intact|faultless|undamaged|in_order",
    "bad": "bad|defective|damaged|faulty|broken|flawed|imperfect|dirty",
    "see": "see|find|spot|detect|notice|recognise|recognize",
    "shapes": "shapes|objects|figures|things|forms",
    "shape": "shape|object|figure|thing|form",
    "picture": "the_picture|this_picture|it",
    "part": "side|part|place|area|region|position",
    "big": "large|big",
    "lies": "is|lies|sits",
    "located": "located|placed|situated|found|visible|to_be_seen|to_be_found",
}
EXISTS = (
    "is|are there <some>? * visible|present|to_be_seen?",
    "can|do|could you <see> <some>? *",
    "does|do <it>|<picture> have|show|contain|hold|include|display|exhibit <some>? *",
    "has|have <it>|<picture> got? <some>? *",
    "is|are <some>? * visible|present|there|to_be_seen|in_the_picture|in_this_picture",
    "is|are <some>? * on_it|in_it",
)
RULES: dict[str, tuple[str, ...]] = {
    "what defect does the wafer have?": (
        "what|which <kind>? <flaw> is|are <it>|there|visible|present?",
        "what|which <kind>? <flaw> does|do <it> have|show|contain|exhibit|suffer_from",
        "what|which <kind>? <flaw> has <it> got?",
        "what|which <kind>? <flaw> can|do|could you <see>",
        "what|which <kind>? <flaw> is on|in <it>",
        "what is <the> <kind>? <flaw> of|with|on|in? <it>?",
        "what is wrong|amiss with|on? <it>?",
        "what is <the> name|kind|type|sort of the <flaw>",
        "name|identify|describe|state <the> <flaw>",
        "what|which <flaw>",
    ),
    "is the wafer perfect?": (
        "is <it> still? <good>",
        "is <the> wafer without|free_of|free_from <some>? <flaws>",
        "does <it> look|seem|appear <good>",
        "is <it> a|an|one? <good> one|wafer?",
        "is everything|all <good> with|about|on? <it>?",
        "!exists: <flaws>",
        "!is <it> <bad>",
        "!is <it> a|an <bad> one|wafer",
        "!does <it> look|seem|appear <bad>",
        "!is anything|something wrong|amiss with|on? <it>?",
        "!is there anything|something wrong with? <it>?",
    ),
    "what colour is the wafer?": (
        "what|which colour is|has <it>",
        "what is <the> colour of? <it>?",
        "what|which colour does <it> have",
        "what|which colour is|has <the> film|wafer",
        "what is <the> colour of <the> film|wafer",
        "of|in what|which colour is <it>",
        "what is the wafer colour",
        "what colour",
        "how is <it> coloured",
    ),
    "where is the notch?": (
        "where is|lies|sits <the> notch <located>?",
        "on|at|in what|which <part> of|on? <it>? is|lies|sits <the> notch",
        "what|which <part> is <the> notch on|in|at?",
        "where can|do you|i|one <see> <the> notch",
        "where does <it> have <the>|a notch",
    ),
    "is there a scratch?": ("exists: scratch|scratches", "is <it> scratched"),
    "are there particles?": (
        "exists: dust? particles|particle",
        "exists: dust|specks|dust_specks",
        "is <it> dusty",
    ),
    "is there a stain?": ("exists: stain|stains", "is <it> stained"),
    "is there an edge chip?": (
        "exists: edge_chip|edge_chips|chipped_edge",
        "exists: chip|chips in|at|on|of <the> edge|rim",
        "is <the> edge|rim chipped",
        "is the wafer chipped at? the? edge|rim?",
    ),
}
PLACED = {
    "scratch": "scratch",
    "stain": "stain",
    "edge chip": "edge_chip|chip|chip_in_the_edge|chip_in_the_rim|chip_at_the_edge",
    "cluster": "cluster|cluster_of_particles|particle_cluster|clustered_particles|particles",
}
for _noun, _words in PLACED.items():
    RULES[f"where is the {_noun}?"] = (
        f"where is|are|lies|sits|lie <the> {_words} <located>?",
        f"where on|in|at <it> is|are|lies <the> {_words} <located>?",
        f"in|on|at what|which <part> of? <it>? is|are|lies <the> {_words}",
        f"what|which <part> of? <it>? is|are <the> {_words} on|in|at?",
        f"where does <it> have <the>|a|an {_words}",
        f"where can|do you|i|one <see> <the> {_words}",
        f"where can <the> {_words} be seen|found",
        f"where has <it> got? <the>|a|an {_words}",
    )
RULES["where is the cluster?"] += ("where are <the> particles clustered",)
SIZED = {
    "how long is the scratch?": ("scratch", "long", "length", "long_or_short|short_or_long"),
    "how large is the stain?": ("stain", "<big>", "size", "<big> or small|little"),
    "how large is the edge chip?": ("edge_chip|chip", "<big>", "size", "<big> or small|little"),
    "how large is the {shape}?": ("{shape}", "<big>", "size", "<big> or small|little"),
}
for _known, (_noun, _adjective, _dimension, _either) in SIZED.items():
    RULES[_known] = (
        f"how {_adjective} is <the> {_noun}",
        f"what is <the> {_dimension} of <the> {_noun}",
        f"what|which {_dimension} is|has <the> {_noun}",
        f"what|which {_dimension} does <the> {_noun} have",
        f"is <the> {_noun} {_either}",
    )
RULES |= {
    "are there few or many particles?": (
        "how many dust? particles are there|visible?",
        "how many dust? particles can|do you <see>",
        "how many dust? particles does|has <it> have|got|show?",
        "are there many_or_few|few_or_many dust? particles",
        "are <the> particles few_or_many|many_or_few",
        "is <the> number|amount of particles large|high|big|small|low or small|low|large|high",
        "what is <the> number|amount of particles",
    ),
    "are the particles clustered or scattered?": (
        "are <the> particles scattered or clustered|in_a_cluster",
        "how are <the> particles distributed|arranged|spread|placed",
        "are <the> particles spread|scattered out? or in_a_cluster|clustered|together",
        "are <the> particles in_a_cluster|clustered or scattered|spread out?",
        "do <the> particles form|make a cluster or are they scattered|spread out?",
    ),
    "how many shapes are there?": (
        "how many <shapes> are there? in|on? <picture>?",
        "how many <shapes> can|do you|i|we <see> in|on? <picture>?",
        "how many <shapes> does <picture> show|contain|have",
        "what is <the> number of <shapes> in|on? <picture>?",
        "count <the> <shapes> in|on? <picture>?",
        "how many <shapes>",
    ),
    "is there a {a}?": (
        "exists: {a}",
        "is there {a} in|on <picture>",
        "can|do you see <some>? {a} in|on <picture>",
        "is there <some> {a} in|on <picture>",
        "is one of <the> <shapes> <some>? {a}",
        "is one <shape> <some>? {a}",
    ),
    "what colour is the {shape}?": (
        "what|which colour is|has <the> {shape}",
        "what is <the> colour of <the> {shape}",
        "what|which colour does <the> {shape} have",
        "of|in what|which colour is <the> {shape}",
        "how is <the> {shape} coloured",
    ),
    "what shape is {colour}?": (
        "what|which <shape> is|has {colour}",
        "what is <the> {colour} <shape>",
        "what is {colour}",
        "which one? of? <the>? <shapes>? is {colour}",
        "what|which <kind> <shape> is {colour}",
        "what|which shape is|has <the> {colour} <shape>|one",
    ),
}
BESIDE = {
    "left of": "left_of|to_the_left_of|on_the_left_of|on_the_left_side_of|at_the_left_of",
    "right of": "right_of|to_the_right_of|on_the_right_of|on_the_right_side_of|at_the_right_of",
    "above": "above|over|higher_than|on_top_of|further_up_than",
    "below": "below|under|beneath|underneath|lower_than|further_down_than",
}
for _relation, _words in BESIDE.items():
    RULES[f"is the {{a}} {_relation} the {{b}}?"] = (
        f"is <the>|a|an? {{a}} {_words} <the>|a|an? {{b}}",
        f"is <the>|a|an? {{a}} located|placed|situated|lying|sitting {_words} <the>|a|an? {{b}}",
        f"does <the>|a|an? {{a}} lie|sit {_words} <the>|a|an? {{b}}",
    )
    RULES[f"what is {_relation} the {{b}}?"] = (
        f"what|which_shape|which_object|what_shape <lies> {_words} <the>|a|an? {{b}}",
        f"what can|do you <see> {_words} <the>|a|an? {{b}}",
    )
RULES |= {
    "what side of the {b} is the {a} on?": (
        "on|at what|which side of <the> {b} is|lies <the> {a}",
        "what|which side of <the> {b} is <the> {a} on",
        "where is|lies <the> {a} relative_to|with_respect_to|compared_to|seen_from <the> {b}",
    ),
    "where is the {shape}?": (
        "where is|lies|sits <the> {shape} <located>?",
        "where in|on <picture> is|lies <the> {shape} <located>?",
        "where is|lies <the> {shape} in|on <picture>",
        "where can|do you|i|one <see> <the> {shape}",
        "in|on|at what|which <part> of? <picture>? is|lies <the> {shape}",
    ),
    "what is this?": (
        "what is it|that|shown?",
        "what can|do you see in|on? <picture>?",
        "what is|can_be_seen in|on <picture>",
        "what does <picture> show|depict",
        "what|which <kind>? piece_of|item_of|article_of? clothing|garment|clothes is <it>|shown?",
    ),
}


def regex(pattern: str) -> str:
    """A pattern as a regular expression of words that each end in a space."""
    return "".join(_token(token) for token in pattern.split())


def _token(token: str) -> str:
    optional = token.endswith("?")
    alternatives = "|".join(_alternative(word) for word in token.removesuffix("?").split("|"))
    return f"(?:{alternatives}){'?' if optional else ''}"


def _alternative(word: str) -> str:
    if word.startswith("<"):
        return "|".join(map(_alternative, NAMES[word.strip("<>")].split("|")))
    slots = {
        "{a}": rf"(?P<a>(?:{ANY_COLOUR}) (?:{ANY_SHAPE})) ",
        "{b}": rf"(?P<b>(?:{ANY_COLOUR}) (?:{ANY_SHAPE})) ",
        "{colour}": rf"(?P<colour>{ANY_COLOUR}) ",
        "{shape}": rf"(?P<shape>{ANY_SHAPE}) ",
    }
    return slots.get(word, word.replace("_", " ") + " ")


def rewordings() -> tuple[Rewording, ...]:
    """All rules, in order."""
    rules = []
    for known, patterns in RULES.items():
        for pattern in patterns:
            opposite, plain = pattern.startswith("!"), pattern.removeprefix("!")
            words = plain.removeprefix("exists: ")
            frames = EXISTS if words != plain else ("*",)
            rules += [
                Rewording(re.compile(regex(frame.replace("*", words))), known, opposite)
                for frame in frames
            ]
    return tuple(rules)


def main() -> None:
    scope = scope_files.read(FOLDER)
    assert scope is not None
    substitutions = tuple((re.compile(pattern), to) for pattern, to in SUBSTITUTIONS)
    rules = rewordings()
    scope_files.save(replace(scope, substitutions=substitutions, rewordings=rules), FOLDER)
    print(f"{len(rules)} rules, {len(RULES)} questions")


if __name__ == "__main__":
    main()
