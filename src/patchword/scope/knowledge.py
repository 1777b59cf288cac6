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

SHOWN = 3  # items that a warning names
ALIKE = 0.8  # how like a misspelt word a known one is (difflib)
WORD = re.compile(r"[^\W_]+")
BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")


@dataclass(frozen=True, eq=False)
class Domain:
    """One kind of image that a model was trained on, as a subspace of its vectors.

    mean   (D,) of their unit vectors
    basis  (K, D), orthonormal: the K main directions in which they vary
    limit  the share of a vector's squared distance from the mean that lies outside the subspace,
           above which an image counts as another kind
    called what it is in messages
    noise  the squared length of what rounding takes out of the subspace, which does not count
    """

    name: str
    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    limit: float
    called: str = ""
    noise: float = 0.0

    def novelty(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) of unit vectors (N, D): that share over the limit."""
        import numpy as np

        away = vectors.astype(np.float64) - self.mean
        inside = np.square(away @ self.basis.astype(np.float64).T).sum(axis=1)
        whole = np.maximum(np.square(away).sum(axis=1), 1e-12)
        return (1 - (inside + self.noise) / whole) / self.limit  # type: ignore[no-any-return]


class Rewording(NamedTuple):
    """A rule: questions that mean the same as a known one.

    pattern   of the whole question, words that each end in a space
    known     what is asked instead, with {names} of the pattern's groups
    opposite  True if yes and no change places
    """

    pattern: re.Pattern[str]
    known: str
    opposite: bool


class Understood(NamedTuple):
    """The known question that is asked in the place of another one; see `Rewording`."""

    question: str
    opposite: bool


@dataclass(frozen=True, eq=False)
class Boundary:
    """A perceptron with one hidden layer, trained to tell other images from those of the model's
    training.

    weight (H, D), bias (H,): from unit vectors, or from what `layer` gives, to the hidden units
           (ReLU)
    out    (H,): from there to the logit of another image
    limit  the logit above which an image counts as another
    layer  of the image tower, whose summary (`bundle.summarised`) is judged; "": the unit vectors
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    out: NDArray[np.float32]
    limit: float
    layer: str = ""

    def novelty(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) of vectors (N, D): the odds of another image, over those at the limit."""
        import numpy as np

        hidden = np.maximum(vectors.astype(np.float64) @ self.weight.T + self.bias, 0)
        return np.exp((hidden @ self.out - self.limit).clip(-50, 50))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Scope:
    """What a model was trained on.

    knows      a summary in a few words, for messages
    domains    its kinds of images
    words      every word of its training texts, in lower case
    questions  the forms of its questions, each with an example; none for a model that answers none
    asked_of   the name of the domain that a form was asked of in training, where that is one
    words_of   the name of the one domain whose texts a word was in, but for those of grammar
    unplaced   the names of domains of which it never learned where things are in an image
    slots      words that can replace each other in a question, by the name of their kind
    substitutions  made in the words of an unknown question, in this order, before
    rewordings     say which known question it is
    boundary what tells other images from those of the domains by their vectors
    inner      what tells them better, by a layer in the middle, where that is known
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
        """The layer of the image tower that `inner` looks at; "" for none."""
        return self.inner.layer if self.inner else ""

    def novelty(
        self, vectors: NDArray[np.floating], summaries: NDArray[np.floating] | None = None
    ) -> NDArray[np.float64]:
        """How unlike the training images each unit vector (N, D) is, (N,): above 1 it is outside
        of every domain, or beyond the boundary. Of a domain it is the residual of its principal
        components (Ndiour et al. 2020).

        summaries: (N, S) of `layer`; None where vectors are all that there is."""
        import numpy as np

        least: NDArray[np.float64] = np.min(
            [each.novelty(vectors) for each in self.domains], axis=0
        )
        if self.inner and summaries is not None:
            return np.maximum(least, self.inner.novelty(summaries))
        return np.maximum(least, self.boundary.novelty(vectors)) if self.boundary else least

    def outside(self, vectors: NDArray[np.floating]) -> list[bool]:
        """Of each unit vector (N, D), as it is stored without more: whether it is outside."""
        return [bool(each > 1) for each in self.novelty(vectors)]

    def nearest_domain(self, vectors: NDArray[np.floating]) -> list[str]:
        """The name of the domain that each unit vector (N, D) is most like."""
        import numpy as np

        nearest = np.argmin([each.novelty(vectors) for each in self.domains], axis=0)
        return [self.domains[number].name for number in nearest]

    def rounded(self, epsilon: float) -> Scope:
        """The same for vectors of a network whose numbers have this relative spacing. The last
        layer's weights and what it gives are each rounded by half of it at most, so its square is
        more than what leaves the subspace of a domain by that: 2e-6 of 6e-5 in bfloat16."""
        domains = tuple(replace(domain, noise=epsilon**2) for domain in self.domains)
        return replace(self, domains=domains)

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """The words that are in none of the training texts, each once, in order."""
        words = (word for text in texts for word in WORD.findall(text.lower()))
        return list(dict.fromkeys(word for word in words if word not in self.words))

    def called(self, domain: str) -> str:
        """What a domain is in messages."""
        return next(each.called for each in self.domains if each.name == domain)

    def by_domain(self, text: str) -> dict[str, list[str]]:
        """The words of a text that belong to one domain alone, each once, by its name."""
        out: dict[str, list[str]] = {}
        for word in dict.fromkeys(WORD.findall(text.lower())):
            if domain := self.words_of.get(word):
                out.setdefault(domain, []).append(word)
        return out

    def unlearned(self, text: str) -> tuple[str, list[str]] | None:
        """The kinds of words that a text says of another domain than they were learned of, as
        "colours of clothing", and those words: ("", words) where they are of no kind that `slots`
        names. None where a text combines nothing of several domains."""
        found = self.by_domain(text)
        if len(found) < 2:
            return None
        for domain, words in found.items():
            kinds = {self.slots.get(word, "") for word in words}
            if "" not in kinds:
                named = " and ".join(sorted(f"{kind.strip('{}')}s" for kind in kinds))
                others = " or ".join(self.called(other) for other in found if other != domain)
                return f"{named} of {others}", words
        return "", [word for words in found.values() for word in words]

    def named(self, unknown: Iterable[str]) -> str:
        """Unknown words for a message, the first few; of those that are misspelt from a known one
        also that."""
        words = list(unknown)
        each = [f"{begun(word)}{self._meant(word)}" for word in words[:SHOWN]]
        return listed([*each, *words[SHOWN:]], SHOWN)

    def _meant(self, word: str) -> str:
        longest = max(map(len, self.words), default=0) * (2 / ALIKE - 1)  # that difflib finds alike
        if not 3 < len(word) <= longest:
            return ""
        pairs = (f"{word[:i]}{word[i + 1]}{word[i]}{word[i + 2 :]}" for i in range(len(word) - 1))
        near = [swapped for swapped in pairs if swapped in self.words]  # difflib takes it for two
        near = near or difflib.get_close_matches(word, self.words, 1, ALIKE)
        return f" (do you mean {near[0]}?)" if near else ""

    def form(self, question: str) -> str:
        """A question with the names of kinds in place of their words: two questions of one form
        differ in nothing but, say, a colour."""
        words = WORD.findall(question.lower())
        return " ".join(self.slots.get(word, word) for word in words)

    def known(self, question: str) -> bool:
        """True if a question is one of those of the training, but for its colours and shapes."""
        return self.form(question) in self.questions and not self.unknown([question])

    def understood(self, question: str) -> Understood | None:
        """The known question that means the same; None where no rule says so."""
        words = " ".join(WORD.findall(question.lower()))
        for pattern, words_instead in self.substitutions:
            words = pattern.sub(words_instead, words)
        for rule in self.rewordings:
            if found := rule.pattern.fullmatch(words + " "):
                asked = rule.known.format(**found.groupdict())
                asked = BEFORE_VOWEL.sub("an ", asked)
                if self.known(asked):
                    return Understood(asked, rule.opposite)
        return None

    def nearest(self, question: str) -> str:
        """The example of the known form that is most like a question."""
        near = difflib.get_close_matches(self.form(question), self.questions, 1, cutoff=0)
        return self.questions[near[0]]
