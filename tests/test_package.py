"""The package as a stranger gets it: one wheel, installed elsewhere, with no network."""

import base64
import email
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import patchword
from patchword import errors

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "patchword"

# What users may import. A name is added here on purpose, or not at all.
PUBLIC = [
    "AddReport",
    "Answer",
    "AnyRes",
    "AttentionMap",
    "Caption",
    "CaptionAttention",
    "CheckpointError",
    "CheckpointWarning",
    "Choice",
    "ConfigError",
    "DarkWarning",
    "Exported",
    "FontWarning",
    "Heatmap",
    "Hit",
    "ImageError",
    "ImageWarning",
    "Index",
    "IndexStoreError",
    "Inspection",
    "Inspector",
    "Located",
    "LongTextWarning",
    "Match",
    "MethodWarning",
    "Model",
    "NoIndexError",
    "NoRowError",
    "PatchwordError",
    "RecipeError",
    "Region",
    "Reranked",
    "SameIdError",
    "SameLabelsWarning",
    "SameMapWarning",
    "SampledWarning",
    "ScopeWarning",
    "Score",
    "Segmentation",
    "Share",
    "SkippedFilesWarning",
    "TextStates",
    "Tiling",
    "TokenAttention",
    "TokenizerError",
    "UnseenWarning",
    "UnsupportedError",
    "export",
    "find_images",
    "inspector",
    "load",
    "open_index",
    "save",
]

ASSETS = "src/patchword/assets"
SAMPLES = f"{ASSETS}/samples"
# Every file that is no text, and what in this repository makes it. Whatever is added here must have
# been made by the project: no photo, weight or file of other people, and nothing made from one.
MADE = (
    {
        "docs/defect.png": "docs/pictures.md",
        "docs/similarity.png": "docs/pictures.md",
        "docs/where.png": "docs/pictures.md",
        "docs/page/compare.png": "tools/page_pictures.py",
        "docs/page/inspect.png": "tools/page_pictures.py",
        "docs/page/search.png": "tools/page_pictures.py",
        "docs/page/where.png": "tools/page_pictures.py",
        f"{ASSETS}/demo/model.safetensors": f"{ASSETS}/demo/7-where.toml",
        f"{ASSETS}/demo-blip/model.safetensors": f"{ASSETS}/demo-blip/7-where.toml",
        f"{ASSETS}/demo/scope.safetensors": "tools/scope.py",
        f"{ASSETS}/demo-blip/scope.safetensors": "tools/scope.py",
    }
    | {  # a plot for each of the sizes that were measured so far
        f"docs/bench/{axis}.png": "benchmarks/report.py"
        for axis in ("batch", "side", "texts", "vectors", "cores")
        if (ROOT / "docs" / "bench" / f"{axis}.png").exists()
    }
    | {
        f"{SAMPLES}/{line.split(',')[0]}": "tools/samples.py"
        for line in (ROOT / SAMPLES / "captions.csv").read_text().splitlines()[1:]
    }
)
DRAWN = (".svg", ".ps", ".eps", ".ipynb")  # text that is, or may hold, a picture
INSIDE = re.compile(rb"base64,[A-Za-z0-9+/]{64}")  # a file within a text

# Python runs a module of this name at its start: no connection leaves the process.
NO_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise OSError("this test forbids the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=leave)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else of patchword's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    pip("install", "--target", str(folder), str(wheel))
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return folder


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run(command + quiet, check=True)


def run(elsewhere: Path, cwd: Path, *command: str) -> str:
    """Standard output of a command that sees the installed wheel, outside the checkout."""
    environment = {
        "PATH": f"{elsewhere / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(elsewhere),
        "HOME": str(cwd),
        "OMP_NUM_THREADS": "1",  # other tests run beside
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_only_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    files = (path for path in SOURCE.rglob("*") if path.is_file())
    expected = {p.relative_to(SOURCE.parent).as_posix() for p in files if p.suffix != ".pyc"}
    assert ours == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize(
    "name",
    ["py.typed"]
    + [f"assets/demo/{n}" for n in ("config.json", "model.safetensors", "tokenizer.json")]
    + [f"assets/demo/{n}" for n in ("README.md", "2-train.toml")]
    + ["assets/samples/README.md"],
)
def test_the_wheel_holds(wheel: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert f"patchword/{name}" in archive.namelist()


def is_text(name: str, content: bytes) -> bool:
    """Whether a file is text with no picture or other file in it."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not (b"\0" in content or name.lower().endswith(DRAWN) or INSIDE.search(content))


def test_the_repository_holds_what_the_project_makes() -> None:
    """Also files that were not committed yet. One that is no text and not listed above fails."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = {name: ROOT / name for name in listed.split("\0") if name}
    links = {name: path.resolve() for name, path in paths.items() if path.is_symlink()}
    assert links == {"samples": ROOT / SAMPLES}
    files = {n: path for n, path in paths.items() if path.is_file() and n not in links}
    assert len(files) > 300
    assert {n for n, path in files.items() if not is_text(n, path.read_bytes())} == set(MADE)


def test_the_wheel_holds_what_the_project_makes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        other = {n for n in archive.namelist() if not is_text(n, archive.read(n))}
    assert other == {name.removeprefix("src/") for name in MADE if name.startswith("src/")}


def test_what_makes_a_file_is_there() -> None:
    """The commands of the page and the tool are run by test_docs_pictures and test_demo."""
    assert [maker for maker in MADE.values() if not (ROOT / maker).is_file()] == []
    page = (ROOT / "docs" / "pictures.md").read_text()
    pictures = [Path(name).name for name, maker in MADE.items() if maker == "docs/pictures.md"]
    assert [name for name in pictures if f"--save {name}" not in page] == []


def test_files_of_other_people_would_be_seen() -> None:
    picture = next(ROOT / name for name in MADE if name.endswith(".jpg")).read_bytes()
    page = f'<img src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
    assert not is_text("photo.jpg", picture)
    assert not is_text("photo.py", picture)
    assert not is_text("page.html", page.encode())
    assert not is_text("drawing.svg", b"<svg/>")
    assert not is_text("weights.txt", b"text\0text")
    assert is_text("page.html", "<p>é</p>".encode())


def test_the_wheel_holds_the_samples(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        pictures = [i for i in archive.infolist() if "/samples/" in i.filename]
    assert sum(i.filename.endswith(".jpg") for i in pictures) >= 30
    assert sum(i.file_size for i in pictures) < 2e6


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 40e6


def test_elsewhere_is_elsewhere_and_has_no_network(elsewhere: Path, tmp_path: Path) -> None:
    code = """
import patchword, socket
print(patchword.__file__)
try:
    socket.create_connection(("192.0.2.1", 80))
except OSError as error:
    print(error)
"""
    expected = f"{elsewhere / 'patchword' / '__init__.py'}\nthis test forbids the network\n"
    assert run(elsewhere, tmp_path, sys.executable, "-c", code) == expected


def test_the_demo_runs_elsewhere(elsewhere: Path, tmp_path: Path) -> None:
    run(elsewhere, tmp_path, "patchword", "demo")
    page = (tmp_path / "demo-report" / "index.html").read_text()
    assert 'src="data:image/' in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)


def test_python_m_patchword_is_the_same_command(elsewhere: Path, tmp_path: Path) -> None:
    by_name = run(elsewhere, tmp_path, "patchword", "models", "--json")
    assert "openai/clip-vit-base-patch32" in by_name
    assert run(elsewhere, tmp_path, sys.executable, "-m", "patchword", "models", "--json") == (
        by_name
    )


def test_the_version_has_one_source(wheel: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert patchword.__version__ == version
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        assert email.message_from_bytes(archive.read(name))["Version"] == version
    assert not [p for p in SOURCE.rglob("*.py") if f'"{version}"' in p.read_text()]


def test_public_names() -> None:
    assert patchword.__all__ == PUBLIC
    functions = [name for name in PUBLIC if inspect.isfunction(getattr(patchword, name))]
    assert functions == [
        "export",
        "find_images",
        "inspector",
        "load",
        "open_index",
        "save",
    ]  # all else are types that these lead to
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    raised = {name for name, kind in kinds.items() if issubclass(kind, BaseException)}
    assert len(raised) > 10
    assert raised <= set(PUBLIC)
    assert set(PUBLIC) <= set(dir(patchword))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name: str) -> None:
    thing = getattr(patchword, name)
    text = inspect.cleandoc(thing.__doc__ or "")
    # A dataclass without a docstring gets its signature for one.
    assert len(text) > 20
    assert not text.startswith(f"{name}(")


def test_importing_patchword_waits_for_no_torch() -> None:
    code = "import patchword, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
