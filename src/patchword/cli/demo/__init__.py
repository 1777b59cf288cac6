"""demo: every job once, on the samples that come with patchword, and one page about it."""

from patchword.cli.demo.demo import COMMANDS

__all__ = ["COMMANDS"]
