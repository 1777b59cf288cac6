"""Hub ids, with a small hub on this machine: only the files that are needed are fetched, once."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from forked_processes import set_environment, start
from safetensors.torch import save_file
from small_models import tiny_clip

from patchword import checkpoints, models
from patchword.bundle import Bundle, make
from patchword.checkpoints import hub
from patchword.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The part of the hub's API that its client uses, for repositories given as folders."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        folder = self.server.repositories.get(name)
        if folder is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif api and "tree" in parts:
            files = [{"type": "file", "path": n, "size": p.stat().st_size, "oid": oid(p)}
                     for n, p in files_in(folder)]  # fmt: skip
            self.send(200, json.dumps(files).encode(), {}, body)
        elif api:
            siblings = [{"rfilename": name} for name, _ in files_in(folder)]
            info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
            info |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
            self.send(200, json.dumps(info).encode(), {}, body)
        else:
            path = folder.joinpath(*parts[4:])  # organisation/name/resolve/revision/...
            if not path.is_file():
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
                return
            if body:
                self.server.sent.append(path.relative_to(folder).as_posix())
            headers = {"ETag": f'"{oid(path)}"', "X-Repo-Commit": COMMIT}
            self.send(200, path.read_bytes(), headers, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def files_in(folder: Path) -> list[tuple[str, Path]]:
    """The files of a repository by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in paths]


def oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    checkpoints.save(small(0), tmp_path / "repository")
    for name in ("pytorch_model.bin", "flax_model.msgpack", "README.md", "big.onnx"):
        (tmp_path / "repository" / name).write_bytes(b"not needed")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "README.md").write_text("no weights")
    with Hub({"org/tiny": tmp_path / "repository", "org/bare": tmp_path / "bare"}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def print_loaded(sources: Sequence[str]) -> None:
    """Load each source; print its name and fingerprint, or the error."""
    for argument in sources:
        source, _, subfolder = argument.partition(" ")
        try:
            model = checkpoints.load(source, subfolder=subfolder or None)
            print("loaded", model.name, model.fingerprint)
        except CheckpointError as error:
            print("error", error)


def assert_client_not_imported() -> None:
    """The hub's client reads its settings when it is imported."""
    assert "huggingface_hub" not in sys.modules


def load(home: Path, *sources: str, **settings: str) -> list[str]:
    """The output of `print_loaded` in a process of its own."""
    unset = {name: None for name in os.environ if name.startswith("HF_")}
    env = {**unset, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **settings}
    output = home.parent / "output"
    steps = (
        assert_client_not_imported,
        partial(set_environment, env),
        partial(print_loaded, sources),
    )
    process = start(output, *steps)
    process.join()
    assert not process.exitcode, Path(f"{output}.err").read_text()
    return Path(f"{output}.out").read_text().splitlines()


def test_download_then_offline(server: Hub, tmp_path: Path) -> None:
    expected = checkpoints.load(tmp_path / "repository").fingerprint
    home = tmp_path / "home"
    loaded, bare, missing = load(
        home, "org/tiny", "org/bare", "org/missing", HF_ENDPOINT=server.url
    )
    assert loaded == f"loaded org/tiny {expected}"
    assert sorted(server.sent) == ["config.json", "model.safetensors"]
    assert bare.startswith("error org/bare on the hub has no weights")
    assert missing == "error org/missing is neither a path here nor a repository on the hub"
    server.sent.clear()
    offline = load(home, "org/tiny", HF_HUB_OFFLINE="1")
    unreachable = load(home, "org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline == unreachable == [f"loaded org/tiny {expected}"]
    assert server.sent == []


def small(seed: int) -> Bundle:
    torch.manual_seed(seed)
    config = tiny_clip()
    return make(models.build(config), config, None, "")


@pytest.fixture
def layouts(tmp_path: Path) -> Iterator[Hub]:
    """A hub with a model of sentence-transformers', a pipeline, and an adapter of a third model."""
    torch.manual_seed(0)
    base, sentences, pipeline, adapter = (tmp_path / name for name in ("b", "s", "p", "a"))
    checkpoints.save(small(1), base)
    checkpoints.save(small(2), sentences / "0_CLIPModel")
    listed = [{"path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (sentences / "modules.json").write_text(json.dumps(listed))
    checkpoints.save(small(3), pipeline / "text_encoder")
    checkpoints.save(small(4), pipeline / "text_encoder_2")
    index = {"text_encoder": ["transformers", "CLIPTextModel"]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    width = small(1).network.image.blocks[0].attn.proj.weight.shape[0]
    name = "base_model.model.image.blocks.0.attn.proj.lora_"
    save_file(
        {f"{name}A.weight": torch.ones(2, width), f"{name}B.weight": torch.ones(width, 2)},
        adapter / "adapter_model.safetensors",
    )
    for folder in (sentences, pipeline, adapter):
        (folder / "README.md").write_text("not needed")
    names = {"org/base": base, "org/st": sentences, "org/pipeline": pipeline, "org/lora": adapter}
    with Hub(names) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_models_in_folders_and_adapters(layouts: Hub, tmp_path: Path) -> None:
    prints = {n: small(n).fingerprint for n in (1, 2, 3, 4)}
    sources = ["org/st", "org/pipeline", "org/pipeline text_encoder", "org/lora"]
    home = tmp_path / "home"
    sentences, pipeline, part, lora = load(home, *sources, HF_ENDPOINT=layouts.url)
    assert sentences == f"loaded org/st {prints[2]}"
    assert pipeline.endswith(
        "say which with subfolder=, or --subfolder: text_encoder (CLIPTextModel)"
    )
    assert part == f"loaded org/pipeline {prints[3]}"
    expected = checkpoints.load(tmp_path / "b", adapter=tmp_path / "a").fingerprint
    assert expected not in prints.values()
    assert lora == f"loaded org/lora {expected}"
    model = ["config.json", "model.safetensors"]
    wanted = {"modules.json", "model_index.json", "adapter_config.json", *model}
    wanted |= {f"{folder}/{name}" for folder in ("0_CLIPModel", "text_encoder") for name in model}
    assert set(layouts.sent) == wanted | {"adapter_model.safetensors"}
    layouts.sent.clear()
    again = load(home, sources[0], *sources[2:], HF_HUB_OFFLINE="1")
    assert again == [sentences, part, lora]
    missing, other = load(
        home, "org/pipeline text_encoder_2", "org/st x", HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert missing.startswith("error org/pipeline is not in the hub's cache and cannot be")
    assert other.startswith("error org/st is not in the hub's cache")
    assert layouts.sent == []


def test_offline_and_not_cached(tmp_path: Path) -> None:
    (line,) = load(tmp_path, "org/tiny", HF_HUB_OFFLINE="1")
    assert line.startswith("error org/tiny is not in the hub's cache and cannot be downloaded (")
    for advice in (
        "hf download org/tiny",
        "HF_HOME",
        "HF_ENDPOINT",
        'patchword.load("demo") needs no network',
    ):
        assert advice in line


def test_a_folder_of_the_cache(tmp_path: Path) -> None:
    """The revision of its main branch is read, else the only revision."""
    folder = tmp_path / "models--org--tiny"
    for seed, revision in enumerate(("1a", "2b")):
        checkpoints.save(small(seed), folder / "snapshots" / revision)
    with pytest.raises(CheckpointError, match=r"give one of its revisions: .*/1a, .*/2b$"):
        checkpoints.load(folder)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("2b")
    main = checkpoints.load(folder)
    assert main.fingerprint == checkpoints.load(folder / "snapshots" / "2b").fingerprint
    assert main.name == str(folder / "snapshots" / "2b")
    (folder / "refs" / "main").write_text("3c")  # which is not there
    with pytest.raises(CheckpointError, match="give one of its revisions"):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("openai/clip-vit-base-patch32", True),
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", True),
        ("./clip", False),
        ("../clip", False),
        ("/models/clip", False),
        ("a/b/c", False),
        ("clip", False),
        ("models/clip.pt", False),
        ("models/clip.safetensors", False),
    ],
)
def test_which_sources_are_hub_ids(source: str, expected: bool) -> None:
    assert hub.is_id(source) is expected
