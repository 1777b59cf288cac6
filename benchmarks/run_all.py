"""Run the benchmarks one after another, and write docs/benchmarks.md: what `make bench` does.

    python benchmarks/run_all.py [--data FOLDER] [--only engines index ...] [--again] [--list]

Each has a limit of time, after which it is ended; what it measured until then stays. One that came
to its end is not run again while the code, the versions of the libraries and the processor are the
same, so that an interrupted run goes on where it was; --again runs it nevertheless. What fails is
named at the end, and the exit code is then 1.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from report import PAGE, RESULTS, report
from rows import HERE, code, missing, processor, stored, versions

from patchword.atomic_write import write

CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Job:
    """A benchmark to run.

    command   a script with its options; DATA stands for the folder of data
    minutes   its limit, about twice what two cores need
    cores     that it may use; 0: all
    rows      whether it stores rows; others print what is no comparison with a peer or a limit
    """

    command: str
    minutes: float
    cores: int = 0
    rows: bool = True

    @property
    def script(self) -> str:
        return self.command.split()[0]

    def __str__(self) -> str:
        cores = f" on {self.cores} core{'s' * (self.cores > 1)}"
        return f"{self.command}{cores * bool(self.cores)}"


def fewer() -> list[int]:
    """1, 2, 4 and so on, below all cores."""
    return [2**n for n in range(10) if 2**n < CORES]


JOBS = [
    Job("startup.py", 3),
    Job("decode.py", 2),
    Job("pipeline.py", 15),
    *(Job("pipeline.py", 25, cores) for cores in fewer()),
    Job("engines.py --models vit-b32 --dtypes float32", 10),
    Job("engines.py --models vit-b32 --dtypes bfloat16 --batches 1 4 16 32 64 256", 20),
    Job("engines.py --models vit-b32 --dtypes int8", 10),
    *(Job("engines.py --models vit-b32 --dtypes bfloat16", 10, cores) for cores in fewer()),
    Job("engines.py --models vit-b32 --dtypes bfloat16 --sides 224 336 448 672 896", 20),
    Job("engines.py --models rn50", 15),
    Job("engines.py --models vit-b16", 20),
    Job("engines.py --models siglip-b16", 20),
    Job("engines.py --models vit-l14", 30),
    Job("texts.py", 5),
    Job("texts.py --dtype bfloat16", 5),
    Job("tokenizer.py DATA/clip_tokenizer", 3),
    Job("prompts.py", 20),
    Job("prompts.py --dtype bfloat16 --classes 200", 15),
    Job("families.py", 15),
    Job("caption.py", 15),
    Job("index.py --rows 1000 10000 100000 1000000 --quick", 20),
    Job("serve.py", 5),
    Job("serve.py --model clip-b32", 6),
    Job("train_step.py", 40),
    Job("loss.py", 8),
    Job("loss.py --large", 15),
    Job("probe.py --data DATA", 10),
    Job("where.py", 10),
    Job("where.py --model demo-blip", 15),
    Job("defects.py --false-alarms 600", 15, rows=False),
    Job("embedded_model.py --clothing DATA/clothing/validation", 15, rows=False),
    Job(
        "embedded_model.py --model demo-blip --only matching answers captions --seed 95",
        30,
        rows=False,
    ),
]
GPU = Job("gpu.py", 7)


class Runs:
    """What was run to its end, in JSON Lines beside the rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.runs = [json.loads(line) for line in lines]

    def done(self, job: Job) -> bool:
        now = asdict(job) | origin(job)
        return any(all(run.get(name) == now[name] for name in now) for run in self.runs)

    def add(self, job: Job, seconds: float) -> None:
        run = asdict(job) | origin(job)
        run |= {"seconds": round(seconds), "date": datetime.date.today().isoformat()}
        same = ("command", "cores", "processor")
        kept = [each for each in self.runs if any(each[name] != run[name] for name in same)]
        self.runs = [*kept, run]
        write(self.path, (json.dumps(each) + "\n" for each in self.runs))


def origin(job: Job) -> dict[str, str]:
    """What has to be the same for a run to be worth keeping."""
    chip = processor("cuda" if job == GPU else "cpu")
    return {"code": code(HERE / job.script), "versions": versions(), "processor": chip}


@contextmanager
def on(cores: int) -> Iterator[None]:
    """Processes that are started meanwhile may use so many cores."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[: cores or None])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def run(job: Job, data: Path, results: Path) -> str:
    """Run one. Returns what went wrong, in words; "" if nothing did."""
    words = [word.replace("DATA", str(data), 1) for word in job.command.split()[1:]]
    words += ["--results", str(results)] if job.rows else []
    command = [sys.executable, str(HERE / job.script), *words]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with on(job.cores):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        ended = process.wait(job.minutes * 60)
    except subprocess.TimeoutExpired:
        return f"was ended after {job.minutes:g} minutes"
    finally:  # servers and workers that it started, too
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"ended with exit code {ended}" if ended else ""


def forget_old(job: Job, jobs: Sequence[Job], runs: Runs, results: Path) -> None:
    """Drop rows that a script of now no longer measures, once all its jobs were run."""
    if all(runs.done(other) for other in jobs if other.script == job.script):
        chip, now = origin(job)["processor"], origin(job)["code"]
        kept = [
            row
            for row in stored(results)
            if (row.script, row.processor) != (job.script, chip) or row.code == now
        ]
        write(results, (json.dumps(asdict(row)) + "\n" for row in kept))


def main(given: argparse.Namespace) -> int:
    import torch

    jobs = [*JOBS, GPU] if torch.cuda.is_available() else JOBS
    known = dict.fromkeys(Path(job.script).stem for job in [*JOBS, GPU])
    if unknown := [name for name in given.only or () if name not in known]:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    chosen = [job for job in jobs if not given.only or Path(job.script).stem in given.only]
    runs = Runs(given.results.with_name("runs.jsonl"))
    todo = [job for job in chosen if given.again or not runs.done(job)]
    absent = ", ".join(missing())
    print(f"not installed, so not compared with: {absent}" if absent else "all peers are installed")
    print("" if GPU in jobs else "there is no GPU: gpu.py is left out\n", end="")
    minutes = sum(job.minutes for job in todo)
    print(f"{len(chosen)} benchmarks, {len(chosen) - len(todo)} of them kept from before; "
          f"the others take {minutes:.0f} minutes at most", flush=True)  # fmt: skip
    if given.list:
        print(*(f"{job.minutes:4g}  {job}" + "  (kept)" * (job not in todo) for job in chosen),
              sep="\n")  # fmt: skip
        return 0
    failed = []
    for number, job in enumerate(todo, start=1):
        print(f"\n== {number} of {len(todo)}: {job}, {job.minutes:g} minutes at most", flush=True)
        start = time.perf_counter()
        wrong = run(job, given.data, given.results)
        if wrong:
            print(f"{job} {wrong}", flush=True)
            failed.append(f"{job} {wrong}")
        else:
            runs.add(job, time.perf_counter() - start)
            forget_old(job, jobs, runs, given.results)
        report(given.results, given.page)
    behind = [row for row in stored(given.results) if row.missed]
    print(f"\n{given.page}: {len(behind)} rows miss their goal")
    print(*(f"  {row}" for row in behind), *(f"FAILED: {each}" for each in failed), sep="\n")
    return bool(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of a script, without .py")
    parser.add_argument("--again", action="store_true", help="also what is kept from before")
    parser.add_argument("--list", action="store_true", help="say what would be run, and stop")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    sys.exit(main(parser.parse_args()))
