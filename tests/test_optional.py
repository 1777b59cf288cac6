"""Libraries that are not there, and libraries that are there and broken."""

import sys
from functools import partial
from pathlib import Path

import pytest
from forked_processes import start

from patchword.errors import RecipeError
from patchword.optional import optional

INSTALL = 'pip install "patchword[train]"'


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that fail in the ways of broken installations."""
    (tmp_path / "missing_part.py").write_text("import a_part_that_is_nowhere")
    (tmp_path / "renamed.py").write_text("from json import no_such_name")
    (tmp_path / "compiled.py").write_text("raise RuntimeError('operator x::nms does not exist\\n')")
    (tmp_path / "lazy.py").write_text(
        "try:\n import compiled\n"
        "except RuntimeError as error:\n raise ModuleNotFoundError('no B') from error"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_what_is_not_installed() -> None:
    with pytest.raises(RecipeError) as error:
        optional("a_library_that_is_nowhere.part", "train", "lora", RecipeError)
    told = f"lora needs a_library_that_is_nowhere, which is not installed: {INSTALL}"
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("missing_part", "(ModuleNotFoundError: No module named 'a_part_that_is_nowhere')"),
        ("renamed", "(ImportError: cannot import name 'no_such_name' from 'json'"),
        ("compiled", "(RuntimeError: operator x::nms does not exist)"),
        (
            "lazy",
            "(ModuleNotFoundError: no B; "
            "the cause is RuntimeError: operator x::nms does not exist)",
        ),
    ],
)
def test_what_is_installed_and_broken(broken: None, name: str, cause: str) -> None:
    with pytest.raises(RecipeError) as error:
        optional(name, "train", "lora", RecipeError)
    start = f"lora needs {name}, which is installed but cannot be imported {cause}"
    assert str(error.value).startswith(start)
    assert str(error.value).endswith(INSTALL)


def test_what_is_there() -> None:
    assert optional("os.path", "train", "lora", RecipeError).sep


def import_peft(first: Path) -> None:
    """Import it beside the libraries in a folder; print the name of something of it."""
    assert not {"peft", "transformers"} & set(sys.modules)
    sys.path.insert(0, str(first))
    print(optional("peft", "train", "lora", RecipeError).LoraConfig.__name__)


def test_peft_can_be_imported_beside_a_torchvision_that_cannot(tmp_path: Path) -> None:
    """In a process of its own: what transformers finds there stays."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    said = tmp_path / "said"
    process = start(said, partial(import_peft, tmp_path))
    process.join()
    told = [Path(f"{said}.{kind}").read_text() for kind in ("out", "err")]
    assert (process.exitcode, told[0]) == (0, "LoraConfig\n"), told[1]
