"""Questions and answers in training data: from every kind of source, and in batches."""

import json
from collections import Counter
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dataset_layouts import csv_text, five_photos, lines, opened, pixels, rng
from numpy.testing import assert_array_equal
from photos import PREPROCESS, class_folders, encoded, tar_of
from scene_captions import stated

from patchword.data import (
    AugmentConfig,
    Plan,
    Source,
    SourceConfig,
    batches,
    collate_texts,
    open_sources,
)
from patchword.errors import ImageError, RecipeError
from patchword.scenes import holds, scene
from patchword.text.tokenizer import Tokenizer

QUESTIONS = ("questions",)
ALL = ("captions", "questions")
ASKED = [  # (number of the photo, question, answer): several questions about a photo
    (0, "what is it?", "a hat"),
    (0, "is it red, or blue?", "red"),
    (1, "what is it?", "a shirt"),
    (0, "how many are there?", "1"),
    (4, "is it new?", "no"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


@pytest.fixture
def five(tmp_path: Path) -> Path:
    return five_photos(tmp_path)


def rows(image: str = "image", question: str = "question", answer: str = "answer") -> list[dict]:
    return [{image: f"p/{i}.png", question: q, answer: a} for i, q, a in ASKED]


# Layouts


def folder_csv(five: Path) -> Source:
    (five / "metadata.csv").write_text(csv_text(rows("file_name")))
    return opened("folder", five, QUESTIONS)


def folder_jsonl(five: Path) -> Source:
    (five / "metadata.jsonl").write_text(lines(rows("file_name", "q", "a")))
    return opened("folder", five, QUESTIONS, question="q", answer="a")


def table_csv(five: Path) -> Source:
    """A row for each question, like a table of easy-VQA."""
    (five / "all.csv").write_text(csv_text(rows()))
    return opened("table", five / "all.csv", QUESTIONS)


def table_jsonl(five: Path) -> Source:
    (five / "all.jsonl").write_text(lines(rows(question="Questions", answer="Answers")))
    return opened("table", five / "all.jsonl", QUESTIONS)


def table_parquet(five: Path) -> Source:
    table = [{"file": f"p/{i}.png", "ask": q, "say": [a]} for i, q, a in ASKED]
    pq.write_table(pa.Table.from_pylist(table), five / "all.parquet")
    return opened("table", five / "all.parquet", QUESTIONS, question="ask", answer="say")


def hub(five: Path) -> Source:
    """With VQAv2's columns and answers."""
    table = [
        {
            "image": {"bytes": encoded(i), "path": None},
            "question": q,
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": 1}] * 2,
            "multiple_choice_answer": "unread",
        }
        for i, q, a in ASKED
    ]
    (five / "repository").mkdir()
    pq.write_table(pa.Table.from_pylist(table), five / "repository" / "train.parquet")
    return opened("hub", five / "repository", QUESTIONS)


def tar(five: Path) -> Source:
    files = {}
    for number, (i, q, a) in enumerate(ASKED):
        files[f"{number}.json"] = json.dumps({"question": q, "answer": a}).encode()
        files[f"{number}.png"] = encoded(i)
    tar_of(five / "a.tar", files)
    return opened("webdataset", five / "a.tar", QUESTIONS)


@pytest.mark.parametrize(
    "layout", [folder_csv, folder_jsonl, table_csv, table_jsonl, table_parquet, hub, tar]
)
def test_every_layout_gives_the_same_questions(layout, five: Path) -> None:
    source = layout(five)
    assert len(source) == len(ASKED)
    for number, (i, question, answer) in enumerate(ASKED):
        sample = source.sample(number, rng())
        assert_array_equal(sample.pixels, pixels(encoded(i)))
        assert (sample.question, sample.answer) == (question, answer)
        assert (sample.caption, sample.label) == ("", -1)
    texts = Counter(source.questions_and_answers())
    times = 2 if layout is hub else 1
    for i, repeats in ((1, 1), (2, times)):
        counted = Counter(row[i] for row in ASKED)
        assert {text: texts[text] for text in counted} == {
            t: repeats * n for t, n in counted.items()
        }
    assert texts.total() == len(ASKED) * (1 + times)


def test_unread_questions_do_not_matter(five: Path) -> None:
    """The rows of an image become one sample then, and there may be questions without answers."""
    table = [{**row, "caption": f"photo {n}"} for n, row in enumerate(rows("file_name"))]
    (five / "metadata.csv").write_text(csv_text(table))
    source = opened("folder", five, ("captions",))
    assert len(source) == 3
    sample = source.sample(0, rng())
    assert (sample.question, sample.answer, list(source.questions_and_answers())) == ("", "", [])
    for row in table:
        del row["answer"]
    (five / "all.csv").write_text(csv_text(table))
    assert opened("table", five / "all.csv", ("captions",)).sample(0, rng()).question == ""
    assert list(opened("scenes", count=3, reads=("captions",)).questions_and_answers()) == []


def test_rows_with_questions_stay_apart(five: Path) -> None:
    """Each row is a sample, with all captions of its image."""
    table = [{**row, "text": f"photo {n}"} for n, row in enumerate(rows("file_name"))]
    (five / "metadata.csv").write_text(csv_text(table))
    source = opened("folder", five, ALL)
    assert len(source) == 5
    for number in (0, 1, 3):
        samples = [source.sample(number, rng(seed)) for seed in range(30)]
        assert {s.question for s in samples} == {ASKED[number][1]}
        assert {s.caption for s in samples} == {"photo 0", "photo 1", "photo 3"}
        assert {s.image_facts for s in samples} == {frozenset(["photo 0", "photo 1", "photo 3"])}
    assert source.sample(2, rng()).image_facts == {"photo 2"}


# Several in a cell


@pytest.mark.parametrize("kind", ["folder", "table", "webdataset"])
def test_one_of_several_answers_is_drawn(kind: str, five: Path) -> None:
    """An answer that was given twice is drawn twice as often."""
    row = {"question": "is it red?", "answer": ["yes", "no", "yes"]}
    file = five / "metadata.jsonl"
    file.write_text(lines([{"file_name": "p/0.png", **row}]))
    tar_of(five / "a.tar", {"0.png": encoded(0), "0.json": json.dumps(row).encode()})
    path = {"folder": five, "table": file, "webdataset": five / "a.tar"}[kind]
    source = opened(kind, path, QUESTIONS)
    answers = Counter(source.sample(0, rng(seed)).answer for seed in range(600))
    assert set(answers) == {"yes", "no"}
    assert 360 <= answers["yes"] <= 440  # 400 +- 3.5 standard deviations
    assert Counter(source.questions_and_answers()) == {"is it red?": 1, "yes": 2, "no": 1}


@pytest.mark.parametrize("kind", ["folder", "table", "webdataset"])
def test_one_of_several_questions_is_drawn_with_its_answers(kind: str, five: Path) -> None:
    row = {"questions": ["what?", "is it?"], "answers": [["hat", "cap"], ["no"]]}
    file = five / "metadata.jsonl"
    file.write_text(lines([{"file_name": "p/0.png", **row}]))
    tar_of(five / "a.tar", {"0.png": encoded(0), "0.json": json.dumps(row).encode()})
    path = {"folder": five, "table": file, "webdataset": five / "a.tar"}[kind]
    source = opened(kind, path, QUESTIONS)
    samples = [source.sample(0, rng(seed)) for seed in range(50)]
    pairs = {(sample.question, sample.answer) for sample in samples}
    assert pairs == {("what?", "hat"), ("what?", "cap"), ("is it?", "no")}


def test_answers_as_numbers(five: Path) -> None:
    numbers = (0, 12, 3.0, 2.5, [0.5])
    table = [{"image": "p/0.png", "question": "how many?", "answer": n} for n in numbers]
    (five / "all.jsonl").write_text(lines(table))
    source = opened("table", five / "all.jsonl", QUESTIONS)
    assert [source.sample(i, rng()).answer for i in range(5)] == ["0", "12", "3", "2.5", "0.5"]


# Made and drawn


def test_questions_about_classes(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, ("dark_hat", "shirt"), 3)
    questions = ("what is this?", "name it")
    source = opened("folder", folder, QUESTIONS, class_questions=questions)
    samples = [source.sample(0, rng(seed)) for seed in range(30)]
    assert {(s.question, s.answer) for s in samples} == {(q, "dark hat") for q in questions}
    assert source.sample(3, rng()).answer == "shirt"
    texts = list(source.questions_and_answers())
    assert Counter(texts[1::2]) == {"dark hat": 3, "shirt": 3}
    assert Counter(texts[::2]) == dict.fromkeys(questions, 3)
    names = (("hat", "cap"), ("shirt",))
    source = opened(
        "folder", folder, ALL, class_questions=questions, names=names, templates=("a {}",)
    )
    samples = [source.sample(0, rng(seed)) for seed in range(30)]
    assert {s.answer for s in samples} == {"hat", "cap"}
    assert {s.caption for s in samples} == {"a hat", "a cap"}
    assert {"hat", "cap", "shirt"} == set(list(source.questions_and_answers())[1::2])


def test_class_questions_stand_before_columns(five: Path) -> None:
    """Then columns of questions are not read, and the rows of an image become one sample."""
    labels = {"p/0.png": "a", "p/1.png": "b", "p/4.png": "a"}
    table = [{**row, "label": labels[row["file_name"]]} for row in rows("file_name")]
    (five / "metadata.csv").write_text(csv_text(table))
    source = opened("folder", five, QUESTIONS, class_questions=("which?",))
    assert len(source) == 3
    assert source.sample(0, rng()).question == "which?"
    (five / "n.jsonl").write_text(
        lines([{"image": "p/0.png", "label": n} for n in ("a", "b", None)])
    )
    source = opened("table", five / "n.jsonl", QUESTIONS, class_questions=("which?",))
    with pytest.raises(ImageError, match=r"0\.png: no class"):
        source.sample(2, rng())


def test_scenes() -> None:
    source = opened("scenes", count=6, seed=3, reads=QUESTIONS)
    expected = [scene(3, i).questions for i in range(6)]
    for i, pairs in enumerate(expected):
        samples = [source.sample(i, rng(seed)) for seed in range(250)]
        assert {(s.question, s.answer) for s in samples} == set(pairs)
    assert list(source.questions_and_answers()) == [
        text for pairs in expected for pair in pairs for text in pair
    ]
    assert opened("scenes", count=6, reads=("captions",)).sample(0, rng()).question == ""


def test_several_texts_at_a_visit(five: Path) -> None:
    """For scenes: true captions in other words, the first of which is the scene's own, and
    questions that differ as long as there are enough. For a table: the texts of the row."""
    config = SourceConfig("scenes", count=6, seed=3)
    (source,) = open_sources([config], PREPROCESS, ALL, texts=5)
    for number in range(6):
        expected = scene(3, number)
        texts = source.sample(number, rng()).texts
        assert len(texts) == 5
        assert texts[0].caption == expected.caption
        assert len({each.caption for each in texts}) > 2
        assert all(holds(stated(each.caption).meaning, expected.facts) for each in texts)
        pairs = {(each.question, each.answer) for each in texts}
        assert pairs <= set(expected.questions)
        assert len(pairs) == min(5, len(expected.questions))
    rows = [{"image": "p/0.png", "caption": ["a", "b"], "question": ["c", "d"], "answer": [1, 2]}]
    (five / "n.jsonl").write_text(lines([*rows, {**rows[0], "caption": ["e"]}]))
    (table,) = open_sources([SourceConfig("table", path=str(five / "n.jsonl"))], PREPROCESS, ALL, 9)
    texts = table.sample(0, rng()).texts
    assert len(texts) == 9
    assert {each.caption for each in texts} == {"a", "b"}
    assert {(each.question, each.answer) for each in texts} == {("c", "1"), ("d", "2")}
    (bare,) = open_sources([config], PREPROCESS, ("captions",), texts=2)
    assert [each.question for each in bare.sample(0, rng()).texts] == ["", ""]


# Bad input


def test_broken_cells_are_named(five: Path) -> None:
    table = [
        ("p/0.png", "red?", "yes"), ("p/0.png", " ", "no"), ("p/0.png", "blue?", ""),
        ("p/1.png", "", ""), ("p/2.png", "red?", "no"),
    ]  # fmt: skip
    names = ("image", "question", "answer")
    content = csv_text([dict(zip(names, row, strict=True)) for row in table])
    (five / "all.csv").write_text(content)
    (five / "metadata.csv").write_text(content)
    messages = {1: r"0\.png: no question in row 2", 2: r"0\.png: no answer to 'blue\?' in row 3",
             3: r"1\.png: no question in row 4"}  # fmt: skip
    for source in (
        opened("table", five / "all.csv", QUESTIONS),
        opened("folder", five, QUESTIONS),
    ):
        assert [source.sample(i, rng()).answer for i in (0, 4)] == ["yes", "no"]
        for index, message in messages.items():
            with pytest.raises(ImageError, match=message):
                source.sample(index, rng())
        assert sorted(source.questions_and_answers()) == [
            "blue?",
            "no",
            "no",
            "red?",
            "red?",
            "yes",
        ]


def test_broken_samples_of_a_tar_are_named(five: Path) -> None:
    """Missing or too few answers, and missing questions, as texts or in lists."""
    cells = [
        {"question": "red?", "answer": "no"}, {"question": ["red?", "blue?"], "answer": "no"},
        {"question": ["red?", ""], "answer": ["yes", "no"]}, {"answer": "no"},
        {"question": [], "answer": []}, {"question": "red?", "answer": [None, True]},
    ]  # fmt: skip
    files = {}
    for number, cell in enumerate(cells):
        files |= {f"{number}.png": encoded(0), f"{number}.json": json.dumps(cell).encode()}
    files |= {"9.png": encoded(0), "9.json": b'{"question": "red?", "answer": "yes"}'}
    source = opened("webdataset", tar_of(five / "a.tar", files), QUESTIONS)
    assert source.sample(6, rng()).answer == "yes"
    messages = ["2 questions, but 1 answers", "no question", "no question", "no question",
             r"no answer to 'red\?'"]  # fmt: skip
    for index, message in enumerate(messages, start=1):
        with pytest.raises(ImageError, match=rf"{index}\.png: {message} in row {index + 1}$"):
            source.sample(index, rng())


CASES = [
    ("image,question\np/0.png,a?\n", {}, QUESTIONS,
     r"column 'question', but no column of answers; it has image, question; set answer"),
    ("image,caption,answer\np/0.png,a,b\n", {}, ALL,
     r"column 'answer', but no column of questions; it has image, caption, answer; set question"),
    ("image,label\np/0.png,a\np/1.png,b\n", {}, QUESTIONS,
     "no columns of questions and answers; it has image, label; set question and answer, or"),
    ("image,label\np/0.png,a\np/1.png,b\n", {}, ALL, r"no data has questions with answers"),
    ("image,question,answer\np/0.png,a?,\np/1.png,b?,\n", {}, QUESTIONS, "no data has questions"),
    ("image,question,answer\np/0.png,a?,Yes\np/1.png,b?, yes\n", {}, QUESTIONS,
     "all answers of the data are the same, 'yes'"),
    ("image,label\np/0.png,a\np/1.png,a\n", {"class_questions": ("what?",), "names": (("b", "c"),)},
     QUESTIONS, "all answers of the data are the same, 'b'"),
    ("image,question,answer\np/0.png,a?,b\np/1.png,b?,c\n", {}, ALL,
     "no column of captions or class names"),
    ("image,question,answer\np/0.png,a?,b\np/1.png,b?,c\n", {"question": "q"}, QUESTIONS,
     "no column 'q'; it has .*question, answer"),
    ("image,question,answer\np/0.png,a?,b\n", {"class_questions": ("what?",)}, QUESTIONS,
     "no column of class names; it has image, question, answer"),
    ("image,question,answer\np/0.png,a?,b\n", {"class_questions": ("what?",), "answer": "answer"},
     QUESTIONS, "class_questions ask for the class, question and answer are columns; give one"),
    ("image,label\np/0.png,a\np/1.png,b\n", {"class_questions": ("what?", " ")}, QUESTIONS,
     "one of class_questions is empty"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["table", "folder"])
@pytest.mark.parametrize(("content", "options", "reads", "message"), CASES)
def test_bad_sources_say_why(kind, content, options, reads, message, five: Path) -> None:
    (five / "metadata.csv").write_text(content)
    with pytest.raises(RecipeError, match=message):
        opened(kind, five if kind == "folder" else five / "metadata.csv", reads, **options)


def test_tars_and_scenes_say_why(five: Path) -> None:
    tar_of(five / "a.tar", {"0.png": encoded(0), "0.json": b'{"question": "red?"}'})
    with pytest.raises(RecipeError, match="column 'question', but no column of answers"):
        opened("webdataset", five / "a.tar", QUESTIONS)
    with pytest.raises(RecipeError, match="no sample has 'say'; they have question"):
        opened("webdataset", five / "a.tar", QUESTIONS, answer="say")
    for reads in (QUESTIONS, ALL):
        message = (
            rf"^{' and '.join(reads)} of scenes say left and right: set augment.mirror = false"
        )
        with pytest.raises(RecipeError, match=message):
            opened("scenes", count=3, reads=reads, augment=AugmentConfig())


# Batches


@pytest.fixture
def mixed(tmp_path: Path) -> list[Source]:
    """A source with captions alone, and one with captions and questions."""
    configs = [
        SourceConfig("folder", path=str(class_folders(tmp_path / "c", ("hat", "shirt"), 4))),
        SourceConfig("scenes", count=9),
    ]
    with pytest.raises(RecipeError, match="no columns of questions"):
        open_sources(configs, PREPROCESS, {"questions"})
    return open_sources(configs, PREPROCESS, ALL)


def test_batches_of_questions(mixed: list[Source]) -> None:
    tokenizer = Tokenizer.train(
        [t for source in mixed for t in source.questions_and_answers()], 600, 32
    )
    plan = Plan([8, 9], [0.5, 0.5], 8, 0)
    texts = partial(collate_texts, tokenizer)
    whole_batches = list(batches(mixed, plan, texts, 0, 3))
    for step, batch in enumerate(whole_batches):
        places = plan.at(step)
        samples = [mixed[place.source].sample(place.sample, plan.rng(place)) for place in places]
        assert batch.has_question.tolist() == [[place.source == 1] for place in places]
        assert batch.has_question.sum() == 4
        assert_array_equal(
            batch.questions[:, 0], tokenizer([sample.question for sample in samples])
        )
        assert_array_equal(batch.answers[:, 0], tokenizer([sample.answer for sample in samples]))
        assert_array_equal(batch.captions[:, 0], tokenizer([sample.caption for sample in samples]))
        assert torch.equal(batch.ids, batch.captions[:, 0])
        assert batch.caption_facts == [sample.caption_facts for sample in samples]
        assert batch.image_facts == [sample.image_facts for sample in samples]
        for name in ("pixels", "captions", "questions", "answers", "has_question"):
            assert getattr(batch.to("meta"), name).device.type == "meta", name
    for rank in range(2):
        for batch_of_all, batch_of_rank in zip(
            whole_batches, batches(mixed, plan, texts, 0, 3, rank, 2, 1), strict=True
        ):
            rows_of_rank = slice(4 * rank, 4 * rank + 4)
            assert torch.equal(batch_of_rank.has_question, batch_of_all.has_question[rows_of_rank])
            width = batch_of_rank.answers.shape[2]
            assert torch.equal(batch_of_rank.answers, batch_of_all.answers[rows_of_rank, :, :width])


def test_batches_without_questions(tmp_path: Path) -> None:
    """If questions are not read, they are "", and so are answers and the wrong caption."""
    source = opened("folder", class_folders(tmp_path, ("hat", "shirt"), 4), ("captions",))
    tokenizer = Tokenizer.train(source.captions(), 600, 32)
    (batch,) = batches([source], Plan([8], [1], 4, 0), partial(collate_texts, tokenizer), 0, 1)
    empty = torch.from_numpy(tokenizer([""] * 4))
    for texts in (batch.questions[:, 0], batch.answers[:, 0], batch.wrong_captions):
        assert torch.equal(texts, empty)
    assert not batch.has_question.any()
    assert not batch.has_wrong_caption.any()
    assert not torch.equal(batch.ids, empty)
