"""demo: every task once, on the samples that come with patchword, and a page of the results."""

from patchword.cli.demo.demo import COMMANDS

__all__ = ["COMMANDS"]
