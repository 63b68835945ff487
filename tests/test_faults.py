"""What may go wrong, as one table: 43 rows, and the tests that hold each of them.

A test says which rows it is about: `@pytest.mark.fault("a full disk")`. `make faults`, which is
`python tests/test_faults.py`, runs those tests and prints the table; with `--list` it only prints.
"""

import ast
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """A row: what is given or happens, what is expected then, and what of it is only simulated."""

    name: str
    expected: str
    simulated: str = ""


# Always: one line that says what, where and the way out, an exit code, no traceback; what was made
# before is as it was, and there is no partial file under a final name.
FAULTS = (
    # what is asked for
    Fault("sizes", "exit 2 before a model loads, with the rule"),
    Fault("steps, counts and guidance", "exit 2, with the range"),
    Fault("seeds", "exit 2; 0 to 2^63 - 1 are taken and told"),
    Fault("prompts", "empty and control characters refused, dropped words told, Unicode kept"),
    Fault("prompt files that are none", "exit 2 with the path; a pipe is not waited for"),
    Fault("encodings of prompt files", "exit 2 with line and byte; BOM and CRLF are read"),
    Fault("bad rows", "the first fifty are listed, and nothing is drawn"),
    Fault("paths in rows", "refused; nothing is written outside the output folder"),
    Fault("very few and very many rows", "none: exit 2; bounded memory; a cap for a line"),
    Fault("output folders", "exit 2 or 5 before anything is drawn"),
    Fault("the same command twice", "nothing is overwritten, and nothing drawn again"),
    # weights
    Fault("files that are no weights", "exit 3 with both sizes, in bounded memory"),
    Fault("one flipped byte", "found by the recorded hash, or as a value that is not finite"),
    Fault("pickles", "refused unopened; nothing runs"),
    Fault("tensors that do not fit", "exit 3 with their names; nothing is made up"),
    Fault("configs that ask for code", "exit 3; no code runs, no network is used"),
    Fault("parts that do not fit", "exit 3 with both numbers"),
    Fault("a hub out of reach", "exit 3 in bounded time, with the folder of the cache"),
    Fault("half precision on a CPU", "a warning, and float32"),
    # images
    Fault("image bombs", "refused by their header; memory stays"),
    Fault("damaged images", "each with its reason, the others are used, exit 4"),
    Fault("modes, rotation, animation", "converted by one rule; the first frame"),
    Fault("texts inside images", "too long ones are not read; markup is shown as text"),
    Fault("folders to rank", "bad ones are told; none: exit 2; ties stay in order"),
    Fault("scores that are not finite", "the image has failed, and is never the first"),
    # the server
    Fault("an open address without a secret", "does not start"),
    Fault("pages of others", "403, and no header that would let them read"),
    Fault("files of the disk", "403 or 404"),
    Fault("bodies and connections", "413, 400 or 408; others are served"),
    Fault("too much by the API", "400 before the queue"),
    Fault("a client that leaves", "its job ends within a step"),
    Fault("a client with very many jobs", "others have their turn; 429 with Retry-After"),
    Fault("markup in texts", "shown as text"),
    Fault("a damaged image in the folder", "the gallery marks it as unreadable"),
    Fault("two buttons at once", "one job at a time, and no seeds of another"),
    # while it runs
    Fault("kill -9", "every finished image is there and whole, none twice"),
    Fault("a full disk", "exit 5 with path and free space, and nothing half"),
    Fault("signals", "once: ends tidily, 130; twice: at once; a server saves its job"),
    Fault(
        "memory runs out",
        "the batch is halved; exit 5 with a hint at one; the next job runs",
        simulated="CUDA's and torch's errors are raised by fakes; the limit of memory is real",
    ),
    Fault(
        "values that are not finite",
        "float32 is tried, else the candidate has failed; never a black image",
        simulated="half precision on a GPU is a decoder that gives NaN",
    ),
    Fault("a job that ends the process", "failed after two attempts, and the queue goes on"),
    Fault("odd surroundings", "no HOME, no caches, clock that jumps, closed output, locale C"),
    Fault(
        "one seed, every batch and device",
        "the same noise; pixels within the tolerance",
        simulated="the GPU, where there is none",
    ),
)


def find_tests() -> dict[str, list[str]]:
    """Return by row the tests that say they are about it, read off the source."""
    found = defaultdict(list)
    for path in sorted(HERE.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
                for mark in marks:
                    if ast.unparse(mark.func) == "pytest.mark.fault":
                        for name in mark.args:
                            test = f"{path.relative_to(HERE)}::{node.name}"
                            found[ast.literal_eval(name)].append(test)
    return dict(found)


def test_every_row_has_a_test() -> None:
    assert len(FAULTS) == 43
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert find_tests().keys() == set(names)


class Table:
    """Runs what is marked and prints what came of it, row by row; a plugin of pytest."""

    def __init__(self) -> None:
        self.cases: dict[str, list[str]] = defaultdict(list)  # by test: what came of each case

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out all tests that are about no row."""
        others = [item for item in items if item.get_closest_marker("fault") is None]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what came of a case."""
        if report.when == "call" or not report.passed:
            test = report.nodeid.partition("[")[0].removeprefix("tests/")
            self.cases[test].append(report.outcome)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """Return the table as lines."""
        lines, held, tests = [], 0, find_tests()
        for number, fault in enumerate(FAULTS, 1):
            lines += ["", f"{number:2} {fault.name}: {fault.expected}"]
            lines += [f"     simulated: {fault.simulated}"] if fault.simulated else []
            lines += [f"     {self._told(test)}" for test in tests[fault.name]]
            outcomes = [case for test in tests[fault.name] for case in self.cases.get(test, ())]
            held += set(outcomes) - {"skipped"} == {"passed"}
        return [*lines, "", f"{held} of {len(FAULTS)} rows hold"]

    def _told(self, test: str) -> str:
        """Return a test with what came of it."""
        cases = self.cases.get(test, [])
        came = ", ".join(
            f"{cases.count(outcome)} {outcome}" for outcome in sorted(set(cases), reverse=True)
        )
        return f"{test}: {came or 'not run here'}"


def main(words: list[str]) -> int:
    """Print the table, and run its tests before unless that is not wanted."""
    if words == ["--list"]:
        print("\n".join(Table().lines()[:-2]))
        return 0
    files = {test.partition("::")[0] for tests in find_tests().values() for test in tests}
    paths = [str(HERE / file) for file in sorted(files)]
    return int(pytest.main(["-q", "-rN", *words, *paths], plugins=[Table()]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
