"""The server under load, and what it costs over the engine alone.

    python -m benchmarks.server
    python -m benchmarks.server --quick

First the same jobs by the engine alone and through the server, each in a process of its own, in
alternation: the price of HTTP, queue and base64 is the difference of their medians. (In one process
their threads would be more than the cores, and then OpenMP lets each of them sleep between any two
operations: both would take twice as long.) Then 1, 8 and 32 clients on loopback, each of which asks
again as soon as it has its answer: how many answers of each kind, whether memory grows, and whether
each client gets its share. Every job has a new seed, so that nothing is found done.
"""

import argparse
import base64
import http.client
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from gen.engine import Engine
from gen.plan import resolve
from gen.run_folder.folder import RunFolder
from gen.settings.request import Request

PROMPT = "a panda to the left of a red balloon"
CLIENTS = (1, 8, 32)
COST_SHARE, COST_SECONDS = 0.05, 0.010  # of an image, at most: the target
PORT = 7890
GROWTH = 50e6  # bytes that memory may grow in the second half of a load: the target


@dataclass(frozen=True)
class Work:
    """What every job asks for."""

    candidates: int
    steps: int

    def body(self, seed: int, user: str) -> bytes:
        """As a client sends it."""
        asked = {"candidates": self.candidates, "steps": self.steps, "seed": seed, "user": user}
        return json.dumps({"prompt": PROMPT, **asked}).encode()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 if the targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each number of clients")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    options = parser.parse_args(argv)
    work = Work(1, 2) if options.quick else Work(options.candidates, options.steps)
    rounds, seconds = (1, 2.0) if options.quick else (options.rounds, options.seconds)
    seeds = itertools.count(1)
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder) / "served") as server:
        with RunFolder(Path(folder) / "alone") as run_folder:
            good = _measure_cost(Engine(), run_folder, server, work, rounds, seeds)
        for clients in CLIENTS:
            good &= _measure_load(server, work, clients, seconds, seeds)
    return 0 if good else 1


@dataclass(frozen=True)
class Server:
    """`generate-ui` in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    def ask(self, body: bytes) -> tuple[int, dict[str, str]]:
        """Status and headers of an answer, whose image is looked at."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=600)
        try:
            connection.request(
                "POST", "/v1/images/generations", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            content = json.load(answer)
            if answer.status == 200:
                image = base64.b64decode(content["data"][0]["b64_json"])
                assert image.startswith(b"\x89PNG")
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def memory(self) -> float:
        """Return the bytes that it holds now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return float(pages) * resource.getpagesize()


@contextmanager
def _server(folder: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "ui", "--port", str(PORT), "-o", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "Salon is at" not in line:
                sys.exit("the server did not start")
            yield Server(process, f"http://127.0.0.1:{PORT}")
        finally:
            process.terminate()


def _measure_cost(
    engine: Engine,
    folder: RunFolder,
    server: Server,
    work: Work,
    rounds: int,
    seeds: Iterator[int],
) -> bool:
    """Engine and server in turn; nobody else is asking."""
    alone, through = [], []
    for turn in range(rounds + 1):
        start = time.perf_counter()
        request = Request(
            PROMPT, seed=next(seeds) << 16, steps=work.steps, candidates=work.candidates, top_k=1
        )
        engine.draw(resolve(request), folder)
        middle = time.perf_counter()
        status, _ = server.ask(work.body(next(seeds) << 16, "cost"))
        assert status == 200
        if turn > 0:  # the first is to warm up
            alone.append(middle - start)
            through.append(time.perf_counter() - middle)
    per_image = median(alone) / work.candidates
    cost = (median(through) - median(alone)) / work.candidates
    allowed = COST_SHARE * per_image + COST_SECONDS
    print(f"engine alone   {per_image * 1000:8.1f} ms an image, median of {rounds}")
    print(f"server costs   {cost * 1000:+8.1f} ms an image more; target {allowed * 1000:.1f} ms")
    return cost <= allowed


def _measure_load(
    server: Server, work: Work, clients: int, seconds: float, seeds: Iterator[int]
) -> bool:
    """So many clients for so long; prints what they got."""
    answers: Counter[int] = Counter()
    per_client = [0] * clients
    without_retry_after = 0
    lock, start = threading.Lock(), time.monotonic()
    memory: list[float] = []

    def ask_on(number: int) -> None:
        nonlocal without_retry_after
        while time.monotonic() < start + seconds:
            with lock:
                seed = next(seeds) << 16
            status, headers = server.ask(work.body(seed, f"client {number}"))
            with lock:
                answers[status] += 1
                per_client[number] += status == 200
                without_retry_after += status == 429 and "retry-after" not in headers
                memory.append(server.memory())

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    half = len(memory) // 2
    growth = max(memory[half:]) - max(memory[: max(1, half)])
    said = ", ".join(f"{count} x {status}" for status, count in sorted(answers.items()))
    speed = answers[200] * work.candidates / (time.monotonic() - start)
    print(
        f"{clients:3} clients    {said}; {speed:.2f} images/s; "
        f"each {min(per_client)} to {max(per_client)} jobs; memory {growth / 1e6:+.1f} MB"
    )
    fair = max(per_client) - min(per_client) <= 1 or clients == 1
    return set(answers) <= {200, 429} and not without_retry_after and fair and growth < GROWTH


if __name__ == "__main__":
    sys.exit(main())
