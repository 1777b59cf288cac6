"""The models of a server. Each is loaded when it is first needed, and closed again where memory is
short."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from patchword import api
from patchword.api import Model
from patchword.bundle import Levels, Vector
from patchword.embedding import checked_units, encode
from patchword.errors import PatchwordError
from patchword.scope import Check, ScopeReport
from patchword.serve.capabilities import heatmaps
from patchword.serve.error_responses import RefusalError
from patchword.serve.queue import Observe, Queue, in_time
from patchword.serve.request_warnings import add_warnings, collect_warnings
from patchword.serve.settings import Settings
from patchword.tasks.ask import answerer
from patchword.tasks.caption import writer
from patchword.tasks.match import matcher

T = TypeVar("T")
Probe = Callable[[Model], object]

MAX_CACHED = 256  # results of each model, such as the vectors of a list of labels
CLOSE_SECONDS = 10.0  # to wait for a model that still computes when the server ends
BROKEN = "model"  # the error code of a model that cannot be loaded


def _check_embeds(model: Model) -> object:
    """Raises unless the model embeds images or texts."""
    return model.config.vision or model.embed_texts([])


def _check_joint_space(model: Model) -> object:
    """Raises unless images and texts share a space."""
    return model.config.image_tower, model.embed_texts([])


def _check_heatmaps(model: Model) -> object:
    """Raises unless the model has maps of texts."""
    return model.reader() if model.config.matching else _check_joint_space(model)


def _check_classifies(model: Model) -> object:
    return model.config.classes or _check_joint_space(model)


# Each raises an error whose message is the reason why a model cannot do the job.
JOBS: Mapping[str, Probe] = {
    "embed": _check_embeds,
    "classify": _check_classifies,
    "similarity": _check_joint_space,
    "heatmap": _check_heatmaps,
    "segment": _check_joint_space,
    "locate": _check_joint_space,
    "caption": writer,
    "ask": answerer,
    "match": matcher,
    "inspect": lambda model: model.image_tower,
}


class ImageEmbedding(NamedTuple):
    """The unit vector (D,) of an image, and whether the image is unlike those of the model's
    training."""

    vector: Vector
    outside: bool


@dataclass(eq=False)
class LoadedModel:
    """A model that is ready.

    batch     most token rows that are embedded at once
    size      bytes of its weights
    why_not   job -> the reason why the model cannot do it
    heatmaps  heatmap method -> how many layers it can choose from
    used      when it was last asked for, by time.monotonic()
    cache     results, and their warnings, for later requests
    """

    name: str
    model: Model
    queue: Queue
    batch: int
    size: int
    why_not: Mapping[str, str]
    heatmaps: Mapping[str, int]
    used: float = 0.0
    cache: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    async def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, run in the model's thread, or that of an earlier request with the
        same key. Its warnings are given to each request."""
        if key not in self.cache:
            messages: list[str] = []

            def work() -> T:
                with collect_warnings(messages):
                    return make()

            self.cache[key] = (await self.queue.call(work), messages)
            while len(self.cache) > MAX_CACHED:
                self.cache.popitem(last=False)
        result: T
        result, messages = self.cache[key]
        add_warnings(messages)
        return result

    def check_dimension(self, dimension: int | None) -> None:
        """Raise RefusalError for vectors of another length than the model's."""
        full = self.model.dim
        if dimension not in (None, full):
            message = f"{self.name} gives vectors of {full} numbers, and was not trained for fewer"
            raise RefusalError(400, "dimensions", message, "dimensions")

    async def embed_pixels(self, pixels: Levels) -> ImageEmbedding:
        """The unit vector of a preprocessed image."""
        embedding: ImageEmbedding = await self.queue.run("image", self._embed_images, pixels)
        return embedding

    async def embed_token_rows(self, rows: Sequence[Sequence[int]]) -> Vector:
        """Unit vectors (N, D) of token ids. Those of many requests are run together, the shortest
        first."""
        if not rows:
            return np.empty((0, self.model.dim), np.float32)
        vectors: Vector = await self.queue.run("text", self._embed_texts, rows, len(rows))
        return vectors

    def _embed_images(self, batch: list[Levels]) -> list[ImageEmbedding | RefusalError]:
        check = Check(
            self.model.scope, self.model.name, report=ScopeReport()
        )  # each request tells its own
        vectors = checked_units(
            check, self.model.dim, encode(self.model.engine, check.layer, batch)
        )
        embeddings = [
            ImageEmbedding(vector, check.outside)
            for vector, _ in check.each((vector, None) for vector in vectors)
        ]
        results: list[ImageEmbedding | RefusalError] = []
        for embedding in embeddings:
            if np.isfinite(embedding.vector).all():
                results.append(embedding)
            else:
                message = self.model.no_vector("an image")
                results.append(RefusalError(503, "model", message, "model"))
        return results

    def _embed_texts(self, batch: list[Sequence[Sequence[int]]]) -> list[Vector]:
        all_rows = [row for rows in batch for row in rows]
        vectors = self.model.embed_rows(all_rows, self.batch)
        return np.split(vectors, np.cumsum([len(rows) for rows in batch])[:-1])


class Models:
    """The models that a server was started with, by name."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, Mapping[str, Any]],
        observe: Callable[[str], Observe | None] = lambda name: None,
    ) -> None:
        """options: name -> options of `patchword.load` that an index remembers; observe: name ->
        what is called after each batch of the model."""
        self.names = settings.models
        self._observe = observe
        self._settings = settings
        self._options = options
        self._loaded: dict[str, LoadedModel] = {}
        self._why_not: dict[str, Mapping[str, str]] = {}
        self._heatmaps: dict[str, Mapping[str, int]] = {}
        self._loading: dict[str, asyncio.Future[LoadedModel]] = {}

    async def get(self, name: str | None, job: str) -> LoadedModel:
        """The model of that name; None: the first that can do the job. Raises RefusalError for an
        unknown name, and for a job that cannot be done."""
        if name is not None:
            model = await self._get_or_load(self._checked_name(name))
            if job in model.why_not:
                raise RefusalError(400, "unsupported", model.why_not[job], "model")
            return model
        reasons = []
        for candidate in self.names:
            if candidate in self._why_not and job in self._why_not[candidate]:
                reasons.append(self._why_not[candidate][job])
                continue
            model = await self._get_or_load(candidate)
            if job not in model.why_not:
                return model
            reasons.append(model.why_not[job])
        raise RefusalError(400, "unsupported", "; ".join(reasons), "model")

    async def first(self) -> LoadedModel:
        """The first model."""
        return await self._get_or_load(self.names[0])

    async def describe(self) -> list[tuple[str, Mapping[str, str], Mapping[str, int]]]:
        """Each model's name, `why_not` and `heatmaps` (see `LoadedModel`). Models that were never
        loaded are loaded for this. A model that cannot be loaded can do no job."""
        descriptions: list[tuple[str, Mapping[str, str], Mapping[str, int]]] = []
        for name in self.names:
            try:
                if name not in self._why_not:
                    await self._get_or_load(name)
                descriptions.append((name, self._why_not[name], self._heatmaps[name]))
            except RefusalError as error:
                if error.code != BROKEN:
                    raise
                descriptions.append((name, dict.fromkeys(JOBS, str(error)), {}))
        return descriptions

    def loaded(self) -> dict[str, LoadedModel]:
        """The models in memory, by name."""
        return dict(self._loaded)

    def close(self) -> None:
        """Close all models after the work that they have begun."""
        for model in self._loaded.values():
            model.queue.close(CLOSE_SECONDS)
        self._loaded.clear()

    def _checked_name(self, name: str) -> str:
        if name not in self.names:
            message = f"no model {name!r}; there are {', '.join(map(repr, self.names))}"
            raise RefusalError(404, "model_not_found", message, "model")
        return name

    async def _get_or_load(self, name: str) -> LoadedModel:
        """A client that leaves, or whose time is over, does not stop the loading: the next client
        needs the model too."""
        model = self._loaded.get(name)
        if model is None:
            if name not in self._loading:
                self._loading[name] = asyncio.ensure_future(self._load(name))
            model = await in_time(asyncio.shield(self._loading[name]))
        model.used = time.monotonic()
        return model

    async def _load(self, name: str) -> LoadedModel:
        try:
            model = await asyncio.to_thread(self._read, name)
        finally:
            del self._loading[name]
        self._loaded[name] = model
        self._why_not[name] = model.why_not
        self._heatmaps[name] = model.heatmaps
        self._free_memory(model)
        return model

    def _read(self, name: str) -> LoadedModel:
        settings = self._settings
        options = {"dtype": settings.dtype, **self._options.get(name, {})}
        try:
            model = api.load(name, device=settings.device, **options)
        except PatchwordError as error:
            raise RefusalError(503, BROKEN, f"{name} cannot be opened: {error}", "model") from error
        model = model.opening(max_pixels=settings.max_pixels, urls=False)
        size = sum(p.numel() * p.element_size() for p in model.own_network.parameters())
        queue = Queue(name, settings.batch, self._observe(name))
        reasons = why_not(model)
        methods = {} if "heatmap" in reasons else heatmaps(model)
        return LoadedModel(name, model, queue, settings.batch, size, reasons, methods)

    def _free_memory(self, newest: LoadedModel) -> None:
        """Close the least recently used models until the weights fit. A closed model still does the
        work that waits for it."""
        limit = self._settings.memory
        while limit is not None and sum(m.size for m in self._loaded.values()) > limit:
            others = [model for model in self._loaded.values() if model is not newest]
            if not others:
                return
            oldest = min(others, key=lambda model: model.used)
            del self._loaded[oldest.name]
            oldest.queue.close()


def why_not(model: Model) -> dict[str, str]:
    """The jobs that a model cannot do, each with the reason in a sentence."""
    reasons = {}
    for job, probe in JOBS.items():
        try:
            probe(model)
        except PatchwordError as error:
            reasons[job] = str(error)
    return reasons
