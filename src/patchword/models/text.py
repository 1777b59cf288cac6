"""The text tower: CLIP's causal Transformer, SigLIP's bidirectional one, BERT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patchword.config import TextConfig
from patchword.nn.inference_mode import eager_inference
from patchword.nn.linear import Linear
from patchword.nn.pooling import end_place
from patchword.nn.prefix_tree import PrefixTree, batches
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import Block, at, causal_mask, layer_tap, padding_mask, run

NODES = 800  # of a PrefixTree that run together, per thread: their activations stay in the cache


class TextTransformer(nn.Module):
    """Ids (B, L) -> (B, out), or pooled features (B, D) when `out` is 0.

    L may be anything up to the context. Under a causal mask what follows the end token cannot
    change the output (Radford et al. 2021, 2.4); a bidirectional tower masks the padding, unless
    the config says that it is attended to: then L is the context.

    Taps: "tokens" (B, L, D) enter the first block; "blocks.{i}" and its ".attn.*"; "hidden"
    (B, L, D), all tokens after the final norm; "features" (B, D), the pooled one.
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
        place = self.place(ids)
        if self.config.causal and not taps.names and _on_cpu(ids):
            return self.head(self.norm(self.ends(ids, place[:, 0])))  # type: ignore[no-any-return]
        x = self.embed(ids)
        taps.keep("tokens", x)
        # With "hidden" all are wanted; else the last block computes only the token that is pooled.
        mean = self.config.pool == "mean"
        only = None if mean or taps.wants("hidden") else place
        x = self.norm(run(self.blocks, x, self.mask(ids, x), taps, only=only))
        taps.keep("hidden", x)
        if mean:
            x = _mean(x, ids != self.config.pad_token)
        else:
            x = (x if only is not None else at(x, place))[:, 0]
        taps.keep("features", x)
        return self.head(x)  # type: ignore[no-any-return]

    def ends(self, ids: Tensor, ends: Tensor) -> Tensor:
        """The states (N, D) of causal texts (N, L) at the positions `ends` (N,), before the final
        norm; what texts have in common is computed once."""
        parts = batches(ids, ends, NODES * torch.get_num_threads())
        return torch.cat([self._ends(*part) for part in parts])

    def _ends(self, ids: Tensor, ends: Tensor) -> Tensor:
        tree = PrefixTree(ids, ends)
        x = self.token_embed(ids.flatten()[tree.first])
        x = self.norm_pre(x + self.pos_embed[0, tree.place].to(x.dtype))
        return run(self.blocks, x[None], only=tree.only, tree=tree)[0]

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
        """The attention mask of ids (B, L), causal or of the padding: additive, of `like`'s type;
        None for no mask."""
        if self.config.causal:
            return causal_mask(ids.shape[1], like)
        if self.config.padding == "attended":
            return None
        return padding_mask(ids != self.config.pad_token, like)

    def place(self, ids: Tensor) -> Tensor:
        """The position in ids (B, L) of the token that is pooled: (B, 1). Where all are, it has no
        meaning."""
        if self.config.pool == "end":
            return end_place(ids, self.config.end_token)[:, None]
        if self.config.pool == "highest":
            return ids.argmax(dim=1, keepdim=True)
        at = 0 if self.config.pool == "first" else ids.shape[1] - 1
        return ids.new_full((ids.shape[0], 1), at)


def _head(config: TextConfig, out: int) -> nn.Module:
    """What maps pooled features to the joint space."""
    width, between = config.width, config.head_hidden
    if not between:
        return Linear(width, out, bias=config.head_bias)
    first, second = Linear(width, between, bias=False), Linear(between, out, bias=False)
    return nn.Sequential(first, nn.GELU(), second)


def _mean(x: Tensor, present: Tensor) -> Tensor:
    """The mean of those of the tokens (B, L, D) that are `present` (B, L)."""
    weights = present.to(x.dtype)[:, :, None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1)


def _on_cpu(ids: Tensor) -> bool:
    """Whether `PrefixTree`, whose shapes depend on the values, is for these: not where gradients
    are recorded, a graph is compiled, or a GPU would wait for each shape."""
    return eager_inference() and ids.is_cpu and len(ids) > 0
