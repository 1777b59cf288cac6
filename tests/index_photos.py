"""Folders of small photos to index, and the rows of an index as LanceDB reads them."""

import os
from datetime import datetime
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = ("plain.png", "with space.jpg", 'it\'s "quoted".png', "晶圆 é.bmp", "100%_\\.tif", "UP.JPG")


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 36)) -> Path:
    """Write smooth noise as an image of (width, height) pixels; another image for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size).save(path)
    return path


def twelve_photos(folder: Path) -> Path:
    """Fill a folder with 12 images, two levels deep, with names that need escaping, and a text
    file."""
    for i, name in enumerate(NAMES):
        picture(folder / name, i)
        picture(folder / "wafer's" / "deep" / name, 100 + i)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def set_modified(path: Path, day: str) -> datetime:
    """Set a file's modification time to noon UTC of a day, and return it."""
    time = datetime.fromisoformat(day + "T12:00:00+00:00")
    os.utime(path, (time.timestamp(),) * 2)
    return time


def rows(path: Path) -> tuple[list[str], np.ndarray]:
    """Paths and vectors of an index, read by LanceDB without patchword."""
    table = lancedb.connect(path).open_table("images").to_arrow()
    return table["path"].to_pylist(), np.array(table["vector"].to_pylist(), np.float64)


def clip_retrieval_folder(folder: Path, parts: list[np.ndarray], tables: list[pa.Table]) -> Path:
    """A folder as clip-retrieval writes it: files of vectors, and a table of metadata for each."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (vectors, table) in enumerate(zip(parts, tables, strict=True)):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors)
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def unit(rows: np.ndarray) -> np.ndarray:
    """Vectors (..., D) divided by their lengths."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
