"""How the network is being run, for what is faster in one way alone."""

import torch


def eager_inference() -> bool:
    """True in inference mode, which records no gradients, outside a graph that is compiled or
    exported: there a compiler chooses the kernels, and may not meet this question."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
