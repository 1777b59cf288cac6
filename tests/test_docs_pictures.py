"""The commands of docs/pictures.md run, and draw the pictures that the README shows."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_docs import ROOT, blocks

from patchword.cli import main

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "pictures.md"
COMMANDS = [shlex.split(command)[1:] for block in blocks(PAGE) for command in block.commands]
STORED = sorted(path.name for path in PAGE.parent.glob("*.png"))


def test_each_picture_has_its_command() -> None:
    assert sorted(command[-1] for command in COMMANDS if "--save" in command) == STORED


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[-2:]))
def test_pictures_are_current(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "src" / "patchword" / "assets" / "samples")
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    if "--save" not in command:
        assert list(tmp_path.glob("*.png"))
        return
    new = Image.open(tmp_path / command[-1]).convert("RGB")
    stored = Image.open(PAGE.parent / command[-1]).convert("RGB")
    assert new.size == stored.size
    # Of 255: another processor may round a value the other way; another picture differs by ten.
    assert np.abs(np.asarray(new, int) - np.asarray(stored, int)).mean() < 0.5
