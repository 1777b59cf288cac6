"""Text files of other programs, line by line: UTF-8 with or without a byte order mark, UTF-16 and
UTF-32 with one (Excel's "Unicode text"), plain or gzip."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from os import PathLike
from typing import cast

from patchword.errors import PatchwordError

GZIP = b"\x1f\x8b"  # the first bytes of every gzip file (RFC 1952, section 2.3.1)

# Byte order marks. Those of UTF-32 come first: one begins like a mark of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Path = str | PathLike[str]


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, each with its end: \\n, \\r\\n, or a lone \\r.

    Raises PatchwordError for a file that cannot be opened, and, with the line, for one that is not
    text in these encodings.
    """
    number = 0
    try:
        with _opened(path) as raw:
            encoding = encoding_of(raw.peek(4)[:4])
            with io.TextIOWrapper(raw, encoding, newline="") as lines:
                for number, line in enumerate(lines, start=1):
                    if "\0" in line:
                        raise PatchwordError(
                            f"{path}, line {number}: a zero byte; the file is damaged, or UTF-16 "
                            "without a byte order mark: save it as UTF-8"
                        )
                    yield line
    except UnicodeDecodeError as error:
        raise PatchwordError(_not_text(path, error, number)) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PatchwordError(f"{path}, after line {number}: damaged gzip: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise PatchwordError(f"{path}: cannot be read: {reason}") from error


def list_lines(path: Path) -> list[str]:
    """The entries of a list, one a line, without the spaces around them. Only \\n and \\r\\n end a
    line: other programs count lines so.

    Raises PatchwordError, with the line, for a line that is empty or has a carriage return inside,
    for a file without lines, and for one that cannot be read.
    """
    entries = []
    for number, line in enumerate(text_lines(path), start=1):
        if line.endswith("\r"):
            raise PatchwordError(
                f"{path}, line {number}: a carriage return without a line feed; end lines in "
                "\\n or \\r\\n"
            )
        if not line.strip():
            raise PatchwordError(f"{path}, line {number}: empty; every line is one entry")
        entries.append(line.strip())
    if not entries:
        raise PatchwordError(f"{path}: empty; write one entry per line")
    return entries


def _opened(path: Path) -> io.BufferedReader:
    """A file's content, decompressed if it is gzip. Raises PatchwordError for a named pipe, on
    which reading could wait for ever. A pipe that the shell opened, /dev/fd/63, is read."""
    pipe = os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)
    if pipe and not os.path.abspath(path).startswith(("/dev/", "/proc/")):
        raise PatchwordError(f"{path}: a named pipe, and no file; write a file, and give that")
    raw = open(path, "rb")  # noqa: SIM115  # closed by the caller
    if raw.peek(2)[:2] != GZIP:
        return raw
    raw.close()
    return cast(io.BufferedReader, gzip.open(path, "rb"))  # has the same methods


def encoding_of(content: bytes) -> str:
    """The encoding of a text by its byte order mark, UTF-8 if it has none. 4 bytes are enough."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    return "utf-8"


def _not_text(path: Path, error: UnicodeDecodeError, lines_read: int) -> str:
    """A message that names the line and the byte."""
    if not error.encoding.startswith("utf-8"):
        encoding = error.encoding.upper()
        return f"{path}, after line {lines_read}: damaged {encoding}: {error.reason}"
    with _opened(path) as raw:
        for number, line in enumerate(raw, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as line_error:
                start = line_error.start
                return (
                    f"{path}, line {number}: byte {start + 1} of the line (0x{line[start]:02x}) is "
                    "not UTF-8; save the file as UTF-8"
                )
    return f"{path}: not UTF-8: {error.reason}"
