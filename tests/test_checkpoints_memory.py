"""Loading takes little more memory than the weights themselves, whatever the file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from patchword import models
from patchword.checkpoints.formats import hf_clip
from patchword.checkpoints.rules import ReadingRule
from patchword.config import ModelConfig
from patchword.variants.clip import clip_vit

ALLOWED = 1.3  # peak memory over that of the weights

MEASURE = """
import re, sys
from pathlib import Path
from patchword import checkpoints

def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

checkpoints.load(sys.argv[1])  # something small: the first load imports and allocates
assert "torch._dynamo" not in sys.modules, "loading a checkpoint loads torch's compiler"
for path in sys.argv[2:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, from what is used now
    before = memory("VmRSS")
    model = checkpoints.load(path)
    weights = sum(p.nbytes for p in model.network.parameters())
    print((memory("VmHWM") - before) / weights, weights >> 20, path)
    del model
"""


def hugging_face_tensors(config: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors under Hugging Face's names, which are the sources of the format's rules."""
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in models.build(config).state_dict().items()}
    out = {}
    for rule in hf_clip.rules(config):
        if isinstance(rule, ReadingRule):
            for name, shape in rule.source_shapes(shapes[rule.target]).items():
                out[name] = torch.full(shape, 0.5, dtype=dtype)
    return out


def written(folder: Path, config: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Write a Hugging Face folder without weights, and return these."""
    assert config.text is not None
    folder.mkdir()
    vision = {
        "num_attention_heads": config.vision.heads,
        "num_hidden_layers": config.vision.depth,
        "image_size": config.vision.image_size[0],
    }
    text = {"num_attention_heads": config.text.heads, "eos_token_id": config.text.vocab_size - 1}
    content = {"model_type": "clip", "vision_config": vision, "text_config": text}
    (folder / "config.json").write_text(json.dumps(content))
    return hugging_face_tensors(config, dtype)


def test_peak_memory(tmp_path: Path) -> None:
    tiny, base = (clip_vit(size, patch=32, embed=64, text_width=64) for size in ("tiny", "base"))
    small = written(tmp_path / "small", tiny, torch.float32)
    safetensors.torch.save_file(small, tmp_path / "small" / "model.safetensors")
    for kind in (torch.float32, torch.float16):  # the latter is converted on the way
        folder = tmp_path / str(kind)
        safetensors.torch.save_file(written(folder, base, kind), folder / "model.safetensors")
    torch.save(written(tmp_path / "bin", base, torch.float32), tmp_path / "bin" / "model.bin")
    paths = [str(tmp_path / n) for n in ("small", "torch.float32", "torch.float16", "bin")]
    command = [sys.executable, "-c", MEASURE, *paths]
    # Freed blocks go back at once, so that one measurement leaves nothing to the next.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        ratio, megabytes, _ = line.split()
        assert int(megabytes) > 300
        assert 0.9 < float(ratio) < ALLOWED, done.stdout
