"""How a network is run: one file per way, each an `Engine` (see `protocol`)."""
