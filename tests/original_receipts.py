"""Write receipts with the answers of the original libraries, for every tiny checkpoint of the
tests.

    python tests/original_receipts.py      (make receipts)

They are stored in tests/receipts, so that our answers are always compared with those of the other
library, even on another machine.
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
    """For each receipt's name the function that writes the checkpoint: those in MODELS of each
    reference_*.py, and those of the parity tests."""
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
    """A name as it is used for files."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@torch.no_grad()
def receipt(reference: Reference, name: str) -> dict[str, Any]:
    """The answers of the original library, in the form of `patchword.receipts.make`."""
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
    """Whether the text's ids, as the library cuts them, fit into the network's positions."""
    config = getattr(reference.network, "config", None)
    positions = getattr(getattr(config, "text_config", None), "max_position_embeddings", None)
    if reference.ids is None or positions is None:
        return True
    return reference.ids([text]).shape[1] <= positions


def blip(reference: Reference) -> dict[str, Any]:
    """The stages of transformers' BLIPs. The original .pth files have other start tokens, so they
    have no such stages."""
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
    """A function for the patches that transformers' masked autoencoder reconstructs."""
    network: Any = reference.network
    if type(network).__name__ != "ViTMAEForPreTraining" or reference.path.is_file():
        return None

    def run(inputs: Inputs) -> Tensor:
        hidden = torch.from_numpy(shuffled(network.vit.embeddings.patch_embeddings.num_patches))
        return network(batch(inputs), noise=hidden.expand(len(inputs), -1)).logits.flatten(1)

    return run


def library(reference: Reference) -> str:
    """Name and version of the network's package: transformers 5.23.0."""
    module = type(reference.network).__module__.split(".")[0]
    return f"{module} {version(PACKAGES.get(module, module))}"


def pixels(reference: Reference, card: NDArray[np.uint8]) -> NDArray[np.float32]:
    return reference.pixels(Image.fromarray(card)).numpy()


def batch(inputs: Inputs) -> Tensor | list[Tensor]:
    return batched([torch.from_numpy(each) for each in inputs])


def features(reference: Reference, rows: Ids) -> Tensor:
    """Features of each row alone, so that batches and their masks play no part."""
    return torch.cat([reference.text(torch.tensor([row])) for row in rows])


def class_logits(reference: Reference) -> Callable[[Inputs], Tensor] | None:
    """A function for the logits of classes, if the network has classes."""
    network: Any = reference.network
    if "ForImageClassification" in type(network).__name__:
        if type(network).__name__.startswith("Siglip2"):
            return lambda inputs: network(**reference_siglip.patches(batch(inputs))).logits
        return lambda inputs: network(batch(inputs)).logits
    if getattr(network, "num_classes", 0) > 0:  # timm
        return lambda inputs: network(batch(inputs))
    return None


def attended(reference: Reference) -> bool:
    """Whether padding is attended to: features change without it, and with other ids in its
    place."""
    if reference.ids is None or reference.text is None:
        return False
    row = reference.ids(TEXTS[:2])[1:]  # the empty text, padded to the length of the other
    length = row.shape[1]
    while length > 1 and row[0, length - 2] == row[0, -1]:
        length -= 1
    if length == row.shape[1]:
        return False
    other = row.clone()
    other[:, length:] = 5
    return changes(reference, row, row[:, :length]) and changes(reference, row, other)


def changes(reference: Reference, row: Tensor, other: Tensor) -> bool:
    """Whether other ids give other features, or an error: OpenAI's CLIP accepts only one length."""
    try:
        assert_close(reference.text(other), reference.text(row))
    except (AssertionError, RuntimeError):
        return True
    return False


def main(wanted: Sequence[str]) -> None:
    """Write the receipts whose names begin with one of `wanted`, or all. Deletes receipts without a
    checkpoint."""
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
