"""CapFilt: a captioner writes texts for images, and a filter drops those of them, and of the texts
that the images came with, that do not belong to their image (Li et al. 2022, section 3.3)."""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice, tee
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError, LongTextWarning
from patchword.images import ImageLike
from patchword.models.generate import GenerationOptions
from patchword.tasks.caption import MAX_LENGTH, Caption, packed, writer
from patchword.tasks.match import PAIRS, matcher

BATCH = 16  # images run together
THRESHOLD = 0.5  # what the matching head calls together: the likelier of its two answers
TOP_P = 0.9  # Li et al. 2022, section 4.3
MIN_LENGTH = 5  # ids; salesforce/BLIP, configs/caption_coco.yaml
SAMPLED = GenerationOptions(top_p=TOP_P, min_length=MIN_LENGTH, max_length=MAX_LENGTH)

Origin = Literal["web", "synthetic"]


@dataclass(frozen=True)
class ScoredText:
    """A text about an image with the score of the filter, and whether it is kept.

    source  "web": it came with the image; "synthetic": the captioner wrote it
    score   the probability that they belong together, of the filter's matching head
    """

    text: str
    source: Origin
    score: float
    kept: bool


def capfilt_each(
    captioner: Bundle,
    judge: Bundle,
    pairs: Iterable[tuple[ImageLike, Sequence[str]]],
    prompt: str = "",
    threshold: float = THRESHOLD,
    options: GenerationOptions = SAMPLED,
) -> Iterator[tuple[ImageLike, list[ScoredText] | ImageError]]:
    """Each image in order with its scored texts, or the ImageError it raised.

    pairs      images, each with its original texts, of which there may be none
    threshold  texts of this score or a higher one are kept
    options    how captions are written; by default sampled, with `top_p` 0.9, of 5 to 20 ids, one
               of each image: those of `tasks.caption` with the same options

    An image's original texts come first, each text of a source once. `BATCH` images are run
    together. Where one model is both, it encodes an image once. A text beyond the filter's context
    is scored by its beginning, and a LongTextWarning says so once.

    Raises UnsupportedError for a captioner that does not caption and a filter that cannot match,
    ConfigError for options that cannot be.
    """
    writer(captioner)
    filter_ = _Filter(judge)
    author = _Writer(captioner, prompt, options, filter_ if captioner is judge else None)
    web: deque[Sequence[str]] = deque()

    def images() -> Iterator[ImageLike]:
        for image, texts in pairs:
            web.append(texts)
            yield image

    first, second = tee(images()) if captioner is not judge else (images(), None)
    writing = captioner.run_each(first, author.run, BATCH)
    looking = judge.run_each(second, filter_.look, BATCH) if second else None
    while batch := list(islice(writing, BATCH)):
        looked = list(islice(looking, BATCH)) if looking else batch
        found = [(rows, web.popleft()) for _, rows in batch]
        opened = [not isinstance(seen, ImageError) for _, seen in looked]
        texts = [author.texts(*each) for each in compress(found, opened)]
        scored = iter(filter_.score(texts, threshold))
        for (image, rows), (_, seen) in zip(batch, looked, strict=True):
            answer = seen if isinstance(seen, ImageError) else next(scored)
            yield image, rows if isinstance(rows, ImageError) else answer


class _Writer:
    """A model that captions, and how it is to do so."""

    def __init__(
        self, model: Bundle, prompt: str, options: GenerationOptions, shares: _Filter | None
    ) -> None:
        """shares: the filter that is the same model, which gets the images' tokens."""
        self._model, self._network, self._shares = model, writer(model), shares
        self._start = torch.from_numpy(model.reader()([prompt])[0, :-1])  # without the end token
        self._options = options

    def run(self, pixels: Tensor) -> Tensor:
        """Texts about images (B, 3, H, W) as rows (B, count, L, 2) of `packed`."""
        tokens = self._network.image_tokens(pixels)
        if self._shares:
            self._shares.tokens = tokens
        written = self._network.write(tokens, self._start, self._options, pixels)
        rows = packed(written.ids, written.log_probabilities)
        return torch.unflatten(rows, 0, (len(pixels), -1))

    def texts(self, rows: Vector | ImageError, web: Sequence[str]) -> list[tuple[Origin, str]]:
        """The texts of an image, each of a source once: first the original ones."""
        if isinstance(rows, ImageError):
            return []
        drawn = Caption.read(self._model, rows, len(self._start))
        written = [drawn.text, *(other.text for other in drawn.others)]
        sources: tuple[tuple[Origin, Sequence[str]], ...] = (("web", web), ("synthetic", written))
        return [(name, t) for name, texts in sources for t in dict.fromkeys(texts) if t.strip()]


class _Filter:
    """A model that matches, and the tokens of the last batch of images."""

    def __init__(self, model: Bundle) -> None:
        self.model, self._network = model, matcher(model)
        self.tokens = torch.empty(0)  # (B, N, C) of the images of the batch that could be opened
        self._told = False  # that texts are too long

    def look(self, pixels: Tensor) -> Tensor:
        """Keep the tokens of images (B, 3, H, W); (B, 0)."""
        self.tokens = self._network.image_tokens(pixels)
        return pixels.new_empty(len(pixels), 0)

    def score(
        self, texts: Sequence[Sequence[tuple[Origin, str]]], threshold: float
    ) -> list[list[ScoredText]]:
        """The scored texts of each of the B images of the last batch."""
        scores = iter(self._scores([[text for _, text in each] for each in texts]))
        return [
            [
                ScoredText(text, source, score, score >= threshold)
                for (source, text), score in zip(each, islice(scores, len(each)), strict=True)
            ]
            for each in texts
        ]

    def _scores(self, texts: Sequence[Sequence[str]]) -> list[float]:
        """The probability of each text with its image, those of B images in one row. Images with as
        many texts are run together."""
        flat = [text for each in texts for text in each]
        if not flat:
            return []
        tokenizer = self.model.reader()
        rows = tokenizer.rows(flat)
        self._tell(max(map(len, rows)), tokenizer.context)
        ids = tokenizer.pad(rows)  # (T, L)
        lengths = tokenizer.lengths(ids)
        out = np.empty(len(flat), np.float32)
        for images, places in _alike([len(each) for each in texts]):
            some = ids[places.ravel(), : lengths[places].max()]
            out[places] = self._together(images, some).reshape(places.shape)
        return out.tolist()

    def _together(self, images: Sequence[int], ids: np.ndarray[Any, Any]) -> Vector:
        """The probabilities (R,) of texts (R, L), as many in turn about each of the images."""
        with torch.inference_mode():
            texts = torch.from_numpy(ids).to(self.tokens.device)
            logits = self._network.match(self.tokens[list(images)], texts)
            return logits.float().softmax(dim=-1)[:, 1].cpu().numpy()

    def _tell(self, longest: int, context: int) -> None:
        """Warn, the first time, of a text beyond the context."""
        if longest > context and not self._told:
            self._told = True
            told = f"a text of {longest} tokens, and any beyond {context}, is scored by its start"
            warnings.warn(told, LongTextWarning, stacklevel=4)


def _alike(counts: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray[Any, Any]]]:
    """Images (K,) and the places (K, n) of n texts of each, for images with so many texts that
    stand one image's after the other's: at most `PAIRS` together, every text once."""
    pieces: dict[int, list[tuple[int, range]]] = defaultdict(list)
    place = 0
    for image, count in enumerate(counts):
        for start in range(0, count, PAIRS):
            size = min(PAIRS, count - start)
            pieces[size].append((image, range(place + start, place + start + size)))
        place += count
    for size, found in pieces.items():
        step = PAIRS // size
        for start in range(0, len(found), step):
            some = found[start : start + step]
            yield [image for image, _ in some], np.array([list(each) for _, each in some])
