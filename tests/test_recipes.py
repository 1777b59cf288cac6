"""The shipped recipes: each runs as it is, and leaves a model that can do its job."""

from pathlib import Path

import pytest
import torchvision_cpu  # noqa: F401  before transformers, which peft imports

# isort: split
import patchword
from patchword.errors import RecipeError
from patchword.scenes import WAFER_CLASSES, scene
from patchword.train import loop, recipe

WAFER = scene(4321, 0, 128, label=WAFER_CLASSES[1]).image


def run(name: str, out: Path, *changes: str) -> patchword.Model:
    """Two steps of it, with few scenes to read captions from."""
    settings = [f"out={out}", "steps=2", "batch=8", "data.0.count=100", "engine.workers=0"]
    return patchword.load(loop.train(recipe.load(name, [*settings, *changes])).folder)


@pytest.mark.parametrize("name", ["clip", "siglip", "lit", "lora"])
def test_those_of_images_and_texts(name: str, tmp_path: Path) -> None:
    model = run(name, tmp_path)
    (scores,) = model.classify([WAFER], ["wafer with a scratch", "perfect wafer"])
    assert len(scores) == 2
    assert model.config.score == ("sigmoid" if name == "siglip" else "softmax")


def test_those_of_classes(tmp_path: Path) -> None:
    run("finetune", tmp_path / "finetune")
    for name in ("probe", "deit"):
        teacher = [f"teacher.model={tmp_path / 'finetune' / 'model'}"] if name == "deit" else []
        model = run(name, tmp_path / name, *teacher)
        (scores,) = model.classify([WAFER])
        assert {score.label for score in scores} == set(WAFER_CLASSES)
    assert model.config.vision.pool == "distilled"


def test_the_masked_autoencoder(tmp_path: Path) -> None:
    model = run("mae", tmp_path)
    assert model.embed_images([WAFER]).shape == (1, 128)


def test_all_are_tried_here_and_told_on_the_training_page() -> None:
    tried = {"clip", "siglip", "lit", "lora", "finetune", "probe", "deit", "mae"}
    assert set(recipe.shipped()) == tried
    page = Path(__file__).parents[1] / "docs" / "training.md"
    assert [name for name in tried if f"| `{name}` |" not in page.read_text()] == []


def test_a_name_that_is_not_shipped() -> None:
    with pytest.raises(RecipeError, match="shipped recipes: clip, deit, finetune"):
        recipe.load("clop")
