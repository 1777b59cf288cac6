"""A collection of 10,000 photos from end to end: indexed despite kills and bad files, searched, and
served under load.

    python benchmarks/collection.py [--photos 10000] [--also FOLDER] [--kills 5] [--folder F]

The photos are generated scenes of 480 x 480 with known contents. Every twentieth file is damaged in
one of four ways. With --also, all images of another folder are added. `patchword index` is killed
at random moments and run again; then each good photo must be indexed once and each bad file named
with a reason. `patchword serve` answers `openai`, `InferenceClient`, an MCP client and a browser
(Chromium through Playwright) while other clients send good and bad requests. It is killed with
SIGKILL under load and started again, and must give the same answers. Prints a table; stops at the
first failed check. Needs what `make check-page` installs.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import serve as serve_benchmark
from http_load import Client, free_port, packed, resident, server
from huggingface_hub import InferenceClient
from index_build import BAD, run, size_of
from mcp import Client as Assistant
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from playwright.sync_api import sync_playwright

import patchword
from patchword.scenes import scene

SIDE = 480
QUERIES = ("a red ring", "a blue star", "a wafer with a scratch")
K = 10
LOAD_CONNECTIONS = 8  # that send good and bad requests meanwhile


def row(name: str, value: str) -> None:
    """Print a row of the table."""
    print(f"| {name} | {value} |", flush=True)


def make(folder: Path, count: int) -> tuple[dict[str, set[str]], int]:
    """Write photos, 5% of them damaged. Returns the good files that show each of `QUERIES`, and the
    number of damaged files."""
    shows: dict[str, set[str]] = {text: set() for text in QUERIES}
    bad = 0
    for number in range(count):
        place = folder / f"{number // 1000:02d}" / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        drawn = scene(77, number)
        out = io.BytesIO()
        Image.fromarray(drawn.image).resize((SIDE, SIDE)).save(out, "JPEG", quality=88)
        content = out.getvalue()
        if number % BAD == 7:
            kinds = (b"", content[: len(content) // 2], b"no photo", content[:200] + bytes(2000))
            content = kinds[number // BAD % 4]
            bad += 1
        else:
            names = {thing.name for thing in drawn.objects} | {drawn.label}
            for text, paths in shows.items():
                name = text.removeprefix("a wafer with ")
                if name in names or name.removeprefix("a ") in names:
                    paths.add(str(place))
        place.write_bytes(content)
    return shows, bad


def check_indexing(folder: Path, expected: set[str], bad: int, kills: int) -> None:
    """Index with kills, and compare the index with the expected files."""
    index = patchword.open_index(folder / "index")
    draw = random.Random(0)
    last, killed, start = 0, 0, time.perf_counter()
    for _ in range(kills):
        _, done = run(folder, draw)
        killed += not done
        now = len(index)
        assert now >= last, "rows were lost"
        last = now
    before, (rest, done) = last, run(folder)
    row("killed with SIGKILL while it indexed", f"{killed} times, {before} rows kept at the last")
    row("all indexed after", f"{time.perf_counter() - start:.0f} s")
    row("the rest, without a kill", f"{done['added']} in {rest:.1f} s with start and end")
    again, done = run(folder)
    row("once more, nothing changed", f"{again:.1f} s, {done['added']} added")
    paths = index.paths()
    assert len(paths) == len(set(paths)), "a photo is there twice"
    assert set(paths) == expected, len(set(paths) ^ expected)
    errors = index.errors()
    assert len(errors) == bad, (len(errors), bad)
    assert all(error.reason for error in errors)
    reasons = Counter(re.sub(r"[\d/].*", "", each.reason)[:40].strip(" :(,") for each in errors)
    counts = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
    row("rows, each good photo once", str(len(paths)))
    row("bad files, each with a reason", f"{bad}: {counts}")
    row("on disk", f"{size_of(folder / 'index'):.0f} MB")


def check_search(folder: Path, shows: dict[str, set[str]]) -> dict[str, list[str]]:
    """The best paths for each query by `patchword search`, which must equal those in Python."""
    index = patchword.open_index(folder / "index")
    answers = {}
    for text, paths in shows.items():
        command = [sys.executable, "-m", "patchword", "search", str(folder / "index"), text]
        start = time.perf_counter()
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        hits = [json.loads(line) for line in done.stdout.splitlines()]
        best = [hit["image"] for hit in hits]
        assert best == [hit.path for hit in index.search(text, K)], text
        right = len(paths & set(best))
        answers[text] = best
        row(
            f"search “{text}”, a process",
            f"{seconds:.1f} s; of the {K} best {right} show it, of {len(paths)} photos that do",
        )
    few = index.search(QUERIES[0], K, where="path LIKE '%/00/%'")
    assert few
    assert all("/00/" in hit.path for hit in few)
    return answers


async def send_load(port: int, stop: threading.Event, answered: Counter[str]) -> None:
    """Send good and bad requests until `stop` is set. answered: counts by status."""
    rng = random.Random(1)
    good = [packed(each) for each in serve_benchmark.mixed(64, serve_benchmark.photos(), rng)]

    async def work() -> None:
        client = Client(port)
        while not stop.is_set():
            request = rng.choice(good)
            with contextlib.suppress(OSError):
                if rng.random() < serve_benchmark.BAD_SHARE:
                    kind, content = serve_benchmark.bad(request, rng)
                    status = await serve_benchmark.send_bad(port, client, kind, content)
                    answered[f"bad {status}"] += 1
                else:
                    status, _ = await client.send(request)
                    if status == 0:  # a server may close an idle connection
                        status, _ = await client.send(request)
                    answered[f"good {status}"] += 1
        client.close()

    await asyncio.gather(*(work() for _ in range(LOAD_CONNECTIONS)))


@contextlib.contextmanager
def under_load(port: int, answered: Counter[str]) -> Iterator[None]:
    """Send requests of other clients during the `with` block."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(send_load(port, stop, answered)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def with_openai(address: str, folder: Path, answers: dict[str, list[str]]) -> str:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=120)
    rows = client.embeddings.create(model="demo", input=list(answers)).data
    index = patchword.open_index(folder / "index")
    for text, row in zip(answers, rows, strict=True):
        paths = [hit.path for hit in index.search(np.array(row.embedding), K)]
        assert paths == answers[text], text
    picture = {
        "type": "image_url",
        "image_url": {"url": serve_benchmark.uri(serve_benchmark.photos()[0])},
    }
    messages = [{"role": "user", "content": [{"type": "text", "text": "Describe this."}, picture]}]
    answer = client.chat.completions.create(model="demo-blip", messages=messages)  # type: ignore[arg-type]
    try:
        client.embeddings.create(model="nothing", input="x")
    except openai.NotFoundError:
        return f"the same hits by its vectors; “{answer.choices[0].message.content}”"
    raise AssertionError("a model that is not there was found")


def with_inference_client(address: str) -> str:
    client = InferenceClient(f"{address}/zero-shot-image-classification")
    best = client.zero_shot_image_classification(
        serve_benchmark.photos()[0], candidate_labels=serve_benchmark.LABELS
    )[0]
    client = InferenceClient(f"{address}/visual-question-answering")
    answer = client.visual_question_answering(
        serve_benchmark.photos()[0], question="what colour is the ring?"
    )[0]
    return f"“{best.label}” {best.score:.2f}, “{answer.answer}”"


def with_assistant(address: str, answers: dict[str, list[str]]) -> str:
    async def work() -> str:
        async with Assistant(streamable_http_client(f"{address}/mcp")) as client:
            for text, paths in answers.items():
                answer = await client.call_tool("search", {"text": text, "k": K})
                content = answer.structured_content
                assert [hit["path"] for hit in content["hits"]] == paths, text
            hit = str(content["hits"][0]["id"])
            caption = await client.call_tool("caption", {"image": hit})
            bad = await client.call_tool("caption", {"image": "/etc/passwd"})
            assert bad.is_error
            return f"the same hits; “{caption.structured_content['caption']}”; a path is refused"

    return asyncio.run(work())


def with_browser(address: str, answers: dict[str, list[str]]) -> str:
    urls: list[str] = []
    complaints: list[str] = []
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: urls.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        for text, paths in answers.items():
            page.fill("#panel-search [name=text]", text)
            page.click("#panel-search form [type=submit]")
            page.wait_for_selector("#panel-search:not([aria-busy])")
            cards = page.locator("#panel-search .gallery .hit").all()[:K]
            names = [card.locator("span").first.text_content() for card in cards]
            assert names == [Path(path).name for path in paths], (names, paths)
        page.locator("#panel-search .gallery .hit img").first.evaluate("image => image.decode()")
        browser.close()
    outside = [url for url in urls if not url.startswith((address, "data:", "blob:"))]
    assert not outside, outside
    assert not complaints, complaints
    return "the same hits, with pictures; no request left the machine"


def check_server(folder: Path, answers: dict[str, list[str]]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "patchword", "serve", str(folder / "index")]
    command += ["-m", "demo", "-m", "demo-blip", "--port", str(port)]
    address, answered = f"http://127.0.0.1:{port}", Counter[str]()
    with server(command, port) as process:
        memory_before = resident(process.pid)
        start = time.perf_counter()
        with under_load(port, answered):
            row("`openai`", with_openai(address, folder, answers))
            row("`InferenceClient`", with_inference_client(address))
            row("MCP", with_assistant(address, answers))
            row("browser", with_browser(address, answers))
        seconds = time.perf_counter() - start
        server_errors = [status for status in answered if re.search(r" 5(?!03)", status)]
        assert not server_errors, answered
        assert set(answered) >= {"good 200"}, answered
        kinds = {status for status in answered if status.startswith("good")}
        assert kinds <= {"good 200", "good 429"}, answered
        counts = ", ".join(f"{status}: {n}" for status, n in sorted(answered.items()))
        row(
            "meanwhile, requests of others",
            f"{sum(answered.values())} in {seconds:.0f} s; {counts}",
        )
        row(
            "memory of the server, before and after",
            f"{memory_before}, {resident(process.pid)} MiB",
        )
        with under_load(port, Counter()):
            time.sleep(2)
            process.kill()
            process.wait()
    start = time.perf_counter()
    with server(command, port):
        row("killed with SIGKILL under load; ready again", f"{time.perf_counter() - start:.1f} s")
        with_assistant(address, answers)
        row("its answers after that", "the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--also", type=Path, help="a folder of images to index too")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        print("| | |\n| --- | --- |")
        shows, bad = make(folder / "photos", options.photos)
        real = []
        if options.also:
            real = [Path(path) for path in patchword.find_images(options.also)]
            for number, path in enumerate(
                real
            ):  # copies, because links would count as their targets
                place = folder / "photos/real" / f"{number:05d}{path.suffix}"
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, place)
        every = {str(path) for path in (folder / "photos").rglob("*") if path.is_file()}
        damaged = {
            path for path in every
            if "/real/" not in path and int(Path(path).stem) % BAD == 7
        }  # fmt: skip
        row("photos", f"{len(every)}: {options.photos} generated, {len(real)} real; {bad} damaged")
        check_indexing(folder, every - damaged, bad, options.kills)
        answers = check_search(folder, shows)
        check_server(folder, answers)


if __name__ == "__main__":
    main()
