"""The models and the photos as tools of assistants: the Model Context Protocol."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Mapping
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
from patchword.serve.jobs import answer_question, embed_labels, single_result, write_captions
from patchword.serve.localisation import locate_texts, regions_record
from patchword.serve.queue import deadline
from patchword.serve.request_warnings import collect_warnings
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
MAX_PATH = 4096  # characters
EXTRA_VALUES = 1000  # values that a message may have besides the items of a call
NOT_BASE64 = {".", os.sep}  # most paths have one of them
# The beginnings of JPEG, PNG, WebP, GIF, TIFF and BMP in base64, which may contain a / like a path.
BASE64_BEGINNINGS = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "Qk")
Hits = Annotated[int, Field(ge=1, le=1000)]
IMAGE = "An image is a data URI, base64, or the id or path of a photo that a search gave"


class Tools:
    """The tools. paths: whether images may be files of this machine, for an assistant that runs on
    it."""

    def __init__(self, server: Server, paths: bool) -> None:
        self.server = server
        self.paths = paths

    async def search(self, text: str, k: Hits = 5, where: str | None = None) -> dict[str, Any]:
        """Find photos of the index by words, the best first: id, path, and the cosine as score;
        `gone` where the file is not there any more. where: a condition in SQL on its columns."""
        body = collection.Search(text=text, k=k, where=where, without=None, offset=0)
        return await self._run(collection.search_index(self.server, body))

    async def classify(self, image: str, labels: list[str]) -> dict[str, Any]:
        """How probable each of the labels is for an image, the best first."""

        async def work() -> dict[str, Any]:
            self.server.count_items(labels=labels)
            loaded = await self.server.models.get(None, "classify")
            embedded_labels = await embed_labels(self.server, loaded, labels)
            images = [await self._image(image)]
            embedding = single_result(await self.server.embed_images(loaded, images))
            return embedded_labels.record(embedding)

        return await self._run(work(), len(labels))

    async def caption(self, image: str) -> dict[str, Any]:
        """Describe an image in a sentence."""

        async def work() -> dict[str, Any]:
            loaded = await self.server.models.get(None, "caption")
            images = [await self._image(image)]
            caption = single_result(await write_captions(self.server, loaded, images))
            return {"caption": caption.text}

        return await self._run(work())

    async def ask(
        self, image: str, question: str, answers: list[str] | None = None
    ) -> dict[str, Any]:
        """Answer a question about an image in a few words. answers: to choose from."""

        async def work() -> dict[str, Any]:
            if answers is not None:
                self.server.count_items(answers=answers)
            loaded = await self.server.models.get(None, "ask")
            photo = await self._image(image)
            reply = await answer_question(self.server, loaded, photo, question, answers)
            best = reply.ranking[0] if reply.ranking else reply
            return {"answer": reply.text, "probability": best.probability}

        return await self._run(work())

    async def locate(self, image: str, texts: list[str]) -> dict[str, Any]:
        """Where in an image each text is: boxes (x1, y1, x2, y2) in pixels; none where it is not
        there."""

        async def work() -> dict[str, Any]:
            self.server.count_items(texts=texts)
            loaded = await self.server.models.get(None, "locate")
            self.server.check_texts(texts)
            photo = await self._image(image)
            regions = await locate_texts(self.server, loaded, photo, texts)
            return regions_record(regions, masks=False)

        return await self._run(work(), len(texts))

    async def _image(self, image: str) -> Any:
        """An image of a tool as endpoints take it. Raises RefusalError for a path where there is no
        file."""
        if self.paths and image.startswith("file://"):
            image = url2pathname(urlsplit(image).path)
        if image.isdecimal() and len(image) <= 16 and int(image) < 1 << ID_BITS:
            return PhotoId(id=int(image))
        if len(image) > MAX_PATH or image.startswith("data:") or is_url(image):
            return image
        photos, run = self.server.collection, self.server.decoder.run
        if photos is not None and os.sep in image and await run(lambda: photos.holds(image)):
            return PhotoId(id=id_of(image))
        if not self.paths:
            return image
        if os.path.exists((members.split(image) or pages.split(image))[0]):
            content = await run(lambda: members.content(image))
            return Path(image) if isinstance(content, str) else content
        if set(image) & NOT_BASE64 and not image.startswith(BASE64_BEGINNINGS):
            raise RefusalError(400, "image", f"{image}: no such file")
        return image

    async def _run(self, work: Awaitable[dict[str, Any]], items: int = 1) -> dict[str, Any]:
        """The answer of a tool, with its warnings. Raises the protocol's error."""
        from mcp.server.mcpserver.exceptions import ToolError

        deadline.set(time.monotonic() + self.server.settings.seconds)
        try:
            with collect_warnings() as warnings, self.server.admission.admit(items):
                answer = await work
        except (PatchwordError, RefusalError) as error:
            raise ToolError(str(error)) from error
        return answer | {"warnings": warnings} if warnings else answer


def tools_server(server: Server, paths: bool = False) -> MCPServer:
    """A server of the protocol with these tools; paths: see `Tools`."""
    mcp = optional("mcp.server.mcpserver", "mcp", "mcp", PatchwordError)
    tools = Tools(server, paths)
    image_help = f" {IMAGE}, or the path of a file." if paths else f" {IMAGE}."
    methods: list[Any] = [tools.classify, tools.caption, tools.ask, tools.locate]
    strict_tools = [strict_tool(method, image_help) for method in methods]
    if server.collection is not None:
        strict_tools.append(strict_tool(tools.search))
    protocol_server: MCPServer = mcp.MCPServer(
        "patchword", instructions=INSTRUCTIONS, version=version("patchword"), log_level="WARNING",
        tools=strict_tools,
    )  # fmt: skip
    return protocol_server


def strict_tool(method: Any, more_help: str = "") -> Tool:
    """A method as a tool, described by its docstring and `more_help`. Unknown arguments, which the
    library drops silently, and other wrong arguments are refused in one sentence."""
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.mcpserver.tools import Tool

    class StrictTool(Tool):
        async def run(self, arguments: dict[str, Any], *rest: Any, **options: Any) -> Any:
            try:
                self.fn_metadata.validate_arguments(arguments)
            except ValidationError as error:
                raise ToolError(argument_error(self.name, self.parameters, error)) from error
            return await super().run(arguments, *rest, **options)

    docstring = " ".join((method.__doc__ or "").split())
    tool = StrictTool.from_function(method, description=f"{docstring}{more_help}")
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema()
    return tool


def argument_error(tool: str, parameters: Mapping[str, Any], error: ValidationError) -> str:
    """A sentence about the first wrong argument. parameters: JSON schema of the tool."""
    first, known = error.errors()[0], parameters["properties"]
    name = str(first["loc"][0]) if first["loc"] else "arguments"
    takes = f"{tool} takes {', '.join(known)}"
    if first["type"] == "extra_forbidden":
        return f"{tool} has no argument {name!r}{nearest(name, known)}; {takes}"
    if first["type"] == "missing":
        return f"{tool} needs the argument {name}; {takes}"
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}; {takes}"


def limit_messages(app: ASGIApp, max_items: int) -> ASGIApp:
    """The protocol's HTTP application, with a check of each message before: its library parses JSON
    of any size, also inside texts, and lists every wrong value, while the event loop waits."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()  # the whole body, as the gate gives it
        await bodies.read(message["body"], max_items + EXTRA_VALUES, count_commas=True)
        messages = [message]

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        await app(scope, receive_again, send)

    return call
