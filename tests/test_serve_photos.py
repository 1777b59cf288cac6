"""What a server remembers of an index's photos."""

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
from patchword.serve.request_warnings import heard


def test_two_photos_of_one_id_are_not_taken_for_each_other(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id is a hash of a path: where two have the same, none of them is shown, and both are
    named; the others are."""
    monkeypatch.setattr(schema, "ID_BITS", 2)
    photos = [picture(tmp_path / f"{number}.png", number) for number in range(20)]
    of = {photo: id_of(str(photo)) for photo in photos}
    one, other = next((a, b) for a in photos for b in photos if a != b and of[a] == of[b])
    third = next(photo for photo in photos if of[photo] != of[one])
    index = open_index(tmp_path / "index")
    index.add([one, other, third], model)
    collection = Collection(index, Opener())
    with heard() as warnings:
        hits = collection.search(model, model.embed_images([one])[0], 3, 0, None)
    assert {hit["path"] for hit in hits} == {str(one), str(other), str(third)}
    assert any("have the same id" in said for said in warnings)
    number = of[one]
    for asked in (collection.path_of, collection.thumbnail, collection.photo, collection.about):
        with pytest.raises(IndexStoreError, match="have the same id") as caught:
            asked(number)
        assert str(one) in str(caught.value)
        assert str(other) in str(caught.value)
        assert refusal_of(caught.value).status == 409
    assert collection.path_of(of[third]) == str(third)


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
