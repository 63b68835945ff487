"""When `--compile` pays: the first job of a process, and those after it, compiled and as ever.

    python -m benchmarks.compiled
    python -m benchmarks.compiled --model stickers --candidates 16 --rounds 3

Three processes, one after the other: the first draws as ever, the second compiles with nothing kept
of earlier runs, the third finds what the second has kept. Each draws one job several times. Printed
are seconds of the processor, the compiler's included, which runs in one process; on several cores
the first one's time by the clock is less.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from statistics import median

from gen import Engine, generate

SIDES = {"as ever": False, "compiled, nothing kept": True, "compiled, kept": True}


def spent() -> float:
    """Return the seconds that this process and its children have had of the processor."""
    return sum(os.times()[:4])


def draw(options: argparse.Namespace) -> list[float]:
    """Draw the job several times in this process; the seconds of each, the first from its start."""
    seconds, before = [], 0.0
    with Engine(compiled=options.compiled, device="cpu", threads=1) as engine:
        for _ in range(options.rounds + 1):
            job = {"candidates": options.candidates, "top_k": 1, "seed": 7}
            generate("a panda", model=options.model, engine=engine, **job)
            seconds.append(spent() - before)
            before = spent()
    return seconds


def measure(options: argparse.Namespace, compiled: bool, cache: str) -> list[float]:
    """Draw in a process of its own, which keeps compiled code in a folder."""
    words = [sys.executable, "-m", "benchmarks.compiled", "--once", "--model", options.model]
    words += ["--candidates", str(options.candidates), "--rounds", str(options.rounds)]
    own = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [*words, *(["--compiled"] if compiled else [])],
        env={**os.environ, **own},
        check=True,
        stdout=subprocess.PIPE,
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, and say after how many jobs it pays."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2, help="jobs after the first")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(draw(options)))
        return
    first, later = {}, {}
    with tempfile.TemporaryDirectory() as cache:
        for side, compiled in SIDES.items():
            first[side], *others = measure(options, compiled, cache)
            later[side] = median(others)
            print(f"{side}: the first job {first[side]:.1f} s, one after it {later[side]:.2f} s")
    plain = "as ever"
    for side in [side for side, compiled in SIDES.items() if compiled]:
        gain = later[plain] - later[side]
        pays = f"pays after {(first[side] - first[plain]) / gain:.0f} jobs" if gain > 0 else "loses"
        print(f"{side}: {later[plain] / later[side]:.2f} times as fast once it is there; {pays}")


if __name__ == "__main__":
    main()
