"""`torchrun --nproc-per-node N -m patchword.train RECIPE`: `patchword train`, in N processes."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    runpy.run_module("patchword", run_name="__main__")
