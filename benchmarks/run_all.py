"""Run all benchmarks one after another, and write docs/benchmarks.md (make bench).

    python benchmarks/run_all.py [--data FOLDER] [--only engines index ...] [--again] [--list]

Each benchmark has a time limit. When it is reached, the benchmark is stopped; what it measured
until then stays. A benchmark that has finished is not run again while the code, the versions of
libraries and the processor are the same, so an interrupted run continues where it stopped; --again
runs it anyway. Failed benchmarks are named at the end, and the exit code is then 1.
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
from rows import HERE, code_hash, missing_libraries, processor, read_rows, versions, write_rows

from patchword.atomic_write import write

CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Job:
    """A benchmark to run.

    command   a script with its options; DATA stands for the folder of data
    minutes   its time limit, about twice what two cores need
    cores     how many it may use; 0: all
    rows      whether it stores rows; other scripts only print
    """

    command: str
    minutes: float
    cores: int = 0
    rows: bool = True

    @property
    def script(self) -> str:
        return self.command.split()[0]

    def __str__(self) -> str:
        if not self.cores:
            return self.command
        return f"{self.command} on {self.cores} {'core' if self.cores == 1 else 'cores'}"


FEWER_CORES = [2**n for n in range(10) if 2**n < CORES]  # 1, 2, 4 and so on, below all cores


JOBS = [
    Job("startup.py", 3),
    Job("decode.py", 2),
    Job("pipeline.py", 15),
    *(Job("pipeline.py", 25, cores) for cores in FEWER_CORES),
    Job("engines.py --models vit-b32 --dtypes float32", 10),
    Job("engines.py --models vit-b32 --dtypes bfloat16 --batches 1 4 16 32 64 256", 20),
    Job("engines.py --models vit-b32 --dtypes int8", 10),
    *(Job("engines.py --models vit-b32 --dtypes bfloat16", 10, cores) for cores in FEWER_CORES),
    Job("engines.py --models vit-b32 --dtypes bfloat16 --sides 224 336 448 672 896", 20),
    Job("engines.py --models rn50", 15),
    *(
        Job(f"engines.py --models {model} --dtypes {dtypes}", 30)
        for model in ("vit-b16", "siglip-b16", "vit-l14")
        for dtypes in ("float32", "bfloat16 int8")
    ),
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
    Job("float8.py --data DATA", 3, rows=False),
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
    """The benchmarks that have finished, in JSON Lines beside the rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.runs = [json.loads(line) for line in lines]

    def is_current(self, job: Job) -> bool:
        """Whether the job has finished with the same code, versions and processor."""
        fields = asdict(job) | origin(job)
        return any(fields.items() <= run.items() for run in self.runs)

    def add(self, job: Job, seconds: float) -> None:
        run = asdict(job) | origin(job)
        run |= {"seconds": round(seconds), "date": datetime.date.today().isoformat()}
        key = ("command", "cores", "processor")
        others = [old for old in self.runs if any(old[name] != run[name] for name in key)]
        self.runs = [*others, run]
        write(self.path, (json.dumps(each) + "\n" for each in self.runs))


def origin(job: Job) -> dict[str, str]:
    """What must be unchanged for a finished run to remain valid."""
    chip = processor("cuda" if job == GPU else "cpu")
    return {"code": code_hash(HERE / job.script), "versions": versions(), "processor": chip}


@contextmanager
def limited_to(cores: int) -> Iterator[None]:
    """Processes started in the `with` block may use so many cores; 0: all."""
    all_cores = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, sorted(all_cores)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def run(job: Job, data: Path, results: Path) -> str:
    """Run a benchmark. Returns an error message, or "" if it succeeded."""
    options = [word.replace("DATA", str(data), 1) for word in job.command.split()[1:]]
    if job.rows:
        options += ["--results", str(results)]
    command = [sys.executable, str(HERE / job.script), *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with limited_to(job.cores):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait(job.minutes * 60)
    except subprocess.TimeoutExpired:
        return f"was ended after {job.minutes:g} minutes"
    finally:  # end also the servers and workers that it started
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"ended with exit code {code}" if code else ""


def forget_old(job: Job, jobs: Sequence[Job], runs: Runs, results: Path) -> None:
    """When all jobs of a script have finished, drop its rows that an older version measured."""
    if all(runs.is_current(other) for other in jobs if other.script == job.script):
        chip, code = origin(job)["processor"], origin(job)["code"]
        current = [
            row
            for row in read_rows(results)
            if (row.script, row.processor) != (job.script, chip) or row.code == code
        ]
        write_rows(results, current)


def main(options: argparse.Namespace) -> int:
    import torch

    jobs = [*JOBS, GPU] if torch.cuda.is_available() else JOBS
    known = dict.fromkeys(Path(job.script).stem for job in [*JOBS, GPU])
    lines = [str(job) for job in [*JOBS, GPU]]
    if unknown := [name for name in options.only or () if name not in [*known, *lines]]:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    names = options.only or known
    chosen = [job for job in jobs if Path(job.script).stem in names or str(job) in names]
    runs = Runs(options.results.with_name("runs.jsonl"))
    todo = [job for job in chosen if options.again or not runs.is_current(job)]
    if absent := missing_libraries():
        print(f"not installed, so not compared with: {', '.join(absent)}")
    else:
        print("all peers are installed")
    if GPU not in jobs:
        print("there is no GPU: gpu.py is left out")
    minutes = sum(job.minutes for job in todo)
    print(f"{len(chosen)} benchmarks, {len(chosen) - len(todo)} of them kept from before; "
          f"the others take {minutes:.0f} minutes at most", flush=True)  # fmt: skip
    if options.list:
        for job in chosen:
            print(f"{job.minutes:4g}  {job}{'' if job in todo else '  (kept)'}")
        return 0
    failed = []
    for number, job in enumerate(todo, start=1):
        print(f"\n== {number} of {len(todo)}: {job}, {job.minutes:g} minutes at most", flush=True)
        start = time.perf_counter()
        error = run(job, options.data, options.results)
        if error:
            print(f"{job} {error}", flush=True)
            failed.append(f"{job} {error}")
        else:
            runs.add(job, time.perf_counter() - start)
            forget_old(job, jobs, runs, options.results)
        report(options.results, options.page)
    missed = [row for row in read_rows(options.results) if row.missed]
    print(f"\n{options.page}: {len(missed)} rows miss their goal")
    for row in missed:
        print(f"  {row}")
    for message in failed:
        print(f"FAILED: {message}")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="script without .py, or a whole line of --list in quotes",
    )
    parser.add_argument("--again", action="store_true", help="run also those that have finished")
    parser.add_argument("--list", action="store_true", help="list what would be run, and stop")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    sys.exit(main(parser.parse_args()))
