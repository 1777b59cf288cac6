"""Images from the web: https and http, within limits of size, time and redirects."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import urlsplit

from patchword.images.high_bit_depth import RefusedError

SCHEMES = ("https://", "http://")
MAX_BYTES = 256 << 20
SILENCE = 20.0  # seconds to wait for a server's next bytes
MAX_SECONDS = 120.0  # for all of an image
MAX_REDIRECTS = 5

_CHUNK = 1 << 16


def is_url(text: str) -> bool:
    """Whether a name is an address on the web."""
    return text[:8].lower().startswith(SCHEMES)


def fetch(url: str) -> bytes:
    """The content at an address, whatever type the server gives it.
    Raises RefusedError with the reason."""
    deadline = time.monotonic() + MAX_SECONDS
    request = urllib.request.Request(url, headers={"User-Agent": "patchword", "Accept": "image/*"})
    try:
        with _opener().open(request, timeout=SILENCE) as answer:
            return _content(answer, deadline)
    except urllib.error.HTTPError as error:
        reason = " ".join(str(error.reason).split())
        raise RefusedError(f"the server answers {error.code} {reason}") from error
    except urllib.error.URLError as error:
        raise RefusedError(f"cannot be fetched: {error.reason}") from error
    except TimeoutError as error:
        raise RefusedError(f"the server sent nothing for {SILENCE:g} seconds") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise RefusedError(f"cannot be fetched: {error or type(error).__name__}") from error


def _content(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    content = bytearray()
    while chunk := answer.read1(_CHUNK):  # what has arrived: a slow server is noticed
        content += chunk
        if len(content) > MAX_BYTES:
            raise RefusedError(f"more than {MAX_BYTES >> 20} MB; download it and give its path")
        if time.monotonic() > deadline:
            raise RefusedError(f"not here after {MAX_SECONDS:g} seconds; download it first")
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
            raise RefusedError(f"it is redirected to {newurl}, which is less safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https alone: no files, no FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
