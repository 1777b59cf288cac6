"""Texts and labels as the command line gives them: which arguments are images and which are texts,
lists in files, and what people type from habit."""

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

_BETWEEN_LABELS = re.compile("[,，、]")
_LISTS = (".txt", ".csv", ".tsv")  # what lists of labels are called
# Words that say nothing of what is in an image.
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
    """The images, and the texts that follow them; where `texts` are given by the option, every
    argument is an image.

    The first argument is an image, and each one after it that is a file, a folder, a glob, a list
    of images, an address, "-", or is called like a picture. A name that matches nothing stays.
    split: texts are labels, see `read_list`. questions: several of one word each are one whose
    quotes were forgotten.
    """
    names = list(arguments)
    said = list(texts or ())
    if said:
        _check_bare(names, said, option)
    else:
        count = next((i for i, name in enumerate(names) if i and not _is_image(name)), len(names))
        names, said = names[:count], names[count:]
        for text in said:
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
        said = _in_quotes(said, option, questions)
    return expand(names), read_list(said, split)


def _in_quotes(said: list[str], option: str, questions: bool) -> list[str]:
    """Texts; single words that only together make sense are one question, or refused."""
    single = len(said) > 1 and not any(" " in text or text.startswith("@") for text in said)
    whole = " ".join(said)
    if single and questions:
        notes().print(f'taken as one question: "{whole}"; several are written each in quotes')
        return [whole]
    if single and FUNCTION_WORDS & {text.lower() for text in said}:
        refuse(f'several words that are one text stand in quotes: "{whole}", or {option} "{whole}"')
    return said


def read_list(values: Sequence[str] | None, split: bool = False) -> list[str]:
    """The entries of a repeated option; "@FILE" stands for the lines of a file (see `list_lines`),
    and with `split` commas, also Chinese ones, separate entries."""
    out: list[str] = []
    for value in values or ():
        if value.startswith("@"):
            out += _lines(value[1:])
        elif split:
            out += _between_commas(value)
        elif value.strip():
            out.append(value.strip())
        else:
            refuse("an empty text is given; leave it out, or say something")
        if (suffix := os.path.splitext(value)[1]) and not value.startswith("@"):
            if suffix.lower() in _LISTS:
                refuse(f"{value}: did you mean @{value}, the lines of the file?")
            if os.path.isfile(value):
                refuse(f"{value} is a file and stands where a text is wanted; images come first")
    return out


def _between_commas(value: str) -> list[str]:
    """Entries that commas separate; one comma may follow the last, as in: cat, dog without quotes.
    Wrong usage: an empty entry."""
    words = [word.strip() for word in _BETWEEN_LABELS.split(value)]
    if len(words) > 1 and not words[-1]:
        words.pop()
    if "" in words:
        refuse(f"an empty text is given: {value!r}; leave it out, or say something")
    return words


def no_texts(what: str, option: str) -> NoReturn:
    """Wrong usage: images alone."""
    refuse(f"give {what} after the images, each in quotes, or by {option}")


def _lines(path: str) -> list[str]:
    from patchword.text.lines import list_lines

    if not os.path.exists(path):
        refuse(f"@{path}: no such file")
    try:
        found = list_lines(path)
    except PatchwordError as error:
        refuse(f"@{error}")
    for number, line in enumerate(found, start=1):
        if re.match(r"#(\s|$)", line):
            refuse(f"@{path}, line {number}: {line!r}: lists have no comments; take it out")
    if hashes := [line for line in found if line.startswith("#")]:
        notes().print(f"@{path}: {hashes[0]!r} is taken as a text; lists have no comments")
    return found


def _is_image(name: str) -> bool:
    """Whether an argument after the first names images."""
    if name.startswith("@"):
        first = next(iter(_lines(name[1:])), "")
        return not first.startswith("@") and _is_image(first)
    from patchword.images.pages import split
    from patchword.images.urls import is_url

    file = split(name)[0]  # stack.tif, of stack.tif#3
    if name == STDIN or is_url(name) or os.path.exists(file) or glob.glob(name):
        return True
    suffix = os.path.splitext(file)[1].lower()
    if not suffix or suffix.endswith((" ", ".")):
        return False
    from patchword.images.files import picture_suffixes

    return suffix in picture_suffixes()


def _check_bare(names: Sequence[str], said: Sequence[str], option: str) -> None:
    """Refuse words among the images: further values of an option that takes one value."""
    plain = [n for n in names[1:] if n and not os.path.splitext(n)[1] and os.sep not in n]
    words = [name for name in plain if not _is_image(name)]
    if not words:
        return
    first, meant = option.split()[0], [*said, *words]
    if "label" in option:
        # An option that held commas lost the rest of its last label: --labels cat,hot dog
        cut = any("," in text for text in meant) and not any(" " in word for word in words)
        between = " " if cut else ","
        hint = f'several are written {first} "{between.join(meant)}"'
    elif FUNCTION_WORDS & {text.lower() for text in meant}:
        hint = f'a text of several words stands in quotes: {first} "{" ".join(meant)}"'
    else:
        hint = "several are written " + " ".join(f'{first} "{text}"' for text in meant)
    refuse(f"{', '.join(words)}: no such file; {hint}")
