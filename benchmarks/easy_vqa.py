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

Row = tuple[str, str, str]  # image, question, answer


def split(archive: Path, folder: Path) -> dict[str, list[Row]]:
    """Unpack easy-VQA into `folder`, and write a table of each part. Returns the parts' rows."""
    with zipfile.ZipFile(archive) as packed:
        questions = json.loads(packed.read("train/questions.json"))
        names = [name for name in packed.namelist() if name.endswith(".png")]
        packed.extractall(folder, [*names, "answers.txt"])
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for question, answer, image in questions:
        row = f"train/images/{image}.png", question, answer
        parts[PARTS[min(image % 8, 2)]].append(row)
    for part, rows in parts.items():
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("image", "question", "answer"), *rows])
    return parts


def kind(question: str, answer: str) -> str:
    """The kind of a question, one of KINDS."""
    if answer in ("yes", "no"):
        negated = {"not", "no"} & set(question.split())
        return "yes or no, negated" if negated else "yes or no"
    return "colour" if "color" in question else "shape"


def ask(
    model: patchword.Model, rows: list[Row], folder: Path
) -> tuple[dict[Row, str], dict[Row, str]]:
    """The model's answers: generated, and ranked among those of answers.txt."""
    choices = (folder / "answers.txt").read_text(encoding="utf-8").split()
    by_image: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_image[row[0]].append(row)
    written: dict[Row, str] = {}
    ranked: dict[Row, str] = {}
    for image, image_rows in by_image.items():
        questions = [question for _, question, _ in image_rows]
        for results, allowed in ((written, None), (ranked, choices)):
            answers = model.ask(folder / image, questions, allowed)
            results.update(zip(image_rows, (answer.text for answer in answers), strict=True))
    return written, ranked


def guess(rows: list[Row], training: list[Row]) -> dict[Row, str]:
    """The most frequent answer to each question in training."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _, question, answer in training:
        counts[question][answer] += 1
    return {row: counts[row[1]].most_common(1)[0][0] for row in rows}


def print_table(rows: list[Row], columns: dict[str, dict[Row, str]]) -> None:
    """Print the share of right answers by kind of question."""
    print(f"{'':20}{'questions':>10}" + "".join(f"{name:>10}" for name in columns))
    groups = {name: [row for row in rows if kind(*row[1:]) == name] for name in KINDS}
    for name, group in {**groups, "all": rows}.items():
        right = [sum(answers[row] == row[2] for row in group) for answers in columns.values()]
        shares = "".join(f"{count / len(group):>10.2%}" for count in right)
        print(f"{name:20}{len(group):>10,}{shares}")


def minutes() -> float:
    """CPU time so far in minutes, with that of child processes that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) / 60


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
        result = train(plan, progress)
        spent = minutes() - before
        steps = result.samples // plan.batch
        print(f"{steps} of {plan.last} steps in {spent:.1f} minutes of one core")
        if result.stopped:
            parser.exit(1, "stopped; with --out the same command continues\n")
        rows = parts[options.on]
        written, ranked = ask(patchword.load(result.folder), rows, folder)
        blind = guess(rows, parts["train"])
        images = len({image for image, _, _ in rows})
        print(f"{options.on}: {images} images")
        print_table(rows, {"written": written, "ranked": ranked, "blind": blind})


if __name__ == "__main__":
    main()
