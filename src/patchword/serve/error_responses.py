"""Errors as HTTP answers: a status, and {"error": {message, type, param, code}} as in OpenAI's
API."""

from __future__ import annotations

from typing import Any

from patchword.errors import (
    ConfigError,
    ImageError,
    IndexStoreError,
    NoIndexError,
    PatchwordError,
    SameIdError,
    UnsupportedError,
)

STATUSES: dict[type[PatchwordError], int] = {NoIndexError: 404, SameIdError: 409}  # others: 400
CODES = {
    ImageError: "image",
    UnsupportedError: "unsupported",
    ConfigError: "unsupported",
    IndexStoreError: "index",
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class RefusalError(Exception):
    """A request, or one of its items, that is not answered.

    code         identifies the reason for programs
    param        the field of the request that is to blame
    retry_after  seconds after which the request may be sent again
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
        """Additional headers of the answer."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": str(self),
                "type": TYPES.get(self.status, default),
                "param": self.param,
                "code": self.code,
            }
        }


def refusal_of(error: PatchwordError | RefusalError, param: str | None = None) -> RefusalError:
    """An error of patchword as an answer; a refusal unchanged."""
    if isinstance(error, RefusalError):
        return error
    message = str(error)
    if type(error) is PatchwordError:  # the model's output is not finite, see `finite`
        return RefusalError(503, "model", message, "model")
    code = next((CODES[kind] for kind in CODES if isinstance(error, kind)), "patchword")
    return RefusalError(STATUSES.get(type(error), 400), code, message, param)


def item_error(index: int, error: PatchwordError | RefusalError) -> dict[str, Any]:
    """The error of one item of a list."""
    return {"index": index, **refusal_of(error).body}
