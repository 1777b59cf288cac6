"""Photos on their way to a method: each is opened once, in threads, and comes back with what the
method found in it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from patchword.bundle import Bundle
from patchword.errors import ImageError, ImageWarning, UnsupportedError, listed, warn
from patchword.finite import failed
from patchword.images import ImageLike, name_of
from patchword.images.prefetch import ahead, threads
from patchword.inspect.acquisition import Appearance, short, some_photos
from patchword.inspect.features import layout
from patchword.inspect.protocol import RGB, Finding, Method, State, View
from patchword.nn.inference_mode import without_autocast
from patchword.scope import Check
from patchword.show import plots
from patchword.tasks.out_of_scope import judge
from patchword.visible_area import Sight, noted

AHEAD = 3  # photos that are opened before they are needed
LEAST_CORRELATION = 0.6  # with the golden photo; of the same board 0.94 or more, of others <= 0.49
MARGIN = 0.05  # share of a photo outside of the golden one that gives no warning
SHOWN = 1024  # pixels: the longer side of the copy that is kept to be shown

Opened = tuple[ImageLike, RGB | ImageError]
Found = tuple[RGB, Finding]  # the photo as it is shown, and the method's finding


def opened_each(
    model: Bundle,
    sources: Iterable[ImageLike],
    view: View,
    check: Check,
    appearances: dict[int, Appearance] | None = None,
) -> Iterator[Opened]:
    """Each photo (H, W, 3) at full size, or the ImageError that says why it cannot be used.

    check        is given each photo, and warns when the results went through its `each`
    appearances  filled with the appearance of each photo, by its number in `sources`; None: not
                 computed
    """

    def attempt(source: ImageLike) -> tuple[ImageLike, RGB | ImageError, Appearance | None]:
        try:
            photo = model.opener(source, exact=True)
            layout(model, photo.shape[0], photo.shape[1], view)
        except UnsupportedError as error:
            return source, ImageError(name_of(source), str(error)), None
        except ImageError as error:
            return source, error, None
        return source, photo, None if appearances is None else Appearance.of(photo)

    with threads(AHEAD) as pool, noted() as sights:
        results = ahead(pool, attempt, sources, AHEAD)
        for number, (source, photo, appearance) in enumerate(results):
            if appearances is not None and appearance is not None:
                appearances[number] = appearance
            if check.name and not isinstance(photo, ImageError):
                sights.note(Sight.whole(source, photo))
                judge(model, check, photo)
            yield source, photo


def found_each(
    model: Bundle,
    method: Method,
    state: State,
    sources: Iterable[ImageLike],
    check: Check,
    appearances: dict[int, Appearance] | None = None,
) -> Iterator[tuple[ImageLike, Found | ImageError]]:
    """The method's finding for each photo, in order, or the ImageError of a photo that cannot be
    opened. At the end one warning each of photos with other proportions than the golden photo, of
    photos that do not look like it, and of photos that lie outside of it in part. check,
    appearances: see `opened_each`."""
    pending: deque[Opened] = deque()  # photos that the method has read, as they are shown

    def photos() -> Iterator[RGB]:
        for source, photo in opened_each(model, sources, method.view, check, appearances):
            if isinstance(photo, ImageError):
                pending.append((source, photo))
            else:
                pending.append((source, plots.shown(photo, SHOWN)))
                yield photo

    findings = method.score(model, state, photos())
    named_findings: list[tuple[str, Finding]] = []
    try:
        while True:
            with without_autocast(model.device):
                finding = next(findings, None)
            while pending:
                source, photo = pending.popleft()
                if isinstance(photo, ImageError):
                    yield source, photo
                elif finding and not _is_finite(finding):
                    yield source, failed(source, model.no_vector)
                    break
                elif finding:
                    named_findings.append((name_of(source), finding))
                    yield source, (photo, finding)
                    break
            if finding is None:
                return
    finally:
        _warn_of_golden(named_findings)


def _is_finite(finding: Finding) -> bool:
    return math.isfinite(finding.score) and bool(np.isfinite(finding.grid).all())


def _warn_of_golden(findings: list[tuple[str, Finding]]) -> None:
    """Warn of photos that differ from the golden photo, see `found_each`."""
    total = len(findings)
    names = short([name for name, _ in findings])
    stretched, unlike, uncovered = [], [], []
    golden_size = None
    for name, (_, finding) in zip(names, findings, strict=True):
        if finding.golden_size:
            golden_size = golden_size or finding.golden_size
            stretched.append(f"{name} ({_size(finding.geometry.source)})")
        if finding.correlation < LEAST_CORRELATION:
            unlike.append(name)
        if finding.uncovered > MARGIN:
            uncovered.append(f"{finding.uncovered:.0%} of {name}")
    if golden_size:
        have = "has" if len(stretched) == 1 else "have"
        warn(
            f"{some_photos(len(stretched), total)} {have} other proportions than the golden photo "
            f"of {_size(golden_size)}: {listed(stretched)}; it is stretched to the same size, and "
            "places may not agree",
            ImageWarning,
        )
    if unlike:
        do, verdict = "do", "their verdicts mean"
        if len(unlike) == 1:
            do, verdict = "does", "its verdict means"
        warn(
            f"{some_photos(len(unlike), total)} {do} not look like the golden photo: "
            f"{listed(unlike)}; {verdict} little",
            ImageWarning,
        )
    if uncovered:
        lie = "lies" if len(uncovered) == 1 else "lie"
        warn(
            f"{some_photos(len(uncovered), total)} {lie} in part outside of the golden photo, and "
            f"that part is not compared: {listed(uncovered)}",
            ImageWarning,
        )


def _size(size: tuple[int, int]) -> str:
    """(height, width) in words."""
    return f"{size[1]} x {size[0]} px"
