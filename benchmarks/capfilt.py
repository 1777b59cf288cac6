"""CapFilt from end to end on generated scenes: accuracy of filter and captioner, and the effect on
training.

    python benchmarks/capfilt.py [--model runs/blip/model] [--scenes 3000] [--wrong 0.3]

Writes a folder of scenes, some with the caption of another scene that is false for them, and runs
`patchword capfilt` on it with one model as captioner and filter. Prints how well the filter
separates wrong captions from right ones, and how many generated captions are true. Then trains the
recipe `clip` from random weights, with the same number of steps each time, on the original folder,
on the captions that the filter kept, and on the output of capfilt. Each model is evaluated on
unseen scenes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scene_captions import stated

import patchword
from patchword.evaluate import Evaluation
from patchword.evaluate.run import Retrieved
from patchword.scenes import Scene, distinguishable, holds, scene
from patchword.train import recipe
from patchword.train.loop import train

SEED, UNSEEN_SEED = 41, 42  # of the filtered scenes, and of those for evaluation
SIZE = 64  # pixels
COLOURS = ("red", "yellow", "blue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--model", default="runs/blip/model", help="a BLIP of `patchword train blip`"
    )
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--wrong", type=float, default=0.3, help="share of wrong captions")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--into", type=Path, help="folder to keep, in which a later run continues")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        into = options.into or Path(folder)
        run(into, options.model, options.scenes, options.wrong, options.steps)


def run(into: Path, model: str, count: int, wrong: float, steps: int) -> None:
    scenes = [small_scene(SEED, number) for number in range(count)]
    captions = with_wrong_captions(scenes, wrong)
    write(into / "web", scenes, captions)
    command = [sys.executable, "-m", "patchword", "capfilt", str(into / "web")]
    subprocess.run([*command, str(into / "filtered"), "--captioner", model], check=True)
    lines = (into / "filtered" / "provenance.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    print_accuracy(scenes, rows)
    kept = {
        Path(row["image"]).name: row["text"]
        for row in rows
        if row["source"] == "web" and row["kept"]
    }
    write(into / "kept", scenes, [kept.get(name(number), "") for number in range(count)])
    write(into / "unseen", *unseen_scenes())
    print(f"\n{'CLIP trained on':34} image to text, recall@1 and @5, text to image")
    for title, folder in (
        ("all captions", "web"),
        ("captions that the filter kept", "kept"),
        ("these and generated captions", "filtered"),
    ):
        print(f"{title:34} {train_and_evaluate(into, folder, steps)}", flush=True)


def small_scene(seed: int, number: int) -> Scene:
    return scene(seed, number, SIZE, "shapes", palette=COLOURS)


def name(number: int) -> str:
    return f"{number:05}.png"


def with_wrong_captions(scenes: list[Scene], share: float) -> list[str]:
    """The scenes' captions, a share of them replaced by false ones of other scenes."""
    rng = np.random.default_rng(SEED)
    captions = [each.caption for each in scenes]
    for number in rng.permutation(len(scenes))[: round(share * len(scenes))].tolist():
        others = (scenes[other] for other in rng.permutation(len(scenes)).tolist())
        facts = scenes[number].facts
        captions[number] = next(
            other.caption for other in others if not holds(other.meaning, facts)
        )
    return captions


def write(folder: Path, scenes: list[Scene], captions: list[str]) -> None:
    """Write a folder of images and captions, without scenes whose caption is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (each, caption) in enumerate(zip(scenes, captions, strict=True)):
        if caption:
            Image.fromarray(each.image).save(folder / name(number))
            rows.append(json.dumps({"file_name": name(number), "caption": caption}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))


def print_accuracy(scenes: list[Scene], rows: list[dict[str, object]]) -> None:
    """Print the accuracy of filter and captioner. rows: of provenance.jsonl."""
    for source in ("web", "synthetic"):
        of_source = [row for row in rows if row["source"] == source]
        kept = np.array([bool(row["kept"]) for row in of_source])
        right = np.array([is_true(scenes, row) for row in of_source])
        print(
            f"{source:10} {len(right)} captions, {right.mean():.1%} of them right; kept "
            f"{kept.mean():.1%}, of which {right[kept].mean():.1%} right"
        )
        dropped, wrong = ~kept, ~right
        wrong_dropped = (dropped & wrong).sum()
        precision = wrong_dropped / max(dropped.sum(), 1)
        recall = wrong_dropped / max(wrong.sum(), 1)
        print(
            f"{'':10} the filter as a detector of wrong captions: precision {precision:.1%}, "
            f"recall {recall:.1%}"
        )


def is_true(scenes: list[Scene], row: dict[str, object]) -> bool:
    """Whether all that a caption states is true of its scene."""
    caption = stated(str(row["text"]))
    facts = scenes[int(Path(str(row["image"])).stem)].facts
    if caption.unread or not caption.facts:
        return False
    if caption.count not in (None, facts["count"]):
        return False
    return holds(caption.meaning, facts)


def unseen_scenes(count: int = 300) -> tuple[list[Scene], list[str]]:
    """Scenes and their captions, each of which is false for all other scenes."""
    candidates = (small_scene(UNSEEN_SEED, number) for number in itertools.count())
    scenes = list(itertools.islice(distinguishable(candidates), count))
    return scenes, [each.caption for each in scenes]


def train_and_evaluate(into: Path, folder: str, steps: int) -> str:
    """Recall of the recipe `clip`, trained on a folder, as text."""
    changes = [
        f"out={into / 'runs' / folder}",
        f"steps={steps}",
        'data=[{kind="folder", path="' + str(into / folder) + '"}]',
    ]
    result = train(recipe.load("clip", changes))
    (retrieved,) = Evaluation(patchword.load(str(result.folder))).on(into / "unseen")
    assert isinstance(retrieved, Retrieved)
    recalls = (retrieved.text_recall, retrieved.image_recall)
    return ", ".join(f"{recall[1]:.1%} {recall[5]:.1%}" for recall in recalls)


if __name__ == "__main__":
    main()
