"""`serve --ray`: the same answers as without, from replicas that Ray starts and ends."""

import base64
import json
import urllib.request
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from forked_processes import free_ports
from index_photos import picture
from typer.testing import CliRunner

import patchword
from patchword.cli import app
from patchword.errors import PatchwordError
from patchword.serve import replicas
from patchword.serve.app import create_app
from patchword.serve.settings import Settings


def asked(address: str, path: str, body: object = None) -> dict:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def test_replicas_answer_as_one_process(raylets, model: str, tmp_path: Path) -> None:
    [port] = free_ports(1)
    image = base64.b64encode(picture(tmp_path / "a.png", 1).read_bytes()).decode()
    body = {"input": ["a red ring", f"data:image/png;base64,{image}"]}
    index = patchword.open_index(tmp_path / "x.index")
    index.add(tmp_path / "a.png", patchword.load(model))
    settings = Settings(index=str(tmp_path / "x.index"), port=port)
    with TestClient(create_app(settings), base_url=f"http://127.0.0.1:{port}") as client:
        alone = client.post("/v1/embeddings", json=body).json()
    with replicas.Running(settings, raylets.address, replicas.count("1-2")):
        address = f"http://127.0.0.1:{port}"
        found = asked(address, "/v1/embeddings", body)
        assert len(found["data"]) == 2
        for one, other in zip(found["data"], alone["data"], strict=True):
            assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-6)
        assert asked(address, "/v1/search", {"text": "a"})["hits"][0]["path"].endswith("a.png")
        assert asked(address, "/health")["healthy"]
    with pytest.raises(OSError, match="refused"):
        asked(f"http://127.0.0.1:{port}", "/health")


def test_counts() -> None:
    assert replicas.count("3") == (3, 3)
    assert replicas.count("1-8") == (1, 8)
    for wrong in ("0", "8-1", "many", "-1"):
        with pytest.raises(PatchwordError, match="give a number, or the least and the most"):
            replicas.count(wrong)
    refused = CliRunner().invoke(app, ["serve", "--replicas", "2"])
    assert refused.exit_code == 2
    assert "--replicas needs --ray" in refused.output
