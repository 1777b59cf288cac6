"""The commands of the documentation run, and its links lead somewhere.

Every command of a `console` or `sh` block and every `python` block of PAGES runs, in order, in one
folder that holds the samples. A block that a test cannot run (it needs the hub, or an hour) has
<!-- not run: why --> on the line before it. Commands of the setup (SETUP) are not run.
"""

import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from forked_processes import start, start_command

import patchword
from patchword.where import auto

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"
# cli.md is generated, and test_docs_pictures runs pictures.md.
NAMES = ("index", "inspect", "training", "models", "blip", "capfilt", "json")
PAGES = [README, *(ROOT / "docs" / f"{name}.md" for name in NAMES)]

JOBS = [
    *("embed", "classify", "similarity", "index", "search", "info"),
    *("heatmap", "segment", "locate", "attention", "inspect"),
    *("train", "eval", "blend", "caption", "ask", "match", "capfilt"),
]
SETUP = re.compile(r"(git clone|cd|make|pip install|python3? -m venv|\. \.venv)\b")
# Characters that only a shell understands, if they are not in quotes.
SHELL = re.compile(r"[|&;<>$`*~\n]")
QUOTED = re.compile(r'"[^"$`\\]*"')
# Training stops after so many steps and writes its model. tests/recipes check how well it learns.
FEW = " until=4"
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n+)?```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.S | re.M
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: its language, its text, and why it is not run, or None."""

    kind: str
    body: str
    why: str | None

    @property
    def commands(self) -> list[str]:
        """Shell commands: the lines after `$ ` of a console block, all lines of an sh block."""
        text = self.body.replace("\\\n", " ")
        if self.kind == "console":
            return [line[2:].strip() for line in text.splitlines() if line.startswith("$ ")]
        if self.kind == "sh":
            lines = (line.strip() for line in text.splitlines())
            return [line for line in lines if line and not line.startswith("#")]
        return []

    @property
    def steps(self) -> list[tuple[str, str]]:
        """What the test runs: ("python" or "sh", text) each."""
        if self.why is not None:
            return []
        if self.kind == "python":
            return [("python", self.body)]
        return [("sh", command) for command in self.commands if not SETUP.match(command)]


def blocks(document: Path) -> list[Block]:
    return [Block(m["kind"], m["body"], m["why"]) for m in BLOCK.finditer(document.read_text())]


# In the order of the pages; what several pages show runs once.
STEPS = list(
    dict.fromkeys(step for page in PAGES for block in blocks(page) for step in block.steps)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all steps run, with the samples in it."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "samples").symlink_to(ROOT / "src" / "patchword" / "assets" / "samples")
    return folder


def process_of(step: tuple[str, str], output: Path, prepare: Callable[[], object]) -> BaseProcess:
    """Start a step in a process of its own, in a shell if it needs one. It calls `prepare` first,
    and writes to `output`.out and `output`.err."""
    kind, text = step
    if text.startswith("patchword train "):
        text += FEW
    if kind == "python":
        return start(output, prepare, partial(exec, text, {"__name__": "__main__"}))
    if text.startswith("patchword ") and not SHELL.search(QUOTED.sub("", text)):
        return start_command(output, *shlex.split(text)[1:], first=[prepare])
    bash = ["bash", "-euo", "pipefail", "-c", text]
    return start(output, prepare, partial(os.execvp, bash[0], bash))


def enter(folder: Path) -> None:
    """Make it the current folder and the home of this process."""
    os.chdir(folder)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ.update(HOME=str(folder), PATH=path, HF_HUB_OFFLINE="1", MPLBACKEND="agg")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[-1].strip().splitlines()[-1][:60])
def test_documents_run(step: tuple[str, str], folder: Path, tmp_path: Path) -> None:
    process = process_of(step, tmp_path / "output", partial(enter, folder))
    process.join()
    output = [(tmp_path / f"output.{kind}").read_text() for kind in ("out", "err")]
    assert process.exitcode == 0, "\n".join([step[-1], *output])


def test_documents_show_each_job() -> None:
    """Each job of the command line on a page that is run, the two commands, and Python."""
    text = "\n".join(step[-1] for step in STEPS)
    assert [job for job in JOBS if f"patchword {job}" not in text] == []
    readme = README.read_text()
    assert "make demo" in readme
    assert "make test" in readme
    assert "import patchword" in text


def test_readme_names_make_targets_that_exist() -> None:
    named = {
        word
        for block in blocks(README)
        for command in block.commands
        if command.startswith("make ")
        for word in command.split("#")[0].split()[1:]
        if "=" not in word
    }
    targets = re.findall(r"^(\w+):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    assert named <= set(targets)


def without_comments(block: Block) -> tuple[str, str, bool]:
    """A block without its comments, which are translated; the rest is the same in both READMEs."""
    return block.kind, re.sub(r"(^|\s+)# .*$", "", block.body, flags=re.M), block.why is not None


def test_chinese_readme_mirrors_the_english() -> None:
    assert [without_comments(b) for b in blocks(CHINESE)] == [
        without_comments(b) for b in blocks(README)
    ]
    assert outline(CHINESE) == outline(README)
    assert pictures(CHINESE) == pictures(README)


def outline(document: Path) -> list[int]:
    """The level of every heading, in order."""
    prose = BLOCK.sub("", document.read_text())
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.M)]


def pictures(document: Path) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\(([^)\s]+)", document.read_text())


DOCUMENTS = [
    *(README, CHINESE),
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "src" / "patchword" / "assets").glob("*/README.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_somewhere(document: Path) -> None:
    prose = BLOCK.sub("", document.read_text())
    links = re.findall(r"\]\(([^)\s]+)|(?:src|href)=\"([^\"]+)\"", prose)
    inside = [link for pair in links for link in pair if link and ":" not in link]
    assert [link for link in inside if not exists(link, document)] == []


def exists(link: str, document: Path) -> bool:
    """Whether the file of a relative link exists, and the heading behind its #."""
    name, _, anchor = link.partition("#")
    file = document.parent / name if name else document
    return file.exists() and (not anchor or anchor in anchors(file))


def anchors(document: Path) -> set[str]:
    """The headings of a document as GitHub writes them in links."""
    prose = BLOCK.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def test_one_number_of_clothing_photos_rejected_wrongly() -> None:
    """The cards have measured it; the READMEs and the help of --reject name the same."""
    assets = ROOT / "src" / "patchword" / "assets"
    numbers = [
        re.search(
            r"clothing photos \(wrongly\) \| ([0-9.]+%)", (assets / name / "README.md").read_text()
        )
        for name in ("demo", "demo-blip")
    ]
    assert all(numbers)
    for document in (README, CHINESE, ROOT / "docs" / "cli.md"):
        text = document.read_text()
        assert [each[1] for each in numbers if each and each[1] not in text] == [], document.name


def test_the_reason_for_surgery_has_the_numbers_of_the_table() -> None:
    model = patchword.load("demo")
    method, reason = auto.usual(model, like=True)  # without the head for maps
    table = (ROOT / "docs" / "benchmarks.md").read_text()
    measured = [
        round(float(re.findall(rf"^\| {name} \| ([0-9.]+)%", table, re.M)[0]))
        for name in ("surgery", "naclip")
    ]
    assert method == "surgery"
    assert [int(number) for number in re.findall(r"(\d+)%", reason)] == measured


@pytest.mark.parametrize("name", ["cli", "api"])
def test_references_are_current(name: str) -> None:
    fresh = runpy.run_path(str(ROOT / "tools" / f"{name}_reference.py"))["reference"]()
    assert (ROOT / "docs" / f"{name}.md").read_text() == f"{fresh}\n", (
        f"docs/{name}.md is old: make docs"
    )
