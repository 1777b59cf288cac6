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
from functools import lru_cache
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
BAD = 0.05  # of the requests of a soak
ENGINE, BEYOND = 0.9, 3.0  # wanted of the batch engine's rate; ms beyond the model's for one client
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


def photos() -> list[bytes]:
    """JPEGs of the size of a web page's."""
    found = []
    for path in sorted((SAMPLES / "shapes").glob("*.jpg")) + sorted(SAMPLES.glob("wafers/*.jpg")):
        out = io.BytesIO()
        with Image.open(path) as picture:
            picture.resize(SIZE).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def mixed(count: int, pictures: list[bytes], rng: random.Random) -> list[Request]:
    """Half images, a quarter texts, a quarter labels of an image."""
    found: list[Request] = []
    for number in range(count):
        photo = uri(pictures[number % len(pictures)])
        kind = number % 4
        if kind in (0, 2):
            body = {"input": photo, "modality": "image", "encoding_format": "base64"}
            found.append(("/v1/embeddings", body))
        elif kind == 1:
            text = f"a photo of a {rng.choice(LABELS)} number {number}"
            found.append(("/v1/embeddings", {"input": text, "encoding_format": "base64"}))
        else:
            found.append(("/v1/classify", {"images": [photo], "labels": LABELS}))
    return found


def engine(model: Any, requests: list[Request]) -> float:
    """Seconds for the same work in batches, the images from the bytes of their files."""
    given = [(path, body) for path, body in requests]
    images = [
        base64.b64decode(body.get("input", body.get("images", [""])[0]).partition(",")[2])
        for path, body in given
        if body.get("modality") == "image"
    ]
    texts = [body["input"] for _, body in given if "input" in body and "modality" not in body]
    labelled = [
        base64.b64decode(body["images"][0].partition(",")[2]) for _, body in given
        if "images" in body
    ]  # fmt: skip
    start = time.perf_counter()
    model.embed_images(images)
    model.embed_texts(texts)
    model.classify(labelled, LABELS)
    return time.perf_counter() - start


@contextlib.contextmanager
def named(model: str) -> Iterator[str]:
    """A model's name; of "clip-b32" the folder of a CLIP ViT-B/32 of random weights, made for the
    while."""
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
        numbers = {word: number for number, word in enumerate(vocabulary)}
        (Path(folder) / "vocab.json").write_text(json.dumps(numbers))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        yield folder


def throughput(name: str, known: str, clients: int, count: int, rounds: int, stored: Rows) -> None:
    """The ways in turn; medians. known: what rows call the model."""
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
    spent: dict[str, list[float]] = collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        for title, port in ports.items():
            stack.enter_context(server([sys.executable, *commands[title], str(port)], port))
            asyncio.run(load(port, content[:64], 8))
        engine(model, requests[:64])
        for _ in range(rounds):
            times["engine"].append(engine(model, requests))
            for title, port in ports.items():
                took, each = asyncio.run(load(port, content, clients))
                times[title].append(took)
                spent[title] += each
            print(f"  round: {', '.join(f'{t} {each[-1]:.1f} s' for t, each in times.items())}")
    said = []
    for way, each in spent.items():
        p50, p99 = np.quantile(each, (0.5, 0.99)) * 1000
        said.append(f"{way} p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    shares = [a / b for a, b in zip(times["engine"], times["patchword serve"], strict=True)]
    # The further apart, the busier the machine.
    said.append(f"of the engine's rate {min(shares):.2f} to {max(shares):.2f} in rounds")
    found = {way: count / statistics.median(each) for way, each in times.items()}
    what = f"server, {known}, {clients} clients, images, texts and labels mixed"
    ours, engine_alone = ("patchword serve", found["patchword serve"]), "the batch engine alone"
    one = "FastAPI, one forward for each request"
    more = {"agreement": "; ".join(said)}
    stored.add(what, "requests/s", (one, found["one forward for each"]), ours, limit=1.0, **more)
    stored.add(what, "requests/s", (engine_alone, found["engine"]), ours, limit=ENGINE, **more)


def latency(name: str, known: str, stored: Rows, requests: int = 150, first: int = 20) -> None:
    """One client beside the model called directly, in turn and in one process, so that both have
    the same threads and caches; medians, without the first."""
    import uvicorn

    from patchword.cli.serve import listen
    from patchword.serve.app import create_app
    from patchword.serve.request_warnings import heard
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
            with heard():  # what it warns of is said to nobody
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
    called, asked = (statistics.median(times[key][first:]) * 1000 for key in times)
    what = f"server, {known}, one client, an image of {SIZE[0]} x {SIZE[1]}"
    called_and_more = ("the model called directly, and 3 ms", called + BEYOND)
    more = {"limit": 1.0, "agreement": f"the model {called:.1f} ms"}
    stored.add(what, "ms", called_and_more, ("patchword serve", asked), **more)


@lru_cache(maxsize=1)
def huge() -> str:
    """A small file of 900 million pixels."""
    out = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def bad(good: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A bad request, and of which kind."""
    kind = rng.choice(("fuzzed", "types", "huge", "slow", "cut"))
    if kind == "fuzzed":
        photo = bytearray(rng.choice(photos_held))
        for _ in range(rng.randrange(1, 60)):
            photo[rng.randrange(len(photo))] = rng.randrange(256)
        photo = photo[: rng.randrange(1, len(photo))] if rng.random() < 0.3 else photo
        return kind, packed(("/v1/classify", {"images": [uri(bytes(photo))], "labels": LABELS}))
    if kind == "types":
        odd_ones = (None, 7, [[]], {"a": 1}, "\ud800", "x" * 5000, ["", None], [1e400], True)
        wrong = rng.choice(odd_ones)
        field = rng.choice(("input", "images", "labels", "model", "texts", "dimensions"))
        path = rng.choice(("/v1/embeddings", "/v1/classify", "/v1/similarity", "/v1/nothing"))
        body = {"input": "x", "images": ["x"], "labels": ["y"], "texts": ["z"]}
        return kind, packed((path, {**body, field: wrong}))
    if kind == "huge":
        return kind, packed(("/v1/classify", {"images": [huge()], "labels": LABELS}))
    return kind, good


async def soak(port: int, pid: int, count: int, clients: int) -> None:
    """Good and bad requests, mixed; a summary."""
    rng = random.Random(1)
    huge()
    good = mixed(len(photos_held) * 4, photos_held, rng)
    content = [packed(request) for request in good]
    first: dict[int, Any] = {}
    for number, one in enumerate(content):
        status, body = await Client(port).send(one)
        assert status == 200, body[:300]
        first[number] = numbers(body)
    answered: collections.Counter[str] = collections.Counter()
    memory = [(0, resident(pid))]
    todo = iter(range(count))
    farthest = 0.0
    started = time.perf_counter()

    async def one() -> None:
        nonlocal farthest
        client = Client(port)
        for done in todo:
            number = rng.randrange(len(content))
            if rng.random() < BAD:
                kind, sent = bad(content[number], rng)
                status = await odd(port, client, kind, sent)
                answered[f"{kind} {status}"] += 1
            else:
                status, body = await client.send(content[number])
                answered[f"good {status}"] += 1
                if status == 200:
                    distance = float(np.abs(numbers(body) - first[number]).max())
                    farthest = max(farthest, distance)
            if done % (count // 10) == 0:
                memory.append((done, resident(pid)))
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    took = time.perf_counter() - started
    memory.append((count, resident(pid)))
    print(f"{count} requests by {clients} clients in {took:.0f} s: {count / took:.0f} a second")
    print("answers:", ", ".join(f"{name}: {n}" for name, n in sorted(answered.items())))
    print("memory, MiB:", ", ".join(f"{mib} at {done}" for done, mib in memory))
    print(f"largest change of an answer: {farthest:.1e}")


async def odd(port: int, client: Client, kind: str, content: bytes) -> int:
    """Send a bad request. Status of its answer; 0: none."""
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
    """The numbers of an answer."""
    found = json.loads(body)["data"][0]
    if "embedding" in found:
        return np.frombuffer(base64.b64decode(found["embedding"]), "<f4")
    by_label = {one["label"]: one["probability"] for one in found["labels"]}
    return np.array([by_label[label] for label in LABELS])


photos_held: list[bytes] = []


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, help="640, of clip-b32 192")
    parser.add_argument("--soak", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of photos unlike the model's training
    if not options.soak:
        with named(options.model) as name:
            large, stored = options.model == "clip-b32", Rows(options.results)
            count = options.requests or (192 if large else 640)
            throughput(name, options.model, options.clients, count, options.rounds, stored)
            latency(name, options.model, stored, *((60, 10) if large else ()))
        return
    photos_held.extend(photos())
    port = free_port()
    command = [sys.executable, "-m", "patchword", "serve", "-m", options.model, "--seconds", "20"]
    with server([*command, "--port", str(port)], port) as process:
        asyncio.run(soak(port, process.pid, options.soak, options.clients))


if __name__ == "__main__":
    main()
