"""Images by their address on the web, for a server that allows that, and never from inside the
network that it is in.

Every connection, also that of a redirect, is made to an address that was just resolved and found
public: a name cannot mean one address when it is checked and another when it is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.request
from contextlib import suppress
from functools import partial
from typing import Any

from patchword.errors import ImageError
from patchword.images import urls
from patchword.images.unreadable import RefusedError
from patchword.serve.settings import Settings

SECONDS = 15.0  # for all of an image, at most
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")  # global to Python before 3.11.10 and 3.12.4


def fetched(url: str, settings: Settings) -> bytes:
    """The content at an address. Raises ImageError with the reason."""
    seconds = min(SECONDS, settings.seconds)
    line = Line(time.monotonic() + seconds)
    opener = urls.opener(_Http(line), _Https(line))
    timer = threading.Timer(seconds, line.cut)
    timer.daemon = True
    timer.start()
    reason = f"not here after {seconds:g} seconds"
    try:
        found = urls.fetch(url, opener, settings.max_bytes, seconds)
    except RefusedError as error:
        raise ImageError(url[:200], reason if line.left() <= 0 else str(error)) from error
    finally:
        timer.cancel()
    if line.left() <= 0:  # what was cut looks like the end
        raise ImageError(url[:200], reason)
    return found


class Line:
    """The connections of one image. A site that sends a byte now and then, in its headers too,
    would keep a thread for days: when the time is over they are cut."""

    def __init__(self, until: float) -> None:
        """until: as time.monotonic() has it."""
        self.until = until
        self._sockets: list[socket.socket] = []

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def holds(self, connection: socket.socket) -> None:
        """Cut this one too. Raises TimeoutError where the time is over."""
        self._sockets.append(connection)
        if self.left() <= 0:
            raise TimeoutError

    def cut(self) -> None:
        """Whoever waits for a byte goes on."""
        for connection in self._sockets:
            with suppress(OSError):  # closed before
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: not to this machine, a private network,
    a link, a group of machines, or a reserved range, also where IPv6 wraps an IPv4 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return public(str(inner))
        if found.is_site_local:
            return False
    if isinstance(found, ipaddress.IPv4Address) and found in _PROTOCOLS:
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def connect(host: str, port: int, timeout: Any, line: Line) -> socket.socket:
    """A connection to a public address of a host. Raises RefusedError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    refused = RefusedError(f"{host} is not on the open internet: its address is never fetched")
    if not found or not all(public(str(address[0])) for *_, address in found):
        raise refused
    failure: OSError = OSError("no address answers")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            line.holds(connection)
            connection.settimeout(max(min(timeout, line.left()), 0.001))
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


class _Connection(http.client.HTTPConnection):
    def __init__(self, line: Line, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self.line = line

    def connect(self) -> None:
        self.sock = connect(self.host, self.port, self.timeout, self.line)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, line: Line, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self.line = line

    def connect(self) -> None:
        plain = connect(self.host, self.port, self.timeout, self.line)
        secure = ssl.create_default_context().wrap_socket(
            plain, server_hostname=self.host, do_handshake_on_connect=False
        )
        self.sock = secure
        self.line.holds(secure)
        secure.do_handshake()


class _Http(urllib.request.HTTPHandler):
    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, self.line), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_SecureConnection, self.line), req)
