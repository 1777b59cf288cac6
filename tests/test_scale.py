"""The arithmetic of docs/scale.md gives what the page says."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"


def test_the_page_says_what_its_formulas_give() -> None:
    text = PAGE.read_text(encoding="utf-8")
    formulas = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    said = re.findall(r"```text\n(.*?)```", text, re.S)[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(formulas, {})
    assert printed.getvalue() == said
