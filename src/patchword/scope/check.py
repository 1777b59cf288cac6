"""Check the images, texts and questions of one task against the scope of its model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from patchword.errors import ImageError, begun
from patchword.scope.knowledge import Scope, Understood
from patchword.scope.report import IMAGES, ScopeReport, collector, current, file_name

if TYPE_CHECKING:  # commands import this, and --help does without NumPy
    import numpy as np
    from numpy.typing import NDArray

Image = TypeVar("Image")
Result = TypeVar("Result")


class Check:
    """Finds what is outside a model's scope, and gives one ScopeWarning of each kind. Without a
    scope nothing is outside.

    kind     the kind of the images, for messages
    outside  whether the last image of `each` is outside
    """

    def __init__(
        self,
        scope: Scope | None,
        name: str,
        called: object = None,
        report: ScopeReport | None = None,
    ) -> None:
        """name: of the model. called: the one image that is checked, if it comes as pixels. report:
        images are added to it, and the caller warns; None: images are added to the report of the
        `together` around; without one, this check warns of them."""
        self.scope, self.name, self.kind = scope, name, IMAGES
        self.outside = False
        self._report = report
        self._called = file_name(called)
        self._domain = ""  # that the last image is most like; "" if no question needs it
        self._novelty: deque[float] = deque()  # of the next images
        self._domains: deque[str] = deque()  # that the next images are most like
        self._asked: dict[str, str] = {}  # the domain of each question that has one

    def texts(self, texts: Sequence[str]) -> None:
        """Warn of words that the model does not know."""
        if self.scope is not None:
            current().check_words(self.name, self.scope, texts)

    def places(self, texts: Sequence[str]) -> None:
        """Warn, once, of texts that the model hardly knows where to find in an image."""
        if self.scope is not None:
            current().check_places(self.name, self.scope, texts)

    def questions(
        self, questions: Sequence[str], answers: Sequence[str] | None = None
    ) -> list[Understood]:
        """The questions to ask: known questions that mean the same, if rules find them; else the
        given ones, with a warning of unknown words and questions.

        answers: to choose from, if any. A rule that swaps yes and no needs both among them."""
        asked = [Understood(question, False) for question in questions]
        if self.scope is None or not self.scope.questions:
            self.texts(questions)
            return asked
        can_swap = answers is None or sorted(a.strip().lower() for a in answers) == ["no", "yes"]
        for number, question in enumerate(questions):
            if not self.scope.is_known(question):
                understood = self.scope.understood(question)
                if understood is not None and (can_swap or not understood.opposite):
                    asked[number] = understood
            if self.scope.is_known(asked[number].question):
                self._note_domain(self.scope, asked[number].question)
            else:
                self._warn_of_question(self.scope, question)
        return asked

    def knows(self, question: str) -> bool:
        """Whether a question is one of those of the training; True if these are not known."""
        return self.scope is None or not self.scope.questions or self.scope.is_known(question)

    def _note_domain(self, scope: Scope, question: str) -> None:
        if domain := scope.asked_of.get(scope.form(question)):
            self._asked[question] = domain

    def _warn_of_question(self, scope: Scope, question: str) -> None:
        unknown = scope.unknown_words([question])
        words = ""
        if unknown:
            are = "word {} is" if len(unknown) == 1 else "words {} are"
            words = f" (the {are.format(scope.list_words(unknown))} unknown to it)"
        current().remark(
            scope,
            f"{self.name} was not trained on questions like {begun(question)!r}{words}, but on "
            f"such as {scope.nearest_question(question)!r}",
        )

    def is_asked_of(self, question: str) -> bool:
        """Whether the last image of `each` is of the domain that a question was learned for; True
        for a question of any domain."""
        return self._domain == self._asked.get(question, self._domain)

    @property
    def layer(self) -> str:
        """The layer whose summaries `vectors` needs; "" for none."""
        return self.scope.layer if self.scope else ""

    def vectors(
        self, vectors: NDArray[np.floating], summaries: NDArray[np.floating] | None = None
    ) -> None:
        """Unit vectors (N, D) of the next images, and the summaries (N, S) of `layer`."""
        if self.scope is not None:
            self._novelty.extend(self.scope.novelty(vectors, summaries).tolist())
            if self._asked:
                self._domains.extend(self.scope.nearest_domain(vectors))

    def judged(self, outside: bool, vector: NDArray[np.floating] | None = None) -> None:
        """The result of another check for the next image; vector: its unit vector (D,), if it is
        known."""
        self._novelty.append(2.0 if outside else 0.0)
        if self.scope is not None and self._asked and vector is not None:
            self._domains.extend(self.scope.nearest_domain(vector[None]))

    def each(
        self, results: Iterable[tuple[Image, Result | ImageError]]
    ) -> Iterator[tuple[Image, Result | ImageError]]:
        """Yield the same images and results, and warn at the end, or when the iterator is closed,
        of images that are unlike the training images. `vectors` or `judged` must have been called
        for an image before its result comes."""
        shared = collector.current
        report = self._report or shared or ScopeReport()
        try:
            for image, result in results:
                is_open = not isinstance(result, ImageError) or result.opened
                if self.scope is not None and is_open:
                    name = file_name(image) or self._called or report.called
                    # Inside `together`, an image without a name is a part of another one.
                    is_part = not name and self._report is None and shared is not None
                    self._check_image(self.scope, report, name, is_part)
                yield image, result
        finally:
            if self._report is None and shared is None:
                report.tell()

    def _check_image(self, scope: Scope, report: ScopeReport, name: str, is_part: bool) -> None:
        """Check the next image, and add it to a report unless it is a part of another one."""
        self.outside = self._novelty.popleft() > 1
        if not is_part:
            report.add_image(self.name, scope, name, self.outside, self.kind)
        self._domain = self._domains.popleft() if self._domains else ""
        for question, domain in self._asked.items():
            if not self.outside and self._domain not in ("", domain):
                report.add_misasked(self.name, scope, question, name or "the image")
