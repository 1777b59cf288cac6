"""The interface of networks to the rest of patchword, the same for every architecture; checked by
mypy.

No code outside this package depends on the kind of a tower or uses its blocks. A tower itself knows
where its patches are, which layers it has, and how to map each patch to the joint space.
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
    """The output of an image tower's last layer."""

    values: Tensor  # (B, N, D)
    present: Tensor | None = None  # (B, N) bool, false for padding; None: no padding


class Tower(Protocol):
    """An image tower: pixels -> one vector per image, and its intermediate features."""

    out_width: int  # of the output: the width of the joint space, the number of classes, or D
    layer_names: tuple[str, ...]  # a tap of this name is the layer's output
    # Layers with attention between all tokens: the tap `name + ".attn"` is the map (B, H, N, N)
    attention_layers: tuple[str, ...]
    pool_layer: str  # tap of attention pooling; "" for other poolings
    prefix: int  # number of tokens before the patches: class token, distillation token, registers
    prefix_names: tuple[str, ...]  # names of these tokens, for people

    def __call__(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        """Images -> (B, out_width), or pooled features (B, D) for a tower without a head."""

    def grid(self, size: Size) -> Size:
        """The grid of patches (rows, columns) of an image of `size` (H, W) pixels."""

    def patches(self, size: Size) -> slice:
        """Which tokens of an image of `size` are its patches, row by row."""

    def fix_size(self, size: Size) -> None:
        """Resample position embeddings to images of `size` (H, W) once, instead of in each call.
        The output for that size stays the same."""

    def encode(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tokens:
        """The tokens (B, N, D) of the last layer, before the final norm."""

    def pool(self, tokens: Tokens, taps: Taps = NO_TAPS) -> Tensor:
        """Tokens of the last layer -> one vector for each image (B, D), after the final norm."""

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
        """Patch features under an edit, in the joint space (B, h * w, out_width); without `project`
        before the head, after the final norm (B, h * w, D).

        semantic: for an edit with a second pass. It maps the patch features of the first to E
        (B, h * w, h * w) of `Semantic`. Raises UnsupportedError for an edit that this kind of tower
        does not have.
        """

    def dense_pooled(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """`dense`, and the output (B, out_width) of the unedited network, from one encoding."""

    def dense_keys(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """`dense`, and the keys (B, h * w, D) of the patches in the last attention layer, its heads
        merged."""

    def windows(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """Outputs (B, W, out_width) for windows of images (B, 3, H, W), computed from the tokens of
        their patches and the prefix tokens only. patches (W, K): the indices of each window's
        patches, which keep their positions. Raises UnsupportedError for a tower whose patches
        cannot be left out."""

    def hidden_states(self, pixels: Pixels, layer: int, norm: bool) -> Tensor:
        """The tokens (B, N, D) of one layer, numbered as in transformers: 0 is the input of the
        first block, i the output of block i, -1 the output of the last. norm: apply the final norm.
        Raises UnsupportedError for a layer that does not exist, or a tower without such tokens."""

    def pooled_attention(self, weights: Tensor, size: Size) -> Tensor:
        """How much the pooled token attends to each patch (H, h * w), from attention maps (H, N, N)
        of one of the `attention_layers` for an image of `size` pixels."""


class TextTower(Protocol):
    """A text tower: ids -> one vector per text."""

    out_width: int

    def __call__(self, ids: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """Ids (B, L) -> (B, out_width)."""

    def hidden_states(self, ids: Tensor, layer: int, norm: bool) -> tuple[Tensor, Tensor]:
        """The tokens (B, L, D) of one layer, as in `Tower.hidden_states`, and the tower's output
        (B, out_width)."""


@runtime_checkable
class ImageNetwork(Protocol):
    """A network with an image tower."""

    @property
    def image(self) -> Tower:
        """The image tower."""

    @overload
    def encode_image(self, pixels: Pixels) -> Tensor: ...
    @overload
    def encode_image(
        self, pixels: Pixels, taps: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def encode_image(
        self, pixels: Pixels, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Images -> features (B, D), not normalised; with `taps` also those tensors."""


@runtime_checkable
class DenseNetwork(Protocol):
    """A network that may have a head for dense prediction."""

    def dense_cosines(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Cosines (B, T, h, w), float32, of places of images (B, 3, H, W) with unit texts (T, D).
        Raises UnsupportedError for a network without such a head."""


@runtime_checkable
class TextNetwork(Protocol):
    """A network with a text tower."""

    @property
    def text(self) -> TextTower:
        """The text tower."""

    @overload
    def encode_text(self, ids: Tensor) -> Tensor: ...
    @overload
    def encode_text(self, ids: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...
    def encode_text(
        self, ids: Tensor, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Ids (B, L) -> features (B, D), not normalised; with `taps` also those tensors."""


@runtime_checkable
class PairNetwork(ImageNetwork, TextNetwork, Protocol):
    """Two towers with one joint space: score = scale * cosine + bias."""

    @property
    def scale(self) -> Tensor:
        """The logit scale (), by which cosines are multiplied."""

    @property
    def bias(self) -> Tensor:
        """The bias (), which is added to a scaled cosine before a sigmoid; 0 for a softmax."""


class Ranked(NamedTuple):
    """Log probabilities of given answers to questions."""

    chosen: Tensor  # (Q, K) int64: indices of the answers that were scored, ascending
    log_probabilities: Tensor  # (Q, K, L) float32, of every id of these answers; 0 after their ends


@runtime_checkable
class Writer(Protocol):
    """A network that generates texts about images. An image is encoded once; all other methods
    start from its tokens (B, N, C). There may be several texts (R, L) about each image: then R is a
    multiple of B, and R / B consecutive texts belong to each image."""

    def image_tokens(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """Pixels (B, 3, H, W) -> tokens (B, N, C) that texts cross-attend to."""

    def write(
        self,
        tokens: Tensor,
        prompt: Tensor,
        options: GenerationOptions,
        keys: Sequence[Tensor] | Tensor = (),
    ) -> Written:
        """The best texts (B * count, L) about each image, or samples. prompt (P,): ids that the
        texts continue. keys: one for each image; key and seed determine its samples."""

    def decoder_taps(self, tokens: Tensor, ids: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """The tensors `taps` of the decoder when it writes texts (R, L)."""

    def answer(self, tokens: Tensor, ids: Tensor, options: GenerationOptions) -> Written:
        """Answers (R * count, L) to questions (R, L')."""

    def rank(self, tokens: Tensor, ids: Tensor, answers: Tensor, shortlist: int = 0) -> Ranked:
        """Log probabilities of given answers (A, L) to questions (R, L'). shortlist: how many
        answers to score for each question; 0: all."""


@runtime_checkable
class Matcher(Protocol):
    """A network with a matching head, which classifies whether a text belongs to an image."""

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
        replaces the first of each text, instead of the config's."""


@runtime_checkable
class Reconstructor(Protocol):
    """A masked autoencoder: a network that reconstructs masked patches."""

    def reconstruct(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) with the masked patches reconstructed, and which pixels these are,
        (B, 1, H, W) bool."""
