"""Evaluation of a model on data: a method for each task, and one that runs several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchword.bundle import Bundle, Vector, embed_checked
from patchword.errors import ImageError, PatchwordError, UnsupportedError, counted
from patchword.evaluate import folders, metrics
from patchword.evaluate.folders import Captioned, Labelled
from patchword.evaluate.metrics import Indices, Scores
from patchword.evaluate.probe import NEIGHBOURS, linear_probe, nearest
from patchword.images import ImageLike
from patchword.scope import Check
from patchword.tasks.classify import embed_two_views
from patchword.tasks.label_cache import label_features
from patchword.text.templates import resolve_templates

TASKS = ("zero-shot", "classifier", "probe", "knn", "retrieval")
RECALLS = (1, 5, 10)
Advance = Callable[[int, int], None]  # (images done, images in all)


@dataclass(frozen=True)
class Classified:
    """The result of a classification."""

    task: str
    classes: tuple[str, ...]
    confusion: Indices  # (C, C): row = right class, column = predicted class
    top1: float
    top5: float | None  # None with fewer than five classes
    mean_per_class_recall: float
    details: dict[str, Any] = field(default_factory=dict)  # templates, C, k

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    def record(self) -> dict[str, Any]:
        """JSON values, under CLIP_benchmark's names."""
        recalls = metrics.recalls(self.confusion).tolist()
        return {
            "task": self.task,
            "images": self.images,
            "acc1": self.top1,
            "acc5": self.top5,
            "mean_per_class_recall": self.mean_per_class_recall,
            "per_class": {
                name: recall
                for name, recall in zip(self.classes, recalls, strict=True)
                if not math.isnan(recall)  # of a class without images
            },
            **self.details,
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class Retrieved:
    """The result of a retrieval in both directions: recall@k by k."""

    images: int
    captions: int
    image_recall: dict[int, float]  # of images, for captions as queries
    text_recall: dict[int, float]  # of captions, for images as queries
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
    words: Sequence[str] | None = None  # names for the classes, in the order of their folders
    neighbours: int = NEIGHBOURS
    two_views: bool = False  # vectors of the crop and of the whole image, as in `tasks.classify`


@dataclass
class Evaluation:
    """Evaluates a model. Images that cannot be opened, and rows of a table without image, caption
    or class, are left out and listed in `broken`."""

    model: Bundle
    options: Options = Options()
    advance: Advance = lambda done, total: None
    broken: list[ImageError] = field(default_factory=list)
    _opened: dict[Path, int] = field(default_factory=dict)

    @property
    def opened(self) -> int:
        """The number of images that could be opened, those of each path once."""
        return sum(self._opened.values())

    def on(
        self, path: Path, train: Path | None = None, tasks: Sequence[str] | None = None
    ) -> Iterator[Answer]:
        """The answer of each task on the data at `path`: a folder of class folders, a folder of
        splits, a table of images with captions or classes, or the folder of such a table.

        tasks: of `TASKS`; None: retrieval if there are captions; else zero-shot with a text tower,
        or a classifier's own classes, and probe and k-NN if there are images to train on. Raises
        PatchwordError for data that does not fit a task, UnsupportedError for a model that cannot
        do it.
        """
        test, train_split = folders.splits(path)
        train = train or train_split
        if unknown := [task for task in tasks or () if task not in TASKS]:
            raise UnsupportedError(f"no task {unknown[0]!r}; there are {', '.join(TASKS)}")
        captions = folders.captions_in(test) is not None
        chosen = list(tasks or self._default_tasks(captions, train is not None))
        if self.options.two_views and "classifier" in chosen:
            raise UnsupportedError(
                "two_views averages vectors, and a classifier's own classes have none; leave it out"
            )
        if "retrieval" in chosen:
            yield self.retrieval(folders.captioned(test))
        if by_class := [task for task in TASKS if task in chosen and task != "retrieval"]:
            yield from self._by_class(folders.labelled(test), train, by_class)

    def _default_tasks(self, captions: bool, train: bool) -> Iterator[str]:
        config = self.model.config
        reads_texts = config.text is not None and config.embed_dim > 0
        if captions:
            yield "retrieval"
            return
        if reads_texts:
            yield "zero-shot"
        elif config.classes and config.labels and not train:
            yield "classifier"
        if train:
            yield from ("probe", "knn")
        elif not reads_texts and not config.classes:
            raise UnsupportedError(
                f"{self.model.name} reads no text and has no classes: give images to train a probe "
                "on (--train)"
            )

    def _by_class(
        self, test: Labelled, train: Path | None, tasks: Sequence[str]
    ) -> Iterator[Answer]:
        """The tasks on class folders. Images are embedded once for all tasks that use vectors."""
        with_training = [task for task in tasks if task in ("probe", "knn")]
        train_data = self._train_data(test, train) if with_training else None
        if "zero-shot" in tasks:
            self._words(test.names)  # raises its error before the long work
        if "classifier" in tasks:
            yield self.classifier(test)
        if not with_training and "zero-shot" not in tasks:
            return
        vectors, opened = self.embed(test)
        if "zero-shot" in tasks:
            yield self.zero_shot(vectors, test.targets[opened], test.names)
        if train_data is None:
            return
        targets = folders.agreeing(train_data, test)[opened]
        train_vectors, train_opened = self.embed(train_data)
        labels = train_data.targets[train_opened]
        for task in with_training:
            yield self._trained(task, train_vectors, labels, vectors, targets, train_data.names)

    def _train_data(self, test: Labelled, train: Path | None) -> Labelled:
        """The images to learn from. Raises PatchwordError if they do not fit the test's classes."""
        if train is None:
            raise PatchwordError(
                f"{test.path}: a probe and k-NN need images to learn from; give --train FOLDER, or "
                "a folder that holds train and validation"
            )
        data = folders.labelled(folders.splits(train)[1] or train)
        folders.agreeing(data, test)
        return data

    def zero_shot(self, vectors: Vector, targets: Indices, names: Sequence[str]) -> Classified:
        """Classify images (N, D) by the cosine with the unit mean of each class's sentences
        (Radford et al. 2021, section 3.1.4)."""
        words = self._words(names)
        sentences = resolve_templates(self.options.templates)
        self.model.reader()
        scores = vectors @ label_features(self.model, words, sentences).T
        details = {"templates": len(sentences), "labels": list(words)}
        return classified("zero-shot", scores, targets, tuple(names), details)

    def _words(self, names: Sequence[str]) -> Sequence[str]:
        """A name for each class. Raises PatchwordError for another number of names, or equal
        ones."""
        words = self.options.words or [name.replace("_", " ") for name in names]
        if len(words) != len(names) or len(set(words)) < len(words):
            raise PatchwordError(
                f"{counted(len(words), 'label')} for {len(names)} classes; give one word for each, "
                f"all different, in this order: {', '.join(names)}"
            )
        return words

    def classifier(self, test: Labelled) -> Classified:
        """Classify images by the model's own classes, which folders must be named after."""
        numbers_of = {name: self._own_classes(name) for name in test.names}
        if missing := [name for name, numbers in numbers_of.items() if not numbers]:
            raise UnsupportedError(
                f"{self.model.name} has no class called {', '.join(missing[:3])} of its own; "
                "--task probe learns new ones from --train"
            )
        for name, numbers in numbers_of.items():
            if len(numbers) > 1:
                alike = ", ".join(repr(self.model.config.labels[number]) for number in numbers[:3])
                raise UnsupportedError(
                    f"{self.model.name} has {len(numbers)} classes called like {name}: {alike}; "
                    "nothing says which of them is meant"
                )
        own_classes = np.array([numbers[0] for numbers in numbers_of.values()], np.int64)
        results = self.model.run_each(test.images, self.model.own_network, parallel=True)
        logits, opened = self._rows(results, test)
        targets = own_classes[test.targets[opened]]
        return classified("classifier", logits, targets, self.model.config.labels, {})

    def _own_classes(self, name: str) -> list[int]:
        """The numbers of the model's classes with this name; if there is none, of those with the
        same `plain` name."""
        labels = self.model.config.labels
        same = [number for number, label in enumerate(labels) if label == name]
        return same or [n for n, label in enumerate(labels) if plain(label) == plain(name)]

    def _trained(
        self,
        task: str,
        train_vectors: Vector,
        train_labels: Indices,
        vectors: Vector,
        targets: Indices,
        names: tuple[str, ...],
    ) -> Classified:
        details: dict[str, Any] = {"train_images": len(train_vectors)}
        if task == "knn":
            k = min(self.options.neighbours, len(train_vectors))
            scores = nearest(train_vectors, train_labels, vectors, len(names), k)
            return classified("knn", scores, targets, names, details | {"k": k})
        probe = linear_probe(train_vectors, train_labels, len(names))
        details |= {"C": probe.c, "held_out_acc1": probe.held_out}
        return classified("probe", probe(vectors), targets, names, details)

    def retrieval(self, data: Captioned) -> Retrieved:
        """Recall@1, 5 and 10 in both directions; see `metrics.retrieval_ranks`."""
        self.model.reader()
        vectors, opened = self.embed(data)
        captions = [data.captions[i] for i in opened.tolist()]
        owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
        texts = self.model.embed_texts([text for of_image in captions for text in of_image])
        of_text, of_image = metrics.retrieval_ranks(vectors, texts, owner)
        return Retrieved(
            len(vectors),
            len(texts),
            {k: metrics.within(of_text, k) for k in RECALLS},
            {k: metrics.within(of_image, k) for k in RECALLS},
        )

    def embed(self, data: Labelled | Captioned) -> tuple[Vector, Indices]:
        """Unit vectors (N, D) of the images that can be opened, and their numbers (N,)."""
        check = Check(self.model.scope, self.model.name)
        embed = embed_two_views if self.options.two_views else embed_checked
        return self._rows(embed(self.model, check, data.images), data)

    def _rows(
        self, results: Iterable[tuple[ImageLike, Vector | ImageError]], data: Labelled | Captioned
    ) -> tuple[Vector, Indices]:
        """The rows (N, ...) of the images that can be opened, and their numbers (N,)."""
        rows, opened, total = [], [], len(data.images)
        known = {error.image for error in self.broken}  # from another task on the same images
        self.broken += [error for error in data.faults if error.image not in known]
        for number, (_, row) in enumerate(results):
            if isinstance(row, ImageError):
                error = folders.error_of(data.images, number, row)
                if error.image not in known:
                    self.broken.append(error)
            else:
                rows.append(row)
                opened.append(number)
            self.advance(number + 1, total)
        if not rows:
            raise PatchwordError(f"none of {total} images can be opened: {error.reason}")
        self._opened[data.path] = len(rows)
        return np.stack(rows), np.array(opened, np.int64)


def classified(
    task: str, scores: Scores, targets: Indices, names: tuple[str, ...], details: dict[str, Any]
) -> Classified:
    """The result from scores (N, C) and targets (N,)."""
    rank = metrics.ranks(scores, targets)
    counts = metrics.confusion(targets, scores.argmax(axis=1), len(names))
    top5 = metrics.within(rank, 5) if len(names) >= metrics.TOP_CLASSES else None
    mean = metrics.mean_per_class_recall(counts)
    return Classified(task, names, counts, metrics.within(rank, 1), top5, mean, details)


def quality(answer: Answer) -> float:
    """One number to compare models by: top-1 accuracy, or the mean of recall@1 in both
    directions."""
    if isinstance(answer, Classified):
        return answer.top1
    return (answer.image_recall[1] + answer.text_recall[1]) / 2


def plain(label: str) -> str:
    """A class name for comparison, in lower case with spaces instead of underscores."""
    return label.replace("_", " ").strip().lower()
