"""Evaluation of a model on data: one function per task, and one for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError, PatchwordError, UnsupportedError, counted
from patchword.evaluate import folders, metrics
from patchword.evaluate.folders import Captioned, Labelled
from patchword.evaluate.metrics import Indices, Scores
from patchword.evaluate.probe import NEIGHBOURS, linear_probe, nearest
from patchword.images import ImageLike
from patchword.tasks.label_cache import label_features
from patchword.text.templates import resolve_templates

TASKS = ("zero-shot", "classifier", "probe", "knn", "retrieval")
RECALLS = (1, 5, 10)
Advance = Callable[[int, int], None]  # called with (images done, images in all)


@dataclass(frozen=True)
class Classified:
    """The result of a classification: how many images were right, and the confusion matrix."""

    task: str
    classes: tuple[str, ...]
    confusion: Indices  # (C, C): row = right class, column = predicted
    top1: float
    top5: float | None  # None with fewer than five classes
    mean_per_class_recall: float
    details: dict[str, Any] = field(default_factory=dict)  # templates, C, k

    @property
    def images(self) -> int:
        """How many were evaluated."""
        return int(self.confusion.sum())

    def record(self) -> dict[str, Any]:
        """JSON values, under CLIP_benchmark's names."""
        each = metrics.recalls(self.confusion).tolist()
        return {
            "task": self.task,
            "images": self.images,
            "acc1": self.top1,
            "acc5": self.top5,
            "mean_per_class_recall": self.mean_per_class_recall,
            "per_class": {
                name: value
                for name, value in zip(self.classes, each, strict=True)
                if value == value
            },
            **self.details,
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class Retrieved:
    """The result of a retrieval in both directions: recall by k."""

    images: int
    captions: int
    image_recall: dict[int, float]  # of the image that belongs to a caption
    text_recall: dict[int, float]  # of one of the captions of an image
    task: str = "retrieval"

    def record(self) -> dict[str, Any]:
        """JSON values, under CLIP_benchmark's names."""
        return {
            "task": self.task,
            "images": self.images,
            "captions": self.captions,
            **{f"image_retrieval_recall@{k}": value for k, value in self.image_recall.items()},
            **{f"text_retrieval_recall@{k}": value for k, value in self.text_recall.items()},
        }


Answer = Classified | Retrieved


@dataclass(frozen=True)
class Options:
    """Options of an evaluation."""

    templates: Sequence[str] | None = None  # see `text.templates.named`
    words: Sequence[str] | None = None  # for the classes, in the order of their folders
    neighbours: int = NEIGHBOURS


@dataclass
class Evaluation:
    """Evaluates a model. Images that cannot be opened, and rows of a table that lack one, a
    caption or a class, are left out and listed in `broken`."""

    model: Bundle
    options: Options = Options()
    advance: Advance = lambda done, total: None
    broken: list[ImageError] = field(default_factory=list)
    _opened: dict[Path, int] = field(default_factory=dict)

    @property
    def opened(self) -> int:
        """How many images could be opened; those of each path once, whatever the tasks."""
        return sum(self._opened.values())

    def on(
        self, path: Path, train: Path | None = None, tasks: Sequence[str] | None = None
    ) -> Iterator[Answer]:
        """Each task's answer on the data at `path`: a folder of class folders, one that holds
        splits, or a table of images with captions or classes, or the folder of such a file.

        tasks: of `TASKS`; None for those that make sense: retrieval where there are captions, else
        zero-shot with a text tower or a classifier's own classes, and probe and k-NN where there
        are images to train on. Raises PatchwordError for data that a task cannot be run on,
        UnsupportedError for a model that cannot do it.
        """
        test, own = folders.splits(path)
        train = train or own
        if unknown := [task for task in tasks or () if task not in TASKS]:
            raise UnsupportedError(f"no task {unknown[0]!r}; there are {', '.join(TASKS)}")
        captions = folders.captions_in(test) is not None
        wanted = list(tasks or self._sensible(captions, train is not None))
        if "retrieval" in wanted:
            yield self.retrieval(folders.captioned(test))
        if by_class := [task for task in TASKS if task in wanted and task != "retrieval"]:
            yield from self._by_class(folders.labelled(test), train, by_class)

    def _sensible(self, captions: bool, train: bool) -> Iterator[str]:
        config = self.model.config
        reads = config.text is not None and config.embed_dim > 0
        if captions:
            yield "retrieval"
            return
        if reads:
            yield "zero-shot"
        elif config.classes and config.labels and not train:
            yield "classifier"
        if train:
            yield from ("probe", "knn")
        elif not reads and not config.classes:
            raise UnsupportedError(
                f"{self.model.name} reads no text and has no classes: give images to train a probe "
                "on (--train)"
            )

    def _by_class(
        self, test: Labelled, train: Path | None, tasks: Sequence[str]
    ) -> Iterator[Answer]:
        """The tasks on class folders; every image goes through the network once for each need."""
        trained = [task for task in tasks if task in ("probe", "knn")]
        known = self._known(test, train) if trained else None
        if "zero-shot" in tasks:
            self._words(test.names)
        if "classifier" in tasks:
            yield self.classifier(test)
        if not trained and "zero-shot" not in tasks:
            return
        vectors, kept = self.embed(test)
        targets = test.targets[kept]
        if "zero-shot" in tasks:
            yield self.zero_shot(vectors, targets, test.names)
        if known is None:
            return
        targets = folders.agreeing(known, test)[kept]
        theirs, kept = self.embed(known)
        labels = known.targets[kept]
        for task in trained:
            yield self._trained(task, theirs, labels, vectors, targets, known.names)

    def _known(self, test: Labelled, train: Path | None) -> Labelled:
        if train is None:
            raise PatchwordError(
                f"{test.path}: a probe and k-NN need images to learn from; give --train FOLDER, or "
                "a folder that holds “train” and “validation”"
            )
        known = folders.labelled(folders.splits(train)[1] or train)
        folders.agreeing(known, test)
        return known

    def zero_shot(self, vectors: Vector, targets: Indices, names: Sequence[str]) -> Classified:
        """Classes by the cosine of images (N, D) with the unit mean of each class's sentences
        (Radford et al. 2021, section 3.1.4)."""
        words = self._words(names)
        sentences = resolve_templates(self.options.templates)
        self.model.reader()
        scores = vectors @ label_features(self.model, words, sentences).T
        details = {"templates": len(sentences), "labels": list(words)}
        return classified("zero-shot", scores, targets, tuple(names), details)

    def _words(self, names: Sequence[str]) -> Sequence[str]:
        """A word for each class. Raises PatchwordError for another number of them."""
        words = self.options.words or [name.replace("_", " ") for name in names]
        if len(words) != len(names) or len(set(words)) < len(words):
            raise PatchwordError(
                f"{counted(len(words), 'label')} for {len(names)} classes; give one word for each, "
                f"all different, in this order: {', '.join(names)}"
            )
        return words

    def classifier(self, test: Labelled) -> Classified:
        """The model's own classes. Folders must be called like them."""
        known = [self._own_classes(name) for name in test.names]
        if missing := [name for name, own in zip(test.names, known, strict=True) if not own]:
            raise UnsupportedError(
                f"{self.model.name} has no class called {', '.join(missing[:3])} of its own; "
                "--task probe learns new ones from --train"
            )
        for name, own in zip(test.names, known, strict=True):
            if len(own) > 1:
                alike = ", ".join(repr(self.model.config.labels[number]) for number in own[:3])
                raise UnsupportedError(
                    f"{self.model.name} has {len(own)} classes called like {name}: {alike}; "
                    "nothing says which of them is meant"
                )
        numbers = np.array([own[0] for own in known], np.int64)
        each = self.model.run_each(test.images, self.model.own_network)
        rows, kept = self._rows(each, test)
        targets = numbers[test.targets[kept]]
        return classified("classifier", rows, targets, self.model.config.labels, {})

    def _own_classes(self, name: str) -> list[int]:
        """The numbers of the model's classes of this name; where there is none, of those that are
        `plain` alike."""
        labels = self.model.config.labels
        same = [number for number, label in enumerate(labels) if label == name]
        return same or [n for n, label in enumerate(labels) if plain(label) == plain(name)]

    def _trained(
        self,
        task: str,
        known: Vector,
        labels: Indices,
        vectors: Vector,
        targets: Indices,
        names: tuple[str, ...],
    ) -> Classified:
        details: dict[str, Any] = {"train_images": len(known)}
        if task == "knn":
            k = min(self.options.neighbours, len(known))
            scores = nearest(known, labels, vectors, len(names), k)
            return classified("knn", scores, targets, names, details | {"k": k})
        probe = linear_probe(known, labels, len(names))
        details |= {"C": probe.c, "held_out_acc1": probe.held_out}
        return classified("probe", probe(vectors), targets, names, details)

    def retrieval(self, data: Captioned) -> Retrieved:
        """Recall@1, 5 and 10 both ways; see `metrics.retrieval_ranks`."""
        self.model.reader()
        vectors, kept = self.embed(data)
        captions = [data.captions[i] for i in kept.tolist()]
        owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
        texts = self.model.embed_texts([text for each in captions for text in each])
        of_text, of_image = metrics.retrieval_ranks(vectors, texts, owner)
        return Retrieved(
            len(vectors),
            len(texts),
            {k: metrics.within(of_text, k) for k in RECALLS},
            {k: metrics.within(of_image, k) for k in RECALLS},
        )

    def embed(self, data: Labelled | Captioned) -> tuple[Vector, Indices]:
        """Unit vectors (N, D) of the images that can be opened, and their numbers (N,)."""
        return self._rows(self.model.embed_each(data.images), data)

    def _rows(
        self, each: Iterable[tuple[ImageLike, Vector | ImageError]], data: Labelled | Captioned
    ) -> tuple[Vector, Indices]:
        rows, kept, total = [], [], len(data.images)
        named = {error.image for error in self.broken}  # by another task on the same images
        self.broken += [error for error in data.faults if error.image not in named]
        for number, (_, row) in enumerate(each):
            if isinstance(row, ImageError):
                error = folders.error_of(data.images, number, row)
                if error.image not in named:
                    self.broken.append(error)
            else:
                rows.append(row)
                kept.append(number)
            self.advance(number + 1, total)
        if not rows:
            raise PatchwordError(f"none of {total} images can be opened: {error.reason}")
        self._opened[data.path] = len(rows)
        return np.stack(rows), np.array(kept, np.int64)


def classified(
    task: str, scores: Scores, targets: Indices, names: tuple[str, ...], details: dict[str, Any]
) -> Classified:
    """The result of scores (N, C) for targets (N,)."""
    rank = metrics.ranks(scores, targets)
    counts = metrics.confusion(targets, scores.argmax(axis=1), len(names))
    top5 = metrics.within(rank, 5) if len(names) >= metrics.TOP_CLASSES else None
    mean = metrics.mean_per_class_recall(counts)
    return Classified(task, names, counts, metrics.within(rank, 1), top5, mean, details)


def quality(answer: Answer) -> float:
    """One number to choose a model by: top-1 accuracy, or the mean of recall@1 both ways."""
    if isinstance(answer, Classified):
        return answer.top1
    return (answer.image_recall[1] + answer.text_recall[1]) / 2


def plain(label: str) -> str:
    """A class name for comparison: lower case, spaces for underscores."""
    return label.replace("_", " ").strip().lower()
