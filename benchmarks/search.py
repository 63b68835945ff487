"""What a search adds in time: the same number of steps or tokens, with looks and without.

    python -m benchmarks.search [--model NAME] [--search prune|beam] [--rounds 5] [--candidates 16]

Alternates a plain run and a search with the same budget of the same prompt, and prints the median
of the ratio of their times, with the quartiles.
"""

import argparse
import statistics
import time

from gen.engine import Engine
from gen.plan import resolve
from gen.settings.request import Request

PROMPT = "a panda to the left of a red balloon"


def seconds(engine: Engine, request: Request) -> float:
    """Return how long a prompt takes, per step or token of a candidate that it has spent."""
    plan = resolve(request)
    began = time.perf_counter()
    engine.draw(plan)
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("-m", "--model", default="stickers")
    parser.add_argument("--search", choices=("prune", "beam"), default="prune")
    parser.add_argument("--sampler", help="beam of a diffusion model needs euler_a or another")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    engine = Engine()
    plain = Request(
        PROMPT,
        model=arguments.model,
        sampler=arguments.sampler,
        candidates=arguments.candidates,
        seed=0,
    )
    search = plain.replace(search=arguments.search)
    [schedule] = resolve(search).schedules
    spent = schedule.evaluations / (arguments.candidates * (schedule.total - schedule.start))
    for request in (plain, search):
        seconds(engine, request)  # loads, and warms up
    ratios = []
    for _ in range(arguments.rounds):
        alone = seconds(engine, plain)
        ratios.append(seconds(engine, search) / alone / spent)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(
        f"{arguments.search} of {arguments.model}: {schedule.begin} begin, {spent:.2f} of the "
        f"budget is spent; per step {median:.2f} × a plain run [{low:.2f}, {high:.2f}]"
    )


if __name__ == "__main__":
    main()
