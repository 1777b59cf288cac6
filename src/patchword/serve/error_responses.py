"""Errors as clients get them: a status, and {"error": {message, type, param, code}} as OpenAI has
it."""

from __future__ import annotations

from typing import Any

from patchword.errors import (
    ConfigError,
    ImageError,
    IndexStoreError,
    PatchwordError,
    UnsupportedError,
)

STATUSES = {"no index there": 404, "have the same id": 409}  # by what an IndexStoreError says
CODES = {  # of errors that patchword raises, what a program can tell them by
    ImageError: "image",
    UnsupportedError: "unsupported",
    ConfigError: "unsupported",
    IndexStoreError: "index",
}


class RefusalError(Exception):
    """A request that is not answered.

    code         what a program can tell it by
    param        the part of the request that it is about
    retry_after  seconds after which it may be sent again
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Those that the answer needs."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": str(self),
                "type": kinds.get(self.status, usual),
                "param": self.param,
                "code": self.code,
            }
        }


def refusal_of(error: PatchwordError | RefusalError, param: str | None = None) -> RefusalError:
    """What patchword raised, as an answer; a refusal as it is."""
    if isinstance(error, RefusalError):
        return error
    if type(error) is PatchwordError:  # of the model's own numbers, see `finite`
        return RefusalError(503, "model", str(error), "model")
    codes = (code for kind, code in CODES.items() if isinstance(error, kind))
    code = next(codes, "patchword")
    said = str(error) if isinstance(error, IndexStoreError) else ""
    status = next((status for words, status in STATUSES.items() if words in said), 400)
    return RefusalError(status, code, str(error), param)


def item(index: int, error: PatchwordError | RefusalError) -> dict[str, Any]:
    """The error of one item of a list."""
    return {"index": index, **refusal_of(error).body}
