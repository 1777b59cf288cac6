"""capfilt: its captions and scores are those of caption and match, and a run that is killed and
continued loses and repeats nothing."""

from reference_blip import CAPTIONS, RETRIEVAL, hugging_face_blip, original_blip

# isort: split
import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cli_runner import CommandResult, Run
from dataset_layouts import rng
from forked_processes import start_command
from numpy.testing import assert_allclose
from photos import PREPROCESS, photo, tar_of
from PIL import Image
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword import checkpoints
from patchword.capfilt.dataset import open_photos
from patchword.capfilt.filtering import BATCH, SAMPLED, ScoredText, capfilt_each
from patchword.capfilt.page import Tally, report
from patchword.capfilt.store import Shard, Store
from patchword.data import SourceConfig, open_sources
from patchword.errors import ImageError, LongTextWarning, PatchwordError, UnsupportedError

pytestmark = pytest.mark.slow

TEXTS = ["a cat", "two small birds", "a red chair in a tree", "a photo of dogs", "blue and green"]
COUNT = 2 * BATCH + 5  # images of the small dataset: three batches
WRITTEN = ("metadata.jsonl", "provenance.jsonl", "report.html")
OPTIONS = ("--top-p", 0.9, "--count", 2, "--threshold", 0.5)


@pytest.fixture(autouse=True)
def empty_folder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return tmp_path


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BLIP with random weights that captions and matches. About half of all pairs match."""
    folder = tmp_path_factory.mktemp("blip")
    original_blip(folder)
    model = patchword.load(folder / "model_tiny.pth")
    tokens = torch.from_numpy(model.reader()(TEXTS))
    pixels = torch.from_numpy(model.open(photo(1))[0][None])
    with torch.no_grad():
        network = model.network
        logits = network.match(network.image_tokens(pixels), tokens)
        network.match_head.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    return str(checkpoints.save(model, folder / "model"))


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another BLIP, which only matches."""
    return str(hugging_face_blip(tmp_path_factory.mktemp("judge") / "judge", RETRIEVAL).path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a metadata.csv: one image has three captions, one file is not an image."""
    return write_dataset(tmp_path_factory.mktemp("data") / "photos", COUNT)


def write_dataset(folder: Path, count: int) -> Path:
    (folder / "p").mkdir(parents=True)
    lines = ["file_name,caption"]
    for i in range(count):
        photo(i).save(folder / "p" / f"{i}.png")
        lines.append(f"p/{i}.png,{TEXTS[i % 5]}")
    lines += ["p/0.png,a dog", "p/0.png,a cat", "p/broken.png,a bird"]
    (folder / "p" / "broken.png").write_text("hello")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(folder: Path) -> dict[str, bytes]:
    """The files that a finished run has written."""
    return {name: (folder / name).read_bytes() for name in WRITTEN}


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, blip: str) -> Path:
    """The folder of a run that was not interrupted."""
    out = photos.parent / "whole"
    process = start_command(out.parent / "said", *arguments(photos, out, blip))
    process.join()
    assert process.exitcode == 1, (out.parent / "said.err").read_text()
    return out


def arguments(photos: Path, out: Path, blip: str, *more: object) -> list[object]:
    return ["capfilt", photos, out, "-m", blip, *OPTIONS, *more]


# --- scores ---------------------------------------------------------------------------------------


def by_caption_and_match(
    model: patchword.Model, matcher: patchword.Model, images: list, web: list
) -> list:
    """The expected (text, source, score) of each image, from `caption` and `match`."""
    options = {"top_p": 0.9, "min_length": 5, "max_length": 20, "count": 3, "seed": 4}
    results = []
    for image, texts in zip(images, web, strict=True):
        (caption,) = model.caption([image], prompt="a photo", **options)
        synthetic = [caption.text, *(other.text for other in caption.others)]
        texts_of_image = [("web", text) for text in texts]
        texts_of_image += [("synthetic", text) for text in dict.fromkeys(synthetic)]
        (scores,) = matcher.match(
            [image], [text for _, text in texts_of_image]
        ).probabilities.tolist()
        results.append(
            [(t, s, score) for (s, t), score in zip(texts_of_image, scores, strict=True)]
        )
    return results


@pytest.mark.parametrize("one_model", [True, False])
def test_captions_are_captions_and_scores_are_matches(
    blip: str, matcher: str, one_model: bool
) -> None:
    """With images of no text, of one text, and of more texts than run in one batch."""
    writer = patchword.load(blip)
    other = writer if one_model else patchword.load(matcher)
    images: list = [photo(i) for i in range(BATCH + 3)]
    several: list[list[str]] = [[], TEXTS[:1], TEXTS[1:4], TEXTS[4:]]  # in turn
    web = [several[i % 4] for i in range(len(images))]
    web[3] = [f"a {word} {n}" for n in range(40) for word in ("cat", "dog")]
    pairs = list(zip(images, web, strict=True))
    pairs.insert(5, (b"no image", ["a cat"]))
    generator = capfilt_each(
        writer, other, iter(pairs), "a photo", options=replace(SAMPLED, count=3, seed=4)
    )
    answers = list(generator)
    assert [image for image, _ in answers] == [image for image, _ in pairs]
    assert isinstance(answers.pop(5)[1], ImageError)
    expected = by_caption_and_match(writer, other, images, web)
    for (_, scored), expected_texts in zip(answers, expected, strict=True):
        assert not isinstance(scored, ImageError)
        assert [(each.text, each.source) for each in scored] == [
            (t, s) for t, s, _ in expected_texts
        ]
        scores = [each.score for each in scored]
        assert_allclose(scores, [score for _, _, score in expected_texts], rtol=1e-4, atol=1e-6)
        assert [each.kept for each in scored] == [score >= 0.5 for score in scores]
    assert {each.kept for _, scored in answers for each in scored} == {True, False}


def test_threshold_and_long_texts(blip: str) -> None:
    model = patchword.load(blip)
    long = " ".join(["a cat and a dog"] * 30)

    def scored_texts(threshold: float) -> list[ScoredText]:
        pairs = [(photo(i), [long, "a dog"]) for i in range(2)]
        with pytest.warns(LongTextWarning, match="scored by its start") as warned:
            scored = [each for _, each in capfilt_each(model, model, pairs, threshold=threshold)]
        assert len(warned) == 1
        return [each for texts in scored for each in texts]  # type: ignore[union-attr]

    assert all(each.kept for each in scored_texts(0))
    scores = sorted(each.score for each in scored_texts(0))
    assert [each.kept for each in scored_texts(scores[2])].count(True) == len(scores) - 2


def test_models_that_cannot_are_told(
    run: Run, photos: Path, empty_folder: Path, matcher: str, blip: str
) -> None:
    captions = str(hugging_face_blip(empty_folder / "captions", CAPTIONS).path)
    clip = str(checkpoints.save(tiny_bundle(tiny_clip()), empty_folder / "clip"))
    for options, name in (
        (["-m", clip, "--filter", matcher], "blip-image-captioning-base"),
        (["-m", matcher], "blip-image-captioning-base"),
        (["-m", captions], '"demo-blip", as --filter'),
        (["-m", blip, "--filter", clip], '"demo-blip", as --filter'),
    ):
        ran = run("capfilt", photos, "out", *options)
        assert ran.code == 2
        assert name in ran.err
        assert not Path("out").exists()
    with pytest.raises(UnsupportedError):
        next(capfilt_each(patchword.load(captions), patchword.load(captions), []))


# --- files ----------------------------------------------------------------------------------------


def test_the_folder_of_a_run(photos: Path, uninterrupted: Path, blip: str) -> None:
    """provenance.jsonl has every caption, and the dataset has those that are kept."""
    model = patchword.load(blip)
    provenance = rows(uninterrupted / "provenance.jsonl")
    by_image: dict[str, list[dict]] = {}
    for each in provenance:
        by_image.setdefault(each["image"], []).append(each)
    assert list(by_image) == [f"../photos/p/{i}.png" for i in range(COUNT)]
    options = {"top_p": 0.9, "min_length": 5, "count": 2}
    for i, records in enumerate(by_image.values()):
        web = [each["text"] for each in records if each["source"] == "web"]
        assert web == [TEXTS[i % 5], "a dog"] if i == 0 else [TEXTS[i % 5]]
        if i < 2:
            (caption,) = model.caption([photos / "p" / f"{i}.png"], **options)
            texts = [caption.text, *(other.text for other in caption.others)]
            synthetic = [each["text"] for each in records if each["source"] == "synthetic"]
            assert synthetic == list(dict.fromkeys(texts))
    kept = {
        image: list(dict.fromkeys(each["text"] for each in records if each["kept"]))
        for image, records in by_image.items()
    }
    expected = [{"file_name": image, "captions": texts} for image, texts in kept.items() if texts]
    assert rows(uninterrupted / "metadata.jsonl") == expected
    plan = json.loads((uninterrupted / "capfilt.json").read_text())
    assert plan["captioner"]["fingerprint"] == plan["filter"]["fingerprint"] == model.fingerprint


def test_training_reads_the_dataset(uninterrupted: Path) -> None:
    expected = rows(uninterrupted / "metadata.jsonl")
    for kind, path in (("folder", uninterrupted), ("table", uninterrupted / "metadata.jsonl")):
        config = SourceConfig(kind, path=str(path))  # type: ignore[arg-type]
        (source,) = open_sources([config], PREPROCESS, ("captions",))
        assert len(source) == len(expected)
        assert list(source.captions()) == [text for each in expected for text in each["captions"]]
        assert source.sample(0, rng()).caption in expected[0]["captions"]


def test_the_page(uninterrupted: Path) -> None:
    page = (uninterrupted / "report.html").read_text()
    records = rows(uninterrupted / "provenance.jsonl")
    for source in ("web", "synthetic"):
        kept = [each["kept"] for each in records if each["source"] == source]
        counts = f"<td>{len(kept)}</td><td>{sum(kept)}</td><td>{len(kept) - sum(kept)}</td>"
        assert counts in page
    assert page.count("<svg") == 2
    assert "data:image/jpeg" in page
    assert "broken.png: not an image" in page
    assert "http" not in page


def test_texts_without_a_score_are_dropped_and_counted(blip: str, tmp_path: Path) -> None:
    model = patchword.load(blip)
    with torch.no_grad():
        model.network.match_head.weight.mul_(3e38)  # infinite logits: their difference is no number
    ((_, texts),) = capfilt_each(model, model, [(photo(1), TEXTS[:2])], options=SAMPLED)
    assert [text.kept for text in texts] == [False] * 3
    records = [text.record() for text in texts]
    assert json.loads(json.dumps(records, allow_nan=False))[0]["score"] is None
    tally = Tally.of([{"image": "a.png", "captions": records}])
    assert "3 captions were dropped without a score" in tally.summary()
    model_names = {"name": "m", "fingerprint": "f"}
    plan = dict.fromkeys(("count", "top_p", "min_length", "max_length", "seed", "threshold"), 1)
    page = report(
        tally, {**plan, "captioner": model_names, "filter": model_names, "prompt": ""}, tmp_path
    )
    assert "the filter&#39;s outputs are no numbers" in page


def test_of_no_texts_no_share_is_kept() -> None:
    assert Tally.of([]).rows()[0] == ("given", 0, 0, 0, "-")


def test_columns_that_are_not_written_are_named(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,text,other,label,price,none\nring.jpg,a ring,red,0,3,\n")
    (tmp_path / "ring.jpg").touch()
    assert open_photos(str(table), tmp_path).left_out == ["other", "label", "price"]
    both = open_photos(str(table), tmp_path, caption="text,other")
    assert both.left_out == ["label", "price"]


@pytest.mark.parametrize("kind", ["parquet", "tar", "csv", "pictures"])
def test_other_kinds_of_data(run: Run, empty_folder: Path, blip: str, kind: str) -> None:
    """The same images give the same captions. Images in a table or tar are written as files."""
    (empty_folder / "photos").mkdir()
    files = {f"{i}.png": empty_folder / "photos" / f"{i}.png" for i in range(3)}
    for i, file in enumerate(files.values()):
        photo(i).save(file)
    data = empty_folder / f"all.{kind}"
    content = {name: file.read_bytes() for name, file in files.items()}
    if kind == "parquet":
        table = [{"img": c, "alt": TEXTS[i]} for i, c in enumerate(content.values())]
        table.append({"img": b"hello", "alt": "a cat"})
        pq.write_table(pa.Table.from_pylist(table), data)
    elif kind == "tar":
        texts = {f"{i}.txt": TEXTS[i].encode() for i in range(3)} | {"3.txt": b"no image beside"}
        tar_of(data, dict(sorted((content | texts).items())))
    elif kind == "csv":  # the same image in two rows
        lines = [f"photos/{i % 3}.png,{TEXTS[i]}\n" for i in range(4)]
        data.write_text("image,text\n" + "".join(lines) + "photos/missing.png,a cat\n")
    else:
        data = empty_folder / "photos"
    columns = ["--image-column", "img", "--caption-column", "alt"] if kind == "parquet" else []
    ran = run("capfilt", data, "out", "-m", blip, *columns, "--threshold", 0, "--json")
    assert ran.code == (kind != "pictures")
    assert ["error" in record for record in ran.records] == [False] * 3 + [True] * ran.code
    scored = [[each["text"] for each in record["captions"]] for record in ran.records[:3]]
    captions = [
        c.text for c in patchword.load(blip).caption(files.values(), top_p=0.9, min_length=5)
    ]
    web = [[], [], []] if kind == "pictures" else [[text] for text in TEXTS[:3]]
    if kind == "csv":
        web[0].append(TEXTS[3])
    assert scored == [[*texts, text] for texts, text in zip(web, captions, strict=True)]
    dataset = rows(Path("out") / "metadata.jsonl")
    assert [each["captions"] for each in dataset] == scored
    for each, file in zip(dataset, files.values(), strict=True):
        assert (Path("out") / each["file_name"]).read_bytes() == file.read_bytes()
    charts = Path("out/report.html").read_text().count("<svg")
    assert charts == (1 if kind == "pictures" else 2)  # none of captions that there are not


def test_broken_images_are_named_and_images_without_captions_are_counted(
    run: Run, photos: Path, blip: str
) -> None:
    ran = run("capfilt", photos, "out", "-m", blip, "--threshold", 1)
    assert ran.code == 1
    assert "broken.png: not an image" in ran.err
    assert f"1 of {COUNT + 1} images failed" in ran.err
    assert f"0 of {COUNT} images have a text that is kept; 1 more could not be opened" in ran.err
    assert rows(Path("out") / "metadata.jsonl") == []
    assert f"{COUNT} images have no text" in (Path("out") / "report.html").read_text()


# --- continuing a run
# ------------------------------------------------------------------------------


def test_killed_again_and_again_it_is_the_run_that_was_not(
    run: Run, photos: Path, uninterrupted: Path, blip: str
) -> None:
    out, random = uninterrupted.parent / "killed", Random(3)
    killed = 0
    for batches in (1, 2):
        process = start_command(out.parent / "said", *arguments(photos, out, blip))
        while process.is_alive() and lines(out) < batches:
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed == 2
    assert not (out / "provenance.jsonl").exists()
    assert run(*arguments(photos, out, blip)).code == 1
    assert written(out) == written(uninterrupted)
    again = run(*arguments(photos, out, blip), "--json")
    assert (again.code, [set(r) for r in again.records]) == (1, [{"image", "error"}])
    assert "broken.png" in again.err
    assert written(out) == written(uninterrupted)


def lines(out: Path) -> int:
    """The number of batches that are done."""
    file = out / "judged-0-of-1.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_torn_line_is_dropped_wherever_it_was_cut(
    run: Run, photos: Path, uninterrupted: Path, blip: str
) -> None:
    out = uninterrupted.parent / "torn"
    content = (uninterrupted / "judged-0-of-1.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in (1, ends[0] - 1, ends[1] + 500):
        out.mkdir(exist_ok=True)
        (out / "capfilt.json").write_bytes((uninterrupted / "capfilt.json").read_bytes())
        (out / "judged-0-of-1.jsonl").write_bytes(content[:cut])
        assert run(*arguments(photos, out, blip)).code == 1
        assert (out / "judged-0-of-1.jsonl").read_bytes() == content
        assert written(out) == written(uninterrupted)


def test_damage_in_the_middle_is_told(
    run: Run, photos: Path, uninterrupted: Path, blip: str
) -> None:
    out = uninterrupted.parent / "damaged"
    out.mkdir()
    (out / "capfilt.json").write_bytes((uninterrupted / "capfilt.json").read_bytes())
    first, second, third = (
        (uninterrupted / "judged-0-of-1.jsonl").read_bytes().splitlines(keepends=True)
    )
    for content, line in ((first + second[9:] + third, 2), (first + third, 2), (first * 2, 2)):
        (out / "judged-0-of-1.jsonl").write_bytes(content)
        ran = run(*arguments(photos, out, blip))
        assert ran.code == 2
        assert f"judged-0-of-1.jsonl, line {line}" in ran.err
        assert (out / "judged-0-of-1.jsonl").read_bytes() == content


def test_shards_together_are_one_run(
    run: Run, photos: Path, uninterrupted: Path, blip: str
) -> None:
    out = uninterrupted.parent / "shards"

    def shard(text: str) -> CommandResult:
        return run(*arguments(photos, out, blip, "--shard", text))

    first = shard("1/2")
    assert first.code == 0
    assert "left before the dataset is written: 0/2" in first.err
    assert not (out / "metadata.jsonl").exists()
    assert shard("0/2").code == 1  # it has the broken image
    assert written(out) == written(uninterrupted)
    for wrong in ("2/2", "1", "-1/2", "a/b"):
        assert shard(wrong).code == 2
    assert shard("0/3").code == 2


def test_processes_do_not_write_over_each_other(empty_folder: Path) -> None:
    """Two processes of the same shard, and two with different plans that begin at the same time."""
    plan = {"seed": 0}
    first, second = (Store(empty_folder / "out", plan, Shard(0, 2), 8) for _ in range(2))
    other = Store(empty_folder / "out", {"seed": 1}, Shard(1, 2), 8)
    first.append(0, [], {})
    with pytest.raises(PatchwordError, match="another process writes it"):
        second.append(0, [], {})
    with pytest.raises(PatchwordError, match="seed was 0, and is 1"):
        other.append(1, [], {})
    assert [path.name for path in (empty_folder / "out").iterdir() if "judged" in path.name] == [
        "judged-0-of-2.jsonl"
    ]
    assert list(second.resume()) == [2, 4, 6]


def test_a_file_system_without_links(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a memory card."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    out = empty_folder / "out"
    Store(out, {"seed": 0}, Shard(), 1).append(0, [], {})
    assert {path.name for path in out.iterdir()} == {"capfilt.json", "judged-0-of-1.jsonl"}
    with pytest.raises(PatchwordError, match="seed was 0, and is 1"):
        Store(out, {"seed": 1}, Shard(), 1)


def test_other_models_options_or_data_are_told(
    run: Run, photos: Path, uninterrupted: Path, blip: str, matcher: str, empty_folder: Path
) -> None:
    before = written(uninterrupted)
    arguments_before = arguments(photos, uninterrupted, blip)
    for more, message in (
        (["--top-p", 0.8], "top_p was 0.9, and is 0.8"),
        (["--prompt", "a"], 'prompt was "", and is "a"'),
        (["--threshold", 0.4, "--seed", 2], "seed was 0, and is 2; threshold was 0.5, and is 0.4"),
        (["--filter", matcher], f"and is {matcher}"),
        (["--shard", "0/2"], "shards was 1, and is 2"),
    ):
        options = list(arguments_before)
        for option in more[::2]:
            if option in options:  # each is given once
                place_of = options.index(option)
                del options[place_of : place_of + 2]
        ran = run(*options, *more)
        assert ran.code == 2
        assert message in ran.err
    (other := empty_folder / "photos").mkdir()
    (other / "p").symlink_to(photos / "p")
    text = (photos / "metadata.csv").read_text()
    (other / "metadata.csv").write_text(text.replace("two small", "three small"))
    ran = run(*arguments(other, uninterrupted, blip))
    assert ran.code == 2
    assert "data was" in ran.err
    assert written(uninterrupted) == before


def test_a_folder_with_something_else_is_left_alone(
    run: Run, photos: Path, empty_folder: Path, blip: str
) -> None:
    (empty_folder / "out").mkdir()
    Image.new("RGB", (8, 8)).save(empty_folder / "out" / "mine.png")
    ran = run(*arguments(photos, empty_folder / "out", blip))
    assert ran.code == 2
    assert "not an empty folder" in ran.err
    missing = run("capfilt", "missing", "out", "-m", blip)
    assert missing.code == 2
    assert ".parquet .tar .tgz" in missing.err
    assert run("capfilt", photos, "new", "-m", blip, "--top-p", 2).code == 2
    assert not Path("new").exists()
