"""Tables, tars and files of vectors that are damaged or odd."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_runner import Run
from index_photos import clip_retrieval_folder, picture
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError
from patchword.index import Index, open_index
from patchword.index.schema import id_of


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return open_index(tmp_path / "index")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [picture(tmp_path / "photos" / f"{name}.png", i) for i, name in enumerate("ab")]


def test_a_damaged_parquet_is_one_error(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    for name, content in {"bad": b"no table" * 9, "empty": b""}.items():
        table = tmp_path / f"{name}.parquet"
        table.write_bytes(content)
        report = index.add([*photos, table], model)
        assert len(index) == 2
        assert str(report.failed[0]).startswith(f"{table}: no parquet file that can be read: Parq")
        with pytest.raises(IndexStoreError, match=rf"{name}\.parquet: no parquet file"):
            index.describe(table)


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_texts_of_other_types_are_texts(
    kind: pa.DataType, tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    """Categories of pandas, texts of polars."""
    columns = {"path": ["photos/a.png", "photos/b.png"], "batch": ["x", "y"]}
    columns = {name: pa.array(texts).cast(kind) for name, texts in columns.items()}
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    report = index.add(tmp_path / "odd.parquet", model)
    assert (report.added, report.failed) == (2, [])
    assert index.row(id_of(str(photos[1])), ["batch"]) == {"batch": "y"}


def test_the_line_of_a_table_is_named_once(tmp_path: Path, index: Index, model: Bundle) -> None:
    (tmp_path / "odd.csv").write_bytes("path,caption\na.png,café\n".encode("latin1"))
    (error,) = index.add(tmp_path / "odd.csv", model).failed
    assert str(error).startswith(f"{tmp_path}/odd.csv: line 2: byte 10 of the line")


@pytest.mark.parametrize("cell", [7, [1], {"bytes": "a text"}])
def test_cells_without_images_are_errors(
    cell: object, tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    pq.write_table(pa.table({"image": [cell]}), tmp_path / "odd.parquet")
    report = index.add([photos[0], tmp_path / "odd.parquet"], model)
    assert report.added == 1
    (error,) = report.failed
    assert str(error).startswith(f"{tmp_path}/odd.parquet#1: its cell of 'image' holds neither")


def test_unusual_file_names_and_columns(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    table = tmp_path / "odd.parquet"
    columns = {
        "path": ["photos/a.png", "photos/b.png", "a\0b.png"],
        "taken": pa.array([1_700_000_000_000_000_001, None, 0], pa.timestamp("ns")),
        "number": pa.array([2**63 + 5, 7, 0], pa.uint64()),
    }
    pq.write_table(pa.table(columns), table)
    report = index.add(table, model)
    assert [str(error) for error in report.failed] == [f"{tmp_path}/a\ufffdb.png: no such file"]
    first = index.row(id_of(str(photos[0])), ["taken", "number"])
    assert first["taken"].isoformat() == "2023-11-14T22:13:20+00:00"
    assert first["number"] == str(2**63 + 5)
    assert index.describe(table) == ["a\ufffdb.png"]
    (tmp_path / "names.csv").write_text("file\na.png\n")
    assert index.describe(tmp_path / "names.csv") == []  # which says nothing else


def test_unusable_files_of_vectors_are_errors(
    tmp_path: Path, photos: list[Path], model: Bundle, run: Run
) -> None:
    embedded = model.embed_images(photos)
    patchword.save(model, tmp_path / "tiny")
    (tmp_path / "two.txt").write_text("".join(f"{photo}\n" for photo in photos))
    (tmp_path / "three.txt").write_text("".join(f"{photo}\n" for photo in [*photos, photos[0]]))
    np.savez(tmp_path / "many.npz", vectors=embedded)
    np.save(tmp_path / "own.npy", embedded)
    np.save(tmp_path / "words.npy", np.array([["a", "b"]] * 2))
    (tmp_path / "empty.npy").touch()
    (tmp_path / "zip.npy").write_bytes(b"PK\3\4zzz")
    messages = {
        ("many.npz", "two.txt"): "several arrays",
        ("words.npy", "two.txt"): "vectors are floats",
        ("empty.npy", "two.txt"): "no array of NumPy",
        ("zip.npy", "two.txt"): "no array of NumPy",
        ("gone.npy", "two.txt"): "gone.npy: no such file",
        ("two.txt", "two.txt"): ".npy), as np.save writes it, or a damaged one\n",
        ("own.npy", "three.txt"): "2 vectors for 3 paths",
    }
    for (vectors, paths), message in messages.items():
        options = ["--vectors", tmp_path / vectors, "--paths", tmp_path / paths]
        result = run("index", *options, "-m", tmp_path / "tiny", "--into", tmp_path / "index")
        assert (result.code, message in result.err) == (2, True), result.err


def test_the_folder_of_clip_retrieval_in_other_forms(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    first, second = (pa.table({"image_path": [str(photo)]}) for photo in photos)
    vectors = model.embed_images(photos)
    clip_retrieval_folder(tmp_path / "made", [vectors[:1], vectors[1:]], [first, second])
    assert index.take_over(tmp_path / "made", model) == 2  # the tables have no other columns
    index.add(photos, tiny_bundle(tiny_clip()).opening(stretch=True), reindex=True)
    with pytest.raises(IndexStoreError, match="cannot be compared"):
        index.take_over(tmp_path / "made", model)
    assert index.take_over(tmp_path / "made", model, reindex=True) == 2
    assert index.fingerprint == model.fingerprint
    tables = [first.append_column("n", [[1]]), second.append_column("n", [["x"]])]
    clip_retrieval_folder(tmp_path / "made", [vectors[:1], vectors[1:]], tables)
    with pytest.raises(IndexStoreError, match=r"its metadata files do not fit: .* n "):
        index.take_over(tmp_path / "made", model)
    np.save(tmp_path / "made" / "img_emb" / "img_emb_1.npy", np.float32(1))
    with pytest.raises(IndexStoreError, match="this has shape"):
        index.take_over(tmp_path / "made", model)
    assert len(index) == 2


def test_a_tar_without_images_is_an_error(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    cut, texts = tmp_path / "cut.tar", tmp_path / "texts.tar"
    cut.touch()
    with tarfile.open(texts, "w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    report = index.add([cut, texts, *photos], model)
    assert report.added == 2
    assert [str(error) for error in report.failed] == [
        f"{cut}: empty: 0 bytes", f"{texts}: no images in it",
    ]  # fmt: skip


def test_a_tar_with_odd_members(
    tmp_path: Path, photos: list[Path], index: Index, model: Bundle
) -> None:
    first, second = (photo.read_bytes() for photo in photos)
    tar = tmp_path / "odd.tar"
    members = {
        "./a.png": first, "._a.png": b"\0\5\26\7", "__MACOSX/._b.png": b"", "x/.hidden.png": first,
        "caf\udce9.png": first, "../up.png": first, "last.png": second,
    }  # fmt: skip
    with tarfile.open(tar, "w") as file:
        for name, content in [*members.items(), ("./a.png", second)]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        file.addfile(link)
    report = index.add(tar, model)
    reasons = {Path(str(error.image)).name: error.reason for error in report.failed}
    assert set(reasons) == {"caf\\udce9.png", "link.png"}
    assert [path.removeprefix(f"{tar}/") for path in index.paths()] == [
        "../up.png", "./a.png", "last.png",
    ]  # fmt: skip
    assert index.content(id_of(f"{tar}/./a.png")) == second  # as tar itself unpacks it
    with pytest.raises(ImageError, match="is a link or no file"):
        patchword.index.members.content(f"{tar}/link.png")


def test_what_is_in_a_tar_is_listed_once(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "many.tar"
    with tarfile.open(tar, "w") as file:
        for number in range(20):
            file.add(photos[0], f"{number}.png")
    listed: list[Path] = []
    members = patchword.index.members.members

    def counting(tar: object) -> object:
        listed.append(tar.path)
        return members(tar)

    monkeypatch.setattr(patchword.index.members, "members", counting)
    for number in range(20):
        assert patchword.index.members.content(f"{tar}/{number}.png") == photos[0].read_bytes()
    assert listed == [tar]
    with tarfile.open(tar, "w") as file:  # another tar of that name
        file.add(photos[1], "0.png")
    assert patchword.index.members.content(f"{tar}/0.png") == photos[1].read_bytes()


def test_a_file_of_a_far_century(tmp_path: Path, photos: list[Path], model: Bundle) -> None:
    """A damaged disk, or a camera without a clock, gives times that 64 bits of nanoseconds cannot
    hold: the files are indexed, new or copied, and are unchanged the next time."""
    index = open_index(tmp_path / "index")
    os.utime(photos[0], (15_000_000_000,) * 2)  # the year 2445, the last that ext4 stores is 2446
    report = index.add(photos, model)
    assert (report.added, report.failed) == (2, [])
    copy = Path(shutil.copy2(photos[0], photos[0].with_name("copy.png")))
    broken = photos[0].with_name("broken.png")
    broken.write_bytes(b"nothing")
    tar = tmp_path / "photos.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(photos[1], "b.png")
    for path in (broken, tar):
        os.utime(path, (15_000_000_000,) * 2)
    everything = [*photos, copy, broken, tar]
    report = index.add(everything, model)
    assert (report.unchanged, report.moved, report.added) == (2, 1, 1)
    assert [error.image for error in report.failed] == [str(broken)]
    again = index.add(everything, model)
    assert (again.unchanged, again.not_retried) == (4, 1)
    assert index.row(id_of(str(copy)), ["modified"])["modified"].year == 2262
