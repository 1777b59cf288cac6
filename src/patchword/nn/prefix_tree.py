"""Texts that share a beginning, computed once for all of them: exact under a causal mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PrefixTree:
    """The distinct prefixes of causal texts as nodes of a tree, each computed once.

    Under a causal mask the state of a token depends only on the tokens before it. So texts that
    share a beginning ("a photo of a cat", "a photo of a dog") have equal states there. Linear
    layers, norms and activations then run on T nodes instead of N x L tokens, without padding;
    attention alone needs the texts as rows.

    ids (N, L): sorted, so that texts which share a beginning are neighbours. A prefix is shared
    only with the row before; otherwise it is computed again, which costs time and changes nothing.
    ends (N,): position of the last token of each text that counts.
    """

    def __init__(self, ids: Tensor, ends: Tensor) -> None:
        rows, length = ids.shape
        starts_node = _starts_node(ids, ends)  # (N, L)
        numbers = starts_node.flatten().cumsum(0).view(rows, length) - 1  # nodes in order
        row = torch.arange(rows, device=ids.device)[:, None]
        # For each token the last row up to its own in which a node starts at that position.
        source_row = torch.where(starts_node, row, 0).cummax(dim=0).values
        self.node_of_token = numbers.gather(0, source_row)  # (N, L)
        self.token_of_node = starts_node.flatten().nonzero()[:, 0]  # (T,), index into N * L tokens
        self.positions = self.token_of_node % length  # (T,), of each node in its text
        self.ends = ends
        self.end_nodes = self.node_of_token.gather(1, ends[:, None]).T  # (1, N)

    def __len__(self) -> int:
        """T, the number of nodes."""
        return len(self.token_of_node)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, only_ends: bool) -> Tensor:
        """Causal attention of the nodes: q, k, v (1, H, T, d) -> (1, H, T, d). With `only_ends`
        queries come from the last token of each text only: (1, H, N, d)."""
        k, v = self._as_texts(k), self._as_texts(v)
        if only_ends:
            last = q[0, :, self.end_nodes[0]]  # (H, N, d)
            seen = torch.arange(k.shape[2], device=k.device) <= self.ends[:, None]
            mask = seen[:, None, None]  # (N, 1, 1, L)
            out = F.scaled_dot_product_attention(
                last.transpose(0, 1)[:, :, None], k, v, attn_mask=mask, scale=scale
            )
            return out[:, :, 0].transpose(0, 1)[None]
        q = self._as_texts(q)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)  # (N, H, L, d)
        tokens = out.transpose(1, 2).flatten(0, 1)  # (N * L, H, d)
        return tokens[self.token_of_node].transpose(0, 1)[None]

    def _as_texts(self, nodes: Tensor) -> Tensor:
        """(1, H, T, d) of nodes -> (N, H, L, d) of texts."""
        return nodes[0].transpose(0, 1)[self.node_of_token].transpose(1, 2)


def batches(ids: Tensor, ends: Tensor, max_nodes: int) -> list[tuple[Tensor, Tensor]]:
    """Split ids (N, L) and ends (N,) into batches of about `max_nodes` nodes, at least one row."""
    nodes_so_far = _starts_node(ids, ends).sum(dim=1).cumsum(0)
    batch_numbers = (nodes_so_far - 1) // max_nodes  # (N,)
    sizes = [size for size in batch_numbers.bincount().tolist() if size]
    return list(zip(torch.split(ids, sizes), torch.split(ends, sizes), strict=True))


def _starts_node(ids: Tensor, ends: Tensor) -> Tensor:
    """(N, L) bool: tokens up to `ends` whose prefix differs from that of the row before."""
    counts = torch.arange(ids.shape[1], device=ids.device) <= ends[:, None]
    same_token = (ids[1:] == ids[:-1]) & counts[:-1]
    same_prefix = same_token.int().cumprod(dim=1).bool()
    starts = counts.clone()
    starts[1:] &= ~same_prefix
    return starts
