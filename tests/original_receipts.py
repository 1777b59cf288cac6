"""Receipts as the original libraries make them, of every tiny checkpoint that the tests write.

    python tests/original_receipts.py      (make receipts)

They are kept in tests/receipts, so that a change of ours is held against what another library once
answered, on another machine.
"""

import importlib
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import reference_siglip
import test_parity
import torch
from numpy.typing import NDArray
from PIL import Image
from references import Reference
from torch import Tensor
from torch.testing import assert_close

from patchword.receipts import VERSION, to_text
from patchword.receipts.answers import batched
from patchword.receipts.inputs import TEXTS, shuffled
from patchword.receipts.receipt import Ids, Inputs, stages

FOLDER = Path(__file__).parent / "receipts"
PACKAGES = {"clip": "openai-clip", "open_clip": "open_clip_torch"}
Writer = Callable[[Path], Reference]


def writers() -> dict[str, Writer]:
    """Name of a receipt -> what writes the checkpoint: MODELS of each reference_*.py that writes
    checkpoints, and those of the parity tests."""
    families = {"clip": test_parity.CLIPS}
    for path in sorted(Path(__file__).parent.glob("reference_*.py")):
        module = importlib.import_module(path.stem)
        family = path.stem.removeprefix("reference_").replace("_", "-")
        families[family] = families.get(family, {}) | getattr(module, "MODELS", {})
    return {
        slug(name if slug(name).startswith(family) else f"{family} {name}"): writer
        for family, models in families.items()
        for name, writer in models.items()
    }


def slug(name: str) -> str:
    """A name as a file may have it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@torch.no_grad()
def receipt(reference: Reference, name: str) -> dict[str, Any]:
    """What the original library answers, as `patchword.receipts.make` has it of ours."""
    image, text, logits = reference.image, reference.text, reference.logits
    return {
        "receipt": VERSION,
        "made_by": library(reference),
        "model": name,
        **stages(
            attended(reference),
            pixels=reference.pixels and (lambda card: pixels(reference, card)),
            ids=reference.ids and (lambda texts: reference.ids(texts).tolist()),
            image=image and (lambda inputs: image(batch(inputs))),
            text=text and (lambda rows: features(reference, rows)),
            classes=class_logits(reference),
            pairs=logits and (lambda inputs, rows: logits(batch(inputs), torch.tensor(rows))),
            texts=[each for each in TEXTS if fits(reference, each)],
            **blip(reference),
            painted=painted(reference),
        ),
    }


def fits(reference: Reference, text: str) -> bool:
    """Whether the library cuts a text to the network's positions, or it is short enough."""
    stated = getattr(reference.network, "config", None)
    most = getattr(getattr(stated, "text_config", None), "max_position_embeddings", None)
    return reference.ids is None or most is None or reference.ids([text]).shape[1] <= most


def blip(reference: Reference) -> dict[str, Any]:
    """The stages of transformers' BLIPs. A .pth of the original's has other first tokens."""
    network: Any = reference.network
    kind = type(network).__name__ if (reference.path / "config.json").is_file() else ""

    def matches(inputs: Inputs, rows: Ids) -> Tensor:
        ids = [torch.tensor([row]).expand(len(inputs), -1) for row in rows]
        answers = [network(each, batch(inputs), attention_mask=(each > 0).long()) for each in ids]
        return torch.cat([answer.itm_score for answer in answers], dim=1)

    def words(inputs: Inputs, rows: Ids) -> Tensor:
        ids = torch.tensor([rows[0]]).expand(len(inputs), -1)
        return network(batch(inputs), ids).logits[:, -1]

    return {
        "matches": matches if kind == "BlipForImageTextRetrieval" else None,
        "words": words if kind == "BlipForConditionalGeneration" else None,
    }


def painted(reference: Reference) -> Callable[[Inputs], Tensor] | None:
    """What gives the patches that transformers' masked autoencoder paints."""
    network: Any = reference.network
    if type(network).__name__ != "ViTMAEForPreTraining" or reference.path.is_file():
        return None

    def run(inputs: Inputs) -> Tensor:
        hidden = torch.from_numpy(shuffled(network.vit.embeddings.patch_embeddings.num_patches))
        return network(batch(inputs), noise=hidden.expand(len(inputs), -1)).logits.flatten(1)

    return run


def library(reference: Reference) -> str:
    """ "transformers 5.23.0": name and version of the package that the network is of."""
    module = type(reference.network).__module__.split(".")[0]
    return f"{module} {version(PACKAGES.get(module, module))}"


def pixels(reference: Reference, card: NDArray[np.uint8]) -> NDArray[np.float32]:
    return reference.pixels(Image.fromarray(card)).numpy()


def batch(inputs: Inputs) -> Tensor | list[Tensor]:
    return batched([torch.from_numpy(each) for each in inputs])


def features(reference: Reference, rows: Ids) -> Tensor:
    """Each row by itself: a fault in the mask of a batch is another matter."""
    return torch.cat([reference.text(torch.tensor([row])) for row in rows])


def class_logits(reference: Reference) -> Callable[[Inputs], Tensor] | None:
    """What gives logits of classes, for a network that has some."""
    network: Any = reference.network
    if "ForImageClassification" in type(network).__name__:
        flexible = type(network).__name__.startswith("Siglip2")
        return lambda inputs: (
            (
                network(**reference_siglip.patches(batch(inputs)))
                if flexible
                else network(batch(inputs))
            ).logits
        )
    if getattr(network, "num_classes", 0) > 0:  # timm
        return lambda inputs: network(batch(inputs))
    return None


def attended(reference: Reference) -> bool:
    """Whether padding tells: features change when it goes, and when other ids stand for it."""
    if reference.ids is None or reference.text is None:
        return False
    row = reference.ids(TEXTS[:2])[1:]  # of the empty text, padded to the other
    kept = row.shape[1]
    while kept > 1 and row[0, kept - 2] == row[0, -1]:
        kept -= 1
    if kept == row.shape[1]:
        return False
    other = row.clone()
    other[:, kept:] = 5
    return changes(reference, row, row[:, :kept]) and changes(reference, row, other)


def changes(reference: Reference, row: Tensor, other: Tensor) -> bool:
    """Whether other ids give other features, or none: OpenAI's CLIP takes one length only."""
    try:
        assert_close(reference.text(other), reference.text(row))
    except (AssertionError, RuntimeError):
        return True
    return False


def main(wanted: Sequence[str]) -> None:
    """Write the receipts whose names begin with one of `wanted`, or all. Those of checkpoints that
    are no more go."""
    FOLDER.mkdir(exist_ok=True)
    known = writers()
    for path in FOLDER.glob("*.json"):
        if path.stem not in known:
            path.unlink()
    for name, write in known.items():
        if wanted and not name.startswith(tuple(wanted)):
            continue
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            text = to_text(receipt(write(Path(folder) / "model"), name))
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
