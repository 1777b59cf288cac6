"""Learning from good photos, and holding some of them out."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from patchword.bundle import Bundle
from patchword.errors import ImageError, UnsupportedError, counted
from patchword.images import ImageLike
from patchword.images.one_or_many import as_images
from patchword.inspect import conformal
from patchword.inspect.acquisition import Good, Look
from patchword.inspect.calibration import Calibration, Rule
from patchword.inspect.drift import Drift
from patchword.inspect.inspector import Inspector, calibrated, group_of, named
from patchword.inspect.methods import needless
from patchword.inspect.photos import found_each, opened_each
from patchword.inspect.protocol import RGB, Finding, Method, Progress, State
from patchword.nn.inference_mode import without_autocast
from patchword.scope import GOOD, Check, together

FEWEST = 4  # photos to learn from, where others are held out
FOLDS = 5
SEED = 0
UNCHECKED = Check(None, "")  # of photos that are looked at again

Sources = Sequence[ImageLike]


def fit(
    model: Bundle,
    good: ImageLike | Iterable[ImageLike],
    method: Method,
    rule: Rule,
    *,
    calibration: ImageLike | Iterable[ImageLike] | None = None,
    grouped: bool = False,
    failed: list[ImageError] | None = None,
    progress: Progress | None = None,
) -> Inspector:
    """Learn from good photos, and calibrate on those of them that nothing is learned from.

    calibration  photos to calibrate on, which nothing is learned from, also where they are among
                 `good`; None: some of `good`, see `split`. Where none can be held out all are
                 learned from, and the threshold comes from cross-validation
    grouped      a threshold for each name of a folder that photos lie in
    failed       what cannot be opened is added here; None: the first raises its ImageError
    progress     of photos

    Raises UnsupportedError where there are fewer good photos than the method needs.
    """
    held = None if calibration is None else _once(as_images(calibration))
    sources = _once(as_images(good), held or ())
    broken: dict[int, ImageError] = {}
    while True:
        run = _Run(model, method, rule, grouped, progress)
        try:
            made = run.made(sources, held)
            if not run.broken:
                break
        except ImageError:  # of what it should have learned from nothing could be opened
            if len(run.broken) == len(sources):
                raise
        broken |= run.broken
        if failed is None:
            raise next(iter(run.broken.values()))
        # Again without those that cannot be opened: there may now be too few to hold out.
        sources = [source for source in sources if id(source) not in broken]
        held = held and [source for source in held if id(source) not in broken]
    if failed is not None:
        failed += broken.values()
    return made


class _Run:
    """One attempt to learn and to calibrate; `broken`: what could not be opened, by its id."""

    def __init__(
        self, model: Bundle, method: Method, rule: Rule, grouped: bool, progress: Progress | None
    ) -> None:
        self.model, self.method, self.rule, self.grouped = model, method, rule, grouped
        self.progress, self.broken = progress, dict[int, ImageError]()
        self.done, self.total, self.photos = 0, 0, 0
        self.taken: list[Good] = []

    def made(self, sources: Sources, held: Sources | None) -> Inspector:
        method = self.method
        if len(sources) < method.needs.good:
            needs = counted(method.needs.good, "good photo")
            beside = " beside those of the calibration" if held else ""
            raise UnsupportedError(
                f"{method.name} needs {needs}{beside}, and there are {len(sources)}; "
                f"{' and '.join(needless())} need none"
            )
        if method.needs.batch:
            good = (*sources, *(held or ()))
            nothing = Calibration("none")
            return Inspector(
                self.model, method, method.fit(self.model, []), nothing, self.rule, 0, good,
                self.grouped,
            )  # fmt: skip
        if held is None:
            learned, kept = split(sources, self.rule, method, self.grouped)
        else:
            learned, kept = sources[: method.needs.most], held
        folds = [] if kept else _folds(learned, method)
        self.photos = len(learned) + len(kept)
        self.total = self.photos + len(folds) * len(learned)  # each is looked at as often
        found: list[tuple[ImageLike, Finding]] = []
        for fold in folds:
            rest = [source for n, source in enumerate(learned) if n not in fold]
            found += self._scored(self._learned(rest), [learned[n] for n in fold])
        with together() as noted:
            check = Check(self.model.scope, self.model.name, report=noted)
            check.kind = GOOD
            state = self._learned(learned, check)
            found += self._scored(state, kept, check)
        told = calibrated(found, "cross-validated" if folds else "held out", self.grouped)
        return Inspector(
            self.model, method, state, told, self.rule, len(learned), (), self.grouped,
            Drift(told.scores), self.taken,
        )  # fmt: skip

    def _learned(self, sources: Sources, check: Check = UNCHECKED) -> State:
        def photos() -> Iterator[RGB]:
            opened = 0
            looks = None if check is UNCHECKED else dict[int, Look]()
            each = opened_each(self.model, sources, self.method.view, check, looks)
            for number, (source, photo) in enumerate(check.each(each)):
                self._advance()
                if isinstance(photo, ImageError):
                    self.broken[id(source)] = _named(photo, source)
                else:
                    opened += 1
                    self._note(source, number, looks)
                    yield photo
            if sources and not opened:
                raise next(iter(self.broken.values()))

        with without_autocast(self.model.device):
            return self.method.fit(self.model, photos())

    def _scored(
        self, state: State, sources: Sources, check: Check = UNCHECKED
    ) -> Iterator[tuple[ImageLike, Finding]]:
        looks = None if check is UNCHECKED else dict[int, Look]()
        each = found_each(self.model, self.method, state, sources, check, looks)
        for number, (source, found) in enumerate(check.each(each)):
            self._advance()
            if isinstance(found, ImageError):
                self.broken[id(source)] = _named(found, source)
            else:
                self._note(source, number, looks)
                yield source, found[1]

    def _note(self, source: ImageLike, number: int, looks: Mapping[int, Look] | None) -> None:
        """How a good photo was taken."""
        if looks is not None:
            self.taken.append(Good(group_of(source) if self.grouped else "", looks[number]))

    def _advance(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done * self.photos // self.total, self.photos)


def _once(sources: Iterable[ImageLike], without: Sources = ()) -> list[ImageLike]:
    """Each file once, so that none is both learned from and held out; and none of `without`."""
    seen = {_file(source) for source in without}
    kept = []
    for source in sources:
        if (file := _file(source)) not in seen:
            seen.add(file)
            kept.append(source)
    return kept


def _file(source: ImageLike) -> object:
    """What two sources of the same photo have in common: the path, or the thing itself."""
    if isinstance(source, (str, os.PathLike)):
        name = named(source)
        return name if "\0" in name else os.path.realpath(name)  # opening it raises the error
    return id(source)


def _folds(sources: Sources, method: Method) -> list[range]:
    """Which photos are scored after learning from the others; none where too few would be left."""
    count = min(len(sources), FOLDS)
    if count < 2 or len(sources) - -(-len(sources) // count) < method.needs.good:
        return []
    return [range(first, len(sources), count) for first in range(count)]


def split(sources: Sources, rule: Rule, method: Method, grouped: bool) -> tuple[Sources, Sources]:
    """Good photos to learn from, and others, drawn at random, to hold out: half of them or as many
    as the rate needs, where `FEWEST` or more are left; else none. Of each group so, but that one
    is enough for all groups to learn from. A method that learns from the first few alone: all
    others are held out."""
    most = method.needs.most
    if most is not None:
        return sources[:most], sources[most:]
    order = list(range(len(sources)))
    random.Random(SEED).shuffle(order)
    wanted = conformal.needed(rule.false_alarms, rule.confidence)
    groups = [group_of(source) if grouped else "" for source in sources]
    held: set[int] = set()
    for group in sorted(set(groups)):
        own = [n for n in order if groups[n] == group]
        if len(own) - wanted >= (1 if grouped else FEWEST):
            held.update(own[: max(wanted, len(own) // 2)])
    learned = [source for n, source in enumerate(sources) if n not in held]
    return learned, [sources[n] for n in sorted(held)]


def _named(error: ImageError, source: ImageLike) -> ImageError:
    return ImageError(named(source), error.reason)
