"""The engine that is chosen by the device and by how many images there are."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from patchword.engines.protocol import Engine, Pixels, Rows
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import UnsupportedError, warn

MANY = 1000  # images after which another engine has won back the seconds that its graphs take


class AutoEngine(TorchEngine):
    """torch's; after `MANY` images that of `make`, for vectors of images, as long as nobody was
    lent the network, whose weights might change. Texts stay with torch, which computes once what
    many begin with (`PrefixTree`): class names in templates take less than half as long."""

    def __init__(
        self, network: nn.Module, levels: Rows | None, own_shapes: bool, make: Callable[[], Engine]
    ) -> None:
        """make: the other engine. Where that raises UnsupportedError all stays as it is."""
        super().__init__(network, levels, own_shapes)
        self._make: Callable[[], Engine] | None = make
        self._other: Engine | None = None
        self._images = 0

    def encode_image(self, pixels: Pixels) -> Rows:
        if other := self._instead():
            return other.encode_image(pixels)
        self._images += len(pixels)
        return super().encode_image(pixels)

    def _instead(self) -> Engine | None:
        if self.lent or self._images < MANY:
            return None
        if self._make is not None:
            make, self._make = self._make, None
            try:
                self._other = make()
            except UnsupportedError as error:
                warn(f'engine "auto" stays with torch: {error}')
        return self._other
