"""Text written id by id: greedily, or by beam search. It knows no network, only its next step.

Lengths count all ids, those of the prompt and the end token included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.errors import ConfigError
from patchword.nn.transformer import BlockCache

# New ids (R, N) and what came before them -> logits (R, V) of the id that follows.
Step = Callable[[Tensor, Sequence[BlockCache]], Tensor]

NEVER = float("-inf")


@dataclass(frozen=True)
class Search:
    """How to choose among texts.

    beams               texts pursued at once; 1 takes the most probable id at each step
    max_length          a text of so many ids ends there
    min_length          a shorter text does not end
    length_penalty      a text's score is its log probability / length ** this, the prompt not
                        counted: above 0 favours long texts, below short ones
    repetition_penalty  above 1 makes ids that are there already less likely (Keskar et al. 2019,
                        section 4.1)
    early_stopping      whether as many texts as beams are enough; otherwise the search goes on
                        until the best open one, as it stands, scores below the worst of those
    """

    beams: int = 3
    max_length: int = 20
    min_length: int = 0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ConfigError(f"beams is {self.beams}; it must be 1 or more")
        if self.repetition_penalty <= 0:
            raise ConfigError(f"repetition_penalty is {self.repetition_penalty}, not above 0")


@dataclass(frozen=True)
class Written:
    """Texts: ids (B, L), the prompt before them and padding after; and the log probability
    (B, L) that the network itself gives each id after those before it, 0 for prompt and padding."""

    ids: Tensor
    log_probabilities: Tensor


def generate(
    step: Step, cache: Sequence[BlockCache], prompt: Tensor, end: int, pad: int, search: Search
) -> Written:
    """The best text after each prompt (B, P). cache: empty, of the network that `step` runs.

    Raises ConfigError for a prompt that leaves no room below `max_length`.
    """
    if prompt.shape[1] >= search.max_length:
        raise ConfigError(
            f"the prompt has {prompt.shape[1]} ids, so max_length {search.max_length} leaves no "
            "room for more"
        )
    if search.beams == 1:
        return _greedy(step, cache, prompt, end, pad, search)
    return _Beams(prompt, end, pad, search).run(step, cache)


def _greedy(
    step: Step, cache: Sequence[BlockCache], prompt: Tensor, end: int, pad: int, search: Search
) -> Written:
    """At each step the most probable id."""
    ids, new = prompt, prompt
    said = torch.zeros(prompt.shape, device=prompt.device)
    open_ = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
    while bool(open_.any()) and ids.shape[1] < search.max_length:
        logits = step(new, cache).float()  # (B, V)
        best = _restrained(logits, ids, end, search).argmax(dim=-1, keepdim=True)
        likely = logits.log_softmax(dim=-1).gather(1, best)
        new = best.where(open_[:, None], pad)
        ids = torch.cat([ids, new], dim=1)
        said = torch.cat([said, likely * open_[:, None]], dim=1)
        open_ = open_ & (new[:, 0] != end)
    return Written(ids, said)


class _Beams:
    """A beam search (Graves 2012, algorithm 1; scores as Wu et al. 2016, section 7, with a plain
    power of the length) over B prompts: K open texts and the K best ended ones of each."""

    def __init__(self, prompt: Tensor, end: int, pad: int, search: Search) -> None:
        rows, self.start = prompt.shape
        self.end, self.pad, self.search = end, pad, search
        self.ids = prompt[:, None]  # (B, K, L); one open text each, to begin with
        self.said = torch.zeros(self.ids.shape, device=prompt.device)
        self.scores = torch.zeros(rows, 1, device=prompt.device)  # (B, K) log probabilities
        empty = (rows, search.beams)
        self.ended = self.ids.expand(*empty, -1)
        self.ended_said = self.said.expand(*empty, -1)
        self.ended_scores = self.scores.new_full(empty, NEVER)
        self.hopeful = torch.ones(rows, 1, dtype=torch.bool, device=prompt.device)

    def run(self, step: Step, cache: Sequence[BlockCache]) -> Written:
        """The best text of each prompt."""
        new = self.ids[:, 0]
        while True:
            parents = self.advance(step(new, cache).float())
            if self.ids.shape[2] == self.search.max_length or not bool(self.hopeful.any()):
                return Written(self.ended[:, 0], self.ended_said[:, 0])
            for own, _ in cache:  # an image's texts stay its own, so cross-attention's stands
                own.select(parents)
            new = self.ids[:, :, -1].flatten()[:, None]

    def advance(self, logits: Tensor) -> Tensor:
        """One id more, from logits (B * K, V). Returns the rows (B * K,) that are gone on with."""
        rows, beams, length = self.ids.shape
        likely = logits.log_softmax(dim=-1)
        total = _restrained(likely, self.ids.flatten(0, 1), self.end, self.search)
        total = torch.unflatten(total, 0, (rows, beams)) + self.scores[..., None]  # (B, K, V)
        if total.shape[2] < 2 * self.search.beams:
            raise ConfigError(
                f"beams is {self.search.beams}; {total.shape[2]} ids allow half as many"
            )
        # At most every second of these ends, so that enough are left to go on with.
        scores, places = total.flatten(1).topk(2 * self.search.beams)
        parents, new = places // logits.shape[1], places % logits.shape[1]  # (B, 2 K)
        said = likely.reshape(rows, -1).gather(1, places)
        ids = torch.cat([_pick(self.ids, parents), new[..., None]], dim=2)
        said = torch.cat([_pick(self.said, parents), said[..., None]], dim=2)
        ends = (new == self.end) | (length + 1 == self.search.max_length)
        self._end(ids, said, scores, ends)
        self.scores, kept = scores.masked_fill(ends, NEVER).topk(self.search.beams)
        self.ids, self.said = _pick(ids, kept), _pick(said, kept)
        best_open = self.scores[:, :1] / (length + 1 - self.start) ** self.search.length_penalty
        worst = self.ended_scores[:, -1:]  # -inf while there are fewer than K
        self.hopeful = self.hopeful & (best_open > worst)
        if self.search.early_stopping:
            self.hopeful = self.hopeful & worst.isneginf()
        offset = torch.arange(rows, device=ids.device)[:, None] * beams
        return (parents.gather(1, kept) + offset).flatten()

    def _end(self, ids: Tensor, said: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Put those of the best K candidates that end among the ended texts, best first."""
        count = self.search.beams
        scores = scores / (ids.shape[2] - self.start) ** self.search.length_penalty
        scores = scores.masked_fill(~(ends & self.hopeful), NEVER)[:, :count]
        merged = torch.cat([self.ended_scores, scores], dim=1)
        self.ended_scores, kept = merged.topk(count)
        padded = F.pad(self.ended, (0, 1), value=self.pad)
        self.ended = _pick(torch.cat([padded, ids[:, :count]], dim=1), kept)
        padded = F.pad(self.ended_said, (0, 1))
        self.ended_said = _pick(torch.cat([padded, said[:, :count]], dim=1), kept)


def _pick(texts: Tensor, beams: Tensor) -> Tensor:
    """texts (B, K, L), beams (B, J) of them -> (B, J, L)."""
    return texts.gather(1, beams[..., None].expand(-1, -1, texts.shape[2]))


def _restrained(scores: Tensor, ids: Tensor, end: int, search: Search) -> Tensor:
    """Scores (R, V) of the id after ids (R, L), under the penalty and the least length."""
    if search.repetition_penalty != 1:
        seen = scores.gather(1, ids)
        penalty = search.repetition_penalty
        scores = scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))
    if ids.shape[1] < search.min_length:
        scores = scores.index_fill(1, torch.tensor([end], device=ids.device), NEVER)
    return scores
