"""How much of what other tools' images say is read: `python -m benchmarks.metadata_fields`.

Folders named on the command line are searched for the images of `expected.json` in
tests/gen/metadata_cases, which says by hand what they say: the cases of the tests (the default),
and the samples in the source archive of sd-parsers (`pip download --no-deps --no-binary :all:
sd-parsers`). Printed is the share of fields that are read, by Salon and by sd-parsers alone, and
whatever Salon reads wrongly, also of files that say nothing. A sampler that Salon does not have
counts as read where it is kept under its name.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gen import metadata
from gen.errors import InputError
from gen.metadata.understood import read_keyed

CASES = Path(__file__).parents[1] / "tests" / "gen" / "metadata_cases"
KEPT = {"sampler": "Sampler", "schedule": "Schedule type"}  # in `extra`, if there is none here


def by_salon(path: Path) -> Mapping[str, Any]:
    """Return the fields that Salon reads."""
    return _fields(metadata.read(path))


def by_sd_parsers(path: Path) -> Mapping[str, Any]:
    """Return the fields that sd-parsers reads, with their values as ours."""
    from sd_parsers import ParserManager

    found = ParserManager().parse(path)
    if found is None or not found.samplers:
        raise InputError("nothing")
    sampler = found.samplers[0]
    model = sampler.model
    values = {
        **found.metadata,
        **sampler.parameters,
        "sampler": sampler.name,
        "prompt": ", ".join(prompt.value for prompt in sampler.prompts),
        "negative_prompt": ", ".join(prompt.value for prompt in sampler.negative_prompts),
        "model_name": None if model is None else model.name,
        "model_hash": None if model is None else model.hash,
    }
    return _fields(read_keyed(values))


def _fields(record: metadata.Metadata) -> Mapping[str, Any]:
    named = {"model": record.model, "model_hash": record.model_hash}
    kept = {name: record.extra[label] for name, label in KEPT.items() if label in record.extra}
    return {k: v for k, v in {**kept, **record.request.given(), **named}.items() if v != ""}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How much of what images say is read.")
    parser.add_argument("folders", nargs="*", type=Path, default=[CASES])
    folders = parser.parse_args().folders
    expected = json.loads((CASES / "expected.json").read_text(encoding="utf-8"))
    there = {p.name: p for folder in folders for p in folder.rglob("*") if p.name in expected}
    readers: dict[str, Callable[[Path], Mapping[str, Any]]] = {
        "Salon": by_salon,
        "sd-parsers": by_sd_parsers,
    }
    for name, reader in readers.items():
        right, total, wrong = compare({k: expected[k] for k in sorted(there)}, there, reader)
        share = right / total if total else 0.0
        print(f"{name}: {right} of {total} fields of {len(there)} files, {share:.1%}")
        for line in wrong if name == "Salon" else []:
            print(f"  {line}")


def compare(
    expected: Mapping[str, Mapping[str, Any]],
    paths: Mapping[str, Path],
    read: Callable[[Path], Mapping[str, Any]],
) -> tuple[int, int, list[str]]:
    """Return how many fields are right, of how many, and a line for each that is wrong."""
    right, total, wrong = 0, 0, []
    for name, fields in expected.items():
        total += len(fields)
        try:
            found = read(paths[name])
        except Exception as error:  # sd-parsers raises whatever it meets
            wrong += [f"{name}: {error}"] if fields else []
            continue
        right += sum(found.get(key) == value for key, value in fields.items())
        wrong += [
            f"{name}: {key} is {found.get(key)!r}, not {fields.get(key)!r}"
            for key in (fields.keys() if fields else found.keys())
            if found.get(key) != fields.get(key)
        ]
    return right, total, wrong


if __name__ == "__main__":
    main()
