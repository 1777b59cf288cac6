"""Generated scenes with ground truth: wafer surfaces and coloured shapes.

`scene(seed, index)` is always the same, so a data set is a seed and a range of indexes. Each scene
comes with a caption, a mask for every object, and questions with answers.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from patchword.errors import ConfigError
from patchword.scenes.base import Facts, Scene, SceneObject, choose, finish
from patchword.scenes.captions import (
    DEFECT_NAMES,
    OBJECT_NAMES,
    TEMPLATES,
    WAFER_CLASSES,
    holds,
    shapes_caption,
    shapes_label,
    shapes_questions,
    wafer_caption,
    wafer_questions,
    with_article,
)
from patchword.scenes.shapes import (
    COLOURS,
    draw_ground,
    draw_shapes,
    facts_of,
    paint_ground,
    paint_shape,
)
from patchword.scenes.wafer import DEFECTS, draw_wafer, paint_wafer

__all__ = [
    "KINDS",
    "TEMPLATES",
    "WAFER_CLASSES",
    "Facts",
    "Scene",
    "SceneObject",
    "distinguishable",
    "holds",
    "scene",
]

KINDS = ("wafer", "shapes")


def scene(
    seed: int,
    index: int,
    size: int = 128,
    kind: str | None = None,
    label: str | None = None,
    palette: Sequence[str] = (),
) -> Scene:
    """Scene number `index` of a seed, `size` pixels square (at least 32).

    kind     "wafer" or "shapes"; None: one of them at random
    label    one of WAFER_CLASSES; None: one at random. The wafer itself does not depend on it
    palette  colours that shapes may have, two or more of COLOURS; empty: all

    The layout does not depend on the size; only the sensor noise is drawn for each pixel. A
    defect's mask is at least 3 pixels wide at 128 px, wider than the thinnest scratch or speck, so
    that a pointing game is not decided by chance.

    Raises ConfigError for an unknown kind, label or colour, a size below 32, or a negative number.
    """
    if kind not in (None, *KINDS):
        raise ConfigError(f"kind {kind!r}: a scene is one of {', '.join(KINDS)}")
    if label is not None and (label not in WAFER_CLASSES or kind == "shapes"):
        raise ConfigError(f"label {label!r}: only wafers have one, of {', '.join(WAFER_CLASSES)}")
    for colour in palette:
        if colour not in COLOURS:
            raise ConfigError(f"colour {colour!r}: shapes are {', '.join(COLOURS)}")
    if len(palette) == 1:
        raise ConfigError(f"a palette of {palette[0]} alone: two shapes may be alike; give more")
    if size < 32 or seed < 0 or index < 0:
        raise ConfigError(
            f"scene(seed={seed}, index={index}, size={size}): seed and index must be 0 or more, "
            "size at least 32"
        )
    source = np.random.SeedSequence([seed, index])
    rng = np.random.Generator(np.random.PCG64(source))
    noise = np.random.Generator(np.random.PCG64(source.spawn(1)[0]))
    # Both are drawn even if the caller gives them, so that the rest of the scene stays the same.
    random_kind = choose(rng, KINDS)
    random_label = choose(rng, WAFER_CLASSES)
    if label is not None or (kind or random_kind) == "wafer":
        return _wafer_scene(rng, noise, size, label or random_label)
    return _shapes_scene(rng, noise, size, palette)


def distinguishable(scenes: Iterable[Scene]) -> Iterator[Scene]:
    """The scenes that captions tell apart: those whose caption is not true of any earlier one of
    them, and for which no caption of an earlier one is true."""
    kept: list[Scene] = []
    for new in scenes:
        if not any(holds(new.meaning, old.facts) or holds(old.meaning, new.facts) for old in kept):
            kept.append(new)
            yield new


def _wafer_scene(
    rng: np.random.Generator, noise: np.random.Generator, size: int, label: str
) -> Scene:
    wafer, facts = draw_wafer(rng)
    defect = DEFECT_NAMES[WAFER_CLASSES.index(label)]
    facts["defect"] = defect
    image, present = paint_wafer(wafer, size)
    objects: tuple[SceneObject, ...] = ()
    if defect in DEFECTS:
        mask, defect_facts = DEFECTS[defect](rng, wafer, image, present)
        facts.update(defect_facts)
        objects = (SceneObject(OBJECT_NAMES[defect], mask),)
    caption, meaning = wafer_caption(rng, facts)
    return Scene(
        image=finish(image, wafer.noise, noise),
        kind="wafer",
        label=label,
        caption=caption,
        meaning=meaning,
        facts=facts,
        objects=objects,
        questions=wafer_questions(facts),
    )


def _shapes_scene(
    rng: np.random.Generator, noise: np.random.Generator, size: int, palette: Sequence[str]
) -> Scene:
    shapes = draw_shapes(rng, palette)
    facts = facts_of(shapes)
    image = paint_ground(draw_ground(rng), size)
    masks = [paint_shape(rng, shape, image) for shape in shapes]
    caption, meaning = shapes_caption(rng, facts)
    names = [with_article(shape.name) for shape in shapes]
    return Scene(
        image=finish(image, 0.015, noise),
        kind="shapes",
        label=shapes_label(facts),
        caption=caption,
        meaning=meaning,
        facts=facts,
        objects=tuple(SceneObject(name, mask) for name, mask in zip(names, masks, strict=True)),
        questions=shapes_questions(facts),
    )
