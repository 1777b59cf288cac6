"""`index --ray` on a cluster of several raylets: the index of one process, whatever dies."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_photos import picture, twelve_photos
from pyarrow import fs
from typer.testing import CliRunner

import patchword
from patchword.cli import app
from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.index import Index, cluster
from patchword.index.adding import Adding
from patchword.index.schema import id_of
from patchword.index.sources import Listing

PHOTOS = 48

DRIVER = """
import os, signal, sys
import patchword
photos, into, model, address, last = sys.argv[1:]
def progress(done, total):
    print(done, total, flush=True)
    if done >= int(last):
        os.kill(os.getpid(), signal.SIGKILL)
index = patchword.open_index(into)
report = index.add(photos, patchword.load(model), progress, batch=4, ray=address)
print(report.added, len(report.failed))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 photos in folders, a tar and a parquet of some more, and broken ones in each."""
    folder = twelve_photos(tmp_path_factory.mktemp("some") / "photos")
    for number in range(PHOTOS - 12):
        picture(folder / "more" / f"{number}.png", 500 + number)
    for number in range(3):
        (folder / f"broken {number}.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def alone(photos: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The index that one process makes."""
    index = patchword.open_index(tmp_path_factory.mktemp("alone") / "x.index")
    index.add(photos, patchword.load(model), batch=4)
    return index


def same(index: Index, alone: Index) -> None:
    """Whether two indexes hold the same."""
    assert index.paths() == alone.paths()
    assert [str(error) for error in index.errors()] == [str(error) for error in alone.errors()]
    kept = [name for name in alone.columns if name != "vector"]
    numbers = [id_of(path) for path in alone.paths()]
    assert index.rows(numbers, kept) == alone.rows(numbers, kept)
    np.testing.assert_allclose(
        [row["vector"] for row in index.rows(numbers, ["vector"])],
        [row["vector"] for row in alone.rows(numbers, ["vector"])],
        rtol=0,
        atol=1e-6,
    )


def test_a_driver_and_a_raylet_are_killed(
    raylets, photos: Path, model: str, alone: Index, tmp_path: Path
) -> None:
    into = str(tmp_path / "x.index")
    arguments = [str(photos), into, model, raylets.address]
    killed = subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments, "12"], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    index = patchword.open_index(into)
    before = len(index)
    assert 0 < before < PHOTOS
    victim = [*raylets.worker_nodes][-1]
    steps: list[int] = []

    def progress(done: int, total: int) -> None:
        if not steps:
            assert total < PHOTOS  # what is there is not done again
            raylets.remove_node(victim, allow_graceful=False)
        steps.append(done)

    report = index.add(photos, patchword.load(model), progress, batch=4, ray=raylets.address)
    assert report.added + report.unchanged == PHOTOS
    assert report.unchanged >= before  # the actors may have ended a block after the driver
    assert len(report.failed) == 3
    assert len(steps) > 1
    same(index, alone)
    raylets.add_node(num_cpus=1)


def test_tars_and_tables_and_what_is_there(
    raylets, photos: Path, model: str, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(inside / "some.tar", "w") as tar:
        for number in range(6):
            tar.add(photos / "more" / f"{number}.png", f"{number}.png")
        tar.add(photos / "broken 0.jpg", "broken.jpg")
        (inside / "0.txt").write_text("a caption")
        tar.add(inside / "0.txt", "0.txt")
    shutil.move(inside / "0.txt", tmp_path)
    contents = [(photos / "more" / f"{n}.png").read_bytes() for n in range(6, 12)] + [b"none"]
    pq.write_table(pa.table({"image": contents, "price": range(7)}), inside / "shop.parquet")
    given = [inside / "some.tar", inside / "shop.parquet", photos / "more"]
    loaded = patchword.load(model)
    indexes = [patchword.open_index(tmp_path / name) for name in ("alone", "spread")]
    alone = indexes[0].add(given, loaded, batch=4)
    spread = indexes[1].add(given, loaded, batch=4, ray=raylets.address)
    assert (spread.added, len(spread.failed)) == (alone.added, len(alone.failed)) == (48, 2)
    same(indexes[1], indexes[0])
    again = indexes[1].add(given, loaded, ray=raylets.address)
    assert (again.added, again.unchanged, again.not_retried) == (0, 48, 2)


def test_the_command_into_object_storage(
    raylets, photos: Path, model: str, alone: Index, bucket: str
) -> None:
    into, more = f"{bucket}/x.index", f"{bucket}/more"
    store = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
    fs.copy_files(str(photos / "more"), more[5:], destination_filesystem=store)
    command = ["index", str(photos), more, "--into", into]
    done = CliRunner().invoke(app, [*command, "--model", model, "--ray", raylets.address])
    assert done.exit_code == 1, done.output
    assert f"{into}: 84 images (84 added, 0 unchanged, 3 failed)" in done.output
    assert patchword.open_index(into).remove(more) == PHOTOS - 12
    same(patchword.open_index(into), alone)


def test_nothing_is_made_of_nothing(raylets, photos: Path, model: str, tmp_path: Path) -> None:
    into = tmp_path / "x.index"
    index = patchword.open_index(into)
    report = index.add(photos / "broken 0.jpg", patchword.load(model), ray=raylets.address)
    assert (report.added, len(report.failed)) == (0, 1)
    assert not (into / "images.lance").exists()


def test_says_what_is_wrong(photos: Path, model: str, alone: Index, tmp_path: Path) -> None:
    loaded = patchword.load(model)
    adding = Adding(alone._store, alone._failures, loaded, lambda: None)
    job = cluster.make_job(adding, patchword.load, alone._store.required_metadata())
    file = File(str(tmp_path / "not on this machine.jpg"), 1, 1)
    block = cluster._block([file], Listing([file]))

    def problem(job: cluster.Job) -> str:
        [result] = cluster.Actor(job)(block)["result"].to_pylist()
        return cluster._problem(pickle.loads(result))

    assert problem(job) == ""  # it is not here either: an error of that image alone
    Path(file.path).touch()
    actor = cluster.Actor(job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster.members, "gone", lambda path: True)
        [result] = actor(block)["result"].to_pylist()
    unseen = cluster._problem(pickle.loads(result))
    assert "a worker of the cluster does not see this file" in unseen
    for change, said in (
        ({"mark": "another"}, "not the index that this worker sees there"),
        ({"index": str(tmp_path / "x.index")}, "not the index that this worker sees there"),
        ({"fingerprint": "another"}, "is another model here"),
        ({"model": "/nowhere/at all"}, "/nowhere/at all"),
    ):
        assert said in problem(replace(job, **change))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.is_initialized", lambda: False)
        with pytest.raises(IndexStoreError, match="no cluster of Ray there"):
            alone.add(photos, loaded, ray="127.0.0.1:9", retry=True)
    for options in (["--watch"], ["--device", "cpu"]):
        refused = CliRunner().invoke(app, ["index", str(photos), "--ray", "auto", *options])
        assert refused.exit_code == 2


def test_a_cluster_that_wants_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise ConnectionError("no") from RuntimeError("RPC error: InvalidAuthToken: missing")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    with (
        pytest.raises(IndexStoreError, match="wants its token: set RAY_AUTH_MODE=token"),
        cluster.ray_connection("auto"),
    ):
        pass
