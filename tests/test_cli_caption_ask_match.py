"""caption, ask, match, search --rerank and the heatmap of a BLIP: results, pictures, exit codes and
messages."""

from reference_blip import CAPTIONS, QUESTIONS, RETRIEVAL, hugging_face_blip

# isort: split
import math
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from numpy.testing import assert_allclose
from photos import FLOWER
from PIL import Image
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword import checkpoints
from patchword.show import plots

pytestmark = pytest.mark.slow

SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"
SCRATCH = SAMPLES / "wafers" / "scratch-1.jpg"
TEXTS = ["two small birds", "a cat"]


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture(scope="module")
def blips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of three BLIPs of random weights."""
    folder = tmp_path_factory.mktemp("blips")
    kinds = {"caption": CAPTIONS, "ask": QUESTIONS, "match": RETRIEVAL}
    return {name: str(hugging_face_blip(folder / name, kind).path) for name, kind in kinds.items()}


@pytest.fixture
def photos(workdir: Path) -> Path:
    """A folder with two good images and one that cannot be opened."""
    folder = workdir / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(FLOWER.read_bytes())
    (folder / "b.jpg").write_bytes(SCRATCH.read_bytes())
    (folder / "text.jpg").write_text("hello")
    return folder


# --- caption --------------------------------------------------------------------------------------


def test_caption_gives_what_python_gives(run: Run, blips: dict[str, str]) -> None:
    model = patchword.load(blips["caption"])
    for arguments, options in (
        ([], {}),
        (["--beams", 1, "--min-length", 9], {"beams": 1, "min_length": 9}),
        (["--prompt", "a picture of", "--max-length", 9],
         {"prompt": "a picture of", "max_length": 9}),
        (["--length-penalty", -1, "-n", 3], {"length_penalty": -1.0, "count": 3}),
        (["--repetition-penalty", 1.5], {"repetition_penalty": 1.5}),
        (["--top-p", 0.9, "--temperature", 2, "--seed", 3, "--count", 2],
         {"top_p": 0.9, "temperature": 2.0, "seed": 3, "count": 2}),
        (["--top-k", 4], {"top_k": 4}),
    ):  # fmt: skip
        ran = run("caption", FLOWER, SCRATCH, *arguments, "-m", blips["caption"], "--json")
        assert ran.code == 0
        expected = model.caption([FLOWER, SCRATCH], **options)
        for record, caption in zip(ran.records, expected, strict=True):
            assert record["caption"] == caption.text
            assert record["log_probability"] == pytest.approx(caption.log_probability)
            assert record["tokens"] == pytest.approx(list(caption.token_log_probabilities))
            if caption.others:
                texts = [each["caption"] for each in record["captions"]]
                assert texts == [caption.text, *(other.text for other in caption.others)]


def test_caption_draws_the_same_for_the_same_seed(run: Run, blips: dict[str, str]) -> None:
    def drawn(seed: int, *files: Path) -> list[str]:
        draw = ["--temperature", 3, "--seed", seed, "-m", blips["caption"], "--json"]
        return [record["caption"] for record in run("caption", *files, *draw).records]

    first = drawn(1, FLOWER, SCRATCH)
    assert drawn(1, SCRATCH, FLOWER) == first[::-1]
    assert drawn(2, FLOWER, SCRATCH) != first


def test_caption_table_picture_and_page(run: Run, blips: dict[str, str]) -> None:
    arguments = ["caption", FLOWER, SCRATCH, "--prompt", "a photo of", "-m", blips["caption"]]
    ran = run(*arguments, "-n", 2, "--save", "captions.png")
    assert ran.code == 0
    assert ran.out.count("a photo of") == 4
    assert Image.open("captions.png").height > 360
    assert run(*arguments, "--save", "captions.html").code == 0
    page = Path("captions.html").read_text()
    assert page.count("data:image/jpeg") == 2
    assert "a photo of" in page


# --- ask ------------------------------------------------------------------------------------------


def test_ask_gives_what_python_gives(run: Run, blips: dict[str, str]) -> None:
    model, questions = patchword.load(blips["ask"]), ["is it a cat?", "what color"]
    ran = run("ask", FLOWER, *questions, "-m", blips["ask"], "--json")
    assert ran.code == 0
    expected = model.ask(FLOWER, questions)
    assert [record["question"] for record in ran.records] == questions
    assert [record["answer"] for record in ran.records] == [answer.text for answer in expected]
    candidates = ["yes", "no", "two cats", "red"]
    arguments = ["--answers", "yes, no", "-a", "two cats,red", "-m", blips["ask"], "--json"]
    ranked = run("ask", FLOWER, *questions, *arguments)
    for record, answer in zip(
        ranked.records, model.ask(FLOWER, questions, candidates), strict=True
    ):
        assert record["answer"] == answer.text
        assert [c["answer"] for c in record["answers"]] == [c.text for c in answer.ranking]
        probabilities = [c["probability"] for c in record["answers"]]
        assert_allclose(probabilities, [c.probability for c in answer.ranking], rtol=1e-6)
        assert math.fsum(probabilities) == pytest.approx(1)
    short = run("ask", FLOWER, "who", *arguments, "--shortlist", 2).records[0]
    assert len(short["answers"]) == 2


def test_ask_table_and_picture(run: Run, blips: dict[str, str], workdir: Path) -> None:
    (workdir / "answers.txt").write_text("yes\nno\nred, or blue\n")
    arguments = ["ask", FLOWER, "is it a cat?", "what color", "-m", blips["ask"]]
    ran = run(*arguments, "--answers", "@answers.txt", "--save", "ranked.png")
    assert ran.code == 0
    assert ran.out.count("red, or blue") == 2
    assert ran.out.count("%") == 6
    assert run(*arguments, "--save", "written.png").code == 0
    ranked, written = (Image.open(name) for name in ("ranked.png", "written.png"))
    assert ranked.width == written.width
    assert ranked.height > written.height > 427  # the bars; the words under the photo
    below = np.asarray(written.convert("L"))[-60:]
    assert (below < 100).sum() > 50


# --- match, similarity ----------------------------------------------------------------------------


def test_match_gives_what_python_gives(run: Run, blips: dict[str, str]) -> None:
    texts = [option for text in TEXTS for option in ("-t", text)]
    ran = run("match", FLOWER, SCRATCH, *texts, "-m", blips["match"], "--json", "--save", "m.png")
    assert ran.code == 0
    expected = patchword.load(blips["match"]).match([FLOWER, SCRATCH], TEXTS)
    assert [[t["text"] for t in record["texts"]] for record in ran.records] == [TEXTS] * 2
    for key, values in (("match", expected.probabilities), ("cosine", expected.cosines)):
        printed = [[text[key] for text in record["texts"]] for record in ran.records]
        assert_allclose(printed, values, rtol=1e-5)
    table = run("match", FLOWER, SCRATCH, "--texts", "a cat", "-m", blips["match"]).out
    for row in expected.probabilities[:, 1:]:
        assert f"{row[0]:.1%}" in table


def test_similarity_draws_both_matrices_of_a_blip(run: Run, blips: dict[str, str]) -> None:
    texts = [option for text in TEXTS for option in ("-t", text)]
    assert (
        run("match", FLOWER, SCRATCH, *texts, "-m", blips["match"], "--save", "match.png").code == 0
    )
    ran = run("similarity", FLOWER, SCRATCH, *texts, "-m", blips["match"], "--save", "both.png")
    assert ran.code == 0
    both, same = (np.asarray(Image.open(name)) for name in ("both.png", "match.png"))
    np.testing.assert_array_equal(both, same)
    run("similarity", FLOWER, SCRATCH, *texts, "--save", "clip.png")
    assert both.shape[1] == 2 * Image.open("clip.png").width


def test_similarity_draws_two_models(run: Run, blips: dict[str, str]) -> None:
    texts = [option for text in TEXTS for option in ("-t", text)]
    alone = run("similarity", FLOWER, SCRATCH, *texts, "-m", blips["match"], "--save", "one.png")
    ran = run(
        *("similarity", FLOWER, SCRATCH, *texts, "-m", blips["match"]),
        *("--beside", "demo", "--save", "two.png"),
    )
    assert alone.code == ran.code == 0
    one, two = (np.asarray(Image.open(name)) for name in ("one.png", "two.png"))
    assert two.shape[1] == one.shape[1] * 3 // 2
    below = slice(60, None)  # the titles, which name the models of two
    np.testing.assert_array_equal(two[below, : one.shape[1]], one[below])
    assert run("similarity", FLOWER, *texts, "--beside", "demo").code == 2


# --- search --rerank ------------------------------------------------------------------------------


def test_search_reranks(run: Run, blips: dict[str, str], workdir: Path) -> None:
    clip = checkpoints.save(tiny_bundle(tiny_clip()), workdir / "clip")
    assert run("index", SAMPLES / "wafers", "--into", "my.index", "-m", clip).code == 0
    arguments = ["search", "my.index", "a small bird", "--json"]
    plain = run(*arguments, "-k", 18).records
    with_blip = ["--reranker", blips["match"], "--rerank"]
    found = run(*arguments, "-k", 8, *with_blip, 6).records
    assert {hit["image"] for hit in found[:6]} == {hit["image"] for hit in plain[:6]}
    assert [hit["image"] for hit in found[6:]] == [hit["image"] for hit in plain[6:8]]
    matches = [hit["match"] for hit in found]
    assert matches[6:] == [None, None]
    assert matches[:6] == sorted(matches[:6], reverse=True)
    expected = patchword.load(blips["match"]).match(
        [h["image"] for h in found[:6]], ["a small bird"]
    )
    assert_allclose(matches[:6], expected.probabilities[:, 0], rtol=1e-5)
    scores = {hit["image"]: hit["cosine"] for hit in plain}
    assert [hit["cosine"] for hit in found] == [scores[hit["image"]] for hit in found]
    best = run(*arguments, "-k", 2, *with_blip, 18).records  # of all, not of the nearest two
    assert len(best) == 2
    assert best[0]["match"] >= matches[0]
    pages = [run(*arguments, "-k", 4, "--offset", n, *with_blip, 6).records for n in (0, 4)]
    assert [hit["image"] for page in pages for hit in page] == [hit["image"] for hit in found]
    assert [hit["rank"] for hit in pages[1]] == [5, 6, 7, 8]
    three = ["search", "my.index", "a small bird", "-k", 3, *with_blip, 2]
    shown = run(*three, "--save", "hits.png")
    assert shown.code == 0
    for hit in run(*three, "--json").records:
        match = "-" if hit["match"] is None else f"{hit['match']:.1%}"
        (line,) = (line for line in shown.out.splitlines() if Path(hit["image"]).name in line)
        assert line.split()[1:3] == [match, f"{hit['cosine']:.3f}"]
    assert Image.open("hits.png").width > 200


def test_search_reranks_with_its_own_model(run: Run, blips: dict[str, str], photos: Path) -> None:
    (photos / "text.jpg").unlink()
    assert run("index", photos, "--into", "my.index", "-m", blips["match"]).code == 0
    both = run("search", "my.index", "a cat", "--rerank", 9, "--json").records
    assert len([hit for hit in both if hit["match"] is not None]) == 2
    (photos / "b.jpg").unlink()
    left = run("search", "my.index", "a cat", "--rerank", 9, "--json")
    assert left.code == 1
    assert "b.jpg" in left.err
    assert [hit["match"] is None for hit in left.records] == [False, True]


# --- heatmap --------------------------------------------------------------------------------------


def test_heatmap_of_a_blip_has_a_map_for_each_content_word(run: Run, blips: dict[str, str]) -> None:
    ran = run("heatmap", FLOWER, "a red cat", "--words", "-m", blips["match"], "--json")
    assert ran.code == 0
    assert [record["text"] for record in ran.records] == ["a red cat", "red", "cat"]
    found = patchword.load(blips["match"]).heatmap(FLOWER, ["a red cat"], words=True)
    # The value is the highest one of the drawn map; the place is in the upper quarter of values.
    kept = [0, 2, 3]  # without "a"
    drawn = found.at(*plots.shown(found.image).shape[:2])[kept]
    for record, drawn_values, values in zip(ran.records, drawn, found.values[kept], strict=True):
        assert record["method"] == "gradcam"
        assert record["value"] == pytest.approx(drawn_values.max(), rel=1e-5)
        level = values.min() + 0.75 * np.ptp(values)
        assert values[record["y"], record["x"]] >= level
    assert Image.open("flower-heatmap.png").width > 700
    both = run(
        *("heatmap", FLOWER, "a cat", "a red cat", "--words", "-m", blips["match"]),
        *("--save", "both.png", "--json"),
    )
    texts = [record["text"] for record in both.records]
    assert texts == ["a cat", "cat", "a red cat", "red", "cat"]  # each text before its own words
    both_height, one_height = (
        Image.open(name).height for name in ("both.png", "flower-heatmap.png")
    )
    assert both_height > 1.7 * one_height
    cosine = run("heatmap", FLOWER, "a cat", "--method", "cosine", "-m", blips["match"], "--json")
    assert -1 <= cosine.records[0]["value"] <= 1


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["caption", "match"])
def test_one_that_fails_is_named_and_the_rest_is_done(
    run: Run, blips: dict[str, str], photos: Path, command: str
) -> None:
    more = ["-t", "a cat"] if command == "match" else []
    ran = run(command, photos, *more, "--json", "-m", blips[command])
    assert ran.code == 1
    done = [Path(r["image"]).name for r in ran.records if "error" not in r]
    assert done == ["a.jpg", "b.jpg"]
    assert [Path(r["image"]).name for r in ran.records if "error" in r] == ["text.jpg"]
    assert "text.jpg" in ran.err
    assert "1 of 3 images failed" in ran.err
    table = run(command, photos, *more, "-m", blips[command], "--save", "out.png")
    assert (table.code, "b.jpg" in table.out) == (1, True)
    alone = run(command, photos / "text.jpg", *more, "-m", blips[command])
    assert (alone.code, alone.out) == (2, "")


def test_ask_of_an_image_that_cannot_be_opened(
    run: Run, blips: dict[str, str], photos: Path
) -> None:
    ran = run("ask", photos / "text.jpg", "who", "-m", blips["ask"], "--json")
    assert ran.code == 2
    assert [set(record) for record in ran.records] == [{"image", "error"}]
    assert "text.jpg" in ran.err


WRONG: list[tuple[str, list[object], str]] = [
    ("caption", [FLOWER, "--beams", "2", "--top-p", "0.9"], "give either"),
    ("caption", [FLOWER, "--top-p", "1.5"], "top_p is 1.5"),
    ("caption", [FLOWER, "-n", "9"], "count is 9"),
    ("caption", [FLOWER, "--min-length", "30"], "above max_length 20"),
    ("caption", [FLOWER, "--max-length", "500"], "above 48 places"),
    ("caption", [FLOWER, "--prompt", "a photo of a cat", "--max-length", "4"], "leaves no room"),
    ("caption", [FLOWER, "--save", "out.xyz"], "must end in"),
    ("ask", [FLOWER], "QUESTIONS"),
    ("ask", [FLOWER, ""], "an empty text is given"),
    ("ask", [FLOWER, "is it " * 100], "reads 48"),
    ("ask", [FLOWER, "who", "--answers", ","], "an empty text is given"),
    ("ask", [FLOWER, "who", "--answers", "yes,no,yes"], "twice there"),
    ("ask", [FLOWER, "who", "--shortlist", "2"], "needs --answers"),
    ("ask", [FLOWER, "who", "--answers", "a,b", "--beams", "2"], "leave out --beams or --answers"),
    ("ask", [FLOWER, "who", "--save", "page.html"], "must end in"),
    ("match", [FLOWER], "give texts after the images"),
    ("heatmap", [FLOWER, "a cat", "--layer", "1"], "layers 0 to 0"),
]


@pytest.mark.parametrize(("command", "arguments", "message"), WRONG, ids=str)
def test_wrong_usage_is_2_with_a_message_and_no_traceback(
    run: Run, blips: dict[str, str], command: str, arguments: list[object], message: str
) -> None:
    ran = run(command, *arguments, "--model", blips.get(command, blips["match"]))
    assert ran.code == 2
    assert ran.out == ""
    assert message in ran.message
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "able"),
    [
        (["caption", FLOWER], "Salesforce/blip-image-captioning-base"),
        (["ask", FLOWER, "who"], "Salesforce/blip-vqa-base"),
        (["match", FLOWER, "-t", "a cat"], "Salesforce/blip-itm-base-coco"),
        (["heatmap", FLOWER, "a cat", "--method", "gradcam"], "Salesforce/blip-itm-base-coco"),
    ],
    ids=lambda value: str(value[0]),
)
def test_a_model_that_cannot_names_one_that_can(
    run: Run, arguments: list[object], able: str
) -> None:
    ran = run(*arguments, "-m", "demo")  # a CLIP
    assert (ran.code, ran.out) == (2, "")
    assert able in ran.err


def test_rerank_that_cannot_be(run: Run, blips: dict[str, str]) -> None:
    assert run("index", FLOWER, "--into", "my.index").code == 0
    for arguments, message in (
        (["a flower", "--rerank", 3, "--reranker", "demo"], "Salesforce/blip-itm-base-coco"),
        (["a flower", "--reranker", blips["match"]], "needs --rerank"),
        (["--image", FLOWER, "--rerank", 3, "--reranker", blips["match"]], "needs words"),
        (["--image", FLOWER, "--heatmap", "--save", "hits.html"], "give words to look for"),
    ):
        ran = run("search", "my.index", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert message in ran.message


@pytest.mark.parametrize("columns", [60, 100])
def test_tables_fit_the_screen_and_lose_no_name(
    run: Run, blips: dict[str, str], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command, more in (
        ("caption", ["--temperature", 2]),
        ("match", ["-t", "a photo of two small birds and a cat on a chair", "-t", "a dog"]),
    ):
        out = run(command, SAMPLES / "wafers", *more, "-m", blips[command]).out
        assert max(map(len, out.splitlines())) <= columns
        assert [p.name for p in (SAMPLES / "wafers").glob("*.jpg") if p.name not in out] == []
    long = ["what is the color of the bird in the tree?", "a" * 40]
    ran = run(
        "ask", FLOWER, *long, "-a", "two small birds in a green tree, a red dog", "-m", blips["ask"]
    )
    assert max(map(len, ran.out.splitlines())) <= columns
