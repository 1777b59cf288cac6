"""The parser of captions of scenes: it reads their meaning, and reports words that it cannot
read."""

import numpy as np
import pytest
from scene_captions import stated

from patchword.scenes import holds, scene
from patchword.scenes.base import Facts
from patchword.scenes.captions import shapes_caption, shapes_label, wafer_caption
from patchword.scenes.shapes import draw_shapes, facts_of
from patchword.scenes.wafer import FILMS, SIDES

SIDED = ("centre", *SIDES)
SIZED = ("scratch", "stain", "edge chip")
DEFECTS: list[dict[str, str]] = [
    {"defect": "none"},
    *(
        {"defect": d, "size": s, "place": p}
        for d in SIZED
        for s in ("large", "small")
        for p in SIDED
    ),
    *({"defect": "particles", "amount": k, "spread": "scattered"} for k in ("few", "many")),
    *(
        {"defect": "particles", "amount": k, "spread": "clustered", "place": p}
        for k in ("few", "many")
        for p in SIDED
    ),
]
WAFER_FACTS: list[Facts] = [{"film": film, **defect} for film in FILMS for defect in DEFECTS]


def test_captions_of_shapes_are_read_as_they_are_meant() -> None:
    rng = np.random.default_rng(3)
    counted = 0
    for _ in range(2500):
        facts = facts_of(draw_shapes(rng))
        caption, meaning = shapes_caption(rng, facts)
        parsed = stated(caption)
        assert (parsed.meaning, parsed.unread) == (meaning, ()), caption
        assert len(parsed.names) == facts["count"]
        assert parsed.count == (facts["count"] if ":" in caption else None)
        counted += ":" in caption
        label = stated(shapes_label(facts))
        assert holds(label.meaning, facts)
        assert sorted(label.names) == sorted(parsed.names)
    assert counted > 100


def test_captions_of_wafers_are_read_as_they_are_meant() -> None:
    rng = np.random.default_rng(4)
    for facts in WAFER_FACTS * 10:
        caption, meaning = wafer_caption(rng, facts)
        parsed = stated(caption)
        assert (parsed.meaning, parsed.unread) == (meaning, ()), caption
        assert (parsed.names, parsed.count) == ((), None)


def test_captions_of_drawn_scenes_are_true() -> None:
    for index in range(200):
        generated = scene(31, index, 32)
        parsed = stated(generated.caption)
        assert parsed.meaning == generated.meaning
        assert holds(parsed.meaning, generated.facts)


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        ("A photo of a red circle.", {"red circle"}),
        ("a red circle , and  a blue star", {"red circle", "blue star"}),
        (
            "an orange star under a red ring",
            {"orange star", "red ring", "red ring above orange star"},
        ),
        (
            "a red ring to the left of a red star, and a blue star",
            {"red ring", "red star", "blue star", "red ring left of red star"},
        ),
        (
            "a little red heart near the top",
            {"red heart", "red heart size=small", "red heart place=top"},
        ),
        ("a violet silicon wafer", {"film=violet"}),
        ("a perfect wafer with a scratch", {"defect=none", "defect=scratch"}),
        (
            "a cluster of many dust particles in the middle on a gold wafer",
            {"film=gold", "defect=particles", "spread=clustered", "amount=many", "place=centre"},
        ),
        ("a wafer", set()),
        ("", set()),
    ],
)
def test_other_wordings_that_make_sense(caption: str, facts: set[str]) -> None:
    parsed = stated(caption)
    assert (set(parsed.facts), parsed.unread) == (facts, ())


@pytest.mark.parametrize(
    ("caption", "facts", "unread"),
    [
        # Words that are not about scenes.
        ("a photo of a dress", set(), ("a", "dress")),
        ("a red circle and a pink square", {"red circle"}, ("and", "a", "pink", "square")),
        ("a red circles", set(), ("a", "red", "circles")),
        ("red", set(), ("red",)),
        # Repetitions: no scene has two equal objects.
        ("a red ring and a red ring", {"red ring"}, ("a red ring",)),
        ("a wafer with a stain on a wafer", {"defect=stain"}, ("a wafer",)),
        # Linking words that link nothing, or the wrong objects.
        ("a red ring a blue star", {"red ring"}, ("a blue star",)),
        ("a red ring above", {"red ring"}, ("above",)),
        ("a red ring, and", {"red ring"}, (", and",)),
        ("with a scratch", {"defect=scratch"}, ("with",)),
        ("a red ring on a wafer", {"red ring"}, ("on",)),
        ("a scratch and a stain", {"defect=scratch", "defect=stain"}, ("and",)),
        ("a red ring above below a red star", {"red ring", "red star"}, ("above", "below")),
        # Places and sizes that belong to other objects.
        (
            "a red ring on the left of a blue star",
            {"red ring", "red ring place=left", "blue star"},
            ("of",),
        ),
        ("a long stain on a wafer", {"defect=stain"}, ("a", "long")),
        ("a scratch on a wafer on the left", {"defect=scratch"}, ("on the left",)),
        # Openings, numbers and articles in the wrong place.
        ("a photo of a photo of a red ring", {"red ring"}, ("a", "photo", "of")),
        ("two shapes a red ring", {"red ring"}, ("two", "shapes")),
        ("an red ring", {"red ring"}, ("an",)),
    ],
)
def test_what_makes_no_sense_is_reported(
    caption: str, facts: set[str], unread: tuple[str, ...]
) -> None:
    parsed = stated(caption)
    assert set(parsed.facts) == facts
    assert tuple(" ".join(parsed.unread).split()) == tuple(" ".join(unread).split())


def test_how_many_are_stated_and_how_many_are_named() -> None:
    parsed = stated("three shapes: a red ring and a blue star")
    assert (parsed.count, parsed.names, parsed.unread) == (3, ("red ring", "blue star"), ())


def test_a_wrong_word_is_a_wrong_fact() -> None:
    pair = next(
        s for s in (scene(31, i, 32, "shapes") for i in range(200)) if " left of " in s.label
    )
    swapped = pair.label.replace(" left of ", " right of ")
    assert holds(stated(pair.label).meaning, pair.facts)
    assert not holds(stated(swapped).meaning, pair.facts)
    assert stated(swapped).unread == ()
