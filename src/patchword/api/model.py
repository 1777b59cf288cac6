"""The model that `patchword.load` returns, with a method for each task.

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
    """A network with its preprocessing and tokenizer, and a method for each task.

    An image is a path, "stack.tif#3" for a page, an address on the web, bytes, an open file, a PIL
    image, an array (H, W, 3) or a tensor (3, H, W), see `images.open`. Methods for several images
    take a single one too. Methods for images have the options stretch=True, which scales each image
    from its darkest and brightest half percent, and squash=True, which resizes the whole image
    instead of cropping it; None: as the model was loaded.
    Several threads may use a model at once. A process that was forked from one that had run torch,
    as by gunicorn --preload, computes in one thread.
    Further methods and fields: `embed_images`, `embed_texts`, `opening`, `.network`, `.preprocess`,
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

        long_text: see `embed_texts`. Raises the errors of `embed_images` and `embed_texts`.
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
        """Labels with probabilities, best first: a list for each image, also for one image.

        labels       words to choose from; None: a classifier's classes
        templates    sentences with "{}" for the label; None: "a photo of a {}"; "imagenet" and
                     "chinese" are names of sets
        multi_label  score each label independently: probabilities need not sum to one
        reject       0 to 1: "none of these" comes first if even the best label is less probable,
                     among all labels and none of them, and for an image unlike those that the model
                     knows, whose `.outside` is then True
        tiles        look at overlapping tiles too; True, or their side in pixels. Each label gets
                     its greatest probability, and the score's `.box` is that tile's
        two_views    combine the centre crop with the whole image, squashed: twice the work, and
                     right more often for images that are not square

        Raises the ImageError of the first image that fails, and UnsupportedError for labels that
        are missing, empty or repeated. For the formulas see `tasks.classify`.
        """
        model = self.opening(stretch, squash=squash)
        if tiles:
            if labels is None:
                raise UnsupportedError("tiles needs labels: own classes of parts are not joined")
            if two_views:
                raise UnsupportedError("two_views and tiles are two ways to see more; give one")
            size = tile_size(tiles)
            tiled = classify_tiled(model, images, labels, templates, multi_label, reject, size)
            return joined(tiled)
        return classify(model, images, labels, templates, multi_label, reject, two_views)

    @checked
    def to(
        self,
        target: str | torch.device | torch.dtype,
        dtype: str | torch.dtype | None = None,
    ) -> Model:
        """A copy of the model on another device, with weights of another type, or both.

        target  a device, "cuda", or a type, "bfloat16", as for `load`
        dtype   the type, if target is a device

        Another device does not change the fingerprint, so that indexes and caches stay valid.
        Another type rounds the weights and gives the fingerprint of `load(dtype=...)`; precision
        that is lost cannot be restored. Raises UnsupportedError for a device that is not available.
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
        """Write the model in patchword's own format, as `patchword.save`."""
        return checkpoints.save(self, folder)


def with_methods(bundle: Bundle) -> Model:
    """A bundle with the methods of `Model`."""
    values = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
    return Model(**values)
