"""serve, mcp: models and an index of photos, over HTTP and as tools of assistants."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.options import DeviceOption, DtypeOption
from patchword.cli.output import notes, refuse
from patchword.errors import PatchwordError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from patchword.serve.settings import Settings

MIB = 1 << 20

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A model; repeat for more. By default that of the index, or demo and demo-blip.",
    ),
]


def serve(
    index: Annotated[
        str | None,
        typer.Argument(
            metavar="[INDEX]",
            help="An index of photos, to be searched and shown: a folder or s3://bucket/name.",
        ),
    ] = None,
    model: ModelsOption = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; any address other than this machine's own needs "
            "--api-key."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0: any free port.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="PATCHWORD_API_KEY",
            show_envvar=True,
            show_default=False,
            help="The key that clients must send.",
        ),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Allow clients to name images by https address.")
    ] = False,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest request, MiB.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest image, pixels.")] = 100_000_000,
    max_items: Annotated[
        int, typer.Option(min=1, help="Most images and texts in a request.")
    ] = 256,
    max_characters: Annotated[
        int, typer.Option(min=1, help="Most characters in all texts of a request.")
    ] = 100_000,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Longest time of a request, in seconds.")
    ] = 60.0,
    waiting: Annotated[
        int,
        typer.Option(
            min=1, help="Most images and texts that may wait; further requests are refused at once."
        ),
    ] = 1024,
    batch: Annotated[
        int, typer.Option(min=1, help="Most images that a model processes together.")
    ] = 32,
    memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="MIB",
            help="Most MiB of weights in memory; where models need more, the least recently used "
            "are unloaded.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|ADDRESS",
            help="Serve from a Ray cluster: auto, the cluster that this machine is part of; "
            "local, a new one of this machine alone; or the one at an address.",
        ),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="N|LEAST-MOST",
            help="With --ray: the number of copies of the models, or two numbers between which it "
            "follows the load; by default 1.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
) -> None:
    """Serve models and an index of photos over HTTP, to programs and to the browser.

    It has endpoints for programs written for OpenAI's or Hugging Face's API. /openapi.json
    describes all endpoints.
    """
    from patchword.serve.settings import Settings

    settings = Settings(
        index=index, models=tuple(model or ()), device=device, dtype=dtype, host=host, port=port,
        api_key=api_key, allow_urls=allow_urls, max_bytes=max_megabytes * MIB,
        max_pixels=max_pixels, max_items=max_items, max_characters=max_characters,
        seconds=seconds, waiting=waiting, batch=batch,
        memory=None if memory is None else memory * MIB,
    )  # fmt: skip
    if replicas and not ray:
        refuse("--replicas needs --ray")
    listening = listen(host, port)
    if ray:
        run_replicas(settings, ray, replicas or "1", listening)
        return
    with listening:
        run(settings, listening)


def mcp(
    index: Annotated[
        str | None,
        typer.Argument(
            metavar="[INDEX]",
            help="An index of photos, to be searched: a folder or s3://bucket/name.",
        ),
    ] = None,
    model: ModelsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
) -> None:
    """Give assistants tools over the Model Context Protocol, on standard input and output.

    The tools are search, classify, caption, ask and locate. An assistant starts this command
    itself; name it in the assistant's settings. `patchword serve` has the same tools at /mcp.
    """
    import asyncio

    from patchword.optional import optional

    optional("mcp.server.mcpserver", "mcp", "mcp", PatchwordError)
    _check_libraries("mcp")
    from patchword.serve.app import make_server
    from patchword.serve.mcp import tools_server
    from patchword.serve.settings import Settings

    settings = Settings(index=index, models=tuple(model or ()), device=device, dtype=dtype)
    server = make_server(settings)
    _check_models(settings, server.models.names)
    asyncio.run(tools_server(server, paths=True).run_stdio_async())


def _check_libraries(command: str) -> None:
    """Raises PatchwordError for a library that the server needs and that cannot be imported."""
    from patchword.optional import optional

    for library in ("uvicorn", "httptools", "fastapi", "prometheus_client"):
        optional(library, "serve", command, PatchwordError)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises PatchwordError where that is impossible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise PatchwordError(f"{host}: no address of this machine: {error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        other = port + 1 if 1024 <= port < 65535 else 8001
        raise PatchwordError(
            f"port {port} of {host} cannot be used: {error.strerror}; try --port {other}"
        ) from error
    return listening


def run(settings: Settings, listening: socket.socket) -> None:
    """Serve until the process is stopped."""
    _check_libraries("serve")
    import uvicorn

    from patchword.serve.app import create_app

    app = create_app(settings)
    _check_models(settings, app.state.server.models.names)
    _print_address(app.state.server.models.names, listening)
    handler = logging.StreamHandler()  # stderr
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("patchword.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    uvicorn.Server(configured(app)).run(sockets=[listening])


def configured(app: FastAPI) -> uvicorn.Config:
    """The settings of uvicorn for an application."""
    import uvicorn

    from patchword.serve.connections import Connection

    return uvicorn.Config(
        app, http=Connection, ws="none", log_level="warning", access_log=False,
        server_header=False, lifespan="on", timeout_graceful_shutdown=10,
    )  # fmt: skip


def run_replicas(settings: Settings, address: str, count: str, listening: socket.socket) -> None:
    """Serve from a cluster until the process is stopped."""
    from dataclasses import replace

    _check_libraries("serve")
    from patchword.serve import replicas
    from patchword.serve.app import make_server

    number = replicas.count(count)
    server = make_server(settings)
    names = server.models.names
    server.close()
    settings = replace(settings, port=listening.getsockname()[1])
    _check_models(settings, names)
    with listening:
        _print_address(names, listening)
    replicas.run(settings, address, number)


def _check_models(settings: Settings, models: Sequence[str]) -> None:
    """Raise for a device, number type or model that does not exist, so that the server does not
    start, instead of failing at the first request."""
    from patchword.checkpoints import locate
    from patchword.engines.device import as_device, as_dtype

    as_device(settings.device)
    as_dtype(settings.dtype)
    for name in models:
        locate(name)


def _print_address(models: Sequence[str], listening: socket.socket) -> None:
    """Print which models are served, and where."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    notes().print(f"serving {', '.join(models)} on http://{shown}:{port} (Ctrl+C ends it)")


COMMANDS = (serve, mcp)
