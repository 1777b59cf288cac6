"""What is otherwise on Windows and on macOS."""

import ntpath
import os

import pytest
import torch
from torch import Tensor

from patchword.capfilt import dataset
from patchword.cli import output
from patchword.engines.device import check
from patchword.errors import UnsupportedError
from patchword.evaluate.blend import _between


def test_photos_on_two_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of one drive is not to be had from another."""
    monkeypatch.setattr(os, "path", ntpath)
    photos = object.__new__(dataset.Photos)
    photos._start = r"C:\work"
    names = [r"C:\work\photos\a.jpg", r"D:\photos\b.jpg"]
    assert [photos.file_name(name) for name in names] == [r"photos\a.jpg", names[1]]
    assert output.heading_and_names(names) == ("image", names)
    assert output.heading_and_names([names[0], r"C:\work\photos\b.jpg"])[1] == ["a.jpg", "b.jpg"]


def test_apples_gpus_have_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    check(torch.device("mps"), torch.float32)
    check(torch.device("cpu"), torch.float64)
    with pytest.raises(UnsupportedError, match="mps has no float64"):
        check(torch.device("mps"), torch.float64)
    moved = []

    def cpu(tensor: Tensor) -> Tensor:
        moved.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "cpu", cpu)
    between = _between(torch.ones(2), torch.zeros(2), 0.25)
    assert len(moved) == 2  # so that float64 is the processor's
    assert between.tolist() == [0.75, 0.75]
