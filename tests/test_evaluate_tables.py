"""Evaluation on tables: the same answers as on folders, and what is said of bad ones."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from photos import class_folders, encoded, tar_of
from PIL import Image
from pyarrow import parquet
from small_models import tiny_bundle, tiny_clip

from patchword.errors import PatchwordError
from patchword.evaluate import Evaluation, folders


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Splits of two classes, one image of which is broken."""
    for split, count in (("train", 6), ("validation", 3)):
        class_folders(tmp_path / "d" / split, ("dark", "light_one"), count)
    (tmp_path / "d" / "validation" / "dark" / "broken.png").write_bytes(b"no image")
    return tmp_path / "d"


@pytest.fixture
def tables(classes: Path) -> Path:
    """The photos of `classes` once more as tables of paths, and as parquet that holds them."""
    out = classes.parent / "tables"
    out.mkdir()
    for split in ("train", "validation"):
        data = folders.labelled(classes / split)
        words = [data.names[target] for target in data.targets]
        rows = [
            {"image": str(name), "label": word}
            for name, word in zip(data.images, words, strict=True)
        ]
        csv = "".join(f"{row['image']},{row['label']}\n" for row in rows)
        (out / f"{split}.csv").write_text("image,label\n" + csv)
        (out / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        inside = [{**row, "image": Path(row["image"]).read_bytes()} for row in rows]
        parquet.write_table(pa.Table.from_pylist(inside), out / f"{split}.parquet")
    return out


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_classes_is_as_its_folders(kind: str, tables: Path, classes: Path) -> None:
    model = tiny_bundle(tiny_clip())
    expected, run = Evaluation(model), Evaluation(model)
    answers = list(expected.on(classes))
    actual = list(run.on(tables / f"validation.{kind}", tables / f"train.{kind}"))
    assert [answer.record() for answer in actual] == [answer.record() for answer in answers]
    assert len(actual) == 3
    (broken,), (same,) = run.broken, expected.broken
    inside = kind == "parquet"
    assert broken.image == (f"{tables / 'validation.parquet'}, row 4" if inside else same.image)
    assert broken.reason == same.reason


def test_metadata_with_classes(classes: Path) -> None:
    folder = classes / "train" / "dark"
    (folder / "metadata.csv").write_text("file_name,label\n00.png,b\n01.png,a\n02.png,b\n")
    assert folders.captions_in(folder) is None
    data = folders.labelled(folder)
    assert (data.names, data.targets.tolist()) == (("a", "b"), [1, 0, 1])
    assert list(data.images) == [str(folder / f"0{i}.png") for i in range(3)]


@pytest.mark.parametrize("kind", ["path", "bytes", "image"])
def test_captions_in_parquet(kind: str, tmp_path: Path) -> None:
    content = [encoded(i) for i in range(2)]
    (tmp_path / "p").mkdir()
    for i in range(2):
        (tmp_path / "p" / f"{i}.png").write_bytes(content[i])
    image = {
        "path": ["p/0.png", "p/1.png"],
        "bytes": content,
        "image": [{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(content)],
    }[kind]
    rows = [(0, ["a", "b"]), (1, ["c"]), (0, ["d"])]
    table = pa.table({"image": [image[i] for i, _ in rows], "captions": [c for _, c in rows]})
    parquet.write_table(table, tmp_path / "t.parquet")
    data = folders.captioned(tmp_path / "t.parquet")
    assert data.captions == (("a", "b", "d"), ("c",))
    expected = content if kind != "path" else [str(tmp_path / name) for name in image]
    assert list(data.images) == expected
    (answer,) = Evaluation(tiny_bundle(tiny_clip())).on(tmp_path / "t.parquet")
    assert (answer.images, answer.captions) == (2, 4)


def test_captions_and_classes_in_a_tar(tmp_path: Path) -> None:
    content = [encoded(i) for i in range(2)]
    texts = {"0.txt": b"a", "1.txt": b"b"}
    pictures = {f"{i}.png": content[i] for i in range(2)}
    captions = tar_of(tmp_path / "c.tar", dict(sorted((pictures | texts).items())))
    data = folders.captioned(captions)
    assert (list(data.images), data.captions) == (content, (("a",), ("b",)))
    numbers = {"0.cls": b"1", "1.cls": b"0"}
    classes = folders.labelled(
        tar_of(tmp_path / "l.tar", dict(sorted((pictures | numbers).items())))
    )
    assert (list(classes.images), classes.targets.tolist()) == (content, [1, 0])
    lacking = tar_of(tmp_path / "x.tar", pictures | texts | {"2.txt": b"no image beside"})
    with pytest.raises(PatchwordError, match=r"x\.tar"):
        folders.captioned(lacking)
    (tmp_path / "a.png").write_bytes(content[0])
    with pytest.raises(PatchwordError, match=r"a\.png: no folder, and no file of \.csv"):
        folders.labelled(tmp_path / "a.png")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(PatchwordError, match=r"a\.xlsx: no folder, .*: save its sheet as CSV"):
        folders.labelled(tmp_path / "a.xlsx")


def test_a_sample_of_a_tar_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    words = {"0.cls": b"cat", "0.png": encoded(0), "1.cls": b"dog", "2.cls": b" cat\n"}
    tar = tar_of(tmp_path / "t.tar", words | {"2.png": encoded(2)})
    run = Evaluation(tiny_bundle(tiny_clip()))
    (actual,) = run.on(tar)
    assert actual.record()["images"] == 2
    assert [(e.image, e.reason) for e in run.broken] == [
        (f"{tar}/1", "no image in this sample"),
    ]


def test_classes_are_told_apart_and_ordered_as_people_mean_them(tmp_path: Path) -> None:
    """Spaces around a class are no part of it, and 10.0, as pandas writes it, comes after 9.0."""
    spaced = tmp_path / "spaced.csv"
    spaced.write_text("image,label\na.png, cat\nb.png,cat\nc.png,cat\u00a0\n")
    assert folders.labelled(spaced).names == ("cat",)
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("image,label\na.png,10.0\nb.png,9.0\nc.png,1.0\n")
    assert folders.labelled(numbers).names == ("1.0", "9.0", "10.0")


def test_addresses_in_a_table_stay_what_they_are(tmp_path: Path) -> None:
    rows = "image,caption\nhttps://here.test/a.png,a\nb.png,b\n"
    (tmp_path / "t.csv").write_text(rows)
    data = folders.captioned(tmp_path / "t.csv")
    assert list(data.images) == ["https://here.test/a.png", str(tmp_path / "b.png")]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": ["a", "b"], "label": [" ", None]}, "no classes in column 'label'"),
        ({"image": ["a", None], "text": [" ", "x"]}, "row 1: no caption"),
        ({"image": [None], "text": ["x"]}, "row 1: no image"),
        ({"image": ["a"], "words": ["x"]}, "no column of captions; it has image, words"),
        ({"photo": ["a"], "text": ["x"]}, "has photo, text; call the one of images image, or"),
    ],
)
def test_tables_that_lack_something(columns: dict, words: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(PatchwordError, match=words):
        list(Evaluation(tiny_bundle(tiny_clip())).on(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("column", "lacks"),
    [
        ({"label": ["x", "y", None]}, ["no class in this row"]),
        ({"text": ["x", "y", None]}, ["no caption"]),
        ({"text": [["x"], ["y"], []]}, ["no caption"]),
    ],
)
def test_a_row_that_lacks_something_costs_itself_alone(
    column: dict, lacks: list[str], tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    columns = {"image": ["a.png", "b.png", "c.png"], **column}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    run = Evaluation(tiny_bundle(tiny_clip()))
    (answer,) = run.on(tmp_path / "t.parquet")
    assert (answer.images, [error.reason for error in run.broken]) == (2, lacks)


def test_captions_alone_have_no_classes(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "caption": "a"}\n')
    with pytest.raises(PatchwordError, match="no column of classes; it has file_name, caption"):
        list(Evaluation(tiny_bundle(tiny_clip())).on(tmp_path, tasks=["zero-shot"]))
