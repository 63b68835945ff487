"""The main job on a machine that does other things as well.

One prompt, 16 candidates, the best 4 saved, warm, beside 0, 1, 2 and 4 processes that compute all
the time: as `generate` sets its threads, and in other ways to wait and numbers of threads.

    python -m benchmarks.busy
    python -m benchmarks.busy --candidates 4 --rounds 2 --beside 0 2 --ways ours default

The ways alternate, so that what else the machine does falls on all of them. With two busy processes
on two cores a fair share is twice the time, and `ours` may take 2.5 times. The last line has two
threads of one process that draw a job each, against one thread that draws both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
WAYS: dict[str, dict[str, str]] = {
    "ours": {},
    "default": {"KMP_BLOCKTIME": "200"},  # as libgomp, which does not read it, waits by itself
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
ALLOWED, TOGETHER = 2.5, 1.1


def main() -> None:
    """Measure, and print a line for each number of busy processes."""
    options = _options()
    if options.job:
        _work_off(options)
        return
    idle: dict[str, float] = {}
    with ExitStack() as stack:
        workers = {way: stack.enter_context(_worker(way, options)) for way in options.ways}
        for beside in options.beside:
            with _busy_processes(beside):
                times = _alternated(workers, options.rounds)
            idle = idle or times
            for way, seconds in times.items():
                share = f"{seconds / idle[way]:.2f} × that beside {options.beside[0]}"
                print(f"beside {beside}, {way:10}: {seconds:6.2f} s, {share}", flush=True)
            if beside == 2 and "ours" in times:
                met = times["ours"] <= ALLOWED * idle["ours"]
                print(f"  (ours at most {ALLOWED} ×: {'yes' if met else 'NO'})", flush=True)
        for way, (after, together) in {w: ask("threads") for w, ask in workers.items()}.items():
            verdict = "yes" if together <= TOGETHER * after else "NO"
            print(
                f"two jobs, {way:10}: {after:.2f} s one after the other, {together:.2f} s in two "
                f"threads (at most {TOGETHER} ×: {verdict})",
                flush=True,
            )


Ask = Callable[[str], list[float]]


def _alternated(workers: dict[str, Ask], rounds: int) -> dict[str, float]:
    """Return each way's median time of the job, in seconds."""
    times: dict[str, list[float]] = {way: [] for way in workers}
    for _ in range(rounds):
        for way, ask in workers.items():
            times[way] += ask("job")
    return {way: median(own) for way, own in times.items()}


@contextmanager
def _busy_processes(number: int) -> Iterator[None]:
    code = "while True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def _worker(way: str, options: argparse.Namespace) -> Iterator[Ask]:
    """Start a process with the models in memory; yields what makes it do a job, in seconds."""
    counts = ["--candidates", str(options.candidates), "--steps", str(options.steps)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.busy", "--job", *counts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **WAYS[way]},
    )

    def ask(what: str) -> list[float]:
        assert process.stdin is not None
        assert process.stdout is not None
        print(what, file=process.stdin, flush=True)
        return json.loads(_line(process.stdout, way))

    try:
        yield ask
    finally:
        process.communicate()


def _line(stream: IO[str], way: str) -> str:
    return stream.readline() or sys.exit(f"the process of {way} ended")


def _work_off(options: argparse.Namespace) -> None:
    """Be a worker: one answer a line."""
    from gen import Engine, generate

    engines = [Engine(), Engine()]

    def draw(engine: Engine) -> None:
        with tempfile.TemporaryDirectory() as out:
            generate(
                "a panda to the left of a red balloon",
                candidates=options.candidates,
                steps=options.steps,
                seed=1,
                outdir=out,
                engine=engine,
            )

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    draw(engines[0])
    for line in sys.stdin:
        if line.strip() == "job":
            answer = [timed(lambda: draw(engines[0]))]
        else:
            draw(engines[1])  # both are warm
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(draw, engines))  # so are the threads
                after = timed(lambda: [draw(engine) for engine in engines])
                answer = [after, timed(lambda: list(pool.map(draw, engines)))]
        print(json.dumps(answer), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1, 2, 4], metavar="N")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
