"""The main job, ours against stock diffusers, transformers and PIL.

One prompt, 16 candidates, scores by CLIP, the best 4 saved as PNG: the same weights, steps, sampler
and seeds on both sides, so the same pictures, which is checked. The peer (stock_job.py) runs at the
batch size and number of threads that are fastest for it; ours runs as it is installed.

    python -m benchmarks.main_job
    python -m benchmarks.main_job --model FOLDER --reranker FOLDER --rounds 3

warm: the job in a process that has done it before. cold: from starting a process to the first
saved picture, and to its end; files are in the system's cache. Runs of the two sides alternate, and
what is compared is their medians.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

import rerank.model.specs
from pipelines import families

ROOT = Path(__file__).resolve().parent.parent
SAMPLER = "dpmpp_2m"  # what DPMSolverMultistepScheduler does as stock_job.py makes it
AS_DRAWN = 1  # the peer enlarges nothing
BATCHES = (1, 4, 8, 16)
PROMPTS = (
    "a panda to the left of a red balloon",
    "three strawberries on a light blue background",
    "a blue star and a yellow circle",
    "a large sunflower on a beige background",
    "a rocket above a house",
)
WARM_TARGET, COLD_TARGET = 1.0, 0.7


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    model: Path
    reranker: Path
    candidates: int
    top_k: int
    steps: int
    guidance: float


@dataclass(frozen=True)
class Setting:
    """How the peer does it."""

    batch: int
    threads: int


@dataclass(frozen=True)
class Run:
    """One job's times in seconds, and the most memory of its process in bytes."""

    first: float  # until the first picture is saved
    whole: float
    processor: float  # what all threads worked; hardly changes when other work slows them down
    peak: int


def main() -> None:
    """Measure, and print what came out."""
    options = _options()
    if options.worker is not None:
        _work_off(options.worker, _work(options))
        return
    work = _work(options)
    print("\n".join(_facts(work)), flush=True)
    setting = best_setting(work, options.sweep)
    print(f"peer's best: batch {setting.batch}, {setting.threads} threads\n", flush=True)
    warm = warm_runs(work, setting, options.rounds)
    _tell("warm, whole job", warm, "whole", WARM_TARGET)
    _tell("  processor time", warm, "processor")
    _tell_memory(warm)
    cold = cold_runs(work, setting, options.rounds)
    _tell("cold, first picture", cold, "first", COLD_TARGET)
    _tell("cold, whole job", cold, "whole")
    _tell("  processor time", cold, "processor")
    _tell_memory(cold)


def best_setting(work: Work, repeats: int) -> Setting:
    """Return the batch size and number of threads with which the peer is fastest, warm."""
    most = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    batches = [batch for batch in BATCHES if batch <= work.candidates]
    found: dict[Setting, float] = {}
    with tempfile.TemporaryDirectory() as out, _worker("stock", work) as run:
        for batch, threads in product(batches, sorted({1, most})):
            setting = Setting(batch, threads)
            jobs = [run(Path(out), i, setting) for i in range(repeats + 1)]
            found[setting] = median(job.whole for job in jobs[1:])  # the first one warms up
            print(f"  peer, batch {batch:2}, {threads} threads: {found[setting]:.2f} s", flush=True)
    return min(found, key=lambda setting: found[setting])


def warm_runs(work: Work, setting: Setting, rounds: int) -> dict[str, list[Run]]:
    """Jobs in two processes that live on, alternating; checks that the pictures agree."""
    runs: dict[str, list[Run]] = {"ours": [], "stock": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        _worker("ours", work) as ours,
        _worker("stock", work) as stock,
    ):
        workers = {"ours": ours, "stock": stock}
        for i in range(rounds + 1):
            outs = {side: Path(folder, side, str(i)) for side in runs}
            for side in runs if i % 2 else reversed(runs):
                run = workers[side](outs[side], i, setting)
                if i > 0:  # the first one warms up
                    runs[side].append(run)
            difference = largest_difference(outs["ours"], outs["stock"])
            if difference > 2:
                sys.exit(f"the pictures differ by {difference} of 255: not the same work")
    return runs


def largest_difference(ours: Path, stock: Path) -> int:
    """Between the best pictures of both sides by their seeds, in levels of 255.

    Equal scores may be ranked either way, so one that only one side has kept is passed over.
    """
    kept = {path.stem.split("-")[0]: path for path in stock.glob("*-r*.png")}
    found = [(path, kept.get(path.stem.split("-")[-1])) for path in ours.glob("*-r*.png")]
    pairs = [(_pixels(a), _pixels(b)) for a, b in found if b is not None]
    if not pairs:
        sys.exit("the two sides kept different pictures: not the same work")
    return max(int(abs(a - b).max()) for a, b in pairs)


def cold_runs(work: Work, setting: Setting, rounds: int) -> dict[str, list[Run]]:
    """Jobs in new processes, alternating."""
    runs: dict[str, list[Run]] = {"ours": [], "stock": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds + 1):
            for side in runs if i % 2 else reversed(runs):
                out = Path(folder, side, str(i))
                run = _cold_run(_command(side, work, setting, out, i), out)
                if i > 0:  # the first one fills the system's cache
                    runs[side].append(run)
    return runs


def _command(side: str, work: Work, setting: Setting, out: Path, i: int) -> list[str]:
    prompt, seed = _prompt_and_seed(i)
    same = ["--seed", seed, "--candidates", work.candidates, "--top-k", work.top_k]
    same += ["--steps", work.steps, "--guidance", work.guidance]
    if side == "ours":
        own = ["-m", "gen", prompt, "-m", work.model, "--reranker", work.reranker]
        own += ["--sampler", SAMPLER, "--upscale", AS_DRAWN, "--quiet", "-o", out]
    else:
        own = ["-m", "benchmarks.stock_job", work.model, work.reranker, prompt]
        own += ["--batch", setting.batch, "--threads", setting.threads, "--out", out]
    return [sys.executable, *map(str, own), *map(str, same)]


def _cold_run(command: Sequence[str], out: Path) -> Run:
    """Time a process by when its first picture is there, and by its end."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=_environment())
    first = None
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        now = time.perf_counter() - began
        if first is None and any(out.rglob("[!.]*.png")):
            first = now
        if pid:
            break
        time.sleep(0.02)  # often enough, and takes no time from what is measured
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or first is None:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    return Run(first, now, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


@contextmanager
def _worker(side: str, work: Work) -> Iterator[Any]:
    """Start a process with one side's models in memory; yields what makes it do a job."""
    module = ["-m", "benchmarks.main_job", "--worker", side]
    process = subprocess.Popen(
        [sys.executable, *module, *_work_flags(work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(out: Path, i: int, setting: Setting) -> Run:
        prompt, seed = _prompt_and_seed(i)
        task = {"prompt": prompt, "seed": seed, "out": str(out)}
        task |= {"batch": setting.batch, "threads": setting.threads}
        print(json.dumps(task), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            sys.exit(f"the process of {side} ended")
        return Run(**json.loads(answer))

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()


def _work_off(side: str, work: Work) -> None:
    """Be a worker: one job a line."""
    draw = _our_job(work) if side == "ours" else _stock_job(work)
    for line in sys.stdin:
        task = json.loads(line)
        out = Path(task["out"])
        out.mkdir(parents=True, exist_ok=True)
        began, worked = time.perf_counter(), time.process_time()
        draw(task, out)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        answer = {"first": seconds, "whole": seconds, "processor": worked, "peak": _peak()}
        print(json.dumps(answer), flush=True)


def _our_job(work: Work) -> Any:
    from gen import Engine, generate

    engine = Engine(reranker=str(work.reranker))

    def draw(task: dict[str, Any], out: Path) -> None:
        generate(
            task["prompt"],
            model=str(work.model),
            seed=task["seed"],
            candidates=work.candidates,
            top_k=work.top_k,
            steps=work.steps,
            guidance=work.guidance,
            sampler=SAMPLER,
            upscale=AS_DRAWN,
            outdir=out,
            engine=engine,
        )

    return draw


def _stock_job(work: Work) -> Any:
    import torch

    from benchmarks.stock_job import StockJob

    job = StockJob(work.model, work.reranker)

    def draw(task: dict[str, Any], out: Path) -> None:
        torch.set_num_threads(task["threads"])
        job.draw(
            task["prompt"],
            out,
            seed=task["seed"],
            candidates=work.candidates,
            top_k=work.top_k,
            batch=task["batch"],
            steps=work.steps,
            guidance=work.guidance,
        )

    return draw


def _prompt_and_seed(i: int) -> tuple[str, int]:
    return PROMPTS[i % len(PROMPTS)], 1000 * i


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def _tell(label: str, runs: dict[str, list[Run]], name: str, target: float | None = None) -> None:
    times = {side: [getattr(run, name) for run in own] for side, own in runs.items()}
    ratio = median(times["ours"]) / median(times["stock"])
    spans = [
        f"{side} {median(x):.2f} s ({min(x):.2f} to {max(x):.2f})" for side, x in times.items()
    ]
    verdict = ""
    if target is not None:
        verdict = f"  (at most {target}: {'yes' if ratio <= target else 'NO'})"
    print(f"{label:20} {', '.join(spans)}, ratio {ratio:.2f}{verdict}", flush=True)


def _tell_memory(runs: dict[str, list[Run]]) -> None:
    peaks = [f"{side} {max(run.peak for run in own) / 1e6:.0f} MB" for side, own in runs.items()]
    print(f"{'  peak memory':20} {', '.join(peaks)}", flush=True)


def _facts(work: Work) -> list[str]:
    packages = ("torch", "diffusers", "transformers", "Pillow")
    cores = len(os.sched_getaffinity(0))
    return [
        f"{work.candidates} candidates, best {work.top_k}, {work.steps} steps of {SAMPLER}, "
        f"guidance {work.guidance:g}, {work.model.name} judged by {work.reranker.name}",
        f"python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages),
        f"{_processor()}, {cores} cores, load {os.getloadavg()[0]:.1f}, {platform.platform()}",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _work(options: argparse.Namespace) -> Work:
    return Work(
        options.model.resolve(),
        options.reranker.resolve(),
        options.candidates,
        options.top_k,
        options.steps,
        options.guidance,
    )


def _work_flags(work: Work) -> list[str]:
    values = {"--model": work.model, "--reranker": work.reranker, "--steps": work.steps}
    values |= {"--candidates": work.candidates, "--top-k": work.top_k, "--guidance": work.guidance}
    return [str(word) for pair in values.items() for word in pair]


def _options() -> argparse.Namespace:
    spec = families.shipped()[families.DEFAULT_MODEL]
    jury = rerank.model.specs.SPECS[rerank.model.specs.DEFAULT]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=spec.folder, help="a diffusers folder")
    parser.add_argument("--reranker", type=Path, default=jury.folder, help="a CLIPModel folder")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--steps", type=int, default=spec.defaults["steps"])
    parser.add_argument("--guidance", type=float, default=spec.defaults["guidance"])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each side")
    parser.add_argument("--sweep", type=int, default=2, help="runs of each setting of the peer")
    parser.add_argument("--worker", choices=("ours", "stock"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
