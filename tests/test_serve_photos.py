"""The photos of an index on a server: equal ids, and its caches."""

from pathlib import Path

import pytest
from index_photos import picture

from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.images import Opener
from patchword.index import open_index, schema
from patchword.index.schema import id_of
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.photos import Collection
from patchword.serve.request_warnings import collect_warnings


def test_photos_with_the_same_id_are_named_and_not_confused(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id is a hash of a path. Of two photos with the same id none is shown and both are named;
    other photos are not affected."""
    monkeypatch.setattr(schema, "ID_BITS", 2)
    photos = [picture(tmp_path / f"{number}.png", number) for number in range(20)]
    ids = {photo: id_of(str(photo)) for photo in photos}
    first, second = next((a, b) for a in photos for b in photos if a != b and ids[a] == ids[b])
    third = next(photo for photo in photos if ids[photo] != ids[first])
    index = open_index(tmp_path / "index")
    index.add([first, second, third], model)
    collection = Collection(index, Opener())
    with collect_warnings() as warnings:
        hits = collection.search(model, model.embed_images([first])[0], 3, 0, None)
    assert {hit["path"] for hit in hits} == {str(first), str(second), str(third)}
    assert any("have the same id" in message for message in warnings)
    for method in (collection.path_of, collection.thumbnail, collection.photo, collection.row):
        with pytest.raises(IndexStoreError, match="have the same id") as caught:
            method(ids[first])
        assert str(first) in str(caught.value)
        assert str(second) in str(caught.value)
        assert refusal_of(caught.value).status == 409
    assert collection.path_of(ids[third]) == str(third)


def test_a_photo_that_is_removed_while_it_is_read_is_not_cached(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [picture(tmp_path / f"{number}.png", number) for number in range(3)]
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    collection = Collection(index, Opener())
    read_rows = collection.index.rows

    def rows(*arguments: object) -> object:
        result = read_rows(*arguments)
        index.remove(photos[0])
        collection._refresh()  # as another request does
        return result

    number = id_of(str(photos[0]))
    for method in (collection.path_of, collection.thumbnail):
        index.add(photos, model)
        monkeypatch.setattr(index, "rows", rows)
        method(number)
        monkeypatch.undo()
        with pytest.raises(RefusalError, match="the index has no photo"):
            method(number)
