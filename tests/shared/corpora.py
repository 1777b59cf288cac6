"""Where the corpora are: beside the clone, or where the environment variable DATA says."""

import os
from pathlib import Path

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("DATA") or BESIDE).resolve()
