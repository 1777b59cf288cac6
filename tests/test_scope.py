"""A model that comes with a scope says what lies outside of what it was trained on."""

import html
import io
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from cli_runner import Run
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import patchword
from patchword import ImageError, ScopeWarning
from patchword.bundle import embed_checked
from patchword.checkpoints import scope_files
from patchword.cli.embed_classify_similarity import scores_table
from patchword.config import PreprocessConfig
from patchword.data import open_sources
from patchword.data.config import SourceConfig
from patchword.embedding import unit
from patchword.scenes import scene
from patchword.scope import Boundary, Check, Domain, Scope, together
from patchword.tasks.classify import NONE, Score

SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"
PHOTO = str(Path(skimage.data_dir) / "chelsea.png")  # a cat
ASTRONAUT = str(Path(skimage.data_dir) / "astronaut.png")
WAFER = str(SAMPLES / "wafers" / "scratch-1.jpg")


@pytest.fixture(scope="module", params=["demo", "demo-blip"])
def model(request: pytest.FixtureRequest) -> patchword.Model:
    return patchword.load(request.param)


def scope_of(model: patchword.Model) -> Scope:
    assert model.scope is not None
    return model.scope


def outside_of(model: patchword.Model, images: list[Any]) -> list[bool]:
    """What is warned of."""
    check = Check(model.scope, model.name)
    return [check.outside for _ in embed_checked(model, check, images)]


def scope_warnings(recorded: pytest.WarningsRecorder) -> list[str]:
    return [str(one.message) for one in recorded if one.category is ScopeWarning]


def cloud(count: int, seed: int) -> NDArray[np.float32]:
    """Rows (count, 12) that vary mostly in four directions."""
    rng = np.random.default_rng(seed)
    spread = np.array([3.0] * 4 + [0.1] * 8)
    return (rng.normal(size=(count, 12)) * spread + 1).astype(np.float32)


def test_novelty_is_the_residual_of_principal_components() -> None:
    rows, others = cloud(400, 0), cloud(50, 1)
    pca = PCA(4, svd_solver="full").fit(rows.astype(np.float64))
    rebuilt = pca.inverse_transform(pca.transform(others.astype(np.float64)))
    shares = np.square(others - rebuilt).sum(1) / np.square(others - pca.mean_).sum(1)
    near = Domain("near", pca.mean_.astype(np.float32), pca.components_.astype(np.float32), 0.25)
    np.testing.assert_allclose(near.novelty(others), shares / 0.25, rtol=1e-4)
    far = Domain("far", near.mean + 50, near.basis, 0.25)
    both = Scope("", (far, near), frozenset(), {}, {})
    np.testing.assert_allclose(both.novelty(others), near.novelty(others))


def test_a_boundary_is_a_perceptron(tmp_path: Path) -> None:
    rows, others = cloud(300, 0), cloud(300, 1) + 1.5
    kinds = np.repeat([0, 1], 300)
    fitted = MLPClassifier((8,), max_iter=200, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted.fit(np.concatenate([rows, others]).astype(np.float64), kinds)
    (first, last), (bias, offset) = fitted.coefs_, fitted.intercepts_
    parts = (first.T.astype(np.float32), bias.astype(np.float32), last[:, 0].astype(np.float32))
    edge = Boundary(*parts, limit=0.5 - float(offset[0]))
    inputs = cloud(200, 2) + np.linspace(0, 1.5, 200, dtype=np.float32)[:, None]
    probable = fitted.predict_proba(inputs.astype(np.float64))
    odds = probable[:, 1] / probable[:, 0]
    np.testing.assert_allclose(edge.novelty(inputs), odds / np.exp(0.5), rtol=1e-3)
    wide = Domain("", np.zeros(12, np.float32), np.eye(12, dtype=np.float32), 1.0)
    both = Scope("", (wide,), frozenset(), {}, {}, boundary=edge)
    scope_files.save(both, tmp_path)
    read_back = scope_files.read(tmp_path)
    assert read_back is not None
    np.testing.assert_allclose(both.novelty(inputs), edge.novelty(inputs))
    assert 0 < (edge.novelty(inputs) > 1).sum() < 200
    deep = replace(both, inner=replace(edge, layer="blocks.1"))
    scope_files.save(deep, tmp_path)
    read = scope_files.read(tmp_path)
    assert read is not None
    assert read.layer == "blocks.1"
    np.testing.assert_allclose(read.novelty(inputs[::-1], inputs), edge.novelty(inputs))
    np.testing.assert_allclose(read.novelty(inputs), edge.novelty(inputs))
    np.testing.assert_allclose(read_back.novelty(inputs), edge.novelty(inputs))


def test_plain_drawings_lie_outside(model: patchword.Model) -> None:
    drawings = []
    for colour in ("red", "green", "blue", "black", "orange", "purple"):
        clear = Image.new("RGBA", (256, 200))
        ImageDraw.Draw(clear).ellipse((60, 40, 180, 160), colour)
        drawings += [clear, Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScopeWarning)
        vectors = model.embed_images(drawings)
        outside = outside_of(model, drawings)
    np.testing.assert_allclose(vectors[::2], vectors[1::2], atol=1e-5)  # transparent is white
    assert np.mean(outside) >= 0.8


@pytest.fixture(scope="module")
def judged(model: patchword.Model) -> list[bool]:
    """Which of the first 200 new scenes are warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScopeWarning)
        return outside_of(model, [scene(7, index).image for index in range(200)])


def test_new_scenes_lie_inside_and_photos_outside(
    model: patchword.Model, judged: list[bool]
) -> None:
    photos = sorted(Path(skimage.data_dir).glob("*.png"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScopeWarning)
        outside = outside_of(model, photos)
    assert np.mean(judged) <= 0.03
    assert np.mean(outside) >= 0.8


@pytest.mark.parametrize(("kind", "count"), [("bfloat16", 64), ("float16", 8)])
def test_rounded_vectors_are_judged_alike(
    model: patchword.Model, judged: list[bool], kind: str, count: int
) -> None:
    """Rounding moves vectors out of the subspace of scenes, by more than their limit."""
    scenes = [scene(7, index).image for index in range(count)]
    photos = sorted(Path(skimage.data_dir).glob("*.png"))[: min(count, 10)]
    rounded = model.to(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScopeWarning)
        inside, outside = (outside_of(rounded, images) for images in (scenes, photos))
    assert not any(now and not before for now, before in zip(inside, judged[:count], strict=True))
    assert np.mean(outside) >= 0.7
    vectors = np.eye(model.dim, dtype=np.float32)[:1]
    near = Domain("", np.zeros(model.dim, np.float32), 0 * vectors, 0.5)
    scope = replace(scope_of(model), domains=(near,), boundary=None).rounded(0.25)
    np.testing.assert_allclose(scope.novelty(vectors), (1 - 0.25**2) / 0.5)


def test_words_and_questions() -> None:
    scope = scope_of(patchword.load("demo-blip"))
    assert scope.unknown_words(["a Wafer with a scratch", "a dog, 帽子"]) == ["dog", "帽子"]
    assert scope.form("Is there an orange ring?") == scope.form("is there a blue heart?")
    assert scope.form("is there a red ring?") in scope.questions
    assert scope.form("what defect?") not in scope.questions
    assert scope.nearest_question("what defect does it have?") == "what defect does the wafer have?"


def test_known_inputs_give_no_warnings(
    model: patchword.Model, recwarn: pytest.WarningsRecorder
) -> None:
    model.classify(sorted(SAMPLES.glob("wafers/*.jpg")), ["wafer with a scratch", "perfect wafer"])
    if model.name == "demo-blip":
        model.ask(WAFER, ["is there a scratch?", "what defect does the wafer have?"])
        model.match(WAFER, "a wafer with a stain")
        model.caption(WAFER, "a photo of")
    assert scope_warnings(recwarn) == []


def test_unknown_inputs_are_warned_of_once(recwarn: pytest.WarningsRecorder) -> None:
    model = patchword.load("demo-blip")
    model.classify([PHOTO, WAFER, ASTRONAUT], ["a dog", "a wafer"])
    first, second = scope_warnings(recwarn)
    assert first.startswith("demo-blip does not know dog. It knows wafers, coloured shapes")
    assert second.startswith("2 of 3 images look unlike what demo-blip was trained on: ")
    recwarn.clear()
    model.ask(PHOTO, "what is wafer?")
    model.caption([PHOTO])
    model.match(PHOTO, "a wafer")
    starts = [message.split(":")[0] for message in scope_warnings(recwarn)]
    unlike = "the image looks unlike what demo-blip was trained on"
    assert starts[1:] == [unlike] * 3
    assert starts[0].startswith("demo-blip was not trained on questions like 'what is wafer?'")


def test_warnings_come_before_an_error(recwarn: pytest.WarningsRecorder) -> None:
    """Not when the error is let go of, by then amid other work."""
    demo = patchword.load("demo")
    for ask in (demo.embed_images, lambda images: demo.classify(images, ["a wafer", "a hat"])):
        recwarn.clear()
        with pytest.raises(ImageError, match=r"missing\.png"):
            ask([PHOTO, "missing.png", PHOTO])
        assert [message.partition(":")[0] for message in scope_warnings(recwarn)] == [
            "the image looks unlike what demo was trained on"
        ]


def test_indexing_unlike_photos_warns(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Whoever takes the results need not ask for one more than there are."""
    patchword.open_index(tmp_path / "index").add([PHOTO, WAFER], patchword.load("demo-blip"))
    assert [message.split(":")[0] for message in scope_warnings(recwarn)] == [
        "1 of 2 images looks unlike what demo-blip was trained on"
    ]


def test_unlike_hits_are_warned_of(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the stored vectors: on stderr and in the records; of a folder that is indexed on the way
    once, and of the image that is looked for too."""
    (tmp_path / "photos").mkdir()
    for path in (PHOTO, ASTRONAUT, WAFER):
        shutil.copy(path, tmp_path / "photos")
    store = tmp_path / "photos.index"
    first = run("index", tmp_path / "photos", "--into", store)
    assert "2 of 3 images look unlike what demo was trained on: " in first.err
    assert str(tmp_path) not in first.err
    for command in (["search", "hat", "--json"], ["tag", "-l", "hat", "--json"]):
        name, *rest = command
        found = run(name, store, *rest)
        assert found.err.count(" unlike ") == 1
        assert "2 of 3 images listed look unlike what demo was trained on" in found.err
        outside = {Path(each["image"]).name: each.get("outside") for each in found.records}
        assert outside == {"chelsea.png": True, "astronaut.png": True, "scratch-1.jpg": None}
    for command in (["explore"], ["dedupe", "--threshold", "0.01"]):
        found = run(command[0], store, *command[1:])
        assert found.err.count("images listed look unlike what demo was trained on") == 1
    names = run("explore", store, "--where", "path NOT LIKE '%scratch%'", "--json").records
    assert all(each["cluster"].startswith("unlike what demo knows, like ") for each in names)
    page = tmp_path / "page.html"
    alike = run("search", store, "--image", PHOTO, "-k", "1", "--save", page)
    assert "· unlike the model&#39;s training: its answer says little<" in page.read_text()
    assert (
        f"demo was trained on: {Path(PHOTO).name}; so does the image listed. It knows" in alike.err
    )
    drawn: list[str] = []

    def search_panel(photos: object, names: object, notes: list[str], title: str) -> Image.Image:
        drawn.extend(notes)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("patchword.show.plots.search_panel", search_panel)
    run("search", store, "hat", "--save", tmp_path / "sheet.png")
    assert sorted("· unlike the model's training" in note for note in drawn) == [False, True, True]
    model = patchword.load("demo")
    with pytest.warns(ScopeWarning, match="the image listed looks unlike"):
        (hit,) = patchword.open_index(store).search(model.embed_images(PHOTO)[0], 1, model=model)
    assert hit.outside


def test_words_given_to_explore_name_what_they_mean_or_nothing(tmp_path: Path, run: Run) -> None:
    """A word alone means little to the embedded models: it is looked for in sentences like those of
    their training, and of words that they do not know there is a warning."""
    store = tmp_path / "samples.index"
    run("index", SAMPLES, "--into", store)
    asked = ("explore", store, "--clusters", 2, "--json", "--words")
    known = run(*asked, "wafer,shape,clothing")
    names = {each["cluster"]: Path(each["examples"][0]).parent.name for each in known.records}
    assert names == {"wafer": "wafers", "shape": "shapes"}
    assert "does not know" not in known.err
    for words in ("animal,vehicle", "wafer,animal,vehicle"):
        some = run(*asked, words)
        assert "demo does not know animal, vehicle. It knows wafers" in " ".join(some.err.split())
        assert not any("animal" in each["cluster"] for each in some.records)
        assert ["wafer" in each["cluster"] for each in some.records].count(True) == (
            words.count("wafer")
        )
    other = run(*asked, "wafer,t-shirt")  # no sentence names this
    assert "does not know" not in other.err
    model = patchword.load("demo")
    with pytest.warns(ScopeWarning, match="demo does not know zebra"):
        patchword.open_index(store).explore(2, words=["zebra", "ring"], model=model)


def test_a_cluster_is_named_by_its_members_and_not_by_the_examples_shown(tmp_path: Path) -> None:
    """18 wafers, and 8 vectors that the model does not know, which are nearer to the centre."""
    model = patchword.load("demo")
    assert model.scope is not None
    wafers = model.embed_images(sorted(SAMPLES.glob("wafers/*.jpg")))
    noise = np.random.default_rng(0).normal(size=(8, model.dim))
    unknown = unit(unit(wafers.mean(axis=0)[None]) + 0.02 * noise).astype(np.float32)
    assert not any(model.scope.outside(wafers))
    assert all(model.scope.outside(unknown))
    for known, name in ((wafers, "wafer"), (wafers[:7], "unlike what demo knows")):
        vectors = np.concatenate([known, unknown])
        index = patchword.open_index(tmp_path / f"{len(known)}.index")
        index.put([f"/{number}.jpg" for number in range(len(vectors))], vectors, model)
        for examples in (1, 8, 12, 40):
            (cluster,) = index.explore(1, examples=examples, model=model)
            assert cluster.name.split(", like ")[0] == name


def test_reject_compares_the_numbers_that_are_given() -> None:
    model = patchword.load("demo")
    labels = ["perfect wafer", "wafer with a scratch", "red ring"]
    for least in (0.5, 0.9, 0.99):
        for scores in model.classify(sorted(SAMPLES.glob("*/*.jpg")), labels, reject=least):
            shown = [score.probability for score in scores if score.label != NONE]
            assert (scores[0].label == NONE) == (max(shown) < least)
    with pytest.warns(ScopeWarning):
        (scores,) = model.classify(PHOTO, labels, reject=0.5)
    assert (scores[0], scores[0].outside) == (Score(NONE, 1.0, outside=True), True)
    assert [score.outside for score in scores[1:]] == [False] * 3
    with pytest.warns(ScopeWarning):
        (alone,) = model.classify(PHOTO, labels, multi_label=True)
    with pytest.warns(ScopeWarning):  # what the labels have else is not hidden
        (again,) = model.classify(PHOTO, labels, multi_label=True, reject=0.5)
    assert again[1:] == alone


def test_the_table_says_why_none_fits() -> None:
    """The best label's probability and the limit, not a second number that sums to above 100%."""
    rejected = [Score(NONE, 0.103), Score("hat", 0.897)]
    for results in ([("a.jpg", rejected)], [("a.jpg", rejected), ("b.jpg", rejected[:1])]):
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(scores_table(results, 0.9))
        shown = console.export_text()
        assert shown.count("none of these (best 89.7% < 90%)") == len(results)
        assert "10.3%" not in shown


def test_what_is_rejected_as_unlike_says_so(run: Run, tmp_path: Path) -> None:
    """Lowering --reject cannot help there, and the labels keep their probabilities."""
    labels = ["-l", "t-shirt,dress,hat", "--reject"]
    for form in ("html", "png"):
        shown = run("classify", PHOTO, *labels, "0.1", "--save", tmp_path / f"page.{form}")
        (said,) = re.findall(r"none of these \(unlike what demo knows; else (.*?)\)", shown.out)
    assert said in html.unescape((tmp_path / "page.html").read_text())
    (record,) = run("classify", PHOTO, *labels, "0.1", "--json").records
    none, best, *rest = record["scores"]
    assert (none, record["outside"]) == ({"label": NONE, "probability": 1.0}, True)
    assert said == f"{best['label']} {best['probability']:.1%}"
    unaware = replace(patchword.load("demo"), scope=None)
    (scores,) = unaware.classify(PHOTO, labels[1].split(","), reject=0.1)
    expected = {score.label: pytest.approx(score.probability) for score in scores}
    assert {each["label"]: each["probability"] for each in (best, *rest)} == expected
    below = run("classify", PHOTO, *labels, "1").out
    assert "unlike what demo knows; best " in below
    assert "< 100%)" in below
    known = run("classify", WAFER, *labels, "1", "--json").records
    assert "outside" not in known[0]
    alone = run("classify", PHOTO, *labels, "0.1", "--top", "1").out
    assert "none of these (unlike what demo knows)" in alone


def test_save_keeps_the_scope_and_another_image_size_drops_it(tmp_path: Path) -> None:
    model = patchword.load("demo")
    vectors = model.embed_images([WAFER])
    again = patchword.load(model.save(tmp_path / "again"))
    np.testing.assert_array_equal(
        scope_of(again).novelty(vectors), scope_of(model).novelty(vectors)
    )
    assert scope_of(again).words == scope_of(model).words
    assert patchword.load("demo", image_size=128).scope is None
    assert scope_of(model.to("bfloat16")).words == scope_of(model).words


def test_damaged_scope_files_are_errors(tmp_path: Path) -> None:
    folder = patchword.load("demo").save(tmp_path / "model")
    good = json.loads((folder / scope_files.TEXT_FILE).read_text())
    for broken in ({}, [], good | {"limits": {"moon": 1}}, good | {"limits": {"scenes": "x"}}):
        (folder / scope_files.TEXT_FILE).write_text(json.dumps(broken))
        with pytest.raises(patchword.CheckpointError, match="are not the scope"):
            patchword.load(folder)
    shutil.copy(folder / "config.json", folder / scope_files.VECTOR_FILE)
    (folder / scope_files.TEXT_FILE).write_text(json.dumps(good))
    with pytest.raises(patchword.CheckpointError, match="are not the scope"):
        patchword.load(folder)


def test_together_warns_once(recwarn: pytest.WarningsRecorder) -> None:
    """As a command does that draws a map of each photo, then classifies and describes it."""
    model = patchword.load("demo")
    with together() as found:
        for image in (PHOTO, WAFER, PHOTO):
            model.classify([image], ["a dog", "a wafer"])
            model.embed_images(image)
        assert found.outside(PHOTO)
        assert not found.outside(WAFER)
        assert not found.outside("another")
    first, second = scope_warnings(recwarn)
    assert first.startswith("demo does not know dog. It knows")
    assert second.startswith(
        f"1 of 2 images looks unlike what demo was trained on: {PHOTO}. It knows"
    )
    (sentence,) = found.sentences()
    assert second.replace(PHOTO, Path(PHOTO).name).startswith(sentence)
    assert found.remarks() == [sentence, "demo does not know dog"]


def test_an_unknown_word_is_warned_of_once(recwarn: pytest.WarningsRecorder) -> None:
    """In what is told together, whichever texts it stands in."""
    model = patchword.load("demo")
    with together():
        for texts in (["a dog", "a wafer"], ["a dog"], ["a dog beside a cat"]):
            model.embed_texts(texts)
    first, second = scope_warnings(recwarn)
    assert first.startswith("demo does not know dog. ")
    assert second.startswith("demo does not know ")
    assert "cat" in second
    assert "dog" not in second


def test_words_of_two_domains_are_warned_of(
    model: patchword.Model, recwarn: pytest.WarningsRecorder
) -> None:
    """Each is known, but no text of the training had both."""
    known = ["a red ring", "a photo of a hat", "a pair of shoes on the floor", "an image of a hat"]
    model.embed_texts([*known, "a close view of a wafer with a large stain", "long-sleeve shirt"])
    assert scope_warnings(recwarn) == []
    with together():
        model.classify(WAFER, ["red dress", "blue dress"])
        model.embed_texts(["red shoes", "shoes with a scratch", "a large hat"])
    colours, others = (message.partition(". It knows")[0] for message in scope_warnings(recwarn))
    assert colours == (
        f"{model.name} never learned colours of clothing: 'red', 'blue' mean nothing to it in "
        "'red dress', 'blue dress'"
    )
    assert others == (
        f"{model.name} never learned 'shoes', 'scratch', 'large' and 1 more together, as they are "
        "in 'shoes with a scratch', 'a large hat'"
    )


def test_unknown_places_of_clothes_are_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    model = patchword.load("demo")
    warnings.simplefilter("always")  # in this test, the same again
    for find in (model.heatmap, model.locate, model.segment):
        for texts, count in ((["scratch"], 0), (["a hat", "scratch"], 1)):
            with together():
                find(WAFER, texts)
                find(WAFER, texts[:1])
            assert len(scope_warnings(recwarn)) == count
        assert scope_warnings(recwarn)[0].startswith(
            "demo hardly knows where clothing is in a photo, for it never learned that: what it "
            "shows of 'a hat' says little. It knows"
        )
        recwarn.clear()


def test_maps_of_unlike_photos_say_so(tmp_path: Path, run: Run) -> None:
    """As other answers do: in the record, on stderr and, under its title, in the picture."""
    sizes = []
    for image, *command in (
        (PHOTO, "heatmap", PHOTO, "hat"),
        (WAFER, "heatmap", WAFER, "hat"),
        (PHOTO, "attention", PHOTO, "--head", "0"),
        (WAFER, "attention", WAFER, "--head", "0"),
    ):
        done = run(*command, "--json", "--save", tmp_path / "map.png")
        assert done.code == 0
        assert done.records[0].get("outside", False) is (image == PHOTO)
        assert ("looks unlike what demo" in " ".join(done.err.split())) is (image == PHOTO)
        with Image.open(tmp_path / "map.png") as picture:
            rows = np.asarray(picture.convert("L"))[22:80, 22:240].min(axis=1) < 128
        sizes.append(int((np.diff(rows.astype(int)) == 1).sum()))
    assert sizes[0] > sizes[1]  # lines of letters
    assert sizes[2] > sizes[3]


def test_inspecting_unlike_photos_warns(recwarn: pytest.WarningsRecorder) -> None:
    """Good photos when they are learned from, others when they are inspected; each once, though
    good ones are scored after learning from others, and of a batch with each of the others."""
    model = patchword.load("demo")
    wafers = [str(path) for path in sorted(SAMPLES.glob("wafers/perfect-*.jpg"))]
    found = patchword.inspector(model, [*wafers, PHOTO]).inspect([WAFER, PHOTO, ASTRONAUT])
    assert [each.outside for each in found] == [False, True, True]
    assert ["outside" in each.record() for each in found] == [False, True, True]
    good, images = [message.partition(". It knows")[0] for message in scope_warnings(recwarn)]
    assert good == f"1 of 4 good photos looks unlike what demo was trained on: {PHOTO}"
    assert images == (f"2 of 3 images look unlike what demo was trained on: {PHOTO}, {ASTRONAUT}")
    recwarn.clear()
    with together():
        patchword.inspector(model, [*wafers, PHOTO], "mutual").inspect([WAFER, ASTRONAUT])
    (both,) = [message.partition(". It knows")[0] for message in scope_warnings(recwarn)]
    assert both == (
        f"1 of 2 images looks unlike what demo was trained on: {ASTRONAUT}; so does 1 of 4 good "
        "photos"
    )
    recwarn.clear()
    opened = [patchword.images.open(path) for path in (*wafers, PHOTO)]
    patchword.inspector(model, opened).inspect(opened[:1])
    assert scope_warnings(recwarn)[0].startswith(
        "1 of 4 good photos looks unlike what demo was trained on: "
    )
    assert scope_warnings(recwarn)[1:] == []
    recwarn.clear()
    patchword.inspector(model, wafers).inspect(WAFER)
    patchword.inspector(replace(model, scope=None), [PHOTO], threshold=1.0).inspect(ASTRONAUT)
    assert scope_warnings(recwarn) == []


def test_on_the_command_line(run: Run) -> None:
    done = run("classify", PHOTO, "-l", "帽子,hat", "--json")
    (record,) = done.records
    assert (done.code, record["image"], record["outside"]) == (0, PHOTO, True)
    lines = " ".join(done.err.split())
    assert lines.count("warning: demo does not know 帽子.") == 1
    assert lines.count("warning: the image looks unlike what demo was trained on") == 1


def test_pages_say_what_the_terminal_says(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a photo outside of the model's training, and of it alone."""
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in (PHOTO, WAFER):
        shutil.copy(path, tmp_path / "photos")
    for command in (
        ["caption", PHOTO, WAFER, "--save", "page.html"],
        ["classify", PHOTO, WAFER, "-l", "hat,wafer", "--save", "page.html"],
        ["demo", "--photos", "photos", "-l", "hat,wafer", "-m", "demo-blip"],
    ):
        done = run(*command)
        assert done.code == 0
        assert " ".join(done.err.split()).count("1 of 2 images looks unlike what demo") == 1
        is_demo = command[0] == "demo"
        page = Path("photos-report/index.html" if is_demo else "page.html").read_text()
        notes = re.findall(r">([^<>]*unlike the model&#39;s training[^<>]*)<", page)
        assert len(notes) == (3 if is_demo else 1)  # on its map, classified, and described
        assert not any("scratch" in note for note in notes)
        assert (
            "Beware: 1 of 2 images looks unlike what demo-blip was trained on" in page
        ) == is_demo
    done = run("capfilt", "photos", "filtered", "--json")
    assert " ".join(done.err.split()).count("1 of 2 images looks unlike what demo-blip") == 1
    outside = [Path(each["image"]).name for each in done.records if "outside" in each]
    assert outside == ["chelsea.png"]


def test_a_folder_without_classes_is_told_what_is_wanted(tmp_path: Path) -> None:
    shutil.copy(WAFER, tmp_path / "1.jpg")
    config = SourceConfig(kind="folder", path=str(tmp_path))
    with pytest.raises(
        patchword.RecipeError, match=r"1 image and no folders of classes.*PHOTOS/cat/1.jpg"
    ):
        open_sources([config], PreprocessConfig((32, 32)), {"labels"})


def test_a_misspelt_word_comes_with_a_suggestion(recwarn: pytest.WarningsRecorder) -> None:
    scope = scope_of(patchword.load("demo"))
    assert scope.list_words(["scrach", "cat"]) == "scrach (do you mean scratch?), cat"
    assert scope.list_words(["shrit"]) == "shrit (do you mean shirt?)"  # swapped letters
    patchword.load("demo").embed_texts(["a gren heart"])
    assert scope_warnings(recwarn)[0].startswith(
        "demo does not know gren (do you mean green?). It knows"
    )


def test_a_word_too_long_to_be_misspelt_is_compared_with_none(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Every comparison of a long word takes time that grows with its length, and there are as many
    as it has letters."""
    compared: list[str] = []
    monkeypatch.setattr("difflib.get_close_matches", lambda word, *_: compared.append(word) or [])
    model = patchword.load("demo")
    scope = scope_of(model)
    most = max(map(len, scope.words)) * 3 // 2  # difflib's 2 M / T is 0.8 at most here
    scope.list_words(["x" * (most + 1)])
    assert not compared
    scope.list_words(["x" * most])
    assert compared
    model.embed_texts(["y" * 10_000])
    assert scope_warnings(recwarn)[0].startswith(f"demo does not know {'y' * 60}.... It knows")


def test_no_sample_is_unlike_the_training(model: patchword.Model) -> None:
    assert not any(outside_of(model, patchword.find_images(SAMPLES)))


def test_a_question_about_another_kind_of_photo_is_warned_of(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Clothing was asked what it is, and wafers and shapes everything else."""
    model = patchword.load("demo-blip")
    assert model.ask(WAFER, "what colour is it?").understood == "what colour is the wafer?"
    assert scope_warnings(recwarn) == []
    model.ask(WAFER, "what is shown?")
    (said,) = scope_warnings(recwarn)
    assert said.startswith(
        f"demo-blip learned to answer 'what is this?' of clothing, and {WAFER} looks otherwise. It"
    )
    recwarn.clear()
    model.ask(WAFER, "what is shown?", tiles=True)
    assert scope_warnings(recwarn) == [said]
    recwarn.clear()
    scope = replace(scope_of(model), boundary=None, inner=None)
    clothing = next(each for each in scope.domains if each.name == "clothing")
    check = Check(scope, model.name)
    check.questions(["what colour is it?"])
    check.vectors((clothing.mean + 0.2 * clothing.basis[0])[None])
    assert list(check.each([("shirt.jpg", 1)])) == [("shirt.jpg", 1)]
    (said,) = scope_warnings(recwarn)
    assert "'what colour is the wafer?' of wafers and coloured shapes, and shirt.jpg looks" in said
    form = scope.form("what colour is the wafer?")
    asked_of = {**scope.asked_of, form: "clothing"}
    other = replace(model, scope=replace(scope_of(model), asked_of=asked_of))
    asked, put = other.ask(WAFER, ["what colour is the wafer?", "what colour is it?"])
    assert asked.text == put.declined == "blue"  # asked as it is, and put into other words
    assert (put.text, put.understood) == ("does not know", "")


def test_a_page_can_show_remarks_about_places(recwarn: pytest.WarningsRecorder) -> None:
    scope = patchword.load("demo").scope
    assert scope is not None
    with together() as found:
        found.check_places("demo", scope, ["a hat"])
    (remark,) = found.remarks()
    assert scope_warnings(recwarn)[0].startswith(remark)
    assert "hardly knows where clothing is in a photo" in remark
