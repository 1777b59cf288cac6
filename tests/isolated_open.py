"""Open image files in a separate process, so that a file that crashes it does not end the tests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SCRIPT = """
import json, resource, signal, sys, warnings
import numpy as np
from patchword import images
from patchword.errors import ImageError, ImageWarning

warnings.simplefilter("ignore", ImageWarning)  # of dark images and of further pages
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for line in sys.stdin:
    path, out = json.loads(line)
    signal.alarm(20)  # kills a process that hangs
    try:
        pixels = images.open(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        np.save(out, pixels)
        print(json.dumps([path, None]))
    except ImageError as error:
        assert error.image == path and str(error) == f"{path}: {error.reason}"
        print(json.dumps([path, error.reason]))
"""


def open_all(paths: Iterable[Path], out: Path) -> dict[Path, NDArray[np.uint8] | str]:
    """Open files in one process with 1 GiB of memory, in which warnings of other libraries are
    errors. out: an empty folder.

    Returns, for each path, its pixels (H, W, 3) or the reason why it was refused. Fails if the
    process crashes or prints anything to stderr, except libtiff's messages."""
    tasks = [(str(path), str(out / f"{i}.npy")) for i, path in enumerate(paths)]
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        input="\n".join(map(json.dumps, tasks)),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads' stacks count as memory
    )
    messages = [line for line in process.stderr.splitlines() if not line.startswith("TIFF")]
    assert (process.returncode, messages) == (0, [])
    reasons = dict(map(json.loads, process.stdout.splitlines()))
    return {Path(path): reasons[path] or np.load(file) for path, file in tasks}
