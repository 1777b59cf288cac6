"""The model that `patchword.load` gives: a method for each task.

Every option is spelled out here, so that editors show it and a misspelt one is refused.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import torch

from patchword import checkpoints
from patchword.api.places import Places
from patchword.bundle import Bundle, Vector, converted
from patchword.engines.device import DTYPES, as_device, as_dtype
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.images.one_or_many import Images
from patchword.models.generate import GenerationOptions
from patchword.options import checked
from patchword.tasks.ask import MAX_LENGTH as ANSWER_LENGTH
from patchword.tasks.ask import Answer, ask
from patchword.tasks.caption import MAX_LENGTH as CAPTION_LENGTH
from patchword.tasks.caption import Caption, caption, longest
from patchword.tasks.classify import Score, classify
from patchword.tasks.match import F, Match, Reranked, match, rerank


class Model(Places):
    """A network with its preprocessing and tokenizer, and what it can do.

    An image is a path, "stack.tif#3" for a page, an address on the web, bytes, an open file, a PIL
    image, an array (H, W, 3) or a tensor (3, H, W), see `images.open`; where several are wanted,
    one is a list of one. Where images are taken, stretch=True scales each from its own darkest and
    brightest half percent, and squash=True shows the model the whole of each where it would see a
    crop; None: as the model was loaded.
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
    ) -> list[list[Score]]:
        """Per image, labels with probabilities, best first.

        labels       words to choose from; None for a classifier's own classes
        templates    sentences with "{}" for the label; None is "a photo of a {}"; "imagenet" and
                     "chinese" stand for sets of them
        multi_label  each label by itself: probabilities need not sum to one
        reject       0 to 1: "none of these" comes first where even the best label, scored by
                     itself, is less probable

        Raises the ImageError of the first image that fails, and UnsupportedError for labels that
        are none, empty or repeated. The formulas: `tasks.classify`.
        """
        model = self.opening(stretch, squash=squash)
        return classify(model, images, labels, templates, multi_label, reject)

    @checked
    def caption(
        self,
        images: Images,
        prompt: str = "",
        *,
        beams: int | None = None,
        max_length: int | None = None,
        min_length: int = 0,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        early_stopping: bool = False,
        count: int = 1,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int = 16,
        stretch: bool | None = None,
        squash: bool | None = None,
    ) -> list[Caption]:
        """A caption for each image.

        prompt  the caption's first words, to go on from

        The options are those of `GenerationOptions`: beam search with 3 beams, unless
        `temperature`, `top_k` or `top_p` is given; then tokens are sampled, always the same for the
        same image and `seed`. max_length is 20 ids. Raises UnsupportedError for a model
        that does not caption, ConfigError for options that cannot be, and the ImageError of the
        first image that fails.
        """
        options = GenerationOptions(
            beams=beams,
            max_length=longest(self, CAPTION_LENGTH) if max_length is None else max_length,
            min_length=min_length,
            length_penalty=length_penalty,
            repetition_penalty=repetition_penalty,
            early_stopping=early_stopping,
            count=count,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        return caption(self.opening(stretch, squash=squash), images, prompt, options, batch_size)

    @overload
    def ask(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, images: ImageLike, questions: str, answers: Sequence[str] | None = None, *,
        shortlist: int | None = None, beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
    ) -> Answer: ...  # fmt: skip
    @overload
    def ask(  # type: ignore[overload-overlap]
        self, images: ImageLike, questions: Sequence[str], answers: Sequence[str] | None = None, *,
        shortlist: int | None = None, beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
    ) -> list[Answer]: ...  # fmt: skip
    @overload
    def ask(  # type: ignore[overload-overlap]
        self, images: Iterable[ImageLike], questions: str, answers: Sequence[str] | None = None, *,
        shortlist: int | None = None, beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
    ) -> list[Answer]: ...  # fmt: skip
    @overload
    def ask(
        self, images: Iterable[ImageLike], questions: Sequence[str],
        answers: Sequence[str] | None = None, *, shortlist: int | None = None,
        beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
    ) -> list[list[Answer]]: ...  # fmt: skip
    @checked
    def ask(
        self,
        images: Images,
        questions: str | Sequence[str],
        answers: Sequence[str] | None = None,
        *,
        shortlist: int | None = None,
        beams: int | None = None,
        max_length: int | None = None,
        min_length: int = 0,
        count: int = 1,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int = 4,
        stretch: bool | None = None,
        squash: bool | None = None,
    ) -> Answer | list[Answer] | list[list[Answer]]:
        """The answer to a question about an image, generated or chosen among `answers`.

        One image and one question give an `Answer`; a list of either gives a list, and lists of
        both a list of lists: `found[image][question]`.

        shortlist  with `answers`: only so many are read in full; None: all

        The others are for generated answers, as in `caption`, but max_length is 10 ids.
        Raises UnsupportedError for a model that answers no questions, for questions or answers
        that are empty, too long or twice the same; ConfigError; the ImageError of the first image
        that fails.
        """
        length = longest(self, ANSWER_LENGTH) if max_length is None else max_length
        written = GenerationOptions(
            beams=beams, max_length=length, min_length=min_length, count=count,
            temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        )  # fmt: skip
        usual = GenerationOptions(max_length=longest(self, ANSWER_LENGTH))
        options = None if written == usual else written
        model = self.opening(stretch, squash=squash)
        return ask(model, images, questions, answers, shortlist, options, batch_size)

    @checked
    def match(
        self,
        images: Images,
        texts: str | Sequence[str],
        batch_size: int = 8,
        stretch: bool | None = None,
        start: str | None = None,
        squash: bool | None = None,
    ) -> Match:
        """How well I images and T texts fit: `.probabilities`, 0 to 1, of the matching head, and
        `.cosines`, both (I, T) (Li et al. 2022, section 3.2). start: a text's first token, "enc",
        with which BLIP is trained, or "cls", as in transformers; None: the checkpoint's own.

        Raises the ImageError of the first image that fails, and UnsupportedError for a model
        without a matching head.
        """
        return match(self.opening(stretch, squash=squash), images, texts, batch_size, start)

    @checked
    def rerank(
        self, hits: Sequence[F], text: str, top: int | None = None, batch_size: int = 8
    ) -> list[Reranked[F]]:
        """Hits of a search, the first `top` (None: all) reranked by the probability that the text
        belongs to them. Raises UnsupportedError for a model without a matching head."""
        return rerank(self, hits, text, top, batch_size)

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
            return with_methods(converted(self, self.device, as_dtype(target)))
        kind = self.engine.dtype if dtype is None else as_dtype(dtype)
        try:
            device = as_device(target)
        except UnsupportedError as error:
            raise UnsupportedError(f"{error}; types are {', '.join(DTYPES)}") from error
        return with_methods(converted(self, device, kind))

    @checked
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model in patchword's own format; as `patchword.save`."""
        return checkpoints.save(self, folder)


def with_methods(bundle: Bundle) -> Model:
    """A bundle with the methods of the public face."""
    parts = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
    return Model(**parts)
