"""Network, preprocessing and tokenizer as one thing: images and texts in, unit vectors out."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from patchword import images
from patchword.config import ModelConfig
from patchword.errors import ImageError, LongTextWarning, TokenizerError, UnsupportedError
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry, Preprocess
from patchword.text.tokenizer import Tokenizer

DECODERS = 4  # threads that open images while the network runs
LONG_TEXT = ("truncate", "mean")  # what becomes of a text beyond the context

T = TypeVar("T")
U = TypeVar("U")
Vector = NDArray[np.float32]
Opened = tuple[Vector, Geometry]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model with everything that belongs to it.

    `fingerprint` is a hash of weights, preprocessing and tokenizer: vectors of two bundles may be
    compared only where it is equal.
    """

    network: nn.Module
    preprocess: Preprocess
    tokenizer: Tokenizer | None
    config: ModelConfig
    fingerprint: str
    name: str = ""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def open(self, image: ImageLike, exact: bool = False) -> Opened:
        """An image as the network sees it, float32 (3, S, S), and the way back to its pixels.

        Raises ImageError for one that cannot be opened.
        """
        pixels = images.open(image, at_least=self.preprocess.at_least, exact=exact)
        return self.preprocess(pixels)

    def run_each(
        self,
        sources: Iterable[ImageLike],
        run: Callable[[Tensor], Tensor],
        batch_size: int = 32,
        exact: bool = False,
    ) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        """Each image in order with its row of `run(pixels (B, 3, S, S))` as float32, or with the
        ImageError that says why it has none. Images are opened in threads, a batch ahead.

        A model that takes images in their own shapes is given a list of (3, h, w). Raises
        UnsupportedError for a model without an image tower.
        """
        if self.config.vision is None:
            raise UnsupportedError(
                f"{self.name} has a text tower only and sees no images; "
                'load a CLIP model, or the embedded one: patchword.load("demo")'
            )

        def attempt(source: ImageLike) -> tuple[ImageLike, Vector | ImageError]:
            try:
                return source, self.open(source, exact)[0]
            except ImageError as error:
                return source, error

        with ThreadPoolExecutor(DECODERS) as pool:
            opened = _ahead(pool, attempt, sources, batch_size + DECODERS)
            while batch := list(islice(opened, batch_size)):
                good = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
                rows = iter(self._rows(run, good) if good else ())
                for source, pixels in batch:
                    yield source, pixels if isinstance(pixels, ImageError) else next(rows)

    def embed_each(
        self, sources: Iterable[ImageLike], batch_size: int = 32, exact: bool = False
    ) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        """Each image in order with its unit vector (D,), or the ImageError that it raised."""
        return self.run_each(sources, self._unit_image, batch_size, exact)

    def embed_images(
        self, sources: Iterable[ImageLike], batch_size: int = 32, exact: bool = False
    ) -> Vector:
        """Unit vectors (N, D), float32. Raises the ImageError of the first that fails.

        exact=True decodes a JPEG whole, as the reference processors do; by default it is decoded
        at the smallest scale that is at least twice what the network needs.
        """
        rows = []
        for _, row in self.embed_each(sources, batch_size, exact):
            if isinstance(row, ImageError):
                raise row
            rows.append(row)
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def embed_texts(
        self, texts: Sequence[str], batch_size: int = 256, long_text: str = "truncate"
    ) -> Vector:
        """Unit vectors (N, D), float32.

        long_text: what becomes of a text beyond the model's context, which is 77 tokens in CLIP.
        "truncate" cuts its end off, as the reference libraries do, and says so in one
        LongTextWarning. "mean" cuts it into chunks that fit, between sentences where it can
        (`Tokenizer.chunks`); its vector is the unit mean of theirs, each weighted by its tokens.
        That costs a forward pass a chunk, ceil(tokens / context) or a few more; it says what the
        text is about on the whole, and nothing of how its chunks depend on each other.

        Raises UnsupportedError for another `long_text`, UnsupportedError or TokenizerError for a
        model that reads no text.
        """
        tokenizer = self.reader()
        if isinstance(texts, str):
            raise TypeError("texts is one string; pass a list of strings")
        if long_text not in LONG_TEXT:
            known = " and ".join(map(repr, LONG_TEXT))
            raise UnsupportedError(f"long_text is {long_text!r}; there are {known}")
        rows = tokenizer.rows(texts)
        long = [i for i, row in enumerate(rows) if len(row) > tokenizer.context]
        if long and long_text == "truncate":
            most = max(len(rows[i]) for i in long)
            warnings.warn(
                f"{len(long)} of {len(texts)} texts exceed {tokenizer.context} tokens; the longest "
                f'loses {most - tokenizer.context} of {most}: pass long_text="mean" to keep all',
                LongTextWarning,
                stacklevel=2,
            )
        elif long:
            return self._embed_whole(texts, rows, long, batch_size)
        return self._embed_rows(rows, batch_size)

    def _embed_whole(
        self, texts: Sequence[str], rows: list[list[int]], long: list[int], batch_size: int
    ) -> Vector:
        """Unit vectors (N, D) of texts with these ids, those numbered `long` chunk by chunk."""
        tokenizer = self.reader()
        chunks = [(i, chunk) for i in long for chunk in tokenizer.chunks(texts[i])]
        parts = tokenizer.rows([chunk for _, chunk in chunks])
        short = np.delete(np.arange(len(texts)), long)
        vectors = self._embed_rows([*(rows[i] for i in short), *parts], batch_size)
        out = np.zeros((len(texts), self.dim), np.float32)
        out[short] = vectors[: len(short)]
        for (i, _), part, vector in zip(chunks, parts, vectors[len(short) :], strict=True):
            out[i] += (len(part) - tokenizer.specials) * vector
        out[long] /= np.maximum(np.linalg.norm(out[long], axis=1, keepdims=True), 1e-12)
        return out

    def _embed_rows(self, rows: Sequence[Sequence[int]], batch_size: int) -> Vector:
        """Unit vectors (N, D) of ids, cut to the context. The shortest run first, each batch
        trimmed to its longest."""
        tokenizer = self.reader()
        out = np.empty((len(rows), self.dim), np.float32)
        if not rows:
            return out
        ids = tokenizer.pad(rows)  # (N, L)
        lengths = tokenizer.lengths(ids)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            out[batch] = self._rows(self._unit_text, ids[batch, : lengths[batch].max()])
        return out

    def reader(self) -> Tokenizer:
        """The tokenizer. Raises UnsupportedError for a model without a text tower, TokenizerError
        for one whose checkpoint came without a tokenizer."""
        if self.config.text_or_decoder is None:
            raise UnsupportedError(
                f"{self.name} has an image tower only, so words mean nothing to it; "
                'load a CLIP model, or the embedded one: patchword.load("demo")'
            )
        if self.tokenizer is None:
            raise TokenizerError(
                f"{self.name} came without a tokenizer; put its tokenizer.json, vocab.txt or "
                "bpe_simple_vocab_16e6.txt.gz beside it, or pass tokenizer=PATH to load"
            )
        return self.tokenizer

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        return self.config.feature_dim

    @property
    def scale(self) -> float:
        """What a cosine is multiplied by before a softmax."""
        with torch.no_grad():
            return float(getattr(self.network, "scale", 1.0))

    @property
    def bias(self) -> float:
        """What is added to a scaled cosine before a sigmoid (SigLIP); 0 for other models."""
        with torch.no_grad():
            return float(getattr(self.network, "logit_bias", 0.0))

    def _unit_image(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.network.encode_image(pixels).float(), dim=-1)  # type: ignore[operator]

    def _unit_text(self, ids: Tensor) -> Tensor:
        return F.normalize(self.network.encode_text(ids).float(), dim=-1)  # type: ignore[operator]

    def _rows(
        self, run: Callable[[Any], Tensor], inputs: NDArray[Any] | Sequence[NDArray[Any]]
    ) -> Vector:
        """`run` on a batch, without gradients, on the network's device and in its type."""
        if isinstance(inputs, np.ndarray):
            batch: Any = self._tensor(inputs)
        elif self.config.preprocess.resize == "patches":
            batch = [self._tensor(each) for each in inputs]
        else:
            batch = self._tensor(np.stack(inputs))
        with torch.inference_mode():
            return run(batch).float().cpu().numpy()

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        """An array as the network takes it."""
        tensor = torch.from_numpy(values).to(self.device)
        if tensor.is_floating_point():
            tensor = tensor.to(next(self.network.parameters()).dtype)
        return tensor


def make(network: nn.Module, config: ModelConfig, tokenizer: Tokenizer | None, name: str) -> Bundle:
    """A bundle in evaluation mode, fingerprinted."""
    digest = fingerprint(network, config, tokenizer)
    return Bundle(network.eval(), Preprocess(config.preprocess), tokenizer, config, digest, name)


def fingerprint(network: nn.Module, config: ModelConfig, tokenizer: Tokenizer | None) -> str:
    """A hash (hex, 16 digits) of weights, preprocessing and tokenizer."""
    stated = asdict(config.preprocess)
    if config.preprocess.resize != "patches":  # these two mean nothing then
        del stated["max_patches"], stated["patch_size"]
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    if tokenizer:
        digest.update((tokenizer.to_json() + tokenizer.cleaning).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], count: int
) -> Iterator[U]:
    """work(item) for each, in order, at most `count` of them begun before they are wanted."""
    source = iter(items)
    pending = deque(pool.submit(work, item) for item in islice(source, count))
    while pending:
        done = pending.popleft().result()
        pending.extend(pool.submit(work, item) for item in islice(source, 1))
        yield done
