"""A model with engine, preprocessing and tokenizer: images and texts in, unit vectors out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchword.config import ModelConfig
from patchword.embedding import checked_units, encode, unit
from patchword.engines.protocol import Engine
from patchword.engines.streams import in_streams, in_turn
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import ImageError, TokenizerError, UnsupportedError
from patchword.fingerprint import fingerprint
from patchword.finite import check_finite, finite_each, reason
from patchword.images import ImageLike, Opener, processes
from patchword.images.one_or_many import as_images, results
from patchword.images.preprocess import Geometry, Preprocess, whole
from patchword.images.worker import Outcome
from patchword.models.protocols import ImageNetwork, Tower
from patchword.options import at_least, checked, text_list
from patchword.scope import Check, Scope
from patchword.text import long_text as long_texts
from patchword.text.tokenizer import Tokenizer
from patchword.visible_area import Look, noted

DEFAULT_OPENER = Opener()
BATCH = {"cuda": 128}  # default batch size by device; 32 on others
# By option: the suffix of the fingerprint of a model that opens images with it.
SUFFIXES = {"stretch": "-stretched", "squash": "-squashed", "exact": "-exact"}

Vector = NDArray[np.float32]
Levels = NDArray[np.uint8]  # (3, S, S)
Opened = tuple[Vector, Geometry]
Batch = list[tuple[ImageLike, Outcome]]


@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """A model with everything that belongs to it.

    engine       runs the network
    fingerprint  a hash of weights, architecture, preprocessing and tokenizer. Vectors of two
                 bundles can be compared only if it is equal
    options      those options of `load` that change vectors, as JSON values; they open the same
                 model again
    opener       opens images
    scope        what the model was trained on, if known; other images and words give a warning
    """

    engine: Engine
    preprocess: Preprocess
    tokenizer: Tokenizer | None
    config: ModelConfig
    fingerprint: str
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    scope: Scope | None = None
    opener: Opener = DEFAULT_OPENER

    def __repr__(self) -> str:
        where = f"{self.device}, {str(self.engine.dtype).removeprefix('torch.')}"
        return f"{type(self).__name__}({self.name!r}, {where}, fingerprint {self.fingerprint!r})"

    @property
    def network(self) -> nn.Module:
        """The network, for callers that may change its weights: cached results are not used any
        more. It computes in evaluation mode, and is then again in the caller's mode. Raises
        UnsupportedError for another engine than torch's."""
        self._torch().weights_may_change = True
        return self.own_network

    @property
    def own_network(self) -> nn.Module:
        """The network, for code that does not change its weights."""
        return self._torch().network

    def _torch(self) -> TorchEngine:
        if not isinstance(self.engine, TorchEngine):
            raise UnsupportedError(
                f"{self.name} runs on the engine {self.engine.name}, which gives vectors alone; "
                "for this " + getattr(self.engine, "advice", 'load it with engine="torch"')
            )
        return self.engine

    @property
    def image_tower(self) -> Tower:
        """The image tower. Raises UnsupportedError for a model without one."""
        network = self.own_network
        if not isinstance(network, ImageNetwork):
            self._no_images()
        return network.image

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.engine.device

    def open(self, image: ImageLike, exact: bool = False) -> Opened:
        """The network's input for an image, float32 (3, S, S), and its Geometry.

        Raises ImageError for an image that cannot be opened.
        """
        pixels, known = Look.here(self.opener, self.preprocess, exact)(image)
        return self.preprocess.normalised(pixels), known.geometry

    @checked
    def opening(
        self,
        stretch: bool | None = None,
        max_pixels: int | None = None,
        urls: bool | None = None,
        squash: bool | None = None,
        exact: bool | None = None,
    ) -> Self:
        """The same model with other options for opening images. None keeps an option. stretch,
        squash and exact change vectors, and so the fingerprint.

        stretch     scale every image from its 0.5 and 99.5 percentiles, whatever its depth
        max_pixels  refuse a file that is decoded to more pixels
        urls        False refuses addresses on the web, as a server must
        squash      resize the whole image to the network's size without keeping its aspect ratio,
                    if the preprocessing would crop it
        exact       decode every JPEG at its full size and resize with Pillow, as the reference
                    processors do
        """
        opener = replace(
            self.opener,
            stretch=self.opener.stretch if stretch is None else stretch,
            max_pixels=self.opener.max_pixels if max_pixels is None else max_pixels,
            urls=self.opener.urls if urls is None else urls,
            exact=self.opener.exact if exact is None else exact,
        )
        pixels = self.preprocess if squash is None else whole(self.config.preprocess, squash)
        if opener == self.opener and pixels.config == self.preprocess.config:
            return self
        squashed = pixels.config.resize != self.config.preprocess.resize
        enabled = {"stretch": opener.stretch, "squash": squashed, "exact": opener.exact}
        options = {name: value for name, value in self.options.items() if name not in SUFFIXES}
        digest = self.fingerprint
        for suffix in SUFFIXES.values():
            digest = digest.replace(suffix, "")
        for name, suffix in SUFFIXES.items():
            if enabled[name]:
                options[name] = True
                if digest:
                    digest += suffix
        return replace(self, opener=opener, preprocess=pixels, options=options, fingerprint=digest)

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """An array as a tensor on the network's device, floating-point numbers in its type."""
        return self._torch().tensor(values)

    def run_each(
        self,
        sources: ImageLike | Iterable[ImageLike],
        run: Callable[[Any], Tensor],
        batch_size: int | None = None,
        exact: bool = False,
        finite: bool = True,
        parallel: bool = False,
    ) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        """Each image in order with its row of `run(pixels (B, 3, S, S))` as float32, or with its
        ImageError. Images are opened a batch ahead (see `images.processes`).

        batch_size: None: 32, on a GPU 128. For a model whose images have sizes of their own, `run`
        gets a list of (3, h, w). finite: False allows rows with NaN. parallel: several threads may
        `run` batches of fewer images at the same time, which is faster on a CPU. Raises
        UnsupportedError for a model without an image tower.
        """
        run_batch = partial(self._torch().run, run)
        rows = self._each(sources, run_batch, batch_size, exact, parallel=parallel)
        return finite_each(rows, self.no_vector) if finite else rows

    def _each(
        self,
        sources: ImageLike | Iterable[ImageLike],
        run: Callable[[list[Levels]], Vector],
        batch_size: int | None,
        exact: bool,
        receive: Callable[[Vector], Vector] | None = None,
        parallel: bool = False,
    ) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        """Each image with its row of `run` or its ImageError; all tasks use this method. receive:
        gets what `run` returns, in order and in one thread, and returns the rows."""
        if self.config.vision is None:
            self._no_images()
        if batch_size is None:
            batch_size = BATCH.get(self.device.type, 32)
        at_least("batch_size", batch_size)
        return self._rows(as_images(sources), run, batch_size, exact, receive, parallel)

    def _rows(
        self,
        sources: Iterable[ImageLike],
        run: Callable[[list[Levels]], Vector],
        batch_size: int,
        exact: bool,
        receive: Callable[[Vector], Vector] | None,
        parallel: bool,
    ) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        look = Look.here(self.opener, self.preprocess, exact)
        compute = in_streams if parallel and self.engine.streams else in_turn
        with noted() as sights:
            opened = processes.map_images(look, sources, batch_size + processes.THREADS)
            for batch, computed in compute(partial(_with_result, run), opened, batch_size):
                rows = iter(receive(computed) if receive and len(computed) else computed)
                for source, outcome in batch:
                    if isinstance(outcome, ImageError):
                        yield source, outcome
                    else:
                        sights.note(outcome[1].sight)
                        yield source, next(rows)

    @checked
    def embed_each(
        self,
        sources: ImageLike | Iterable[ImageLike],
        batch_size: int | None = None,
        exact: bool = False,
        stretch: bool | None = None,
        squash: bool | None = None,
    ) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
        """Each image in order with its unit vector (D,), or the ImageError that it raised.
        batch_size: see `run_each`; stretch, squash: see `opening`."""
        shown = self.opening(stretch, squash=squash)
        return embed_checked(shown, Check(self.scope, self.name), sources, batch_size, exact)

    @checked
    def embed_images(
        self,
        sources: ImageLike | Iterable[ImageLike],
        batch_size: int | None = None,
        exact: bool = False,
        stretch: bool | None = None,
        squash: bool | None = None,
    ) -> Vector:
        """Unit vectors (N, D), float32. A single image gives (1, D). Raises the ImageError of the
        first that fails.

        exact=True decodes a JPEG whole and resizes with Pillow, as the reference processors do; by
        default it is decoded at the smallest scale that is at least twice what the network needs,
        and resized with torch, unless the model was loaded with exact=True. batch_size: see
        `run_each`; stretch, squash: see `opening`.
        """
        rows = list(results(self.embed_each(sources, batch_size, exact, stretch, squash)))
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    @checked
    def embed_texts(
        self, texts: str | Sequence[str], batch_size: int = 256, long_text: str = "truncate"
    ) -> Vector:
        """Unit vectors (N, D), float32. A single text gives (1, D).

        long_text: what to do with a text beyond the model's context, which is 77 tokens in CLIP.
        "truncate" cuts its end off, as the reference libraries do, and says so in one
        LongTextWarning. "mean" cuts it into chunks that fit, between sentences where it can
        (`Tokenizer.chunks`); its vector is the unit mean of theirs, each weighted by its tokens.
        That costs a forward pass a chunk, ceil(tokens / context) or a few more; the vector
        represents the topics of the text, and not how its chunks depend on each other.

        Raises UnsupportedError for another `long_text`, UnsupportedError or TokenizerError for a
        model that reads no text, PatchwordError for one whose numbers are not finite.
        """
        tokenizer = self.reader()
        if not self.config.embed_dim and self.config.blip:
            raise UnsupportedError(
                f"{self.name} is a BLIP without a space that images and texts share; load a BLIP "
                'retrieval model, a CLIP, or the embedded model: patchword.load("demo")'
            )
        at_least("batch_size", batch_size)
        texts = text_list(texts)
        Check(self.scope, self.name).texts(texts)
        parts = long_texts.split(tokenizer, texts, long_text)
        return parts.joined(self.embed_rows(parts.rows, batch_size))

    def embed_rows(self, rows: Sequence[Sequence[int]], batch_size: int = 256) -> Vector:
        """Unit vectors (N, D) of ids, cut to the context. Texts are sorted by length, which keeps
        padding short, and then by ids, which makes common beginnings neighbours (`PrefixTree`)."""
        tokenizer = self.reader()
        out = np.empty((len(rows), self.dim), np.float32)
        if not rows:
            return out
        ids = tokenizer.pad(rows)  # (N, L)
        lengths = tokenizer.lengths(ids)
        order = np.lexsort((*ids.T[::-1], lengths))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            out[batch] = unit(self.engine.encode_text(ids[batch, : lengths[batch].max()]))
        check_finite(out, lambda: self.no_vector("a text"))
        return out

    @checked
    def no_vector(self, of: str = "it") -> str:
        """The error message for a result with NaN or infinite numbers."""
        return reason(self.name, self.engine.dtype, getattr(self.engine, "network", None), of)

    def _no_images(self) -> NoReturn:
        raise UnsupportedError(
            f"{self.name} has a text tower only and sees no images; "
            'load a CLIP model, or the embedded one: patchword.load("demo")'
        )

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
        """The logit scale by which a cosine is multiplied before a softmax."""
        return self.engine.scale

    @property
    def bias(self) -> float:
        """The bias that is added to a scaled cosine before a sigmoid (SigLIP); 0 for other
        models."""
        return self.engine.bias


def _with_result(run: Callable[[list[Levels]], Vector], batch: Batch) -> tuple[Batch, Vector]:
    """A batch with what `run` returns for the images that could be opened."""
    pixels = [outcome[0] for _, outcome in batch if not isinstance(outcome, ImageError)]
    return batch, run(pixels) if pixels else np.empty(0, np.float32)


def embed_checked(
    model: Bundle,
    check: Check,
    sources: ImageLike | Iterable[ImageLike],
    batch_size: int | None = None,
    exact: bool = False,
) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
    """`Bundle.embed_each` with a scope check, which records whether each image is outside the
    scope."""
    run = partial(encode, model.engine, check.layer)
    receive = partial(checked_units, check, model.dim)
    rows = model._each(sources, run, batch_size, exact, receive, parallel=True)
    return check.each(finite_each(rows, model.no_vector))


def to_numpy(values: Tensor) -> Vector:
    """Values of any type, on any device, as a float32 array."""
    return values.float().cpu().numpy()


def make(
    network: nn.Module,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    name: str,
    options: Mapping[str, Any] | None = None,
    scope: Scope | None = None,
    digest: str = "",
) -> Bundle:
    """A bundle with torch's engine, in evaluation mode. digest: its fingerprint, if known."""
    preprocess = Preprocess(config.preprocess)
    variable_size = config.preprocess.resize == "patches"
    engine = TorchEngine(network, preprocess.levels, variable_size)
    digest = digest or fingerprint(network, config, tokenizer)
    scope = scope and scope.rounded(torch.finfo(engine.dtype).eps)
    return Bundle(engine, preprocess, tokenizer, config, digest, name, options or {}, scope)
