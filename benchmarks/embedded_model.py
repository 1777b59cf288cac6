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
from patchword.scenes import WAFER_CLASSES, Scene, distinguishable, holds, scene
from patchword.scenes.captions import truths, with_article
from patchword.scenes.shapes import COLOURS, SHAPES
from patchword.scenes.wafer import FILMS
from patchword.where.dense import EDITS
from patchword.where.heatmap import GRADCAM

SEED = 99
NEAR = 15 / 224  # tolerance of the pointing game, relative to an image's side
LANGUAGE_START = 100_000  # first scene for matching, questions and captions
QUESTIONS = 4  # to ask about each scene
MATCHED = 0.5  # probability from which a caption counts as matching
# The kinds of questions about scenes: their first words.
QUESTION_KINDS = (
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
# Words of captions that can be exchanged to change a fact, by kind of scene.
EXCHANGEABLE = {
    "wafer": {"film": [tuple(FILMS)], "defect": [("scratch", "stain", "edge chip")]},
    "shapes": {"colour": [tuple(COLOURS)], "shape": [SHAPES]},
}
OPPOSITE = {
    "side": [("left", "right"), ("top", "bottom"), ("above", "below"), ("over", "under")],
    "size": [("large", "small"), ("big", "little"), ("long", "short")],
}
# Names of the classes of clothing, as in the recipe.
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

CAPTION_OPTIONS: dict[str, dict[str, float]] = {"beam 3": {"beams": 3}, "drawn": {"top_p": 0.9}}
Outcomes = list[tuple[str, bool]]  # kind, and whether it was right
Measured = dict[str, Outcomes]  # by the name of the measurement


def share(outcomes: Outcomes) -> str:
    """How many were right, in all and by kind: 97.1% of 410 (yes 98.0% of 200, no ...)."""
    kinds: dict[str, list[bool]] = defaultdict(list)
    for kind, right in outcomes:
        kinds[kind].append(right)
    total = rate([right for _, right in outcomes])
    if len(kinds) <= 1:
        return total
    by_kind = ", ".join(f"{kind} {rate(right)}" for kind, right in sorted(kinds.items()))
    return f"{total} ({by_kind})"


def rate(right: Sequence[bool]) -> str:
    """How many were right: 97.1% of 410."""
    return f"{np.mean(right):.1%} of {len(right)}" if right else "none"


# --- classes, retrieval, heatmaps -----------------------------------------------------------------


def wafers(model: patchword.Model, seed: int, count: int) -> None:
    """Print the accuracy over `count` wafers of each class."""
    labels = [label.removeprefix("a ") for label in WAFER_CLASSES]
    accuracies = {}
    for wafer_class, label in zip(WAFER_CLASSES, labels, strict=True):
        images = [scene(seed, i, 256, label=wafer_class).image for i in range(count)]
        results = model.classify(images, labels)
        accuracies[label] = np.mean([scores[0].label == label for scores in results])
    by_class = ", ".join(f"{label} {value:.1%}" for label, value in accuracies.items())
    mean = np.mean(list(accuracies.values()))
    print(f"wafers, 5 classes x {count}: top-1 {mean:.1%} ({by_class})")


def clothing(model: patchword.Model, folder: Path) -> None:
    """Print the accuracy over a folder of photos with a subfolder for each class, by the centre
    crop and by two views."""
    files = sorted(folder.glob("*/*.jpg"))
    labels = sorted({file.parent.name for file in files})
    for views in (False, True):
        right: dict[str, list[bool]] = defaultdict(list)
        scores = model.classify(files, labels, two_views=views)
        for file, ranked in zip(files, scores, strict=True):
            right[file.parent.name].append(ranked[0].label == file.parent.name)
        total = np.mean([value for values in right.values() for value in values])
        mean = np.mean([np.mean(values) for values in right.values()])
        by_class = ", ".join(
            f"{name} {np.mean(values):.0%}" for name, values in sorted(right.items())
        )
        suffix = ", two views" if views else ""
        print(
            f"clothing, {len(files)} photos{suffix}: top-1 {total:.1%}, mean per class {mean:.1%} "
            f"({by_class})"
        )


def retrieval(model: patchword.Model, seed: int, count: int = 500) -> None:
    """Print recall@1 in both directions among `count` scenes of both kinds and their captions."""
    numbers = itertools.count()
    scenes = list(
        itertools.islice(distinguishable(scene(seed, number, 128) for number in numbers), count)
    )
    drawn = next(numbers)
    cosines = model.similarity([s.image for s in scenes], [s.caption for s in scenes])
    own = np.arange(count)
    to_text = np.mean(cosines.argmax(axis=1) == own)
    to_image = np.mean(cosines.argmax(axis=0) == own)
    wafer_count = sum(s.kind == "wafer" for s in scenes)
    print(
        f"scene retrieval, {count} ({wafer_count} wafers) of {drawn}: recall@1 image to text "
        f"{to_text:.1%}, text to image {to_image:.1%}"
    )


def pointing(model: patchword.Model, seed: int, kind: str, count: int) -> None:
    """Print the results of the pointing game over the objects of `count` scenes, for each method
    that works with this tower and a single text."""
    hits: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    chance = []
    methods = list(EDITS)
    if model.config.matching:
        methods.append(GRADCAM)
    for seen in (scene(seed, i, kind=kind) for i in range(count)):
        if not seen.objects:
            continue
        for method in list(methods):
            try:
                hits[method] += points(model, seen, method)
            except UnsupportedError:
                methods.remove(method)
                hits.pop(method, None)
        chance += [(thing.mask.mean(), around(thing.mask).mean()) for thing in seen.objects]
    means = {name: np.mean(values, axis=0) for name, values in {**hits, "chance": chance}.items()}
    rates = ", ".join(f"{name} {on:.1%} ({near:.1%})" for name, (on, near) in means.items())
    print(f"pointing game, {kind}, {len(chance)} objects, on it (or near): {rates}")


def points(model: patchword.Model, seen: Scene, method: str) -> list[tuple[bool, bool]]:
    """For each object, whether its map's maximum lies in its mask, and whether in or near it."""
    names = [thing.name for thing in seen.objects]
    values = model.heatmap(seen.image, names, method).values
    best = np.nanargmax(values.reshape(len(values), -1), axis=1)
    masks = [thing.mask for thing in seen.objects]
    return [
        (bool(mask.flat[at]), bool(around(mask).flat[at]))
        for mask, at in zip(masks, best, strict=True)
    ]


def around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W), extended by NEAR."""
    return distance_transform_edt(~mask) <= NEAR * max(mask.shape)


# --- matching -------------------------------------------------------------------------------------


def matching(model: patchword.Model, seen: Sequence[Scene]) -> Measured:
    """Whether the matching head accepts the scenes' own captions and rejects false ones."""
    rng = np.random.default_rng(0)
    outcomes: Outcomes = []
    changed: Outcomes = []
    for one in seen:
        texts = [one.caption, false_caption(rng, one, seen)]
        change = with_one_word_changed(rng, one)
        if change:
            texts.append(change[1])
        matched = model.match([one.image], texts).probabilities[0] >= MATCHED
        outcomes += [("own caption", bool(matched[0])), ("another's", not matched[1])]
        if change:
            changed.append((change[0], not matched[2]))
    return {"matching": outcomes, "one word changed": changed}


def false_caption(rng: np.random.Generator, one: Scene, seen: Sequence[Scene]) -> str:
    """The caption of another scene that is false for this one."""
    while True:
        other = seen[int(rng.integers(len(seen)))]
        if not holds(other.meaning, one.facts):
            return other.caption


def with_one_word_changed(rng: np.random.Generator, one: Scene) -> tuple[str, str] | None:
    """A kind of fact, and a scene's caption with one word changed so that this fact is false. None
    if no single word does that."""
    options: dict[str, list[str]] = defaultdict(list)
    groups = {**EXCHANGEABLE[one.kind], **OPPOSITE}
    for word in re.finditer(r"\w+", one.caption):
        for kind, sets in groups.items():
            for other in (w for words in sets if word[0] in words for w in words):
                text = one.caption[: word.start()] + other + one.caption[word.end() :]
                text = re.sub(r"\ban? (?=(\w))", lambda m: with_article(m[1])[:-1], text)
                caption = stated(text)
                if caption.unread or holds(caption.meaning, one.facts):
                    continue
                fact = kind
                if kind == "side":
                    alone = one.kind == "wafer" or one.facts["count"] == 1
                    fact = "place" if alone else "relation"
                options[fact].append(text)
    if not options:
        return None
    kind = sorted(options)[int(rng.integers(len(options)))]
    return kind, options[kind][int(rng.integers(len(options[kind])))]


# --- answers and captions -------------------------------------------------------------------------


def answers(model: patchword.Model, seen: Sequence[Scene]) -> Measured:
    """Whether the model's generated answers to questions about each scene are exactly right."""
    rng = np.random.default_rng(0)
    outcomes: Outcomes = []
    for one in seen:
        picked = rng.permutation(len(one.questions))[:QUESTIONS]
        pairs = [one.questions[i] for i in picked]
        written = model.ask(one.image, [question for question, _ in pairs])
        for (question, answer), result in zip(pairs, written, strict=True):
            kind = next(start for start in QUESTION_KINDS if question.startswith(start))
            outcomes.append((kind, result.text == answer))
    return {"answers": outcomes}


def captions(model: patchword.Model, seen: Sequence[Scene]) -> Measured:
    """Whether captions, and the facts in them, are right: of the most probable caption, which
    states little, and of a sampled one."""
    measured: Measured = {}
    for way, options in CAPTION_OPTIONS.items():
        outcomes: Outcomes = []
        whole_captions: Outcomes = []
        results = model.caption([one.image for one in seen], **options)
        for one, caption in zip(seen, results, strict=True):
            facts = list(check_facts(stated(caption.text), one))
            outcomes += facts
            whole_captions.append(("all right", all(right for _, right in facts)))
        measured[f"captions, {way}"] = whole_captions
        measured[f"facts of captions, {way}"] = outcomes
    return measured


def check_facts(caption: Stated, one: Scene) -> Iterator[tuple[str, bool]]:
    """The kind of each fact in a caption, and whether it is true.

    A "red circle" states an object, which is right if there is a circle, and a colour, which is
    right if there is a red circle. The count is right if the caption names as many shapes as there
    are, and states no other number.
    """
    true = truths(one.facts)
    shapes = {str(value) for key, value in one.facts.items() if key.startswith("shape ")}
    for fact in caption.facts:
        if fact in caption.names:
            yield "object", fact.split()[1] in shapes
            yield "colour", fact in true
        else:
            key = re.search(r"(\w+)=", fact)
            yield key[1] if key else "relation", fact in true
    if caption.names:
        named = len(caption.names)
        consistent = caption.count in (None, named)
        yield "count", consistent and one.kind == "shapes" and one.facts["count"] == named
    for _ in caption.unread:
        yield "unread", False
    if not caption.facts and not caption.unread:
        yield "nothing said", False


def clothes(model: patchword.Model, folder: Path) -> None:
    """Print how often captions and answers to "what is this?" name the class of clothing."""
    files = sorted(folder.glob("*/*.jpg"))
    if model.config.writes_captions:
        texts = [caption.text for caption in model.caption(files, beams=3)]
        print(f"clothing, captions: class right {share(_class_outcomes(files, texts))}")
    if model.config.answers_questions:
        texts = [model.ask(file, "what is this?").text for file in files]
        print(f'clothing, "what is this?": right {share(_class_outcomes(files, texts))}')


def _class_outcomes(files: Sequence[Path], texts: Sequence[str]) -> Outcomes:
    names = [file.parent.name for file in files]
    return [(name, class_in(text) == name) for name, text in zip(names, texts, strict=True)]


def class_in(text: str) -> str:
    """The class of clothing that a text names, by the longest of its names in the text; "" for
    none."""
    joined = re.sub(r"\s*-\s*", "-", text)
    words = {word: name for name, wordings in CLOTHES.items() for word in wordings}
    present = [w for w in words if re.search(rf"(?<![\w-]){re.escape(w)}(?![\w-])", joined)]
    return words[max(present, key=len)] if present else ""


# --- main -----------------------------------------------------------------------------------------


def language_scenes(seed: int, count: int) -> list[list[Scene]]:
    """`count` scenes: the wafers among them, and the shapes."""
    drawn = [scene(seed, LANGUAGE_START + i, 128) for i in range(count)]
    return [[s for s in drawn if s.kind == kind] for kind in ("wafer", "shapes")]


def language(model: patchword.Model, measure: Language, both: Sequence[Sequence[Scene]]) -> None:
    """Print each measurement for the wafers, for the shapes, and for all."""
    total: Measured = defaultdict(list)
    for seen in both:
        for what, outcomes in measure(model, seen).items():
            per_scene = f"{len(outcomes) / len(seen):.1f} a scene"
            print(f"{what}, {len(seen)} {seen[0].kind}, {per_scene}: {share(outcomes)}")
            total[what] += outcomes
    for what, outcomes in total.items():
        print(f"{what}, {sum(map(len, both))} scenes: {rate([right for _, right in outcomes])}")


Language = Callable[[patchword.Model, Sequence[Scene]], Measured]
# Measurements of language: the function, the share of scenes, and the models that can do it.
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
    parser.add_argument(
        "--scenes", type=int, default=1000, help="20 or more; captions are written for half of them"
    )
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
    if "pointing" in options.only:
        for kind in ("wafer", "shapes"):
            pointing(model, options.seed, kind, options.count)
    for name, (measure, part, is_able) in LANGUAGE.items():
        if name in options.only and is_able(model.config):
            language(model, measure, language_scenes(options.seed, round(part * options.scenes)))


if __name__ == "__main__":
    main()
