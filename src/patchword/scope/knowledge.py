"""What a small model was trained on: its kinds of images, its words and its questions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from patchword.errors import begun, listed

if TYPE_CHECKING:  # commands import this, and --help does without NumPy
    import numpy as np
    from numpy.typing import NDArray

MAX_SHOWN = 3  # items that a warning names
MIN_SIMILARITY = 0.8  # of a misspelt word and a known one (difflib's ratio)
WORD = re.compile(r"[^\W_]+")
BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")


@dataclass(frozen=True, eq=False)
class Domain:
    """One kind of image that a model was trained on, as a subspace of its vectors.

    mean    (D,), the mean of their unit vectors
    basis   (K, D), orthonormal: their K principal components
    limit   an image is of another kind if a larger share of its vector's squared distance from the
            mean is outside the subspace
    called  its name in messages
    noise   the squared length of what rounding moves out of the subspace, which does not count
    """

    name: str
    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    limit: float
    called: str = ""
    noise: float = 0.0

    def novelty(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """For unit vectors (N, D): the share outside the subspace, divided by the limit, (N,)."""
        import numpy as np

        centred = vectors.astype(np.float64) - self.mean
        inside = np.square(centred @ self.basis.astype(np.float64).T).sum(axis=1)
        total = np.maximum(np.square(centred).sum(axis=1), 1e-12)
        return (1 - (inside + self.noise) / total) / self.limit  # type: ignore[no-any-return]


class Rewording(NamedTuple):
    """A rule for questions that mean the same as a known one.

    pattern   matches the whole question: its words, each followed by a space
    known     the known question, with {names} of the pattern's groups
    opposite  True if yes and no change places
    """

    pattern: re.Pattern[str]
    known: str
    opposite: bool


class Understood(NamedTuple):
    """The known question that is asked instead of another one; opposite: see `Rewording`."""

    question: str
    opposite: bool


@dataclass(frozen=True, eq=False)
class Boundary:
    """A classifier of images that are unlike those of the model's training: a perceptron with one
    hidden layer (ReLU).

    weight (H, D), bias (H,)  of the hidden layer
    out    (H,), from the hidden layer to the logit
    limit  the logit above which an image is unlike those of the training
    layer  the input is the summary (`embedding.summarised`) of this layer of the image tower; "":
           the unit vector
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    out: NDArray[np.float32]
    limit: float
    layer: str = ""

    def novelty(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """For vectors (N, D): the odds that the image is unlike the training, divided by the odds
        at the limit, (N,)."""
        import numpy as np

        hidden = np.maximum(vectors.astype(np.float64) @ self.weight.T + self.bias, 0)
        return np.exp((hidden @ self.out - self.limit).clip(-50, 50))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Scope:
    """What a model was trained on.

    knows          a summary in a few words, for messages
    domains        its kinds of images
    words          every word of its training texts, in lower case
    questions      its questions by their form (see `form`), one example each; empty for a model
                   that answers no questions
    slots          the kind of words that can replace each other in a question: {"red": "{colour}"}
    substitutions  (pattern, replacement), made in the words of an unknown question in this order,
                   before `rewordings` are tried
    rewordings     rules that find the known question which means the same
    boundary       a classifier of vectors, in addition to the domains
    inner          a better classifier, of a layer in the middle, if there is one
    asked_of       for forms of questions that were asked of images of one domain: its name
    words_of       for words of the texts of one domain, but for function words: its name
    unplaced       the names of domains for which the model never learned where they are in an image
    """

    knows: str
    domains: tuple[Domain, ...]
    words: frozenset[str]
    questions: Mapping[str, str]
    slots: Mapping[str, str]
    substitutions: tuple[tuple[re.Pattern[str], str], ...] = ()
    rewordings: tuple[Rewording, ...] = ()
    boundary: Boundary | None = None
    inner: Boundary | None = None
    asked_of: Mapping[str, str] = field(default_factory=dict)
    words_of: Mapping[str, str] = field(default_factory=dict)
    unplaced: frozenset[str] = frozenset()

    @property
    def layer(self) -> str:
        """The layer of the image tower that `inner` classifies; "" for none."""
        return self.inner.layer if self.inner else ""

    def novelty(
        self, vectors: NDArray[np.floating], summaries: NDArray[np.floating] | None = None
    ) -> NDArray[np.float64]:
        """How unlike the training images each unit vector (N, D) is, (N,). Above 1 the image is
        outside every domain, or beyond the boundary. For a domain this is the residual of its
        principal components (Ndiour et al. 2020).

        summaries: (N, S) of `layer`; None if only the vectors are known."""
        import numpy as np

        lowest: NDArray[np.float64] = np.min(
            [domain.novelty(vectors) for domain in self.domains], axis=0
        )
        if self.inner and summaries is not None:
            return np.maximum(lowest, self.inner.novelty(summaries))
        if self.boundary:
            return np.maximum(lowest, self.boundary.novelty(vectors))
        return lowest

    def outside(self, vectors: NDArray[np.floating]) -> list[bool]:
        """Whether images are unlike the training, by their unit vectors (N, D) alone."""
        return [bool(novelty > 1) for novelty in self.novelty(vectors)]

    def nearest_domain(self, vectors: NDArray[np.floating]) -> list[str]:
        """The name of the domain that each unit vector (N, D) is most like."""
        import numpy as np

        nearest = np.argmin([domain.novelty(vectors) for domain in self.domains], axis=0)
        return [self.domains[number].name for number in nearest]

    def rounded(self, epsilon: float) -> Scope:
        """This scope for the vectors of a network whose numbers have the relative spacing
        `epsilon`. The weights and the output of the last layer are rounded by at most half of that.
        So the squared length of what rounding moves out of a domain's subspace is less than its
        square: 2e-6 of 6e-5 in bfloat16."""
        domains = tuple(replace(domain, noise=epsilon**2) for domain in self.domains)
        return replace(self, domains=domains)

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """The words that are in none of the training texts, each once, in order."""
        words = (word for text in texts for word in WORD.findall(text.lower()))
        return list(dict.fromkeys(word for word in words if word not in self.words))

    def called(self, domain: str) -> str:
        """The name of a domain in messages."""
        return next(each.called for each in self.domains if each.name == domain)

    def words_by_domain(self, text: str) -> dict[str, list[str]]:
        """The words of a text that belong to one domain only, each once, by the domain's name."""
        out: dict[str, list[str]] = {}
        for word in dict.fromkeys(WORD.findall(text.lower())):
            if domain := self.words_of.get(word):
                out.setdefault(domain, []).append(word)
        return out

    def unlearned_combination(self, text: str) -> tuple[str, list[str]] | None:
        """Words of a text that the model learned of different domains: None if there are none.

        Returns a description and the words: ("colours of clothing", ["red"]) if the words of one
        domain are all of kinds that `slots` names, else ("", words)."""
        words_by_domain = self.words_by_domain(text)
        if len(words_by_domain) < 2:
            return None
        for domain, words in words_by_domain.items():
            kinds = {self.slots.get(word, "") for word in words}
            if "" not in kinds:
                plurals = " and ".join(sorted(f"{kind.strip('{}')}s" for kind in kinds))
                others = [self.called(other) for other in words_by_domain if other != domain]
                return f"{plurals} of {' or '.join(others)}", words
        return "", [word for words in words_by_domain.values() for word in words]

    def list_words(self, unknown: Iterable[str]) -> str:
        """The first few unknown words for a message, each with the known word that was probably
        meant."""
        words = list(unknown)
        shown = [f"{begun(word)}{self._suggestion(word)}" for word in words[:MAX_SHOWN]]
        return listed([*shown, *words[MAX_SHOWN:]], MAX_SHOWN)

    def _suggestion(self, word: str) -> str:
        """The known word that a misspelt one is like, for a message; "" for none."""
        # difflib finds no longer word similar, and takes long to compare it.
        longest = max(map(len, self.words), default=0) * (2 / MIN_SIMILARITY - 1)
        if not 3 < len(word) <= longest:
            return ""
        # Two swapped letters are one mistake; difflib would count two.
        swaps = (f"{word[:i]}{word[i + 1]}{word[i]}{word[i + 2 :]}" for i in range(len(word) - 1))
        similar = [swapped for swapped in swaps if swapped in self.words]
        if not similar:
            similar = difflib.get_close_matches(word, self.words, 1, MIN_SIMILARITY)
        return f" (do you mean {similar[0]}?)" if similar else ""

    def form(self, question: str) -> str:
        """A question in lower case, with the kinds of `slots` in place of their words: two
        questions of one form only differ in, say, a colour."""
        words = WORD.findall(question.lower())
        return " ".join(self.slots.get(word, word) for word in words)

    def is_known(self, question: str) -> bool:
        """Whether the training had a question of this form."""
        return self.form(question) in self.questions and not self.unknown_words([question])

    def understood(self, question: str) -> Understood | None:
        """The known question that means the same, by `rewordings`; None if no rule finds one."""
        words = " ".join(WORD.findall(question.lower()))
        for pattern, replacement in self.substitutions:
            words = pattern.sub(replacement, words)
        for rule in self.rewordings:
            match = rule.pattern.fullmatch(words + " ")
            if match is None:
                continue
            known = BEFORE_VOWEL.sub("an ", rule.known.format(**match.groupdict()))
            if self.is_known(known):
                return Understood(known, rule.opposite)
        return None

    def nearest_question(self, question: str) -> str:
        """The example of the known form that is most like a question."""
        near = difflib.get_close_matches(self.form(question), self.questions, 1, cutoff=0)
        return self.questions[near[0]]
