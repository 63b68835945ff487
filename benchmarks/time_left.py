"""How true the time is that the page says is left: `python -m benchmarks.time_left`.

Draws with the shipped models as the page does, notes what it would have said at each step after the
first tenth of a prompt, and compares that with when the prompt was done. Prints for each model how
many of these moments were within a third of the truth, or a second where less was left.
"""

import argparse
from time import perf_counter

from gen.engine import Engine
from gen.events import Event, Progress
from gen.plan import resolve
from gen.settings.request import Request
from pipelines import families
from ui.page.batch import Live

FROM = 0.1  # of a prompt
WITHIN = 1 / 3  # of what is truly left
LEAST = 1.0  # seconds: what is said is rounded to one


def moments(request: Request, engine: Engine) -> list[tuple[float, float]]:
    """Draw a request; return the seconds that were said to be left, and that were, at each step."""
    live = Live(request)
    said: list[tuple[float, float]] = []  # what is left, and when it was said

    def watch(event: Event) -> None:
        live(event)
        left = live.seconds_left
        if isinstance(event, Progress) and event.share >= FROM and left is not None:
            said.append((left, perf_counter()))

    engine.draw(resolve(request), watch=watch, previews=True)
    done = perf_counter()
    return [(left, done - at) for left, at in said]


def main() -> None:
    """Draw some prompts with each model, and print the share of true moments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=5)
    arguments = parser.parse_args()
    engine = Engine()
    for name in families.shipped():
        found: list[tuple[float, float]] = []
        for seed in range(arguments.prompts + 1):
            request = Request(
                "a large sunflower", model=name, candidates=arguments.candidates, seed=seed * 1000
            )
            drawn = moments(request, engine)
            found += drawn if seed else []  # the first loads
        true = [abs(said - left) <= max(LEAST, WITHIN * left) for said, left in found]
        longest = max(left for _, left in found)
        print(f"{name}: {sum(true)} of {len(true)} moments true, at most {longest:.1f} s left")


if __name__ == "__main__":
    main()
