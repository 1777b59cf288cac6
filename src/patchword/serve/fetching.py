"""Images from web addresses, for a server that allows them, but never from its own network.

Every connection, also that of a redirect, goes to an IP address that was just resolved and found
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

SECONDS = 15.0  # for an image, at most
_IETF_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")  # is_global before 3.11.10 and 3.12.4
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch_image(url: str, settings: Settings) -> bytes:
    """The content at an address. Raises ImageError with the reason."""
    seconds = min(SECONDS, settings.seconds)
    connections = Connections(time.monotonic() + seconds)
    opener = urls.opener(_HttpHandler(connections), _HttpsHandler(connections))
    timer = threading.Timer(seconds, connections.shut_down)
    timer.daemon = True
    timer.start()
    too_late = f"not here after {seconds:g} seconds"
    try:
        content = urls.fetch(url, opener, settings.max_bytes, seconds)
    except RefusedError as error:
        reason = too_late if connections.remaining() <= 0 else str(error)
        raise ImageError(url[:200], reason) from error
    finally:
        timer.cancel()
    if connections.remaining() <= 0:  # a connection that was shut down looks like a complete one
        raise ImageError(url[:200], too_late)
    return content


class Connections:
    """The connections of one image, which are shut down at a deadline: a site that sends a byte now
    and then, also within its headers, would keep a thread for days."""

    def __init__(self, deadline: float) -> None:
        """deadline: by time.monotonic()."""
        self.deadline = deadline
        self._sockets: list[socket.socket] = []

    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def add(self, connection: socket.socket) -> None:
        """Shut down this connection too. Raises TimeoutError after the deadline."""
        self._sockets.append(connection)
        if self.remaining() <= 0:
            raise TimeoutError

    def shut_down(self) -> None:
        """End all connections: threads that wait for a byte go on."""
        for connection in self._sockets:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: it is not on this machine, in a private
    network, link-local, multicast or reserved. IPv4 addresses inside IPv6 are checked too."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return public(str(inner))
        if ip.is_site_local:
            return False
    if ip in _IETF_PROTOCOLS:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def connect(host: str, port: int, timeout: Any, connections: Connections) -> socket.socket:
    """A connection to a host all of whose addresses are public. Raises RefusedError for any other
    host, and the OSError of the last address if none answers."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not addresses or not all(public(str(address[0])) for *_, address in addresses):
        raise RefusedError(f"{host} is not on the open internet: its address is never fetched")
    failure: OSError = OSError("no address answers")
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        try:
            connections.add(connection)
            connection.settimeout(max(min(timeout, connections.remaining()), 0.001))
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


class _HttpConnection(http.client.HTTPConnection):
    def __init__(self, connections: Connections, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self.connections = connections

    def connect(self) -> None:
        self.sock = connect(self.host, self.port, self.timeout, self.connections)


class _HttpsConnection(http.client.HTTPSConnection):
    def __init__(self, connections: Connections, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self.connections = connections

    def connect(self) -> None:
        plain = connect(self.host, self.port, self.timeout, self.connections)
        secure = ssl.create_default_context().wrap_socket(
            plain, server_hostname=self.host, do_handshake_on_connect=False
        )
        self.sock = secure
        self.connections.add(secure)
        secure.do_handshake()


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self.connections = connections

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_HttpConnection, self.connections), req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self.connections = connections

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_HttpsConnection, self.connections), req)
