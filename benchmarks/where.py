"""Heatmaps: accuracy, and cost in encodings of an image.

    python benchmarks/where.py [--model demo] [--scenes 60] [--methods ...] [--photo]

For each method, and for `auto`, on unseen scenes:

- The pointing game (Zhang et al. 2018): how often the centre of the best patch lies in the mask of
  the named object, and how often in it or within the paper's tolerance, 15 of 224 pixels.
- The mean intersection over union of `segment` for the names of a scene's objects, for methods with
  cosines.
- The time of a heatmap of one text, and of 20, relative to one encoding of the image at the size
  that the method sees (a dense head has its own size); beside it the lower bound of the formula:
  its multiplications in the network relative to those of one encoding. The embedded models' check
  whether they know such photos, one more encoding, is left out.

With --photo: time and memory of 20 maps of a photo of 24 megapixels, and of windowed maps of one of
8,000 x 8,000 pixels, each in a process of its own.

The scenes' seed was not used in training.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from embedded_model import SEED, around
from regions import overlap
from rows import Rows, option_parser

import patchword
from patchword.errors import UnsupportedError
from patchword.images.preprocess import Preprocess, at_size
from patchword.models import outline
from patchword.scenes import scene
from patchword.where.auto import usual
from patchword.where.cost import least
from patchword.where.dense import EDITS
from patchword.where.heatmap import METHODS, resolve
from patchword.where.photo_maps import HEAD

ONE_TEXT_LIMIT = 1.25  # encodings for the map of one text
TWENTY_TEXTS_LIMIT = 1.3  # cost of 20 texts relative to that of one
AUTO = "auto"
TWENTY = [f"a photo of thing {i}" for i in range(20)]


def pointing(model: patchword.Model, method: str, kind: str, count: int) -> tuple[float, float]:
    """Shares of objects in whose mask the best patch lies, and in or near whose mask it lies."""
    hits = []
    for seen in (scene(SEED, i, kind=kind) for i in range(count)):
        if not seen.objects:
            continue
        peaks = model.heatmap(seen.image, [thing.name for thing in seen.objects], method).peaks()
        for thing, (_, x, y) in zip(seen.objects, peaks, strict=True):
            hits.append((thing.mask[y, x], around(thing.mask)[y, x]))
    on, near = np.mean(hits, axis=0)
    return float(on), float(near)


def segment_overlap(model: patchword.Model, method: str, kind: str, count: int) -> float | None:
    """The mean intersection over union of objects' pixels; None for a method without cosines."""
    if resolve(model, method) not in (*EDITS, HEAD):
        return None
    shares = []
    for seen in (scene(SEED, i, kind=kind) for i in range(count)):
        if not seen.objects:
            continue
        names = [thing.name for thing in seen.objects]
        labels = model.segment(seen.image, names, method=method, templates="{}").map
        shares += [overlap(labels == n, thing.mask) for n, thing in enumerate(seen.objects, 1)]
    return float(np.mean(shares))


def costs(model: patchword.Model, method: str, image: np.ndarray, rounds: int) -> list[float]:
    """The cost of the map of one text, and of 20, without embedding the texts, relative to one
    encoding of the image at the method's size: medians of rounds in which all take turns."""
    model = replace(model, scope=None)
    seen = at_side(model, method)
    jobs: list[Callable[[], object]] = [lambda: seen.embed_images([image])]
    for texts in (TWENTY[:1], TWENTY):
        jobs.append(lambda texts=texts: model.heatmap(image, texts, method))
        jobs.append(lambda texts=texts: model.embed_texts(texts))
    times = np.array([[cpu_seconds(job) for job in jobs] for _ in range(rounds + 1)])[1:]
    encoding, map_1, texts_1, map_20, texts_20 = np.median(times, axis=0)
    return [(map_1 - texts_1) / encoding, (map_20 - texts_20) / encoding]


def at_side(model: patchword.Model, method: str) -> patchword.Model:
    """The model with the image size of the method."""
    head = model.config.dense_head
    if head is None or resolve(model, method) != HEAD:
        return model
    return replace(model, preprocess=Preprocess(at_size(model.preprocess.config, head.size)))


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of a call, on which other programs have little influence."""
    start = time.process_time()
    work()
    return time.process_time() - start


def large(name: str, height: int, width: int, options: dict[str, int]) -> None:
    """Print time and memory of maps of a large photo."""
    model = patchword.load(name)
    photo = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    texts = TWENTY[:2] if options else TWENTY
    model.heatmap(photo[:300, :300], texts, "value").picture()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model.heatmap(photo, texts, "value", **options).picture()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{name}, {width} x {height} px, {len(texts)} texts, {options}: {seconds:.2f} s, "
        f"{peak / 2**20:.2f} GiB at most, {max(peak - before, 0) / 2**20:.2f} beyond the photo"
    )


def main() -> None:
    parser = option_parser(__doc__, rounds=15)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--methods", nargs="+", choices=(AUTO, *METHODS))
    parser.add_argument("--photo", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.photo:
        for height, width, options in (
            (4000, 6000, {}),
            (8000, 8000, {"window": 96, "stride": 96}),
        ):
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=large, args=(arguments.model, height, width, options))
            process.start()
            process.join()
        return
    rows = Rows(arguments.results)
    model = patchword.load(arguments.model)
    image = scene(SEED, 0, kind="shapes").image
    network = outline(model.config).eval().requires_grad_(False)
    print(f"auto is {usual(model)[0]}, of patches with each other {usual(model, like=True)[0]}")
    print("method            shapes on (near), IoU      wafers on (near), IoU   ", end="")
    print("cost of 1, of 20, at least")
    for method in arguments.methods or (AUTO, *METHODS):
        try:
            columns = []
            for kind in ("shapes", "wafer"):
                on, near = pointing(model, method, kind, arguments.scenes)
                share = segment_overlap(model, method, kind, arguments.scenes)
                shown = "     -" if share is None else f"{share:6.2f}"
                columns.append(f"{on:8.1%} ({near:5.1%}) {shown}")
            one, twenty = costs(model, method, image, arguments.rounds)
            bound = least(network, model.config, resolve(model, method))
        except UnsupportedError as error:
            print(f"{method:16} {error}")
            continue
        counted = "     -" if bound is None else f"{bound:6.2f}"
        print(f"{method:16} {'   '.join(columns)}   {one:6.2f} {twenty:6.2f} {counted}", flush=True)
        if method != AUTO and resolve(model, method) in (*EDITS, HEAD):
            what = f"map of {arguments.model} by {method}"
            agreement = f"its formula costs at least {bound:.2f}" if bound else ""
            ours, limit = ("patchword", one), ("limit", ONE_TEXT_LIMIT)
            rows.add(f"{what}, one text", "encodings", limit, ours, limit=1.0, agreement=agreement)
            ours, peer = ("patchword", twenty), ("patchword, one text", one)
            rows.add(f"{what}, 20 texts", "encodings", peer, ours, limit=TWENTY_TEXTS_LIMIT)


if __name__ == "__main__":
    main()
