"""What an index is built from beside folders of files: tars, tables, vectors made elsewhere."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_photos import clip_retrieval_folder, picture, rows
from numpy.testing import assert_allclose
from pyarrow import fs

import patchword
from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError
from patchword.index import AddReport, Index, members, object_storage, open_index, putting
from patchword.index.schema import id_of


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return open_index(tmp_path / "index")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [picture(tmp_path / "photos" / f"{name}.png", i) for i, name in enumerate("abcde")]


def row(index: Index, path: str | Path, *columns: str) -> tuple[object, ...]:
    return tuple(index.row(id_of(str(path)), columns).values())


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are opened from now on."""
    opened: list[str] = []
    sized = patchword.images.Opener.sized

    def counting(self: object, image: object, **options: object) -> object:
        opened.append(str(image))
        return sized(self, image, **options)

    monkeypatch.setattr(patchword.images.Opener, "sized", counting)
    return opened


def test_a_tar_with_captions(tmp_path: Path, index: Index, model: Bundle) -> None:
    loose = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    tar = tmp_path / "some.photos.tar"
    with tarfile.open(tar, "w") as file:
        for photo in loose:
            file.add(photo, f"deep/{photo.name}")
        for name, text in {
            "deep/0.txt": "a red hat\n",
            "deep/1.json": json.dumps({"url": "http://x/1", "likes": 7, "caption": "from json"}),
            "deep/2.jpg": "no picture",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            file.addfile(info, io.BytesIO(text.encode()))
    report = index.add(tar, model)
    assert (report.added, len(report.failed)) == (3, 1)
    assert str(report.failed[0]).startswith(f"{tar}/deep/2.jpg: not an image")
    first = f"{tar}/deep/0.png"
    assert row(index, first, "caption", "width", "size") == (
        "a red hat",
        40,
        loose[0].stat().st_size,
    )
    assert row(index, f"{tar}/deep/1.png", "caption", "likes", "url") == (
        "from json", 7, "http://x/1",
    )  # fmt: skip
    paths, vectors = rows(tmp_path / "index")
    order = [paths.index(f"{tar}/deep/{i}.png") for i in range(3)]
    assert_allclose(vectors[order], model.embed_images(loose), rtol=1e-5, atol=1e-6)
    assert index.content(id_of(first)) == loose[0].read_bytes()
    again = index.add(tar, model)
    assert (again.added, again.unchanged, again.not_retried) == (0, 3, 1)
    assert index.gone() == []
    tar.write_bytes(tar.read_bytes()[:3000])  # what is left of it is not lost
    cut = index.add(tar, model)
    assert "damaged" in str(cut.failed[0]) or "cut off" in str(cut.failed[0])
    with pytest.raises(ImageError):
        index.content(id_of(f"{tar}/deep/2.png"))
    tar.unlink()
    assert len(index.prune()) == 2  # the first was tried, and was cut off


def test_tables_of_paths_and_of_bytes(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    table = tmp_path / "shop.csv"
    table.write_text(
        "Path,Price in €,id,caption,sold\nphotos/a.png,3,x1,hat,\nphotos/b.png,4.5,x2,,yes\n"
        "photos/no.png,1,x3,gone,\n"
    )
    with pytest.warns(UserWarning, match=r"'Price in €' is price_in, 'id' is table_id"):
        report = index.add(table, model)
    assert report.added == 2
    assert [str(error) for error in report.failed] == [f"{tmp_path}/photos/no.png: no such file"]
    assert row(index, photos[0], "price_in", "table_id", "caption", "sold") == (
        3,
        "x1",
        "hat",
        None,
    )
    assert row(index, photos[1], "price_in", "caption", "sold") == (4.5, None, "yes")

    parquet = tmp_path / "some.parquet"
    images = [photo.read_bytes() for photo in photos[2:]] + [None]
    pq.write_table(
        pa.table({"image": images, "label": ["x", "y", "z", "empty"]}), parquet, row_group_size=2
    )
    report = index.add([parquet], model)
    assert (report.added, [str(e) for e in report.failed]) == (
        3, [f"{parquet}#4: empty: 0 bytes"],
    )  # fmt: skip
    assert row(index, f"{parquet}#3", "label", "width") == ("z", 40)
    assert index.content(id_of(f"{parquet}#3")) == images[2]
    assert members.content(f"{parquet}#0") == f"{parquet}#0"  # rows are counted from 1
    version = index._store.do(lambda table: table.version)
    assert index.add([table, parquet], model).unchanged == 5
    assert index._store.do(lambda table: table.version) == version  # nothing is written again
    (tmp_path / "other.csv").write_text("colour,weight\nred,3\n")
    (report,) = index.add(tmp_path / "other.csv", model).failed
    assert "no column of images; it has colour, weight" in str(report)


def test_columns_of_the_caller_are_joined(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    picture(tmp_path / "photos" / "deep" / "e.png", 9)
    index.add(tmp_path / "photos", model)
    table = tmp_path / "about.csv"
    table.write_text(
        f'file,code,tags\n{photos[0]},007,"x, red hat"\nphotos/b.png,12,\nc.png,13,\n'
        "e.png,14,\nb.png,1,\n,5,\n"
    )
    assert index.describe(table) == [
        "e.png (2 files of that name)", "b.png (twice)", "row 6, which is empty",
    ]  # fmt: skip
    assert [row(index, p, "code")[0] for p in photos] == ["007", "12", "13", None, None]
    assert [row(index, p, "tags")[0] for p in photos[:2]] == [["x", "red hat"], None]
    table.write_text("file,code\na.png,1\n")  # whole numbers as the texts that are there
    assert index.describe(table) == []
    assert row(index, photos[0], "code") == ("1",)
    table.write_text("file,code\nother/a.png,9\n/old/photos/a.png,2\n./c.png,3\n")
    assert index.describe(table) == ["other/a.png"]  # a file of that name, and another one
    assert [row(index, photos[n], "code") for n in (0, 2)] == [("2",), ("3",)]
    table.write_text("name,code\na.png,1\n")
    with pytest.raises(IndexStoreError, match="no column of paths or file names; it has name"):
        index.describe(table)


def test_a_moved_file_keeps_its_vector(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(photos, model)
    (tmp_path / "a.csv").write_text("path,price\nphotos/a.png,5\n")
    index.describe(tmp_path / "a.csv")
    opened = count_opened(monkeypatch)
    moved = photos[0].rename(tmp_path / "photos" / "new name.png")
    copy = Path(shutil.copy(photos[1], tmp_path / "photos" / "copy.png"))
    assert index.add(tmp_path / "photos", model) == AddReport(0, 4, [], moved=2)
    assert opened == []
    assert len(index) == 6
    assert index.gone() == []
    assert row(index, moved, "price", "width") == (5, 40)
    assert index.search(image=copy, k=2)[1].score == pytest.approx(1, abs=1e-6)
    assert index.search(image=moved, k=1)[0].path == str(moved)


def test_what_cannot_be_read_is_tried_again_when_asked(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "photos" / "bad.png"
    bad.write_text("no picture")
    assert index.add(tmp_path / "photos", model).not_retried == 0
    opened = count_opened(monkeypatch)
    again = index.add(tmp_path / "photos", model)
    assert (again.failed[0].image, again.not_retried, opened) == (str(bad), 1, [])
    assert [error.image for error in index.errors()] == [str(bad)]
    assert index.add(tmp_path / "photos", model, retry=True).not_retried == 0
    assert opened == [str(bad)]
    picture(bad, 50)
    assert index.add(tmp_path / "photos", model).added == 1
    assert index.errors() == []
    bad.write_text("no picture again")
    assert index.add(tmp_path / "photos", model).failed
    bad.unlink()
    assert index.prune() == []
    assert index.errors() == []


def test_put_vectors(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(putting, "BATCH", 2)
    monkeypatch.setattr(putting, "COMMIT", 3)
    embedded = model.embed_images(photos)
    vectors = np.concatenate([embedded * 3, np.eye(2, embedded.shape[1])]).astype(np.float16)
    paths = [*photos, "https://example.org/x.jpg", "/nowhere/y.jpg"]
    with pytest.raises(IndexStoreError, match="name the model"):
        index.put(paths, vectors)
    columns = {"caption": list("abcdefg"), "price": [1, 2, 3, 4, 5, 6, None]}
    assert index.put(paths, vectors, model, columns) == 5
    assert len(index) == 7
    assert row(index, paths[5], "caption", "price", "width") == ("f", 6, None)
    hits = index.search(image=photos[1], k=7)
    assert (hits[0].path, hits[0].score) == (str(photos[1]), pytest.approx(1, abs=1e-3))
    assert index.add(tmp_path / "photos", model).unchanged == 5
    assert index.gone() == ["/nowhere/y.jpg"]
    other = ["/nowhere/y.jpg", *(f"/{i}" for i in range(6))]
    index.put(other, np.ones((7, embedded.shape[1]), np.float64), columns={"price": list(range(7))})
    assert len(index) == 13
    assert row(index, "/nowhere/y.jpg", "price") == (0,)


WRONG: dict[str, Callable[[np.ndarray, list[str]], tuple[np.ndarray, list[str]]]] = {
    "/b: its vector, row 1, has no direction": lambda v, p: (v * [[1], [0], [1]], p),
    "/c: its vector, row 2": lambda v, p: (np.where(np.arange(3)[:, None] == 2, np.nan, v), p),
    "/a: named twice": lambda v, p: (v, ["/a", "/b", "/a"]),
    "3 vectors for 2 paths": lambda v, p: (v, p[:2]),
    "vectors are floats": lambda v, p: (v.astype(int), p),
    "holds vectors of 24 numbers": lambda v, p: (v[:, :5], p),
    "are not those of tiny": lambda v, p: (v, [str(Path(p[0])), p[1], "photos/a.png"]),
}


def test_vectors_that_cannot_be_right_are_refused(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index.add(photos[:1], model)
    vectors = np.random.default_rng(0).standard_normal((3, 24))
    for message, wrong in WRONG.items():
        numbers, paths = wrong(vectors, ["/a", "/b", "/c"])
        named_model = model if "those of" in message else None
        with pytest.raises(IndexStoreError, match=message):
            index.put(paths, numbers, named_model)
    assert len(index) == 1


def test_the_folder_of_clip_retrieval(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    vectors = model.embed_images(photos).astype(np.float16)
    columns = {
        "image_path": [str(photo) for photo in photos],
        "caption": [photo.stem for photo in photos],
        "nsfw": [0.5] * 5,
        "width": [1] * 5,
    }
    tables = [pa.table(columns).slice(0, 2), pa.table(columns).slice(2)]
    folder = clip_retrieval_folder(tmp_path / "made", [vectors[:2], vectors[2:]], tables)
    with pytest.warns(UserWarning, match="'width' is table_width"):
        assert index.take_over(folder, model) == 5
    assert [row(index, p, "caption", "nsfw") for p in photos] == [(p.stem, 0.5) for p in photos]
    assert index.search(image=photos[3], k=1)[0].path == str(photos[3])
    (folder / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(IndexStoreError, match=r"img_emb_1\.npy: no metadata_1\.parquet beside it"):
        index.take_over(folder, model)
    with pytest.raises(IndexStoreError, match=r"no img_emb_\*\.npy in it"):
        index.take_over(tmp_path, model)


def test_a_table_names_photos_in_object_storage(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(object_storage, "_store", lambda address: store)
    cells = ["s3://photos/a.png", "s3://photos/gone.png", "gs://photos/b.png", "photos/c.png"]
    table = tmp_path / "shop.csv"
    table.write_text("image,price\n" + "".join(f"{cell},{n}\n" for n, cell in enumerate(cells)))
    report = index.add(table, model)
    assert (report.added, [error.image for error in report.failed]) == (2, cells[2:0:-1])
    assert [error.reason for error in report.failed] == [
        "only https://, http:// and s3:// addresses are read; copy it to a disk, give its path",
        "no such photo there",
    ]
    assert row(index, cells[0], "price") == (0,)
    assert index.add(table, model).unchanged == 2
    assert index.search(image=photos[0], k=1, model=model)[0].path == cells[0]
