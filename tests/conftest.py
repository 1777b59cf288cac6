"""What every test shares: where the data is, and that no hub is asked."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hugging Face library is imported

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = SHARED / "data"

from ran import run  # noqa: E402, F401  a fixture of every file that has no `run` of its own
