"""The methods of `Model` for language: captions, answers, matches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import overload

from patchword.api.features import Features
from patchword.images import ImageLike
from patchword.images.one_or_many import Images, is_one
from patchword.models.generate import GenerationOptions
from patchword.options import checked, text_list
from patchword.tasks.ask import MAX_LENGTH as ANSWER_LENGTH
from patchword.tasks.ask import Answer, ask
from patchword.tasks.caption import MAX_LENGTH as CAPTION_LENGTH
from patchword.tasks.caption import Caption, caption, default_length
from patchword.tasks.match import F, Match, Reranked, match, rerank, stacked
from patchword.tasks.tiled import ask_tiled, caption_tiled, joined, match_tiled, tile_size


class Language(Features):
    """A model with the methods of a BLIP."""

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
        tiles: bool | int = False,
    ) -> list[Caption]:
        """A caption for each image: a list, also for one image.

        prompt  the caption's first words, which the model continues
        tiles   caption overlapping tiles too; True, or their side in pixels. Their captions are the
                last of the photo's `.others`

        The options are those of `GenerationOptions`: beam search with 3 beams, unless
        `temperature`, `top_k` or `top_p` is given. Then tokens are sampled, always the same ones
        for the same image and `seed`. max_length is 20 ids by default. Raises UnsupportedError for
        a model that does not caption, ConfigError for options that are not possible, and the
        ImageError of the first image that fails.
        """
        options = GenerationOptions(
            beams=beams,
            max_length=default_length(self, CAPTION_LENGTH) if max_length is None else max_length,
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
        model = self.opening(stretch, squash=squash)
        if tiles:
            return joined(caption_tiled(model, images, prompt, options, tile_size(tiles)))
        return caption(model, images, prompt, options, batch_size)

    @overload
    def ask(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, images: ImageLike, questions: str, answers: Sequence[str] | None = None, *,
        shortlist: int | None = None, beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
        tiles: bool | int = False,
    ) -> Answer: ...  # fmt: skip
    @overload
    def ask(  # type: ignore[overload-overlap]
        self, images: ImageLike, questions: Sequence[str], answers: Sequence[str] | None = None, *,
        shortlist: int | None = None, beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
        tiles: bool | int = False,
    ) -> list[Answer]: ...  # fmt: skip
    @overload
    def ask(  # type: ignore[overload-overlap]
        self, images: Iterable[ImageLike], questions: str, answers: Sequence[str] | None = None, *,
        shortlist: int | None = None, beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
        tiles: bool | int = False,
    ) -> list[Answer]: ...  # fmt: skip
    @overload
    def ask(
        self, images: Iterable[ImageLike], questions: Sequence[str],
        answers: Sequence[str] | None = None, *, shortlist: int | None = None,
        beams: int | None = None, max_length: int | None = None,
        min_length: int = 0, count: int = 1, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0,
        batch_size: int = 4, stretch: bool | None = None, squash: bool | None = None,
        tiles: bool | int = False,
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
        tiles: bool | int = False,
    ) -> Answer | list[Answer] | list[list[Answer]]:
        """The answer to a question about an image, generated or chosen from `answers`.

        One image and one question give an `Answer`; a list of either gives a list, and lists of
        both give a list of lists: `found[image][question]`.

        shortlist  with `answers`: score only this number of them, those with the most probable
                   first tokens; None: all
        tiles      look at overlapping tiles too; True, or their side in pixels. The answer to "is
                   there ...?" is "yes" if that of a tile is, and its `.box` is that tile's

        The other options are for generated answers, as in `caption`, but max_length is 10 ids by
        default. Raises UnsupportedError for a model that does not answer questions, and for
        questions or answers that are empty, too long or repeated; ConfigError; the ImageError of
        the first image that fails.
        """
        length = default_length(self, ANSWER_LENGTH) if max_length is None else max_length
        written = GenerationOptions(
            beams=beams, max_length=length, min_length=min_length, count=count,
            temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        )  # fmt: skip
        usual = GenerationOptions(max_length=default_length(self, ANSWER_LENGTH))
        options = None if written == usual else written
        model = self.opening(stretch, squash=squash)
        if not tiles:
            return ask(model, images, questions, answers, shortlist, options, batch_size)
        question_list = [questions] if isinstance(questions, str) else questions
        size = tile_size(tiles)
        rows = joined(ask_tiled(model, images, question_list, answers, shortlist, options, size))
        by_image = [row[0] for row in rows] if isinstance(questions, str) else rows
        return by_image[0] if is_one(images) else by_image

    @checked
    def match(
        self,
        images: Images,
        texts: str | Sequence[str],
        batch_size: int = 8,
        stretch: bool | None = None,
        start: str | None = None,
        squash: bool | None = None,
        tiles: bool | int = False,
    ) -> Match:
        """How well I images and T texts match: `.probabilities`, 0 to 1, of the matching head, and
        `.cosines`, both (I, T) (Li et al. 2022, section 3.2).

        start  a text's first token: "enc", with which BLIP is trained, or "cls", as in
               transformers; None: the checkpoint's
        tiles  look at overlapping tiles too; True, or their side in pixels. Each text gets its
               greatest probability, and `.boxes` has that tile's box

        Raises the ImageError of the first image that fails, and UnsupportedError for a model
        without a matching head.
        """
        model = self.opening(stretch, squash=squash)
        if tiles:
            rows = joined(match_tiled(model, images, texts, start, tile_size(tiles)))
            return stacked(rows, len(text_list(texts)))
        return match(model, images, texts, batch_size, start)

    @checked
    def rerank(
        self, hits: Sequence[F], text: str, top: int | None = None, batch_size: int = 8
    ) -> list[Reranked[F]]:
        """Hits of a search, with the first `top` (None: all) reranked by the probability that the
        text matches them. Raises UnsupportedError for a model without a matching head."""
        from patchword.index.members import Inside

        opener = self.opener
        inside = Inside(opener.stretch, opener.max_pixels, opener.urls, opener.exact)
        return rerank(replace(self, opener=inside), hits, text, top, batch_size)
