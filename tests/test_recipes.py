"""The shipped recipes: some steps of each. `make check-recipes` runs each to its end."""

from pathlib import Path

import pytest
import torchvision_cpu  # noqa: F401  before transformers, which peft imports

# isort: split
import patchword
from patchword.errors import RecipeError
from patchword.train import loop, recipe

pytestmark = pytest.mark.slow

TRIED_ELSEWHERE = {"blip", "vqa"}
TRIED = ("clip", "siglip", "lit", "lora", "finetune", "probe", "deit", "mae")
COUNTS = ["image_size=48", "data.0.only=shapes", "data.0.label=count"]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on classes for one step."""
    folder = tmp_path_factory.mktemp("probe")
    settings = [f"out={folder}", "engine.device=cpu", "engine.workers=0", "until=1", *COUNTS]
    return loop.train(recipe.load("probe", settings)).folder


@pytest.mark.parametrize("name", TRIED)
def test_some_steps_of_each(name: str, probe: Path, tmp_path: Path) -> None:
    settings = [f"out={tmp_path}", "engine.device=cpu", "engine.workers=0", "until=3"]
    if name == "deit":
        settings.append(f"teacher.model={probe}")
    if name == "finetune":
        settings += [f"init={probe}", "data.0.only=shapes", "data.0.label=count"]
    seen: list[float] = []
    done = loop.train(recipe.load(name, settings), lambda step, values: seen.append(values["loss"]))
    assert done.step == len(seen) == 3
    assert min(seen[1:]) < seen[0]
    assert patchword.load(done.folder).config.vision is not None


def test_all_are_tried_here_and_told_on_the_training_page() -> None:
    assert set(recipe.shipped()) - TRIED_ELSEWHERE == set(TRIED)
    whole_tests = (Path(__file__).parent / "recipes" / "test_recipes_whole.py").read_text()
    assert [name for name in TRIED if f'"{name}"' not in whole_tests] == []
    page = Path(__file__).parents[1] / "docs" / "training.md"
    assert [name for name in TRIED if f"| `{name}` |" not in page.read_text()] == []


def test_a_name_that_is_not_shipped() -> None:
    with pytest.raises(RecipeError, match=r"shipped recipes: (blip, )?clip, deit, finetune"):
        recipe.load("clop")


def test_a_model_that_another_recipe_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, command in (("finetune", "probe"), ("deit", "probe out=runs/counts image_size=48")):
        with pytest.raises(RecipeError, match=f"/model is not there; patchword train {command}"):
            loop.train(recipe.load(name))
