"""The settings of a server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from patchword.errors import ConfigError
from patchword.options import at_least, in_range


@dataclass(frozen=True)
class Settings:
    """How a server runs.

    index       folder or address of an index of photos to search; None: no index
    models      names for `patchword.load`; none: the index's model or "demo", and with "demo" also
                "demo-blip"
    device, dtype  where models compute, and the number type of their weights
    host, port  where the server listens
    api_key     what clients must show; required unless only this machine can reach the host
    allow_urls  whether images may be given by their web address
    max_bytes   of a request's body, and of an image that is fetched
    max_pixels  of an image
    max_items   images and texts of one request
    max_characters  of a request's texts together, also its number of token ids
    seconds     for a request, at most
    waiting     images and texts in work or in the queues; requests beyond that are refused at once
    batch       images that a network gets at once
    memory      bytes of weights in memory, at most: other models are closed, and loaded again when
                they are needed. None: no limit
    """

    index: str | Path | None = None
    models: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "float32"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    allow_urls: bool = False
    max_bytes: int = 64 << 20
    max_pixels: int = 100_000_000
    max_items: int = 256
    max_characters: int = 100_000
    seconds: float = 60.0
    waiting: int = 1024
    batch: int = 32
    memory: int | None = None

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "items", "characters"):
            at_least(f"max_{name}", getattr(self, f"max_{name}"))
        for name in ("waiting", "batch"):
            at_least(name, getattr(self, name))
        in_range("seconds", self.seconds, 0, above=True)
        if self.api_key is not None and not _sendable(self.api_key):
            raise ConfigError(
                "api_key is a word of ASCII characters, without a space or the end of a line "
                "before or after it, which no client could send, and must not be empty"
            )
        if not self.on_loopback and self.api_key is None:
            raise ConfigError(
                f"host {self.host} can be reached by others: give an API key that clients must "
                "show (--api-key, or PATCHWORD_API_KEY), or listen on 127.0.0.1"
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _sendable(key: str) -> bool:
    """Whether a header can contain the key."""
    return key.isascii() and key.isprintable() and bool(key) and key == key.strip()
