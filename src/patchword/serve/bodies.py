"""The JSON of a request, of which nothing is dropped or changed in silence."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import Field
from starlette.exceptions import HTTPException

VALUES = 50_000  # of JSON; 256 texts of 77 token numbers are 20,000
LARGE = 1 << 16  # bytes of JSON, or numbers of an answer: more is read and written in a thread
_PARTS = re.compile(r',|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # commas, and texts whole

# As they are sent: true is no number, "5" neither, and 1 is not true.
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
T = TypeVar("T")
Several = Annotated[
    list[T], Field(fail_fast=True)
]  # the first that is wrong is enough: 50,000 take seconds


async def read(body: bytes, most: int = VALUES, inside: bool = False) -> Any:
    """What a body of JSON holds, read in a thread where it is long: the event loop goes on. Raises
    HTTPException, see `parsed`."""
    if len(body) < LARGE:
        return parsed(body, most, inside)
    return await asyncio.to_thread(parsed, body, most, inside)


def parsed(body: bytes, most: int = VALUES, inside: bool = False) -> Any:
    """What a body of JSON holds. Raises HTTPException for what is no JSON, for a name that an
    object has twice, numbers that are none or not finite, half a character, and for more values
    than `most`: their checks, which are done where everybody is answered, would take seconds.
    inside: texts count as many values as they have commas, for they will be read as JSON too."""
    try:
        text = body.decode(json.detect_encoding(body))
        if _crowded(text, most):  # before they are made: nobody is answered while json.loads works
            raise _too_many(most)
        found = json.loads(
            text, object_pairs_hook=_object, parse_float=_number, parse_constant=_number
        )
    except RecursionError:
        raise _refused("lists and objects are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _refused(f"the body is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise _refused(f"the body is not text: {error.reason} at byte {error.start}") from None
    except ValueError:  # of int: JSON itself has no such limit
        raise _refused("a number has thousands of digits") from None
    _check(found, most, inside)
    return found


def _crowded(text: str, most: int) -> bool:
    """Whether a text of JSON surely has more values than `most`: a value brings a comma, and two
    texts at most."""
    if text.count(",") <= most:
        return False
    return next(islice(_PARTS.finditer(text), 3 * most, None), None) is not None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _refused(f"{name[:80]!r} is given twice: which one is meant?")
        found[name] = value
    return found


def _number(text: str) -> float:
    """A number with a fraction or an exponent; "NaN" and "Infinity", which Python would take for
    JSON, come here too."""
    value = float(text)
    if not math.isfinite(value):
        raise _refused(f"{text[:80]} is not a finite number")
    return value


def _check(found: Any, most: int, inside: bool) -> None:
    waiting, count = [found], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
            waiting += one
            count += len(one)
        elif isinstance(one, list):
            waiting += one
            count += len(one)
        elif isinstance(one, str):
            count += one.count(",") if inside else 0
            _whole(one)
        if count > most:
            raise _too_many(most)


def _whole(text: str) -> None:
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise _refused(f"a text holds {half}, which is half a character") from None


def _too_many(most: int) -> HTTPException:
    return HTTPException(413, f"more than {most} values in lists and objects: send less")


def _refused(said: str) -> HTTPException:
    return HTTPException(400, said)
