"""The pretrained ViT-Tiny: timm's logits, and what photos show."""

from pathlib import Path

from test_parity import photos, vit_tiny  # first: it prepares the libraries' imports

# isort: split
import numpy as np
import torch
from corpora import DATA
from torch.testing import assert_close

NAMES = ["cat_720p.jpg", "parrot.jpg", "dragonfly.bmp"]
PHOTOS = [
    *(DATA / "photos" / name for name in NAMES),
    DATA / "coco" / "images" / "000000003501.jpg",
]


@torch.no_grad()
def test_real_vit_tiny(tmp_path: Path) -> None:
    folder = DATA / "vit_tiny"
    labels = (folder / "labels.txt").read_text().splitlines()
    reference, model = vit_tiny(tmp_path, folder / "model.safetensors", labels)
    pixels = torch.from_numpy(np.stack([model.open(path, exact=True)[0] for path in PHOTOS]))
    theirs = photos(reference, PHOTOS)
    assert_close(pixels, theirs)
    logits = reference.network(theirs)
    assert_close(model.network(theirs), logits)
    # Pixels normalised in another order differ in their last bit, and logits of 20 show it.
    assert_close(model.network(pixels).softmax(dim=1), logits.softmax(dim=1))
    best = [model.config.labels[i] for i in logits.argmax(dim=1)]
    assert "cat" in best[0], best
    assert "macaw" in best[1], best
    assert "dragonfly" in best[2], best
