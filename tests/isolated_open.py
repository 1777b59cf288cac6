"""Opening many files in a process of its own, which a hostile one cannot take along."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

OPEN_ALL = """
import json, resource, signal, sys, warnings
import numpy as np
from patchword import images
from patchword.errors import ImageError, ImageWarning

warnings.simplefilter("ignore", ImageWarning)  # ours, of dark images and of further pages
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for line in sys.stdin:
    path, out = json.loads(line)
    signal.alarm(20)  # kills the process: a hang
    try:
        pixels = images.open(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        np.save(out, pixels)
        print(json.dumps([path, None]))
    except ImageError as error:
        assert error.image == path and str(error) == f"{path}: {error.reason}"
        print(json.dumps([path, error.reason]))
"""


def opened(paths: Iterable[Path], out: Path) -> dict[Path, NDArray[np.uint8] | str]:
    """path -> pixels, or the reason against it, of all files, opened in one process of 1 GiB at
    most, in which a warning that is not ours is an error. out: an empty folder. Says what else that
    process says, and fails."""
    asked = [(str(path), str(out / f"{i}.npy")) for i, path in enumerate(paths)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OPEN_ALL],
        input="\n".join(map(json.dumps, asked)),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads' stacks count as memory
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("TIFF")]  # libtiff
    assert (done.returncode, said) == (0, [])
    reasons = dict(map(json.loads, done.stdout.splitlines()))
    return {Path(path): reasons[path] or np.load(file) for path, file in asked}
