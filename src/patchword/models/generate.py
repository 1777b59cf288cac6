"""Text generation, id by id: greedy search, beam search, or sampling. It knows no network, only a
function that computes the next step.

Lengths count all ids, those of the prompt and the end token included.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.errors import ConfigError, counted
from patchword.nn.transformer import BlockCache

# New ids (R, N) and what came before them -> logits (R, V) of the id that follows.
Step = Callable[[Tensor, Sequence[BlockCache]], Tensor]

NEVER = float("-inf")
BEAMS = 3  # salesforce/BLIP, configs/caption_coco.yaml
# Beyond these, memory or the range of numbers gives out before anything is written.
MOST = {"beams": 1000, "count": 1000, "length_penalty": 10, "repetition_penalty": 100}


@dataclass(frozen=True)
class GenerationOptions:
    """How texts are searched or sampled.

    beams               beam width; 1 is greedy search. None: 3, or 1 for sampling
    max_length          largest number of ids; a text ends there
    min_length          least number of ids; before, the end token is not chosen
    length_penalty      a text's score is its log probability / length ** this, the prompt not
                        counted: above 0 favours long texts, below short ones
    repetition_penalty  above 1 makes ids that were used before less probable (Keskar et al. 2019,
                        section 4.1)
    early_stopping      true: the search ends once as many texts as beams are finished; false: once
                        the best unfinished text scores below the worst of those
    count               texts of each prompt: its best beams, best first; or samples

    With one of these, texts are sampled; see `distribution`:

    temperature         logits are divided by it: above 1 is more varied, below 1 less
    top_k               sample from the k most probable ids
    top_p               nucleus sampling: from the fewest most probable ids whose probabilities sum
                        to p or more (Holtzman et al. 2020, section 3.1)
    seed                of the sampling
    """

    beams: int | None = None
    max_length: int = 20
    min_length: int = 0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    early_stopping: bool = False
    count: int = 1
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is not None and not abs(value) <= most:  # nor is NaN
                raise ConfigError(f"{name} is {value}; it must be at most {most}")
        if self.min_length < 0:
            raise ConfigError(f"min_length is {self.min_length}; it must be 0 or more")
        if self.beam_width < 1:
            raise ConfigError(f"beams is {self.beams}; it must be 1 or more")
        if self.repetition_penalty <= 0:
            raise ConfigError(f"repetition_penalty is {self.repetition_penalty}, not above 0")
        if self.min_length > self.max_length:
            raise ConfigError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; it must be above 0 and finite")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}; it must be 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.sampled and self.beam_width > 1:
            raise ConfigError(
                f"beams is {self.beams}, but temperature, top_k and top_p sample texts one by one; "
                "give either"
            )
        if self.count < 1 or (not self.sampled and self.count > self.beam_width):
            raise ConfigError(
                f"count is {self.count}; it must be 1 or more, and at most beams, which is "
                f"{self.beam_width}, unless texts are sampled (top_p, top_k, temperature)"
            )

    @property
    def sampled(self) -> bool:
        """True if texts are sampled."""
        return any(given is not None for given in (self.temperature, self.top_k, self.top_p))

    @property
    def beam_width(self) -> int:
        """The beam width: `beams`, or the default for None."""
        default = 1 if self.sampled else BEAMS
        return default if self.beams is None else self.beams


@dataclass(frozen=True)
class Written:
    """Texts, `count` of each of B prompts after each other: ids (B * count, L), the prompt before
    them and padding after; and the log probability (B * count, L) that the network itself gives
    each id after those before it, 0 for prompt and padding."""

    ids: Tensor
    log_probabilities: Tensor


def generate(
    step: Step,
    cache: Sequence[BlockCache],
    prompt: Tensor,
    end: int,
    pad: int,
    search: GenerationOptions,
    keys: Sequence[bytes] = (),
) -> Written:
    """The best texts after each prompt (B, P), or samples.

    cache: empty, of the network that `step` runs. keys: of each prompt; key and seed determine its
    samples, so that these are the same in any batch.

    Raises ConfigError for a prompt that leaves no room below `max_length`.
    """
    if prompt.shape[1] >= search.max_length:
        raise ConfigError(
            f"max_length {search.max_length} leaves no room for words: the start token and the "
            f"prompt are {counted(prompt.shape[1], 'id')}; give more"
        )
    if search.sampled:
        chance = uniform(keys, search)
        prompt = prompt.repeat_interleave(search.count, dim=0)
        return _one_by_one(step, cache, prompt, end, pad, search, chance)
    if search.beam_width == 1:
        return _one_by_one(step, cache, prompt, end, pad, search, None)
    return _Beams(prompt, end, pad, search).run(step, cache)


def uniform(keys: Sequence[bytes], search: GenerationOptions) -> Tensor:
    """Random numbers in [0, 1), float64 (len(keys) * count, max_length), determined by each key and
    the seed."""
    rows = []
    for key in keys:
        for number in range(search.count):
            digest = hashlib.blake2b(key, digest_size=7, salt=number.to_bytes(8, "little"))
            digest.update(str(search.seed).encode())
            generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))
            size, kind = search.max_length, torch.float64
            rows.append(torch.rand(size, generator=generator, dtype=kind, device="cpu"))
    return torch.stack(rows)


def distribution(logits: Tensor, search: GenerationOptions) -> Tensor:
    """Probabilities (R, V), float64, with which the next id is sampled, from logits (R, V): the
    temperature first, then top_k, then top_p of the rest, renormalised. Ids as probable as the
    last of top_k are kept too."""
    scaled = logits.cpu().double() / (search.temperature or 1.0)
    if search.top_k is not None:
        least = scaled.topk(min(search.top_k, scaled.shape[1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, NEVER)
    likely = scaled.softmax(dim=-1)
    if search.top_p is None:
        return likely
    ordered, places = likely.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # cumulative probability of the more probable ids
    kept = torch.zeros_like(likely).scatter(1, places, (before < search.top_p).double())
    likely = likely * kept
    return likely / likely.sum(dim=-1, keepdim=True)


def _one_by_one(
    step: Step,
    cache: Sequence[BlockCache],
    prompt: Tensor,
    end: int,
    pad: int,
    search: GenerationOptions,
    chance: Tensor | None,
) -> Written:
    """At each step the most probable id; or, with `chance` (B, max_length), the one whose part of
    the distribution holds that number."""
    ids, new = prompt, prompt
    logprobs = torch.zeros(prompt.shape, device=prompt.device)
    open_ = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
    while bool(open_.any()) and ids.shape[1] < search.max_length:
        logits = step(new, cache).float()  # (B, V)
        held = _restrained(logits, ids, end, search)
        if chance is None:
            best = held.argmax(dim=-1, keepdim=True)
        else:
            parts = distribution(held, search).cumsum(dim=-1)
            point = chance[:, ids.shape[1], None] * parts[:, -1:]
            best = torch.searchsorted(parts, point, right=True).to(ids.device)
            best = best.clamp(max=logits.shape[1] - 1)  # beyond all where they are no numbers
        likely = logits.log_softmax(dim=-1).gather(1, best)
        new = best.where(open_[:, None], pad)
        ids = torch.cat([ids, new], dim=1)
        logprobs = torch.cat([logprobs, likely * open_[:, None]], dim=1)
        open_ = open_ & (new[:, 0] != end)
    return Written(ids, logprobs)


class _Beams:
    """A beam search (Graves 2012, algorithm 1; scores as Wu et al. 2016, section 7, with a plain
    power of the length) over B prompts: K unfinished texts and the K best finished ones of each."""

    def __init__(self, prompt: Tensor, end: int, pad: int, search: GenerationOptions) -> None:
        rows, self.start = prompt.shape
        self.end, self.pad, self.search = end, pad, search
        self.ids = prompt[:, None]  # (B, K, L); one unfinished text each, to begin with
        self.logprobs = torch.zeros(self.ids.shape, device=prompt.device)
        self.scores = torch.zeros(rows, 1, device=prompt.device)  # (B, K) log probabilities
        self.beams = search.beam_width
        empty = (rows, self.beams)
        self.ended = self.ids.expand(*empty, -1)
        self.ended_logprobs = self.logprobs.expand(*empty, -1)
        self.ended_scores = self.scores.new_full(empty, NEVER)
        self.searching = torch.ones(rows, 1, dtype=torch.bool, device=prompt.device)

    def run(self, step: Step, cache: Sequence[BlockCache]) -> Written:
        """The best texts of each prompt."""
        new = self.ids[:, 0]
        while True:
            parents = self.advance(step(new, cache).float())
            if self.ids.shape[2] == self.search.max_length or not bool(self.searching.any()):
                best = slice(self.search.count)
                # Where scores are no numbers nothing ends.
                none = ~self.ended_scores[:, best, None].isfinite()
                logprobs = self.ended_logprobs[:, best].masked_fill(none, math.nan)
                return Written(self.ended[:, best].flatten(0, 1), logprobs.flatten(0, 1))
            # Texts stay with their image: keys and values of cross-attention do not change.
            for own, _ in cache:
                own.select(parents)
            new = self.ids[:, :, -1].flatten()[:, None]

    def advance(self, logits: Tensor) -> Tensor:
        """One step, from logits (B * K, V). Returns the rows (B * K,) that are continued."""
        rows, beams, length = self.ids.shape
        likely = logits.log_softmax(dim=-1)
        total = _restrained(likely, self.ids.flatten(0, 1), self.end, self.search)
        total = torch.unflatten(total, 0, (rows, beams)) + self.scores[..., None]  # (B, K, V)
        if total.shape[2] < 2 * self.beams:
            raise ConfigError(f"beams is {self.beams}; {total.shape[2]} ids allow half as many")
        # At most every second of these ends, so that enough are left to continue.
        scores, places = total.flatten(1).topk(2 * self.beams)
        parents, new = places // logits.shape[1], places % logits.shape[1]  # (B, 2 K)
        logprobs = likely.reshape(rows, -1).gather(1, places)
        ids = torch.cat([_pick(self.ids, parents), new[..., None]], dim=2)
        logprobs = torch.cat([_pick(self.logprobs, parents), logprobs[..., None]], dim=2)
        ends = (new == self.end) | (length + 1 == self.search.max_length)
        self._end(ids, logprobs, scores, ends)
        self.scores, kept = scores.masked_fill(ends, NEVER).topk(self.beams)
        self.ids, self.logprobs = _pick(ids, kept), _pick(logprobs, kept)
        best_open = self.scores[:, :1] / (length + 1 - self.start) ** self.search.length_penalty
        worst = self.ended_scores[:, -1:]  # -inf while there are fewer than K
        self.searching = self.searching & (best_open > worst)
        if self.search.early_stopping:
            self.searching = self.searching & worst.isneginf()
        offset = torch.arange(rows, device=ids.device)[:, None] * beams
        return (parents.gather(1, kept) + offset).flatten()

    def _end(self, ids: Tensor, logprobs: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Add those of the best K candidates that end to the finished texts, best first."""
        count = self.beams
        scores = scores / (ids.shape[2] - self.start) ** self.search.length_penalty
        scores = scores.masked_fill(~(ends & self.searching), NEVER)[:, :count]
        merged = torch.cat([self.ended_scores, scores], dim=1)
        self.ended_scores, kept = merged.topk(count)
        padded = F.pad(self.ended, (0, 1), value=self.pad)
        self.ended = _pick(torch.cat([padded, ids[:, :count]], dim=1), kept)
        padded = F.pad(self.ended_logprobs, (0, 1))
        self.ended_logprobs = _pick(torch.cat([padded, logprobs[:, :count]], dim=1), kept)


def _pick(texts: Tensor, beams: Tensor) -> Tensor:
    """texts (B, K, L), beams (B, J) of them -> (B, J, L)."""
    return texts.gather(1, beams[..., None].expand(-1, -1, texts.shape[2]))


def _restrained(scores: Tensor, ids: Tensor, end: int, search: GenerationOptions) -> Tensor:
    """Scores (R, V) of the id after ids (R, L), with the repetition penalty and the minimum length
    applied."""
    if search.repetition_penalty != 1:
        seen = scores.gather(1, ids)
        penalty = search.repetition_penalty
        scores = scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))
    if ids.shape[1] < search.min_length:
        scores = scores.index_fill(1, torch.tensor([end], device=ids.device), NEVER)
    return scores
