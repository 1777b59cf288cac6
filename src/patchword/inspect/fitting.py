"""Learning from good photos, and calibration on photos that are held out of them."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from patchword.bundle import Bundle
from patchword.errors import ImageError, UnsupportedError, counted
from patchword.images import ImageLike
from patchword.images.one_or_many import as_images
from patchword.inspect import conformal
from patchword.inspect.acquisition import Appearance, GoodPhoto
from patchword.inspect.calibration import Calibration, Kind, Rule
from patchword.inspect.drift import Drift
from patchword.inspect.inspector import Inspector, calibrated, group_of, photo_name
from patchword.inspect.methods import needless
from patchword.inspect.photos import found_each, opened_each
from patchword.inspect.protocol import RGB, Finding, Method, Progress, State
from patchword.nn.inference_mode import without_autocast
from patchword.scope import GOOD, Check, together

FEWEST = 4  # photos that must remain to learn from when others are held out
FOLDS = 5  # of the cross-validation
SEED = 0
UNCHECKED = Check(None, "")  # for photos that come a second time: warns of nothing

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
    """Learn from good photos, and calibrate on good photos that nothing is learned from.

    calibration  photos to calibrate on; nothing is learned from them, even if they are also in
                 `good`. None: some of `good`, see `split`; if none can be held out, all are learned
                 from, and the threshold comes from cross-validation
    grouped      a threshold for each name of the folders that photos lie in
    failed       the errors of photos that cannot be opened are added here; None: the first is
                 raised
    progress     called with (photos done, photos in all)

    Raises UnsupportedError for fewer good photos than the method needs.
    """
    held_out = None if calibration is None else _distinct(as_images(calibration))
    sources = _distinct(as_images(good), held_out or ())
    errors: dict[int, ImageError] = {}
    while True:
        run = _Run(model, method, rule, grouped, progress)
        try:
            inspector = run.inspector(sources, held_out)
            if not run.errors:
                break
        except ImageError:  # none of the photos to learn from could be opened
            if len(run.errors) == len(sources):
                raise
        errors |= run.errors
        if failed is None:
            raise next(iter(run.errors.values()))
        # Repeat without the unreadable photos: there may now be too few to hold some out.
        sources = [source for source in sources if id(source) not in errors]
        if held_out:
            held_out = [source for source in held_out if id(source) not in errors]
    if failed is not None:
        failed += errors.values()
    return inspector


class _Run:
    """One attempt to learn and to calibrate. errors: of photos that cannot be opened, by the id of
    their source."""

    def __init__(
        self, model: Bundle, method: Method, rule: Rule, grouped: bool, progress: Progress | None
    ) -> None:
        self.model, self.method, self.rule, self.grouped = model, method, rule, grouped
        self.progress, self.errors = progress, dict[int, ImageError]()
        self.done, self.total, self.photos = 0, 0, 0
        self.taken: list[GoodPhoto] = []

    def inspector(self, sources: Sources, calibration: Sources | None) -> Inspector:
        method = self.method
        if len(sources) < method.needs.good:
            needs = counted(method.needs.good, "good photo")
            beside = " beside those of the calibration" if calibration else ""
            raise UnsupportedError(
                f"{method.name} needs {needs}{beside}, and there are {len(sources)}; "
                f"{' and '.join(needless())} need none"
            )
        if method.needs.batch:
            good = (*sources, *(calibration or ()))
            return Inspector(
                self.model, method, method.fit(self.model, []), Calibration("none"), self.rule,
                good=good, grouped=self.grouped,
            )  # fmt: skip
        if calibration is None:
            learned, held_out = split(sources, self.rule, method, self.grouped)
        else:
            learned, held_out = sources[: method.needs.most], calibration
        folds = [] if held_out else _folds(learned, method)
        self.photos = len(learned) + len(held_out)
        self.total = self.photos + len(folds) * len(learned)  # each fold opens every photo
        findings: list[tuple[ImageLike, Finding]] = []
        for fold in folds:
            rest = [source for n, source in enumerate(learned) if n not in fold]
            findings += self._score(self._learn(rest), [learned[n] for n in fold])
        with together() as warnings:
            check = Check(self.model.scope, self.model.name, report=warnings)
            check.kind = GOOD
            state = self._learn(learned, check)
            findings += self._score(state, held_out, check)
        kind: Kind = "cross-validated" if folds else "held out"
        scores = calibrated(findings, kind, self.grouped)
        return Inspector(
            self.model, method, state, scores, self.rule, len(learned), grouped=self.grouped,
            drift=Drift(scores.scores), taken=self.taken,
        )  # fmt: skip

    def _learn(self, sources: Sources, check: Check = UNCHECKED) -> State:
        def photos() -> Iterator[RGB]:
            opened = 0
            appearances = None if check is UNCHECKED else dict[int, Appearance]()
            results = opened_each(self.model, sources, self.method.view, check, appearances)
            for number, (source, photo) in enumerate(check.each(results)):
                self._advance()
                if isinstance(photo, ImageError):
                    self._add_error(source, photo)
                else:
                    opened += 1
                    self._add_taken(source, number, appearances)
                    yield photo
            if sources and not opened:
                raise next(iter(self.errors.values()))

        with without_autocast(self.model.device):
            return self.method.fit(self.model, photos())

    def _score(
        self, state: State, sources: Sources, check: Check = UNCHECKED
    ) -> Iterator[tuple[ImageLike, Finding]]:
        appearances = None if check is UNCHECKED else dict[int, Appearance]()
        results = found_each(self.model, self.method, state, sources, check, appearances)
        for number, (source, found) in enumerate(check.each(results)):
            self._advance()
            if isinstance(found, ImageError):
                self._add_error(source, found)
            else:
                self._add_taken(source, number, appearances)
                yield source, found[1]

    def _add_error(self, source: ImageLike, error: ImageError) -> None:
        self.errors[id(source)] = ImageError(photo_name(source), error.reason)

    def _add_taken(
        self, source: ImageLike, number: int, appearances: Mapping[int, Appearance] | None
    ) -> None:
        """Note the appearance of a good photo, the first time that it comes."""
        if appearances is not None:
            group = group_of(source) if self.grouped else ""
            self.taken.append(GoodPhoto(group, appearances[number]))

    def _advance(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done * self.photos // self.total, self.photos)


def _distinct(sources: Iterable[ImageLike], without: Sources = ()) -> list[ImageLike]:
    """Each file once, and none of `without`, so that no photo is both learned from and held out."""
    seen = {_identity(source) for source in without}
    distinct = []
    for source in sources:
        identity = _identity(source)
        if identity not in seen:
            seen.add(identity)
            distinct.append(source)
    return distinct


def _identity(source: ImageLike) -> object:
    """Equal for two sources of the same photo: the resolved path of a file, else the object's
    id."""
    if isinstance(source, (str, os.PathLike)):
        name = photo_name(source)
        return name if "\0" in name else os.path.realpath(name)  # "\0" is an error on opening
    return id(source)


def _folds(sources: Sources, method: Method) -> list[range]:
    """The numbers of the photos of each fold, which are scored after learning from the others; []
    if too few others would remain."""
    count = min(len(sources), FOLDS)
    if count < 2 or len(sources) - math.ceil(len(sources) / count) < method.needs.good:
        return []
    return [range(first, len(sources), count) for first in range(count)]


def split(sources: Sources, rule: Rule, method: Method, grouped: bool) -> tuple[Sources, Sources]:
    """Good photos to learn from, and good photos to hold out.

    Held out at random are half of each group, or as many as the rate needs if that is more,
    provided that `FEWEST` photos remain, or one of each group; else none. For a method that learns
    from a few photos only, all others are held out.
    """
    most = method.needs.most
    if most is not None:
        return sources[:most], sources[most:]
    order = list(range(len(sources)))
    random.Random(SEED).shuffle(order)
    needed = conformal.needed(rule.false_alarms, rule.confidence)
    fewest = 1 if grouped else FEWEST
    groups = [group_of(source) if grouped else "" for source in sources]
    held_out: set[int] = set()
    for group in sorted(set(groups)):
        members = [n for n in order if groups[n] == group]
        if len(members) - needed >= fewest:
            held_out.update(members[: max(needed, len(members) // 2)])
    learned = [source for n, source in enumerate(sources) if n not in held_out]
    return learned, [sources[n] for n in sorted(held_out)]
