"""The same five photos with captions and classes in every layout that a data source can read."""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from photos import PREPROCESS, class_folders, encoded, tar_of

from patchword import images
from patchword.data import SourceConfig, open_sources
from patchword.data.sample import Source
from patchword.images.photo import Photo
from patchword.images.preprocess import Preprocess

BOTH = ("captions", "labels")
CAPTIONS = ["a red hat", "a blue hat", "a shirt", "a hat, old", "a “shirt”"]
NAMES = ["hat", "hat", "shirt", "hat", "shirt"]
ROWS = [
    {"file_name": f"p/{i}.png", "caption": c, "label": n}
    for i, (c, n) in enumerate(zip(CAPTIONS, NAMES, strict=True))
]


def lines(rows: list[dict]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def csv_text(rows: list[dict], delimiter: str = ",") -> str:
    cells = [list(rows[0]), *(row.values() for row in rows)]
    quoted = [
        [f'"{cell}"' if delimiter in str(cell) else str(cell) for cell in row] for row in cells
    ]
    return "".join(delimiter.join(row) + "\n" for row in quoted)


def five_photos(root: Path) -> Path:
    """Write five photos into root/five/p. Returns root/five."""
    (root / "five" / "p").mkdir(parents=True)
    for i in range(5):
        (root / "five" / "p" / f"{i}.png").write_bytes(encoded(i))
    return root / "five"


def odd_folders(tmp_path: Path) -> Path:
    """Folders `train` and `validation` of class folders, with difficult names: classes named like
    splits, a subfolder in a class, brackets, a hidden folder, an empty class."""
    root = tmp_path / "ph[o]tos"
    class_folders(root / "train", ("dark_hat", "test", "train"), 4)
    (root / "train" / "test" / "deep").mkdir()
    (root / "train" / "test" / "00.png").rename(root / "train" / "test" / "deep" / "00.png")
    (root / "train" / "test" / "notes.txt").write_text("no photo")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "empty").mkdir()
    class_folders(root / "validation", ("dark_hat", "test", "train"), 1)
    return root


def opened(kind: str, path: Path | str = "", reads: tuple[str, ...] = BOTH, **more) -> Source:
    """The data source of a SourceConfig."""
    (source,) = open_sources([SourceConfig(kind, path=str(path), **more)], PREPROCESS, reads)
    return source


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pixels(image: str | bytes | Path) -> np.ndarray:
    """The network's input at inference, before normalisation: (3, H, W)."""
    preprocess = Preprocess(PREPROCESS)
    photo = Photo.whole(images.open(image, at_least=preprocess.at_least))
    return preprocess.seen(photo)[0]


def structs() -> list[dict]:
    """Images as Hugging Face's `Image` feature stores them in parquet files."""
    return [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(5)]


def metadata_csv(five: Path) -> Source:
    (five / "metadata.csv").write_text(csv_text(ROWS), encoding="utf-8")
    return opened("folder", five)


def metadata_jsonl(five: Path) -> Source:
    (five / "metadata.jsonl").write_text(lines(ROWS), encoding="utf-8")
    return opened("folder", five)


def csv_file(five: Path) -> Source:
    (five / "all.csv").write_text(csv_text(ROWS), encoding="utf-8-sig")
    return opened("table", five / "all.csv")


def tab_file(five: Path) -> Source:
    rows = [{"filepath": r["file_name"], "title": r["caption"], "class": r["label"]} for r in ROWS]
    (five / "all.csv").write_text(csv_text(rows, "\t"), encoding="utf-8")
    return opened("table", five / "all.csv")


def json_lines(five: Path) -> Source:
    rows = [{"f": str(five / r["file_name"]), "c": r["caption"], "l": r["label"]} for r in ROWS]
    (five / "all.jsonl").write_text(lines(rows), encoding="utf-8")
    return opened("table", five / "all.jsonl", image="f", caption="c", label="l")


def parquet_paths(five: Path) -> Source:
    pq.write_table(pa.Table.from_pylist(ROWS), five / "all.parquet")
    return opened("table", five / "all.parquet")


def parquet_structs(five: Path) -> Source:
    rows = [{**row, "photo": value} for row, value in zip(ROWS, structs(), strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), five / "all.parquet")
    return opened("table", five / "all.parquet", image="photo")


def parquet_bytes(five: Path) -> Source:
    """Two parquet files, opened by a pattern."""
    rows = [
        {"image": encoded(i), "text": r["caption"], "label": r["label"]} for i, r in enumerate(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows[:3]), five / "a-0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[3:]), five / "a-1.parquet")
    return opened("table", five / "a-*.parquet")


def hugging_face(five: Path) -> Source:
    """A repository as `push_to_hub` writes it: Image and ClassLabel features in a parquet file."""
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "caption": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["hat", "shirt"]),
        }
    )
    values = {"photo": structs(), "caption": CAPTIONS, "label": NAMES}
    (five / "repository" / "data").mkdir(parents=True)
    dataset = datasets.Dataset.from_dict(values, features=features)
    dataset.to_parquet(five / "repository" / "data" / "train-00000-of-00001.parquet")
    return opened("hub", five / "repository")


def tar_txt(five: Path) -> Source:
    files = {}
    for i in range(5):
        files[f"d/{i}.png"] = encoded(i)
        files[f"d/{i}.txt"] = CAPTIONS[i].encode() + b"\n"
        files[f"d/{i}.cls"] = NAMES[i].encode()
    tar_of(five / "a.tar", files)
    return opened("webdataset", five / "a.tar")


def tar_json(five: Path) -> Source:
    for shard, part in enumerate((range(3), range(3, 5))):
        files = {}
        for i in part:
            files[f"{i}.json"] = json.dumps({"caption": CAPTIONS[i], "label": NAMES[i]}).encode()
            files[f"{i}.png"] = encoded(i)
        tar_of(five / f"{shard}.tar", files)
    return opened("webdataset", five / "*.tar")
