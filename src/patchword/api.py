"""The public face: a model that does the jobs, and the doors to open, save and index.

It stands above `tasks`, which know a Bundle and nothing of this room.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

from patchword import checkpoints, index
from patchword.bundle import Bundle, Vector
from patchword.images import ImageLike
from patchword.images.tiles import Tiling
from patchword.nn.linear import pack
from patchword.tasks.ask import Answer, ask
from patchword.tasks.attention import AttentionMap, attention
from patchword.tasks.caption import Caption, caption
from patchword.tasks.classify import Score, classify
from patchword.tasks.encoders import (
    AnyRes,
    TextStates,
    anyres_features,
    encode_texts,
    image_tiles,
    patch_features,
)
from patchword.tasks.match import Match, Reranked, match, rerank
from patchword.where.heatmap import Heatmap, heatmap


class Model(Bundle):
    """A network with its preprocessing and tokenizer, and what it can do.

    An image is a path, bytes, a PIL image or an (H, W, 3) uint8 array. Beside the methods below:
    `embed_images`, `embed_texts`, `.network`, `.preprocess`, `.tokenizer`, `.config`,
    `.fingerprint`.
    """

    def similarity(
        self, images: Sequence[ImageLike], texts: Sequence[str], long_text: str = "truncate"
    ) -> Vector:
        """Cosines (I, T) of every image with every text; long_text: see `embed_texts`."""
        return self.embed_images(images) @ self.embed_texts(texts, long_text=long_text).T

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

    def heatmap(
        self, image: ImageLike, texts: Sequence[str], method: str = "auto", **options: Any
    ) -> Heatmap:
        """Where in the image the texts are; see `tasks.heatmap`."""
        return heatmap(self, image, texts, method, **options)

    def attention(
        self, image: ImageLike, layer: int = -1, head: int | None = None, rollout: bool = False
    ) -> AttentionMap:
        """What the pooled token looks at; see `tasks.attention`."""
        return attention(self, image, layer, head, rollout)

    def caption(
        self, images: Iterable[ImageLike], prompt: str = "", **options: Any
    ) -> list[Caption]:
        """What is in each image, in a sentence; see `tasks.caption`."""
        return caption(self, images, prompt, **options)

    @overload
    def ask(
        self,
        image: ImageLike,
        questions: str,
        answers: Sequence[str] | None = None,
        **options: Any,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        image: ImageLike,
        questions: Sequence[str],
        answers: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Answer]: ...
    def ask(
        self,
        image: ImageLike,
        questions: str | Sequence[str],
        answers: Sequence[str] | None = None,
        **options: Any,
    ) -> Answer | list[Answer]:
        """The answer to a question about an image, or to several: written, or chosen among
        `answers`; see `tasks.ask`."""
        return ask(self, image, questions, answers, **options)

    def match(self, images: Iterable[ImageLike], texts: Sequence[str]) -> Match:
        """Whether images and texts belong together: `.probabilities` and `.cosines` (I, T); see
        `tasks.match`."""
        return match(self, images, texts)

    def rerank(
        self, hits: Sequence[index.Hit], text: str, top: int | None = None
    ) -> list[Reranked[index.Hit]]:
        """Hits of a search ordered anew by whether the text belongs to them; see `tasks.match`."""
        return rerank(self, hits, text, top)

    def text_states(
        self, texts: Sequence[str], layer: int = -1, norm: bool | None = None, pad: bool = True
    ) -> Vector:
        """Hidden states (N, L, D) of every token of texts; see `tasks.encoders`."""
        return self.encode_texts(texts, layer, norm, pad).states

    def encode_texts(
        self, texts: Sequence[str], layer: int = -1, norm: bool | None = None, pad: bool = True
    ) -> TextStates:
        """The same with the pooled vectors and the ids; see `tasks.encoders`."""
        return encode_texts(self, texts, layer, norm, pad)

    def patch_features(
        self,
        images: Iterable[ImageLike],
        layer: int = -2,
        class_token: bool = False,
        **options: Any,
    ) -> Vector:
        """Features (N, tokens, D) of the patches of images; see `tasks.encoders`."""
        return patch_features(self, images, layer, class_token, **options)

    def anyres_features(self, image: ImageLike, layer: int = -2, **options: Any) -> AnyRes:
        """Patch features of a photo's thumbnail and of its tiles; see `tasks.encoders`."""
        return anyres_features(self, image, layer, **options)

    def tiles(self, image: ImageLike, **options: Any) -> tuple[Vector, Tiling]:
        """A photo's thumbnail and tiles (1 + rows * columns, 3, S, S), and how they lie; see
        `tasks.encoders.image_tiles`."""
        return image_tiles(self, image, **options)


def load(source: str | Path, **options: Any) -> Model:
    """Open a model: "demo" (embedded), a folder, a file, or a hub id; see `checkpoints.load`.

    On a CPU its linear layers pack their weights when they are first used, which costs the memory
    of those weights again and makes everything faster (`nn.linear`).
    """
    bundle = checkpoints.load(source, **options)
    pack(bundle.network)
    parts = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
    return Model(**parts)


def open_index(path: str | Path) -> index.Index:
    """Open an index of images, or begin one there; see `index.Index`."""
    return index.open_index(Path(path), load)


def save(model: Bundle, folder: str | Path) -> Path:
    """Write a model in patchword's own format: config, weights, tokenizer; `load` reopens it."""
    return checkpoints.save(model, folder)
