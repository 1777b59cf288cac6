"""What an index stores of each image beside its vector, and how that is read."""

import io
import json
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest
from index_photos import picture
from PIL import Image

from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.index import open_index
from patchword.index.metadata import read_table
from patchword.index.schema import id_of
from patchword.index.table import Store


def test_size_hash_and_thumbnail_of_each_image(tmp_path: Path, model: Bundle) -> None:
    small = picture(tmp_path / "small.png", 1)
    large = picture(tmp_path / "large.jpg", 2, (1001, 500))  # decoded smaller, then 126 x 63
    turned = Image.open(large)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    index = open_index(tmp_path / "index")
    index.add(tmp_path, model)
    rows = index.rows([id_of(str(tmp_path / n)) for n in ("turned.jpg", "small.png", "large.jpg")])
    assert [Path(row["path"]).name for row in rows] == ["turned.jpg", "small.png", "large.jpg"]
    assert [(r["width"], r["height"]) for r in rows] == [(500, 1001), (40, 36), (1001, 500)]
    assert [row["size"] for row in rows[1:]] == [small.stat().st_size, large.stat().st_size]
    assert len({row["hash"] for row in rows}) == 3
    assert "vector" not in rows[0]
    sizes = {"turned.jpg": (128, 256), "small.png": (40, 36), "large.jpg": (256, 128)}
    for row in rows:
        jpeg = index.row(row["id"], ["thumbnail"])["thumbnail"]
        shown = Image.open(io.BytesIO(jpeg))
        assert (shown.format, shown.size) == ("JPEG", sizes[Path(row["path"]).name])
    picture(small, 9, (80, 36))
    index.add(small, model, thumbnails=False)
    changed = index.row(rows[1]["id"], ["id", "width", "thumbnail"])
    assert changed == {"id": rows[1]["id"], "width": 80, "thumbnail": None}


def test_rows_and_columns(tmp_path: Path, model: Bundle) -> None:
    photo = picture(tmp_path / "a.png", 1)
    index = open_index(tmp_path / "index")
    index.add(photo, model)
    number = id_of(str(photo))
    assert 0 < number < 2**53
    kinds = index.columns
    assert (kinds["path"], kinds["width"], kinds["modified"]) == ("text", "number", "time")
    assert (kinds["tags"], kinds["vector"], kinds["thumbnail"]) == ("list", "vector", "bytes")
    assert not {"mtime", "time_sum", "vector_sum"} & kinds.keys()
    assert index.rows([]) == []
    assert index.rows([number, number], ["caption"]) == [{"caption": None}] * 2
    with pytest.raises(IndexStoreError, match=r"no row of id 7$"):
        index.rows([number, 7])
    with pytest.raises(IndexStoreError, match=r"no column captio \(do you mean caption\?\)"):
        index.row(number, ["captio"])


def test_columns_are_added_and_updated_by_path(tmp_path: Path, model: Bundle) -> None:
    photos = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    store = Store(str(tmp_path / "index"))
    paths = [str(photos[2]), str(photos[0]), "/nowhere.png"]
    store.update(pa.table({"path": paths, "price": [2.5, 0.5, 9.0], "caption": ["c", "a", "n"]}))
    assert (len(index), index.columns["price"]) == (3, "number")
    rows = index.rows([id_of(str(photo)) for photo in photos], ["caption", "price"])
    assert [tuple(row.values()) for row in rows] == [("a", 0.5), (None, None), ("c", 2.5)]
    before = index.search("a dog")
    picture(photos[0], 77)
    index.add(photos, model)  # what was said of the old content is gone, the caller's own stays
    assert index.row(id_of(str(photos[0])), ["caption", "price"]) == {"caption": None, "price": 0.5}
    assert len(index.search("a dog")) == len(before) == 3


@pytest.mark.parametrize(("number", "age"), [(2, "an earlier"), (99, "a later")])
def test_an_index_of_another_format_is_indexed_anew_when_asked(
    tmp_path: Path, model: Bundle, number: int, age: str
) -> None:
    photo = picture(tmp_path / "a.png", 1)
    metadata = {"format": number, "dim": 2, "model": "tiny", "fingerprint": model.fingerprint}
    columns = pa.schema([("path", pa.string())], metadata={"patchword": json.dumps(metadata)})
    lancedb.connect(tmp_path / "other").create_table("images", schema=columns)
    (tmp_path / "other" / "version.json").write_text('{"version": 1, "rows": 0}')
    index = open_index(tmp_path / "other")
    message = rf"made by {age} version of patchword \(format {number}, .*index again: .* --reindex"
    for action in (lambda: index.add(photo, model), lambda: index.search("a dog", model=model)):
        with pytest.raises(IndexStoreError, match=message):
            action()
    assert index.add(photo, model, reindex=True).added == 1
    assert len(open_index(tmp_path / "other")) == 1
    with pytest.raises(IndexStoreError, match="holds other files"):
        open_index(tmp_path).add(photo, model, reindex=True)
    assert photo.exists()


def test_empty_values_of_a_column_that_is_called_like_a_keyword(
    tmp_path: Path, model: Bundle
) -> None:
    photos = [picture(tmp_path / f"{i}.png", i) for i in range(2)]
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    for name in ("null", "true", "interval"):
        index.fill([str(photos[0])], {name: [1]})
        assert index.empty(name) == [str(photos[1])]


def test_integers_are_never_rounded(tmp_path: Path, model: Bundle) -> None:
    (tmp_path / "ids.csv").write_text(
        "path,post,code,size,mixed\na.jpg,1234567890123456789,10000000000000000000003,1.5,0.5\n"
        "b.jpg,1234567890123456788,7,3,9007199254740993\n"
    )
    columns = read_table(str(tmp_path / "ids.csv")).to_pydict()
    assert columns["post"] == [1234567890123456789, 1234567890123456788]
    assert columns["code"] == ["10000000000000000000003", "7"]
    assert columns["size"] == [1.5, 3.0]
    assert columns["mixed"] == ["0.5", "9007199254740993"]
    photo = picture(tmp_path / "a.png", 1)
    index = open_index(tmp_path / "index")
    index.add(photo, model)
    index.fill([str(photo)], {"code": [2**63 + 5]})
    assert index.row(id_of(str(photo)), ["code"]) == {"code": str(2**63 + 5)}


def test_numbers_with_decimal_commas_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "de.csv").write_text("path;price;note\na.jpg;3,14;a, b\nb.jpg;2;c\n")
    with pytest.warns(UserWarning, match="column price is kept as text: .* commas, as 3,14;"):
        table = read_table(str(tmp_path / "de.csv"))
    assert table.column("price").to_pylist() == ["3,14", "2"]
