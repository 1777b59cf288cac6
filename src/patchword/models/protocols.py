"""What the rest of patchword may expect of a network, whatever its architecture; checked by mypy.

No code outside this package depends on the kind of a tower, or uses its blocks: a tower
says itself where its patches are, which layers it has, and what each patch means in the joint
space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, overload, runtime_checkable

from torch import Tensor

from patchword.models.edits import DenseEdit
from patchword.models.generate import GenerationOptions, Written
from patchword.nn.taps import NO_TAPS, Taps

Pixels = Tensor | Sequence[Tensor]  # (B, 3, H, W), or images (3, H, W) each of its own size
Size = tuple[int, int]  # (height, width) in pixels, or (rows, columns)


class Tokens(NamedTuple):
    """What an image tower's last layer gives."""

    values: Tensor  # (B, N, D)
    present: Tensor | None = None  # (B, N) bool: false is padding; None: there is none


class Tower(Protocol):
    """An image tower: pixels -> one vector per image, and its intermediate features."""

    out_width: int  # of what the tower gives: the joint space's, the number of classes, or D
    layer_names: tuple[str, ...]  # as taps call them: a tap of that name is the layer's output
    # Those whose attention is between all tokens: the tap `name + ".attn"` is its map (B, H, N, N)
    attention_layers: tuple[str, ...]
    pool_layer: str  # of attention pooling, as taps call it; "" where tokens are pooled otherwise
    prefix: int  # tokens before the patches: class token, distillation token, registers
    prefix_names: tuple[str, ...]  # of those, as people read them

    def __call__(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        """Images -> (B, out_width), or pooled features (B, D) for a tower without a head."""

    def grid(self, size: Size) -> Size:
        """The patches (rows, columns) of an image of `size` (H, W) pixels."""

    def patches(self, size: Size) -> slice:
        """Which of the tokens of such an image are its patches, row by row."""

    def fix_size(self, size: Size) -> None:
        """Resample positions to images of `size` (H, W) for good, which every call does otherwise:
        what the tower gives for that size stays the same."""

    def encode(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tokens:
        """The tokens (B, N, D) of the last layer, before the final norm."""

    def pool(self, tokens: Tokens, taps: Taps = NO_TAPS) -> Tensor:
        """The tokens of the last layer -> one vector for each image (B, D), after the final
        norm."""

    def features(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        """`pool` of `encode`, without computing tokens that the pooling does not use: (B, D)."""

    def project(self, values: Tensor) -> Tensor:
        """Tokens (B, N, D) of the last layer, each as if it had been pooled: (B, N, out_width)."""

    def dense(
        self,
        pixels: Tensor,
        edit: DenseEdit,
        project: bool = True,
        semantic: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """What each patch means: (B, h * w, out_width); without `project` what is before the head,
        after the final norm. semantic: of an edit with a second pass, from what the first gave to
        which patches belong together (B, h * w, h * w). Raises UnsupportedError for an edit that
        this kind of tower does not have."""

    def dense_pooled(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """`dense`, and what the unchanged network gives for the images (B, out_width), for which
        they are not encoded again."""

    def dense_keys(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """`dense`, and the keys (B, h * w, D) of the patches in the last layer that attends, its
        heads merged."""

    def windows(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """Parts of images (B, 3, H, W), as if their other patches were not there: (B, W, out_width)
        of windows that are given by the numbers (W, K) of their patches. Patches keep their
        positions and come with the tokens before them. Raises UnsupportedError for a tower whose
        patches cannot be left out."""

    def hidden_states(self, pixels: Pixels, layer: int, norm: bool) -> Tensor:
        """The tokens (B, N, D) of one layer, numbered as in transformers: 0 is the input of the
        first block, i the output of block i, -1 that of the last. norm: with the final norm. Raises
        UnsupportedError for a layer that is not there, or a tower without such tokens."""

    def pooled_attention(self, weights: Tensor, size: Size) -> Tensor:
        """Attention maps (H, N, N) of one layer of `attention_layers` for an image of `size` pixels
        -> how much the pooled token attends to each patch (H, h * w)."""


class TextTower(Protocol):
    """A text tower: ids -> one vector per text."""

    out_width: int

    def __call__(self, ids: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """Ids (B, L) -> (B, out_width)."""

    def hidden_states(self, ids: Tensor, layer: int, norm: bool) -> tuple[Tensor, Tensor]:
        """The tokens (B, L, D) of one layer, as in `Tower.hidden_states`, and what the tower gives
        (B, out_width)."""


@runtime_checkable
class ImageNetwork(Protocol):
    """A network with an image tower."""

    @property
    def image(self) -> Tower:
        """That tower."""

    @overload
    def encode_image(self, pixels: Pixels) -> Tensor: ...
    @overload
    def encode_image(
        self, pixels: Pixels, taps: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def encode_image(
        self, pixels: Pixels, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Images -> features (B, D), not normalised; with `taps`, those intermediates too."""


@runtime_checkable
class DenseNetwork(Protocol):
    """A network that may have a head that says where in an image texts apply."""

    def dense_cosines(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Cosines (B, T, h, w), float32, of each place of images (B, 3, H, W) with unit texts (T,
        D). Raises UnsupportedError for a network without such a head."""


@runtime_checkable
class TextNetwork(Protocol):
    """A network with a text tower."""

    @property
    def text(self) -> TextTower:
        """That tower."""

    @overload
    def encode_text(self, ids: Tensor) -> Tensor: ...
    @overload
    def encode_text(self, ids: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...
    def encode_text(
        self, ids: Tensor, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Ids (B, L) -> features (B, D), not normalised; with `taps`, those intermediates too."""


@runtime_checkable
class PairNetwork(ImageNetwork, TextNetwork, Protocol):
    """Two towers with one joint space: score = scale * cosine + bias."""

    @property
    def scale(self) -> Tensor:
        """The logit scale by which cosines are multiplied, ()."""

    @property
    def bias(self) -> Tensor:
        """The bias that is added to a scaled cosine before a sigmoid, (); 0 for a softmax."""


class Ranked(NamedTuple):
    """Log probabilities of given answers to questions."""

    chosen: Tensor  # (Q, K) int64: which answers were read, in ascending order
    log_probabilities: Tensor  # (Q, K, L) float32, of every id of those; 0 after their ends


@runtime_checkable
class Writer(Protocol):
    """A network that generates texts about images. An image is encoded once; all else starts from
    its tokens (B, N, C). Texts (R, L) may be more than images: then R is a multiple of B, and each
    image belongs to R / B consecutive texts."""

    def image_tokens(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """Pixels (B, 3, H, W) -> tokens (B, N, C) that texts cross-attend to."""

    def write(
        self,
        tokens: Tensor,
        prompt: Tensor,
        options: GenerationOptions,
        keys: Sequence[Tensor] | Tensor = (),
    ) -> Written:
        """The best texts (B * count, L) about each image, or sampled ones. prompt (P,): ids that
        the texts continue. keys: of each image; they and the seed determine the samples."""

    def read(self, tokens: Tensor, ids: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """The intermediates `taps` of the decoder as it writes texts (R, L)."""

    def answer(self, tokens: Tensor, ids: Tensor, options: GenerationOptions) -> Written:
        """Answers (R * count, L) to questions (R, L')."""

    def rank(self, tokens: Tensor, ids: Tensor, answers: Tensor, shortlist: int = 0) -> Ranked:
        """How probable each of the answers (A, L) is to questions (R, L')."""


@runtime_checkable
class Matcher(Protocol):
    """A network with a matching head: whether a text belongs to an image."""

    def image_tokens(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """As in `Writer`."""

    def image_features(self, tokens: Tensor) -> Tensor:
        """Image tokens (B, N, C) -> unit features (B, D) in the joint space, float32."""

    @overload
    def match(self, tokens: Tensor, ids: Tensor, *, start: int | None = None) -> Tensor: ...
    @overload
    def match(
        self, tokens: Tensor, ids: Tensor, taps: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def match(
        self,
        tokens: Tensor,
        ids: Tensor,
        taps: Sequence[str] = (),
        *,
        start: int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Logits (R, 2) of texts (R, L) with image tokens: no match, match. start: the id that
        stands first in each text instead of the config's."""


@runtime_checkable
class Painter(Protocol):
    """A masked autoencoder: a network that reconstructs masked patches."""

    def paint(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) with the masked patches reconstructed, and where these are (B, 1, H,
        W) bool."""
