"""Groups the files of a tar into samples, and finds the image, caption and class of each."""

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
READ = (*TEXTS, CLASS, "json")  # suffixes of files that are read at the start
PREFERRED = ("jpg", "png", "jpeg", "webp")  # of several images, in open_clip's order
_RESERVED = re.compile(r"__[^/]*__($|/)")  # names of webdataset's own files


@dataclass
class TarSample:
    """One sample."""

    tar: int  # the number of its tar
    key: str  # the name that its files share
    pictures: dict[str, Member] = field(default_factory=dict)  # by suffix
    texts: dict[str, str] = field(default_factory=dict)  # by suffix
    image: Member | None = None  # the picture that is used
    fields: dict[str, Any] = field(default_factory=dict)  # texts by suffix, values by .json key
    fault: str | None = None  # why it cannot be used


class SampleReader:
    """Reads the samples of tars, and warns of files that it did not use."""

    def __init__(self, wanted: Sequence[str], read: set[str]) -> None:
        """wanted: suffixes of images; empty: the usual ones. read: suffixes of texts."""
        self.wanted, self.read = wanted, read
        self.usual = picture_suffixes()
        self.ambiguous: list[TarSample] = []  # samples with several images, none of them wanted
        self.unused: list[str] = []  # files that belong to no sample

    def samples(self, number: int, tar: Tar) -> Iterator[TarSample]:
        """The samples of one tar. A damaged tar gives those before the damage, and one with a
        fault."""
        last: TarSample | None = None
        has_picture: dict[str, bool] = {}  # by key
        try:
            for member in tar.members():
                folder, slash, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                if not stem or _RESERVED.match(member.name):
                    continue
                if not suffix:
                    self.unused.append(f"{tar.path}/{member.name}")
                    continue
                key = f"{folder}{slash}{stem}"
                if last is None or last.key != key:
                    if last is not None:
                        yield self._completed(last, tar, has_picture)
                    last = TarSample(number, key)
                self._add(last, tar, member, suffix.lower())
        except DamagedError as error:
            if last is None:
                raise RecipeError(f"{tar.path}: not a tar, plain or gzip: {error}") from error
            yield self._completed(last, tar, has_picture)
            fault = f"the tar ends too early, or is damaged: {error}"
            yield TarSample(number, f"(after {last.key})", fault=fault)
            return
        if last is not None:
            yield self._completed(last, tar, has_picture)

    def warn(self, tars: Sequence[str]) -> None:
        """Warn of images and files that were not used, in all these tars."""
        where = tars[0] if len(tars) == 1 else counted(len(tars), "tar")
        if self.ambiguous:
            first = self.ambiguous[0]
            assert first.image is not None
            key = first.key if len(tars) == 1 else f"{tars[first.tar]}/{first.key}"
            warn(
                f"{where}: {counted(len(self.ambiguous), 'sample has', 'samples have')} several "
                f"images, such as {key} with {listed([*first.pictures])}, of which "
                f"{first.image.name} is used; data.image chooses, by the suffix",
            )
        if self.unused:
            files = counted(len(self.unused), "file")
            verb = "belongs" if len(self.unused) == 1 else "belong"
            warn(f"{where}: {files} without a suffix {verb} to no sample, such as {self.unused[0]}")

    def _add(self, sample: TarSample, tar: Tar, member: Member, suffix: str) -> None:
        """Add a file to its sample, if it is a picture or a text."""
        kind = suffix.rpartition(".")[2]
        is_text = kind in self.read or suffix in self.read
        is_picture = suffix in self.wanted or "." + kind in self.usual
        if not is_text and not is_picture:
            return
        if suffix in sample.pictures or suffix in sample.texts:
            sample.fault = f"two of its files are called {member.name}"
        elif member.fault and not (is_picture and self.wanted and suffix not in self.wanted):
            sample.fault = f"its .{suffix} {member.fault}"
        if is_picture:
            sample.pictures[suffix] = member
            return
        try:
            content = b"" if member.fault else tar.read(member)
            sample.texts[suffix] = content.decode(encoding_of(content))
        except ValueError as error:
            sample.fault = f"its .{suffix} cannot be read: {error}"

    def _completed(self, sample: TarSample, tar: Tar, has_picture: dict[str, bool]) -> TarSample:
        """The sample with its image and its fields filled in. All its files have been added."""
        if has_picture.get(sample.key, bool(sample.pictures)) != bool(sample.pictures):
            raise RecipeError(
                f"{tar.path}: the files of {sample.key} are not next to each other; write the tar "
                "sorted by name: tar --sort=name"
            )
        has_picture[sample.key] = bool(sample.pictures)
        sample.image, inner = self._image(sample, tar)
        _read_fields(sample, inner)
        if sample.image is None and sample.fault is None:
            wanted = f" .{' or .'.join(self.wanted)}" if self.wanted else ""
            sample.fault = f"no image{wanted} in this sample"
        return sample

    def _image(self, sample: TarSample, tar: Tar) -> tuple[Member | None, str]:
        """The image of a sample, and the part of its suffix before the last dot: "left" for
        000.left.jpg."""
        if self.wanted:
            name = next((name for name in self.wanted if name in sample.pictures), "")
            return sample.pictures.get(name), name.rpartition(".")[0]
        exact = [suffix for suffix in sample.pictures if "." not in suffix]
        if not exact and len(sample.pictures) > 1:
            raise RecipeError(
                f"{tar.path}: {sample.key} has {len(sample.pictures)} images, "
                f"{listed([*sample.pictures])}: the name of a sample ends at its first dot, as for "
                "webdataset. Rename the files, or choose one image by data.image, its suffix"
            )
        preferred = [suffix for suffix in PREFERRED if suffix in exact]
        chosen = next(iter(preferred or exact or sample.pictures), "")
        if len(sample.pictures) > 1:
            self.ambiguous.append(sample)
        return sample.pictures.get(chosen), chosen.rpartition(".")[0]


def _read_fields(sample: TarSample, inner: str) -> None:
    """Fill in the fields of a sample: its texts by suffix, and the keys of its .json. If there is
    no 000.txt, 000.left.txt is used, if it is the only such text or 000.left.jpg is the image."""
    for suffix, text in sample.texts.items():
        if not suffix.endswith("json"):
            sample.fields[suffix] = text.strip()
    for kind in READ:
        dotted = [suffix for suffix in sample.texts if suffix.endswith(f".{kind}")]
        if kind in sample.texts:
            chosen = kind
        elif f"{inner}.{kind}" in dotted:
            chosen = f"{inner}.{kind}"
        elif len(dotted) == 1:
            chosen = dotted[0]
        else:
            if dotted:
                sample.fault = f"several files may be its .{kind}: {listed(dotted)}"
            continue
        if kind != "json":
            sample.fields[kind] = sample.texts[chosen].strip()
            continue
        try:
            sample.fields = {**_object(sample.texts[chosen]), **sample.fields}
        except ValueError as error:
            sample.fault = f"its .{chosen} cannot be read: {error}"


def _object(text: str) -> dict[str, Any]:
    value = parsed_json(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
