"""Image towers on the CPU: images a second of every engine, beside its peers.

    python benchmarks/engines.py [--models vit-b32 rn50 ...] [--dtypes float32 ...]
        [--batches 1 32 ...] [--sides 224 448 ...] [--tiny]

Random weights of the real shapes, preprocessed images, medians of rounds in turn after two that
compile kernels. Engines of one number type are measured together; stored measurements are not
repeated. --sides: one image at a time, of these sizes in pixels, instead of batches.

Peers: open_clip and transformers, with torch's attention and their own; OpenVINO and onnxruntime
with graphs of transformers' network (of open_clip's for RN50); int8 of onnxruntime with dynamic
ranges. Ours: each engine of `load`; int8 is calibrated with scenes. Agreement: the smallest cosine
to our float32 over 16 scenes. For GPUs see gpu.py.
"""

import argparse
import contextlib
import copy
import gc
import io
import itertools
import json
import os
import sys
import tempfile
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
from rows import Rows, option_parser, median_seconds, rates
from safetensors.torch import save_file
# isort: on

import patchword
from patchword.engines.libraries import core, import_without_telemetry
from patchword.scenes import scene

Run = Callable[[np.ndarray], np.ndarray]  # pixels (B, 3, H, W) -> features (B, D)
BIG = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
BIG |= {"num_attention_heads": 16, "patch_size": 14}
BIG_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2}


@dataclass(frozen=True)
class Kind:
    """An architecture: its name in open_clip, changes to transformers' default config, and batch
    sizes."""

    open_clip: str
    vision: dict[str, int] | None = field(default_factory=dict)  # None: not in transformers
    text: dict[str, int] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 32)


KINDS = {
    "vit-b32": Kind("ViT-B-32-quickgelu"),
    "rn50": Kind("RN50-quickgelu", None),
    "vit-b16": Kind("ViT-B-16-quickgelu", {"patch_size": 16}),
    "siglip-b16": Kind("ViT-B-16-SigLIP", {"patch_size": 16}),
    "vit-l14": Kind("ViT-L-14-quickgelu", BIG, BIG_TEXT, (1, 8)),
}
DTYPES = ("float32", "bfloat16", "int8")
# Goals for our rate relative to a peer's; 1 for all others.
LIMITS = {("bfloat16", "OpenVINO"): 1.05, ("int8", "onnxruntime, dynamic"): 1.3}
EAGER = ("open_clip", "transformers", "transformers, own attention")


class Projected(torch.nn.Module):
    """transformers' image tower with its projection."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.head = model.vision_model, getattr(model, "visual_projection", None)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = self.tower(pixel_values=pixels).pooler_output
        return rows if self.head is None else self.head(rows)


def networks(kind: Kind, folder: Path, tiny: bool, side: int = 224) -> dict[str, torch.nn.Module]:
    """The peers' towers for images of `side` pixels. Writes a checkpoint of one of them in
    `folder`."""
    torch.manual_seed(0)
    settings = open_clip.get_model_config(kind.open_clip)
    settings["vision_cfg"]["image_size"] = side
    if tiny and "layers" in settings["vision_cfg"] and kind.vision is not None:
        settings["vision_cfg"] |= {"layers": 2, "width": 64, "head_width": 32}
    siglip = "SigLIP" in kind.open_clip
    if siglip:
        model = open_clip.create_model(kind.open_clip, force_image_size=side)
    else:
        model = open_clip.CLIP(**settings)
    towers = {"open_clip": model.visual.eval()}
    if kind.vision is None:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        config = {"model_cfg": settings, "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        return towers
    vision = kind.vision | (SMALL if tiny else {}) | {"image_size": side}
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
        towers[name] = Projected(model.eval())
    return towers


def by_torch(network: torch.nn.Module, dtype: str) -> Run:
    """The network in eager torch."""
    torch_dtype = getattr(torch, dtype)
    converted = copy.deepcopy(network).to(torch_dtype)

    def call(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return converted(torch.from_numpy(pixels).to(torch_dtype)).float().numpy()

    return call


def by_openvino(network: torch.nn.Module, pixels: np.ndarray, dtype: str) -> Run:
    """The network in OpenVINO. pixels: an example."""
    library = import_without_telemetry("openvino", "the benchmark")
    shape = [-1, *pixels.shape[1:]]
    model = library.convert_model(network, example_input=torch.from_numpy(pixels), input=shape)
    hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda batch: compiled(batch)[0]


def by_onnx(network: torch.nn.Module, pixels: np.ndarray, folder: Path, int8: bool) -> Run:
    """The network in onnxruntime. pixels: an example; folder: for its graphs."""
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    path = folder / "peer.onnx"
    if not path.exists():
        axes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
        example = (torch.from_numpy(pixels),)
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(network, example, path, dynamo=True, dynamic_shapes=axes)
    if int8:
        quantized = folder / "peer-int8.onnx"
        quantize_dynamic(path, quantized, op_types_to_quantize=["MatMul", "Gemm"])
        path = quantized
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def peers(
    towers: dict[str, Any], dtype: str, pixels: np.ndarray, folder: Path
) -> dict[str, Callable[[], Run]]:
    """For each peer a function that prepares it in this number type."""
    network = towers.get("transformers", towers["open_clip"])
    if dtype == "int8":
        return {"onnxruntime, dynamic": lambda: by_onnx(network, pixels, folder, True)}
    factories: dict[str, Callable[[], Run]] = {
        name: lambda tower=tower: by_torch(tower, dtype) for name, tower in towers.items()
    }
    factories["OpenVINO"] = lambda: by_openvino(network, pixels, dtype)
    if dtype == "float32":
        factories["onnxruntime"] = lambda: by_onnx(network, pixels, folder, False)
    return factories


def ours(checkpoint: Path, dtype: str, photos: Path) -> dict[str, Callable[[], Any]]:
    """For each of our engines a function that loads it in this number type. photos: to calibrate
    int8."""
    names = {"float32": ("torch", "compile", "openvino", "onnx"), "int8": ("openvino", "onnx")}
    more = {"calibrate": photos} if dtype == "int8" else {}
    return {
        f"patchword {engine}": lambda engine=engine: patchword.load(
            checkpoint, engine=engine, dtype=dtype, **more
        )
        for engine in names.get(dtype, ("torch", "compile", "openvino"))
    }


def prepare(factories: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Call the functions. Those that fail are named and left out, so that one broken library does
    not prevent the rows of the others."""
    prepared = {}
    for name, make in factories.items():
        try:
            prepared[name] = make()
        except Exception as error:  # each library raises errors of its own
            reason = str(error).partition("\n")[0]
            print(f"{name} is left out: {type(error).__name__}: {reason}")
    return prepared


def least_cosine(exact: np.ndarray, rows: np.ndarray) -> float:
    """The smallest cosine between rows with the same index."""
    a, b = (each.astype(np.float64) for each in (exact, rows))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


def compare(name: str, dtype: str, side: int, options: argparse.Namespace, rows: Rows) -> None:
    """Measure the rows of one architecture, number type and image size."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        checkpoint.mkdir()
        towers = networks(kind, checkpoint, options.tiny, side)
        plain = patchword.load(checkpoint)
        images = [plain.open(scene(0, number).image)[0] for number in range(16)]
        exact = plain.engine.encode_image(images)
        del plain
        theirs = prepare(peers(towers, dtype, np.stack(images[:2]), Path(folder)))
        del towers
        models = prepare(ours(checkpoint, dtype, options.photos))
        own: dict[str, Run] = {name: model.engine.encode_image for name, model in models.items()}
        cosines = {name: least_cosine(exact, run(images)) for name, run in own.items()}
        for what, axis, batch, at in measurements(name, dtype, side, options):
            pixels = np.stack([images[i % 16] for i in range(batch)])
            functions = {
                name: lambda run=run: run(pixels)  # noqa: B023
                for name, run in (theirs | own).items()
            }
            seconds = median_seconds(functions, options.rounds, warm_up=2, min_seconds=0.2)
            speed = rates(batch, seconds)
            print(f"{what}, {axis} {at}: {', '.join(f'{n} {s:.4g}' for n, s in speed.items())}")
            best = max(own, key=lambda name: speed[name])
            pairs = [(peer, best, LIMITS.get((dtype, peer), options.limit)) for peer in theirs]
            if "patchword torch" in own:
                eager = max(
                    (peer for peer in theirs if peer in EAGER), key=lambda peer: speed[peer]
                )
                pairs.append((eager, "patchword torch", 1.0))
            for peer, engine, limit in dict.fromkeys(pairs):
                agreement = f"cosine to float32 at least {cosines[engine]:.5f}"
                rows.add(
                    what, "images/s", (peer, speed[peer]), (engine, speed[engine]),
                    limit=limit, axis=axis, at=at, agreement=agreement,
                )  # fmt: skip


def measurements(
    name: str, dtype: str, side: int, options: argparse.Namespace
) -> list[tuple[str, str, int, int]]:
    """What is measured, the axis, the batch size, and the size on the axis."""
    if options.sides:
        return [(f"{name}, {dtype}, one image", "side", 1, side)]
    return [
        (f"{name}, {dtype}", "batch", batch, batch)
        for batch in options.batches or KINDS[name].batches
    ]


def main(options: argparse.Namespace) -> None:
    rows = Rows(options.results)
    with tempfile.TemporaryDirectory() as folder:
        options.photos = Path(folder, "photos")
        options.photos.mkdir()
        os.environ["PATCHWORD_CACHE"] = folder  # do not keep graphs of random weights
        for number in range(32):
            Image.fromarray(scene(1, number).image).save(options.photos / f"{number}.png")
        for name, dtype, side in itertools.product(
            options.models, options.dtypes, options.sides or [224]
        ):
            planned = measurements(name, dtype, side, options)
            if all(rows.is_measured(what, axis, at) for what, axis, _, at in planned):
                print(f"{name}, {dtype}, side {side}: kept from before")
                continue
            compare(name, dtype, side, options, rows)
            torch._dynamo.reset()
            gc.collect()


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--models", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=DTYPES)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--batches", nargs="*", type=int)
    sizes.add_argument("--sides", nargs="*", type=int)
    parser.add_argument(
        "--limit", type=float, default=1.0, help="goal for peers without one of their own"
    )
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    warnings.simplefilter("ignore")
    main(parser.parse_args())
