"""Texts whose beginnings are equal, computed once: exact under a causal mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PrefixTree:
    """The different prefixes of causal texts as nodes, each computed once.

    Under a causal mask the state of a token depends on those before it alone, so that texts which
    begin alike ("a photo of a cat", "a photo of a dog") have equal states there. Linear layers,
    norms and activations then run on the T nodes instead of on N x L tokens, padding left out;
    only attention sees the texts row by row.

    ids (N, L), sorted so that texts which share a beginning are neighbours; what is shared with
    another row than the one before is computed again, which costs time and changes nothing.
    ends (N,): the position of the last token of each that counts.
    """

    def __init__(self, ids: Tensor, ends: Tensor) -> None:
        rows, length = ids.shape
        new = _new(ids, ends)
        numbers = new.flatten().cumsum(0).view(rows, length) - 1  # of the nodes, in order
        row = torch.arange(rows, device=ids.device)[:, None]
        latest = torch.where(new, row, 0).cummax(dim=0).values  # the row that a prefix came with
        self.index = numbers.gather(0, latest)  # (N, L): the node of each token
        self.first = new.flatten().nonzero()[:, 0]  # (T,): a place in N x L of each node
        self.place = self.first % length  # (T,): its position in the text
        self.ends = ends
        self.only = self.index.gather(1, ends[:, None]).T  # (1, N): the nodes of the last tokens

    def __len__(self) -> int:
        """T, the nodes."""
        return len(self.first)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, ends: bool) -> Tensor:
        """Causal attention of nodes, q, k and v (1, H, T, d): (1, H, T, d); with `ends` the queries
        are the last tokens alone: (1, H, N, d)."""
        k, v = self._rows(k), self._rows(v)
        if ends:
            last = q[0, :, self.only[0]]  # (H, N, d)
            seen = torch.arange(k.shape[2], device=k.device) <= self.ends[:, None]
            mask = seen[:, None, None]  # (N, 1, 1, L)
            out = F.scaled_dot_product_attention(
                last.transpose(0, 1)[:, :, None], k, v, attn_mask=mask, scale=scale
            )
            return out[:, :, 0].transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(self._rows(q), k, v, is_causal=True, scale=scale)
        return out.transpose(1, 2).flatten(0, 1)[self.first].transpose(0, 1)[None]

    def _rows(self, nodes: Tensor) -> Tensor:
        """(1, H, T, d) of nodes as texts: (N, H, L, d)."""
        return nodes[0].transpose(0, 1)[self.index].transpose(1, 2)


def batches(ids: Tensor, ends: Tensor, most: int) -> list[tuple[Tensor, Tensor]]:
    """ids (N, L) and ends (N,) in pieces of about `most` nodes, and of one row at least."""
    number = (_new(ids, ends).sum(dim=1).cumsum(0) - 1) // most
    counts = [count for count in number.bincount().tolist() if count]
    return list(zip(torch.split(ids, counts), torch.split(ends, counts), strict=True))


def _new(ids: Tensor, ends: Tensor) -> Tensor:
    """True (N, L) for the tokens that count and whose prefix is not that of the row before."""
    counts = torch.arange(ids.shape[1], device=ids.device) <= ends[:, None]
    same = (ids[1:] == ids[:-1]) & counts[:-1]
    new = counts.clone()
    new[1:] &= ~same.int().cumprod(dim=1).bool()
    return new
