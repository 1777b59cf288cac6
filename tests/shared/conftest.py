"""These tests need corpora that the repository does not carry: `make check-shared` runs them, and
`make test` does without."""

import pytest
from corpora import DATA


def pytest_configure() -> None:
    if not DATA.is_dir():
        raise pytest.UsageError(
            f"{DATA}: no such folder. The tests in tests/shared need corpora that the repository "
            "does not carry: put them there, or say DATA=FOLDER. `make test` needs none of them."
        )
