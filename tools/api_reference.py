"""Print the reference of patchword in Python, as the docstrings tell it.

python tools/api_reference.py > docs/api.md      (make docs)
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import patchword

INTRODUCTION = """# patchword in Python

```python
import patchword

model = patchword.load("demo")
model.classify(["photo.jpg"], labels=["a hat", "a shirt"])
```

An image is a path, bytes, a PIL image or an array; where several are wanted, one is a list of one.
A text is a string, and one is a list of one too. A value that an argument cannot have, and an
option that is misspelt, is an `UnsupportedError` that says what it must be, before any work is
done. Shapes are those of NumPy arrays: N images or texts, D numbers a vector, (H, W) pixels.

This page is made from the docstrings by `make docs`."""

OPTION = re.compile(r"([\w.]+(?:, [\w.]+)*)  +(\S.*)")  # "layer    0 to depth - 1, or ..."


def reference() -> str:
    """Markdown: functions, the model and the index with their methods, results, errors."""
    things = {name: getattr(patchword, name) for name in patchword.__all__}
    functions = [name for name, thing in things.items() if inspect.isfunction(thing)]
    errors = [name for name in things if name.endswith(("Error", "Warning"))]
    results = [name for name in things if name not in (*functions, *errors, "Model", "Index")]
    parts = [INTRODUCTION, "## Functions"]
    parts += [described(f"patchword.{name}", things[name]) for name in functions]
    for name in ("Model", "Index"):
        parts += [f"## {name}", prose(things[name]), *members(name, things[name])]
    parts.append("## Results")
    for name in results:
        parts += [f"### {name}", prose(things[name]), fields(things[name])]
        parts += list(members(name, things[name]))
    parts.append("## Errors")
    parts += [f"### {name}\n\n{prose(things[name])}" for name in errors]
    return "\n\n".join(part for part in parts if part)


def members(owner: str, kind: type) -> Iterator[str]:
    """Each public method and property."""
    for name, member in inspect.getmembers(kind):
        if name.startswith("_") or not inspect.getdoc(member):
            continue
        if inspect.isfunction(member):
            yield described(f"{owner}.{name}", member)
        elif isinstance(member, property):
            yield f"#### {owner}.{name}\n\n{prose(member)}"


def described(name: str, function: Callable[..., Any]) -> str:
    """A heading, the signature, and what the docstring says."""
    return f"#### {name}\n\n```python\n{name}{signature(function)}\n```\n\n{prose(function)}"


def signature(function: Callable[..., Any]) -> str:
    """One line, or where that is too long one for each argument."""
    found = inspect.signature(function)
    own = [p for p in found.parameters.values() if p.name != "self"]
    shown = [re.sub(r"(: )'([^']*)'", r"\1\2", str(p)) for p in own]
    keyword_only = [p.kind is p.KEYWORD_ONLY for p in own]
    if True in keyword_only:
        shown.insert(keyword_only.index(True), "*")
    returned = str(found.return_annotation)
    line = f"({', '.join(shown)}) -> {returned}"
    if len(line) <= 70:
        return line
    return "(\n" + "".join(f"    {each},\n" for each in shown) + f") -> {returned}"


def fields(kind: type) -> str:
    """The fields of a dataclass with their types."""
    if not dataclasses.is_dataclass(kind):
        return ""
    rows = [f"{field.name}: {field.type}" for field in dataclasses.fields(kind)]
    return "```python\n" + "\n".join(rows) + "\n```"


def prose(thing: Any) -> str:
    """A docstring as Markdown: paragraphs, and options as lists."""
    out = []
    for paragraph in (inspect.getdoc(thing) or "").split("\n\n"):
        if OPTION.match(paragraph):
            items: list[str] = []
            for line in paragraph.splitlines():
                if found := OPTION.match(line):
                    items.append(f"- `{found[1]}`: {found[2]}")
                else:
                    items[-1] += f"\n  {line.strip()}"
            out.append("\n".join(items))
        else:
            out.append(paragraph)
    return "\n\n".join(out)


if __name__ == "__main__":
    print(reference())
