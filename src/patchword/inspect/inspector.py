"""The inspector: a method that has learned from good photos, and its verdicts on other photos."""

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
from patchword.inspect.acquisition import (
    UNKNOWN,
    Appearance,
    GoodPhoto,
    InspectedPhoto,
    remarks,
    short,
)
from patchword.inspect.calibration import (
    Calibration,
    Judge,
    Kind,
    Rule,
    changed,
    colours,
    list_guarantee,
)
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

_DAMAGE = (  # raised for a saved file that somebody changed
    KeyError, TypeError, ValueError, AttributeError, OverflowError, ConfigError, UnsupportedError,
)  # fmt: skip
_NO_P_VALUES = (
    "a list is judged by p-values, and there are none: no good photos were held out; give more "
    "good photos, or some to hold out as calibration (--calibration)"
)


@dataclass(eq=False, repr=False)
class Inspector:
    """A method that has learned from good photos, and the scores of good photos that give its
    threshold.

    calibration  for a method that compares photos with each other: that of the last batch
    learned      the number of photos that were learned from
    good         for a method that compares photos with each other: the good ones, which are scored
                 with each batch
    grouped      True if photos are judged only by good photos in folders of the same name
    taken        the appearance of the good photos; None: not known
    smallest     the largest factor by which a photo's sides were reduced
    inspected    the photos of the last call
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
    taken: Sequence[GoodPhoto] | None = ()
    smallest: float = 1.0
    inspected: list[InspectedPhoto] = field(default_factory=list)

    def __repr__(self) -> str:
        scores = f"{len(self.calibration.scores)} {self.calibration.kind}"
        learned = f"{self.learned} learned from"
        return f"Inspector({self.method}, {self.model.name!r}, {learned}, {scores})"

    @checked
    def inspect(
        self, images: ImageLike | Iterable[ImageLike], false_discoveries: float | None = None
    ) -> list[Inspection]:
        """The result of each photo. false_discoveries: see `listed`. Raises the ImageError of the
        first photo that cannot be opened."""
        if false_discoveries is not None:
            check_list(self)
        inspections = list(results(self.inspect_each(images)))
        if warning := self.seen_small():
            warn(warning, UnseenWarning)
        for remark in self.remarks():
            warn(remark, ImageWarning)
        inspections = on_one_scale(inspections)
        if false_discoveries is None:
            return inspections
        return self.listed(inspections, false_discoveries)

    @checked
    def inspect_each(
        self, images: ImageLike | Iterable[ImageLike]
    ) -> Iterator[tuple[ImageLike, Inspection | ImageError]]:
        """Each photo in order with its result, or with its ImageError."""
        self.inspected = []
        if self.method.needs.batch:
            yield from self._inspect_batch(list(as_images(images)))
            return
        check = Check(self.model.scope, self.model.name)
        appearances = dict[int, Appearance]() if self.taken else None
        outcomes = found_each(
            self.model, self.method, self.state, as_images(images), check, appearances
        )
        yield from self._judge_each(outcomes, check, appearances)

    @property
    def watched(self) -> bool:
        """True if the drift alarm works: good photos were held out, and there are no groups."""
        return self.calibration.kind == "held out" and not self.grouped

    @checked
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder that `patchword.inspector(model, fitted=folder)` reads, and return its
        path. Raises UnsupportedError for a method that compares photos with each other, which
        learns nothing, and for a folder that holds other files."""
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
        }
        if self.taken is not None:
            about["taken"] = [photo.row() for photo in self.taken]
        place = write_folder(folder, about, self.state)
        self.keep_drift(place)
        return place

    @checked
    def keep_drift(self, folder: str | os.PathLike[str]) -> None:
        """Save the scores so far in a folder that `save` wrote, so that the drift alarm continues
        from there; after 100,000 photos it begins again. Raises OSError."""
        stream = self.drift.stream
        write_stream(folder, stream if len(stream) < LONGEST else ())

    def seen_small(self) -> str:
        """A warning about small defects, if photos so far were much reduced; else ""."""
        if self.smallest <= SMALL:
            return ""
        return (
            f"photos were seen at 1:{self.smallest:.0f}: defects smaller than about "
            f"{self.smallest * self.model.config.image_tower.patch_size:.0f} pixels may be missed; "
            f"{advice.get().inspected}"
        )

    def remarks(self) -> list[str]:
        """Sentences, without full stops, about the photos of the last call: which are among the
        good ones, and which were taken under other conditions (`patchword.inspect.acquisition`)."""
        if self.taken is None:
            return [UNKNOWN]
        names = short([photo.name for photo in self.inspected])
        pairs = zip(self.inspected, names, strict=True)
        return remarks(self.taken, [photo._replace(name=name) for photo, name in pairs])

    @checked
    def listed(self, found: Sequence[Inspection], rate: float) -> list[Inspection]:
        """The results judged as one list: on average at most `rate` of the rejected photos are good
        (Benjamini and Hochberg 1995). A photo without a p-value, because no good photo of its group
        was held out, gets no verdict. Raises UnsupportedError if no photo has one, and for an
        inspector with a given threshold."""
        check_list(self)
        p_values = [each.p_value for each in found if each.p_value is not None]
        if found and not p_values:
            raise UnsupportedError(_NO_P_VALUES)
        rejected = conformal.benjamini_hochberg(p_values, rate)
        most = max((p for p, bad in zip(p_values, rejected, strict=True) if bad), default=0.0)
        limits = {name: judge.above(most) for name, judge in self.judges().items()}
        verdicts = iter(rejected.tolist())
        judged = []
        for each in found:
            if each.p_value is not None:
                each = replace(each, rejected=next(verdicts), limit=limits[each.group])
            judged.append(each)
        return judged

    @checked
    def guarantee(self, false_discoveries: float | None = None, photos: int = 0) -> list[str]:
        """Sentences, for each group: what the verdicts guarantee, and what they do not.
        false_discoveries: the rate at which `photos` photos were judged as one list."""
        judges = self.judges()
        if false_discoveries is not None:
            counts = [len(judge.calibration.scores) for judge in judges.values()]
            return list_guarantee(false_discoveries, photos, min(counts, default=0))
        return [
            f"{name}: {sentence}" if name else sentence
            for name, judge in judges.items()
            for sentence in judge.guarantee()
        ]

    def judges(self) -> dict[str, Judge]:
        """The judge of each group, by its name; without groups there is one, named ""."""
        names = sorted(set(self.calibration.groups)) if self.grouped else [""]
        return {name: Judge(self.calibration.of(name), self.rule) for name in names}

    def _inspect_batch(
        self, sources: Sources
    ) -> Iterator[tuple[ImageLike, Inspection | ImageError]]:
        """Score the good photos in one batch with the others. The errors of good photos that cannot
        be opened come first."""
        check = Check(self.model.scope, self.model.name)
        batch, appearances = [*self.good, *sources], dict[int, Appearance]()
        outcomes = list(found_each(self.model, self.method, self.state, batch, check, appearances))
        check.kind = GOOD
        of_good = list(check.each(outcomes[: len(self.good)]))
        check.kind = IMAGES
        findings, taken, errors = [], [], []
        for number, (source, result) in enumerate(of_good):
            if isinstance(result, ImageError):
                errors.append((source, result))
            else:
                findings.append((source, result[1]))
                taken.append(GoodPhoto(self._group(source), appearances[number]))
        self.calibration = calibrated(findings, "held out", self.grouped)
        self.drift = Drift(self.calibration.scores)
        self.taken = taken
        yield from errors
        yield from self._judge_each(outcomes[len(of_good) :], check, appearances, len(of_good))

    def _group(self, source: ImageLike) -> str:
        return group_of(source) if self.grouped else ""

    def _judge_each(
        self,
        outcomes: Iterable[tuple[ImageLike, Found | ImageError]],
        check: Check,
        appearances: Mapping[int, Appearance] | None,
        first: int = 0,
    ) -> Iterator[tuple[ImageLike, Inspection | ImageError]]:
        """The results of photos from their findings. appearances: of the photos, the first of which
        has the number `first` there."""
        judges, no_judge = self.judges(), Judge(Calibration("none"), self.rule)
        digests = {photo.appearance.digest for photo in self.taken or ()}
        for number, (source, outcome) in enumerate(check.each(outcomes), first):
            if isinstance(outcome, ImageError):
                yield source, outcome
                continue
            group, known = self._group(source), False
            if appearances is not None:
                known = appearances[number].digest in digests
                name = one_line(file_name(source)) or f"image {number - first + 1}"
                self.inspected.append(InspectedPhoto(name, group, appearances[number], known))
            inspection = self._judged(source, outcome, judges.get(group, no_judge), group)
            yield source, replace(inspection, outside=check.outside, known=known)

    def _judged(self, source: ImageLike, found: Found, judge: Judge, group: str) -> Inspection:
        photo, finding = found
        sides = zip(finding.geometry.source, finding.geometry.resized, strict=True)
        self.smallest = max(self.smallest, *(source / size for source, size in sides))
        if self.watched:
            self.drift.add([finding.score])
        return Inspection(
            path=photo_name(source),
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
    model: Bundle, folder: str | os.PathLike[str], numbers: Mapping[str, float] | None = None
) -> Inspector:
    """The inspector that `save` wrote. numbers: new ones for its rule, see `calibration.changed`.

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
        taken = None
        if about.get("taken") is not None:
            taken = [GoodPhoto.of_row(row) for row in about["taken"]]
    except _DAMAGE as error:
        raise damaged(folder, f"{ABOUT}: {type(error).__name__}: {error}") from error
    drift = Drift(calibration.scores)
    drift.add(read_stream(folder))
    rule = changed(rule, numbers or {})
    return Inspector(
        model, method, state, calibration, rule, learned, (), grouped, drift,
        taken,
    )  # fmt: skip


def on_one_scale(inspections: Sequence[Inspection]) -> list[Inspection]:
    """The results with one colour scale, up to the highest value of all maps."""
    highest = max((float(each.grid.max()) for each in inspections), default=0.0)
    return [replace(each, scale=colours(each.edge, highest)) for each in inspections]


def calibrated(
    findings: Iterable[tuple[ImageLike, Finding]], kind: Kind, grouped: bool
) -> Calibration:
    """The calibration from the findings of good photos."""
    pairs = list(findings)
    return Calibration(
        kind if pairs else "none",
        tuple(finding.score for _, finding in pairs),
        tuple(float(np.max(finding.grid)) for _, finding in pairs),
        tuple(group_of(source) for source, _ in pairs) if grouped else (),
        tuple(one_line(file_name(source)) for source, _ in pairs),
    )


def group_of(source: ImageLike) -> str:
    """The name of the folder that a photo lies in."""
    return Path(photo_name(source)).parent.name


def photo_name(source: ImageLike) -> str:
    """The name of a photo: its path, if it has one."""
    return str(source) if isinstance(source, os.PathLike) else name_of(source)


def check_list(inspector: Inspector) -> None:
    """Raise UnsupportedError if photos cannot be judged as one list."""
    if inspector.rule.threshold is not None:
        raise UnsupportedError(
            "a list is judged by p-values, not by a threshold: leave out threshold, or "
            "false_discoveries"
        )
    if inspector.method.needs.batch:
        has_p_values = bool(inspector.good)
    else:
        judges = inspector.judges().values()
        has_p_values = any(judge.calibration.kind == "held out" for judge in judges)
    if not has_p_values:
        raise UnsupportedError(_NO_P_VALUES)
