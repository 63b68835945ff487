"""The one reader of JSON from outside: bounded in size and depth, of the type that is asked for.

pydantic parses and checks. It ends at 200 levels of brackets and at numbers of 4,300 digits; what
is left to do here is to bound the size, and to say in one line what is wrong. Loads no torch.
"""

from functools import cache
from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 2**20  # a hundred times the largest config; parsed it takes twenty times as much
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # which some editors put before UTF-8


def read_json(path: Path, kind: Any = dict[str, Any], most: int = MAX_BYTES) -> Any:
    """Read a JSON file of at most `most` bytes, which must hold a `kind`.

    `kind` is a type, or a TypedDict of typing_extensions, which says of which types some entries
    are and lets others be. Raises OSError where there is no file that can be read, and ValueError
    in one line for what is no such JSON.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most} bytes")
    return parse_json(data, kind)


def parse_json(data: str | bytes, kind: Any = dict[str, Any]) -> Any:
    """Parse JSON that must be a `kind`; see `read_json`. Raises ValueError."""
    from pydantic_core import from_json

    encoded = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    value = from_json(encoded.removeprefix(BYTE_ORDER_MARK))
    check_type(value, kind)
    return value


def check_type(value: Any, kind: Any) -> None:
    """Raise ValueError, in one line that says where, unless a value that was read is a `kind`.

    Nothing is converted: "1" is no number, and neither is true.
    """
    from pydantic import ValidationError

    try:
        _checker(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Input ")
        raise ValueError(f"{where or 'it'} is {first['input']!r:.60}: it {reason}") from None


@cache
def _checker(kind: Any) -> Any:
    """Return pydantic's checker of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
