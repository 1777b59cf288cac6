"""The application as a deployment of Ray Serve: replicas behind one address, each with its own
models, threads and queues. Ray starts more replicas under load."""

from __future__ import annotations

import os
import re
import threading
from typing import Any, NamedTuple

from patchword.errors import PatchwordError
from patchword.index.cluster import ray_connection, storage_environment
from patchword.optional import optional
from patchword.serve.settings import Settings

NAME = "patchword"
WAITING_BATCHES = 4  # of a replica, beyond which Ray starts another one


class Count(NamedTuple):
    """Number of replicas."""

    least: int
    most: int


def count(text: str) -> Count:
    """Parse "3" or "1-8". Raises PatchwordError for anything else."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    least = int(match[1]) if match else 0
    most = int(match[2] or least) if match else 0
    if not 1 <= least <= most:
        raise PatchwordError(f"--replicas {text}: give a number, or the least and the most: 1-8")
    return Count(least, most)


class Running:
    """A context in which the deployment runs."""

    def __init__(self, settings: Settings, address: str, replicas: Count) -> None:
        self.settings, self.replicas = settings, replicas
        self._connection = ray_connection(address)

    def __enter__(self) -> Running:
        serve: Any = optional("ray.serve", "ray", "serve --ray", PatchwordError)
        self._serve = serve
        ray = self._connection.__enter__()
        try:
            http = {"host": self.settings.host, "port": self.settings.port}
            serve.start(http_options=http)
            serve.run(self._deployment(serve, ray), name=NAME, route_prefix="/")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._serve.shutdown()
        self._connection.__exit__(None, None, None)

    def _deployment(self, serve: Any, ray: Any) -> Any:
        settings, environment = self.settings, storage_environment()

        def application() -> Any:
            os.environ.update(environment)
            from patchword.serve.app import create_app

            return create_app(settings)

        gpus = ray.cluster_resources().get("GPU", 0)
        least, most = self.replicas
        scale: dict[str, Any] = {"num_replicas": least}
        if most > least:
            scale = {
                "autoscaling_config": {
                    "min_replicas": least,
                    "max_replicas": most,
                    "target_ongoing_requests": settings.batch * WAITING_BATCHES,
                }
            }
        return serve.deployment(
            serve.ingress(application)(),
            name=NAME,
            max_ongoing_requests=settings.waiting,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if gpus else 0},
            **scale,
        ).bind()


def run(settings: Settings, address: str, replicas: Count) -> None:
    """Serve until SIGINT or SIGTERM."""
    import signal

    ended = threading.Event()
    with Running(settings, address, replicas):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
