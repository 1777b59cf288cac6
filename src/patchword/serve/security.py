"""Who may ask, and what an answer allows a browser to do.

On loopback anybody on this machine may ask, but no page of the web: a page that has made its name
point to 127.0.0.1 still sends that name as Host, and one that sends a form says its own Origin; of
what it shows, such as a picture, browsers say in Sec-Fetch-Site that another site asks. Anywhere
else a key is needed.
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

OPEN = re.compile(r"/|/health|/ready|/static/.*")  # paths that need no key: they name nothing
COOKIE = "patchword_key"  # in which a page that was given the key sends it with every image
_NOWHERE = SplitResult("", "", "", "", "")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self' data: blob:; font-src 'self'; manifest-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
)


def check(settings: Settings, path: str, headers: Headers) -> None:
    """Raise RefusalError for a request that may not be answered."""
    host = headers.get("host", "")
    if settings.on_loopback and not _local(_place(f"//{host}").hostname or ""):
        message = "this server answers to localhost and 127.0.0.1 alone; Host names another"
        raise RefusalError(403, "host", message)
    origin = headers.get("origin")
    if origin is not None and not (host and _place(origin).netloc.lower() == host.lower()):
        raise _other_site()
    if headers.get("sec-fetch-site", "") in ("cross-site", "same-site") and not _followed(headers):
        raise _other_site()
    if not (OPEN.fullmatch(path) or shows_key(settings, headers)):
        message = "a key is needed: Authorization: Bearer KEY (the server's --api-key)"
        raise RefusalError(401, "invalid_api_key", message)


def shows_key(settings: Settings, headers: Headers) -> bool:
    """Whether a request shows the key, or none is needed."""
    key = settings.api_key
    return key is None or any(_equal(given, key) for given in _keys(headers))


def _followed(headers: Headers) -> bool:
    """Whether a person followed a link here."""
    mode, shown = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return mode == "navigate" and shown == "document"


def _other_site() -> RefusalError:
    return RefusalError(403, "origin", "requests of another site's pages are not answered")


def _place(address: str) -> SplitResult:
    """An address in its parts; no parts where it is none."""
    try:
        found = urlsplit(address)
        return found if found.hostname else _NOWHERE
    except ValueError:
        return _NOWHERE


def _local(name: str) -> bool:
    """Whether a host is this machine: localhost, or a number that no name server can change."""
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _keys(headers: Headers) -> list[str]:
    """The keys that a request shows."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    found = [key.strip()] if scheme.lower() == "bearer" else []
    found += headers.getlist("x-api-key")
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        cookie = None
    return found + ([cookie.value] if cookie else [])


def _equal(given: str, key: str) -> bool:
    """Compared in a time that says nothing of how much of it is right."""
    return hmac.compare_digest(given.encode(errors="replace"), key.encode())
