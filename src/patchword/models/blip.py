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
from patchword.nn.mlp import activation
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import (
    BlockCache,
    causal_mask,
    empty_caches,
    padding_mask,
    run_blocks,
)

SCORED_AT_ONCE = 2048  # ids of answers: the logits of each take 30,000 numbers
TEMPERATURE = 0.07  # initial, of the contrastive score (salesforce/BLIP, models/blip_*.py)


class Outputs(NamedTuple):
    """The outputs of a BLIP for images and texts; None for a head that it does not have."""

    image: Tensor | None  # (B, D), unit, float32
    text: Tensor | None  # (B, D), unit, float32
    matching: Tensor | None  # logits (B, 2): no match, match
    words: Tensor | None  # logits (B, L, V) of the id after each


class LanguageModelHead(nn.Module):
    """BERT's language modelling head: x (..., D) -> logits (..., V). It shares the weights E of the
    token embedding (Devlin et al. 2019; Press & Wolf 2017):

        logits = LN(act(x W + b)) E^T + b_V
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.fc = Linear(config.width, config.width)
        self.act = activation(config.activation)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return linear(self.norm(self.act(self.fc(x))), embedding, self.bias)


class Decoder(TextTransformer):
    """A text decoder of its own: ids (B, L) and a context -> (B, L, D)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config, 0)
        self.words = LanguageModelHead(config)


class SelfAttention(nn.Module):
    """The first half of a post-norm block: x = LN(x + MSA(x))."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.heads)
        self.norm1 = nn.LayerNorm(config.width, config.eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: KVCache | None, taps: Taps = NO_TAPS
    ) -> Tensor:
        return self.norm1(x + self.attn(x, mask=mask, cache=cache, taps=taps))  # type: ignore[no-any-return]


class SharedDecoder(nn.Module):
    """The parts of a decoder that it does not share with the text tower: self-attention, and the
    language modelling head (Li et al. 2022, section 3.2, and table 3)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SelfAttention(config) for _ in range(config.depth))
        self.words = LanguageModelHead(config)


class Blip(ImageEncoder, TextEncoder):
    """An image is encoded once. The text tower and the decoder cross-attend to its tokens
    (B, N, C).
    Three uses of these parts, one for each loss of Li et al. 2022, section 3.2:

        `config.embed_dim`  contrastive (ITC): images and texts have vectors in a joint space, as in
                            CLIP
        `config.matching`   matching (ITM): a text cross-attends to an image, and a head on its
                            first token classifies whether they match
        `config.decoder`    language modelling (LM): the decoder generates captions of an image
                            (`config.writes_captions`), or answers to a question that cross-attends
                            to the image (`config.answers_questions`)

    There may be several texts about each image: then the number of texts R is a multiple of the
    number of images B, and R / B consecutive texts belong to each image.

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
        self.attends_to_class_token = config.blip.image_tokens == "all"  # else to patches only
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
        """exp(logit_scale), clipped at the limit: the factor of cosines; 1 without joint space."""
        if not self.config.embed_dim:
            return torch.ones(())
        return self.logit_scale.exp().clamp(max=self.config.scale_limit)

    @property
    def bias(self) -> Tensor:
        """0: scores are for a softmax."""
        return torch.zeros(())

    def pairs(self, pixels: Pixels, ids: Tensor) -> tuple[Tensor, ...]:
        """The arguments of a loss over pairs: unit features of images (B, D) and texts (T, D),
        float32, and the scale (). Needs `config.embed_dim`."""
        image = F.normalize(self.image(pixels).float(), dim=-1)
        text = F.normalize(self.text(ids).float(), dim=-1)
        return image, text, self.scale

    def image_tokens(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """Pixels (B, 3, H, W) -> normed tokens (B, N, C), class token first."""
        tokens = self.image.encode(pixels, taps.inside("image"))
        return self.image.norm(tokens.values)  # type: ignore[no-any-return]

    def image_features(self, tokens: Tensor) -> Tensor:
        """Image tokens (B, N, C) -> unit features (B, D) in the joint space, float32."""
        return F.normalize(self.image.head(tokens[:, 0]).float(), dim=-1)

    def cross_attend(
        self,
        ids: Tensor,
        tokens: Tensor,
        taps: Taps = NO_TAPS,
        only_first: bool = False,
        start: int | None = None,
    ) -> Tensor:
        """Texts (R, L) that cross-attend to image tokens (B, N, C) -> (R, L, D); with `only_first`
        the first token, (R, 1, D). start: the id that replaces the first of each text; None: the
        config's; -1: texts stay as they are."""
        text, taps = self.text, taps.inside("text")
        start = text.config.start_token if start is None else start
        if start >= 0:
            ids = torch.cat([ids.new_full((ids.shape[0], 1), start), ids[:, 1:]], dim=1)
        x = text.embed(ids)
        taps.keep("tokens", x)
        return run_blocks(
            text.blocks,
            x,
            text.mask(ids, x),
            taps,
            context=tokens,
            context_mask=self.image_mask(tokens),
            output_indices=ids.new_zeros(ids.shape[0], 1) if only_first else None,
        )

    def image_mask(self, tokens: Tensor) -> Tensor | None:
        """The additive mask (B, 1, 1, N) of cross-attention to image tokens (B, N, C), which hides
        the class token; None if texts attend to all (see `BlipConfig.image_tokens`)."""
        if self.attends_to_class_token:
            return None
        is_patch = torch.arange(tokens.shape[1], device=tokens.device) > 0
        # A mask (1, 1, 1, N) would be a constant of an exported graph, which OpenVINO misreads in
        # bfloat16.
        return padding_mask(is_patch.expand(tokens.shape[0], -1), tokens)

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
        """Logits (R, 2), no match and match, of texts (R, L) with image tokens (B, N, C). Needs
        `config.matching`. start: the id that replaces the first of each text instead of the
        config's."""
        requested = Taps(taps)
        states = self.cross_attend(ids, tokens, requested, only_first=True, start=start)
        logits = self.match_head(states[:, 0])
        return (logits, requested.result()) if taps else logits

    def decode(
        self,
        ids: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        cache: Sequence[BlockCache] | None = None,
        taps: Taps = NO_TAPS,
    ) -> Tensor:
        """Ids (R, L) -> states (R, L, D), from which `word_logits` predicts the next ids.

        context (B, M, C): image tokens, with `image_mask` as mask, or the states of a question,
        with `question_mask`. cache: of `empty_cache`; then ids are new ones, which follow those of
        earlier calls.
        """
        past = 0 if cache is None else cache[0][0].length
        transformer = self._decoding_transformer
        x = transformer.embed(ids, start=past)
        causal = None
        if ids.shape[1] > 1:
            causal = causal_mask(past + ids.shape[1], x)[past:]
        own_self_attention = isinstance(self.decoder, SharedDecoder)
        return run_blocks(
            transformer.blocks,
            x,
            causal,
            taps.inside("decoder"),
            context,
            cache,
            context_mask=mask,
            self_attentions=self.decoder.blocks if own_self_attention else None,
        )

    def word_logits(self, states: Tensor) -> Tensor:
        """States (..., D) of `decode` -> logits (..., V) of the id after each."""
        embedding = self._decoding_transformer.token_embed.weight
        return self.decoder.words(states, embedding)  # type: ignore[no-any-return]

    @property
    def _decoding_transformer(self) -> TextTransformer:
        """The transformer whose embedding, cross-attention and MLPs the decoder uses."""
        return self.text if isinstance(self.decoder, SharedDecoder) else self.decoder

    def empty_cache(self) -> list[BlockCache]:
        """Empty caches of keys and values, for successive calls of `decode`."""
        return empty_caches(len(self.decoder.blocks))

    def write(
        self,
        tokens: Tensor,
        prompt: Tensor,
        options: GenerationOptions,
        keys: Sequence[Tensor] | Tensor = (),
    ) -> Written:
        """Generate texts (B * count, L) about images with tokens (B, N, C).

        prompt (P,): ids that the texts continue; the decoder's start token replaces the first.
        keys: one for each image, such as its pixels; key and seed determine its samples. Raises
        ConfigError for options that are not possible.
        """
        return self._write(tokens, prompt, options, self.image_mask(tokens), keys)

    def decoder_taps(self, tokens: Tensor, ids: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """The tensors `taps` of the decoder when it writes texts (R, L) about image tokens
        (B, N, C). The state at each position predicts the id at the next."""
        requested = Taps(taps)
        self.decode(ids, tokens, self.image_mask(tokens), taps=requested)
        return requested.result()

    def caption(self, pixels: Tensor, prompt: Tensor, options: GenerationOptions) -> Written:
        """`write` about images of pixels (B, 3, H, W), with their pixels as keys."""
        return self.write(self.image_tokens(pixels), prompt, options, pixels)

    def answer(self, tokens: Tensor, ids: Tensor, options: GenerationOptions) -> Written:
        """Generate answers (Q * count, L) to questions (Q, L') about image tokens (B, N, C). Needs
        `config.answers_questions`.

        A question's padding is masked, so that its answer is the same in any batch. Question and
        seed determine its samples.
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
        """Generate texts (B * count, L) that cross-attend to a context (B, M, C) with a mask."""
        config = self.config.decoder
        assert config is not None
        if options.max_length > config.context:
            raise ConfigError(f"max_length is {options.max_length}, above {config.context} places")
        prompt = prompt.clone()
        prompt[0] = config.start_token
        prompts = prompt.to(context.device).expand(len(context), -1)

        def step(ids: Tensor, cache: Sequence[BlockCache]) -> Tensor:
            return self.word_logits(self.decode(ids, context, mask, cache)[:, -1])

        end, pad = config.end_token, config.pad_token
        key_bytes = [_bytes(key) for key in keys] if options.sampled else []
        return generate(step, self.empty_cache(), prompts, end, pad, options, key_bytes)

    def rank(self, tokens: Tensor, ids: Tensor, answers: Tensor, shortlist: int = 0) -> Ranked:
        """Log probabilities of all ids, end tokens included, of given answers (A, 1 + L) to
        questions (Q, L') about image tokens (B, N, C). Needs `config.answers_questions`.

        The decoder's start token replaces the first id of each answer. shortlist: how many answers
        to score, those whose first token is the most probable (Li et al. 2022, section 5.3;
        salesforce/BLIP, models/blip_vqa.py `rank_answer`); 0: all.
        """
        config = self.config.decoder
        assert config is not None
        answers = answers.clone()
        answers[:, 0] = config.start_token
        states = self.cross_attend(ids, tokens)
        mask, cache = self.question_mask(ids, states), self.empty_cache()
        first = self.decode(answers[:1, :1].expand(len(states), -1), states, mask, cache)
        first_id_logits = self.word_logits(first[:, -1])[:, answers[:, 1]]  # (Q, A)
        count = shortlist if 0 < shortlist < len(answers) else len(answers)
        chosen = first_id_logits.topk(count, dim=1).indices.sort(dim=1).values  # (Q, count)
        shape = (*chosen.shape, answers.shape[1] - 1)
        logprobs = first_id_logits.new_zeros(shape, dtype=torch.float32)
        batch_size = max(SCORED_AT_ONCE // (len(states) * answers.shape[1]), 1)
        for start in range(0, count, batch_size):
            batch = answers[chosen[:, start : start + batch_size]].flatten(0, 1)
            batch = batch[:, : int((batch != config.pad_token).sum(dim=1).max())]
            # Keys and values of the question are those of the first step.
            answer_cache = [(KVCache(), cross_cache) for _, cross_cache in cache]
            decoded = self.decode(batch[:, :-1], states, mask, answer_cache)
            logits = self.word_logits(decoded).float()
            scores = logits.log_softmax(dim=-1).gather(2, batch[:, 1:, None])[..., 0]
            scores = scores.masked_fill(batch[:, 1:] == config.pad_token, 0)
            scores = torch.unflatten(scores, 0, (len(states), -1))
            logprobs[:, start : start + batch_size, : scores.shape[2]] = scores
        return Ranked(chosen, logprobs)

    def forward(self, pixels: Tensor, ids: Tensor, answers: Tensor | None = None) -> Outputs:
        """All outputs for pairs of images and texts: pixels (B, 3, H, W), ids (B, L). A model that
        only answers questions takes questions as `ids` and their answers (B, L') as `answers`."""
        tokens = self.image_tokens(pixels)
        image = text = words = None
        matching: Any = None
        if self.config.embed_dim:
            image = self.image_features(tokens)
            text = F.normalize(self.text(ids).float(), dim=-1)
        if self.config.matching:
            matching = self.match(tokens, ids)
        if self.config.writes_captions:
            words = self.word_logits(self.decode(ids, tokens, self.image_mask(tokens)))
        elif self.config.answers_questions:
            states = self.cross_attend(ids, tokens)
            answers = ids if answers is None else answers
            words = self.word_logits(self.decode(answers, states, self.question_mask(ids, states)))
        return Outputs(image, text, matching, words)

    def question_mask(self, ids: Tensor, like: Tensor) -> Tensor:
        """The additive padding mask (Q, 1, 1, L) of questions."""
        return padding_mask(ids != self.text.config.pad_token, like)


def _bytes(values: Tensor) -> bytes:
    """The bytes of a tensor on any device: its key for sampling."""
    return values.float().cpu().numpy().tobytes()
