"""The public face: a model that does the jobs, and the doors to open, save and index.

It stands above `tasks`, which know a Bundle and nothing of this room.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from patchword import checkpoints, index
from patchword.bundle import Bundle, Vector
from patchword.images import ImageLike
from patchword.tasks.attention import AttentionMap, attention
from patchword.tasks.classify import Score, classify
from patchword.tasks.heatmap import Heatmap, heatmap


class Model(Bundle):
    """A network with its preprocessing and tokenizer, and what it can do.

    An image is a path, bytes, a PIL image or an (H, W, 3) uint8 array. Beside the methods below:
    `embed_images`, `embed_texts`, `.network`, `.preprocess`, `.tokenizer`, `.config`,
    `.fingerprint`.
    """

    def similarity(self, images: Sequence[ImageLike], texts: Sequence[str]) -> Vector:
        """Cosines (I, T) of every image with every text."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    def classify(
        self,
        images: Iterable[ImageLike],
        labels: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        multi_label: bool = False,
        reject: float | None = None,
    ) -> list[list[Score]]:
        """Per image, labels with probabilities, best first; see `tasks.classify`."""
        return classify(self, images, labels, templates, multi_label, reject)

    def heatmap(self, image: ImageLike, texts: Sequence[str], method: str = "auto") -> Heatmap:
        """Where in the image the texts are; see `tasks.heatmap`."""
        return heatmap(self, image, texts, method)

    def attention(
        self, image: ImageLike, layer: int = -1, head: int | None = None, rollout: bool = False
    ) -> AttentionMap:
        """What the pooled token looks at; see `tasks.attention`."""
        return attention(self, image, layer, head, rollout)


def load(source: str | Path, **options: Any) -> Model:
    """Open a model: "demo" (embedded), a folder, a file, or a hub id; see `checkpoints.load`."""
    bundle = checkpoints.load(source, **options)
    parts = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
    return Model(**parts)


def open_index(path: str | Path) -> index.Index:
    """Open an index of images, or begin one there; see `index.Index`."""
    return index.open_index(Path(path), load)


def save(model: Bundle, folder: str | Path) -> Path:
    """Write a model in patchword's own format: config, weights, tokenizer; `load` reopens it."""
    return checkpoints.save(model, folder)
