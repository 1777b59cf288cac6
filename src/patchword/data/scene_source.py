"""Scenes as training data, generated on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword import scenes
from patchword.config import PreprocessConfig
from patchword.data.augment import Transform
from patchword.data.config import SourceConfig
from patchword.data.sample import Facts, Region, Sample, Texts, fact
from patchword.errors import RecipeError
from patchword.scenes import WAFER_CLASSES
from patchword.scenes.captions import caption, noun_phrases, truths, wrong_caption

SCENE_SIZE = 128  # pixels; scenes are rendered at this size and then resized
SMALLEST = 32  # pixels; the texts of a scene do not depend on its size
SURVEYED = 5000  # scenes whose texts are read for the vocabulary before training
KEPT = 1 << 28  # bytes of rendered scenes that each process keeps

COUNTS = ("1", "2", "3")  # of shapes in a scene


class _Cached(NamedTuple):
    """The cached part of a scene: everything that is the same in every epoch."""

    image: NDArray[np.uint8]
    caption: str
    questions: tuple[tuple[str, str], ...]
    label: int
    caption_facts: Facts
    image_facts: Facts
    facts: scenes.Facts
    objects: tuple[scenes.SceneObject, ...]


class SceneSource:
    """The first `count` scenes of a seed, `texts` of its questions sampled each time; its caption
    is always the same, and others are written beside it where several texts are wanted. Their
    classes are the defects of wafers, or what `label` names.

    Generating one takes longer than all other steps, so each process keeps the first ones that it
    made, up to `KEPT` bytes: in shuffled epochs no other choice of what to keep has more hits.
    """

    def __init__(
        self,
        config: SourceConfig,
        preprocess: PreprocessConfig,
        reads: frozenset[str],
        texts: int = 1,
    ) -> None:
        if config.count < 1:
            raise RecipeError("a source of scenes needs count = how many")
        words = [word for word in ("captions", "questions") if word in reads]
        if words and config.augment and config.augment.mirror:
            raise RecipeError(
                f"{' and '.join(words)} of scenes say left and right: set augment.mirror = false"
            )
        if "regions" in reads and config.augment:
            crop, mirror = config.augment.crop, config.augment.mirror
            if mirror or crop != (1.0, 1.0):
                raise RecipeError(
                    "masks of scenes are of the whole image: set augment.crop = [1, 1] and "
                    "augment.mirror = false"
                )
        self.config = config
        self.labels = _classes(config)
        self._with_regions = "regions" in reads
        self._with_questions = "questions" in reads
        self._texts = texts
        self._transform = Transform(preprocess, config.augment)
        self._kept: dict[int, _Cached] = {}

    def __len__(self) -> int:
        return self.config.count

    def name(self, index: int) -> str:
        return f"scene {index} of seed {self.config.seed}"

    def captions(self) -> Iterator[str]:
        for index in range(min(len(self), SURVEYED)):
            yield self._scene(index, SMALLEST).caption

    def facts(self) -> Iterator[Facts]:
        """The facts of each caption."""
        for index in range(len(self)):
            yield frozenset(self._scene(index, SMALLEST).meaning.split("; "))

    def questions_and_answers(self) -> Iterator[str]:
        for index in range(min(len(self), SURVEYED) if self._with_questions else 0):
            for question, answer in self._scene(index, SMALLEST).questions:
                yield question
                yield answer

    def answers(self) -> Iterator[str]:
        """Its answers, as facts (see `fact`)."""
        for index in range(len(self) if self._with_questions else 0):
            yield from (fact(answer) for _, answer in self._scene(index, SMALLEST).questions)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        rendered = self._kept.get(index) or self._rendered(index)
        pixels = self._transform(rendered.image, rng)
        order = np.resize(rng.permutation(max(len(rendered.questions), 1)), self._texts)
        pairs = [rendered.questions[i] if rendered.questions else ("", "") for i in order.tolist()]
        first = Texts(rendered.caption, *pairs[0])
        more = [Texts(caption(rng, rendered.facts)[0], *pair) for pair in pairs[1:]]
        regions = []
        for thing in rendered.objects if self._with_regions else ():
            phrases = noun_phrases(thing.name)
            # Half of the time its name: the other phrases are many.
            query = thing.name if rng.random() < 0.5 else str(rng.choice(phrases))
            regions.append(Region(phrases, query, thing.mask))
        wrong = ""
        if self.config.wrong_captions and rng.random() < self.config.wrong_captions:
            wrong = wrong_caption(rng, rendered.facts)
        return Sample(
            pixels,
            (first, *more),
            rendered.label,
            rendered.caption_facts,
            rendered.image_facts,
            self._transform.mix,
            wrong,
            tuple(regions),
        )

    def _rendered(self, index: int) -> _Cached:
        scene = self._scene(index, SCENE_SIZE)
        named = str(scene.facts[self.config.label]) if self.config.label else scene.label
        rendered = _Cached(
            scene.image,
            scene.caption,
            scene.questions if self._with_questions else (),
            self.labels.index(named) if self.labels else -1,
            frozenset(scene.meaning.split("; ")),
            truths(scene.facts),
            scene.facts,
            scene.objects if self._with_regions else (),
        )
        if (len(self._kept) + 1) * scene.image.nbytes <= KEPT:
            self._kept[index] = rendered
        return rendered

    def _scene(self, index: int, size: int) -> scenes.Scene:
        config = self.config
        kind = config.only or None
        return scenes.scene(config.seed, index, size, kind, palette=config.palette)


def _classes(config: SourceConfig) -> tuple[str, ...]:
    """The classes of scenes. Raises RecipeError for a label that scenes do not have."""
    if not config.label:
        return WAFER_CLASSES if config.only == "wafer" else ()
    if config.label != "count" or config.only != "shapes":
        raise RecipeError(
            f"scenes have no label {config.label!r}: label = 'count' is of only = 'shapes', and "
            "wafers have their defects without one"
        )
    return COUNTS
