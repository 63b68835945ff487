"""Kill workers, and now and then the driver, with kill -9 at random moments; see what comes of it.

    python -m benchmarks.kill_workers
    python -m benchmarks.kill_workers --kills 25 --seed 1 --ray
    python -m benchmarks.kill_workers --kills 25 --seed 1 --ray --nodes 2

A job is drawn by one process, and the same job by two workers that are killed: processes of this
machine, or with `--ray` the actors of a cluster on it. With `--nodes` that cluster has nodes that
are killed, too, with all that runs there; others join in their place. A run whose driver was
killed, or that had to leave something out as its workers ended one after the other, is begun again
until it is through. After each run no process of it may be there, every file has to be whole, and
no image may be gone; when the job is through, none was drawn twice, and all are those of one
process.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.workers import ROUNDING, furthest, pixels
from gen.cli import DONE, NO_ROOM, SOME_FAILED

PROMPTS = ("a panda", "a red balloon", "a fox above a tree", "three apples")
JOB = "--candidates 8 --top-k 2 --steps 8 --batch-size 2 --threads 1 --seed 7 --device cpu -q"
OF_DRIVER = 0.25  # the share of kills that hit it
OF_NODE = 0.25  # the share that hit a node, where there are any to lose
PAUSE = 0.1, 0.6  # between kills, of the time that a calm run takes
PATIENCE = 900  # seconds, for what hangs
GONE = 90  # seconds after which no process may be left: Ray's agents look for a dead head for 60
MARK = "KILL_WORKERS_RUN"  # in the environment of all processes of a run
OF_CREW = {"processes": "gen.workers.processes", "actors": "ray::Actor"}  # in command lines


class Campaign:
    """A job that is killed, in folders below `place`; `crew` is a key of `OF_CREW`."""

    def __init__(
        self, place: Path, words: list[str], crew: str, seed: int, nodes: "Nodes | None" = None
    ) -> None:
        self.place, self.crew, self.chance = place, crew, random.Random(seed)
        self.nodes = nodes
        self.words = [sys.executable, "-m", "gen", *PROMPTS, *JOB.split(), *words]
        self.mark = f"{os.getpid()}-{seed}"
        self.kills: Counter[str] = Counter()
        self.length = 0.0  # seconds of a calm run

    def begin(self, out: Path, *more: str) -> psutil.Popen:
        """Begin the job in a folder."""
        marked = {**os.environ, MARK: self.mark}
        with (self.place / "said").open("w") as said:
            words = [*self.words, "-o", str(out), *more]
            return psutil.Popen(words, env=marked, stdout=said, stderr=said)

    def run(self, out: Path, *more: str) -> None:
        """Run the job to its end, with nothing killed."""
        began = time.monotonic()
        code = self.begin(out, *more).wait(PATIENCE)
        self.length = time.monotonic() - began
        if code != DONE:
            raise SystemExit(f"exit code {code}: {(self.place / 'said').read_text()}")

    def hit(self, driver: psutil.Popen, most: int) -> int:
        """Kill workers until the run ends, the driver is killed, or there were `most` kills.

        Returns the exit code.
        """
        while self.kills.total() < most:
            try:
                return driver.wait(self.chance.uniform(*PAUSE) * self.length)
            except psutil.TimeoutExpired:
                pass
            if self.chance.random() < OF_DRIVER:
                self.kills["the driver"] += 1
                driver.kill()
                break
            if self.nodes is not None and self.chance.random() < OF_NODE / (1 - OF_DRIVER):
                self.kills["a node"] += 1
                self.nodes.lose_one(self.chance)
            elif workers := self.workers():
                self.kills[self.crew] += 1
                self.chance.choice(workers).kill()
        return driver.wait(PATIENCE)

    def workers(self) -> list[psutil.Process]:
        """Return the workers that are there."""
        return [p for p in self.left() if OF_CREW[self.crew] in " ".join(_command(p))]

    def left(self) -> list[psutil.Process]:
        """Return all processes of a run, whoever is their parent by now."""
        found = [] if self.nodes is None else self.nodes.actors()
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:  # it has ended, or is not ours
                continue
        return found

    def check(self, out: Path, before: set[tuple[int, int]]) -> None:
        """Stop unless what a run has left is whole, with all that was there before."""
        ends = time.monotonic() + GONE
        while (left := self.left()) and time.monotonic() < ends:
            time.sleep(0.1)
        if left:
            raise SystemExit(f"left behind: {[_command(process) for process in left]}")
        for path in out.rglob("[0-9]*.png"):
            pixels(path)
        if lost := before - images(out):
            raise SystemExit(f"lost: {sorted(lost)}")

    def draw(self, out: Path, calm: Path, most: int) -> None:
        """Draw the job in a folder, with kills up to `most`, until it is through; compare it."""
        code, there = -1, images(out)
        while code != DONE:
            code = self.hit(self.begin(out, *self.crew_words()), most)
            if code not in (DONE, SOME_FAILED, NO_ROOM, -9):
                raise SystemExit(f"exit code {code}: {(self.place / 'said').read_text()}")
            self.check(out, there)
            there = images(out)
        if twice := [image for image, times in drawn(out).items() if times > 1]:
            raise SystemExit(f"drawn twice: {twice}")
        if drawn(out).keys() != drawn(calm).keys():
            raise SystemExit(f"other images: {sorted(drawn(out).keys() ^ drawn(calm).keys())}")
        if (apart := furthest(calm, out)) > ROUNDING:
            raise SystemExit(f"images differ by {apart} of 255")

    @property
    def told(self) -> str:
        """How many kills there were, and of what."""
        hits = ", ".join(f"{count} of {who}" for who, count in sorted(self.kills.items()))
        return f"{self.kills.total()} kills ({hits})"

    def crew_words(self) -> list[str]:
        """Return the flags that have workers draw."""
        address = "local" if self.nodes is None else self.nodes.address
        return ["--workers", "2", *(["--ray", address] if self.crew == "actors" else [])]


class Nodes:
    """Nodes of a cluster on this machine: a head that draws nothing, others of a core each."""

    def __init__(self, number: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(number):
            self._cluster.add_node(num_cpus=1)
        self.address: str = self._cluster.address

    def lose_one(self, chance: random.Random) -> None:
        """Kill a node with all that runs there, and let another join."""
        node = chance.choice(sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id))
        self._cluster.remove_node(node, allow_graceful=False)
        self._cluster.add_node(num_cpus=1)

    def actors(self) -> list[psutil.Process]:
        """Return the actors that are there."""
        below = psutil.Process().children(recursive=True)
        return [p for p in below if OF_CREW["actors"] in " ".join(_command(p))]

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has ended
        return []


def images(out: Path) -> set[tuple[int, int]]:
    """Return number of the prompt and seed of every image in a run folder."""
    names = (path.stem.split("-") for path in out.rglob("[0-9]*.png"))
    return {(int(number), int(seed)) for number, *_, seed in names}


def drawn(out: Path) -> Counter[tuple[int, int]]:
    """Return how often each image was drawn, by the manifest; a last half line is left out."""
    lines = map(json.loads, (out / "manifest.jsonl").read_bytes().split(b"\n")[:-1])
    return Counter((e["number"], int(e["seed"])) for e in lines if e["event"] == "picture")


def main() -> None:
    """Run the campaign, and say what it came to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_workers", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of who is killed")
    parser.add_argument("--ray", action="store_true", help="kill the actors of a local cluster")
    parser.add_argument("--nodes", type=int, default=0, help="of that cluster, to be killed, too")
    parser.add_argument("-m", "--model", help="what draws; the default is that of generate")
    options = parser.parse_args()
    if options.nodes and not options.ray:
        parser.error("--nodes: goes with --ray")
    words = [] if options.model is None else ["-m", options.model]
    with tempfile.TemporaryDirectory() as name:
        place, crew = Path(name), "actors" if options.ray else "processes"
        nodes = Nodes(options.nodes) if options.nodes else None
        campaign, folders = Campaign(place, words, crew, options.seed, nodes), 0
        try:
            campaign.run(place / "calm")
            campaign.run(place / "with-workers", *campaign.crew_words())
            while campaign.kills.total() < options.kills:
                campaign.draw(place / str(folders), place / "calm", options.kills)
                folders += 1
                print(f"{campaign.told} in {folders} folders: all as it should be", flush=True)
        finally:
            for process in campaign.left():
                process.kill()
            if nodes is not None:
                nodes.close()
        apart = max(furthest(place / "calm", place / str(i)) for i in range(folders))
    print("no image lost, none drawn twice, no file cut off, no process left behind;")
    print(f"images differ from those of one process by {apart} of 255 at most")


if __name__ == "__main__":
    main()
