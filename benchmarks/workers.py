"""Many prompts by one process with all threads, against worker processes with a share each.

    python -m benchmarks.workers
    python -m benchmarks.workers --prompts 16 --candidates 4 --workers 2 --rounds 1

Both have drawn before, so what is compared is how many images a minute come once all are at work.
They alternate, and the ratio is that of their medians. The images of both are compared as well:
they are the same but for rounding, which follows the number of threads.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from gen.engine import Engine, run
from gen.plan import Survey
from gen.run_folder.folder import RunFolder
from gen.settings.request import Request

THINGS = ("panda", "red circle", "cat and a dog", "balloon above a tree", "fox", "blue star")
ROUNDING = 2  # of 255


def requests(prompts: int, candidates: int) -> Iterator[Request]:
    """Yield so many prompts, all with seeds of their own."""
    for i in range(prompts):
        thing = THINGS[i % len(THINGS)]
        yield Request(f"a {thing}", candidates=candidates, top_k=1, seed=i * candidates)


def draw(engine: Engine, prompts: int, candidates: int, folder: Path) -> float:
    """Draw prompts into a folder and return the seconds that it took."""
    survey = Survey()
    for request in requests(prompts, candidates):
        survey.add(request)
    began = time.perf_counter()
    with RunFolder(folder) as out:
        for _ in run(requests(prompts, candidates), engine, survey, out):
            pass
    return time.perf_counter() - began


def furthest(one: Path, other: Path) -> int:
    """Return how far two folders' images are apart at most, of 255. They must have the same."""
    first, second = ({path.name for path in each.rglob("[0-9]*.png")} for each in (one, other))
    if first != second:
        raise SystemExit(f"other images: {sorted(first ^ second)[:4]}")
    return max(
        int(np.abs(np.subtract(*(pixels(path) for path in pair))).max())
        for pair in zip(
            sorted(one.rglob("[0-9]*.png")), sorted(other.rglob("[0-9]*.png")), strict=True
        )
    )


def pixels(path: Path) -> np.ndarray:
    """Return an image (H, W, 3) int16."""
    return np.asarray(Image.open(path).convert("RGB"), np.int16)


def main() -> None:
    """Measure, and print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        Engine() as alone,
        Engine(workers=options.workers) as together,
    ):
        sides = {"one process": alone, f"{options.workers} workers": together}
        for side, engine in sides.items():
            draw(engine, 2 * options.workers, options.candidates, Path(name) / "warm" / side)
        times: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(options.rounds):
            for side, engine in sides.items():
                folder = Path(name) / str(number) / side
                times[side].append(draw(engine, options.prompts, options.candidates, folder))
        images = options.prompts * options.candidates
        medians = [median(times[side]) for side in sides]
        for side, seconds in zip(sides, medians, strict=True):
            print(f"{side}: {seconds:.1f} s, {60 * images / seconds:.0f} images a minute")
        apart = furthest(*(Path(name) / "0" / side for side in sides))
        print(f"{options.workers} workers are {medians[0] / medians[1]:.2f} times as fast")
        print(f"images differ by {apart} of 255 at most ({ROUNDING} are rounding)")


if __name__ == "__main__":
    main()
