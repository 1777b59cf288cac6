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
import urllib.request
from typing import Any

from patchword.errors import ImageError
from patchword.images import urls
from patchword.images.refused import RefusedError
from patchword.serve.settings import Settings

SECONDS = 15.0  # for all of an image, at most


def fetched(url: str, settings: Settings) -> bytes:
    """The content at an address. Raises ImageError with the reason."""
    opener = urls.opener(_Http(), _Https())
    seconds = min(SECONDS, settings.seconds)
    try:
        return urls.fetch(url, opener, settings.max_bytes, seconds)
    except RefusedError as error:
        raise ImageError(url[:200], str(error)) from error


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
    return found.is_global and not found.is_multicast and not found.is_reserved


def connect(host: str, port: int, timeout: Any) -> socket.socket:
    """A connection to a public address of a host. Raises RefusedError where it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    refused = RefusedError(f"{host} is not on the open internet: its address is never fetched")
    if not found or not all(public(str(address[0])) for *_, address in found):
        raise refused
    failure: OSError = OSError("no address answers")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = connect(self.host, self.port, self.timeout)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        plain = connect(self.host, self.port, self.timeout)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req)
