"""Who may send requests, and what an answer allows a browser to do.

On loopback every program on this machine may send requests, but no page of the web. A page whose
domain name was pointed to 127.0.0.1 still sends that name as Host; a page that posts a form sends
its own Origin; for requests without an Origin, such as those of <img>, browsers send
Sec-Fetch-Site. On any other address a key is needed.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from http.cookies import CookieError, SimpleCookie
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers

from patchword.serve.error_responses import RefusalError
from patchword.serve.settings import Settings

OPEN_PATHS = re.compile(r"/|/health|/ready|/static/.*")  # need no key: they name nothing
COOKIE = "patchword_key"  # the page sends its key in it, with every <img> too
_NO_ADDRESS = SplitResult("", "", "", "", "")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (  # of every answer that does not set them itself
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", POLICY.encode()),
)


def check(settings: Settings, path: str, headers: Headers) -> None:
    """Raise RefusalError for a request that may not be answered."""
    host = headers.get("host", "")
    if settings.on_loopback and not _is_local(_split(f"//{host}").hostname or ""):
        message = "this server answers to localhost and 127.0.0.1 alone; Host names another"
        raise RefusalError(403, "host", message)
    origin = headers.get("origin")
    foreign = origin is not None and not (host and _split(origin).netloc.lower() == host.lower())
    other_site = headers.get("sec-fetch-site", "") in ("cross-site", "same-site")
    if foreign or (other_site and not _is_link(headers)):
        raise RefusalError(403, "origin", "requests of another site's pages are not answered")
    if not (OPEN_PATHS.fullmatch(path) or shows_key(settings, headers)):
        message = "a key is needed: Authorization: Bearer KEY (the server's --api-key)"
        raise RefusalError(401, "invalid_api_key", message)


def shows_key(settings: Settings, headers: Headers) -> bool:
    """Whether a request shows the key, or none is needed."""
    if settings.api_key is None:
        return True
    key = settings.api_key.encode()
    # compare_digest takes the same time however much of a key is right.
    return any(hmac.compare_digest(shown.encode(errors="replace"), key) for shown in _keys(headers))


def _is_link(headers: Headers) -> bool:
    """Whether a person followed a link to this server."""
    mode, destination = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return mode == "navigate" and destination == "document"


def _split(address: str) -> SplitResult:
    """The parts of an address; empty parts for an invalid one."""
    try:
        parts = urlsplit(address)
        return parts if parts.hostname else _NO_ADDRESS
    except ValueError:
        return _NO_ADDRESS


def _is_local(host: str) -> bool:
    """Whether a host is this machine: "localhost", or a loopback address, which no name server can
    change."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _keys(headers: Headers) -> list[str]:
    """The keys that a request shows."""
    keys = headers.getlist("x-api-key")
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        keys.append(key.strip())
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        cookie = None
    if cookie:
        keys.append(cookie.value)
    return keys
