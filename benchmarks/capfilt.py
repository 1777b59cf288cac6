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
from patchword.scenes import Scene, apart, holds, scene
from patchword.train import recipe
from patchword.train.loop import train

SEED, UNSEEN = 41, 42  # of the scenes that are filtered, and of those that are asked about
SIZE = 64  # pixels
COLOURS = ("red", "yellow", "blue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--model", default="runs/blip/model", help="what `patchword train blip` left"
    )
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--wrong", type=float, default=0.3, help="share of captions")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--into", type=Path, help="a folder to keep, and to go on in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        into = options.into or Path(folder)
        run(into, options.model, options.scenes, options.wrong, options.steps)


def run(into: Path, model: str, count: int, wrong: float, steps: int) -> None:
    scenes = [drawn(SEED, number) for number in range(count)]
    captions = mistaken(scenes, wrong)
    write(into / "web", scenes, captions)
    command = [sys.executable, "-m", "patchword", "capfilt", str(into / "web")]
    subprocess.run([*command, str(into / "filtered"), "--captioner", model], check=True)
    told = [json.loads(line) for line in (into / "filtered" / "provenance.jsonl").open()]
    judged(scenes, told)
    chosen = [row for row in told if row["source"] == "web" and row["kept"]]
    web = {Path(row["image"]).name: row["text"] for row in chosen}
    write(into / "kept", scenes, [web.get(name(number), "") for number in range(count)])
    write(into / "unseen", *unseen())
    print(f"\n{'CLIP trained on':34} image to text, recall@1 and @5, text to image")
    for title, folder in (
        ("the captions as they came", "web"),
        ("those that the filter kept", "kept"),
        ("those, and those that were written", "filtered"),
    ):
        print(f"{title:34} {learned(into, folder, steps)}", flush=True)


def drawn(seed: int, number: int) -> Scene:
    return scene(seed, number, SIZE, "shapes", palette=COLOURS)


def name(number: int) -> str:
    return f"{number:05}.png"


def mistaken(scenes: list[Scene], share: float) -> list[str]:
    """The scenes' captions, a share of them those of another scene that are not true."""
    rng = np.random.default_rng(SEED)
    captions = [each.caption for each in scenes]
    for number in rng.permutation(len(scenes))[: round(share * len(scenes))].tolist():
        others = (scenes[other] for other in rng.permutation(len(scenes)).tolist())
        facts = scenes[number].facts
        captions[number] = next(o.caption for o in others if not holds(o.meaning, facts))
    return captions


def write(folder: Path, scenes: list[Scene], captions: list[str]) -> None:
    """A folder of images and captions; those without a caption are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (each, caption) in enumerate(zip(scenes, captions, strict=True)):
        if caption:
            Image.fromarray(each.image).save(folder / name(number))
            rows.append(json.dumps({"file_name": name(number), "caption": caption}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))


def judged(scenes: list[Scene], told: list[dict[str, object]]) -> None:
    """Print how right filter and captioner are."""
    rows = [(str(row["source"]), bool(row["kept"]), true(scenes, row)) for row in told]
    for source in ("web", "synthetic"):
        kept = np.array([k for s, k, _ in rows if s == source])
        right = np.array([r for s, _, r in rows if s == source])
        print(
            f"{source:10} {len(right)} captions, {right.mean():.1%} of them right; kept "
            f"{kept.mean():.1%}, of which {right[kept].mean():.1%} right"
        )
        dropped, wrong = ~kept, ~right
        both = (dropped & wrong).sum()
        print(
            f"{'':10} the filter as a finder of wrong ones: precision "
            f"{both / max(dropped.sum(), 1):.1%}, recall {both / max(wrong.sum(), 1):.1%}"
        )


def true(scenes: list[Scene], row: dict[str, object]) -> bool:
    """Whether a caption is true of its scene, by its words."""
    said = stated(str(row["text"]))
    facts = scenes[int(Path(str(row["image"])).stem)].facts
    counted = said.count is None or said.count == facts["count"]
    return bool(said.facts) and not said.unread and counted and holds(said.meaning, facts)


def unseen(count: int = 300) -> tuple[list[Scene], list[str]]:
    """Scenes none of whose captions is true of another of them."""
    found = list(
        itertools.islice(apart(drawn(UNSEEN, number) for number in itertools.count()), count)
    )
    return found, [each.caption for each in found]


def learned(into: Path, folder: str, steps: int) -> str:
    """What the recipe `clip` learns from a folder."""
    changes = [
        f"out={into / 'runs' / folder}",
        f"steps={steps}",
        'data=[{kind="folder", path="' + str(into / folder) + '"}]',
    ]
    done = train(recipe.load("clip", changes))
    (answer,) = Evaluation(patchword.load(str(done.folder))).on(into / "unseen")
    assert isinstance(answer, Retrieved)
    ways = (answer.text_recall, answer.image_recall)
    return ", ".join(f"{way[1]:.1%} {way[5]:.1%}" for way in ways)


if __name__ == "__main__":
    main()
