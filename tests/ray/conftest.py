"""An object store and a Ray cluster on this machine: `make check-ray`."""

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_processes import free_ports
from pyarrow import fs
from small_models import tiny_bundle, tiny_clip

import patchword

BUCKET = "photos"


# Where two writers put a file on the condition that there is none, moto lets both: it looks and
# writes in two steps, in threads. S3 lets one.
ONE_AT_A_TIME = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
store = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", int(sys.argv[1]), store, threaded=False)
"""


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of the store: moto, in a process of its own."""
    [port] = free_ports(1)
    program = shutil.which(os.environ.get("MOTO_SERVER", "moto_server"))
    assert program, "no moto_server: make check-ray installs it"
    command = [str(Path(program).absolute().with_name("python")), "-c", ONE_AT_A_TIME, str(port)]
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


@pytest.fixture(scope="session")
def raylets() -> Iterator:
    """A cluster of a head without CPUs and two raylets of one each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(Path(patchword.__file__).parents[1]))
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small model, which workers load by its name."""
    return str(patchword.save(tiny_bundle(tiny_clip()), tmp_path_factory.mktemp("tiny") / "model"))
