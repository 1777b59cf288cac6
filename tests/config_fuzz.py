"""Fuzz the JSON files of checkpoints: change every value, one at a time.

Each damaged checkpoint must either load and give finite outputs, or be refused with one error of
patchword, within a second. The full run takes fifteen minutes on one core:

    python tests/config_fuzz.py [NAME ...]
"""

import copy
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import reference_blip
import reference_chinese_clip
import reference_mae
import reference_siglip
import reference_swin
import reference_vit
import tokenizers
import torch
import transformers
from references import PATCH, SIZE, open_clip_model, scramble, timm_vit

import patchword
from patchword.errors import PatchwordError

LIMIT = 1.0  # seconds of processor time to load and answer
ABORT = 10  # seconds after which a load that hangs is interrupted
REMOVED = object()  # instead of a value: remove the key or element
VALUES = (
    None, "", "x", [], {}, True, -1, 0, 3, 0.5, 1e9, 10**9, 2**63, 10**400, float("nan"),
    float("inf"), REMOVED,
)  # fmt: skip
FILES = (
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
SHOWN = 3  # examples to print of each fault
LONGEST = 3000  # characters of an error message: some name twenty tensors
MEMORY = 8 << 30  # bytes that the process may allocate
LONG, FIRST = 30, 3  # of a list or vocabulary longer than LONG only the FIRST entries are damaged
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def clip(folder: Path) -> None:
    """transformers' CLIPModel with a vocabulary of single bytes."""
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tower = {"intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {"vocab_size": len(words), "eos_token_id": len(words) - 1, "hidden_size": 32}
    vision = {"image_size": SIZE, "patch_size": PATCH, "hidden_size": 48}
    config = transformers.CLIPConfig(
        text_config=tower | text, vision_config=tower | vision, projection_dim=24
    )
    scramble(transformers.CLIPModel(config)).save_pretrained(folder)
    vocab = {word: i for i, word in enumerate(words)}
    transformers.CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    ).save_pretrained(folder)


def open_clip(folder: Path) -> None:
    """open_clip's CLIP without its tokenizer, which loads slowly."""
    tower = {"image_size": SIZE, "layers": 2, "width": 48, "patch_size": PATCH, "head_width": 16}
    open_clip_model(folder, tower)
    for file in (*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")):
        file.unlink()


def blip(kind: Any) -> Callable[[Path], object]:
    return lambda folder: reference_blip.hugging_face_blip(folder, kind)


WRITERS: dict[str, Callable[[Path], object]] = {
    "clip": clip,
    "chinese_clip": reference_chinese_clip.hugging_face,
    "siglip": reference_siglip.siglip,
    "naflex": reference_siglip.naflex,
    "blip captions": blip(reference_blip.CAPTIONS),
    "blip questions": blip(reference_blip.QUESTIONS),
    "blip retrieval": blip(reference_blip.RETRIEVAL),
    "vit": reference_vit.hf_vit,
    "dinov2": partial(reference_vit.hf_dinov2, registers=True),
    "deit": reference_vit.hf_deit,
    "open_clip": open_clip,
    "timm vit": timm_vit,
    "swin": reference_swin.hf_swin,
    "timm swin": reference_swin.timm_swin,
    "mae": reference_mae.hugging_face,
}


def write(name: str, folder: Path) -> Path:
    """Write the tiny checkpoint `name` of `WRITERS`; "own NAME" is the same in patchword's
    format."""
    if not name.startswith("own "):
        WRITERS[name](folder)
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        original = Path(scratch) / "model"
        WRITERS[name.removeprefix("own ")](original)
        return patchword.save(patchword.load(original), folder)


NAMES = [*WRITERS, *(f"own {name}" for name in WRITERS)]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in parsed JSON; in long lists only of the first few."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, part in pairs[: FIRST if len(pairs) > LONG else None]:
            yield from places(part, (*path, key))


def damaged(content: Any, path: tuple[Any, ...], value: object) -> Any:
    """A copy of parsed JSON with another value at one path, or without that path."""
    out = copy.deepcopy(content)
    parent = out
    for key in path[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return out


def outputs(folder: Path) -> list[Any]:
    """Load a model and compute all kinds of outputs that it has for one photo and one text."""
    model = patchword.load(folder)
    config, results = model.config, []
    if config.vision is not None:
        results.append(model.embed_images(PHOTO))
    if model.tokenizer is not None and (config.embed_dim or config.blip is None):
        results.append(model.embed_texts("a red dog"))
    if config.classes:
        results.append([score.probability for score in model.classify(PHOTO)[0]])
    if config.writes_captions:
        results.append([model.caption(PHOTO, beams=2, max_length=6)[0].log_probability])
    if config.answers_questions:
        results.append([model.ask(PHOTO, "what is it", max_length=4).log_probability])
    if config.matching:
        results.append(model.match(PHOTO, "a dog").probabilities)
    return [np.asarray(each, np.float64) for each in results]


def finite(results: list[Any]) -> bool:
    """True if all numbers are finite and no vector is zero."""
    return all(np.isfinite(each).all() and np.any(each) for each in results)


def interrupt(*_: object) -> None:
    raise TimeoutError(f"not done after {ABORT} s")


@dataclass
class Report:
    """Counts of the outcomes, and the damaged files with a bad outcome."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)  # by error and place in the code

    def add(self, damage: str, folder: Path, expected: list[Any]) -> None:
        """Load the checkpoint in the folder, and record the outcome.

        expected: the outputs of the undamaged checkpoint."""
        error_text = ""
        start = time.process_time()
        signal.alarm(ABORT)
        try:
            results = outputs(folder)
            same = len(results) == len(expected) and all(map(np.array_equal, results, expected))
            if not finite(results):
                outcome = "not finite"
            elif same:
                outcome = "same answer"
            else:
                outcome = "other answer"
        except PatchwordError as error:
            outcome = "refused" if len(str(error)) <= LONGEST else "refused at length"
        except BaseException as error:
            outcome = "hung" if isinstance(error, TimeoutError) else "raw"
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}"
            error_text = f"{type(error).__name__}: {str(error)[:120]} ({where})"
        finally:
            signal.alarm(0)
        seconds = time.process_time() - start
        if seconds > LIMIT and outcome != "hung":
            outcome = f"slow ({outcome})"
        self.counts[outcome] += 1
        if outcome not in ("refused", "same answer", "other answer"):
            examples = self.faults.setdefault(f"{outcome} {error_text}", [])
            examples.append(f"{damage} ({seconds:.1f} s)")


def fuzz(folder: Path, report: Report, most: int | None = None, seed: int = 0) -> None:
    """Damage every path of every file, or a random sample of `most` of them."""
    signal.signal(signal.SIGALRM, interrupt)
    expected = outputs(folder)
    assert finite(expected)
    texts = {name: (folder / name).read_text() for name in FILES if (folder / name).is_file()}
    contents = {name: json.loads(text) for name, text in texts.items()}
    cases = [
        (name, path, value)
        for name, content in contents.items()
        for path in places(content)
        for value in VALUES
    ]
    if most is not None:
        cases = random.Random(seed).sample(cases, most)
    for name, path, value in cases:
        (folder / name).write_text(json.dumps(damaged(contents[name], path, value)))
        shown = "removed" if value is REMOVED else repr(value)[:20]
        report.add(f"{folder.name}/{name} {'.'.join(map(str, path))} = {shown}", folder, expected)
        (folder / name).write_text(texts[name])


def main(names: list[str]) -> int:
    """Fuzz these checkpoints, or all. Returns the exit code."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    total = Report()
    for name in names or NAMES:
        report = Report()
        with tempfile.TemporaryDirectory() as folder:
            fuzz(write(name, Path(folder) / name), report)
        print(f"{name}: {dict(report.counts)}", flush=True)
        for fault, examples in report.faults.items():
            print(f"  {len(examples)} x {fault}", *examples[:SHOWN], sep="\n    ", flush=True)
        total.counts += report.counts
        total.faults |= report.faults
    print(f"all: {total.counts.total()}, {dict(total.counts)}")
    return int(bool(total.faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
