"""The JSON files of a checkpoint, parsed when read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchword.errors import CheckpointError

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # of an image processor
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "added_tokens.json",
)


class Files(Mapping[str, Any]):
    """The JSON files of a folder by name, parsed when read.

    tokenizer, processor: other folders to take the files of the tokenizer (`TOKENIZER_FILES`) and
    of the image processor (`PROCESSOR_FILES`) from, if they have any. known: contents of files that
    are missing. Raises CheckpointError for a file that is not JSON.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Path | None = None,
        processor: Path | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.tokenizer, self.processor = folder, folder
        self.known = known or {}
        if tokenizer is not None and any((tokenizer / name).is_file() for name in TOKENIZER_FILES):
            self.tokenizer = tokenizer
        if processor is not None and any((processor / name).is_file() for name in PROCESSOR_FILES):
            self.processor = processor
        self._parsed: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self.known:
            return self.known[name]
        if name not in self._parsed:
            path = self._folder_of(name) / name
            if not name.endswith(".json") or not path.is_file():
                raise KeyError(name)
            self._parsed[name] = parse(path)
        return self._parsed[name]

    def _folder_of(self, name: str) -> Path:
        if name in TOKENIZER_FILES:
            return self.tokenizer
        return self.processor if name in PROCESSOR_FILES else self.folder

    def unread(self) -> Files:
        """The same files, none of them read yet."""
        return Files(self.folder, self.tokenizer, self.processor, self.known)

    @property
    def parsed(self) -> tuple[str, ...]:
        """The files that were read so far, in order."""
        return tuple(self._parsed)

    def __iter__(self) -> Iterator[str]:
        names = {path.name for path in self.folder.glob("*.json")}
        return iter(sorted(names | self.known.keys()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class RemoteFiles(Mapping[str, Any]):
    """The JSON files of a remote repository, each downloaded when it is read.

    names: of all files of the repository. fetch: downloads one and returns its path.
    """

    def __init__(self, names: Sequence[str], fetch: Callable[[str], str | Path]) -> None:
        self.names, self.fetch = names, fetch

    def __getitem__(self, name: str) -> Any:
        if name not in self.names or not name.endswith(".json"):
            raise KeyError(name)
        return parse(Path(self.fetch(name)))

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.names if name.endswith(".json"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def json_object(parent: Mapping[str, Any], name: str) -> dict[Any, Any]:
    """The object in a JSON file of `Files`, or under a key of another object; an empty one if there
    is none."""
    content = parent.get(name)
    return content if isinstance(content, dict) else {}


def parse(path: Path) -> Any:
    """The content of a JSON file. Raises CheckpointError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
