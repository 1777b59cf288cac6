"""Print the reference of patchword's Python API, made from the docstrings.

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
    exported = {name: getattr(patchword, name) for name in patchword.__all__}
    functions = [name for name, value in exported.items() if inspect.isfunction(value)]
    errors = [name for name in exported if name.endswith(("Error", "Warning"))]
    results = [name for name in exported if name not in (*functions, *errors, "Model", "Index")]
    parts = [INTRODUCTION, "## Functions"]
    parts += [entry(f"patchword.{name}", exported[name]) for name in functions]
    for name in ("Model", "Index"):
        parts += [f"## {name}", prose(exported[name]), *members(name, exported[name])]
    parts.append("## Results")
    for name in results:
        parts += [f"### {name}", prose(exported[name]), fields(exported[name])]
        parts += list(members(name, exported[name]))
    parts.append("## Errors")
    parts += [f"### {name}\n\n{prose(exported[name])}" for name in errors]
    return "\n\n".join(part for part in parts if part)


def members(owner: str, kind: type) -> Iterator[str]:
    """Each public method and property."""
    for name, member in inspect.getmembers(kind):
        if name.startswith("_") or not inspect.getdoc(member):
            continue
        if inspect.isfunction(member):
            yield entry(f"{owner}.{name}", member)
        elif isinstance(member, property):
            yield f"#### {owner}.{name}\n\n{prose(member)}"


def entry(name: str, function: Callable[..., Any]) -> str:
    """A heading, the signature, and the docstring."""
    return f"#### {name}\n\n```python\n{name}{signature(function)}\n```\n\n{prose(function)}"


def signature(function: Callable[..., Any]) -> str:
    """The signature in one line, or with one line for each argument if it is too long."""
    full_signature = inspect.signature(function)
    arguments = []
    for parameter in full_signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        arguments.append(re.sub(r"(: )'([^']*)'", r"\1\2", str(parameter)))
    returned = str(full_signature.return_annotation)
    line = f"({', '.join(arguments)}) -> {returned}"
    if len(line) <= 70:
        return line
    return "(\n" + "".join(f"    {argument},\n" for argument in arguments) + f") -> {returned}"


def fields(kind: type) -> str:
    """The fields of a dataclass with their types."""
    if not dataclasses.is_dataclass(kind):
        return ""
    rows = [f"{field.name}: {field.type}" for field in dataclasses.fields(kind)]
    return "```python\n" + "\n".join(rows) + "\n```"


def prose(documented: Any) -> str:
    """A docstring as Markdown: paragraphs, and options as lists."""
    out = []
    for paragraph in (inspect.getdoc(documented) or "").split("\n\n"):
        if OPTION.match(paragraph):
            items: list[str] = []
            for line in paragraph.splitlines():
                if option := OPTION.match(line):
                    items.append(f"- `{option[1]}`: {option[2]}")
                else:
                    items[-1] += f"\n  {line.strip()}"
            out.append("\n".join(items))
        else:
            out.append(paragraph)
    return "\n\n".join(out)


if __name__ == "__main__":
    print(reference())
