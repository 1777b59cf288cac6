"""The pictures of the README are what the commands of docs/pictures.md make today."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_docs import ROOT, blocks

from patchword.cli import main

PAGE = ROOT / "docs" / "pictures.md"
COMMANDS = [shlex.split(command)[1:] for block in blocks(PAGE) for command in block.commands]


def test_each_picture_has_its_command() -> None:
    made = sorted(command[-1] for command in COMMANDS)
    assert made == sorted(path.name for path in PAGE.parent.glob("*.png"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[-1])
def test_pictures_are_current(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "src" / "patchword" / "assets" / "samples")
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    made, kept = (Image.open(f / command[-1]).convert("RGB") for f in (tmp_path, PAGE.parent))
    assert made.size == kept.size
    # Of 255: another processor may round a value the other way; another picture differs by ten.
    assert np.abs(np.asarray(made, int) - np.asarray(kept, int)).mean() < 0.5
