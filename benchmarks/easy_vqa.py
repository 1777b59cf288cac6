"""Training the recipe `vqa` on easy-VQA: time, and accuracy on unseen images.

    python benchmarks/easy_vqa.py easy_vqa.zip [--out runs/easy-vqa] [--on test] [KEY=VALUE ...]

The 4,000 images are split by number: those divisible by 8 are the test part, those with remainder 1
the validation part, on which the recipe was tuned; the others are for training. So the parts share
no image. Prints the share of answers that are exactly right: generated; ranked among those of
answers.txt; and guessed from the question alone, as the most frequent answer to it in training.

An interrupted run continues with the same `--out`; its minutes are then those of the last part.
Training takes more than three minutes, so this is no part of `make bench`.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import tempfile
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import patchword
from patchword.train.loop import train
from patchword.train.malloc import keep_memory
from patchword.train.recipe import load

PARTS = ("test", "validation", "train")
KINDS = ("colour", "shape", "yes or no", "yes or no, negated")

Asked = tuple[str, str, str]  # image, question, answer


def split(archive: Path, folder: Path) -> dict[str, list[Asked]]:
    """Unpack easy-VQA into `folder`, with a table of each part; the parts' rows."""
    with zipfile.ZipFile(archive) as packed:
        asked = json.loads(packed.read("train/questions.json"))
        names = [name for name in packed.namelist() if name.endswith(".png")]
        packed.extractall(folder, [*names, "answers.txt"])
    parts: dict[str, list[Asked]] = {part: [] for part in PARTS}
    for question, answer, image in asked:
        row = f"train/images/{image}.png", question, answer
        parts[PARTS[min(image % 8, 2)]].append(row)
    for part, rows in parts.items():
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("image", "question", "answer"), *rows])
    return parts


def kind(question: str, answer: str) -> str:
    """What a question is about."""
    if answer in ("yes", "no"):
        return KINDS[3 if {"not", "no"} & set(question.split()) else 2]
    return KINDS["color" not in question]


def answered(
    model: patchword.Model, rows: list[Asked], folder: Path
) -> tuple[dict[Asked, str], dict[Asked, str]]:
    """The model's answers, written and ranked."""
    choices = (folder / "answers.txt").read_text(encoding="utf-8").split()
    about: dict[str, list[Asked]] = defaultdict(list)
    for row in rows:
        about[row[0]].append(row)
    written: dict[Asked, str] = {}
    ranked: dict[Asked, str] = {}
    for image, these in about.items():
        questions = [question for _, question, _ in these]
        for found, given in ((written, None), (ranked, choices)):
            answers = model.ask(folder / image, questions, given)
            found.update(zip(these, (answer.text for answer in answers), strict=True))
    return written, ranked


def guessed(rows: list[Asked], seen: list[Asked]) -> dict[Asked, str]:
    """The most frequent answer to each question among those seen."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _, question, answer in seen:
        counts[question][answer] += 1
    return {row: counts[row[1]].most_common(1)[0][0] for row in rows}


def table(rows: list[Asked], columns: dict[str, dict[Asked, str]]) -> None:
    """The share of right answers by kind of question."""
    print(f"{'':20}{'questions':>10}" + "".join(f"{name:>10}" for name in columns))
    groups = {name: [row for row in rows if kind(*row[1:]) == name] for name in KINDS}
    for name, some in {**groups, "all": rows}.items():
        right = [sum(found[row] == row[2] for row in some) for found in columns.values()]
        shares = "".join(f"{count / len(some):>10.2%}" for count in right)
        print(f"{name:20}{len(some):>10,}{shares}")


def minutes() -> float:
    """Processor time so far, with that of processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) / 60


def progress(step: int, metrics: dict[str, float]) -> None:
    if step % 100 == 0:
        print(f"step {step}: loss {metrics['loss']:.4f}, {minutes():.1f} minutes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("archive", type=Path, help="easy_vqa.zip")
    parser.add_argument("--out", type=Path, help="folder for data and run; a temporary one")
    parser.add_argument("--on", choices=PARTS, default="test", help="the part to measure")
    parser.add_argument("changes", nargs="*", help="of the recipe: KEY=VALUE")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        parts = split(options.archive, folder)
        plan = load(
            "vqa", [f"data.0.path={folder}/train.csv", f"out={folder}/run", *options.changes]
        )
        keep_memory()
        before = minutes()
        done = train(plan, progress)
        spent = minutes() - before
        steps = done.samples // plan.batch
        print(f"{steps} of {plan.last} steps in {spent:.1f} minutes of one core")
        if done.stopped:
            parser.exit(1, "stopped; with --out the same command goes on\n")
        rows = parts[options.on]
        written, ranked = answered(patchword.load(done.folder), rows, folder)
        blind = guessed(rows, parts["train"])
        images = len({image for image, _, _ in rows})
        print(f"{options.on}: {images} images")
        table(rows, {"written": written, "ranked": ranked, "blind": blind})


if __name__ == "__main__":
    main()
