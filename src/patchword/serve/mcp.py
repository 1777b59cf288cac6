"""The models and the photos as tools of assistants: the Model Context Protocol."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import Field, ValidationError

from patchword.errors import PatchwordError
from patchword.images import pages
from patchword.images.urls import is_url
from patchword.index import members
from patchword.index.schema import ID_BITS, id_of
from patchword.optional import optional
from patchword.options import nearest
from patchword.serve import bodies, collection
from patchword.serve.decoding import PhotoId
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import answer, captions, labels_of, only
from patchword.serve.localisation import located, places
from patchword.serve.queue import deadline
from patchword.serve.request_warnings import heard
from patchword.serve.server import Server

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.tools import Tool
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

INSTRUCTIONS = (
    "Looks at images with small vision-language models: finds photos of an index by words, says "
    "which labels fit, where things are, describes, answers questions. Answers are short; where a "
    "model says in `warnings` that it was not trained on such images or words, do not rely on them."
)
LONGEST = 4096  # characters of a path
ROOM = 1000  # values of a message beside the items of a call
NO_BASE64 = {".", os.sep}  # what most paths have
# What the base64 of JPEG, PNG, WebP, GIF, TIFF and BMP begins with: with a / it looks like a path.
BASE64 = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "Qk")
Hits = Annotated[int, Field(ge=1, le=1000)]
IMAGE = "An image is a data URI, base64, or the id or path of a photo that a search gave"


class Tools:
    """What assistants may do. paths: whether images may be files of this machine, as they may for
    an assistant that runs on it."""

    def __init__(self, server: Server, paths: bool) -> None:
        self.server = server
        self.paths = paths

    async def search(self, text: str, k: Hits = 5, where: str | None = None) -> dict[str, Any]:
        """Find photos of the index by words, the best first: id, path, and the cosine as score;
        `gone` where the file is not there any more. where: a condition in SQL on its columns."""
        body = collection.Search(text=text, k=k, where=where, without=None, offset=0)
        return await self._said(collection.found(self.server, body))

    async def classify(self, image: str, labels: list[str]) -> dict[str, Any]:
        """How probable each of the labels is for an image, the best first."""

        async def work() -> dict[str, Any]:
            self.server.checked(labels=labels)
            opened = await self.server.models.get(None, "classify")
            known = await labels_of(self.server, opened, labels)
            given = await self._image(image)
            return known.told(only(await self.server.embedded(opened, [given])))

        return await self._said(work(), len(labels))

    async def caption(self, image: str) -> dict[str, Any]:
        """Describe an image in a sentence."""

        async def work() -> dict[str, Any]:
            opened = await self.server.models.get(None, "caption")
            found = only(await captions(self.server, opened, [await self._image(image)]))
            return {"caption": found.text}

        return await self._said(work())

    async def ask(
        self, image: str, question: str, answers: list[str] | None = None
    ) -> dict[str, Any]:
        """Answer a question about an image in a few words. answers: to choose from."""

        async def work() -> dict[str, Any]:
            if answers is not None:
                self.server.checked(answers=answers)
            opened = await self.server.models.get(None, "ask")
            given = await self._image(image)
            found = await answer(self.server, opened, given, question, answers)
            ranking = found.ranking[0].probability if found.ranking else found.probability
            return {"answer": found.text, "probability": ranking}

        return await self._said(work())

    async def locate(self, image: str, texts: list[str]) -> dict[str, Any]:
        """Where in an image each text is: boxes (x1, y1, x2, y2) in pixels; none where it is not
        there."""

        async def work() -> dict[str, Any]:
            self.server.checked(texts=texts)
            opened = await self.server.models.get(None, "locate")
            self.server.readable(texts)
            given = await self._image(image)
            return located(await places(self.server, opened, given, texts), masks=False)

        return await self._said(work(), len(texts))

    async def _image(self, given: str) -> Any:
        """An image as endpoints take it."""
        if self.paths and given.startswith("file://"):
            given = url2pathname(urlsplit(given).path)
        if given.isdecimal() and len(given) <= 16 and int(given) < 1 << ID_BITS:
            return PhotoId(id=int(given))
        if len(given) > LONGEST or given.startswith("data:") or is_url(given):
            return given
        photos, run = self.server.collection, self.server.decoder.run
        if photos is not None and os.sep in given and await run(lambda: photos.holds(given)):
            return PhotoId(id=id_of(given))
        if not self.paths:
            return given
        if os.path.exists((members.split(given) or pages.split(given))[0]):
            found = await run(lambda: members.content(given))
            return Path(given) if isinstance(found, str) else found
        if set(given) & NO_BASE64 and not given.startswith(BASE64):
            raise RefusalError(400, "image", f"{given}: no such file")
        return given

    async def _said(self, work: Awaitable[dict[str, Any]], items: int = 1) -> dict[str, Any]:
        """What a tool answers, with its warnings. Raises the protocol's error."""
        from mcp.server.mcpserver.exceptions import ToolError

        deadline.set(time.monotonic() + self.server.settings.seconds)
        try:
            with heard() as warnings, self.server.admission.of(items):
                found = await work
        except (PatchwordError, RefusalError) as error:
            raise ToolError(str(error)) from error
        return found | ({"warnings": warnings} if warnings else {})


def tools_server(server: Server, paths: bool = False) -> MCPServer:
    """A server of the protocol with these tools; paths: see `Tools`."""
    mcp = optional("mcp.server.mcpserver", "mcp", "mcp", PatchwordError)
    tools = Tools(server, paths)
    files = ", or the path of a file" if paths else ""
    named: Sequence[Any] = (tools.classify, tools.caption, tools.ask, tools.locate)
    every = [strict(tool, f" {IMAGE}{files}.") for tool in named]
    if server.collection is not None:
        every.append(strict(tools.search))
    found: MCPServer = mcp.MCPServer(
        "patchword", instructions=INSTRUCTIONS, version=version("patchword"), log_level="WARNING",
        tools=every,
    )  # fmt: skip
    return found


def strict(function: Any, more: str = "") -> Tool:
    """A method as a tool, described by its docstring and `more`, that refuses arguments that it
    does not have, which the library leaves out without a word, and others in one sentence."""
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.mcpserver.tools import Tool

    class Strict(Tool):
        async def run(self, arguments: dict[str, Any], *given: Any, **more: Any) -> Any:
            try:
                self.fn_metadata.validate_arguments(arguments)
            except ValidationError as error:
                raise ToolError(wrong_argument(self.name, self.parameters, error)) from error
            return await super().run(arguments, *given, **more)

    words = " ".join((function.__doc__ or "").split())
    tool = Strict.from_function(function, description=f"{words}{more}")
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema()
    return tool


def wrong_argument(tool: str, parameters: Mapping[str, Any], error: ValidationError) -> str:
    """What is wrong with the first argument that is. parameters: of the tool, as JSON schema."""
    first, known = error.errors()[0], parameters["properties"]
    name = str(first["loc"][0]) if first["loc"] else "arguments"
    takes = f"{tool} takes {', '.join(known)}"
    if first["type"] == "extra_forbidden":
        return f"{tool} has no argument {name!r}{nearest(name, known)}; {takes}"
    if first["type"] == "missing":
        return f"{tool} needs the argument {name}; {takes}"
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}; {takes}"


def bounded(app: ASGIApp, items: int) -> ASGIApp:
    """The protocol over HTTP, behind a look at each message: its library reads JSON of any size,
    that in texts too, and names each value that is wrong, while nobody else is answered. items: of
    a request, at most."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()  # all of it, as the gate gives it
        await bodies.read(message["body"], items + ROOM, inside=True)
        again = [message]

        async def given() -> Message:
            return again.pop() if again else await receive()

        await app(scope, given, send)

    return call
