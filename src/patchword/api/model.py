"""The model that `patchword.load` gives: a method for each task.

Every option is spelled out here, so that editors show it and a misspelt one is refused.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from patchword import checkpoints
from patchword.api.conversion import converted
from patchword.api.language import Language
from patchword.api.localisation import Places
from patchword.bundle import Bundle, Vector
from patchword.engines.device import DTYPES, as_device, as_dtype, check
from patchword.errors import UnsupportedError
from patchword.images.one_or_many import Images
from patchword.options import checked
from patchword.tasks.classify import Score, classify
from patchword.tasks.tiled import classify_tiled, joined, tile_size


class Model(Language, Places):
    """A network with its preprocessing and tokenizer, and what it can do.

    An image is a path, "stack.tif#3" for a page, an address on the web, bytes, an open file, a PIL
    image, an array (H, W, 3) or a tensor (3, H, W), see `images.open`; where several are wanted,
    one is a list of one. Where images are taken, stretch=True scales each from its own darkest and
    brightest half percent, and squash=True shows the model the whole of each where it would see a
    crop; None: as the model was loaded.
    A model may be used by several threads at once. A process that was forked from one where torch
    had computed, as by gunicorn --preload, computes on one thread.
    Beside the methods below: `embed_images`, `embed_texts`, `opening`, `.network`, `.preprocess`,
    `.tokenizer`, `.config`, `.fingerprint`.
    """

    @checked
    def similarity(
        self,
        images: Images,
        texts: str | Sequence[str],
        long_text: str = "truncate",
        stretch: bool | None = None,
        squash: bool | None = None,
    ) -> Vector:
        """Cosines (I, T), float32, -1 to 1, of every image with every text.

        long_text: see `embed_texts`. Raises as `embed_images` and `embed_texts` do.
        """
        columns = self.embed_texts(texts, long_text=long_text)
        return self.embed_images(images, stretch=stretch, squash=squash) @ columns.T

    @checked
    def classify(
        self,
        images: Images,
        labels: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        multi_label: bool = False,
        reject: float | None = None,
        stretch: bool | None = None,
        squash: bool | None = None,
        tiles: bool | int = False,
        two_views: bool = False,
    ) -> list[list[Score]]:
        """Per image, labels with probabilities, best first: a list for each image, also of one.

        labels       words to choose from; None for a classifier's own classes
        templates    sentences with "{}" for the label; None is "a photo of a {}"; "imagenet" and
                     "chinese" stand for sets of them
        multi_label  each label by itself: probabilities need not sum to one
        reject       0 to 1: "none of these" comes first where even the best label is less
                     probable, of all labels and none of them, and for an image that looks unlike
                     what the model knows: `.outside` of it says so
        tiles        look at overlapping tiles too: True, or their side in pixels. Each label's
                     greatest probability counts, `.box` of a score says where
        two_views    judge by the centre crop and by the whole image, squashed, together: twice the
                     work; where images are not square it is right more often

        Raises the ImageError of the first image that fails, and UnsupportedError for labels that
        are none, empty or repeated. The formulas: `tasks.classify`.
        """
        model = self.opening(stretch, squash=squash)
        if tiles:
            if labels is None:
                raise UnsupportedError("tiles needs labels: own classes of parts are not joined")
            if two_views:
                raise UnsupportedError("two_views and tiles are two ways to see more; give one")
            size = tile_size(tiles)
            each = classify_tiled(model, images, labels, templates, multi_label, reject, size)
            return joined(each)
        return classify(model, images, labels, templates, multi_label, reject, two_views)

    @checked
    def to(
        self,
        target: str | torch.device | torch.dtype,
        dtype: str | torch.dtype | None = None,
    ) -> Model:
        """The same model on another device, with weights of another type, or both; this one stays
        as it is.

        target  a device, "cuda", or a type, "bfloat16", as for `load`
        dtype   with a device as target: the type too

        Another device leaves the fingerprint as it is, so indexes and caches stay valid. Another
        type rounds the weights and gives another fingerprint, that of `load(dtype=...)`; digits
        that are lost do not come back. Raises UnsupportedError for a device that is not there.
        """
        if dtype is None and str(target).removeprefix("torch.") in DTYPES:
            check(self.device, as_dtype(target))
            return with_methods(converted(self, self.device, as_dtype(target)))
        kind = self.engine.dtype if dtype is None else as_dtype(dtype)
        try:
            device = as_device(target)
        except UnsupportedError as error:
            raise UnsupportedError(f"{error}; types are {', '.join(DTYPES)}") from error
        check(device, kind)
        return with_methods(converted(self, device, kind))

    @checked
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model in patchword's own format; as `patchword.save`."""
        return checkpoints.save(self, folder)


def with_methods(bundle: Bundle) -> Model:
    """A bundle with the methods of the public face."""
    parts = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
    return Model(**parts)
