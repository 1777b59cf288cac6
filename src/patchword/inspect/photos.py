"""Photos on their way to a method: opened once, in threads, each with what is found in it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from patchword.bundle import Bundle
from patchword.errors import ImageError, ImageWarning, UnsupportedError, listed, warn
from patchword.finite import failed
from patchword.images import ImageLike, name_of
from patchword.images.prefetch import ahead, threads
from patchword.inspect.acquisition import Look, short
from patchword.inspect.features import layout
from patchword.inspect.protocol import RGB, Finding, Method, State, View
from patchword.nn.inference_mode import without_autocast
from patchword.scope import Check
from patchword.show import plots
from patchword.tasks.out_of_scope import judge
from patchword.visible_area import Sight, noted

AHEAD = 3  # photos that are opened before they are wanted
ALIKE = 0.6  # correlation with the golden photo; of one board 0.94 or more, of others 0.49 at most
MARGIN = 0.05  # of a photo that may lie outside of the golden one before it is said
SHOWN = 1024  # pixels: the longer side of what is kept of a photo to be shown

Opened = tuple[ImageLike, RGB | ImageError]
Found = tuple[RGB, Finding]  # the photo as it is shown, and what was found in it


def opened_each(
    model: Bundle,
    sources: Iterable[ImageLike],
    view: View,
    check: Check,
    looks: dict[int, Look] | None = None,
) -> Iterator[Opened]:
    """Each photo in its own pixels, or the ImageError that says why it cannot be used. check: is
    let know of each, and tells when they went through its `each`. looks: gets how each was taken,
    by its place in `sources`."""

    def attempt(source: ImageLike) -> tuple[ImageLike, RGB | ImageError, Look | None]:
        try:
            photo = model.opener(source, exact=True)
            layout(model, photo.shape[0], photo.shape[1], view)
        except UnsupportedError as error:
            return source, ImageError(name_of(source), str(error)), None
        except ImageError as error:
            return source, error, None
        return source, photo, None if looks is None else Look.of(photo)

    with threads(AHEAD) as pool, noted() as sights:
        for number, (source, photo, look) in enumerate(ahead(pool, attempt, sources, AHEAD)):
            if looks is not None and look is not None:
                looks[number] = look
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
    looks: dict[int, Look] | None = None,
) -> Iterator[tuple[ImageLike, Found | ImageError]]:
    """What a method finds in each photo, in order, or why it cannot be opened; at the end one
    warning of those that lie otherwise than the golden photo. check, looks: as of `opened_each`."""
    waiting: deque[Opened] = deque()  # photos that the method has, as they are shown

    def photos() -> Iterator[RGB]:
        for source, photo in opened_each(model, sources, method.view, check, looks):
            if isinstance(photo, ImageError):
                waiting.append((source, photo))
            else:
                waiting.append((source, plots.shown(photo, SHOWN)))
                yield photo

    findings = method.score(model, state, photos())
    laid: list[tuple[str, Finding]] = []
    try:
        while True:
            with without_autocast(model.device):
                finding = next(findings, None)
            while waiting:
                source, shown = waiting.popleft()
                if isinstance(shown, ImageError):
                    yield source, shown
                elif finding and not _is_finite(finding):
                    yield source, failed(source, model.no_vector)
                    break
                elif finding:
                    laid.append((name_of(source), finding))
                    yield source, (shown, finding)
                    break
            if finding is None:
                return
    finally:
        _tell(laid)


def _is_finite(found: Finding) -> bool:
    """Whether its score and all values of its map are numbers."""
    return math.isfinite(found.score) and bool(np.isfinite(found.grid).all())


def _tell(laid: list[tuple[str, Finding]]) -> None:
    """Warn of photos of other proportions than the golden one, and of such as lie beyond it."""
    names = short([name for name, _ in laid])
    laid = [(name, found) for name, (_, found) in zip(names, laid, strict=True)]
    other = [(f"{name} ({_size(found.geometry.source)})", found) for name, found in laid]
    if stretched := [(name, found.golden) for name, found in other if found.golden]:
        one = len(stretched) == 1
        warn(
            f"{_some(stretched, laid)} {'has' if one else 'have'} other proportions than "
            f"the golden photo of {_size(stretched[0][1])}: "
            f"{listed([name for name, _ in stretched])}; it is stretched to the same size, and "
            "places may not agree",
            ImageWarning,
        )
    if foreign := [name for name, f in laid if f.alike < ALIKE]:
        one = len(foreign) == 1
        warn(
            f"{_some(foreign, laid)} {'does' if one else 'do'} not look like the golden photo: "
            f"{listed(foreign)}; {'its verdict means' if one else 'their verdicts mean'} little",
            ImageWarning,
        )
    if beyond := [f"{f.outside:.0%} of {name}" for name, f in laid if f.outside > MARGIN]:
        one = len(beyond) == 1
        warn(
            f"{_some(beyond, laid)} {'lies' if one else 'lie'} in part outside of "
            f"the golden photo, and that part is not compared: {listed(beyond)}",
            ImageWarning,
        )


def _some(found: Sequence[object], photos: Sequence[object]) -> str:
    return "the photo" if len(photos) == 1 else f"{len(found)} of {len(photos)} photos"


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} px"
