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
MIN_SIZE = 32  # pixels; for texts alone, which do not depend on a scene's size
VOCABULARY_SCENES = 5000  # number of scenes whose texts make the vocabulary
CACHE_BYTES = 1 << 28  # of rendered scenes, in each process

COUNTS = ("1", "2", "3")  # of shapes in a scene


class _CachedScene(NamedTuple):
    """The part of a scene that is cached: everything that is the same in every epoch."""

    image: NDArray[np.uint8]
    caption: str
    questions: tuple[tuple[str, str], ...]
    label: int
    caption_facts: Facts
    image_facts: Facts
    facts: scenes.Facts
    objects: tuple[scenes.SceneObject, ...]


class SceneSource:
    """The first `count` scenes of a seed. Their classes are the defects of wafers, or what `label`
    names.

    In each epoch `texts` questions of a scene are sampled. The first caption is always the scene's;
    more captions are generated if `texts` is more than 1.

    Generating a scene takes longer than everything else, so each process caches the first scenes
    that it generates, up to `CACHE_BYTES`. In shuffled epochs no other choice has more hits.
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
        kinds = [part for part in ("captions", "questions") if part in reads]
        if kinds and config.augment and config.augment.mirror:
            raise RecipeError(
                f"{' and '.join(kinds)} of scenes say left and right: set augment.mirror = false"
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
        self._cache: dict[int, _CachedScene] = {}

    def __len__(self) -> int:
        return self.config.count

    def name(self, index: int) -> str:
        return f"scene {index} of seed {self.config.seed}"

    def captions(self) -> Iterator[str]:
        for index in range(min(len(self), VOCABULARY_SCENES)):
            yield self._scene(index, MIN_SIZE).caption

    def facts(self) -> Iterator[Facts]:
        """The facts of each caption."""
        for index in range(len(self)):
            yield frozenset(self._scene(index, MIN_SIZE).meaning.split("; "))

    def questions_and_answers(self) -> Iterator[str]:
        if not self._with_questions:
            return
        for index in range(min(len(self), VOCABULARY_SCENES)):
            for question, answer in self._scene(index, MIN_SIZE).questions:
                yield question
                yield answer

    def answers(self) -> Iterator[str]:
        """All answers as facts (see `fact`)."""
        if not self._with_questions:
            return
        for index in range(len(self)):
            yield from (fact(answer) for _, answer in self._scene(index, MIN_SIZE).questions)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        rendered = self._cache.get(index) or self._rendered(index)
        pixels = self._transform(rendered.image, rng)
        questions = rendered.questions or (("", ""),)
        order = np.resize(rng.permutation(len(questions)), self._texts)
        pairs = [questions[number] for number in order.tolist()]
        first = Texts(rendered.caption, *pairs[0])
        more = [Texts(caption(rng, rendered.facts)[0], *pair) for pair in pairs[1:]]
        regions = []
        for item in rendered.objects:
            phrases = noun_phrases(item.name)
            # The name in half of the cases: there are many other phrases.
            query = item.name if rng.random() < 0.5 else str(rng.choice(phrases))
            regions.append(Region(phrases, query, item.mask))
        wrong = ""
        if self.config.wrong_captions and rng.random() < self.config.wrong_captions:
            wrong = wrong_caption(rng, rendered.facts)
        return Sample(
            pixels=pixels,
            texts=(first, *more),
            label=rendered.label,
            caption_facts=rendered.caption_facts,
            image_facts=rendered.image_facts,
            mix=self._transform.mix,
            wrong_caption=wrong,
            regions=tuple(regions),
        )

    def _rendered(self, index: int) -> _CachedScene:
        scene = self._scene(index, SCENE_SIZE)
        class_name = str(scene.facts[self.config.label]) if self.config.label else scene.label
        rendered = _CachedScene(
            image=scene.image,
            caption=scene.caption,
            questions=scene.questions if self._with_questions else (),
            label=self.labels.index(class_name) if self.labels else -1,
            caption_facts=frozenset(scene.meaning.split("; ")),
            image_facts=truths(scene.facts),
            facts=scene.facts,
            objects=scene.objects if self._with_regions else (),
        )
        if (len(self._cache) + 1) * scene.image.nbytes <= CACHE_BYTES:
            self._cache[index] = rendered
        return rendered

    def _scene(self, index: int, size: int) -> scenes.Scene:
        config = self.config
        return scenes.scene(config.seed, index, size, config.only or None, palette=config.palette)


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
