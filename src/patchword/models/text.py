"""The text tower: CLIP's causal Transformer, SigLIP's bidirectional one, BERT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patchword.config import TextConfig
from patchword.nn.inference_mode import eager_inference
from patchword.nn.linear import Linear
from patchword.nn.pooling import end_position
from patchword.nn.prefix_tree import PrefixTree, batches
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import (
    Block,
    causal_mask,
    layer_tap,
    padding_mask,
    run_blocks,
    select_tokens,
)

# Nodes of a PrefixTree that run together: their activations stay in the processor's cache.
NODES_PER_THREAD = 800


class TextTransformer(nn.Module):
    """Ids (B, L) -> (B, out), or pooled features (B, D) when `out` is 0.

        z_0 = E_token[ids] + E_pos[0 .. L - 1]                 `embed`
        z_l = Block(z_{l-1}), causal or bidirectional
        output = head(pool(LN(z_L)))

    In CLIP the pooled token is the end token (Radford et al. 2021, 2.4): under a causal mask,
    tokens after it cannot change the output. A bidirectional tower masks the padding. If its config
    says that padding is attended to, L must be the context; otherwise any L up to the context is
    allowed. With `post_norm`, as in BERT, z_0 is normed and z_L is not normed again.

    Taps: "tokens" (B, L, D), z_0; "blocks.{i}" and its ".attn.*"; "hidden" (B, L, D), all tokens
    after the final norm; "features" (B, D), the pooled one.
    """

    def __init__(self, config: TextConfig, out: int) -> None:
        super().__init__()
        self.config = config
        self.out_width = out or config.width
        width, eps = config.width, config.eps
        self.token_embed = nn.Embedding(config.vocab_size, width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.context, width))
        nn.init.normal_(self.pos_embed, std=0.01)
        self.norm_pre = nn.LayerNorm(width, eps) if config.post_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                config.mlp_width,
                config.activation,
                eps,
                post_norm=config.post_norm,
                cross_width=config.cross_width,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.Identity() if config.post_norm else nn.LayerNorm(width, eps)
        self.head = _head(config, out) if out else nn.Identity()

    def forward(self, ids: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        pooled = self.pooled_position(ids)
        if self.config.causal and not taps.names and _shapes_may_vary(ids):
            if len(ids) > 1:
                states = self._states_with_shared_prefixes(ids, pooled[:, 0])
                return self.head(self.norm(states))  # type: ignore[no-any-return]
            ids = ids[:, : int(pooled) + 1]  # one text shares nothing: no tree, but no padding
        x = self.embed(ids)
        taps.keep("tokens", x)
        mean = self.config.pool == "mean"
        if mean or taps.wants("hidden"):
            x = self.norm(run_blocks(self.blocks, x, self.mask(ids, x), taps))
            taps.keep("hidden", x)
            x = _mean(x, ids != self.config.pad_token) if mean else select_tokens(x, pooled)[:, 0]
        else:  # the last block computes only the token that is pooled
            mask = self.mask(ids, x)
            x = self.norm(run_blocks(self.blocks, x, mask, taps, output_indices=pooled))[:, 0]
        taps.keep("features", x)
        return self.head(x)  # type: ignore[no-any-return]

    def _states_with_shared_prefixes(self, ids: Tensor, ends: Tensor) -> Tensor:
        """z_L (N, D) of causal texts (N, L) at the positions `ends` (N,), before the final norm.
        Prefixes that texts share are computed once."""
        states = []
        for batch, batch_ends in batches(ids, ends, NODES_PER_THREAD * torch.get_num_threads()):
            tree = PrefixTree(batch, batch_ends)
            x = self.token_embed(batch.flatten()[tree.token_of_node])
            x = self.norm_pre(x + self.pos_embed[0, tree.positions].to(x.dtype))
            x = run_blocks(self.blocks, x[None], output_indices=tree.end_nodes, tree=tree)
            states.append(x[0])
        return torch.cat(states)

    def hidden_states(self, ids: Tensor, layer: int, norm: bool) -> tuple[Tensor, Tensor]:
        name = layer_tap(len(self.blocks), layer)
        taps = Taps([name])
        features = self(ids, taps)
        states = taps.result()[name]
        return self.norm(states) if norm else states, features

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Ids (B, L) at positions start, start + 1, ... -> tokens (B, L, D)."""
        x = self.token_embed(ids)
        x = x + self.pos_embed[:, start : start + ids.shape[1]].to(x.dtype)
        return self.norm_pre(x)  # type: ignore[no-any-return]

    def mask(self, ids: Tensor, like: Tensor) -> Tensor | None:
        """The additive attention mask of ids (B, L), causal or of the padding, of `like`'s type;
        None if every token attends to every other."""
        if self.config.causal:
            return causal_mask(ids.shape[1], like)
        if self.config.padding == "attended":
            return None
        return padding_mask(ids != self.config.pad_token, like)

    def pooled_position(self, ids: Tensor) -> Tensor:
        """The position in ids (B, L) of the token that is pooled: (B, 1). It has no meaning with
        pool "mean"."""
        if self.config.pool == "end":
            return end_position(ids, self.config.end_token)[:, None]
        if self.config.pool == "highest":
            return ids.argmax(dim=1, keepdim=True)
        position = 0 if self.config.pool == "first" else ids.shape[1] - 1
        return ids.new_full((ids.shape[0], 1), position)


def _head(config: TextConfig, out: int) -> nn.Module:
    """The map of pooled features to the joint space: linear, or two layers with GELU between."""
    width, hidden = config.width, config.head_hidden
    if not hidden:
        return Linear(width, out, bias=config.head_bias)
    first, second = Linear(width, hidden, bias=False), Linear(hidden, out, bias=False)
    return nn.Sequential(first, nn.GELU(), second)


def _mean(x: Tensor, present: Tensor) -> Tensor:
    """The mean (B, D) of the tokens (B, L, D) where `present` (B, L) is true."""
    weights = present.to(x.dtype)[:, :, None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1)


def _shapes_may_vary(ids: Tensor) -> bool:
    """True if shapes may depend on the ids, as those of a `PrefixTree` do. A compiled graph cannot
    have such shapes, and a GPU would wait for them; and a tree records no gradients."""
    return eager_inference() and ids.is_cpu and len(ids) > 0
