"""Which files of a tar are one sample, and which of them is its image, its caption, its class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from patchword.data.rows import listed, parsed_json
from patchword.data.tar_files import DamagedError, Member, Tar
from patchword.errors import RecipeError, counted, warn
from patchword.images.files import picture_suffixes
from patchword.text.lines import encoding_of

TEXTS = ("txt", "text", "caption")  # suffixes of a caption
CLASS = "cls"  # the suffix of a class
READ = (*TEXTS, CLASS, "json")  # suffixes of what is read at the start
PREFERRED = ("jpg", "png", "jpeg", "webp")  # of several images, as open_clip takes them
_OWN = re.compile(r"__[^/]*__($|/)")  # names of webdataset's own files


@dataclass
class Found:
    """One sample."""

    tar: int
    key: str
    pictures: dict[str, Member] = field(default_factory=dict)  # by suffix
    texts: dict[str, str] = field(default_factory=dict)  # the same
    image: Member | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


class SampleReader:
    """Reads the samples of tars, and warns of what it did not use."""

    def __init__(self, wanted: Sequence[str], read: set[str]) -> None:
        """wanted: suffixes of images; none: the usual ones. read: suffixes of texts."""
        self.wanted, self.read = wanted, read
        self.usual = picture_suffixes()
        self.several: list[Found] = []  # samples of several images, none of them named
        self.alone: list[str] = []  # files that belong to no sample

    def samples(self, number: int, tar: Tar) -> Iterator[Found]:
        """The samples of one tar. A damaged tar gives those before the damage, and one with a
        fault."""
        last: Found | None = None
        known: dict[str, bool] = {}
        try:
            for member in tar.members():
                folder, slash, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                if not stem or _OWN.match(member.name):
                    continue
                if not suffix:
                    self.alone.append(f"{tar.path}/{member.name}")
                    continue
                key = f"{folder}{slash}{stem}"
                if last is None or last.key != key:
                    if last is not None:
                        yield self._completed(last, tar, known)
                    last = Found(number, key)
                self._add(last, tar, member, suffix.lower())
        except DamagedError as error:
            if last is None:
                raise RecipeError(f"{tar.path}: not a tar, plain or gzip: {error}") from error
            yield self._completed(last, tar, known)
            fault = f"the tar ends too early, or is damaged: {error}"
            yield Found(number, f"(after {last.key})", fault=fault)
            return
        if last is not None:
            yield self._completed(last, tar, known)

    def warn(self, tars: Sequence[str]) -> None:
        """Warn of images and files that were not used, in these tars together."""
        where = tars[0] if len(tars) == 1 else counted(len(tars), "tar")
        if self.several:
            one = self.several[0]
            assert one.image is not None
            key = one.key if len(tars) == 1 else f"{tars[one.tar]}/{one.key}"
            warn(
                f"{where}: {counted(len(self.several), 'sample has', 'samples have')} several "
                f"images, such as {key} with {listed([*one.pictures])}, of which "
                f"{one.image.name} is used; data.image chooses, by the suffix",
            )
        if self.alone:
            warn(
                f"{where}: {counted(len(self.alone), 'file')} without a suffix belong"
                f"{'s' * (len(self.alone) == 1)} to no sample, such as {self.alone[0]}",
            )

    def _add(self, found: Found, tar: Tar, member: Member, suffix: str) -> None:
        kind = suffix.rpartition(".")[2]
        is_text = kind in self.read or suffix in self.read
        is_picture = suffix in self.wanted or "." + kind in self.usual
        if not is_text and not is_picture:
            return
        if suffix in found.pictures or suffix in found.texts:
            found.fault = f"two of its files are called {member.name}"
        elif member.fault and not (is_picture and self.wanted and suffix not in self.wanted):
            found.fault = f"its .{suffix} {member.fault}"
        if is_picture:
            found.pictures[suffix] = member
            return
        try:
            content = b"" if member.fault else tar.read(member)
            found.texts[suffix] = content.decode(encoding_of(content))
        except ValueError as error:
            found.fault = f"its .{suffix} cannot be read: {error}"

    def _completed(self, found: Found, tar: Tar, known: dict[str, bool]) -> Found:
        """A sample all of whose files were read, with its image and its fields filled in."""
        if known.get(found.key, bool(found.pictures)) != bool(found.pictures):
            raise RecipeError(
                f"{tar.path}: the files of {found.key} are not next to each other; write the tar "
                "sorted by name: tar --sort=name"
            )
        known[found.key] = bool(found.pictures)
        found.image, inner = self._image(found, tar)
        _read_fields(found, inner)
        if found.image is None and found.fault is None:
            wanted = f" .{' or .'.join(self.wanted)}" if self.wanted else ""
            found.fault = f"no image{wanted} in this sample"
        return found

    def _image(self, found: Found, tar: Tar) -> tuple[Member | None, str]:
        """The image of a sample, and the part of its suffix before the last dot: of 000.left.jpg,
        "left"."""
        if self.wanted:
            name = next((name for name in self.wanted if name in found.pictures), "")
            return found.pictures.get(name), name.rpartition(".")[0]
        exact = [suffix for suffix in found.pictures if "." not in suffix]
        if not exact and len(found.pictures) > 1:
            raise RecipeError(
                f"{tar.path}: {found.key} has {len(found.pictures)} images, "
                f"{listed([*found.pictures])}: the name of a sample ends at its first dot, as for "
                "webdataset. Rename the files, or choose one image by data.image, its suffix"
            )
        chosen = next((each for each in PREFERRED if each in exact), "")
        chosen = chosen or next(iter(exact or found.pictures), "")
        if len(found.pictures) > 1:
            self.several.append(found)
        return found.pictures.get(chosen), chosen.rpartition(".")[0]


def _read_fields(found: Found, inner: str) -> None:
    """Fill in the fields of a sample: its texts by their suffixes, and the keys of its .json.
    Without 000.txt, 000.left.txt is taken, if there is no other or 000.left.jpg is the image."""
    found.fields = {s: t.strip() for s, t in found.texts.items() if not s.endswith("json")}
    for kind in READ:
        dotted = [suffix for suffix in found.texts if suffix.endswith(f".{kind}")]
        beside = f"{inner}.{kind}"
        if kind in found.texts:
            chosen = kind
        elif beside in dotted or len(dotted) == 1:
            chosen = beside if beside in dotted else dotted[0]
        else:
            if dotted:
                found.fault = f"several files may be its .{kind}: {listed(dotted)}"
            continue
        if kind != "json":
            found.fields[kind] = found.texts[chosen].strip()
            continue
        try:
            found.fields = {**_object(found.texts[chosen]), **found.fields}
        except ValueError as error:
            found.fault = f"its .{chosen} cannot be read: {error}"


def _object(text: str) -> dict[str, Any]:
    value = parsed_json(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
