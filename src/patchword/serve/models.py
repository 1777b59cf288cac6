"""The models of a server: each opened when it is first needed, and closed again where memory is
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
from patchword.bundle import Levels, Vector, embed_levels
from patchword.errors import PatchwordError
from patchword.scope import Check, ScopeReport
from patchword.serve.capabilities import heatmaps
from patchword.serve.error_responses import RefusalError
from patchword.serve.queue import Observe, Queue, in_time
from patchword.serve.request_warnings import heard, say
from patchword.serve.settings import Settings
from patchword.tasks.ask import answerer
from patchword.tasks.caption import writer
from patchword.tasks.match import matcher

T = TypeVar("T")
Probe = Callable[[Model], object]

KEPT = 256  # lists of labels of each model whose vectors are kept
ENDING = 10.0  # seconds to wait for what a model is at, when the server ends
BROKEN = "model"  # the code of the error of a model that cannot be opened


def _embeds(model: Model) -> object:
    """Raises unless it makes vectors of something."""
    return model.config.vision or model.embed_texts([])


def _joins(model: Model) -> object:
    """Raises unless images and texts share a space."""
    return model.config.image_tower, model.embed_texts([])


def _shows(model: Model) -> object:
    """Raises unless it has maps of texts."""
    return model.reader() if model.config.matching else _joins(model)


def _classifies(model: Model) -> object:
    return model.config.classes or _joins(model)


JOBS: Mapping[str, Probe] = {  # what raises the reason why a model cannot do a job
    "embed": _embeds,
    "classify": _classifies,
    "similarity": _joins,
    "heatmap": _shows,
    "segment": _joins,
    "locate": _joins,
    "caption": writer,
    "ask": answerer,
    "match": matcher,
    "inspect": lambda model: model.image_tower,
}


class Embedded(NamedTuple):
    """The unit vector (D,) of an image, and whether it is unlike those of the model's training."""

    vector: Vector
    outside: bool


@dataclass(eq=False)
class Opened:
    """A model that is ready.

    size  bytes of its weights
    used  when it was last asked for
    heatmaps  the methods that it can, with how many layers each has to choose from
    """

    name: str
    model: Model
    queue: Queue
    batch: int
    size: int
    why_not: Mapping[str, str]
    heatmaps: Mapping[str, int]
    used: float = 0.0
    kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    async def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives in the model's thread, kept for the requests that follow, with what it
        warned of."""
        if key not in self.kept:
            messages: list[str] = []

            def work() -> T:
                with heard(messages):
                    return make()

            self.kept[key] = (await self.queue.call(work), messages)
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        found, messages = self.kept[key]
        say(messages)
        result: T = found
        return result

    def check_dimension(self, dimension: int | None) -> None:
        """Raise RefusalError for vectors of another length than the model's."""
        full = self.model.dim
        if dimension not in (None, full):
            message = f"{self.name} gives vectors of {full} numbers, and was not trained for fewer"
            raise RefusalError(400, "dimensions", message, "dimensions")

    async def image_vector(self, pixels: Levels) -> Embedded:
        """The unit vector of what the network sees of an image."""
        found: Embedded = await self.queue.run("image", self._embed_pixels, pixels)
        return found

    async def text_vectors(self, rows: Sequence[Sequence[int]]) -> Vector:
        """Unit vectors (N, D) of ids of texts. Those of many requests are run the shortest
        first."""
        if not rows:
            return np.empty((0, self.model.dim), np.float32)
        found: Vector = await self.queue.run("text", self._embed_rows, rows, len(rows))
        return found

    def _embed_pixels(self, batch: list[Levels]) -> list[Embedded | RefusalError]:
        # each request tells its own
        check = Check(self.model.scope, self.model.name, report=ScopeReport())
        rows = embed_levels(self.model, check, batch)
        found = [Embedded(row, check.outside) for row, _ in check.each((row, None) for row in rows)]
        if all(np.isfinite(each.vector).all() for each in found):
            return [*found]
        broken = RefusalError(503, "model", self.model.no_vector("an image"), "model")
        return [each if np.isfinite(each.vector).all() else broken for each in found]

    def _embed_rows(self, batch: list[Sequence[Sequence[int]]]) -> list[Vector]:
        every = [row for rows in batch for row in rows]
        vectors = self.model.embed_rows(every, self.batch)
        return np.split(vectors, np.cumsum([len(rows) for rows in batch])[:-1])


class Models:
    """The models that a server was started with, by name."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, Mapping[str, Any]],
        observe: Callable[[str], Observe | None] = lambda name: None,
    ) -> None:
        """options: of `patchword.load` for some of the names, which an index remembers; observe:
        what hears of the batches of a model."""
        self.names = settings.models
        self._observe = observe
        self._settings = settings
        self._options = options
        self._opened: dict[str, Opened] = {}
        self._why_not: dict[str, Mapping[str, str]] = {}
        self._heatmaps: dict[str, Mapping[str, int]] = {}
        self._opening: dict[str, asyncio.Future[Opened]] = {}

    async def get(self, name: str | None, job: str) -> Opened:
        """The model of that name; None: the first that can do the job. Raises RefusalError for an
        unknown name, and where the job cannot be done."""
        if name is not None:
            found = await self._open(self._known(name))
            if job in found.why_not:
                raise RefusalError(400, "unsupported", found.why_not[job], "model")
            return found
        reasons = []
        for each in self.names:
            if each in self._why_not and job in self._why_not[each]:
                reasons.append(self._why_not[each][job])
                continue
            found = await self._open(each)
            if job not in found.why_not:
                return found
            reasons.append(found.why_not[job])
        raise RefusalError(400, "unsupported", "; ".join(reasons), "model")

    async def first(self) -> Opened:
        """The first model."""
        return await self._open(self.names[0])

    async def described(self) -> list[tuple[str, Mapping[str, str], Mapping[str, int]]]:
        """Each name, why it cannot do what it cannot, and its methods of heatmaps. Those never
        opened are opened to know; one that cannot be can do nothing, and hides no other."""
        found: list[tuple[str, Mapping[str, str], Mapping[str, int]]] = []
        for name in self.names:
            try:
                if name not in self._why_not:
                    await self._open(name)
                found.append((name, self._why_not[name], self._heatmaps[name]))
            except RefusalError as error:
                if error.code != BROKEN:
                    raise
                found.append((name, dict.fromkeys(JOBS, str(error)), {}))
        return found

    def opened(self) -> dict[str, Opened]:
        """Those that are ready, by name."""
        return dict(self._opened)

    def close(self) -> None:
        """End their threads, when these have run what they are at."""
        for found in self._opened.values():
            found.queue.close(ENDING)
        self._opened.clear()

    def _known(self, name: str) -> str:
        if name not in self.names:
            message = f"no model {name!r}; there are {', '.join(map(repr, self.names))}"
            raise RefusalError(404, "model_not_found", message, "model")
        return name

    async def _open(self, name: str) -> Opened:
        """A client that leaves, or whose time is over, does not stop what the next one needs."""
        found = self._opened.get(name)
        if found is None:
            if name not in self._opening:
                self._opening[name] = asyncio.ensure_future(self._kept(name))
            found = await in_time(asyncio.shield(self._opening[name]))
        found.used = time.monotonic()
        return found

    async def _kept(self, name: str) -> Opened:
        """The model, opened anew."""
        try:
            found = await asyncio.to_thread(self._load, name)
        finally:
            del self._opening[name]
        self._opened[name] = found
        self._why_not[name] = found.why_not
        self._heatmaps[name] = found.heatmaps
        self._make_room(found)
        return found

    def _load(self, name: str) -> Opened:
        settings = self._settings
        options = {"dtype": settings.dtype, **self._options.get(name, {})}
        try:
            model = api.load(name, device=settings.device, **options)
        except PatchwordError as error:
            raise RefusalError(503, BROKEN, f"{name} cannot be opened: {error}", "model") from error
        model = model.opening(max_pixels=settings.max_pixels, urls=False)
        size = sum(p.numel() * p.element_size() for p in model.own_network.parameters())
        queue = Queue(name, settings.batch, self._observe(name))
        cannot = why_not(model)
        maps = {} if "heatmap" in cannot else heatmaps(model)
        return Opened(name, model, queue, settings.batch, size, cannot, maps)

    def _make_room(self, newest: Opened) -> None:
        """Close those that were not used for longest, until the weights fit. What a closed one is
        still asked to do it does first."""
        limit = self._settings.memory
        while limit is not None and sum(o.size for o in self._opened.values()) > limit:
            others = [o for o in self._opened.values() if o is not newest]
            if not others:
                return
            oldest = min(others, key=lambda o: o.used)
            del self._opened[oldest.name]
            oldest.queue.close()


def why_not(model: Model) -> dict[str, str]:
    """By the jobs that a model cannot do, the reason in a sentence."""
    reasons = {}
    for job, probe in JOBS.items():
        try:
            probe(model)
        except PatchwordError as error:
            reasons[job] = str(error)
    return reasons
