"""Load a server: cheap HTTP connections, and the server's process."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Request = tuple[str, dict[str, Any]]


def packed(request: Request) -> bytes:
    """An HTTP request as bytes."""
    path, body = request
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


class Client:
    """A persistent HTTP connection that uses little CPU, which the server needs."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None

    async def send(self, content: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 if the connection was closed instead."""
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            self.writer.write(content)
            head = await self.reader.readuntil(b"\r\n\r\n")
            fields = dict(
                line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line
            )
            body = await self.reader.readexactly(int(fields.get(b"content-length", b"0")))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""
        if fields.get(b"connection") == b"close":
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        if self.reader is not None:
            self.writer.close()
            self.reader = None


@contextlib.contextmanager
def server(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server process, and wait until it is ready on a port. Ends it after the `with`
    block."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        try:
            for _ in range(1200):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"the server ended: {log.read().decode()[-2000:]}")
                if asyncio.run(_ready(port)):
                    break
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait()


async def _ready(port: int) -> bool:
    try:
        status, _ = await Client(port).send(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    except OSError:
        return False
    return status == 200


async def load(port: int, requests: list[bytes], clients: int) -> tuple[float, list[float]]:
    """Send all requests by so many clients. Returns the seconds in total, and of each request."""
    remaining = iter(requests)
    latencies: list[float] = []

    async def work() -> None:
        client = Client(port)
        for content in remaining:
            start = time.perf_counter()
            status, body = await client.send(content)
            assert status == 200, (status, body[:300])
            latencies.append(time.perf_counter() - start)
        client.close()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    return time.perf_counter() - start, latencies


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server_socket:
        return int(server_socket.getsockname()[1])


def resident(pid: int) -> int:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024
