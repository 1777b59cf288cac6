"""From good photos to verdicts on others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from patchword.bundle import Bundle
from patchword.config import from_dict, to_dict
from patchword.errors import (
    CheckpointError,
    ConfigError,
    ImageError,
    ImageWarning,
    UnseenWarning,
    UnsupportedError,
    one_line,
    warn,
)
from patchword.fingerprint import renewed
from patchword.images import ImageLike, name_of
from patchword.images.one_or_many import as_images, results
from patchword.inspect import conformal
from patchword.inspect.acquisition import UNKNOWN, Good, Look, Named, remarks, short
from patchword.inspect.calibration import Calibration, Judge, Kind, Rule, changed, colours, of_list
from patchword.inspect.drift import LONGEST, Drift
from patchword.inspect.inspector_folder import (
    ABOUT,
    damaged,
    read_folder,
    read_stream,
    write_folder,
    write_stream,
)
from patchword.inspect.methods import options_of, with_options
from patchword.inspect.photos import Found, found_each
from patchword.inspect.protocol import Finding, Method, State
from patchword.inspect.result import Inspection
from patchword.options import checked
from patchword.scope import GOOD, IMAGES, Check, file_name
from patchword.visible_area import SMALL, advice

Sources = Sequence[ImageLike]

_DAMAGE = (  # what a changed file may raise
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
    *(ConfigError, UnsupportedError),
)
_NO_P_VALUES = (
    "a list is judged by p-values, and there are none: no good photos were held out; give more "
    "good photos, or some to hold out as calibration (--calibration)"
)


@dataclass(eq=False, repr=False)
class Inspector:
    """A method that has learned from good photos, and what their scores say of a threshold.

    calibration  of a method that compares photos with each other: that of the last batch
    learned      from how many photos
    good         of such a method: the good ones, which are scored with each batch
    grouped      whether photos are judged by those of their own folder's name alone
    taken        how the good photos were taken; None: not known
    """

    model: Bundle
    method: Method
    state: State
    calibration: Calibration
    rule: Rule
    learned: int = 0
    good: tuple[ImageLike, ...] = ()
    grouped: bool = False
    drift: Drift = field(default_factory=lambda: Drift(()))
    taken: Sequence[Good] | None = ()

    smallest: float = 1.0  # how many pixels of a photo became one of the network's, at most
    inspected: list[Named] = field(default_factory=list)  # by the last call

    def __repr__(self) -> str:
        held = f"{len(self.calibration.scores)} {self.calibration.kind}"
        return f"Inspector({self.method}, {self.model.name!r}, {self.learned} learned from, {held})"

    @checked
    def inspect(
        self, images: ImageLike | Iterable[ImageLike], false_discoveries: float | None = None
    ) -> list[Inspection]:
        """What is said of each photo. false_discoveries: see `listed`. Raises the ImageError of
        the first that cannot be opened."""
        if false_discoveries is not None:
            check_list(self)
        found = list(results(self.inspect_each(images)))
        if seen := self.seen_small():
            warn(seen, UnseenWarning)
        for remark in self.remarks():
            warn(remark, ImageWarning)
        found = on_one_scale(found)
        return found if false_discoveries is None else self.listed(found, false_discoveries)

    @checked
    def inspect_each(
        self, images: ImageLike | Iterable[ImageLike]
    ) -> Iterator[tuple[ImageLike, Inspection | ImageError]]:
        """Each photo in order with what is said of it, or the ImageError that says why nothing
        is."""
        self.inspected = []
        if self.method.needs.batch:
            yield from self._batch(list(as_images(images)))
            return
        check, looks = self._check(), dict[int, Look]() if self.taken else None
        each = found_each(self.model, self.method, self.state, as_images(images), check, looks)
        yield from self._said_each(each, check, looks)

    @property
    def watched(self) -> bool:
        """Whether the drift alarm can say something: where photos of one group were held out."""
        return self.calibration.kind == "held out" and not self.grouped

    @checked
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder from which `patchword.inspector(model, fitted=folder)` goes on. Returns
        it. Raises UnsupportedError for a method that compares photos with each other, which learns
        nothing, and for a folder that holds something else."""
        method, model = self.method, self.model
        if method.needs.batch:
            raise UnsupportedError(
                f"{method.name} compares photos with each other: there is nothing to save"
            )
        about = {
            "method": method.name,
            "options": options_of(method),
            "model": model.name,
            "fingerprint": renewed(model).fingerprint,
            "preprocess": to_dict(model.preprocess.config),
            "learned": self.learned,
            "grouped": self.grouped,
            "rule": asdict(self.rule),
            "calibration": asdict(self.calibration),
            **({} if self.taken is None else {"taken": [each.row() for each in self.taken]}),
        }
        place = write_folder(folder, about, self.state)
        self.keep_drift(place)
        return place

    @checked
    def keep_drift(self, folder: str | os.PathLike[str]) -> None:
        """Keep the scores of photos so far in a folder that `save` wrote, so that the drift alarm
        goes on from there; beyond 100,000 it begins anew. Raises OSError where nothing can be
        written."""
        stream = self.drift.stream
        write_stream(folder, stream if len(stream) < LONGEST else ())

    def seen_small(self) -> str:
        """Of photos so far: what is lost where they were reduced by much; else empty."""
        if self.smallest <= SMALL:
            return ""
        return (
            f"photos were seen at 1:{self.smallest:.0f}: defects smaller than about "
            f"{self.smallest * self.model.config.image_tower.patch_size:.0f} pixels may be missed; "
            f"{advice.get().inspected}"
        )

    def remarks(self) -> list[str]:
        """What to say of the photos that were inspected last: which are among the good ones, and
        which were taken under other conditions (`patchword.inspect.acquisition`): sentences without
        their ends."""
        if self.taken is None:
            return [UNKNOWN]
        names = short([each.name for each in self.inspected])
        pairs = zip(self.inspected, names, strict=True)
        return remarks(self.taken, [each._replace(name=name) for each, name in pairs])

    @checked
    def listed(self, found: Sequence[Inspection], rate: float) -> list[Inspection]:
        """The same, rejected as a list: in the mean at most `rate` of those that are rejected are
        good (Benjamini and Hochberg 1995). One without a p-value, of whose folder's name no good
        photo was held out, stays without a verdict. Raises UnsupportedError where none has one, and
        for a threshold that was given."""
        check_list(self)
        known = [each.p_value for each in found if each.p_value is not None]
        if found and not known:
            raise UnsupportedError(_NO_P_VALUES)
        chosen = conformal.benjamini_hochberg(known, rate)
        most = max((p for p, bad in zip(known, chosen, strict=True) if bad), default=0.0)
        limits = {name: judge.above(most) for name, judge in self.judges().items()}
        verdicts = iter(chosen.tolist())
        return [
            each
            if each.p_value is None
            else replace(each, rejected=next(verdicts), limit=limits[each.group])
            for each in found
        ]

    @checked
    def guarantee(self, false_discoveries: float | None = None, photos: int = 0) -> list[str]:
        """What the verdicts guarantee and what they do not, in sentences, for each group; of so
        many photos that were judged as a list, of that."""
        if false_discoveries is not None:
            held = min((len(each.calibration.scores) for each in self.judges().values()), default=0)
            return of_list(false_discoveries, photos, held)
        return [
            f"{name}: {sentence}" if name else sentence
            for name, judge in self.judges().items()
            for sentence in judge.guarantee()
        ]

    def judges(self) -> dict[str, Judge]:
        """By the name of the group; that of all is empty."""
        names = sorted(set(self.calibration.groups)) if self.grouped else [""]
        return {name: Judge(self.calibration.of(name), self.rule) for name in names}

    def _batch(self, sources: Sources) -> Iterator[tuple[ImageLike, Inspection | ImageError]]:
        """Good photos are scored as the others are, in one batch with them; those of them that
        cannot be opened come first."""
        check, both, looks = self._check(), [*self.good, *sources], dict[int, Look]()
        every = list(found_each(self.model, self.method, self.state, both, check, looks))
        check.kind = GOOD
        first = list(check.each(every[: len(self.good)]))
        check.kind = IMAGES
        good = [(source, f[1]) for source, f in first if not isinstance(f, ImageError)]
        self.calibration = calibrated(good, "held out", self.grouped)
        self.drift = Drift(self.calibration.scores)
        self.taken = [
            Good(group_of(source) if self.grouped else "", looks[number])
            for number, (source, found) in enumerate(first)
            if not isinstance(found, ImageError)
        ]
        yield from ((source, found) for source, found in first if isinstance(found, ImageError))
        yield from self._said_each(every[len(first) :], check, looks, len(first))

    def _check(self) -> Check:
        return Check(self.model.scope, self.model.name)

    def _said_each(
        self,
        every: Iterable[tuple[ImageLike, Found | ImageError]],
        check: Check,
        looks: Mapping[int, Look] | None,
        begin: int = 0,
    ) -> Iterator[tuple[ImageLike, Inspection | ImageError]]:
        judges, none = self.judges(), Judge(Calibration("none"), self.rule)
        pixels = {each.look.pixels for each in self.taken or ()}
        for number, (source, found) in enumerate(check.each(every), begin):
            if isinstance(found, ImageError):
                yield source, found
            else:
                group = group_of(source) if self.grouped else ""
                known = looks is not None and looks[number].pixels in pixels
                if looks is not None:
                    name = one_line(file_name(source)) or f"image {number - begin + 1}"
                    self.inspected.append(Named(name, group, looks[number], known))
                said = self._said(source, found, judges.get(group, none), group)
                yield source, replace(said, outside=check.outside, known=known)

    def _said(self, source: ImageLike, found: Found, judge: Judge, group: str) -> Inspection:
        photo, finding = found
        sides = zip(finding.geometry.source, finding.geometry.resized, strict=True)
        self.smallest = max(self.smallest, *(source / size for source, size in sides))
        if self.watched:
            self.drift.add([finding.score])
        return Inspection(
            path=named(source),
            photo=photo,
            score=finding.score,
            p_value=judge.p_value(finding.score),
            rejected=judge.rejected(finding.score),
            limit=judge.limit,
            edge=judge.edge,
            grid=finding.grid,
            geometry=finding.geometry,
            scale=colours(judge.edge),
            group=group,
        )


def reopened(
    model: Bundle, folder: str | os.PathLike[str], given: Mapping[str, float] | None = None
) -> Inspector:
    """The inspector that `save` wrote. given: numbers of its rule, see `calibration.changed`.

    Raises CheckpointError for a folder that holds none or a damaged one, and for one that was
    fitted with another model.
    """
    about, state = read_folder(folder)
    now = renewed(model).fingerprint
    if about["fingerprint"] != now:
        raise CheckpointError(
            f"{os.fspath(folder)} was fitted with {about['model']} (fingerprint "
            f"{about['fingerprint']}), and this is {model.name} ({now}): scores of "
            "two models cannot be compared; give the same model and its options, as --stretch"
        )
    try:
        calibration = from_dict(Calibration, about["calibration"])
        calibration.check()
        method = with_options(about["method"], about["options"])
        rule = from_dict(Rule, about["rule"])
        learned, grouped = int(about["learned"]), bool(about["grouped"])
        rows = about.get("taken")
        taken = rows if rows is None else [Good.of_row(row) for row in rows]
    except _DAMAGE as error:
        raise damaged(folder, f"{ABOUT}: {type(error).__name__}: {error}") from error
    drift = Drift(calibration.scores)
    drift.add(read_stream(folder))
    rule = changed(rule, given or {})
    return Inspector(
        model, method, state, calibration, rule, learned, (), grouped, drift,
        taken,
    )  # fmt: skip


def on_one_scale(found: Sequence[Inspection]) -> list[Inspection]:
    """The same, the colours of their maps up to the highest value of all."""
    highest = max((float(each.grid.max()) for each in found), default=0.0)
    return [replace(each, scale=colours(each.edge, highest)) for each in found]


def calibrated(
    found: Iterable[tuple[ImageLike, Finding]], kind: Kind, grouped: bool
) -> Calibration:
    """The scores of good photos."""
    pairs = list(found)
    return Calibration(
        kind if pairs else "none",
        tuple(each.score for _, each in pairs),
        tuple(float(np.max(each.grid)) for _, each in pairs),
        tuple(group_of(source) for source, _ in pairs) if grouped else (),
        tuple(one_line(file_name(source)) for source, _ in pairs),
    )


def group_of(source: ImageLike) -> str:
    """The name of the folder that a photo lies in."""
    return Path(named(source)).parent.name


def named(source: ImageLike) -> str:
    """What to call a photo."""
    return str(source) if isinstance(source, os.PathLike) else name_of(source)


def check_list(inspector: Inspector) -> None:
    """Raise UnsupportedError where no photo can be judged as one of a list, which is known before
    any is seen."""
    if inspector.rule.threshold is not None:
        raise UnsupportedError(
            "a list is judged by p-values, not by a threshold: leave out threshold, or "
            "false_discoveries"
        )
    kinds = {each.calibration.kind for each in inspector.judges().values()}
    batch = inspector.method.needs.batch
    if not inspector.good if batch else "held out" not in kinds:
        raise UnsupportedError(_NO_P_VALUES)
