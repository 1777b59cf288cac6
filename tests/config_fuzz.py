"""Checkpoints whose JSON files are damaged at every place, one at a time: each loads and answers
with finite numbers, or is refused with one error of patchword's own, within a second.

By hand, all of it (some fifteen minutes on one core): python tests/config_fuzz.py [NAME ...]
"""

import copy
import json
import random
import resource
import shutil
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
GONE = object()  # the place is removed
VALUES = (
    None, "", "x", [], {}, True, -1, 0, 3, 0.5, 1e9, 10**9, 2**63, 10**400, float("nan"),
    float("inf"), GONE,
)  # fmt: skip
FILES = (
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
SHOWN = 3  # places of each fault
LONGEST = 3000  # letters of an error: some name twenty tensors that do not fit
MEMORY = 8 << 30  # bytes: whoever asks for more is refused by the system, and not killed
LONG, LISTED = 30, 3  # of a list or vocabulary longer than LONG, LISTED places are damaged
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
    """open_clip's CLIP, without its tokenizer, which takes long to load."""
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
    """The tiny checkpoint `name` of `WRITERS`, or "own NAME", the same in patchword's format."""
    if not name.startswith("own "):
        WRITERS[name](folder)
        return folder
    with tempfile.TemporaryDirectory() as there:
        WRITERS[name.removeprefix("own ")](Path(there) / "model")
        return patchword.save(patchword.load(Path(there) / "model"), folder)


NAMES = [*WRITERS, *(f"own {name}" for name in WRITERS)]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a parsed JSON file; of long lists the first few alone."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, part in pairs[: LISTED if len(pairs) > LONG else None]:
            yield from places(part, (*path, key))


def damaged(whole: Any, path: tuple[Any, ...], value: object) -> Any:
    """A copy of parsed JSON with another value at one place, or without the place."""
    out = copy.deepcopy(whole)
    parent = out
    for key in path[:-1]:
        parent = parent[key]
    if value is GONE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return out


def answers(folder: Path) -> list[Any]:
    """What a model says to one photo and one text, in every way that it can."""
    model = patchword.load(folder)
    config, found = model.config, []
    if config.vision is not None:
        found.append(model.embed_images(PHOTO))
    if model.tokenizer is not None and (config.embed_dim or config.blip is None):
        found.append(model.embed_texts("a red dog"))
    if config.classes:
        found.append([score.probability for score in model.classify(PHOTO)[0]])
    if config.writes_captions:
        found.append([model.caption(PHOTO, beams=2, max_length=6)[0].log_probability])
    if config.answers_questions:
        found.append([model.ask(PHOTO, "what is it", max_length=4).log_probability])
    if config.matching:
        found.append(model.match(PHOTO, "a dog").probabilities)
    return [np.asarray(each, np.float64) for each in found]


def finite(found: list[Any]) -> bool:
    """True if all numbers are finite and no vector is zero."""
    return all(np.isfinite(each).all() and np.any(each) for each in found)


def interrupt(*_: object) -> None:
    raise TimeoutError(f"not done after {ABORT} s")


@dataclass
class Report:
    """How many of the damaged files ended how, and each that ended badly."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)  # by what was wrong, and where

    def add(self, what: str, folder: Path, usual: list[Any]) -> None:
        """Load what is in the folder and note what came of it."""
        wrong = ""
        start = time.process_time()
        signal.alarm(ABORT)
        try:
            found = answers(folder)
            alike = len(found) == len(usual) and all(map(np.array_equal, found, usual))
            end = "not finite" if not finite(found) else "same answer" if alike else "other answer"
        except PatchwordError as error:
            end = "refused" if len(str(error)) <= LONGEST else "refused at length"
        except BaseException as error:
            end = "hung" if isinstance(error, TimeoutError) else "raw"
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}"
            wrong = f"{type(error).__name__}: {str(error)[:120]} ({where})"
        finally:
            signal.alarm(0)
        took = time.process_time() - start
        if took > LIMIT and end != "hung":
            end = f"slow ({end})"
        self.counts[end] += 1
        if end not in ("refused", "same answer", "other answer"):
            self.faults.setdefault(f"{end} {wrong}", []).append(f"{what} ({took:.1f} s)")


def fuzz(folder: Path, report: Report, most: int | None = None, seed: int = 0) -> None:
    """Damage every place of every file, or `most` of them, drawn with `seed`."""
    signal.signal(signal.SIGALRM, interrupt)
    usual = answers(folder)
    assert finite(usual)
    texts = {name: (folder / name).read_text() for name in FILES if (folder / name).is_file()}
    whole = {name: json.loads(text) for name, text in texts.items()}
    cases = [(name, path, v) for name in whole for path in places(whole[name]) for v in VALUES]
    if most is not None:
        cases = random.Random(seed).sample(cases, most)
    for name, path, value in cases:
        (folder / name).write_text(json.dumps(damaged(whole[name], path, value)))
        shown = "removed" if value is GONE else repr(value)[:20]
        report.add(f"{folder.name}/{name} {'.'.join(map(str, path))} = {shown}", folder, usual)
        (folder / name).write_text(texts[name])


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    whole = Report()
    for name in names or NAMES:
        report = Report()
        there = Path(tempfile.mkdtemp())
        try:
            fuzz(write(name, there / name), report)
        finally:
            shutil.rmtree(there)
        print(f"{name}: {dict(report.counts)}", flush=True)
        for wrong, found in report.faults.items():
            print(f"  {len(found)} x {wrong}", *found[:SHOWN], sep="\n    ", flush=True)
        whole.counts += report.counts
        whole.faults |= report.faults
    print(f"all: {whole.counts.total()}, {dict(whole.counts)}")
    return int(bool(whole.faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
