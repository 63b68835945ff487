"""Kill searches with kill -9 at random moments, and compare what the next run makes of it.

    python -m benchmarks.kill_search [--kills 20] [--model NAME] [--search prune|beam]

Runs `generate` in a process of its own, kills it, and runs the same command again, until it ends by
itself; then nothing may be lost, nothing twice, and every file equal to those of a calm run.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = ("a panda to the left of a red balloon", "a red fox", "three apples")


def files(folder: Path) -> dict[str, bytes]:
    """Return the images of a run folder, by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("[0-9]*.png")}


def looks(folder: Path) -> list[object]:
    """Return what its searches decided."""
    lines = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    seeds = [
        (line["number"], line["step"], [each["seed"] for each in line["kept"]])
        for line in lines
        if line["event"] == "searched"
    ]
    return sorted(seeds)


def main() -> int:
    """Run the campaign; returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_search", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("-m", "--model", default="stickers-dalle")
    parser.add_argument("--search", default="beam")
    parser.add_argument("--candidates", default="8")
    arguments = parser.parse_args()
    words = [sys.executable, "-m", "gen", *COMMAND, "-m", arguments.model, "--seed", "7"]
    words += ["--candidates", arguments.candidates, "-k", "2", "--search", arguments.search, "-q"]
    with tempfile.TemporaryDirectory() as place:
        calm, hit = Path(place, "calm"), Path(place, "hit")
        began = time.monotonic()
        subprocess.run([*words, "-o", str(calm)], check=True)
        length, rng, kills = time.monotonic() - began, random.Random(0), 0
        while kills < arguments.kills:
            child = subprocess.Popen([*words, "-o", str(hit)])
            try:
                child.wait(rng.uniform(0.2, 1.0) * length)
                if files(hit) != files(calm) or looks(hit) != looks(calm):
                    print(f"after {kills} kills the result differs")
                    return 1
                hit = Path(place, f"hit-{kills}")  # it was through before the kill: once more
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                kills += 1
        subprocess.run([*words, "-o", str(hit)], check=True)
        same = files(hit) == files(calm) and looks(hit) == looks(calm)
        print(f"{kills} kills: {'nothing lost, nothing twice, same files' if same else 'differs'}")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
