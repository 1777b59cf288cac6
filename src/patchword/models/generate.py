"""Text generation, id by id: greedy search, beam search, or sampling. It does not depend on a
network, only on a function `step` that computes the logits of the next id.

Shapes: B prompts, K beams, R = B * K texts, L ids of a text, V ids of the vocabulary. Lengths count
all ids, with the prompt and the end token.
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

# New ids (R, N) and the cache of those before them -> logits (R, V) of the id that follows.
Step = Callable[[Tensor, Sequence[BlockCache]], Tensor]

NEGATIVE_INFINITY = float("-inf")
BEAMS = 3  # salesforce/BLIP, configs/caption_coco.yaml
# Above these, generation would run out of memory or of the range of numbers.
MOST = {"beams": 1000, "count": 1000, "length_penalty": 10, "repetition_penalty": 100}


@dataclass(frozen=True)
class GenerationOptions:
    """How texts are searched or sampled.

    beams               beam width; 1 is greedy search. None: 3, or 1 for sampling
    max_length          largest number of ids; a text ends there
    min_length          least number of ids; before it the end token is not chosen
    length_penalty      a text's score is its log probability / length ** length_penalty, with the
                        length of the text after the prompt: above 0 favours long texts, below 0
                        short ones
    repetition_penalty  above 1 makes ids that were used before less probable (Keskar et al. 2019,
                        section 4.1)
    early_stopping      true: the search ends once as many texts as beams are finished; false: once
                        the best unfinished text scores below the worst of the finished ones
    count               texts of each prompt: its best beams, best first; or samples

    With one of the next three, texts are sampled (see `distribution`):

    temperature         logits are divided by it: above 1 gives more varied texts, below 1 less
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
            if value is not None and not abs(value) <= most:  # true for NaN too
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
        options = (self.temperature, self.top_k, self.top_p)
        return any(option is not None for option in options)

    @property
    def beam_width(self) -> int:
        """The beam width: `beams`, or the default for None."""
        if self.beams is not None:
            return self.beams
        return 1 if self.sampled else BEAMS


@dataclass(frozen=True)
class Written:
    """Generated texts, `count` consecutive ones for each of B prompts."""

    ids: Tensor  # (B * count, L): prompt, text, padding
    # (B * count, L): of each id given those before it, by the network without penalties; 0 for
    # prompt and padding
    log_probabilities: Tensor


def generate(
    step: Step,
    cache: Sequence[BlockCache],
    prompt: Tensor,
    end: int,
    pad: int,
    options: GenerationOptions,
    keys: Sequence[bytes] = (),
) -> Written:
    """The best texts after each prompt (B, P), or samples.

    cache: the empty cache of the network that `step` runs. keys: one for each prompt; key and seed
    determine its samples, so that they are the same in any batch.

    Raises ConfigError for a prompt that leaves no room below `max_length`.
    """
    if prompt.shape[1] >= options.max_length:
        raise ConfigError(
            f"max_length {options.max_length} leaves no room for words: the start token and the "
            f"prompt are {counted(prompt.shape[1], 'id')}; give more"
        )
    if options.sampled:
        random_numbers = uniform(keys, options)
        prompt = prompt.repeat_interleave(options.count, dim=0)
        return _without_beams(step, cache, prompt, end, pad, options, random_numbers)
    if options.beam_width == 1:
        return _without_beams(step, cache, prompt, end, pad, options, None)
    return _BeamSearch(prompt, end, pad, options).run(step, cache)


def uniform(keys: Sequence[bytes], options: GenerationOptions) -> Tensor:
    """Random numbers in [0, 1), float64 (len(keys) * count, max_length). Each row is determined by
    its key, the seed and its number among the samples of that key."""
    rows = []
    for key in keys:
        for number in range(options.count):
            digest = hashlib.blake2b(key, digest_size=7, salt=number.to_bytes(8, "little"))
            digest.update(str(options.seed).encode())
            generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))
            size, dtype = options.max_length, torch.float64
            rows.append(torch.rand(size, generator=generator, dtype=dtype, device="cpu"))
    return torch.stack(rows)


def distribution(logits: Tensor, options: GenerationOptions) -> Tensor:
    """Probabilities (R, V), float64, with which the next id is sampled, from logits (R, V): first
    the temperature, then top_k, then top_p of the rest, renormalised. Ids as probable as the last
    of top_k are kept too."""
    scaled = logits.cpu().double() / (options.temperature or 1.0)
    if options.top_k is not None:
        least = scaled.topk(min(options.top_k, scaled.shape[1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, NEGATIVE_INFINITY)
    probabilities = scaled.softmax(dim=-1)
    if options.top_p is None:
        return probabilities
    descending, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    more_probable = descending.cumsum(dim=-1) - descending  # sum over the ids before each
    in_nucleus = (more_probable < options.top_p).double()
    probabilities = probabilities * torch.zeros_like(probabilities).scatter(1, ids, in_nucleus)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def _without_beams(
    step: Step,
    cache: Sequence[BlockCache],
    prompt: Tensor,
    end: int,
    pad: int,
    options: GenerationOptions,
    random_numbers: Tensor | None,
) -> Written:
    """Greedy search: at each step the most probable id. With `random_numbers` (B, max_length),
    sampling: the id whose interval of the cumulative distribution contains the step's number."""
    ids, new = prompt, prompt
    logprobs = torch.zeros(prompt.shape, device=prompt.device)
    unfinished = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
    while bool(unfinished.any()) and ids.shape[1] < options.max_length:
        logits = step(new, cache).float()  # (B, V)
        penalised = _penalised(logits, ids, end, options)
        if random_numbers is None:
            chosen = penalised.argmax(dim=-1, keepdim=True)
        else:
            cumulative = distribution(penalised, options).cumsum(dim=-1)
            point = random_numbers[:, ids.shape[1], None] * cumulative[:, -1:]
            chosen = torch.searchsorted(cumulative, point, right=True).to(ids.device)
            chosen = chosen.clamp(max=logits.shape[1] - 1)  # V if logits are NaN
        chosen_logprobs = logits.log_softmax(dim=-1).gather(1, chosen)
        new = chosen.where(unfinished[:, None], pad)
        ids = torch.cat([ids, new], dim=1)
        logprobs = torch.cat([logprobs, chosen_logprobs * unfinished[:, None]], dim=1)
        unfinished = unfinished & (new[:, 0] != end)
    return Written(ids, logprobs)


class _BeamSearch:
    """A beam search (Graves 2012, algorithm 1) over B prompts, with K unfinished texts and the K
    best finished texts of each. The score of a text (after Wu et al. 2016, section 7):

        score = log probability / length ** length_penalty
    """

    def __init__(self, prompt: Tensor, end: int, pad: int, options: GenerationOptions) -> None:
        batch_size, self.prompt_length = prompt.shape
        self.end, self.pad, self.options = end, pad, options
        self.beams = options.beam_width
        # Unfinished texts: at first one for each prompt, then K.
        self.ids = prompt[:, None]  # (B, K, L)
        self.logprobs = torch.zeros(self.ids.shape, device=prompt.device)
        self.totals = torch.zeros(batch_size, 1, device=prompt.device)  # log probabilities (B, K)
        # Finished texts, best first; placeholders with score -inf until there are K.
        self.finished = self.ids.expand(batch_size, self.beams, -1)
        self.finished_logprobs = self.logprobs.expand(batch_size, self.beams, -1)
        self.finished_scores = self.totals.new_full((batch_size, self.beams), NEGATIVE_INFINITY)
        self.searching = torch.ones(batch_size, 1, dtype=torch.bool, device=prompt.device)

    def run(self, step: Step, cache: Sequence[BlockCache]) -> Written:
        """The best texts of each prompt."""
        new = self.ids[:, 0]
        while True:
            parents = self._advance(step(new, cache).float())
            if self.ids.shape[2] == self.options.max_length or not bool(self.searching.any()):
                return self._best()
            # Beams change within an image, so that the cache of cross-attention stays as it is.
            for self_cache, _ in cache:
                self_cache.select(parents)
            new = self.ids[:, :, -1].flatten()[:, None]

    def _best(self) -> Written:
        """The best `count` finished texts of each prompt. With NaN logits no text is ever finished:
        log probabilities are NaN."""
        best = slice(self.options.count)
        missing = ~self.finished_scores[:, best, None].isfinite()
        logprobs = self.finished_logprobs[:, best].masked_fill(missing, math.nan)
        return Written(self.finished[:, best].flatten(0, 1), logprobs.flatten(0, 1))

    def _advance(self, logits: Tensor) -> Tensor:
        """Extend unfinished texts by one id, from logits (B * K, V). Returns the row (B * K,) that
        each continues."""
        batch_size, beams, length = self.ids.shape
        logprobs = logits.log_softmax(dim=-1)
        totals = _penalised(logprobs, self.ids.flatten(0, 1), self.end, self.options)
        totals = torch.unflatten(totals, 0, (batch_size, beams)) + self.totals[..., None]
        if totals.shape[2] < 2 * self.beams:
            raise ConfigError(f"beams is {self.beams}; {totals.shape[2]} ids allow half as many")
        # 2 K candidates: each beam gives at most one that ends, so that K are left to continue.
        totals, candidates = totals.flatten(1).topk(2 * self.beams)  # (B, 2 K), of K * V
        parents, new = candidates // logits.shape[1], candidates % logits.shape[1]
        new_logprobs = logprobs.reshape(batch_size, -1).gather(1, candidates)
        ids = torch.cat([_select_beams(self.ids, parents), new[..., None]], dim=2)
        logprobs = torch.cat(
            [_select_beams(self.logprobs, parents), new_logprobs[..., None]], dim=2
        )
        ends = (new == self.end) | (length + 1 == self.options.max_length)
        self._finish(ids, logprobs, totals, ends)
        self.totals, continued = totals.masked_fill(ends, NEGATIVE_INFINITY).topk(self.beams)
        self.ids = _select_beams(ids, continued)
        self.logprobs = _select_beams(logprobs, continued)
        best_unfinished = self.totals[:, :1] / self._length_factor(length + 1)
        worst_finished = self.finished_scores[:, -1:]  # -inf while there are fewer than K
        self.searching = self.searching & (best_unfinished > worst_finished)
        if self.options.early_stopping:
            self.searching = self.searching & worst_finished.isneginf()
        first_row = torch.arange(batch_size, device=ids.device)[:, None] * beams
        return (parents.gather(1, continued) + first_row).flatten()

    def _finish(self, ids: Tensor, logprobs: Tensor, totals: Tensor, ends: Tensor) -> None:
        """Merge those of the best K candidates that end into the finished texts."""
        count = self.beams
        scores = totals / self._length_factor(ids.shape[2])
        scores = scores.masked_fill(~(ends & self.searching), NEGATIVE_INFINITY)[:, :count]
        merged = torch.cat([self.finished_scores, scores], dim=1)
        self.finished_scores, best = merged.topk(count)
        padded = F.pad(self.finished, (0, 1), value=self.pad)
        self.finished = _select_beams(torch.cat([padded, ids[:, :count]], dim=1), best)
        padded = F.pad(self.finished_logprobs, (0, 1))
        merged = torch.cat([padded, logprobs[:, :count]], dim=1)
        self.finished_logprobs = _select_beams(merged, best)

    def _length_factor(self, length: int) -> float:
        """Divides the log probability of a text of so many ids, prompt included."""
        factor: float = (length - self.prompt_length) ** self.options.length_penalty
        return factor


def _select_beams(texts: Tensor, beams: Tensor) -> Tensor:
    """The texts (B, K, L) of `beams` (B, J): (B, J, L)."""
    return texts.gather(1, beams[..., None].expand(-1, -1, texts.shape[2]))


def _penalised(scores: Tensor, ids: Tensor, end: int, options: GenerationOptions) -> Tensor:
    """Scores (R, V) of the id after ids (R, L), with the repetition penalty and the minimum length
    applied."""
    penalty = options.repetition_penalty
    if penalty != 1:
        used = scores.gather(1, ids)
        scores = scores.scatter(1, ids, torch.where(used < 0, used * penalty, used / penalty))
    if ids.shape[1] < options.min_length:
        end_id = torch.tensor([end], device=ids.device)
        scores = scores.index_fill(1, end_id, NEGATIVE_INFINITY)
    return scores
