"""Texts and labels on the command line: which arguments are images and which are texts, lists in
files, and common mistakes."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from typing import NoReturn

from patchword.cli.inputs import STDIN, expand
from patchword.cli.member_images import Source
from patchword.cli.output import notes, refuse
from patchword.cli.suggestions import near_file
from patchword.errors import PatchwordError

_COMMAS = re.compile("[,，、]")
_LIST_SUFFIXES = (".txt", ".csv", ".tsv")
# Words that do not describe what is in an image.
FUNCTION_WORDS = frozenset(
    {"a", "an", "the", "of", "with", "in", "on", "at", "to", "by", "for", "from", "and", "or"}
    | {"is", "are", "this", "that", "there"}
)


def images_then_texts(
    arguments: Sequence[str],
    texts: Sequence[str] | None,
    option: str,
    split: bool = False,
    questions: bool = False,
) -> tuple[list[Source], list[str]]:
    """The images, and the texts that follow them among the arguments. Where `texts` are given by
    `option`, every argument is an image.

    The first argument is an image. So is each one after it that is a file, a folder, a glob, a list
    of images, an address, "-", or has the suffix of a picture, up to the first that is none.
    split: texts are labels, see `read_list`. questions: several arguments of one word each are one
    question without quotes.
    """
    names = list(arguments)
    given = list(texts or ())
    if given:
        _check_stray_texts(names, given, option)
    else:
        count = 1
        while count < len(names) and _is_image(names[count]):
            count += 1
        names, given = names[:count], names[count:]
        for text in given:
            if os.path.exists(text):
                refuse(f"{text} is a file and comes after a text; images come first, then texts")
            if " " not in text and not text.startswith("@") and _is_image(text):
                refuse(
                    f"{text}: no such file{near_file(text)}, and it comes after a text; images "
                    "come first, then texts"
                )
        for name in names[1:]:
            if os.path.isdir(name) and name.isalnum():
                notes().print(f"{name}: taken as the folder of that name; as a text: {option}")
    if not split:
        given = _join_unquoted(given, option, questions)
    return expand(names), read_list(given, split)


def _join_unquoted(texts: list[str], option: str, questions: bool) -> list[str]:
    """Texts. Several of one word each become one question, or are refused where one of them is a
    function word, so that together they are probably one text without quotes."""
    if len(texts) < 2 or any(" " in text or text.startswith("@") for text in texts):
        return texts
    joined = " ".join(texts)
    if questions:
        notes().print(f'taken as one question: "{joined}"; several are written each in quotes')
        return [joined]
    if FUNCTION_WORDS & {text.lower() for text in texts}:
        refuse(
            f'several words that are one text stand in quotes: "{joined}", or {option} "{joined}"'
        )
    return texts


def read_list(values: Sequence[str] | None, split: bool = False) -> list[str]:
    """The entries of a repeated option. "@FILE" stands for the lines of a file (see `list_lines`).
    split: entries are separated by commas, also Chinese ones."""
    entries: list[str] = []
    for value in values or ():
        if value.startswith("@"):
            entries += _lines(value[1:])
            continue
        if split:
            entries += _split_at_commas(value)
        elif value.strip():
            entries.append(value.strip())
        else:
            refuse("an empty text is given; leave it out, or say something")
        suffix = os.path.splitext(value)[1]
        if suffix.lower() in _LIST_SUFFIXES:
            refuse(f"{value}: did you mean @{value}, the lines of the file?")
        if suffix and os.path.isfile(value):
            refuse(f"{value} is a file and stands where a text is wanted; images come first")
    return entries


def _split_at_commas(value: str) -> list[str]:
    """The entries between commas. One comma may follow the last entry, as where quotes are missing
    around "cat, dog". An empty entry is refused."""
    entries = [entry.strip() for entry in _COMMAS.split(value)]
    if len(entries) > 1 and not entries[-1]:
        entries.pop()
    if "" in entries:
        refuse(f"an empty text is given: {value!r}; leave it out, or say something")
    return entries


def no_texts(what: str, option: str) -> NoReturn:
    """Refuse images without texts."""
    refuse(f"give {what} after the images, each in quotes, or by {option}")


def _lines(path: str) -> list[str]:
    """The lines of a list. A file that is missing or that seems to hold comments is refused."""
    from patchword.text.lines import list_lines

    if not os.path.exists(path):
        refuse(f"@{path}: no such file")
    try:
        lines = list_lines(path)
    except PatchwordError as error:
        refuse(f"@{error}")
    for number, line in enumerate(lines, start=1):
        if re.match(r"#(\s|$)", line):
            refuse(f"@{path}, line {number}: {line!r}: lists have no comments; take it out")
    hashes = [line for line in lines if line.startswith("#")]
    if hashes:
        notes().print(f"@{path}: {hashes[0]!r} is taken as a text; lists have no comments")
    return lines


def _is_image(name: str) -> bool:
    """Whether an argument after the first names images."""
    if name.startswith("@"):
        first = next(iter(_lines(name[1:])), "")
        return not first.startswith("@") and _is_image(first)
    from patchword.images.pages import split
    from patchword.images.urls import is_url

    file = split(name)[0]  # without a page: stack.tif of stack.tif#3
    if name == STDIN or is_url(name) or os.path.exists(file) or glob.glob(name):
        return True
    suffix = os.path.splitext(file)[1].lower()
    if not suffix or suffix.endswith((" ", ".")):
        return False
    from patchword.images.files import picture_suffixes

    return suffix in picture_suffixes()


def _check_stray_texts(names: Sequence[str], texts: Sequence[str], option: str) -> None:
    """Refuse texts among the images, behind an option that takes one value: -t "cat" "dog"."""
    without_suffix = [n for n in names[1:] if n and not os.path.splitext(n)[1] and os.sep not in n]
    stray = [name for name in without_suffix if not _is_image(name)]
    if not stray:
        return
    flag, intended = option.split()[0], [*texts, *stray]
    if "label" in option:
        # Commas in the option and single words after it: a label lost its end, -l cat,hot dog
        label_was_cut = any("," in text for text in intended) and not any(" " in s for s in stray)
        separator = " " if label_was_cut else ","
        hint = f'several are written {flag} "{separator.join(intended)}"'
    elif FUNCTION_WORDS & {text.lower() for text in intended}:
        hint = f'a text of several words stands in quotes: {flag} "{" ".join(intended)}"'
    else:
        hint = "several are written " + " ".join(f'{flag} "{text}"' for text in intended)
    refuse(f"{', '.join(stray)}: no such file; {hint}")
