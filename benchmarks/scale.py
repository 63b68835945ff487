"""What one driver keeps up with: `python -m benchmarks.scale`.

The workers are simulated: each sleeps for as long as its images take, and returns noise with
scores. All else is real: the engine resolves, splits, hands out, writes images and manifest, and
ranks. Printed are the driver's own processor time for an image; how much of the workers' time is
used with more and more of them; and, for many prompts, the memory that is needed and the seconds of
the processor in which a finished run is read again.

    python -m benchmarks.scale
    python -m benchmarks.scale --seconds 2 --workers 64 256
    python -m benchmarks.scale --prompts 100000
"""

import argparse
import heapq
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from gen.engine import Engine, run
from gen.plan import Survey
from gen.run_folder.folder import RunFolder
from gen.run_folder.saving import Export
from gen.settings.request import Request
from gen.workers.crews import Finished, Report
from gen.workers.dispatch import Dispatch
from gen.workers.drawing import Drawing
from gen.workers.tasks import Drawn, Task

TOGETHER = 4  # candidates in a micro-batch
CANDIDATES = 8  # of a prompt
ROUNDS = 6  # micro-batches for each worker


class Sleepers:
    """A crew that takes so many seconds for an image of `side` pixels, and computes nothing."""

    def __init__(self, size: int, seconds: float, side: int) -> None:
        self.size, self.seconds = size, seconds
        noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        self.file = Export().encode(Image.fromarray(noise).resize((side, side)))
        self._free = [0.0] * size
        self._due: list[tuple[float, int, int, tuple[int, ...]]] = []

    def is_there(self, worker: int) -> bool:
        """Return that it is."""
        return True

    def submit(self, worker: int, number: int, task: Task) -> None:
        """Note when a task will be done."""
        seeds = tuple(candidate.seed for candidate in task.candidates)
        begun = max(self._free[worker], time.perf_counter())
        self._free[worker] = begun + self.seconds * len(seeds)
        heapq.heappush(self._due, (self._free[worker], number, worker, seeds))

    def wait(self, seconds: float) -> list[Report]:
        """Return what is done, as soon as anything is."""
        until = min(self._due[0][0] if self._due else float("inf"), time.perf_counter() + seconds)
        time.sleep(max(0.0, until - time.perf_counter()))
        reports: list[Report] = []
        while self._due and self._due[0][0] <= time.perf_counter():
            _, number, worker, seeds = heapq.heappop(self._due)
            reports.append(Finished(worker, number, [self._drawn(seeds)]))
        return reports

    def _drawn(self, seeds: Sequence[int]) -> Drawn:
        scores = {seed: (seed % 101 / 101, {}) for seed in seeds}
        files = dict.fromkeys(seeds, self.file)
        return Drawn(tuple(seeds), 1, 1, {}, {}, scores=scores, files=files)

    def replace(self, worker: int) -> None:
        """Do nothing: none is ever lost."""

    def cancel(self, tasks: Collection[int], *, finish: bool) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def requests(number: int, candidates: int) -> Iterator[Request]:
    """Yield so many prompts."""
    for i in range(number):
        yield Request(f"panda {i}", candidates=candidates, top_k=1, seed=i * 1000)


def draw(crew: Sleepers, prompts: int, candidates: int, folder: Path) -> float:
    """Draw prompts into a folder and return the seconds that it took."""
    engine = Engine(batch_size=TOGETHER)
    engine._drawing = Drawing(Dispatch(crew), TOGETHER, on_cpu=False)
    began = time.perf_counter()
    with RunFolder(folder) as out:
        for _ in run(requests(prompts, candidates), engine, Survey(), out):
            pass
    return time.perf_counter() - began


def show_scaling(counts: Sequence[int], seconds: float, side: int) -> None:
    """Print the driver's time for an image, and how much of the workers' time is used."""
    with tempfile.TemporaryDirectory() as name:
        prompts = 40
        draw(Sleepers(1, 0.0, side), prompts, CANDIDATES, Path(name) / "warm")
        began = time.process_time()
        draw(Sleepers(1, 0.0, side), prompts, CANDIDATES, Path(name) / "none")
        own = (time.process_time() - began) / (prompts * CANDIDATES)
        print(f"the driver's processor: {own * 1000:.2f} ms an image of {side} pixels")
        print(f"that is {own / seconds:.1%} of the {seconds:g} s that a worker takes for it")
        for count in counts:
            prompts = ROUNDS * count * TOGETHER // CANDIDATES
            least = seconds * prompts * CANDIDATES / count
            took = draw(
                Sleepers(count, seconds, side), prompts, CANDIDATES, Path(name) / f"{count}"
            )
            print(f"{count} workers: {least / took:.1%} of their time is used")


def show_many(prompts: int) -> None:
    """Print the memory that many prompts need, and how long it takes to find them all done."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as name:
        draw(Sleepers(4, 0.0, 64), 100, 1, Path(name) / "warm")
        before = process.memory_info().rss
        folder = Path(name) / "many"
        spent = [time.process_time()]
        draw(Sleepers(4, 0.0, 64), prompts, 1, folder)
        spent.append(time.process_time())
        after = process.memory_info().rss
        with RunFolder(folder):
            spent.append(time.process_time())
        draw(Sleepers(4, 0.0, 64), prompts, 1, folder)
        spent.append(time.process_time())
        drawn, read, again = (later - earlier for earlier, later in pairwise(spent))
        size = (folder / "manifest.jsonl").stat().st_size
        print(f"{prompts:,} prompts: {(after - before) / 2**20:.0f} MB more memory, and seconds of")
        print(f"the processor: {drawn:.1f}, or {1000 * drawn / prompts:.2f} ms a prompt")
        print(
            f"to read the manifest of {size / 1e6:.1f} MB: {1e6 * read / prompts:.0f} µs a prompt"
        )
        print(
            f"with nothing left to draw: {again:.1f}, or {1000 * again / prompts:.2f} ms a prompt"
        )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=2.0, help="that a worker takes an image")
    parser.add_argument("--side", type=int, default=512, help="pixels of an image")
    parser.add_argument("--prompts", type=int, help="measure so many prompts instead")
    options = parser.parse_args()
    if options.prompts:
        show_many(options.prompts)
    else:
        show_scaling(options.workers, options.seconds, options.side)


if __name__ == "__main__":
    main()
