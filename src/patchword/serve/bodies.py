"""The JSON of a request, of which nothing is dropped or changed in silence."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from starlette.exceptions import HTTPException

VALUES = 50_000  # of JSON; 256 texts of 77 token numbers are 20,000
LARGE = 1 << 16  # bytes of JSON, or numbers of an answer: more is read and written in a thread

# As they are sent: true is no number, "5" neither, and 1 is not true.
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]


async def read(body: bytes) -> Any:
    """What a body of JSON holds, read in a thread where it is long: the event loop goes on. Raises
    HTTPException, see `parsed`."""
    return parsed(body) if len(body) < LARGE else await asyncio.to_thread(parsed, body)


def parsed(body: bytes) -> Any:
    """What a body of JSON holds. Raises HTTPException for what is no JSON, for a name that an
    object has twice, numbers that are none or not finite, half a character, and for so many values
    that their checks, which are done where everybody is answered, would take seconds."""
    try:
        text = body.decode(json.detect_encoding(body))
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
    _check(found)
    return found


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


def _check(found: Any) -> None:
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
        elif isinstance(one, str) and not one.isascii():
            _whole(one)
        if count > VALUES:
            said = f"more than {VALUES} values in lists and objects: send less"
            raise HTTPException(413, said)


def _whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise _refused(f"a text holds {half}, which is half a character") from None


def _refused(said: str) -> HTTPException:
    return HTTPException(400, said)
