"""Fetches images from the web by https and http, with limits of size, time and redirects."""

from __future__ import annotations

import http.client
import string
import time
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import quote, urlsplit

from patchword.images.unreadable import RefusedError

SCHEMES = ("https://", "http://")
MAX_BYTES = 256 << 20
SILENCE = 20.0  # most seconds between two answers of a server
MAX_SECONDS = 120.0  # for one image
MAX_REDIRECTS = 5

_CHUNK = 1 << 16
_KEPT = string.punctuation  # not escaped; with "%", so that nothing is escaped twice


def is_url(text: str) -> bool:
    """True for an address on the web."""
    return text[:8].lower().startswith(SCHEMES)


def fetch(
    url: str,
    web: urllib.request.OpenerDirector | None = None,
    max_bytes: int | None = None,
    max_seconds: float | None = None,
) -> bytes:
    """The content at an address; the type that the server states is ignored. web: what connects,
    by default `opener()`. max_bytes, max_seconds: by default `MAX_BYTES`, `MAX_SECONDS`. Raises
    RefusedError with the reason."""
    max_bytes, max_seconds = max_bytes or MAX_BYTES, max_seconds or MAX_SECONDS
    deadline = time.monotonic() + max_seconds
    silence = min(SILENCE, max_seconds)
    headers = {"User-Agent": "patchword", "Accept": "image/*"}
    try:
        request = urllib.request.Request(_ascii(url), headers=headers)
        with (web or opener()).open(request, timeout=silence) as answer:
            return _content(answer, deadline, max_bytes, max_seconds)
    except urllib.error.HTTPError as error:
        error.close()  # otherwise a stored ImageError would keep the connection open
        reason = " ".join(str(error.reason).split())
        raise RefusedError(f"the server answers {error.code} {reason}") from error
    except urllib.error.URLError as error:
        raise RefusedError(f"cannot be fetched: {error.reason}") from error
    except TimeoutError as error:
        raise RefusedError(f"the server sent nothing for {silence:g} seconds") from error
    except (http.client.HTTPException, OSError, ValueError, OverflowError) as error:
        raise RefusedError(f"cannot be fetched: {error or type(error).__name__}") from error


def _ascii(url: str) -> str:
    """An address with spaces and letters of any script, as browsers show it, in the ASCII form that
    is sent."""
    parts = urlsplit(url)
    netloc = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (quote(part, safe=_KEPT) for part in (parts.path, parts.query))
    return parts._replace(netloc=netloc, path=path, query=query).geturl()


def _content(
    answer: http.client.HTTPResponse, deadline: float, max_bytes: int, max_seconds: float
) -> bytes:
    content = bytearray()
    while chunk := answer.read1(_CHUNK):  # returns what has arrived, so that the time is checked
        content += chunk
        if len(content) > max_bytes:
            raise RefusedError(f"more than {max_bytes >> 20} MB; download it and give its path")
        if time.monotonic() > deadline:
            raise RefusedError(f"not here after {max_seconds:g} seconds; download it first")
    if answer.length:  # bytes that were announced and did not come
        raise RefusedError("the connection ended before the image did; try again")
    return bytes(content)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Allows few redirects, and none to a file or from https to http."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and scheme != req.type:
            fp.close()
            raise RefusedError(f"it is redirected to {newurl}, which is less safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener(*connecting: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener of http and https only: no files, no FTP. connecting: the handlers that connect; by
    default urllib's, with the proxies of the environment."""
    director = urllib.request.OpenerDirector()
    default = (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
    )
    for handler in (
        *(connecting or default),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        director.add_handler(handler)
    return director
