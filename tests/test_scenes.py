"""Scenes are always the same, their texts are true, and their masks are right."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scene_captions import stated

from patchword.errors import ConfigError
from patchword.scenes import WAFER_CLASSES, Scene, distinguishable, holds, scene
from patchword.scenes.captions import truths, wrong_caption
from patchword.scenes.shapes import COLOURS, SHAPES
from patchword.scenes.wafer import FILMS

SIZE = 96
WAFERS = [scene(5, i, SIZE, label=WAFER_CLASSES[i % 5]) for i in range(150)]
SHAPED = [scene(5, i, SIZE, kind="shapes") for i in range(200)]
ALL = [*WAFERS, *SHAPED]
PLACES = {"centre": "centre", "middle": "centre"} | {
    side: side for side in ("left", "right", "top", "bottom")
}
SIZE_WORDS = {"long": "large", "large": "large", "big": "large"} | dict.fromkeys(
    ("short", "small", "little"), "small"
)
FACT_OF_WORD = {  # of captions of wafers
    "scratch": ("defect", "scratch"),
    "particles": ("defect", "particles"),
    "stain": ("defect", "stain"),
    "chip": ("defect", "edge chip"),
    **dict.fromkeys(("perfect", "clean", "flawless", "without"), ("defect", "none")),
    **{film: ("film", film) for film in FILMS},
    **{word: ("size", size) for word, size in SIZE_WORDS.items()},
    **{word: ("place", place) for word, place in PLACES.items()},
    "few": ("amount", "few"),
    "many": ("amount", "many"),
    "cluster": ("spread", "clustered"),
    "scattered": ("spread", "scattered"),
}
CONVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def same(one: Scene, other: Scene) -> bool:
    """Whether two scenes have the same pixels, masks and texts."""
    masks = [
        a.name == b.name and np.array_equal(a.mask, b.mask)
        for a, b in zip(one.objects, other.objects, strict=True)
    ]
    texts = [(s.kind, s.label, s.caption, s.meaning, s.facts, s.questions) for s in (one, other)]
    return all(masks) and texts[0] == texts[1] and np.array_equal(one.image, other.image)


def words_of(caption: str) -> list[str]:
    return caption.replace(",", " ").replace(":", " ").split()


def centroid(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of a mask's centroid, as fractions of the side."""
    rows, columns = np.nonzero(mask)
    return (columns.mean() + 0.5) / mask.shape[1], (rows.mean() + 0.5) / mask.shape[0]


def side_of(x: float, y: float) -> str:
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "bottom" if y > 0 else "top"


def test_same_in_any_order() -> None:
    forward = [scene(3, i, 64) for i in range(12)]
    backward = [scene(3, i, 64) for i in reversed(range(12))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


def test_seed_and_index_both_matter() -> None:
    images = {scene(seed, i, 64).image.tobytes() for seed in range(4) for i in range(4)}
    assert len(images) == 16


@pytest.mark.parametrize("size", [64, 256])
def test_layout_does_not_depend_on_size(size: int) -> None:
    for i in range(20):
        one, other = scene(11, i, 128), scene(11, i, size)
        assert (one.caption, one.facts, one.questions) == (
            other.caption,
            other.facts,
            other.questions,
        )
        # Averaging down to 32 px removes noise and edges, and leaves the layout.
        small, large = (
            np.asarray(Image.fromarray(s.image).resize((32, 32), Image.Resampling.BOX), float)
            for s in (one, other)
        )
        assert np.abs(small - large).mean() < 4
        stranger = scene(11, i + 1, 32).image.astype(float)
        assert np.abs(small - stranger).mean() > 8
        for a, b in zip(one.objects, other.objects, strict=True):
            assert np.hypot(*np.subtract(centroid(a.mask), centroid(b.mask))) < 0.04
            assert a.mask.mean() == pytest.approx(b.mask.mean(), rel=0.3, abs=0.002)


def test_records_are_well_formed() -> None:
    for s in ALL:
        assert s.image.shape == (SIZE, SIZE, 3)
        assert s.image.dtype == np.uint8
        assert len({question for question, _ in s.questions}) == len(s.questions)
        for thing in s.objects:
            assert thing.mask.shape == (SIZE, SIZE)
            assert thing.mask.dtype == np.bool_
            assert thing.mask.sum() >= 8
        if s.objects:
            assert sum(thing.mask.astype(int) for thing in s.objects).max() <= 1  # no overlap
        else:
            assert s.label == "a perfect wafer"


def test_mask_is_where_the_defect_is() -> None:
    """Compared with the same wafer without a defect, pixels change in the mask and not far from
    it."""
    for i, s in enumerate(WAFERS):
        clean = scene(5, i, SIZE, label="a perfect wafer")
        change = np.abs(s.image.astype(int) - clean.image.astype(int)).max(2)
        if s.label == "a perfect wafer":
            assert not change.any()
            continue
        mask = s.objects[0].mask
        near = mask
        for _ in range(4):  # four pixels for antialiasing, shadow and fracture
            grown = near.copy()
            grown[1:] |= near[:-1]
            grown[:-1] |= near[1:]
            grown[:, 1:] |= near[:, :-1]
            grown[:, :-1] |= near[:, 1:]
            near = grown
        assert change[~near].max() == 0
        # The defect is visible: pixels in its mask change by at least an eighth of the range.
        assert np.percentile(change[mask], 80) > 255 / 8, (i, s.label)


def test_shapes_have_their_colour_inside_their_mask() -> None:
    for s in SHAPED:
        for thing in s.objects:
            colour = thing.name.split()[1]
            seen = np.median(s.image[thing.mask], axis=0) / 255
            nearest = min(COLOURS, key=lambda name: float(np.abs(seen - COLOURS[name]).sum()))
            assert nearest == colour


def test_places_are_true() -> None:
    for s in WAFERS:
        if "place" not in s.facts:
            continue
        x, y = centroid(s.objects[0].mask)
        x, y = x - 0.5, y - 0.5
        if s.facts["place"] == "centre":
            assert np.hypot(x, y) < 0.16
        else:
            assert np.hypot(x, y) > 0.14
            assert side_of(x, y) == s.facts["place"]
    for s in SHAPED:
        if s.facts["count"] == 1 and s.facts.get("place 1") not in (None, "centre"):
            x, y = centroid(s.objects[0].mask)
            assert side_of(x - 0.5, y - 0.5) == s.facts["place 1"]


def test_relations_are_true() -> None:
    seen = Counter[str]()
    for s in SHAPED:
        for key, word in s.facts.items():
            if not key.startswith("relation"):
                continue
            first, second = (s.objects[int(n) - 1].mask for n in key.split()[1:])
            x, y = np.subtract(centroid(second), centroid(first))
            axis = {"left of": x, "right of": -x, "above": y, "below": -y}[str(word)]
            assert axis > 0.1
            seen[str(word)] += 1
    assert len(seen) == 4
    assert min(seen.values()) >= 10


def test_sizes_are_true() -> None:
    def areas(of: str, size: str) -> list[int]:
        return [
            int(s.objects[0].mask.sum())
            for s in ALL
            if (s.facts.get("defect") == of and s.facts.get("size") == size)
            or (s.facts.get("shape 1") == of and s.facts.get("size 1") == size)
        ]

    for defect in ("scratch", "stain", "edge chip"):
        assert min(areas(defect, "large")) > np.mean(areas(defect, "small"))
    circles = areas("circle", "large"), areas("circle", "small")
    assert min(circles[0]) > max(circles[1])


def test_particles_are_as_many_as_told() -> None:
    for s in WAFERS:
        if s.facts["defect"] == "particles":
            assert (s.facts["amount"] == "many") == (int(s.facts["count"]) > 10)
            # The mask of a speck has a radius of at least 1.5 / 128 of the side; masks may overlap.
            speck = np.pi * (1.5 / 128 * SIZE) ** 2
            assert 0.25 * speck < s.objects[0].mask.sum() / int(s.facts["count"]) < 2.2 * speck


def test_wafer_captions_are_true_and_mean_what_they_say() -> None:
    for s in WAFERS:
        words = words_of(s.caption)
        stated_facts = dict(FACT_OF_WORD[word] for word in words if word in FACT_OF_WORD)
        assert stated_facts.items() <= s.facts.items(), s.caption
        assert s.meaning == "; ".join(f"{k}={v}" for k, v in sorted(stated_facts.items()))


def parse_shapes(caption: str) -> set[str]:
    """The statements of a caption about shapes, read from its words."""
    words = words_of(caption)
    starts = [i for i, word in enumerate(words) if word in COLOURS]
    assert all(words[i + 1] in SHAPES for i in starts)
    names = [f"{words[i]} {words[i + 1]}" for i in starts]
    before, after = words[: starts[0]], words[starts[0] + 2 :]
    statements = set(names)
    if len(names) == 1:
        statements |= {
            f"{names[0]} size={SIZE_WORDS[word]}" for word in before if word in SIZE_WORDS
        }
        statements |= {f"{names[0]} place={PLACES[word]}" for word in after if word in PLACES}
        return statements
    for word in words[starts[0] + 2 : starts[1]]:
        relation = {"over": "above", "under": "below"}.get(word, word)
        first, second = names[0], names[1]
        if relation in ("right", "below"):
            first, relation, second = second, CONVERSE[relation], first
        if relation in CONVERSE:
            statements.add(f"{first} {'left of' if relation == 'left' else relation} {second}")
    return statements


def test_shape_captions_are_true_and_mean_what_they_say() -> None:
    for s in SHAPED:
        assert s.meaning == "; ".join(sorted(parse_shapes(s.caption))), s.caption
        assert {thing.name.split(" ", 1)[1] for thing in s.objects} <= set(s.meaning.split("; "))
        assert holds("; ".join(sorted(parse_shapes(s.label))), s.facts)


def test_articles_agree() -> None:
    for s in ALL:
        for text in (s.caption, s.label, *(thing.name for thing in s.objects)):
            words = text.replace(",", "").split()
            for article, word in pairwise(words):
                if article in ("a", "an"):
                    assert (article == "an") == (word[0] in "aeiou"), text


def test_equal_meaning_in_other_words() -> None:
    wordings: dict[str, set[str]] = {}
    for s in ALL:
        wordings.setdefault(s.meaning, set()).add(s.caption)
    assert max(len(captions) for captions in wordings.values()) >= 5
    meanings: dict[str, set[str]] = {}
    for s in ALL:
        meanings.setdefault(s.caption, set()).add(s.meaning)
    assert all(len(meanings_of_caption) == 1 for meanings_of_caption in meanings.values())


def test_a_relation_and_its_converse_mean_the_same() -> None:
    converses = 0
    for i in range(400):
        s = scene(8, i, 32, kind="shapes")
        words = words_of(s.caption)
        if s.facts["count"] == 2 and "right" in words:
            one, word, other = s.label.partition(" left of ")
            assert word
            names = [part.split(" ", 1)[1] for part in (one, other)]
            assert f"{names[0]} left of {names[1]}" in s.meaning.split("; ")
            converses += 1
    assert converses >= 10


def test_holds_follows_the_facts() -> None:
    assert all(holds(s.meaning, s.facts) for s in ALL)
    scratch = next(s for s in WAFERS if s.facts["defect"] == "scratch")
    assert holds("defect=scratch", scratch.facts)
    assert not holds("defect=stain", scratch.facts)
    other = {"large": "small", "small": "large"}[str(scratch.facts["size"])]
    assert not holds(f"defect=scratch; size={other}", scratch.facts)
    pair = next(s for s in SHAPED if " left of " in s.label)
    one, _, two = (
        part.removeprefix("an ").removeprefix("a ") for part in pair.label.partition(" left of ")
    )
    assert holds(one, pair.facts)
    assert holds(f"{one} left of {two}", pair.facts)
    assert not holds(f"{two} left of {one}", pair.facts)
    assert not any(holds(scratch.meaning, s.facts) for s in SHAPED)


def test_wafer_answers_are_true() -> None:
    for s in WAFERS:
        answers = dict(s.questions)
        assert answers["what defect does the wafer have?"] == s.facts["defect"]
        assert answers["what colour is the wafer?"] == s.facts["film"]
        assert answers["is the wafer perfect?"] == ("no" if s.objects else "yes")
        present = [q for q, a in s.questions if "there" in q and "or" not in q and a == "yes"]
        assert [q.split("there ")[1] for q in present] == [f"{t.name}?" for t in s.objects]
        where = [a for q, a in s.questions if q.startswith("where") and "notch" not in q]
        assert where == ([s.facts["place"]] if "place" in s.facts else [])


def test_shape_answers_are_true() -> None:
    numbers = {"one": 1, "two": 2, "three": 3}
    asked = Counter[str]()
    for s in SHAPED:
        things = {thing.name.split(" ", 1)[1]: centroid(thing.mask) for thing in s.objects}
        for question, answer in s.questions:
            words = question.rstrip("?").split()
            asked[" ".join(words[:2])] += 1
            named = [f"{a} {b}" for a, b in pairwise(words) if b in SHAPES]
            if question.startswith("how many"):
                assert numbers[answer] == len(things)
            elif question.startswith("is there"):
                assert (answer == "yes") == (named[0] in things)
            elif question.startswith("what colour"):
                assert f"{answer} {words[-1]}" in things
            elif question.startswith("what shape"):
                assert f"{words[-1]} {answer}" in things
            elif question.startswith(("is the", "what is")):
                one = answer if question.startswith("what is") else named[0]
                x, y = np.subtract(things[named[-1]], things[one])
                word = next(w for w in words if w in CONVERSE)
                axis = {"left": x, "right": -x, "above": y, "below": -y}[word]
                assert (axis > 0) == (answer != "no")
            elif question.startswith("what side"):
                x, y = np.subtract(things[named[0]], things[named[1]])
                assert {"left": x, "right": -x, "top": y, "bottom": -y}[answer] > 0
    kinds = ("how many", "is there", "what colour", "what is", "is the", "what side")
    assert min(asked[kind] for kind in kinds) > 20


def test_wrong_captions_are_false_by_one_fact() -> None:
    """A single statement is false or, if the name of a shape was changed, all statements about that
    shape."""
    rng = np.random.default_rng(3)
    changed = Counter[str]()
    for s in (*WAFERS, *SHAPED):
        parsed = stated(wrong_caption(rng, s.facts))
        assert not parsed.unread
        assert not holds(parsed.meaning, s.facts)
        false = parsed.facts - truths(s.facts)
        renamed = false & set(parsed.names)
        assert len(renamed or false) == 1
        (fact,) = renamed or false
        key = re.search(r"(\w+)=", fact)
        changed["name" if renamed else key[1] if key else "relation"] += 1
    assert set(changed) == {"film", "amount", "spread", "size", "place", "name", "relation"}
    related = sum(any(key.startswith("relation") for key in s.facts) for s in SHAPED)
    assert changed["relation"] > related / 4  # the kinds are colour, shape and relation


def test_everything_occurs() -> None:
    scenes = [scene(21, i, 32) for i in range(300)]
    assert 110 < sum(s.kind == "wafer" for s in scenes) < 190
    assert {s.label for s in scenes if s.kind == "wafer"} == set(WAFER_CLASSES)
    assert {s.facts["film"] for s in WAFERS} == set(FILMS)
    assert {s.facts["notch"] for s in WAFERS} == {"left", "right", "top", "bottom"}
    names = {tuple(thing.name.split()[1:]) for s in SHAPED for thing in s.objects}
    assert {colour for colour, _ in names} == set(COLOURS)
    assert {shape for _, shape in names} == set(SHAPES)
    assert {s.facts["count"] for s in SHAPED} == {1, 2, 3}
    for defect in ("scratch", "stain", "edge chip"):
        facts_of_defect = [s.facts for s in WAFERS if s.facts["defect"] == defect]
        assert {facts["size"] for facts in facts_of_defect} == {"small", "large"}


def test_label_alone_asks_for_a_wafer() -> None:
    for label in WAFER_CLASSES:
        assert all(scene(2, i, 32, label=label).label == label for i in range(8))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "photo"},
        {"label": "a broken wafer"},
        {"kind": "shapes", "label": WAFER_CLASSES[0]},
        {"size": 16},
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(str(v) for v in reversed(wrong.values())))):
        scene(0, 0, **wrong)  # type: ignore[arg-type]


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="index=-1"):
        scene(0, -1)


def test_a_palette_limits_the_colours_and_nothing_else() -> None:
    palette = ("red", "black")
    for index in range(40):
        plain, limited = scene(3, index, 32, "shapes"), scene(3, index, 32, "shapes", None, palette)
        colours = {value for key, value in limited.facts.items() if key.startswith("colour")}
        assert colours <= set(palette)
        names = [thing.name for thing in limited.objects]
        assert len(set(names)) == len(names) == len(plain.objects)
    with pytest.raises(ConfigError, match="colour 'pink': shapes are red"):
        scene(3, 0, palette=("red", "pink"))
    with pytest.raises(ConfigError, match="a palette of red alone"):
        scene(3, 0, palette=("red",))


def test_scenes_that_no_caption_confuses() -> None:
    scenes = [scene(99, number, 32) for number in range(60)]
    kept = list(distinguishable(scenes))
    assert kept[0] is scenes[0]
    assert 1 < len(kept) < len(scenes)
    for new in scenes:
        clashes = [
            old.caption
            for old in kept
            if old is not new and (holds(new.meaning, old.facts) or holds(old.meaning, new.facts))
        ]
        assert bool(clashes) is not any(new is old for old in kept)
