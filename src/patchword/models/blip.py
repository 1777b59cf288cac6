"""BLIP (Li et al. 2022): an image tower, and a BERT that encodes text, cross-attends to images, and
generates text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import ModelConfig, TextConfig, ViTConfig
from patchword.errors import ConfigError
from patchword.models.generate import GenerationOptions, Written, generate
from patchword.models.protocols import Pixels, Ranked
from patchword.models.text import TextTransformer
from patchword.models.towers import ImageEncoder, TextEncoder
from patchword.models.vit import VisionTransformer
from patchword.nn.attention import Attention, KVCache
from patchword.nn.linear import Linear, linear
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import (
    BlockCache,
    activation,
    caches,
    causal_mask,
    padding_mask,
    run,
)

SCORED_AT_ONCE = 2048  # ids of answers that are scored at once: each takes logits of 30,000 words
TEMPERATURE = 0.07  # initial, of the contrastive score (salesforce/BLIP, models/blip_*.py)


class Answers(NamedTuple):
    """The outputs of a BLIP for images and texts; None where it has no such head."""

    image: Tensor | None  # (B, D), unit, float32
    text: Tensor | None  # (B, D), unit, float32
    matching: Tensor | None  # logits (B, 2): no match, match
    words: Tensor | None  # logits (B, L, V) of the id after each


class Words(nn.Module):
    """BERT's language modelling head: (..., D) -> logits (..., V), with the embedding's weights
    (Devlin et al. 2019; Press & Wolf 2017)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.fc = Linear(config.width, config.width)
        self.act = activation(config.activation)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return linear(self.norm(self.act(self.fc(x))), embedding, self.bias)


class Decoder(TextTransformer):
    """A text decoder: ids (B, L) and a context -> (B, L, D)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config, 0)
        self.words = Words(config)


class SelfAttention(nn.Module):
    """The first part of a post-norm block: norm(x + attention(x))."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.heads)
        self.norm1 = nn.LayerNorm(config.width, config.eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: KVCache | None, taps: Taps = NO_TAPS
    ) -> Tensor:
        return self.norm1(x + self.attn(x, mask=mask, cache=cache, taps=taps))  # type: ignore[no-any-return]


class SharedDecoder(nn.Module):
    """What a decoder does not share with the text tower: self-attention, and the head over the
    vocabulary (Li et al. 2022, section 3.2, and table 3)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SelfAttention(config) for _ in range(config.depth))
        self.words = Words(config)


class Blip(ImageEncoder, TextEncoder):
    """Image tokens (B, N, C) are encoded once; text tower and decoder cross-attend to them.

    With `config.embed_dim` images and texts have vectors in a joint space, as in CLIP (ITC); with
    `config.matching` a head on a text that cross-attends to an image classifies whether they match
    (ITM); with `config.decoder` texts are generated (LM): captions of an image
    (`config.writes_captions`), or answers to a question that cross-attends to the image
    (`config.answers_questions`).

    Texts (R, L) about images (B, ...) may be more than those: then R is a multiple of B, and R / B
    consecutive texts belong to each image.

    Taps: "image." as in VisionTransformer; "text." as in TextTransformer, and
    "text.blocks.{i}.cross.attn" (R, H, L, N) when texts cross-attend to images; the same under
    "decoder.".
    """

    image: VisionTransformer

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.blip is None or not isinstance(config.vision, ViTConfig):
            raise ConfigError("a BLIP needs a blip config and a ViT")
        self.config = config
        self.reads_all = config.blip.image_tokens == "all"  # else the patches alone
        self.image = VisionTransformer(config.vision, config.embed_dim, head_bias=True)
        if config.text is not None:
            self.text = TextTransformer(config.text, config.embed_dim)
        self.add_dense_head(config)
        if config.embed_dim:
            self.logit_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))
        if config.matching:
            assert config.text is not None
            self.match_head = Linear(config.text.width, 2)
        if config.decoder is not None:
            shared = config.blip.shared_decoder
            self.decoder = SharedDecoder(config.decoder) if shared else Decoder(config.decoder)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by; 1 without a joint space."""
        if not self.config.embed_dim:
            return torch.ones(())
        return self.logit_scale.exp().clamp(max=self.config.scale_limit)

    @property
    def bias(self) -> Tensor:
        """0: scores are for a softmax."""
        return torch.zeros(())

    def pairs(self, pixels: Pixels, ids: Tensor) -> tuple[Tensor, ...]:
        """Unit features of images (B, D) and texts (T, D), float32, and the scale (): what a loss
        over pairs takes. With `config.embed_dim`."""
        image, text = self.image(pixels).float(), self.text(ids).float()
        return F.normalize(image, dim=-1), F.normalize(text, dim=-1), self.scale

    def image_tokens(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """Pixels (B, 3, H, W) -> tokens (B, N, C), class token first, normed."""
        return self.image.norm(self.image.encode(pixels, taps.inside("image")).values)  # type: ignore[no-any-return]

    def image_features(self, tokens: Tensor) -> Tensor:
        """Image tokens (B, N, C) -> unit features (B, D) in the joint space, float32."""
        return F.normalize(self.image.head(tokens[:, 0]).float(), dim=-1)

    def cross_attend(
        self,
        ids: Tensor,
        tokens: Tensor,
        taps: Taps = NO_TAPS,
        first: bool = False,
        start: int | None = None,
    ) -> Tensor:
        """Texts (R, L) that cross-attend to image tokens (B, N, C) -> (R, L, D); the first token
        alone, (R, 1, D), with `first`. start: the id put first; None is the config's, -1 none."""
        text, taps = self.text, taps.inside("text")
        start = text.config.start_token if start is None else start
        if start >= 0:
            ids = torch.cat([ids.new_full((ids.shape[0], 1), start), ids[:, 1:]], dim=1)
        x = text.embed(ids)
        taps.keep("tokens", x)
        only = ids.new_zeros(ids.shape[0], 1) if first else None
        seen = self.image_mask(tokens)
        return run(text.blocks, x, text.mask(ids, x), taps, tokens, None, seen, only=only)

    def image_mask(self, tokens: Tensor) -> Tensor | None:
        """The additive mask (B, 1, 1, N) of cross-attention to image tokens (B, N, C): see
        `BlipConfig.image_tokens`; None where all are attended to."""
        if self.reads_all:
            return None
        place = torch.arange(tokens.shape[1], device=tokens.device)
        # One for all rows is a constant of an exported graph, which OpenVINO misreads in bfloat16.
        return padding_mask((place > 0).expand(tokens.shape[0], -1), tokens)

    @overload
    def match(self, tokens: Tensor, ids: Tensor, *, start: int | None = None) -> Tensor: ...
    @overload
    def match(
        self, tokens: Tensor, ids: Tensor, taps: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def match(
        self,
        tokens: Tensor,
        ids: Tensor,
        taps: Sequence[str] = (),
        *,
        start: int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Logits (R, 2), no match and match, of texts (R, L) with image tokens (B, N, C); with
        `config.matching`. start: the id that stands first instead of the config's."""
        wanted = Taps(taps)
        seen = self.cross_attend(ids, tokens, wanted, first=True, start=start)
        logits = self.match_head(seen[:, 0])
        return (logits, wanted.result()) if taps else logits

    def decode(
        self,
        ids: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        cache: Sequence[BlockCache] | None = None,
        taps: Taps = NO_TAPS,
    ) -> Tensor:
        """Ids (R, L) -> (R, L, D), from which `words` are predicted.

        context (B, M, C): image tokens, with `image_mask` as mask, or a question's. mask: additive,
        of the context. cache: of `empty_cache`; then ids are the new ones, which follow those of
        earlier calls.
        """
        taps = taps.inside("decoder")
        before = 0 if cache is None else cache[0][0].length
        source = self.text if isinstance(self.decoder, SharedDecoder) else self.decoder
        x = source.embed(ids, start=before)
        causal = None
        if ids.shape[1] > 1:
            causal = causal_mask(before + ids.shape[1], x)[before:]
        shared = isinstance(self.decoder, SharedDecoder)
        firsts = self.decoder.blocks if shared else None
        return run(source.blocks, x, causal, taps, context, cache, mask, firsts=firsts)

    def words(self, x: Tensor) -> Tensor:
        """What `decode` returns, (..., D) -> logits (..., V) of the id after each."""
        source = self.text if isinstance(self.decoder, SharedDecoder) else self.decoder
        return self.decoder.words(x, source.token_embed.weight)  # type: ignore[no-any-return]

    def empty_cache(self) -> list[BlockCache]:
        """Empty caches of keys and values, for successive calls of `decode`."""
        return caches(len(self.decoder.blocks))

    def write(
        self,
        tokens: Tensor,
        prompt: Tensor,
        options: GenerationOptions,
        keys: Sequence[Tensor] | Tensor = (),
    ) -> Written:
        """Texts (B * count, L) about images with tokens (B, N, C).

        prompt (P,): ids that the texts continue; the first is replaced by the decoder's start
        token. keys: of each image, such as its pixels; what is sampled follows from them and the
        seed. Raises ConfigError for options that cannot be.
        """
        return self._write(tokens, prompt, options, self.image_mask(tokens), keys)

    def read(self, tokens: Tensor, ids: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """The intermediates `taps` of the decoder as it writes texts (R, L) about image tokens
        (B, N, C); each id is written from what is at the place before it."""
        wanted = Taps(taps)
        self.decode(ids, tokens, self.image_mask(tokens), taps=wanted)
        return wanted.result()

    def caption(self, pixels: Tensor, prompt: Tensor, options: GenerationOptions) -> Written:
        """Texts (B * count, L) about the images of pixels (B, 3, H, W); see `write`. What is
        sampled of an image follows from its pixels and the seed."""
        return self.write(self.image_tokens(pixels), prompt, options, pixels)

    def answer(self, tokens: Tensor, ids: Tensor, options: GenerationOptions) -> Written:
        """Answers (Q * count, L) to questions (Q, L') about image tokens (B, N, C).

        With `config.answers_questions`. A question's padding is masked, so that its answer is the
        same in any batch. What is sampled follows from the question and the seed.
        """
        states = self.cross_attend(ids, tokens)
        keys = [row[row != self.text.config.pad_token] for row in ids]
        return self._write(states, ids.new_zeros(1), options, self.question_mask(ids, states), keys)

    def _write(
        self,
        context: Tensor,
        prompt: Tensor,
        options: GenerationOptions,
        mask: Tensor | None,
        keys: Sequence[Tensor] | Tensor,
    ) -> Written:
        """Texts (B * count, L) that cross-attend to a context (B, M, C) with a mask."""
        config = self.config.decoder
        assert config is not None
        if options.max_length > config.context:
            raise ConfigError(f"max_length is {options.max_length}, above {config.context} places")
        start = prompt.clone()
        start[0] = config.start_token
        rows = start.to(context.device).expand(len(context), -1)

        def step(ids: Tensor, cache: Sequence[BlockCache]) -> Tensor:
            return self.words(self.decode(ids, context, mask, cache)[:, -1])

        end, pad = config.end_token, config.pad_token
        seeds = [_bytes(each) for each in keys] if options.sampled else []
        return generate(step, self.empty_cache(), rows, end, pad, options, seeds)

    def rank(self, tokens: Tensor, ids: Tensor, answers: Tensor, shortlist: int = 0) -> Ranked:
        """How probable each of the answers (A, 1 + L) is to questions (Q, L') about image tokens
        (B, N, C), for every id and the end token; with `config.answers_questions`.

        The answers' first ids are replaced by the decoder's start token. shortlist: only so many
        are scored in full, those whose first token is the most probable (Li et al. 2022, section
        5.3; salesforce/BLIP, models/blip_vqa.py `rank_answer`); 0: all.
        """
        config = self.config.decoder
        assert config is not None
        answers = answers.clone()
        answers[:, 0] = config.start_token
        states = self.cross_attend(ids, tokens)
        mask, cache = self.question_mask(ids, states), self.empty_cache()
        first = self.decode(answers[:1, :1].expand(len(states), -1), states, mask, cache)
        likely = self.words(first[:, -1])[:, answers[:, 1]]  # (Q, A)
        kept = shortlist if 0 < shortlist < len(answers) else len(answers)
        chosen = likely.topk(kept, dim=1).indices.sort(dim=1).values
        count = max(SCORED_AT_ONCE // (len(states) * answers.shape[1]), 1)
        logprobs = likely.new_zeros(*chosen.shape, answers.shape[1] - 1, dtype=torch.float32)
        for start in range(0, kept, count):
            some = answers[chosen[:, start : start + count]].flatten(0, 1)
            some = some[:, : int((some != config.pad_token).sum(dim=1).max())]
            # The question's keys and values are those of the first step.
            past = [(KVCache(), question) for _, question in cache]
            logits = self.words(self.decode(some[:, :-1], states, mask, past)).float()
            each = logits.log_softmax(dim=-1).gather(2, some[:, 1:, None])[..., 0]
            each = each.masked_fill(some[:, 1:] == config.pad_token, 0)
            each = torch.unflatten(each, 0, (len(states), -1))
            logprobs[:, start : start + count, : each.shape[2]] = each
        return Ranked(chosen, logprobs)

    def forward(self, pixels: Tensor, ids: Tensor, answers: Tensor | None = None) -> Answers:
        """All outputs for pairs of images and texts: pixels (B, 3, H, W), ids (B, L). A model that
        only answers questions takes the answers (B, L') as `answers`."""
        tokens = self.image_tokens(pixels)
        image = text = words = None
        matching: Any = None
        if self.config.embed_dim:
            image = self.image_features(tokens)
            text = F.normalize(self.text(ids).float(), dim=-1)
        if self.config.matching:
            matching = self.match(tokens, ids)
        if self.config.writes_captions:
            words = self.words(self.decode(ids, tokens, self.image_mask(tokens)))
        elif self.config.answers_questions:
            states = self.cross_attend(ids, tokens)
            written = ids if answers is None else answers
            words = self.words(self.decode(written, states, self.question_mask(ids, states)))
        return Answers(image, text, matching, words)

    def question_mask(self, ids: Tensor, like: Tensor) -> Tensor:
        """The additive padding mask (Q, 1, 1, L) of questions."""
        return padding_mask(ids != self.text.config.pad_token, like)


def _bytes(values: Tensor) -> bytes:
    """The bytes of a tensor, whatever its device: its key for sampling."""
    return values.float().cpu().numpy().tobytes()
