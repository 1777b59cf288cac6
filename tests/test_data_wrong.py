"""Sources of training data that are missing, broken, or without what an objective needs."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from dataset_layouts import (
    ROWS,
    csv_file,
    csv_text,
    five_photos,
    hugging_face,
    json_lines,
    lines,
    metadata_csv,
    odd_folders,
    opened,
    parquet_bytes,
    rng,
    tab_file,
    tar_txt,
)
from photos import PREPROCESS, class_folders, encoded, tar_of
from PIL import Image

from patchword.data import AugmentConfig, SourceConfig, open_sources
from patchword.errors import ImageError, RecipeError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


@pytest.fixture
def five(tmp_path: Path) -> Path:
    return five_photos(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return odd_folders(tmp_path)


def test_broken_images_are_named(folder: Path, tmp_path: Path) -> None:
    jpeg = encoded(1, "JPEG")
    bad = folder / "train" / "dark_hat"
    (bad / "00.png").write_bytes(jpeg[: len(jpeg) // 2])
    (bad / "01.png").write_text("this is no photo")
    source = opened("folder", folder)
    (bad / "02.png").unlink()
    for index, message in enumerate(
        ["00.png: truncated", "01.png: not an image", "02.png: no such"]
    ):
        with pytest.raises(ImageError, match=message) as caught:
            source.sample(index, rng())
        assert caught.value.image == str(bad / f"0{index}.png")
        assert caught.value.__reduce__()
    source.sample(3, rng())


def test_names_that_are_not_unicode_are_named(tmp_path: Path) -> None:
    jpeg = encoded(1, "JPEG")
    for name in (b"a/good.jpg", b"a/\xff.jpg", b"b\xfe/other.jpg"):
        place = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(jpeg)
    source = opened("folder", tmp_path)
    assert source.labels == ("a", "b\\udcfe")
    source.sample(0, rng())
    for index in (1, 2):
        with pytest.raises(ImageError, match="is not valid Unicode; rename it"):
            source.sample(index, rng())


def test_broken_rows_are_named(five: Path) -> None:
    rows = [
        {"image": "p/0.png", "caption": "a", "label": "x"},
        {"image": None, "caption": "b", "label": "x"},
        {"image": "p/1.png", "caption": " ", "label": "x"},
        {"image": "p/2.png", "caption": "d", "label": None},
        {"image": "http://h/3.png", "caption": "d", "label": "x"},
        {"image": "p/nowhere.png", "caption": "e", "label": "y"},
    ]
    (five / "r.jsonl").write_text(lines(rows))
    source = opened("table", five / "r.jsonl")
    assert source.labels == ("x", "y")
    source.sample(0, rng())
    messages = ["r.jsonl, row 2: no image", "1.png: no caption", "2.png: no class", "3.png: a URL",
             "nowhere.png: no such file"]  # fmt: skip
    for index, message in enumerate(messages, start=1):
        with pytest.raises(ImageError, match=message):
            source.sample(index, rng())


def test_broken_samples_of_a_tar_are_named(five: Path) -> None:
    """Several kinds of images, no text, broken JSON, no image, a tar that is cut off."""
    files = {
        "0.png": encoded(0), "0.txt": b"a",
        "1.jpg": encoded(1, "JPEG"), "1.txt": b"b",
        "2.webp": encoded(2, "WEBP"), "2.json": b"{",
        "3.png": encoded(3),
        "4.txt": b"e",
        "5.png": encoded(5), "5.txt": b"\xff\xfe\x00",
        "6.txt": b"g", "6.png": encoded(6),
        "7.txt": b"h", "7.png": encoded(7),
    }  # fmt: skip
    tar = tar_of(five / "a.tar", files)
    content = tar.read_bytes()
    tar.write_bytes(content[: content.index(encoded(7)) + 100])
    source = opened("webdataset", tar, ("captions",))
    messages = {2: "its .json cannot be read", 3: "no caption", 4: "no image", 5: "its .txt cannot",
             7: "truncated|ends too early"}  # fmt: skip
    captions = {0: "a", 1: "b", 6: "g"}
    for index in range(len(source)):
        if index in captions:
            assert source.sample(index, rng()).caption == captions[index]
        else:
            with pytest.raises(ImageError, match=messages.get(index, "ends too early")):
                source.sample(index, rng())
    assert len(source) >= 8


def bad_sources(five: Path) -> Iterator[tuple[dict, str]]:
    """(source, error)."""
    write = {
        "empty.csv": "", "head.csv": "image,caption\n", "empty.jsonl": "", "bad.jsonl": "{\n",
        "ragged.csv": "image,caption\na,b\nc,d,e,f\n",
        "columns.csv": "file,words\np/0.png,a\np/1.png,b\n",
        "twice.csv": "image,image\np/0.png,a\n",
        "only.csv": "words\na\n",
        "lost.csv": "image,caption\n/none/a.png,a\n/none/b.png,b\n",
        "same.csv": "image,caption\np/0.png,a cat\np/1.png,A  cat\n",
        "labels.csv": "image,label\np/0.png,a\np/1.png,b\n",
        "wide.csv": f"image,{'c' * 150_000}\n",  # longer than the longest cell of Python's csv
        "x.tar": "no tar",
    }  # fmt: skip
    for name, text in write.items():
        (five / name).write_text(text)
    (five / "latin.csv").write_bytes("image,caption\np/0.png,café\n".encode("latin1"))
    (five / "flat").mkdir()
    tar_of(five / "empty.tar", {})
    table = {"kind": "table"}
    yield {"kind": "folder", "path": "none"}, "none: no such folder"
    yield {"kind": "folder", "path": "flat"}, "flat: no images; one folder per class"
    yield {"kind": "folder", "path": ".", "split": "dev"}, "no folder 'dev'; it has flat, p"
    yield {"kind": "folder", "path": "."}, "say the same, 'p'"
    yield table | {"path": "none.csv"}, "none.csv: no such file"
    yield table | {"path": "n*.csv"}, r"n\*.csv: no such file"
    yield table | {"path": "p/0.png"}, "0.png: not a file of .csv"
    yield table | {"path": "[eh]*.csv"}, "empty.csv: empty"
    yield table | {"path": "head.csv"}, "head.csv: no rows"
    yield table | {"path": "empty.jsonl"}, "empty.jsonl: empty"
    yield table | {"path": "bad.jsonl"}, "bad.jsonl, line 1: not JSON"
    yield table | {"path": "ragged.csv"}, "ragged.csv, line 3: 4 cells for 2 columns"
    yield table | {"path": "latin.csv"}, "latin.csv, line 2: byte 12 .* not UTF-8"
    yield table | {"path": "wide.csv"}, "wide.csv, line 1: field larger than field limit"
    yield table | {"path": "twice.csv"}, "its first line names 'image' twice"
    yield (
        table | {"path": "columns.csv"},
        "no column of captions or class names; it has file, words",
    )
    yield table | {"path": "columns.csv", "caption": "word"}, "no column 'word'; it has words"
    yield table | {"path": "only.csv"}, "no column of images; it has words"
    yield table | {"path": "lost.csv"}, "none of 2 images looked for exists, such as /none/a.png"
    yield table | {"path": "same.csv"}, "all captions of the data say the same, 'a cat'"
    yield table | {"path": "labels.csv", "templates": ("photo",)}, "template 'photo' has no {}"
    yield table | {"path": "labels.csv", "templates": ()}, "templates is empty"
    yield (
        table | {"path": "labels.csv", "names": (("x",),)},
        "2 classes, but 1 names for them; give one or more for each, in this order: a, b",
    )
    yield {"kind": "webdataset", "path": "x.tar"}, "x.tar: not a tar, plain or gzip"
    yield {"kind": "webdataset", "path": "empty.tar"}, "empty.tar: no rows"
    yield {"kind": "hub", "path": ""}, "needs organisation/name"
    yield {"kind": "scenes"}, "needs count"
    yield {"kind": "scenes", "count": 3, "augment": AugmentConfig()}, "augment.mirror = false"


def test_bad_sources_say_why(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(five)
    for config, message in bad_sources(five):
        with pytest.raises(RecipeError, match=message):
            open_sources([SourceConfig(**config)], PREPROCESS, {"captions"})


def test_one_missing_image_costs_nothing_else(five: Path) -> None:
    rows = [*ROWS, {"file_name": "p/9.png", "caption": "gone", "label": "hat"}]
    (five / "metadata.csv").write_text(csv_text(rows), encoding="utf-8")
    source = opened("folder", five)
    assert len(source) == 6
    with pytest.raises(ImageError, match=r"9\.png: no such file"):
        source.sample(5, rng())


def test_the_hub_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="nobody/nothing: cannot be read: Couldn't reach"):
        opened("hub", "nobody/nothing")


def test_a_split_that_is_not_there(five: Path) -> None:
    hugging_face(five)
    with pytest.raises(RecipeError, match=r'Unknown split "test". Should be one of \[.train.\]'):
        opened("hub", five / "repository", split="test")


def test_classes_of_sources_agree(tmp_path: Path) -> None:
    first = SourceConfig("folder", path=str(class_folders(tmp_path / "a", ("x", "y"), 2)))
    second = SourceConfig("folder", path=str(class_folders(tmp_path / "b", ("x", "z"), 2)))
    assert len(open_sources([first, second], PREPROCESS, {"captions"})) == 2
    assert len(open_sources([first, first], PREPROCESS, {"labels"})) == 2
    with pytest.raises(RecipeError, match="other classes: y against z"):
        open_sources([first, second], PREPROCESS, {"labels"})
    with pytest.raises(RecipeError, match="data scenes has no classes"):
        open_sources([first, SourceConfig("scenes", count=2)], PREPROCESS, {"labels"})


def test_one_class_and_classes_that_differ_in_case_alone(tmp_path: Path) -> None:
    single = SourceConfig("folder", path=str(class_folders(tmp_path / "a", ("cat",), 2)))
    with pytest.raises(RecipeError, match="a has one class, 'cat': nothing can be learned"):
        open_sources([single], PREPROCESS, {"labels"})
    rows = '[{"image": "a/cat/00.png", "label": "Cat"}, {"image": "a/cat/01.png", "label": "cat"}]'
    (tmp_path / "t.json").write_text(rows, encoding="utf-8")
    table = SourceConfig("table", path=str(tmp_path / "t.json"))
    with pytest.warns(UserWarning, match="'Cat' and 'cat' are two classes"):
        open_sources([table], PREPROCESS, {"labels"})


def test_sources_that_differ_only_together(tmp_path: Path) -> None:
    """Each source has one caption, both together have two."""
    configs = [
        SourceConfig("folder", path=str(class_folders(tmp_path / name, (name,), 2)))
        for name in ("cats", "dogs")
    ]
    assert len(open_sources(configs, PREPROCESS, {"captions"})) == 2
    with pytest.raises(RecipeError, match="say the same, 'dogs'"):
        open_sources(configs[1:], PREPROCESS, {"captions"})


def test_without_the_library(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders, tars and text tables do not need it. For parquet, the error says what to install."""
    metadata_csv(five)
    tar_txt(five)
    parquet_bytes(five)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(opened("folder", five)) == len(opened("webdataset", five / "a.tar")) == 5
    assert len(csv_file(five)) == len(tab_file(five)) == len(json_lines(five)) == 5
    with pytest.raises(RecipeError, match=r'not installed: pip install "patchword\[train\]"'):
        opened("table", five / "a-*.parquet")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.5, float("nan")], "'caption', has no text in any row .the first value is 1.5.; set"),
        ([7, 8], "the first value is 7"),
        ([None, " "], "has no text in any row .the first value is ' '."),
    ],
)
def test_a_column_of_captions_without_texts(
    values: list[object], message: str, tmp_path: Path
) -> None:
    images = [encoded(i, "PNG") for i in range(2)]
    datasets.Dataset.from_dict({"image": images, "caption": values}).to_parquet(
        tmp_path / "a.parquet"
    )
    with pytest.raises(RecipeError, match=message):
        opened("table", tmp_path / "a.parquet", ("captions",))
    assert len(opened("table", tmp_path / "a.parquet", ())) == 2  # captions are not read


def test_which_of_two_metadata_files_is_read(five: Path) -> None:
    (five / "metadata.csv").write_text("file_name,text\np/0.png,a\np/1.png,b\n")
    rows = '{"file_name": "p/0.png", "text": "c"}\n{"file_name": "p/1.png", "text": "d"}\n'
    (five / "metadata.jsonl").write_text(rows)
    with pytest.warns(UserWarning, match=r"metadata.jsonl is read, and not metadata.csv beside it"):
        source = opened("folder", five, ("captions",))
    assert list(source.captions()) == ["c", "d"]


def test_a_key_twice_in_the_json_of_a_tar(tmp_path: Path) -> None:
    image = encoded(1, "JPEG")
    files = {"0.jpg": image, "0.txt": b"a", "1.jpg": image, "1.txt": b"b", "2.jpg": image}
    files["2.json"] = b'{"caption": "c", "more": {"x": 1, "x": 2}}'
    source = opened("webdataset", tar_of(tmp_path / "a.tar", files), ("captions",))
    source.sample(1, rng())
    with pytest.raises(ImageError, match=r"its \.json cannot be read: an object has the key 'x'"):
        source.sample(2, rng())


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ("stack.tif#2,two\nstack.tif#3,three", "{}/stack.tif#2"),
        ("https://here.test/a.png,a\nb.png,b", "https://here.test/a.png"),
    ],
)
def test_a_table_of_pages_or_addresses(rows: str, name: str, tmp_path: Path) -> None:
    """They are not names of files, but the images may exist."""
    page = Image.new("RGB", (8, 8))
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    (tmp_path / "t.csv").write_text(f"image,caption\n{rows}\n")
    config = SourceConfig("table", path=str(tmp_path / "t.csv"))
    (source,) = open_sources([config], PREPROCESS, ["captions"])
    assert source.name(0) == name.format(tmp_path)


@pytest.mark.parametrize("name", ["deep.jsonl", "deep.json"])
@pytest.mark.parametrize("start", ["[", '{"image":'])
def test_a_table_that_is_nested_too_deeply(name: str, start: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(start * 100_000)
    with pytest.raises(RecipeError, match=f"{name}, line 1: not JSON .*too deeply"):
        opened("table", tmp_path / name)
