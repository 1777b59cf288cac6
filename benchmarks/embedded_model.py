"""What the embedded models can do, on unseen images.

    python benchmarks/embedded_model.py [--clothing CLOTHING/validation] [--model demo]

- Zero-shot classes of wafers and of clothing photos (one subfolder for each class).
- Retrieval among scenes whose captions are false for all other scenes.
- The pointing game (Zhang et al. 2018): how often a heatmap's maximum lies in the mask of the named
  object, and how often in it or within the paper's tolerance, 15 of 224 pixels, beside the chance
  of a random point.
- Of models that can: whether matching separates a scene's own caption from that of another scene of
  the same kind, and from its own caption with one word changed; exactly right answers to questions;
  and the facts in captions, as `scene_captions.stated` reads them. Words without a meaning count as
  wrong facts.

What a model cannot do is left out. The scenes' seed was not used in training.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scene_captions import Stated, stated
from scipy.ndimage import distance_transform_edt

import patchword
from patchword.config import ModelConfig
from patchword.errors import UnsupportedError
from patchword.scenes import WAFER_CLASSES, Scene, apart, holds, scene
from patchword.scenes.captions import truths, with_article
from patchword.scenes.shapes import COLOURS, SHAPES
from patchword.scenes.wafer import FILMS
from patchword.where.dense import EDITS
from patchword.where.heatmap import GRADCAM

SEED = 99
NEAR = 15 / 224  # of an image's side
LATER = 100_000  # the first of the scenes that are matched, asked about and described
QUESTIONS = 4  # of each scene
MATCHED = 0.5  # a caption is taken for a scene's own from this probability on
# Beginnings of the questions about scenes, which tell their kinds.
ASKED = (
    "are there few",
    "are there",
    "are the particles",
    "is there",
    "is the wafer perfect",
    "is the",
    "what is",
    "what side",
    "what colour",
    "what shape",
    "what defect",
    "where is the notch",
    "where is",
    "how many",
    "how",
)
# Words of captions that may stand for each other.
ALIKE = {
    "wafer": {"film": [tuple(FILMS)], "defect": [("scratch", "stain", "edge chip")]},
    "shapes": {"colour": [tuple(COLOURS)], "shape": [SHAPES]},
}
OPPOSITE = {
    "side": [("left", "right"), ("top", "bottom"), ("above", "below"), ("over", "under")],
    "size": [("large", "small"), ("big", "little"), ("long", "short")],
}
# What the classes of clothing are called, as in the recipe.
CLOTHES = {
    "dress": ("dress",),
    "hat": ("hat", "cap"),
    "longsleeve": ("longsleeve", "long-sleeve shirt", "long-sleeved top", "sweater"),
    "outwear": ("outwear", "outerwear", "jacket", "coat"),
    "pants": ("pants", "pair of pants", "trousers"),
    "shirt": ("shirt", "button-up shirt"),
    "shoes": ("shoes", "pair of shoes", "shoe"),
    "shorts": ("shorts", "pair of shorts"),
    "skirt": ("skirt",),
    "t-shirt": ("t-shirt", "tee"),
}

WAYS: dict[str, dict[str, float]] = {"beam 3": {"beams": 3}, "drawn": {"top_p": 0.9}}
Judged = list[tuple[str, bool]]  # the kind of a thing, and whether it was right
Measured = dict[str, Judged]  # by what was measured


def share(judged: Judged) -> str:
    """ "97.1% of 410 (yes 98.0% of 200, no ...)": how many were right, in all and by kind."""
    kinds: dict[str, list[bool]] = defaultdict(list)
    for kind, right in judged:
        kinds[kind].append(right)
    every = rate([one for right in kinds.values() for one in right])
    each = ", ".join(f"{kind} {rate(right)}" for kind, right in sorted(kinds.items()))
    return f"{every} ({each})" if len(kinds) > 1 else every


def rate(right: Sequence[bool]) -> str:
    """ "97.1% of 410"."""
    return f"{np.mean(right):.1%} of {len(right)}" if right else "none"


# --- classes, retrieval, heatmaps -----------------------------------------------------------------


def wafers(model: patchword.Model, seed: int, count: int) -> None:
    """Accuracy over `count` wafers of each class."""
    labels = [label.removeprefix("a ") for label in WAFER_CLASSES]
    right = defaultdict(float)
    for label in WAFER_CLASSES:
        images = [scene(seed, i, 256, label=label).image for i in range(count)]
        scores = model.classify(images, labels)
        right[label] = float(np.mean([s[0].label == label.removeprefix("a ") for s in scores]))
    each = ", ".join(f"{label.removeprefix('a ')} {value:.1%}" for label, value in right.items())
    print(f"wafers, 5 classes x {count}: top-1 {np.mean(list(right.values())):.1%} ({each})")


def clothing(model: patchword.Model, folder: Path) -> None:
    """Accuracy over a folder of photos, one subfolder per class, by the crop and by two views."""
    files = sorted(folder.glob("*/*.jpg"))
    labels = sorted({file.parent.name for file in files})
    for views in (False, True):
        right: dict[str, list[bool]] = defaultdict(list)
        scores = model.classify(files, labels, two_views=views)
        for file, ranked in zip(files, scores, strict=True):
            right[file.parent.name].append(ranked[0].label == file.parent.name)
        total = np.mean([value for values in right.values() for value in values])
        mean = np.mean([np.mean(values) for values in right.values()])
        each = ", ".join(f"{name} {np.mean(values):.0%}" for name, values in sorted(right.items()))
        seen = ", two views" if views else ""
        print(
            f"clothing, {len(files)} photos{seen}: top-1 {total:.1%}, mean per class {mean:.1%} "
            f"({each})"
        )


def retrieval(model: patchword.Model, seed: int, count: int = 500) -> None:
    """Recall@1 both ways among `count` scenes of both kinds, each with the generator's caption."""
    numbers = itertools.count()
    kept = list(itertools.islice(apart(scene(seed, number, 128) for number in numbers), count))
    drawn = next(numbers)
    cosines = model.similarity([s.image for s in kept], [s.caption for s in kept])
    own = np.arange(count)
    to_text, to_image = (np.mean(cosines.argmax(axis=axis) == own) for axis in (1, 0))
    wafer = sum(s.kind == "wafer" for s in kept)
    print(
        f"scene retrieval, {count} ({wafer} wafers) of {drawn}: recall@1 image to text "
        f"{to_text:.1%}, text to image {to_image:.1%}"
    )


def pointing(model: patchword.Model, seed: int, kind: str, count: int) -> None:
    """The pointing game over the objects of `count` scenes, per method that takes this tower, and
    one text alone."""
    hits: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    chance = []
    methods = [*EDITS, *[GRADCAM] * model.config.matching]
    for seen in (scene(seed, i, kind=kind) for i in range(count)):
        for method in list(methods) if seen.objects else ():
            try:
                hits[method] += points(model, seen, method)
            except UnsupportedError:
                methods.remove(method)
                hits.pop(method, None)
        chance += [(thing.mask.mean(), around(thing.mask).mean()) for thing in seen.objects]
    told = {**hits, "chance": chance}
    means = {name: np.mean(found, axis=0) for name, found in told.items()}
    rates = ", ".join(f"{name} {on:.1%} ({near:.1%})" for name, (on, near) in means.items())
    print(f"pointing game, {kind}, {len(chance)} objects, on it (or near): {rates}")


def points(model: patchword.Model, seen: Scene, method: str) -> list[tuple[bool, bool]]:
    """For each object whether the maximum of its map lies in its mask; and there, or near it."""
    names = [thing.name for thing in seen.objects]
    values = model.heatmap(seen.image, names, method).values
    best = np.nanargmax(values.reshape(len(values), -1), axis=1)
    masks = [thing.mask for thing in seen.objects]
    return [
        (bool(mask.flat[at]), bool(around(mask).flat[at]))
        for mask, at in zip(masks, best, strict=True)
    ]


def around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W) and what is near it."""
    return distance_transform_edt(~mask) <= NEAR * max(mask.shape)


# --- matching -------------------------------------------------------------------------------------


def matching(model: patchword.Model, seen: Sequence[Scene]) -> Measured:
    """Own captions and wrong ones, and whether the matching head takes each for what it is."""
    rng = np.random.default_rng(0)
    judged: Judged = []
    changed: Judged = []
    for one in seen:
        hard = altered(rng, one)
        texts = [one.caption, another(rng, one, seen), *([hard[1]] if hard else [])]
        found = model.match([one.image], texts).probabilities[0] >= MATCHED
        judged += [("own caption", bool(found[0])), ("another's", not found[1])]
        if hard:
            changed.append((hard[0], not found[2]))
    return {"matching": judged, "one word changed": changed}


def another(rng: np.random.Generator, one: Scene, seen: Sequence[Scene]) -> str:
    """The caption of another scene that is not true of this one."""
    while True:
        other = seen[int(rng.integers(len(seen)))]
        if not holds(other.meaning, one.facts):
            return other.caption


def altered(rng: np.random.Generator, one: Scene) -> tuple[str, str] | None:
    """What was changed, and a scene's caption in which another word makes it false; None where no
    single word does."""
    options: dict[str, list[str]] = defaultdict(list)
    groups = {**ALIKE[one.kind], **OPPOSITE}
    for word in re.finditer(r"\w+", one.caption):
        for kind, sets in groups.items():
            for other in (w for group in sets if word[0] in group for w in group):
                text = one.caption[: word.start()] + other + one.caption[word.end() :]
                text = re.sub(r"\ban? (?=(\w))", lambda m: with_article(m[1])[:-1], text)
                found = stated(text)
                if not found.unread and not holds(found.meaning, one.facts):
                    alone = one.kind == "wafer" or one.facts["count"] == 1
                    side = "place" if alone else "relation"
                    options[side if kind == "side" else kind].append(text)
    if not options:
        return None
    kind = sorted(options)[int(rng.integers(len(options)))]
    return kind, options[kind][int(rng.integers(len(options[kind])))]


# --- answers and captions -------------------------------------------------------------------------


def answers(model: patchword.Model, seen: Sequence[Scene]) -> Measured:
    """Questions of each scene, answered in the model's own words."""
    rng = np.random.default_rng(0)
    judged: Judged = []
    for one in seen:
        picked = rng.permutation(len(one.questions))[:QUESTIONS]
        pairs = [one.questions[i] for i in picked]
        written = model.ask(one.image, [question for question, _ in pairs])
        for (question, answer), said in zip(pairs, written, strict=True):
            kind = next(start for start in ASKED if question.startswith(start))
            judged.append((kind, said.text == answer))
    return {"answers": judged}


def captions(model: patchword.Model, seen: Sequence[Scene]) -> Measured:
    """What captions say of scenes: the likeliest, which says little, and one drawn."""
    measured: Measured = {}
    for way, options in WAYS.items():
        judged: Judged = []
        whole: Judged = []
        for one, said in zip(seen, model.caption([s.image for s in seen], **options), strict=True):
            facts = list(checked(stated(said.text), one))
            judged += facts
            whole.append(("all right", all(right for _, right in facts)))
        measured[f"captions, {way}"] = whole
        measured[f"facts of captions, {way}"] = judged
    return measured


def checked(found: Stated, one: Scene) -> Iterator[tuple[str, bool]]:
    """What a caption states, its kind, and whether it holds.

    A "red circle" is an object, a circle, and a colour, right if there is a red one. How many
    shapes there are is how many are named, since a caption names all, and what it says of that.
    """
    true = truths(one.facts)
    shapes = {str(value) for key, value in one.facts.items() if key.startswith("shape ")}
    for fact in found.facts:
        if fact in found.names:
            yield "object", fact.split()[1] in shapes
            yield "colour", fact in true
        else:
            told = re.search(r"(\w+)=", fact)
            yield told[1] if told else "relation", fact in true
    if found.names:
        agrees = found.count in (None, len(found.names))
        yield "count", agrees and one.kind == "shapes" and one.facts["count"] == len(found.names)
    for _ in found.unread:
        yield "unread", False
    if not found.facts and not found.unread:
        yield "nothing said", False


def clothes(model: patchword.Model, folder: Path) -> None:
    """The class in captions of photos and in the answers to "what is this?"."""
    files = sorted(folder.glob("*/*.jpg"))
    if model.config.writes_captions:
        said = [caption.text for caption in model.caption(files, beams=3)]
        print(f"clothing, captions: class right {share(_classed(files, said))}")
    if model.config.answers_questions:
        said = [model.ask(file, "what is this?").text for file in files]
        print(f'clothing, "what is this?": right {share(_classed(files, said))}')


def _classed(files: Sequence[Path], said: Sequence[str]) -> Judged:
    names = [file.parent.name for file in files]
    return [(name, class_said(text) == name) for name, text in zip(names, said, strict=True)]


def class_said(text: str) -> str:
    """The class of clothing that a text names, by the longest of the words in it; "" for none."""
    joined = re.sub(r"\s*-\s*", "-", text)
    words = {word: name for name, wordings in CLOTHES.items() for word in wordings}
    there = [w for w in words if re.search(rf"(?<![\w-]){re.escape(w)}(?![\w-])", joined)]
    return words[max(there, key=len)] if there else ""


# --- all of it ------------------------------------------------------------------------------------


def later(seed: int, count: int) -> list[list[Scene]]:
    """`count` scenes of both kinds, drawn evenly: the wafers, and the shapes."""
    drawn = [scene(seed, LATER + i, 128) for i in range(count)]
    return [[s for s in drawn if s.kind == kind] for kind in ("wafer", "shapes")]


def language(model: patchword.Model, measure: Language, both: Sequence[Sequence[Scene]]) -> None:
    """A line for the wafers, one for the shapes, and one for all, of each thing measured."""
    total: Measured = defaultdict(list)
    for seen in both:
        for what, judged in measure(model, seen).items():
            each = f"{len(judged) / len(seen):.1f} a scene"
            print(f"{what}, {len(seen)} {seen[0].kind}, {each}: {share(judged)}")
            total[what] += judged
    for what, judged in total.items():
        print(f"{what}, {sum(map(len, both))} scenes: {rate([right for _, right in judged])}")


Language = Callable[[patchword.Model, Sequence[Scene]], Measured]
# What is done to later scenes, with how many of them, and by which models.
LANGUAGE: dict[str, tuple[Language, float, Callable[[ModelConfig], bool]]] = {
    "matching": (matching, 1.0, lambda config: config.matching),
    "answers": (answers, 1.0, lambda config: config.answers_questions),
    "captions": (captions, 0.5, lambda config: config.writes_captions),
}


def main() -> None:
    known = ("wafers", "clothing", "retrieval", "pointing", *LANGUAGE)
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clothing", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=1000, help="20 or more; half are described")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    if options.scenes < 20:
        parser.error("--scenes: 20 or more, so that there are some of both kinds")
    model = patchword.load(options.model)
    if "wafers" in options.only:
        wafers(model, options.seed, options.count)
    if options.clothing and "clothing" in options.only:
        clothing(model, options.clothing)
        clothes(model, options.clothing)
    if "retrieval" in options.only:
        retrieval(model, options.seed)
    for kind in ("wafer", "shapes") if "pointing" in options.only else ():
        pointing(model, options.seed, kind, options.count)
    for name, (measure, part, able) in LANGUAGE.items():
        if name in options.only and able(model.config):
            language(model, measure, later(options.seed, round(part * options.scenes)))


if __name__ == "__main__":
    main()
