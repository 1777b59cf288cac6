"""The server under load: requests a second, latency, and many bad requests.

    python benchmarks/serve.py [--model demo|clip-b32] [--clients 64] [--requests N]
    python benchmarks/serve.py --soak 20000

The first command sends one list of requests (half images to embed, a quarter texts, a quarter
images to classify) in four ways: directly to the batch engine, in one process; with that many
clients to `patchword serve`; with as many to FastAPI with one forward for each request; and with
one client, beside direct calls of the model. The second command sends good and bad requests (fuzzed
images, wrong types, huge, slow and truncated ones), and prints the answers, the growth of the
server's memory, and whether answers to good requests changed.
"""

import asyncio
import base64
import collections
import contextlib
import io
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from http_load import Client, Request, free_port, load, packed, resident, server
from PIL import Image
from rows import Rows, option_parser
from tokenizers import pre_tokenizers

import patchword

SAMPLES = Path(patchword.__file__).parent / "assets/samples"
LABELS = ["a red ring", "a blue star", "a white square", "a scratch on a wafer", "a perfect wafer"]
BAD_SHARE = 0.05  # of the requests of a soak
ENGINE_GOAL = 0.9  # requests/s relative to the batch engine's
EXTRA_MS = 3.0  # allowed beyond the model's own time for one client
SIZE = (640, 480)  # of the photos that are sent

ONE_BY_ONE = """
import base64, sys
import patchword, uvicorn
from fastapi import Body, FastAPI
model = patchword.load(sys.argv[1])
app = FastAPI()
@app.get("/ready")
def ready(): return True
@app.post("/v1/embeddings")
def embed(body: dict = Body()):
    content = body["input"]
    if body.get("modality") == "image":
        row = model.embed_images([base64.b64decode(content.partition(",")[2])])[0]
    else:
        row = model.embed_texts([content])[0]
    return {"data": [{"embedding": base64.b64encode(row.tobytes()).decode()}]}
@app.post("/v1/classify")
def classify(body: dict = Body()):
    photo = base64.b64decode(body["images"][0].partition(",")[2])
    return [[s.label, s.probability] for s in model.classify([photo], body["labels"])[0]]
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


@cache
def photos() -> list[bytes]:
    """The samples as JPEGs of SIZE, a usual size on web pages."""
    contents = []
    for path in sorted((SAMPLES / "shapes").glob("*.jpg")) + sorted(SAMPLES.glob("wafers/*.jpg")):
        out = io.BytesIO()
        with Image.open(path) as picture:
            picture.resize(SIZE).save(out, "JPEG", quality=90)
        contents.append(out.getvalue())
    return contents


def uri(content: bytes) -> str:
    """The data URI of a JPEG."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def content_of(uri: str) -> bytes:
    """The content of a data URI in base64."""
    return base64.b64decode(uri.partition(",")[2])


def mixed(count: int, pictures: list[bytes], rng: random.Random) -> list[Request]:
    """Requests: half embed images, a quarter texts, and a quarter classify images."""
    requests: list[Request] = []
    for number in range(count):
        photo = uri(pictures[number % len(pictures)])
        kind = number % 4
        if kind in (0, 2):
            body = {"input": photo, "modality": "image", "encoding_format": "base64"}
            requests.append(("/v1/embeddings", body))
        elif kind == 1:
            text = f"a photo of a {rng.choice(LABELS)} number {number}"
            requests.append(("/v1/embeddings", {"input": text, "encoding_format": "base64"}))
        else:
            requests.append(("/v1/classify", {"images": [photo], "labels": LABELS}))
    return requests


def engine(model: Any, requests: list[Request]) -> float:
    """Seconds for the work of the same requests in batches, without HTTP."""
    images, texts, to_classify = [], [], []
    for _, body in requests:
        if "images" in body:
            to_classify.append(content_of(body["images"][0]))
        elif "modality" in body:
            images.append(content_of(body["input"]))
        else:
            texts.append(body["input"])
    start = time.perf_counter()
    model.embed_images(images)
    model.embed_texts(texts)
    model.classify(to_classify, LABELS)
    return time.perf_counter() - start


@contextlib.contextmanager
def named(model: str) -> Iterator[str]:
    """The name of a model to load; for "clip-b32" a temporary folder with a CLIP ViT-B/32 of random
    weights."""
    if model != "clip-b32":
        yield model
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import torch
    import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        CLIPModel(CLIPConfig()).save_pretrained(folder)
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        ends = ["<|startoftext|>", "<|endoftext|>"]
        vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
        vocabulary += [f"unused {n}" for n in range(49408 - 2 - len(vocabulary))] + ends
        ids = {word: number for number, word in enumerate(vocabulary)}
        (Path(folder) / "vocab.json").write_text(json.dumps(ids))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        yield folder


def throughput(name: str, title: str, clients: int, count: int, rounds: int, rows: Rows) -> None:
    """Add rows of requests/s. name: of the model to load; title: of the model in rows."""
    pictures = photos()
    requests = mixed(count, pictures, random.Random(0))
    content = [packed(request) for request in requests]
    model = patchword.load(name)
    ports = {"patchword serve": free_port(), "one forward for each": free_port()}
    commands = {
        "patchword serve": ["-m", "patchword", "serve", "-m", name, "--port"],
        "one forward for each": ["-c", ONE_BY_ONE, name],
    }
    times: dict[str, list[float]] = collections.defaultdict(list)
    latencies: dict[str, list[float]] = collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        for way, port in ports.items():
            stack.enter_context(server([sys.executable, *commands[way], str(port)], port))
            asyncio.run(load(port, content[:64], 8))
        engine(model, requests[:64])
        for _ in range(rounds):
            times["engine"].append(engine(model, requests))
            for way, port in ports.items():
                seconds, of_requests = asyncio.run(load(port, content, clients))
                times[way].append(seconds)
                latencies[way] += of_requests
            last = ", ".join(f"{way} {values[-1]:.1f} s" for way, values in times.items())
            print(f"  round: {last}")
    remarks = []
    for way, seconds in latencies.items():
        p50, p99 = np.quantile(seconds, (0.5, 0.99)) * 1000
        remarks.append(f"{way} p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    shares = [a / b for a, b in zip(times["engine"], times["patchword serve"], strict=True)]
    # A wide range means that the machine was busy.
    remarks.append(f"of the engine's rate {min(shares):.2f} to {max(shares):.2f} in rounds")
    speed = {way: count / statistics.median(values) for way, values in times.items()}
    what = f"server, {title}, {clients} clients, images, texts and labels mixed"
    ours = "patchword serve", speed["patchword serve"]
    fastapi = "FastAPI, one forward for each request", speed["one forward for each"]
    batch_engine = "the batch engine alone", speed["engine"]
    agreement = "; ".join(remarks)
    rows.add(what, "requests/s", fastapi, ours, limit=1.0, agreement=agreement)
    rows.add(what, "requests/s", batch_engine, ours, limit=ENGINE_GOAL, agreement=agreement)


def latency(name: str, title: str, rows: Rows, requests: int = 150, warm_up: int = 20) -> None:
    """Add a row of the time of one client's request beside that of a direct call of the model.

    Both in turn and in one process, so that they share threads and caches; medians after some to
    warm up."""
    import uvicorn

    from patchword.cli.serve import listen
    from patchword.serve.app import create_app
    from patchword.serve.request_warnings import collect_warnings
    from patchword.serve.settings import Settings

    pictures, model = photos(), patchword.load(name)
    times: dict[str, list[float]] = {"called": [], "asked": []}

    async def work(port: int) -> None:
        client = Client(port)
        for number in range(requests):
            picture = pictures[number % len(pictures)]
            body = {"input": uri(picture), "modality": "image", "encoding_format": "base64"}
            content = packed(("/v1/embeddings", body))
            start = time.perf_counter()
            with collect_warnings():  # collects the warnings, so that none is printed
                await asyncio.to_thread(model.embed_images, [picture])
            middle = time.perf_counter()
            status, answer = await client.send(content)
            times["asked"].append(time.perf_counter() - middle)
            times["called"].append(middle - start)
            assert status == 200, answer[:300]
        client.close()

    with listen("127.0.0.1", 0) as listening:
        app = create_app(Settings(models=(name,)))
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        asyncio.run(work(listening.getsockname()[1]))
        running.should_exit = True
        thread.join()
    called, asked = (statistics.median(times[key][warm_up:]) * 1000 for key in times)
    what = f"server, {title}, one client, an image of {SIZE[0]} x {SIZE[1]}"
    peer = ("the model called directly, and 3 ms", called + EXTRA_MS)
    agreement = f"the model {called:.1f} ms"
    rows.add(what, "ms", peer, ("patchword serve", asked), limit=1.0, agreement=agreement)


@cache
def huge() -> str:
    """A small PNG of 900 million pixels, in base64."""
    out = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def bad(good: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The kind of a bad request, and its content."""
    kind = rng.choice(("fuzzed", "types", "huge", "slow", "cut"))
    if kind == "fuzzed":
        photo = bytearray(rng.choice(photos()))
        for _ in range(rng.randrange(1, 60)):
            photo[rng.randrange(len(photo))] = rng.randrange(256)
        if rng.random() < 0.3:
            photo = photo[: rng.randrange(1, len(photo))]
        return kind, packed(("/v1/classify", {"images": [uri(bytes(photo))], "labels": LABELS}))
    if kind == "types":
        wrong_values = (None, 7, [[]], {"a": 1}, "\ud800", "x" * 5000, ["", None], [1e400], True)
        value = rng.choice(wrong_values)
        field = rng.choice(("input", "images", "labels", "model", "texts", "dimensions"))
        path = rng.choice(("/v1/embeddings", "/v1/classify", "/v1/similarity", "/v1/nothing"))
        body = {"input": "x", "images": ["x"], "labels": ["y"], "texts": ["z"]}
        return kind, packed((path, {**body, field: value}))
    if kind == "huge":
        return kind, packed(("/v1/classify", {"images": [huge()], "labels": LABELS}))
    return kind, good


async def soak(port: int, pid: int, count: int, clients: int) -> None:
    """Send good and bad requests in random order, and print a summary."""
    rng = random.Random(1)
    huge()
    good = mixed(len(photos()) * 4, photos(), rng)
    content = [packed(request) for request in good]
    first_answers: dict[int, Any] = {}
    for number, request in enumerate(content):
        status, body = await Client(port).send(request)
        assert status == 200, body[:300]
        first_answers[number] = numbers(body)
    answered: collections.Counter[str] = collections.Counter()
    memory = [(0, resident(pid))]
    remaining = iter(range(count))
    largest_change = 0.0
    started = time.perf_counter()

    async def work() -> None:
        nonlocal largest_change
        client = Client(port)
        for done in remaining:
            number = rng.randrange(len(content))
            if rng.random() < BAD_SHARE:
                kind, request = bad(content[number], rng)
                status = await send_bad(port, client, kind, request)
                answered[f"{kind} {status}"] += 1
            else:
                status, body = await client.send(content[number])
                answered[f"good {status}"] += 1
                if status == 200:
                    change = float(np.abs(numbers(body) - first_answers[number]).max())
                    largest_change = max(largest_change, change)
            if done % (count // 10) == 0:
                memory.append((done, resident(pid)))
        client.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    seconds = time.perf_counter() - started
    memory.append((count, resident(pid)))
    print(
        f"{count} requests by {clients} clients in {seconds:.0f} s: {count / seconds:.0f} a second"
    )
    print("answers:", ", ".join(f"{name}: {n}" for name, n in sorted(answered.items())))
    print("memory, MiB:", ", ".join(f"{mib} at {done}" for done, mib in memory))
    print(f"largest change of an answer: {largest_change:.1e}")


async def send_bad(port: int, client: Client, kind: str, content: bytes) -> int:
    """Send a bad request. Returns the status of its answer, or 0 if there is none."""
    if kind not in ("slow", "cut"):
        return (await client.send(content))[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    half = len(content) // 2
    writer.write(content[:half])
    await writer.drain()
    if kind == "cut":
        writer.close()
        return 0
    await asyncio.sleep(2)
    status = 0
    with contextlib.suppress(OSError):
        writer.write(content[half:])
        await writer.drain()
        line = await reader.readline()
        status = int(line[9:12] or 0)
    writer.close()
    return status


def numbers(body: bytes) -> np.ndarray[Any, Any]:
    """The vector of an answer, or its probabilities in the order of LABELS."""
    answer = json.loads(body)["data"][0]
    if "embedding" in answer:
        return np.frombuffer(base64.b64decode(answer["embedding"]), "<f4")
    by_label = {score["label"]: score["probability"] for score in answer["labels"]}
    return np.array([by_label[label] for label in LABELS])


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, help="default: 640, for clip-b32 192")
    parser.add_argument("--soak", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # about photos unlike those of the training
    if not options.soak:
        with named(options.model) as name:
            rows = Rows(options.results)
            large = options.model == "clip-b32"
            count = options.requests or (192 if large else 640)
            throughput(name, options.model, options.clients, count, options.rounds, rows)
            if large:
                latency(name, options.model, rows, requests=60, warm_up=10)
            else:
                latency(name, options.model, rows)
        return
    port = free_port()
    command = [sys.executable, "-m", "patchword", "serve", "-m", options.model, "--seconds", "20"]
    with server([*command, "--port", str(port)], port) as process:
        asyncio.run(soak(port, process.pid, options.soak, options.clients))


if __name__ == "__main__":
    main()
