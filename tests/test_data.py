"""Sources of training data: every layout gives the same samples."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_layouts import (
    CAPTIONS,
    NAMES,
    ROWS,
    csv_file,
    csv_text,
    five_photos,
    hugging_face,
    json_lines,
    lines,
    metadata_csv,
    metadata_jsonl,
    odd_folders,
    opened,
    parquet_bytes,
    parquet_paths,
    parquet_structs,
    pixels,
    rng,
    tab_file,
    tar_json,
    tar_txt,
)
from numpy.testing import assert_array_equal
from photos import PREPROCESS, encoded, tar_of

from patchword.data import AugmentConfig, positives
from patchword.errors import ImageError, RecipeError
from patchword.images.photo import Photo
from patchword.images.preprocess import Preprocess
from patchword.scenes import WAFER_CLASSES, holds, scene


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


@pytest.mark.parametrize(
    "layout",
    [
        metadata_csv, metadata_jsonl, csv_file, tab_file, json_lines, parquet_paths,
        parquet_structs, parquet_bytes, hugging_face, tar_txt, tar_json,
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_samples(layout, five: Path) -> None:
    source = layout(five)
    assert len(source) == 5
    assert source.labels == ("hat", "shirt")
    assert list(source.captions()) == CAPTIONS
    for i in range(5):
        sample = source.sample(i, rng())
        assert_array_equal(sample.pixels, pixels(encoded(i)))
        assert sample.caption == CAPTIONS[i]
        assert source.labels[sample.label] == NAMES[i]
        assert sample.caption_facts == sample.image_facts == {CAPTIONS[i].lower()}
        assert not sample.mix


def test_names_find_the_sample(five: Path) -> None:
    assert csv_file(five).name(3) == str(five / "p" / "3.png")
    assert parquet_structs(five).name(3) == f"{five / 'all.parquet'}, row 4 (3.png)"
    assert parquet_bytes(five).name(0) == f"{five / 'a-*.parquet'}, row 1"
    assert tar_json(five).name(4) == f"{five / '1.tar'}/4.png"


def test_a_changed_table_is_read_again(five: Path) -> None:
    csv_file(five)
    (five / "all.csv").write_text(csv_text(ROWS[:2]))
    assert len(opened("table", five / "all.csv", ("captions",))) == 2


# Class folders


def test_class_folders(folder: Path) -> None:
    for path, split in ((folder, ""), (folder / "train", ""), (folder, "Train")):
        source = opened("folder", path, split=split)
        assert source.labels == ("dark_hat", "test", "train")
        assert len(source) == 12
    assert len(opened("folder", folder, split="validation")) == 3
    with pytest.raises(RecipeError, match="of which label = 'Klasse' would be a column"):
        opened("folder", folder, label="Klasse")
    labels = [source.sample(i, rng()).label for i in range(12)]
    assert labels == [0] * 4 + [1] * 4 + [2] * 4
    assert source.sample(0, rng()).caption == "a photo of a dark hat"
    assert_array_equal(source.sample(0, rng()).pixels, pixels(folder / "train/dark_hat/00.png"))


def test_captions_of_classes(folder: Path) -> None:
    templates, names = ("a {}", "one {}"), (("hat", "cap"), ("tube",), ("train",))
    source = opened("folder", folder, templates=templates, names=names)
    samples = [source.sample(0, rng(seed)) for seed in range(40)]
    assert {s.caption for s in samples} == {"a hat", "one hat", "a cap", "one cap"}
    assert (
        {s.caption_facts for s in samples}
        == {s.image_facts for s in samples}
        == {frozenset(["hat"])}
    )
    assert source.labels == ("dark_hat", "test", "train")
    captions = list(source.captions())
    assert len(captions) == 12
    assert set(captions[:4]) == {"a hat", "one hat", "a cap", "one cap"}
    assert set(captions[4:8]) == {"a tube", "one tube"}


def test_augmented_samples_are_of_their_rng(folder: Path) -> None:
    source = opened("folder", folder, augment=AugmentConfig())
    sample, same_seed, other_seed = (source.sample(3, rng(seed)) for seed in (1, 1, 2))
    assert sample.mix
    assert_array_equal(sample.pixels, same_seed.pixels)
    assert np.abs(sample.pixels.astype(float) - other_seed.pixels).mean() > 3
    assert not opened("folder", folder, augment=AugmentConfig(mix=False)).sample(0, rng()).mix


def test_images_alone(folder: Path) -> None:
    """An objective that reads only images can use a folder of photos without classes."""
    flat = folder / "train" / "dark_hat"
    source = opened("folder", flat, ())
    assert (len(source), source.labels) == (4, ())
    sample = source.sample(0, rng())
    assert (sample.caption, sample.label, sample.caption_facts) == ("", -1, frozenset())
    with pytest.raises(RecipeError, match=r"4 images and no folders of classes; .*of captions or"):
        opened("folder", flat, ("captions",))


# Several captions, classes as numbers


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_one_of_several_captions_is_drawn(kind: str, five: Path) -> None:
    rows = [
        {"file_name": "p/0.png", "texts": ["A Cat", "a  cat sits"]},
        {"file_name": "p/1.png", "texts": "a dog"},
    ]
    file = five / "metadata.jsonl"
    file.write_text(lines(rows))
    source = opened(kind, five if kind == "folder" else file, ("captions",))
    samples = [source.sample(0, rng(seed)) for seed in range(20)]
    assert {s.caption for s in samples} == {"A Cat", "a  cat sits"}
    assert {s.caption_facts for s in samples} == {frozenset(["a cat"]), frozenset(["a cat sits"])}
    assert {s.image_facts for s in samples} == {frozenset(["a cat", "a cat sits"])}
    assert list(source.captions()) == ["A Cat", "a  cat sits", "a dog"]


def test_rows_of_the_same_image_add_up(five: Path) -> None:
    (five / "metadata.csv").write_text("file_name,text\np/0.png,a\np/1.png,b\np/0.png,c\n")
    source = opened("folder", five, ("captions",))
    assert len(source) == 2
    assert source.sample(0, rng()).image_facts == {"a", "c"}


def test_classes_as_numbers(five: Path) -> None:
    text = "image,label\np/0.png,10\np/1.png,9\np/2.png,10\n"
    (five / "n.csv").write_text(text)
    source = opened("table", five / "n.csv")
    assert source.labels == ("9", "10")
    assert [source.sample(i, rng()).label for i in range(3)] == [1, 0, 1]
    assert source.sample(1, rng()).caption == "a photo of a 9"
    named = opened("table", five / "n.csv", names=(("hat", "cap"), ("shirt",)))
    assert named.labels == ("hat", "shirt")
    assert named.sample(0, rng()).caption == "a photo of a shirt"
    pq.write_table(
        pa.table({"image": ["p/0.png", "p/1.png"], "label": [3, 12]}), five / "n.parquet"
    )
    assert opened("table", five / "n.parquet").labels == ("3", "12")


def test_classes_as_numbers_of_pandas(five: Path) -> None:
    """pandas writes 3.0 and NaN for a column of whole numbers with an empty cell, also as JSON."""
    images = [f"p/{i}.png" for i in range(4)]
    labels = [3.0, 12.0, float("nan"), 3.0]
    pq.write_table(pa.table({"image": images, "label": labels}), five / "n.parquet")
    rows = [{"image": a, "label": b} for a, b in zip(images, labels, strict=True)]
    for name in ("n.jsonl", "metadata.jsonl"):
        (five / name).write_text(lines(rows))
    members = {}
    for i, row in enumerate(rows):
        members |= {f"{i}.json": json.dumps(row).encode(), f"{i}.png": encoded(i)}
    tar_of(five / "n.tar", members)
    for kind, file in (
        ("table", five / "n.parquet"),
        ("table", five / "n.jsonl"),
        ("folder", five),
        ("webdataset", five / "n.tar"),
    ):
        source = opened(kind, file, ("labels",))
        assert source.labels == ("3", "12")
        assert [source.sample(i, rng()).label for i in (0, 1, 3)] == [0, 1, 0]
        with pytest.raises(ImageError, match="no class in this row"):
            source.sample(2, rng())


def test_classes_are_in_one_order_in_every_process(five: Path) -> None:
    """Classes that are equal as numbers, "1" and "01", have a fixed order; 1 and "1" are one
    class."""
    rows = [{"image": "p/0.png", "label": x} for x in ("1", 1, "01", "-2", "001", [3], 0.5, None)]
    (five / "n.jsonl").write_text(lines(rows))
    source = opened("table", five / "n.jsonl", ("labels",))
    assert source.labels == ("-2", "001", "01", "1")
    assert [source.sample(i, rng()).label for i in range(5)] == [3, 3, 2, 0, 1]
    for broken in (5, 6, 7):
        with pytest.raises(ImageError, match="no class in this row"):
            source.sample(broken, rng())


def test_cells_are_taken_as_they_are(five: Path) -> None:
    """Cells stay texts. pandas would convert NA, null and 007."""
    (five / "p" / "007").write_bytes(encoded(7))
    text = "image,caption,label\np/007,NA,null\np/1.png,None,007\n"
    (five / "n.csv").write_text(text)
    source = opened("table", five / "n.csv")
    assert list(source.captions()) == ["NA", "None"]
    assert source.labels == ("007", "null")


def test_unread_columns_do_not_matter(five: Path) -> None:
    """Labels and captions that are not read may have any value."""
    rows = [{"image": f"p/{i}.png", "caption": CAPTIONS[i], "label": None} for i in range(5)]
    (five / "n.jsonl").write_text(lines(rows))
    assert opened("table", five / "n.jsonl", ("captions",)).labels == ()
    source = opened("table", five / "n.jsonl", (), names=(("a",), ("b",)))
    assert source.labels == ()
    assert source.sample(0, rng()).caption == ""
    features = datasets.Features(
        {
            "image": datasets.Value("string"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["hat", "shirt"]),
        }
    )
    values = {
        "image": [f"p/{i}.png" for i in range(5)],
        "text": CAPTIONS,
        "label": [1, -1] + [0] * 3,
    }
    datasets.Dataset.from_dict(values, features=features).to_parquet(five / "n.parquet")
    source = opened("table", five / "n.parquet", ("captions",))
    assert [source.sample(i, rng()).label for i in range(3)] == [1, -1, 0]
    with pytest.raises(ImageError, match=r"1\.png: no class in this row"):
        opened("table", five / "n.parquet").sample(1, rng())


# Scenes


def test_scenes() -> None:
    source = opened("scenes", count=20, seed=3, reads=("captions",))
    assert (len(source), source.labels) == (20, ())
    drawn = [scene(3, i) for i in range(20)]
    assert list(source.captions()) == [s.caption for s in drawn]
    for i, expected in enumerate(drawn):
        for _ in range(2):  # rendered, then from the cache
            sample = source.sample(i, rng())
            assert_array_equal(sample.pixels, pixels_of(expected.image))
            assert sample.caption == expected.caption
            assert sample.label == -1
    samples = [source.sample(i, rng()) for i in range(20)]
    marks = positives([s.caption_facts for s in samples], [s.image_facts for s in samples])
    true = [[holds(text.meaning, s.facts) for text in drawn] for s in drawn]
    assert marks.tolist() == true
    assert 20 < marks.sum() < 200


def test_wrong_captions_of_scenes() -> None:
    """That share of the samples has a wrong caption. Everything else is as without wrong
    captions."""
    without = opened("scenes", count=20, seed=3, reads=("captions",))
    source = opened("scenes", count=20, seed=3, reads=("captions",), wrong_captions=0.5)
    texts = [source.sample(seed % 20, rng(seed)).wrong_caption for seed in range(400)]
    assert 150 < sum(map(bool, texts)) < 250
    assert len(set(texts)) > 100
    for number in range(20):
        sample = replace(source.sample(number, rng()), wrong_caption="", pixels=np.zeros(0))
        assert sample == replace(without.sample(number, rng()), pixels=sample.pixels)


def pixels_of(image: np.ndarray) -> np.ndarray:
    return Preprocess(PREPROCESS).seen(Photo.whole(image))[0]


def test_wafers_have_classes() -> None:
    source = opened("scenes", count=30, only="wafer")
    assert source.labels == WAFER_CLASSES
    labels = [source.sample(i, rng()).label for i in range(30)]
    assert [WAFER_CLASSES[n] for n in labels] == [
        scene(0, i, kind="wafer").label for i in range(30)
    ]
    assert len(set(labels)) == 5


def test_the_cache_of_scenes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchword.data.scene_source.CACHE_BYTES", 3 * 128 * 128 * 3)
    source = opened("scenes", count=10, reads=())
    for i in range(10):
        source.sample(i, rng())
    assert len(source._cache) == 3
