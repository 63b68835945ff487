"""The lists in a YAML or JSON file of wildcards, by their keys: bounded in depth and number.

Collections of wildcards are shared by people, so such a file is read as any other from outside.
"""

from collections.abc import Iterator
from typing import Any

from dynamicprompts.wildcards.item import WildcardItem

from pipelines.checkpoints.configs import parse_json

DEEPEST = 50  # levels of a file
MOST_VALUES = 200_000  # of one file


def read_lists(text: str, suffix: str, name: str) -> Iterator[tuple[str, list[str | WildcardItem]]]:
    """Yield the lists of a file, with their names; a list that is the whole file is called `name`.

    Raises ValueError, or what the readers of YAML and JSON raise.
    """
    data = parse_json(text, object) if suffix == ".json" else _read_yaml(text)
    if _size(data, {}) > MOST_VALUES:  # also where YAML says the same again by a sign
        raise ValueError(f"more than {MOST_VALUES} values")
    if isinstance(data, list):
        if any(isinstance(each, str) for each in data):
            yield name, [each for each in data if isinstance(each, str)]
    elif isinstance(data, dict):
        yield from _lists(data, ())


def _read_yaml(text: str) -> Any:
    """Read YAML by the reader in C, where there is one; what is deep makes both slow."""
    import yaml  # type: ignore[import-untyped]

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
    return yaml.load(text, loader)


def _size(value: Any, known: dict[int, int]) -> int:
    """Return how many values there are in one; `known` has those of which that was told."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not inner:
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # while it is counted: what holds itself has no end
        known[id(value)] = 1 + sum(_size(each, known) for each in inner)
    return known[id(value)]


def _lists(
    data: dict[Any, Any], within: tuple[str, ...]
) -> Iterator[tuple[str, list[str | WildcardItem]]]:
    for key, value in data.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, dict):
            yield from _lists(value, (*within, key))
        elif value and isinstance(value, str | list):
            yield "/".join((*within, key)), [*_items([value] if isinstance(value, str) else value)]


def _items(values: list[Any]) -> Iterator[str | WildcardItem]:
    """Yield the values of a list: texts, as in 2::blue with a weight, or {text: …, weight: 2}."""
    for value in values:
        if isinstance(value, str) and value:
            before, found, text = value.rpartition("::")
            is_weighed = bool(found) and value[0].isdecimal() and _is_number(before)
            yield WildcardItem(content=text, weight=float(before)) if is_weighed else value
        elif isinstance(value, dict) and (said := value.get("text") or value.get("content")):
            weight = float(value.get("weight", 1))
            yield str(said) if weight == 1 else WildcardItem(str(said), weight)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
