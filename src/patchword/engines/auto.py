"""An engine that changes from torch to a faster one after many images."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from patchword.engines.protocol import Engine, Pixels, Rows
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import UnsupportedError, warn

MANY = 1000  # images, for which a faster engine saves the seconds that creating its graphs takes


class AutoEngine(TorchEngine):
    """torch's engine; after `MANY` images a faster one encodes images, unless the caller has got
    the network and so might change its weights. Texts stay with torch, which computes shared
    beginnings once (`PrefixTree`): class names in templates take less than half as long."""

    streams = False  # the faster engine has threads of its own

    def __init__(
        self,
        network: nn.Module,
        levels: Rows | None,
        variable_size: bool,
        create_faster: Callable[[], Engine],
    ) -> None:
        """create_faster: creates the faster engine. If it raises UnsupportedError, torch stays."""
        super().__init__(network, levels, variable_size)
        self._create_faster: Callable[[], Engine] | None = create_faster
        self._faster: Engine | None = None
        self._images = 0

    def encode_image(self, pixels: Pixels) -> Rows:
        faster = self._faster_engine()
        if faster is not None:
            return faster.encode_image(pixels)
        self._images += len(pixels)
        return super().encode_image(pixels)

    def _faster_engine(self) -> Engine | None:
        if self.weights_may_change or self._images < MANY:
            return None
        if self._create_faster is not None:
            create, self._create_faster = self._create_faster, None  # only once, also if it fails
            try:
                self._faster = create()
            except UnsupportedError as error:
                warn(f'engine "auto" stays with torch: {error}')
        return self._faster
