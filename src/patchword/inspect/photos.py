"""Photos on their way to a method: opened once, in threads, each with what is found in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from patchword.bundle import Bundle
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike, name_of
from patchword.images.ahead import ahead
from patchword.inspect.features import layout
from patchword.inspect.protocol import RGB, Finding, Method, State, View
from patchword.scope import Check
from patchword.show import plots
from patchword.tasks.judge import judge
from patchword.unseen import Sight, noted

AHEAD = 3  # photos that are opened before they are wanted
SHOWN = 1024  # pixels: the longer side of what is kept of a photo to be shown

Opened = tuple[ImageLike, RGB | ImageError]
Found = tuple[RGB, Finding]  # the photo as it is shown, and what was found in it


def opened_each(
    model: Bundle, sources: Iterable[ImageLike], view: View, check: Check
) -> Iterator[Opened]:
    """Each photo in its own pixels, or the ImageError that says why it cannot be used. check: is
    let know of each, and tells when they went through its `each`."""

    def attempt(source: ImageLike) -> Opened:
        try:
            photo = model.opener(source, exact=True)
            layout(model, photo.shape[0], photo.shape[1], view)
        except UnsupportedError as error:
            return source, ImageError(name_of(source), str(error))
        except ImageError as error:
            return source, error
        return source, photo

    with ThreadPoolExecutor(AHEAD) as pool, noted() as sights:
        for source, photo in ahead(pool, attempt, sources, AHEAD):
            if check.name and not isinstance(photo, ImageError):
                sights.note(Sight.whole(source, photo))
                judge(model, check, photo)
            yield source, photo


def found_each(
    model: Bundle, method: Method, state: State, sources: Iterable[ImageLike], check: Check
) -> Iterator[tuple[ImageLike, Found | ImageError]]:
    """What a method finds in each photo, in order, or why it cannot be opened. check: as of
    `opened_each`."""
    waiting: deque[Opened] = deque()  # photos that the method has, as they are shown

    def photos() -> Iterator[RGB]:
        for source, photo in opened_each(model, sources, method.view, check):
            if isinstance(photo, ImageError):
                waiting.append((source, photo))
            else:
                waiting.append((source, plots.shown(photo, SHOWN)))
                yield photo

    findings = method.score(model, state, photos())
    while True:
        finding = next(findings, None)
        while waiting:
            source, shown = waiting.popleft()
            if isinstance(shown, ImageError):
                yield source, shown
            elif finding:
                yield source, (shown, finding)
                break
        if finding is None:
            return
