"""Tables of text: the cells that the `datasets` library reads, and what is said of bad files."""

from pathlib import Path

import datasets
import pytest

from patchword.data.text_tables import csv_rows, json_rows
from patchword.errors import RecipeError

AWKWARD = 'image,caption\n,"a ""big"", wide\nhat"\n\n"b, c",NA\n007,né\n"",\'d\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def cells(rows) -> list[dict]:
    return [dict(rows[i]) for i in range(len(rows))]


def theirs(kind: str, *files: Path, **options) -> list[dict]:
    """The same rows by the library, every cell of a csv as text."""
    paths = {"train": [str(file) for file in files]}
    return list(datasets.load_dataset(kind, data_files=paths, split="train", **options))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_csv_cells_are_the_librarys(
    encoding: str, end: str, delimiter: str, tmp_path: Path
) -> None:
    """Quotes, line ends in cells, blank lines, texts that look like numbers or like nothing."""
    text = AWKWARD.replace(",", delimiter).replace("\n", end)
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    features = datasets.Features(dict.fromkeys(("image", "caption"), datasets.Value("string")))
    expected = theirs(
        "csv", tmp_path / "a.csv", sep=delimiter, features=features, keep_default_na=False
    )
    rows = csv_rows([tmp_path / "a.csv"])
    assert cells(rows) == expected
    assert len(rows) == 4
    assert list(rows.column("caption")) == [row["caption"] for row in expected]
    assert rows[1]["caption"] == "NA"


@pytest.mark.parametrize("whole", [False, True])
def test_json_rows_are_the_librarys(whole: bool, tmp_path: Path) -> None:
    parts = [
        '{"image": "a", "n": 7, "texts": ["x", "y"]}',
        '{"image": "b", "n": null, "texts": ["é"]}',
    ]
    text = f"[{', '.join(parts)}]" if whole else "\n".join([*parts, ""])
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert cells(json_rows([tmp_path / "a.json"])) == theirs("json", tmp_path / "a.json")


def test_json_rows_may_differ(tmp_path: Path) -> None:
    """A key that a row lacks is None, and a cell is of any type."""
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
    ("text", "said"),
    [
        ('image,caption\na,b\nc,"d\ne,f\n', "a.csv, line 4: unexpected end of data"),
        ("image,caption\na,b\n\nc\n", "a.csv, line 4: 1 cells for 2 columns"),
        ("image,caption\na,b,c\n", "a.csv, line 2: 3 cells for 2 columns"),
        ("image,\na,b\n", "a.csv: its first line must name the columns; it has image, "),
        ("\n", "a.csv: its first line must name the columns; it has no columns"),
    ],
)
def test_a_csv_that_cannot_be_read(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(RecipeError, match=said):
        csv_rows([tmp_path / "a.csv"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"image": "a"}\n{"image":\n', "a.jsonl, line 2: not JSON"),
        ('{"image": "a"}\n3\n', "a.jsonl, line 2: not a JSON object"),
        ('[{"image": "a"}, 3]', "a.jsonl, line 1: not a JSON object"),
        ('[{"image": "a"}', "a.jsonl, line 1: not JSON"),
    ],
)
def test_json_that_cannot_be_read(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(RecipeError, match=said):
        json_rows([tmp_path / "a.jsonl"])


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\na,b\n")
    (tmp_path / "b.csv").write_text("image,label\na,b\n")
    with pytest.raises(RecipeError, match=r"b\.csv: it has image, label, but .*a\.csv image, capt"):
        csv_rows([tmp_path / "a.csv", tmp_path / "b.csv"])
    with pytest.raises(RecipeError, match=r"c\.csv: cannot be read: No such file"):
        csv_rows([tmp_path / "c.csv"])
