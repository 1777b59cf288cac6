"""An object store on this machine with S3's protocol, empty for each test: `make check-ray`."""

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
from processes import free_ports
from pyarrow import fs

BUCKET = "photos"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of the store: moto, in a process of its own."""
    [port] = free_ports(1)
    command = [os.environ.get("MOTO_SERVER", "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, "moto_server ended"
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait()


@pytest.fixture
def bucket(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """s3://photos, an empty bucket, with credentials in the environment."""
    values = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "PATCHWORD_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    store = fs.S3FileSystem(endpoint_override=server, allow_bucket_creation=True)
    store.create_dir(BUCKET)
    store.delete_dir_contents(BUCKET)
    return f"s3://{BUCKET}"
