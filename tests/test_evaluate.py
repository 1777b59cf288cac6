"""Metrics, probes and blends against scikit-learn, brute force and the formulas themselves."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from small_models import tiny_bundle, tiny_clip, tiny_clip_resnet, tiny_vit

from patchword import checkpoints, models
from patchword.bundle import Bundle, make
from patchword.errors import PatchwordError, UnsupportedError
from patchword.evaluate import (
    Evaluation,
    blend,
    confusion_picture,
    folders,
    metrics,
    probe,
    quality,
)
from patchword.evaluate.blend import differences
from patchword.evaluate.run import Options, classified
from patchword.tasks.classify import classify


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clusters(
    classes: int, count: int = 300, width: int = 24, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of overlapping classes of uneven sizes, and their classes."""
    rng = np.random.default_rng(seed)
    targets = np.minimum(rng.integers(0, classes, count), rng.integers(0, classes, count))
    centres = np.random.default_rng(99).normal(size=(classes, width))
    rows = 0.7 * centres[targets] + rng.normal(size=(count, width)) + 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets


# Accuracy


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_accuracy_as_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    scores = rng.normal(size=(500, classes))
    targets = np.minimum(*rng.integers(0, classes, (2, 500)))
    scores[np.arange(500), targets] += 0.5
    rank, predicted = metrics.ranks(scores, targets), scores.argmax(axis=1)
    for k in (1, 3, 5):
        one = scores[:, 1] - scores[:, 0] if classes == 2 else scores
        if k < classes:
            expected = top_k_accuracy_score(targets, one, k=k, labels=np.arange(classes))
            assert metrics.within(rank, k) == pytest.approx(expected, abs=1e-12)
    counts = metrics.confusion(targets, predicted, classes)
    assert_array_equal(counts, confusion_matrix(targets, predicted, labels=np.arange(classes)))
    expected = balanced_accuracy_score(targets, predicted)
    assert metrics.mean_per_class_recall(counts) == pytest.approx(expected, abs=1e-12)
    assert expected != pytest.approx(metrics.within(rank, 1), abs=1e-4)


def test_a_class_without_images_does_not_count() -> None:
    targets, predicted = np.array([0, 0, 2]), np.array([0, 1, 2])
    counts = metrics.confusion(targets, predicted, 4)
    assert_allclose(metrics.recalls(counts), [0.5, np.nan, 1, np.nan])
    assert metrics.mean_per_class_recall(counts) == 0.75
    assert metrics.mean_per_class_recall(counts) == balanced_accuracy_score(targets, predicted)


def test_ranks_of_ties_missing_and_broken_scores() -> None:
    scores = np.array([[1, 1, 1], [3, 1, 2], [-np.inf, 0, -np.inf], [np.nan, np.nan, np.nan]])
    assert metrics.ranks(scores[:1].repeat(3, 0), np.arange(3)).tolist() == [0, 1, 2]
    assert metrics.ranks(scores, np.array([0, 2, 0, 0])).tolist() == [0, 1, 3, 3]


def test_top5_needs_five_classes() -> None:
    scores = np.eye(4)
    assert classified("x", scores, np.arange(4), tuple("abcd"), {}).top5 is None
    assert classified("x", np.eye(5), np.arange(5), tuple("abcde"), {}).top5 == 1


# Retrieval


def brute_force(
    images: np.ndarray, texts: np.ndarray, owner: np.ndarray, k: int
) -> tuple[float, float]:
    """(image, text) retrieval recall@k as zeroshot_retrieval.py computes them, from all scores."""
    scores = texts @ images.T
    of_text = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    of_image = np.argsort(-scores.T, axis=1, kind="stable")[:, :k]
    image_recall = np.mean([owner[t] in row for t, row in enumerate(of_text)])
    text_recall = np.mean([i in owner[row] for i, row in enumerate(of_image)])
    return float(image_recall), float(text_recall)


@pytest.mark.parametrize("tile", [7, 64, 2048])
@pytest.mark.parametrize("shuffled", [False, True])
def test_retrieval_as_brute_force(tile: int, shuffled: bool) -> None:
    rng = np.random.default_rng(3)
    images = unit(rng, 60, 16)
    owner = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    if shuffled:
        rng.shuffle(owner)
    texts = images[owner] + 0.45 * rng.normal(size=(len(owner), 16)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    of_text, of_image = metrics.retrieval_ranks(images, texts, owner, tile)
    for k in (1, 5, 10):
        actual = metrics.within(of_text, k), metrics.within(of_image, k)
        assert actual == pytest.approx(brute_force(images, texts, owner, k))
        assert 0.1 < actual[0] < 1


def test_retrieval_by_hand() -> None:
    """Image 0 has two texts. The first lies nearer to image 1; the second is its own."""
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[0.6, 0.8, 0], [1, 0, 0], [0, 1, 0], [0.9, 0, 0.1]], np.float32)
    of_text, of_image = metrics.retrieval_ranks(images, texts, np.array([0, 0, 1, 2]))
    assert of_text.tolist() == [1, 0, 0, 1]
    assert of_image.tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_broken_model_finds_nothing(value: float) -> None:
    same = np.full((50, 4), value, np.float32) / 2
    of_text, of_image = metrics.retrieval_ranks(same, same, np.arange(50), 16)
    assert metrics.within(of_text, 1) <= 0.02
    assert metrics.within(of_image, 1) <= 0.02


def test_retrieval_never_holds_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        metrics,
        "_before",
        lambda s, own, e, real=metrics._before: seen.append(s.shape) or real(s, own, e),
    )
    images = unit(np.random.default_rng(0), 90, 4)
    metrics.retrieval_ranks(images, images.repeat(2, 0), np.arange(90).repeat(2), 32)
    assert max(max(shape) for shape in seen) <= 32


# Linear probe and neighbours


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("c", [1e-6, 1e-2, 1.0, 100.0])
def test_probe_as_scikit_learn(classes: int, c: float) -> None:
    """Both run to the end: coefficients agree to 1e-4 of the largest, logits' softmax to 1e-5.

    scikit-learn stops where its loss no longer falls in float64, so that its own coefficients are
    no better than that.
    """
    features, targets = clusters(classes)
    ours = probe.fit(features, targets, classes, c, tolerance=1e-10)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10000)
    theirs.fit(features.astype(np.float64), targets)
    weight, bias = ours.weight, ours.bias - ours.bias.mean()
    if classes == 2:
        assert_allclose(weight[0], -weight[1])
        weight, bias = 2 * weight[1:], 2 * bias[1:]
        expected = theirs.intercept_
    else:
        expected = theirs.intercept_ - theirs.intercept_.mean()
    scale = np.abs(theirs.coef_).max()
    assert_allclose(weight, theirs.coef_, rtol=0, atol=1e-4 * scale)
    assert_allclose(bias, expected, rtol=0, atol=1e-4 * max(scale, 1))
    unseen, _ = clusters(classes, seed=1)
    probabilities = torch.from_numpy(ours(unseen)).softmax(dim=1).numpy()
    assert_allclose(probabilities, theirs.predict_proba(unseen.astype(np.float64)), atol=1e-5)
    assert_array_equal(ours(unseen).argmax(axis=1), theirs.predict(unseen.astype(np.float64)))


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("c", [1e-6, 1.0, 1e4])
def test_probe_is_at_the_minimum(classes: int, c: float) -> None:
    """The gradient of the loss in the docstring, by autograd, is nothing: a loss in float64 cannot
    tell the minimum from where it is below 1e-8 or so."""
    features, targets = clusters(classes)
    fitted = probe.fit(features, targets, classes, c, tolerance=1e-10)
    x, y = torch.from_numpy(features).double(), torch.from_numpy(targets)
    w = torch.from_numpy(fitted.weight).requires_grad_()
    b = torch.from_numpy(fitted.bias).requires_grad_()
    # Two classes share a row v = 2w of weights: |v|^2 = 2 |W|^2.
    share = 2.0 if classes == 2 else 1.0
    loss = torch.nn.functional.cross_entropy(x @ w.T + b, y)
    (loss + share * w.square().sum() / (2 * c * len(x))).backward()
    assert w.grad is not None
    assert b.grad is not None
    assert w.grad.abs().max() < 1e-7 * max(1, 1 / (c * len(x)))
    assert b.grad.abs().max() < 1e-7


def test_where_the_probe_begins_does_not_matter() -> None:
    features, targets = clusters(5)
    samples = probe.Samples.of(features, targets, 5)
    far = samples.fit(1e4)
    direct, warm = samples.fit(1.0, tolerance=1e-9), samples.fit(1.0, far, tolerance=1e-9)
    assert np.abs(far.weight - direct.weight).max() > 1
    assert_allclose(warm.weight, direct.weight, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 7])
def test_the_sweep_finds_a_good_c(classes: int) -> None:
    features, targets = clusters(classes, 400)
    result = probe.linear_probe(features, targets, classes)
    held = probe.held_out(targets, classes)
    assert result.c in probe.GRID
    assert result.held_out is not None
    tried = []
    for c in probe.GRID[::16]:
        fitted = probe.fit(features[~held], targets[~held], classes, c)
        tried.append(np.mean(fitted(features[held]).argmax(axis=1) == targets[held]))
    assert result.held_out >= max(tried)
    assert max(tried) > min(tried) + 0.1
    again = probe.fit(features, targets, classes, result.c)
    # The sweep's fit began at another C's weights: both end close to one minimum, 5e-5 apart.
    assert_allclose(result.weight, again.weight, atol=2e-4 * np.abs(again.weight).max())


@pytest.mark.parametrize("sizes", [(2, 1), (2, 1, 1), (3, 1), (10, 2), (3, 2, 2, 1), (20, 10)])
def test_few_images_do_not_make_everything_the_largest_class(sizes: tuple[int, ...]) -> None:
    """Of the smallest classes none is held out: the smallest C is as accurate there as any, and
    leaves nothing but how many images each class has."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(sizes), 32))

    def some(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        targets = np.repeat(np.arange(len(counts)), counts)
        rows = centres[targets] + 0.5 * rng.normal(size=(len(targets), 32)) + 1
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets

    result = probe.linear_probe(*some(sizes), len(sizes))
    features, targets = some((40,) * len(sizes))
    assert np.mean(result(features).argmax(axis=1) == targets) > 0.95


def test_held_out_is_a_fifth_of_each_class() -> None:
    targets = np.repeat([0, 1, 2, 3], [1, 2, 5, 50])
    held = probe.held_out(targets, 4)
    assert np.bincount(targets[held], minlength=4).tolist() == [0, 0, 1, 10]
    assert_array_equal(held, probe.held_out(targets, 4))


@pytest.mark.parametrize("k", [1, 20])
def test_neighbours_as_scikit_learn(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK", 7 * 300)
    (known, labels), (unseen, _) = clusters(6), clusters(6, 50, seed=1)
    votes = np.exp(probe.nearest(known, labels, unseen, 6, k))
    theirs = KNeighborsClassifier(
        k, weights=lambda distance: np.exp((1 - distance**2 / 2) / 0.07), algorithm="brute"
    )
    theirs.fit(known.astype(np.float64), labels)
    expected = theirs.predict_proba(unseen.astype(np.float64))
    assert_allclose(votes / votes.sum(axis=1, keepdims=True), expected, atol=1e-5)


def test_neighbours_more_than_there_are() -> None:
    known, labels = clusters(3, 9)
    votes = probe.nearest(known, labels, known, 3, 1000)
    assert votes.shape == (9, 3)


# Folders


def photo(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(colour).integers(0, 60, (40, 40, 3))
    Image.fromarray((noise + colour).astype(np.uint8)).save(path)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Splits of two classes, one image of which is broken."""
    for split, count in (("train", 6), ("validation", 3)):
        for i in range(count):
            photo(tmp_path / "d" / split / "dark" / f"{i}.png", i)
            photo(tmp_path / "d" / split / "light_one" / f"{i}.png", 180 + i)
    (tmp_path / "d" / "validation" / "dark" / "broken.png").write_bytes(b"no image")
    (tmp_path / "d" / "validation" / "dark" / "notes.txt").write_text("no image")
    return tmp_path / "d"


def captions(folder: Path, lines: list[str], name: str = "metadata.jsonl") -> Path:
    for i in range(3):
        photo(folder / f"{i}.png", 60 * i)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_splits(classes: Path) -> None:
    assert folders.splits(classes) == (classes / "validation", classes / "train")
    assert folders.splits(classes / "train") == (classes / "train", None)
    (classes / "test").mkdir()
    assert folders.splits(classes)[0] == classes / "test"


def test_class_folders(classes: Path) -> None:
    data = folders.labelled(classes / "validation")
    assert data.names == ("dark", "light_one")
    assert data.targets.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert [Path(name).name for name in data.images][:4] == [
        "0.png",
        "1.png",
        "2.png",
        "broken.png",
    ]


def test_captions_several_an_image(tmp_path: Path) -> None:
    rows = [
        {"file_name": "0.png", "captions": ["a", "b"]},
        {"file_name": "1.png", "text": "c"},
        {"file_name": "0.png", "text": "d"},
    ]
    lines = captions(tmp_path / "l", [json.dumps(row) for row in rows])
    table = captions(
        tmp_path / "t",
        ["file_name,caption", "0.png,a", '0.png,"b"', "1.png,c", "0.png,d"],
        "metadata.csv",
    )
    for folder in (lines, table):
        data = folders.captioned(folder)
        assert [Path(name).name for name in data.images] == ["0.png", "1.png"]
        assert data.captions == (("a", "b", "d"), ("c",))
    assert folders.captioned(table / "metadata.csv").captions == data.captions


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1: not JSON"),
        (["[1]"], "line 1: not a JSON object"),
        (['{"file_name": "", "caption": "a"}', '{"caption": "a"}'], "line 1: no 'file_name'"),
        (['{"file_name": "0.png"}'], "line 1: no 'caption'.*; .* file_name: rename"),
        (['{"Bild": "0.png", "caption": "a"}'], "no 'file_name'.* the columns Bild, caption"),
        (['{"file_name": "0.png", "caption": " "}'], "line 1: no 'caption'"),
        (['{"file_name": "0.png", "caption": 3}'], "line 1: no 'caption'"),
        ([""], "no rows"),
    ],
)
def test_bad_captions_are_named(lines: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(PatchwordError, match=words):
        folders.captioned(captions(tmp_path / "c", lines))


# A whole evaluation


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))


def test_evaluation_is_what_its_parts_are(classes: Path) -> None:
    model = tiny_bundle(tiny_clip())
    run = Evaluation(model)
    zero, linear, near = run.on(classes)
    assert [answer.task for answer in (zero, linear, near)] == ["zero-shot", "probe", "knn"]
    assert [error.reason for error in run.broken] != []
    assert "broken.png" in str(run.broken[0])
    good = [n for n in folders.labelled(classes / "validation").images if "broken" not in n]
    texts = model.embed_texts(["a photo of a dark", "a photo of a light one"])
    predicted = (model.embed_images(good) @ texts.T).argmax(axis=1)
    expected = confusion_matrix([0, 0, 0, 1, 1, 1], predicted, labels=[0, 1])
    assert_array_equal(zero.confusion, expected)
    whole = Evaluation(model).on(classes / "validation", classes, ["probe"])
    assert [answer.record() for answer in whole] == [linear.record()]
    assert linear.top1 == near.top1 == 1  # dark and light are far apart for any network
    record = linear.record()
    assert record["acc5"] is None
    assert record["train_images"] == 12
    assert json.dumps(record)


def test_two_views_are_those_of_classify(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(["red star", "blue ring", "wafer"] * 8):
        path = tmp_path / "photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 255, (2, 6, 3)).astype(np.uint8)
        Image.fromarray(blocks.repeat(10, 0).repeat(10, 1)).save(path)
    model = checkpoints.load("demo")
    data = folders.labelled(tmp_path / "photos")
    names, confusions = list(data.names), {}
    for two_views in (False, True):
        (answer,) = Evaluation(model, Options(two_views=two_views)).on(tmp_path / "photos")
        best = [
            scores[0].label
            for scores in classify(model, data.images, names, None, two_views=two_views)
        ]
        expected = confusion_matrix(data.targets, [names.index(label) for label in best])
        assert_array_equal(answer.confusion, expected)
        confusions[two_views] = expected
    assert (confusions[False] != confusions[True]).any()
    # The vectors that a probe learns from are of both views too.
    run = Evaluation(model, Options(two_views=True))
    views = [model.embed_images(data.images, squash=squash) for squash in (False, True)]
    mean = views[0] + views[1]
    assert_allclose(
        run.embed(data)[0], mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6
    )


def test_two_views_are_refused_as_by_classify(classes: Path) -> None:
    two_views = Options(two_views=True)
    whole = tiny_bundle(tiny_clip()).opening(squash=True)
    with pytest.raises(UnsupportedError, match="the whole of each image already"):
        list(Evaluation(whole, two_views).on(classes / "train"))
    model = classifier(("dark", "light_one", *"abcde"))
    with pytest.raises(UnsupportedError, match="two_views averages vectors"):
        list(Evaluation(model, two_views).on(classes / "train"))


def test_retrieval_leaves_broken_images_out(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "caption": ["a cat", "a dog"][i % 2]} for i in range(4)]
    folder = captions(tmp_path / "c", [json.dumps(row) for row in rows])
    run = Evaluation(tiny_bundle(tiny_clip()))
    (answer,) = run.on(folder)
    assert [Path(error.image).name for error in run.broken] == ["3.png"]
    assert (answer.images, answer.captions) == (3, 3)
    assert answer.image_recall[5] == answer.text_recall[10] == 1
    assert quality(answer) == (answer.image_recall[1] + answer.text_recall[1]) / 2


def test_a_line_without_caption_or_image_costs_itself_alone(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "caption": f"a cat {i}"} for i in range(2)]
    lines = [json.dumps(row) for row in (*rows, {"file_name": "2.png"}, {"caption": "x"})]
    run = Evaluation(tiny_bundle(tiny_clip()))
    (answer,) = run.on(captions(tmp_path / "c", lines))
    assert (answer.images, answer.captions) == (2, 2)
    assert [error.image[-6:] for error in run.broken] == ["line 3", "line 4"]


def classifier(labels: tuple[str, ...]) -> Bundle:
    config = replace(tiny_vit("learned"), labels=labels)
    torch.manual_seed(1)
    network = models.build(config)
    models.initialise(network)
    return make(network, config, None, "tiny classifier")


def test_folders_that_drives_leave_are_no_classes_and_no_splits(
    classes: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for place in (classes, classes / "train"):
        photo(place / "@eaDir" / "0.png", 1)
    assert folders.splits(classes) == (classes / "validation", classes / "train")
    assert folders.labelled(classes / "train").names == ("dark", "light_one")
    assert not recwarn


def test_a_class_without_images_is_told(classes: Path) -> None:
    (classes / "train" / "grey").mkdir()
    with pytest.warns(UserWarning, match="no images in grey: a folder without"):
        assert folders.labelled(classes / "train").names == ("dark", "light_one")


def test_an_image_is_counted_once_whatever_the_tasks(classes: Path) -> None:
    run = Evaluation(tiny_bundle(tiny_clip()))
    assert len(list(run.on(classes, tasks=["zero-shot", "probe", "knn"]))) == 3
    assert (run.opened, len(run.broken)) == (12 + 6, 1)


def test_labels_are_counted_before_any_image_is_opened(classes: Path) -> None:
    run = Evaluation(tiny_bundle(tiny_clip()), Options(words=["a", "b", "c"]))
    with pytest.raises(PatchwordError, match="3 labels for 2 classes"):
        list(run.on(classes / "train"))
    assert not run.opened


def test_a_classifier_answers_in_its_own_classes(classes: Path) -> None:
    model = classifier(("Light one", "b", "c", "dark", "e", "f", "g"))
    (answer,) = Evaluation(model).on(classes / "train")
    images = folders.labelled(classes / "train").images
    rows = np.stack([row for _, row in model.run_each(images, model.network)])
    assert answer.task == "classifier"
    assert_array_equal(answer.confusion.sum(axis=1), [6, 0, 0, 6, 0, 0, 0])
    assert_array_equal(answer.confusion[3], np.bincount(rows[:6].argmax(axis=1), minlength=7))
    with pytest.raises(UnsupportedError, match="no class called dark, light_one"):
        list(Evaluation(classifier(tuple("abcdefg"))).on(classes / "train", tasks=["classifier"]))


def test_classes_whose_names_differ_in_case_alone_are_not_taken_for_each_other(
    classes: Path,
) -> None:
    model = classifier(("DARK", "light_one", "dark", *"abcd"))
    (answer,) = Evaluation(model).on(classes / "train")
    assert_array_equal(answer.confusion.sum(axis=1)[:3], [0, 6, 6])
    model = classifier(("DARK", "light_one", "Dark", *"abcd"))
    with pytest.raises(UnsupportedError, match="2 classes called like dark: 'DARK', 'Dark'"):
        list(Evaluation(model).on(classes / "train"))


@pytest.mark.parametrize(
    ("tasks", "where", "words"),
    [
        (["probe"], "validation", "need images to learn from"),
        (["retrieval"], "validation", "no metadata.jsonl or metadata.csv"),
        (["other"], "", "no task 'other'; there are zero-shot"),
        (["zero-shot"], "validation/dark", "no images in folders"),
    ],
)
def test_what_cannot_be_done_is_said(
    tasks: list[str], where: str, words: str, classes: Path
) -> None:
    with pytest.raises(PatchwordError, match=words):
        list(Evaluation(tiny_bundle(tiny_clip())).on(classes / where, tasks=tasks))


def test_a_class_to_learn_that_is_not_there(classes: Path) -> None:
    photo(classes / "validation" / "new" / "0.png", 1)
    with pytest.raises(PatchwordError, match="train has no class new"):
        list(Evaluation(tiny_bundle(tiny_clip())).on(classes, tasks=["knn"]))


@pytest.mark.parametrize("count", [2, 60, 400])
def test_picture(count: int) -> None:
    targets = np.arange(count).repeat(2)
    scores = np.random.default_rng(0).normal(size=(2 * count, count)) + 4 * np.eye(count)[targets]
    names = tuple(f"class number {i}" for i in range(count))
    answer = classified("zero-shot", scores, targets, names, {})
    one, two = confusion_picture([answer]), confusion_picture([answer, answer])
    assert one.width < 2000
    assert two.height == 2 * one.height
    assert len(one.getcolors(one.width * one.height)) > 10
    light = np.asarray(one.convert("L"), float).mean()
    assert light > 200  # of 255: zeros, which are most of a matrix, are light


# Blends


def trained(model: Bundle, seed: int) -> Bundle:
    """The same model with other weights, some of which are -0.0, and other counters."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in model.network.state_dict().items():
        if value.is_floating_point():
            value = value + 0.1 * torch.randn(value.shape, generator=generator)
            value.view(-1)[0] = -0.0
        else:
            value = value + seed
        state[name] = value
    network = models.build(model.config)
    network.load_state_dict(state)
    return make(network, model.config, model.tokenizer, f"trained {seed}")


@pytest.fixture(params=[tiny_clip, tiny_clip_resnet])
def pair(request: pytest.FixtureRequest) -> tuple[Bundle, Bundle]:
    model = tiny_bundle(request.param())
    return trained(model, 1), trained(model, 2)


def bits(model: Bundle) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.network.state_dict().items()}


def test_the_ends_of_a_blend_are_its_models(pair: tuple[Bundle, Bundle]) -> None:
    start, end = pair
    before = bits(start), bits(end)
    for alpha, model in ((0.0, start), (1.0, end)):
        mixed = blend(start, end, alpha)
        assert bits(mixed) == bits(model)
        assert mixed.fingerprint == model.fingerprint
    assert (bits(start), bits(end)) == before


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_between_is_the_weighted_mean(alpha: float, pair: tuple[Bundle, Bundle]) -> None:
    start, end = pair
    mixed = blend(start, end, alpha)
    ours, theirs = start.network.state_dict(), end.network.state_dict()
    for name, value in mixed.network.state_dict().items():
        if not value.is_floating_point():
            assert value == (ours if alpha < 0.5 else theirs)[name]
            continue
        a, b = ours[name].double(), theirs[name].double()
        mean = (a + b) / 2 if alpha == 0.5 else a * 0.75 + b * 0.25
        assert torch.equal(value, mean.float()), name
    assert mixed.fingerprint not in (start.fingerprint, end.fingerprint)
    assert mixed.fingerprint == blend(start, end, alpha).fingerprint


def test_a_blend_is_saved_and_opened(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    mixed = blend(*pair, 0.5)
    opened = checkpoints.load(checkpoints.save(mixed, tmp_path / "half"))
    assert bits(opened) == bits(mixed)
    assert opened.fingerprint == mixed.fingerprint


@pytest.mark.parametrize("limits", [(100.0, 100.0000064), (100.0, 250.0), (250.0, 100.0)])
def test_a_temperature_does_not_part_two_models(
    limits: tuple[float, float], pair: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    """What the scale is held at follows from the learned one, and the higher holds between."""
    ends = []
    for model, limit in zip(pair, limits, strict=True):
        config = replace(model.config, scale_limit=limit)
        network = models.build(config)
        network.load_state_dict(model.network.state_dict())
        network.logit_scale.data.fill_(math.log(limit))  # type: ignore[operator, union-attr]
        ends.append(make(network, config, model.tokenizer, str(limit)))
    for alpha, limit in ((0, limits[0]), (0.5, max(limits)), (1, limits[1])):
        mixed = blend(*ends, alpha)
        assert mixed.config.scale_limit == limit
        scale = math.exp((1 - alpha) * math.log(limits[0]) + alpha * math.log(limits[1]))
        assert mixed.scale == pytest.approx(scale, rel=1e-6)
        again = checkpoints.load(checkpoints.save(mixed, tmp_path / str(alpha)))
        assert again.scale == mixed.scale
        if alpha in (0, 1):
            assert mixed.fingerprint == ends[alpha].fingerprint


def test_models_that_differ_are_refused() -> None:
    model = tiny_bundle(tiny_clip())
    text = model.config.text
    assert text is not None
    deeper = replace(model.config, text=replace(text, depth=3))
    other = make(models.build(deeper), deeper, model.tokenizer, "deeper")
    assert list(differences(model, other)) == ["text.depth is 2 and 3"]
    images = replace(model.config, text=None, embed_dim=0, classes=3)
    classifier = make(models.build(images), images, None, "classes")
    assert list(differences(model, classifier)) == [
        "classes has no text tower", "tiny has no layer that names classes",
    ]  # fmt: skip
    odd = make(other.network, model.config, model.tokenizer, "odd")
    assert "text.blocks.2.attn.proj.bias is missing and (32,)" in list(differences(model, odd))
    with pytest.raises(
        UnsupportedError, match=r"tiny and deeper cannot be blended: text\.depth is"
    ):
        blend(model, other, 0.5)
    sharper = replace(model.config, preprocess=replace(model.config.preprocess, resize="squash"))
    assert list(differences(model, make(model.network, sharper, model.tokenizer, "x"))) == [
        "preprocess.resize is shortest and squash"
    ]
    assert list(differences(model, make(model.network, model.config, None, "x"))) == [
        "their tokenizers differ"
    ]
    elsewhere = replace(model.config, source="timm", read_from=("a.bin",), assumed={"a": "b"})
    assert list(differences(model, make(model.network, elsewhere, model.tokenizer, "x"))) == []


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_outside_is_refused(alpha: float) -> None:
    model = tiny_bundle(tiny_clip())
    with pytest.raises(UnsupportedError, match="alpha is"):
        blend(model, model, alpha)
