"""Image towers by every engine beside every peer, random weights of the real shapes.

    python benchmarks/engines.py [--models vit-b32 rn50 ...] [--dtypes float32 ...] [--rounds 5]
        [--minutes 60] [--device cuda] [--tiny] [--results docs/bench/rows.jsonl]

Images/s of preprocessed images, medians of rounds in turn, two before them left out: kernels are
compiled then. Ways of one number type are measured together, and what is stored is not measured
again. Peers: open_clip and transformers as they are, with torch's attention and their own, OpenVINO
and onnxruntime with graphs of transformers' network (of open_clip's for RN50), int8 of onnxruntime
with dynamic ranges; on a GPU, in bfloat16, both compiled too. Ours: each engine of `load`; int8
calibrated with scenes. Agreement: the least cosine to our float32 over 16 scenes. "--device cpu:0"
tries what "--device cuda" does.
"""

import argparse
import contextlib
import copy
import gc
import io
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip and transformers, which import torchvision
import numpy as np
import open_clip
import torch
import transformers
from PIL import Image
from rows import RESULTS, Row, Rows, processor, versions
from safetensors.torch import save_file
# isort: on

import patchword
from patchword.engines.libraries import core, unreporting
from patchword.scenes import scene

Run = Callable[[np.ndarray], np.ndarray]  # pixels (B, 3, H, W) -> features (B, D)
BIG = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
BIG |= {"num_attention_heads": 16, "patch_size": 14}
BIG_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2}


@dataclass(frozen=True)
class Kind:
    """An architecture: its name in open_clip, what transformers' config differs by, and how many
    images at a time."""

    open_clip: str
    vision: dict[str, int] | None = field(default_factory=dict)  # None: transformers has none
    text: dict[str, int] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 32)


KINDS = {
    "vit-b32": Kind("ViT-B-32-quickgelu"),
    "rn50": Kind("RN50-quickgelu", None),
    "vit-b16": Kind("ViT-B-16-quickgelu", {"patch_size": 16}),
    "siglip-b16": Kind("ViT-B-16-SigLIP", {"patch_size": 16}),
    "vit-l14": Kind("ViT-L-14-quickgelu", BIG, BIG_TEXT, (1, 8)),
}
# The ratio to each peer that is wanted, by number type; of a peer that is not named 1.
LIMITS = {("bfloat16", "OpenVINO"): 1.05, ("int8", "onnxruntime, dynamic"): 1.3}
EAGER = ("open_clip", "transformers", "transformers, own attention")


class Projected(torch.nn.Module):
    """transformers' image tower, as one function of pixels."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.head = model.vision_model, getattr(model, "visual_projection", None)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = self.tower(pixel_values=pixels).pooler_output
        return rows if self.head is None else self.head(rows)


def networks(kind: Kind, folder: Path, tiny: bool) -> dict[str, torch.nn.Module]:
    """The peers' towers, and into `folder` a checkpoint of one of them."""
    torch.manual_seed(0)
    settings = open_clip.get_model_config(kind.open_clip)
    if tiny and "layers" in settings["vision_cfg"] and kind.vision is not None:
        settings["vision_cfg"] |= {"layers": 2, "width": 64, "head_width": 32}
    siglip = "SigLIP" in kind.open_clip
    whole = open_clip.create_model(kind.open_clip) if siglip else open_clip.CLIP(**settings)
    found = {"open_clip": whole.visual.eval()}
    if kind.vision is None:
        save_file(whole.state_dict(), folder / "open_clip_model.safetensors")
        about = {"model_cfg": settings, "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(about))
        return found
    vision = kind.vision | (SMALL if tiny else {})
    text = kind.text | (SMALL if tiny else {})
    width = kind.text.get("hidden_size", 512)
    for name, attention in (("transformers", "sdpa"), ("transformers, own attention", "eager")):
        if siglip:
            config = transformers.SiglipConfig(vision_config=vision, text_config=text)
            model = transformers.SiglipModel._from_config(config, attn_implementation=attention)
        else:
            config = transformers.CLIPConfig(
                vision_config=vision, text_config=text, projection_dim=width
            )
            model = transformers.CLIPModel._from_config(config, attn_implementation=attention)
        if attention == "sdpa":
            model.save_pretrained(folder)
        found[name] = Projected(model.eval())
    return found


def by_torch(network: torch.nn.Module, dtype: str, device: str, compiled: bool = False) -> Run:
    kind = getattr(torch, dtype)
    placed = copy.deepcopy(network).to(device, kind)
    run = torch.compile(placed) if compiled else placed

    def call(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return run(torch.from_numpy(pixels).to(device, kind)).float().cpu().numpy()

    return call


def by_openvino(network: torch.nn.Module, pixels: np.ndarray, dtype: str) -> Run:
    library = unreporting("openvino", "the benchmark")
    sides = [-1, *pixels.shape[1:]]
    model = library.convert_model(network, example_input=torch.from_numpy(pixels), input=sides)
    hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda batch: compiled(batch)[0]


def by_onnx(network: torch.nn.Module, pixels: np.ndarray, folder: Path, int8: bool) -> Run:
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    path = folder / "peer.onnx"
    if not path.exists():
        axes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
        example = (torch.from_numpy(pixels),)
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(network, example, path, dynamo=True, dynamic_shapes=axes)
    if int8:
        rounded = folder / "peer-int8.onnx"
        quantize_dynamic(path, rounded, op_types_to_quantize=["MatMul", "Gemm"])
        path = rounded
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def peers(found: dict[str, Any], dtype: str, pixels: np.ndarray, place: Path, device: str) -> dict:
    """Each peer's way in that type, by its name."""
    graph = found.get("transformers", found["open_clip"])
    if dtype == "int8":
        return {"onnxruntime, dynamic": lambda: by_onnx(graph, pixels, place, True)}
    ways: dict[str, Callable[[], Run]] = {
        name: lambda network=network: by_torch(network, dtype, device)
        for name, network in found.items()
    }
    if device != "cpu":
        for name in [name for name in found if name != "transformers, own attention"]:
            ways[f"{name}, compiled"] = lambda n=found[name]: by_torch(n, dtype, device, True)
        return ways
    ways["OpenVINO"] = lambda: by_openvino(graph, pixels, dtype)
    if dtype == "float32":
        ways["onnxruntime"] = lambda: by_onnx(graph, pixels, place, False)
    return ways


def ours(checkpoint: Path, dtype: str, photos: Path, device: str) -> dict[str, Callable[[], Any]]:
    """Each of our engines in that type, by its name."""
    names = {"float32": ("torch", "compile", "openvino", "onnx"), "int8": ("openvino", "onnx")}
    engines = names.get(dtype, ("torch", "compile", "openvino"))
    if device != "cpu":
        engines = ("torch", "compile")
    more = {"calibrate": photos} if dtype == "int8" else {}
    return {
        f"patchword {engine}": lambda engine=engine: patchword.load(
            checkpoint, engine=engine, dtype=dtype, device=device, **more
        )
        for engine in engines
    }


def rates(ways: dict[str, Run], pixels: np.ndarray, rounds: int) -> dict[str, float]:
    """Images/s of each way: medians of rounds in turn, each of a fifth of a second or more."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, run in ways.items():
            start, calls = time.perf_counter(), 0
            while not calls or time.perf_counter() - start < 0.2:
                run(pixels)
                calls += 1
            if turn > 1:
                times[name].append((time.perf_counter() - start) / calls)
    return {name: len(pixels) / statistics.median(each) for name, each in times.items()}


def ready(ways: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Those that can be made; what cannot is said. Peers raise errors of many kinds, of torch, of
    ONNX and of their own: one that cannot be made must not cost the rows of the others."""
    made = {}
    for name, make in ways.items():
        try:
            made[name] = make()
        except Exception as error:  # of any library, see above
            reason = str(error).partition("\n")[0]
            print(f"{name} is left out: {type(error).__name__}: {reason}")
    return made


def least_cosine(exact: np.ndarray, rows: np.ndarray) -> float:
    a, b = (each.astype(np.float64) for each in (exact, rows))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


def compare(name: str, dtype: str, given: argparse.Namespace, place: Path, stored: Rows) -> None:
    """The rows of one architecture in one number type."""
    kind, device = KINDS[name], given.device
    checkpoint = place / "checkpoint"
    checkpoint.mkdir()
    found = networks(kind, checkpoint, given.tiny)
    plain = patchword.load(checkpoint, device=device)
    opened = [plain.open(scene(0, number).image)[0] for number in range(16)]
    exact = plain.engine.encode_image(opened)
    del plain
    chip = processor(device)
    theirs = ready(peers(found, dtype, np.stack(opened[:2]), place, device))
    del found
    models = ready(ours(checkpoint, dtype, given.photos, device))
    near = {n: least_cosine(exact, m.engine.encode_image(opened)) for n, m in models.items()}
    own: dict[str, Run] = {n: m.engine.encode_image for n, m in models.items()}
    for batch in given.batches or kind.batches:
        pixels = np.stack([opened[i % 16] for i in range(batch)])
        speed = rates(theirs | own, pixels, given.rounds)
        print(f"{name}, {dtype}, batch {batch}, images/s:")
        print("  " + ", ".join(f"{way} {rate:.4g}" for way, rate in speed.items()))
        what = f"{name}, {dtype}, batch {batch}"
        best = max(own, key=lambda way: speed[way])
        pairs = [(peer, best, LIMITS.get((dtype, peer), given.limit)) for peer in theirs]
        if "patchword torch" in own:
            eager = max((way for way in theirs if way in EAGER), key=lambda way: speed[way])
            pairs.append((eager, "patchword torch", 1.0))
        for peer, way, limit in dict.fromkeys(pairs):
            cosine = f"cosine to float32 at least {near[way]:.5f}"
            numbers = (peer, speed[peer], way, speed[way], limit, cosine, batch)
            stored.add(Row(what, "images/s", *numbers, versions(), chip))


def main(given: argparse.Namespace) -> None:
    start, stored = time.perf_counter(), Rows(given.results)
    usual = ("float32", "bfloat16", "int8") if given.device == "cpu" else ("bfloat16",)
    with tempfile.TemporaryDirectory() as folder:
        given.photos = Path(folder, "photos")
        given.photos.mkdir()
        os.environ["PATCHWORD_CACHE"] = folder  # no graphs of random weights are kept
        for number in range(32):
            Image.fromarray(scene(1, number).image).save(given.photos / f"{number}.png")
        for name in given.models:
            for dtype in given.dtypes or usual:
                batches = given.batches or KINDS[name].batches
                whats = [f"{name}, {dtype}, batch {batch}" for batch in batches]
                if all(stored.done(what, processor(given.device)) for what in whats):
                    continue
                if time.perf_counter() - start > given.minutes * 60:
                    print(f"{name}, {dtype}: {given.minutes} minutes are over; run it again")
                    return
                place = Path(folder, f"{name}-{dtype}")
                place.mkdir()
                compare(name, dtype, given, place, stored)
                torch._dynamo.reset()
                gc.collect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--dtypes", nargs="*", choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--batches", nargs="*", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=1.0, help="of peers without their own")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true", help="small networks: a trial")
    warnings.simplefilter("ignore")
    main(parser.parse_args())
