"""Tars: the same samples as by webdataset, errors for ambiguous names, and damaged files."""

import gzip
import io
import json
import subprocess
import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, tar_of
from webdataset import tariterators

from patchword.data.rows import USUAL, Columns
from patchword.data.table import FAULT
from patchword.data.tars import TarRows
from patchword.errors import RecipeError

JPG, PNG, DEPTH = encoded(0, "JPEG"), encoded(1), encoded(2)


def rows(tar: Path, named: Columns = USUAL) -> list[dict]:
    read = TarRows([tar], named)
    return [dict(read[i]) for i in range(len(read))]


def webdataset_samples(tar: Path) -> list[dict]:
    """The samples by webdataset, as dicts of suffix and content."""
    with tar.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(tar), "stream": stream}])
        return list(tariterators.group_by_keys(files))


def test_dates_in_names_are_no_samples(tmp_path: Path) -> None:
    """webdataset reads them as one sample."""
    files = {}
    for i in range(4):
        files[f"IMG_2024.01.{i:02}.jpg"] = JPG
        files[f"IMG_2024.01.{i:02}.txt"] = b"a"
    tar = tar_of(tmp_path / "a.tar", files)
    assert len(webdataset_samples(tar)) == 1
    message = r"IMG_2024 has 4 images, 01.00.jpg, .* ends at its first dot.* Rename the files"
    with pytest.raises(RecipeError, match=message):
        rows(tar)
    (row,) = rows(tar, Columns(image="01.02.jpg", caption="01.03.txt"))
    assert (row["image"], row["caption"]) == (JPG, ["a"])


def test_dots_in_suffixes(tmp_path: Path) -> None:
    files = {}
    for i in range(4):
        files[f"{i:03}.v2.jpg"] = encoded(i, "JPEG")
        files[f"{i:03}.v2.txt" if i else "000.txt"] = f"caption {i}".encode()
    samples = rows(tar_of(tmp_path / "a.tar", files))
    assert [row["caption"] for row in samples] == [[f"caption {i}"] for i in range(4)]
    assert [row["image"] for row in samples] == [encoded(i, "JPEG") for i in range(4)]


def test_several_images_of_a_sample(tmp_path: Path) -> None:
    files = {"0.depth.png": DEPTH, "0.png": PNG, "0.jpg": JPG, "0.txt": b"a", "1.jpg": JPG}
    tar = tar_of(tmp_path / "a.tar", files)
    with pytest.warns(UserWarning, match=r"1 sample has several images, such as 0 with depth"):
        assert [row["image"] for row in rows(tar)] == [JPG, JPG]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row["image"] for row in rows(tar, Columns(image="depth.png;jpg"))] == [DEPTH, JPG]
        (first, second) = rows(tar, Columns(image="depth.png"))
    assert (first["image"], first[FAULT]) == (DEPTH, None)
    assert second[FAULT] == "no image .depth.png in this sample"
    with pytest.raises(RecipeError, match=r"no sample has an image .nosuch; they have depth.png, "):
        rows(tar, Columns(image="nosuch"))
    with pytest.raises(RecipeError, match="no column 'nosuch'; it has txt"):
        rows(tar, Columns(caption="nosuch"))


def test_of_several_tars_the_right_one_is_named(tmp_path: Path) -> None:
    tars = [
        tar_of(tmp_path / "a.tar", {"0.jpg": JPG}),
        tar_of(tmp_path / "b.tar", {"1.jpg": JPG, "1.png": PNG}),
    ]
    message = rf"^2 tars: 1 sample has several images, such as {tars[1]}/1 with jpg, png"
    with pytest.warns(UserWarning, match=message):
        TarRows(tars, USUAL)


def test_captions_by_suffix_and_key(tmp_path: Path) -> None:
    """Captions with several suffixes, and with several keys of a .json."""
    fields = {"caption": "x", "caption_2": "y", "title": "z", "label": 3}
    files = {"0.jpg": JPG, "0.blip.txt": b"b", "0.txt": "ü".encode("utf-16"), "1.jpg": JPG}
    files |= {
        "1.json": json.dumps(fields).encode(),
        "1.blip.txt": b"c",
        "2.jpg": JPG,
        "2.a.txt": b"d",
    }
    files |= {"2.b.txt": b"e"}
    tar = tar_of(tmp_path / "a.tar", files)
    samples = rows(tar)
    assert [row["caption"] for row in samples[:2]] == [["ü"], ["c"]]
    assert samples[2][FAULT] == "several files may be its .txt: a.txt, b.txt"
    assert [r["caption"] for r in rows(tar, Columns(caption="blip.txt"))[:2]] == [["b"], ["c"]]
    chosen = rows(tar, Columns(caption="title, caption_2"))
    assert [row["caption"] for row in chosen] == [[], ["z", "y"], []]
    tar = tar_of(tmp_path / "b.tar", {"1.jpg": JPG, "1.json": json.dumps(fields).encode()})
    assert rows(tar)[0]["caption"] == ["x", "y"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_gzip(name: str, tmp_path: Path) -> None:
    plain = tar_of(tmp_path / "plain.tar", {"0.jpg": JPG, "0.txt": b"a", "1.jpg": PNG})
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    assert [(r["image"], r["caption"]) for r in rows(tmp_path / name)] == [(JPG, ["a"]), (PNG, [])]
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes())[:-20])
    with pytest.raises(RecipeError, match=f"{name}: cannot be read"):
        rows(tmp_path / name)


FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def test_tars_of_a_folder(tmp_path: Path) -> None:
    """`./` before names, folders, long names, hard links, upper case, files of macOS, pax; written
    by Python and, if it is installed as `tar`, by GNU tar."""
    folder = tmp_path / "in" / ("long" * 30)
    folder.mkdir(parents=True)
    (folder / "0.JPG").write_bytes(JPG)
    (folder / "0.txt").write_text("a")
    (folder / "1.jpg").hardlink_to(folder / "0.JPG")
    (folder / "._1.jpg").write_bytes(b"macOS")
    (folder / "2.jpg").symlink_to("0.JPG")
    version = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=True)
    write_members = []
    for name, format in FORMATS.items():
        write_members.append(tmp_path / f"python-{name}.tar")
        with tarfile.open(write_members[-1], "w", format=format) as tar:
            tar.add(tmp_path / "in", arcname=".")
        if "GNU tar" in version.stdout:
            write_members.append(tmp_path / f"{name}.tar")
            order = ["--sort=name", f"--format={name}", "-C", tmp_path / "in"]
            subprocess.run(["tar", *order, "-cf", write_members[-1], "."], check=True)
    for path in write_members:
        samples = rows(path)
        assert [row["image"] for row in samples] == [JPG, JPG, None]
        assert [row["caption"] for row in samples] == [["a"], [], []]
        assert "is a link or no file; write the tar with --dereference" in samples[2][FAULT]


def test_files_that_do_not_stand_together(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", {"0.jpg": JPG, "1.jpg": JPG, "0.txt": b"a", "1.txt": b"b"})
    assert len(webdataset_samples(tar)) == 4
    with pytest.raises(RecipeError, match="the files of 0 are not next to each other"):
        rows(tar)


def test_files_without_a_suffix_are_counted(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", {"0.jpg": JPG, "README": b"x", "__meta__": b"y"})
    with pytest.warns(UserWarning, match=r"1 file without a suffix .* such as .*README"):
        assert len(rows(tar)) == 1


def test_joined_tars(tmp_path: Path) -> None:
    """`cat a.tar b.tar`. tarfile and webdataset read only the first of the two."""
    parts = [tar_of(tmp_path / f"{i}.tar", {f"{i}.jpg": encoded(i)}) for i in range(3)]
    (tmp_path / "all.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [row["image"] for row in rows(tmp_path / "all.tar")] == [encoded(i) for i in range(3)]
    assert len(webdataset_samples(tmp_path / "all.tar")) == 1


# Without "d/._0...": webdataset names these samples "d/".
NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "d/", "./", "d.e/"]),
    st.sampled_from(["0", "1", "a_b", "._0"]),
    st.sampled_from(
        [".jpg", ".JPG", ".png", ".txt", ".json", ".cls", ".depth.png", ".v2.txt", ".npy", ""]
    ),
).filter(lambda name: "d/._" not in name and "e/._" not in name)


def write_members(tar: Path, names: Sequence[str]) -> None:
    """A tar with members of these names, which may repeat, each with different content."""
    with tarfile.open(tar, "w") as out:
        for number, name in enumerate(names):
            content = b'{"n": %d}' % number if name.endswith("json") else b"content %d" % number
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


@given(st.lists(NAMES, max_size=12))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_samples_are_webdatasets_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    tar = tmp_path_factory.getbasetemp() / "fuzz.tar"
    write_members(tar, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            samples = rows(tar)
        except RecipeError:
            return
    try:
        expected = webdataset_samples(tar)
    except ValueError:  # two files of one name
        assert any(row[FAULT] for row in samples)
        return
    assert len(samples) == len(expected)
    for row, sample in zip(samples, expected, strict=True):
        pictures = [v for k, v in sample.items() if k.endswith(("jpg", "png"))]
        assert row[FAULT] or row["image"] in pictures
        if not row[FAULT] and {"jpg", "png"} & set(sample):
            assert row["image"] == sample.get("jpg", sample.get("png"))
        if "txt" in sample and not row[FAULT]:
            assert row["caption"] == [sample["txt"].decode()]


@given(position=st.floats(0, 1), damage=st.sampled_from(["cut", "zeros", "letters"]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_damage_is_said(
    tmp_path_factory: pytest.TempPathFactory, position: float, damage: str
) -> None:
    """Tars that are cut off at any place, or that have an overwritten block."""
    tar = tmp_path_factory.getbasetemp() / "damaged.tar"
    pairs = [(i, kind) for i in range(4) for kind in ("jpg", "txt")]
    content = tar_of(tar, {f"{i}.{kind}": b"%d " % i * 300 for i, kind in pairs}).read_bytes()
    byte = 1 + int(position * (len(content.rstrip(b"\0")) - 1))
    start = byte // 512 * 512
    block = (b"\0" if damage == "zeros" else b"x") * 512
    cut = damage == "cut"
    tar.write_bytes(content[:byte] if cut else content[:start] + block + content[start + 512 :])
    try:
        samples = rows(tar)
    except RecipeError:
        return
    is_header = content[start + 257 : start + 262] == b"ustar"
    faults = sum(row[FAULT] is not None for row in samples)
    if cut or is_header:
        assert faults
    else:  # overwritten content of a file is no fault of the tar
        assert (len(samples), faults) == (4, 0)
