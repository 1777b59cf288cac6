"""What a server remembers of an index's photos."""

from pathlib import Path

import pytest
from indexed import picture

from patchword.bundle import Bundle
from patchword.images import Opener
from patchword.index import open_index
from patchword.index.schema import id_of
from patchword.serve.photos import Collection
from patchword.serve.refusals import RefusalError


def test_what_is_removed_while_it_is_read_is_not_remembered(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [picture(tmp_path / f"{number}.png", number) for number in range(3)]
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    collection = Collection(index, Opener())
    read = collection.index.rows

    def rows(*given: object) -> object:
        found = read(*given)
        index.remove(photos[0])
        collection._fresh()  # as another request does
        return found

    number = id_of(str(photos[0]))
    for asked in (collection.path_of, collection.thumbnail):
        index.add(photos, model)
        monkeypatch.setattr(index, "rows", rows)
        asked(number)
        monkeypatch.undo()
        with pytest.raises(RefusalError, match="the index has no photo"):
            asked(number)
