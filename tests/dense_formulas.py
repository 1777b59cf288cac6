"""Dense edits computed in float64 numpy, head by head, from a tower's weights: independent of the
package's implementation."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from patchword.models.edits import Refined
from patchword.models.vit import VisionTransformer

Array = NDArray[np.float64]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normed(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class Reference:
    """The last blocks of a ViT. inputs[i] (N, D): the input of block i in the unedited network."""

    def __init__(
        self, tower: VisionTransformer, inputs: list[Array], grid: tuple[int, int]
    ) -> None:
        self.tower, self.inputs, self.grid = tower, inputs, grid
        self.depth, self.heads, self.prefix = len(tower.blocks), tower.config.heads, tower.prefix
        self.at = np.array([(y, x) for y in range(grid[0]) for x in range(grid[1])], float)

    def norm(self, x: Array, layer: nn.LayerNorm) -> Array:
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        w, b = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        return (x - mean) / np.sqrt(var + layer.eps) * w + b

    def linear(self, x: Array, layer: nn.Linear) -> Array:
        return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()

    def split(self, block: int, x: Array) -> list[tuple[Array, Array, Array]]:
        """(q, k, v), each (N, d), of each head, from normalised tokens."""
        parts = np.split(self.linear(x, self.tower.blocks[block].attn.qkv), 3, -1)
        heads_of_parts = [np.split(part, self.heads, -1) for part in parts]
        return list(zip(*heads_of_parts, strict=True))

    def attention(self, block: int, x: Array, mix: Callable[[Array, Array, Array], Array]) -> Array:
        """The block's attention output for its input x, with `mix(q, k, v)` as the attention matrix
        of each head."""
        layer = self.tower.blocks[block]
        heads = self.split(block, self.norm(x, layer.norm1))
        outputs = [mix(q, k, v) @ v for q, k, v in heads]
        return self.linear(np.concatenate(outputs, -1), layer.attn.proj)

    def mlp(self, norm: nn.LayerNorm, mlp: nn.Module, x: Array) -> Array:
        hidden = self.linear(self.norm(x, norm), mlp.fc1)
        act = hidden / (1 + np.exp(-1.702 * hidden))
        return x + self.linear(act, mlp.fc2)

    def project(self, x: Array) -> Array:
        """Tokens in the joint space. With attention pooling (SigLIP's MAP head), each token is
        pooled as the only key."""
        x = self.norm(x, self.tower.norm)
        if self.tower.config.pool == "map":
            pool = self.tower.attn_pool
            values = np.split(self.linear(x, pool.attn.qkv), 3, -1)[2]
            x = self.mlp(pool.norm, pool.mlp, self.linear(values, pool.attn.proj))
        return self.linear(x, self.tower.head)

    def near(self) -> Array:
        """exp(-r^2 / 50) for patches at distance r, 0 for the class token."""
        square = ((self.at[:, None] - self.at) ** 2).sum(-1)
        out = np.zeros((self.prefix + len(self.at),) * 2)
        out[self.prefix :, self.prefix :] = np.exp(-square / 50)
        return out

    def last(self, method: str) -> Array:
        """Features of the patches (n, D), not normalised, by a method that edits only the last
        block."""
        block, x = self.depth - 1, self.inputs[-1]
        scale = (x.shape[1] // self.heads) ** -0.5

        heads = self.split(block, self.norm(x, self.tower.blocks[block].norm1))
        lengths = [
            np.outer(np.linalg.norm(q, axis=-1), np.linalg.norm(k, axis=-1)) for q, k, _ in heads
        ]

        def mix(q: Array, k: Array, v: Array) -> Array:
            eye = np.eye(len(q))
            return {
                "maskclip": eye,
                "maskclip-paper": eye,
                "sclip": softmax(scale * q @ q.T) + softmax(scale * k @ k.T),
                "clearclip": softmax(scale * q @ q.T),
                "value": softmax(scale * v @ v.T),
                "naclip": softmax(scale * k @ k.T + self.near()),
                "nonly": softmax(scale * np.mean(lengths) * self.near()),
                "cosine": softmax(scale * q @ k.T),
            }[method]

        y = self.attention(block, x, mix)
        if method in ("cosine", "maskclip", "sclip"):
            layer = self.tower.blocks[block]
            y = self.mlp(layer.norm2, layer.mlp, x + y)
        return self.project(y)[self.prefix :]

    def smoothed(self, texts: Array, plan: Refined) -> Array:
        """MaskCLIP's refinements (n, T) of the cosines between its patches and texts (T, D).

        Texts that are improbable at every patch are removed. Patches without a clear text take the
        probabilities of patches with similar keys; each dimension of the keys is divided by its
        norm over the patches."""
        cosines = normed(self.last("maskclip")) @ texts.T
        cosines[:, softmax(plan.scale * cosines).max(0) < plan.least] = -100
        if not plan.unsure:
            return cosines
        shares = softmax(plan.scale * cosines)
        block = self.depth - 1
        layer = self.tower.blocks[block]
        heads = self.split(block, self.norm(self.inputs[-1], layer.norm1))
        keys = self.linear(np.concatenate([head[1] for head in heads], -1), layer.attn.proj)
        keys = keys[self.prefix :] / np.linalg.norm(keys[self.prefix :], axis=0)
        unsure = shares.max(-1) < plan.unsure
        return np.where(unsure[:, None], keys @ keys.T @ shares, shares)

    def parallel(self, method: str) -> Array:
        """GEM and CLIP Surgery: the edited attention of the last six blocks, summed in a parallel
        path."""
        first = max(self.depth - 6, 0)
        out = self.inputs[first]
        for block in range(first, self.depth):
            x = self.inputs[block]
            scale = (x.shape[1] // self.heads) ** -0.5
            h = self.norm(x, self.tower.blocks[block].norm1)
            t = scale * np.linalg.norm(h, axis=-1).mean()

            def gem(q: Array, k: Array, v: Array, t: float = t) -> Array:
                maps = []
                for z in (q, k, v):
                    z = normed(z)
                    z = normed(softmax(t * z @ z.T) @ z)
                    maps.append(softmax(t * z @ z.T))
                return np.mean(maps, axis=0)

            def surgery(q: Array, k: Array, v: Array, scale: float = scale) -> Array:
                return softmax(scale * v @ v.T)

            out = out + self.attention(block, x, gem if method == "gem" else surgery)
        return self.project(out)[self.prefix :]

    def calibrated(self, neighbours: int) -> Array:
        """SC-CLIP, for 12 blocks."""
        n = len(self.at)
        tokens = [*self.inputs[1:], None]  # the output of block i
        last = self.inputs[-1]
        p = last[1:]
        d = ((p[:, None] - p) ** 2).sum(-1)
        np.fill_diagonal(d, np.inf)
        order = d.argsort(-1)[:, :neighbours]
        density = neighbours / np.take_along_axis(d, order, -1)[:, -1]
        score = density[order].mean(-1) / density
        wrong = score > np.quantile(score, 0.95)

        def repair(x: Array) -> Array:
            out = x.copy()
            for i in np.flatnonzero(wrong):
                close = (np.abs(self.at - self.at[i]).max(-1) == 1) & ~wrong
                if close.any():
                    out[i] = x[close].mean(0)
            return out

        def shares(x: Array) -> Array:
            c = normed(x) @ normed(x).T
            kept = np.where(c < 0.4, 0, c)
            return kept / (kept.sum(-1, keepdims=True) + 1e-6)

        like = normed(repair(tokens[8][1:]))
        s = like @ like.T
        logits = 3 * (s - s.mean())
        by_likeness = softmax(np.where(logits < 0, -np.inf, logits))
        scale = (p.shape[1] // self.heads) ** -0.5

        def attend(x: Array) -> Array:
            def mix(q: Array, k: Array, v: Array) -> Array:
                return (by_likeness + softmax(scale * k @ k.T)) / 2

            return self.attention(self.depth - 1, x, mix)

        summed = np.sum(tokens[3:10], axis=0)
        first = attend(shares(repair(tokens[8][1:])) @ repair(p)) + 0.3 * last[0]
        second = attend(summed[1:]) + 0.3 * summed[0]
        average = shares(tokens[3][1:])
        assert average.shape == (n, n)
        return self.project(average @ first + average @ second)

    def residual_cross(self) -> Array:
        """ResCLIP without its second pass, for 12 blocks."""
        block = self.depth - 1
        ordinary = []
        for number in range(5, 9):
            layer = self.tower.blocks[number]
            heads = self.split(number, self.norm(self.inputs[number], layer.norm1))
            scale = heads[0][0].shape[1] ** -0.5
            ordinary.append([softmax(scale * q @ k.T) for q, k, _ in heads])
        other = iter(np.mean(ordinary, axis=0))

        def mix(q: Array, k: Array, v: Array) -> Array:
            return 2 * (
                0.4 * softmax(q.shape[1] ** -0.5 * k @ k.T + self.near()) + 0.6 * next(other)
            )

        return self.project(self.attention(block, self.inputs[-1], mix))[1:]
