"""One parser tried by atheris, which changes inputs toward code that no input has reached yet.

    python tests/fuzz/with_atheris.py "a template" -max_total_time=60

What follows the name goes to libFuzzer. `tests/fuzz/test_atheris.py` does it for all parsers.
"""

import sys
import tempfile
from pathlib import Path

import atheris


def main(name: str, *options: str) -> None:
    """Try a parser until time is up; ends the process with libFuzzer's exit code."""
    folder = Path(tempfile.mkdtemp())
    known = folder / "known"
    known.mkdir()
    with atheris.instrument_imports(include=["gen", "pipelines", "rerank", "ui"]):
        from fuzzing import LIMIT, all_parsers, as_bytes, find_cases

        [parser] = [each for each in all_parsers() if each.name == name]
        for number, given in enumerate([*parser.examples, *find_cases(parser)]):
            (known / str(number)).write_bytes(as_bytes(given))
            parser.trial(given, folder)  # which imports the rest of what it needs

    def one(data: bytes) -> None:
        given = data.decode("utf-8", "surrogateescape") if parser.takes_text else data
        took = parser.trial(given, folder).seconds
        if took > 10 * LIMIT:  # what is instrumented is several times as slow
            raise TimeoutError(f"{took} s")

    found = f"-artifact_prefix={folder}/"
    atheris.Setup([sys.argv[0], f"-max_len={parser.size}", found, *options, str(known)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
