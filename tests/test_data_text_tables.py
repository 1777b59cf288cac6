"""Tables in text files: the same cells as by the `datasets` library, and errors for bad files."""

import csv
import gzip
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from photos import PREPROCESS, encoded
from pyarrow import parquet as pq

from patchword.capfilt.dataset import open_photos
from patchword.data import SourceConfig, open_sources
from patchword.data.csv_files import DELIMITERS, csv_records
from patchword.data.rows import texts_of
from patchword.data.tables import files
from patchword.data.text_tables import csv_rows, json_rows
from patchword.errors import PatchwordError, RecipeError
from patchword.evaluate import folders
from patchword.text.lines import text_lines

AWKWARD = 'image,caption\n,"a ""big"", wide\nhat"\n\n"b, c",NA\n007,né\n"",\'d\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def cells(rows) -> list[dict]:
    return [dict(rows[i]) for i in range(len(rows))]


def by_datasets(kind: str, *files: Path, **options) -> list[dict]:
    """The same rows by the `datasets` library, with all cells of a csv as texts."""
    paths = {"train": [str(file) for file in files]}
    return list(datasets.load_dataset(kind, data_files=paths, split="train", **options))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_csv_cells_are_the_librarys(
    encoding: str, end: str, delimiter: str, tmp_path: Path
) -> None:
    """Quotes, line breaks in cells, blank lines, texts that look like numbers or missing values."""
    text = AWKWARD.replace(",", delimiter).replace("\n", end)
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    features = datasets.Features(dict.fromkeys(("image", "caption"), datasets.Value("string")))
    expected = by_datasets(
        "csv", tmp_path / "a.csv", sep=delimiter, features=features, keep_default_na=False
    )
    rows = csv_rows([tmp_path / "a.csv"])
    assert cells(rows) == expected
    assert len(rows) == 4
    assert list(rows.column("caption")) == [row["caption"] for row in expected]
    assert rows[1]["caption"] == "NA"


def test_a_named_pipe_is_no_file_to_wait_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(PatchwordError, match=r"pipe.csv: a named pipe, and no file"):
        list(text_lines(tmp_path / "pipe.csv"))
    read_end, write_end = os.pipe()
    os.write(write_end, b"a\n")
    os.close(write_end)
    assert list(text_lines(f"/dev/fd/{read_end}")) == ["a\n"]  # as for <(echo a)
    os.close(read_end)


def test_rows_of_empty_cells_are_left_out(tmp_path: Path) -> None:
    """Excel writes them if a table was longer before."""
    (tmp_path / "a.csv").write_text(";\nimage;label\na.jpg;x\n;\n ; \nb.jpg;\n;\n")
    rows = csv_rows([tmp_path / "a.csv"])
    assert [(row["image"], row["label"]) for row in rows] == [("a.jpg", "x"), ("b.jpg", "")]


@pytest.mark.parametrize("whole", [False, True])
def test_json_rows_are_the_librarys(whole: bool, tmp_path: Path) -> None:
    parts = [
        '{"image": "a", "n": 7, "texts": ["x", "y"]}',
        '{"image": "b", "n": null, "texts": ["é"]}',
    ]
    text = f"[{', '.join(parts)}]" if whole else "\n".join([*parts, ""])
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert cells(json_rows([tmp_path / "a.json"])) == by_datasets("json", tmp_path / "a.json")


def test_json_rows_may_differ(tmp_path: Path) -> None:
    """A missing key is None, and cells may have any type."""
    (tmp_path / "a.jsonl").write_text('{"image": "a", "text": "x"}\n\n{"text": ["y", "z"]}\n')
    (tmp_path / "b.jsonl").write_text('{"image": "b", "label": 3}')
    rows = json_rows([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert rows.columns == ["image", "text", "label"]
    assert cells(rows) == [
        {"image": "a", "text": "x", "label": None},
        {"image": None, "text": ["y", "z"], "label": None},
        {"image": "b", "text": None, "label": 3},
    ]
    assert list(rows.column("label")) == [None, None, 3]


def test_files_add_up_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchword.data.text_tables.BATCH", 2)
    for name, numbers in (("a", range(5)), ("b", range(5, 6)), ("c", ())):
        lines = "".join(f"{i}.png,text {i}\n" for i in numbers)
        (tmp_path / f"{name}.csv").write_text(f"image,caption\n{lines}")
    rows = csv_rows(sorted(tmp_path.glob("*.csv")))
    assert cells(rows) == [{"image": f"{i}.png", "caption": f"text {i}"} for i in range(6)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image,caption\na,b\nc,"d\ne,f\n', "a.csv, line 4: unexpected end of data"),
        ("image,caption\na,b\n\nc\n", "a.csv, line 4: 1 cell for 2 columns"),
        ("image,caption\na,b,c\n", "a.csv, line 2: 3 cells for 2 columns"),
        (
            "image,\na,b\n",
            "a.csv: its first line must name the columns; it has image, ; column 2 has no name",
        ),
        ("\n", "a.csv: its first line must name the columns; it has no columns"),
    ],
)
def test_a_csv_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(RecipeError, match=message):
        csv_rows([tmp_path / "a.csv"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "a"}\n{"image":\n', "a.jsonl, line 2: not JSON"),
        ('{"image": "a"}\n3\n', "a.jsonl, line 2: not a JSON object"),
        ('[{"image": "a"}, 3]', "a.jsonl, line 1: not a JSON object"),
        ('[{"image": "a"}', "a.jsonl, line 1: not JSON"),
        ('{"image": "a"}\n{"image": "a", "image": "b"}', "line 2: .* has the key 'image' twice"),
    ],
)
def test_json_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(RecipeError, match=message):
        json_rows([tmp_path / "a.jsonl"])


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("image;caption\na.jpg;a hat, red\n", ["image", "caption"]),
        ("image;caption, english\na.jpg;a hat, red\n", ["image", "caption, english"]),
        ("image|caption\na.jpg|a hat, red\n", ["image", "caption"]),
        ("filepath\ttitle\na.jpg\ta hat, red\n", ["filepath", "title"]),
        ('image,caption\ra.jpg,"a hat, red"\r', ["image", "caption"]),
        ("sep=;\r\n\r\nimage;caption\r\na.jpg;a hat, red\r\n", ["image", "caption"]),
        (',image,caption\n0,a.jpg,"a hat, red"\n', ["Unnamed: 0", "image", "caption"]),
        ('image, caption \na.jpg, "a hat, red"\n', ["image", "caption"]),
        ('"image","caption"\n"a.jpg","a hat, red"\n', ["image", "caption"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gzip"])
def test_csv_as_programs_write_it(
    text: str, columns: list[str], encoding: str, tmp_path: Path
) -> None:
    """Delimiters of spreadsheets, Excel's first line, its "Unicode text", the index of pandas."""
    packed = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
    file = tmp_path / ("a.csv.gz" if encoding == "gzip" else "a.csv")
    file.write_bytes(packed)
    rows = csv_rows(files(str(file), (".csv",)))
    assert rows.columns == columns
    (row,) = cells(rows)
    assert list(row.values())[-2:] == ["a.jpg", "a hat, red"]


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    """As in Conceptual Captions: quotes are ordinary characters, and cells have no line breaks."""
    captions = ['"big" hat', '"quoted start', "a dress", 'ends here"', '"all of it"']
    text = "".join(f"{n}.jpg\t{caption}\n" for n, caption in enumerate(captions))
    (tmp_path / "a.tsv").write_text("image\tcaption\n" + text)
    assert list(csv_rows([tmp_path / "a.tsv"]).column("caption")) == captions
    (tmp_path / "a.csv").write_text("image\tcaption\n" + text)
    with pytest.raises(RecipeError, match=r"a\.csv, line 2: .* expected after"):
        csv_rows([tmp_path / "a.csv"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image\tcaption\na.jpg\t"a ""big"" hat"\n', "line 2: a quoted cell; a .tsv has no quo"),
        ('"image"\t"caption"\n"a.jpg"\t"a"\n', "line 1: a quoted cell; .* in .csv"),
        ('image\tcaption\na.jpg\t"a\nhat"\n', "line 3: 1 cell for 2 columns"),
        ("image\tcaption\na.jpg\ta\rhat\n", "line 3: 1 cell for 2 columns"),
        ("image\tcaption\na.jpg\ta\thref\n", "line 2: 3 cells for 2 columns"),
    ],
)
def test_a_tsv_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(text.encode())
    with pytest.raises(RecipeError, match=message):
        csv_rows([tmp_path / "a.tsv"])


# For any bytes, the reader gives the rows of Python's csv module without blank lines and rows of
# empty cells, or raises an error.
PIECES = st.sampled_from(
    ["a", ".jpg", "é", '"', '""', ",", "\t", ";", "\n", "\r\n", "\r", " ", "\u2028", "NA", "\0"]
)


@given(st.lists(PIECES, max_size=25), st.sampled_from(DELIMITERS), st.sampled_from(["csv", "tsv"]))
@settings(max_examples=400, deadline=None, derandomize=True)
@example(list('x,"a\na.jpg,b"\n'), ",", "csv")
def test_no_row_is_lost_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], delimiter: str, kind: str
) -> None:
    delimiter = "\t" if kind == "tsv" else delimiter
    file = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    text = f"image{delimiter}caption\n" + "".join(pieces)
    file.write_bytes(text.encode())
    quoting = csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL
    by_csv = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    try:
        rows = [row for _, row in csv_records(file)]
    except RecipeError:
        return
    assert rows == [row for row in by_csv if any(map(str.strip, row))]
    assert "\0" not in text


@given(st.lists(st.tuples(st.text(), st.text()), max_size=8), st.sampled_from(DELIMITERS))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "written.csv"
    rows = [("image", "caption"), *rows]
    with file.open("w", encoding="utf-8", errors="replace", newline="") as out:
        csv.writer(out, delimiter=delimiter).writerows(rows)
    content = file.read_bytes().decode()
    if "\0" in content or rows[0] in rows[1:]:
        with pytest.raises(RecipeError):
            list(csv_records(file))
        return
    by_csv = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    expected = [row for row in by_csv if any(map(str.strip, row))]
    assert [row for _, row in csv_records(file)] == expected
    assert len(expected) == sum(any(map(str.strip, row)) for row in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'a.jpg,x\nb.jpg,"y\nc.jpg,z\n',
            "line 4: unexpected end of data; the row begins in line 3",
        ),
        ('a.jpg,x\nb.jpg,"y\nc.jpg,z"\n', "line 4: a quote that opens after line 2 closes here"),
        ("a.jpg,x\nimage,caption\nb.jpg,y\n", "line 3: the names of the columns a second time"),
        ("a.jpg,x,\n", "line 2: 3 cells for 2 columns; a cell with a delimiter"),
        ("a.jpg,x\0\n", "line 2: a zero byte"),
        ("a.jpg,x\nb.jpg,caf\udce9\n", r"line 3: byte 10 of the line \(0xe9\) is not UTF-8"),
    ],
)
def test_what_would_lose_rows_is_refused(text: str, message: str, tmp_path: Path) -> None:
    content = f"image,caption\n{text}".encode("utf-8", "surrogateescape")
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(RecipeError, match=rf"a\.csv, {message}"):
        csv_rows([tmp_path / "a.csv"])


def read_by_all(file: Path) -> list[list[str]]:
    """The captions of a table, after a check that training, evaluation and capfilt read the
    same."""
    (source,) = open_sources([SourceConfig("table", path=str(file))], PREPROCESS, ("captions",))
    trained = [texts_of(source.table.rows[i][source.table.caption]) for i in range(len(source))]
    assert list(map(list, folders.captioned(file).captions)) == trained
    assert [photo.texts for photo in open_photos(str(file), file.parent)] == trained
    return trained


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("a.csv", "image;caption;caption_2\n0.png;a hat, red;a cap\n1.png;b;\n", "utf-8"),
        ("a.csv", "image\tcaption\tcaption_2\n0.png\ta hat, red\ta cap\n1.png\tb\t\n", "utf-16"),
        ("a.tsv", "image\tcaption1\tcaption2\n0.png\ta hat, red\ta cap\n1.png\tb\t\n", "utf-8"),
        ("a.json", json.dumps(
            [{"image": "0.png", "captions": ["a hat, red", "a cap"]},
             {"image": "1.png", "captions": ["b"]}]
        ), "utf-8-sig"),
        ("a.json", json.dumps(
            {"images": [{"id": n, "file_name": f"{n}.png"} for n in range(2)],
             "annotations": [{"image_id": n, "caption": text}
                             for n, text in ((1, "b"), (0, "a hat, red"), (0, "a cap"))]}
        ), "utf-8"),
    ],
)  # fmt: skip
def test_every_command_reads_the_same(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    (tmp_path / name).write_text(text, encoding=encoding)
    assert read_by_all(tmp_path / name) == [["a hat, red", "a cap"], ["b"]]


def test_rows_of_an_image_are_one_photo_though_others_have_none(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(0))
    cells = [None, "0.png", 5, "0.png"]
    rows = [{"image": cell, "caption": text} for cell, text in zip(cells, "abcd", strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    photos = open_photos(str(tmp_path / "a.jsonl"), tmp_path)
    assert [photos[i].texts for i in range(len(photos))] == [["a"], ["b", "d"], ["c"]]
    assert [bool(photos[i].fault) for i in range(3)] == [True, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "file_name,caption\n0.png,a hat, red\n1.png,b\n",
        'file_name,caption\n0.png,"a hat\n1.png,b\n',
    ],
)
def test_every_command_refuses_the_same(text: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(text)
    for read in (
        lambda: open_sources([SourceConfig("folder", path=str(tmp_path))], PREPROCESS, ()),
        lambda: folders.captioned(tmp_path),
        lambda: open_photos(str(tmp_path), tmp_path),
    ):
        with pytest.raises(PatchwordError, match=r"metadata\.csv, line [23]: "):
            read()


def test_columns_of_captions_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(0))
    pq.write_table(pa.table({"image": ["0.png"], "en": ["x"], "de": [["y", "z"]]}), tmp_path / "p")
    (tmp_path / "p").rename(tmp_path / "a.parquet")
    (tmp_path / "metadata.jsonl").write_text('{"image": "0.png", "en": "x", "de": ["y", "z"]}')
    for kind, path in (("table", tmp_path / "a.parquet"), ("folder", tmp_path)):
        config = SourceConfig(kind, path=str(path), caption="de, en")
        (source,) = open_sources([config], PREPROCESS, ("captions",))
        assert list(source.captions()) == ["y", "z", "x"]
        with pytest.raises(RecipeError, match="no column 'fr'; it has "):
            open_sources([replace(config, caption="de,fr")], PREPROCESS, ("captions",))


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption,caption\na,b,c\n")
    with pytest.raises(RecipeError, match="its first line names 'caption' twice"):
        csv_rows([tmp_path / "a.csv"])


def test_a_caption_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('image,caption\na.jpg,"a hat,\nred"\nb.jpg,"x\n\ny"\n')
    assert list(csv_rows([tmp_path / "a.csv"]).column("caption")) == ["a hat,\nred", "x\n\ny"]


COCO = {
    "info": {},
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "a hat"},
        {"id": 2, "image_id": 7, "caption": "a cap"},
    ],
}


@pytest.mark.parametrize("indent", [None, 1])
def test_captions_of_coco(indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(COCO, indent=indent))
    assert cells(json_rows([tmp_path / "a.json"])) == [
        {"file_name": "a.jpg", "captions": ["a hat", "a cap"]},
        {"file_name": "b.jpg", "captions": []},
    ]


def test_images_of_coco_are_found_beside_its_annotations(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "b.jpg").touch()
    (tmp_path / "annotations" / "a.json").write_text(json.dumps(COCO))
    rows = json_rows([tmp_path / "annotations" / "a.json"])
    assert list(rows.column("file_name")) == ["../val2017/a.jpg", "../val2017/b.jpg"]


KARPATHY = {"images": [{"filename": "a.jpg", "sentences": [{"raw": "a"}]}], "dataset": "coco"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({**COCO, "images": COCO["images"][:1] * 2}, "two images have the id 7"),
        ({**COCO, "images": COCO["images"][1:]}, "annotation 1 is of image 7, which is not among"),
        ({**COCO, "annotations": [{"image_id": 7, "bbox": []}]}, "here is one without 'caption'"),
        ({**COCO, "images": [3]}, "here is one not as expected"),
        (KARPATHY, "Karpathy's file of several splits"),
        ({"a.jpg": ["a hat"], "b.jpg": []}, "one object, with a.jpg, b.jpg; a table is one object"),
        ([{"image": "a\ud800"}], "a text that is not Unicode"),
    ],
)
def test_objects_that_are_no_table(value: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value, indent=1))
    with pytest.raises(RecipeError, match=rf"a\.json, line 1: .*{message}"):
        json_rows([tmp_path / "a.json"])


def test_files_of_a_pattern(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        (tmp_path / f"a-{number:03}.csv").write_text("image,caption\na,b\n")
    paths = files(str(tmp_path / "a-{008..010}.csv"), (".csv",))
    assert [file.name for file in paths] == ["a-008.csv", "a-009.csv", "a-010.csv"]
    with pytest.raises(RecipeError, match=r"a-011\.csv: no such file"):
        files(str(tmp_path / "a-{008..011}.csv"), (".csv",))
    (tmp_path / "a{b}.csv").write_text("image,caption\na,b\n")
    assert len(files(str(tmp_path / "a{b}.csv"), (".csv",))) == 1
    with pytest.raises(RecipeError, match="a brace that is opened has to be closed"):
        files(str(tmp_path / "a-{008.csv"), (".csv",))


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\na,b\n")
    (tmp_path / "b.csv").write_text("image,label\na,b\n")
    with pytest.raises(RecipeError, match=r"b\.csv: it has image, label, but .*a\.csv image, capt"):
        csv_rows([tmp_path / "a.csv", tmp_path / "b.csv"])
    with pytest.raises(RecipeError, match=r"c\.csv: cannot be read: No such file"):
        csv_rows([tmp_path / "c.csv"])
