"""Tables of JSON objects: an object per line, a list of objects, or COCO's file of captions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from patchword.data.rows import listed, parsed_json, recipe_lines, suffix_of
from patchword.errors import RecipeError

CHECKED = 64  # images of COCO's file that are looked for in the folders around it

# The place of a row ("line 3", or "entry 3" of a list), its JSON text, its value.
Record = tuple[str, str, dict[str, Any]]


def json_records(file: Path) -> Iterator[Record]:
    """The objects of a .jsonl or .json file. Raises RecipeError, with the line or entry, for
    anything that is not a JSON object."""
    is_first = True  # then all lines together may be one value
    lines = recipe_lines(file)
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        if is_first and (text.lstrip().startswith("[") or _begins_object(file, text)):
            value = _parsed(text + "".join(lines), file, number)
            yield from _table(value, file, number)
            return
        value = _parsed(text.rstrip(), file, number)
        if not isinstance(value, dict):
            raise RecipeError(f"{file}, line {number}: not a JSON object")
        if is_first and _is_dataset(value):
            yield from _table(value, file, number)
        else:
            yield f"line {number}", text, value
        is_first = False


def _begins_object(file: Path, text: str) -> bool:
    """Whether the first line of a .json file begins an object that takes several lines."""
    if suffix_of(file) != ".json":
        return False
    try:
        json.loads(text)
    except RecursionError:
        return False
    except ValueError:
        return text.lstrip().startswith("{")
    return False


def _parsed(text: str, file: Path, number: int) -> Any:
    """The value of a JSON text that begins in line `number`."""
    try:
        value = parsed_json(text)
        if "\\u" in text:  # a lone surrogate cannot be written as UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RecipeError(f"{file}, line {number}: a text that is not Unicode ({error})") from error
    except ValueError as error:
        line = number - 1 + getattr(error, "lineno", 1)
        raise RecipeError(f"{file}, line {line}: not JSON ({error})") from error
    return value


def _is_dataset(value: Mapping[str, Any]) -> bool:
    """Whether an object is a whole dataset, in COCO's format or that of Karpathy's splits."""
    return isinstance(value.get("images"), list) and len(value) > 1


def _table(value: Any, file: Path, number: int) -> Iterator[Record]:
    """The rows of a value that is a whole table and begins in line `number`."""
    where = f"{file}, line {number}"
    if isinstance(value, list):
        rows = value
    elif _is_dataset(value):
        rows = _dataset_rows(value, where, file.parent)
    else:
        raise RecipeError(
            f"{where}: one object, with {listed(list(value))}; a table is one object per line, a "
            "list of objects, or COCO's file of captions"
        )
    for entry, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RecipeError(f"{where}: not a JSON object (entry {entry})")
        yield f"entry {entry}", json.dumps(row), row


def _dataset_rows(value: Mapping[str, Any], where: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a dataset that is one object, with paths relative to `folder`."""
    images = value["images"]
    if images and isinstance(images[0], dict) and "sentences" in images[0]:
        raise RecipeError(
            f"{where}: Karpathy's file of several splits; write the images of one as a .jsonl with "
            'file_name and captions, {"file_name": "val2014/1.jpg", "captions": ["...", "..."]}'
        )
    rows = _coco_rows(images, value.get("annotations"), where)
    start = _image_folder(folder, [row["file_name"] for row in rows[:CHECKED]])
    for row in rows:
        row["file_name"] = os.path.normpath(os.path.join(start, row["file_name"]))
    return rows


def _image_folder(folder: Path, names: list[str]) -> str:
    """The folder of a file's images, relative to the file's `folder`; "" if it is not found. It may
    be that folder, one in it, or one beside it, as in COCO's layout of annotations/ and
    val2017/."""
    candidates = [folder, *sorted(folder.glob("*/")), *sorted(folder.parent.glob("*/"))]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names):
            return os.path.relpath(candidate, folder)
    return ""


def _coco_rows(images: list[Any], annotations: Any, where: str) -> list[dict[str, Any]]:
    """A row for each image of COCO's format (https://cocodataset.org/#format-data, "Image
    Captioning"), with all its captions, which may be none."""
    rows: dict[Any, dict[str, Any]] = {}
    try:
        for image in images:
            if image["id"] in rows:
                raise RecipeError(f"{where}: two images have the id {image['id']!r}")
            rows[image["id"]] = {"file_name": image["file_name"], "captions": []}
        for number, annotation in enumerate(annotations or (), start=1):
            image_id = annotation["image_id"]
            if image_id not in rows:
                raise RecipeError(
                    f"{where}: annotation {number} is of image {image_id!r}, which is not among "
                    "the images"
                )
            rows[image_id]["captions"].append(annotation["caption"])
    except (KeyError, TypeError) as error:
        reason = f"without {error}" if isinstance(error, KeyError) else f"not as expected ({error})"
        raise RecipeError(
            f"{where}: COCO's file of captions has images with id and file_name, and annotations "
            f"with image_id and caption; here is one {reason}"
        ) from error
    return list(rows.values())
