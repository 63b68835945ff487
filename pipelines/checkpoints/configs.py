"""JSON from outside, by one reader: bounded in size and depth, of the type that is asked for.

pydantic parses and checks. It ends at 200 levels of brackets and at numbers of 4,300 digits; what
is left to do here is to bound the size, to say in one line what is wrong, and to refuse what the
JSON files of a model folder may not ask for. Loads no torch.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from pipelines.checkpoints.errors import WeightsError

MAX_BYTES = 4 * 2**20  # a hundred times the largest config; parsed it takes twenty times as much
OBJECT = dict[str, Any]  # the type of most JSON
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # which some editors put before UTF-8

PULLED = "pulled.json"  # beside fetched files: where they are from, and their hashes


# Keys that make a loader run code from the folder, or fetch code for it.
CODE_KEYS = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "custom_pipeline",
        "custom_pipelines",
        "_attn_implementation",
        "_attn_implementation_internal",
        "attn_implementation",
    }
)

# A network is built before its weights are compared with it, a layer at a time. No public one has
# more layers than this; these are the names of entries that number them.
MAX_LAYERS = 1000
LAYERS = re.compile(r"(layers|blocks|depth|per_block|channels|block_types)$")
NETWORK = "config.json"


class PulledFile(TypedDict, total=False):
    """What was fetched."""

    size: int
    sha256: str


class Pulled(TypedDict, total=False):
    """What `generate --pull` recorded."""

    licence: str | None
    files: dict[str, PulledFile]


def read_json(path: Path, kind: Any = OBJECT, most: int = MAX_BYTES) -> Any:
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


def parse_json(data: str | bytes, kind: Any = OBJECT) -> Any:
    """Parse JSON that must be a `kind`; see `read_json`. Raises ValueError."""
    from pydantic_core import from_json

    encoded = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    value = from_json(encoded.removeprefix(BYTE_ORDER_MARK))
    if kind is not OBJECT or not isinstance(value, dict):  # whose keys JSON has as text
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


def read_config(path: Path, kind: Any = dict[str, Any], most: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON file of a model folder, which must hold an object.

    `kind` is a TypedDict of the entries whose types matter; all entries are returned. Raises
    WeightsError if the file is missing or too large, is not such a JSON object, asks to run code,
    or describes a network without end.
    """
    try:
        config = read_json(path, Any, most)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{path} is missing: the model folder is not complete; copy or download it again"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path} is not a JSON object")
    try:
        check_type(config, kind)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    _refuse_code(config, path)
    if path.name == NETWORK:
        _refuse_endless(config, path)
    return config


def _refuse_code(value: object, path: Path) -> None:
    """Raise WeightsError for a key that would run code, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in CODE_KEYS and inner not in (None, False):
                raise WeightsError(
                    f"{path} sets {key!r}, which would run code that came with the weights; "
                    "only plain diffusers and transformers models are loaded"
                )
            _refuse_code(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(inner, path)


def _refuse_endless(config: dict[str, Any], path: Path) -> None:
    """Raise WeightsError for a network of so many layers that building it would not end."""
    for key, value in config.items():
        if isinstance(value, dict):
            _refuse_endless(value, path)
        elif LAYERS.search(key) and _count(value, key) > MAX_LAYERS:
            raise WeightsError(
                f"{path} sets {key} to more than {MAX_LAYERS} layers: no such network is built"
            )


def _count(value: object, key: str) -> int:
    """Return how many layers an entry asks for: a number, or a list with one entry for each."""
    if isinstance(value, list):
        own = (
            0 if key.endswith("channels") else max((_count(each, key) for each in value), default=0)
        )
        return max(len(value), own)
    is_number = isinstance(value, int) and not key.endswith("channels")
    return int(value) if is_number else 0  # type: ignore[call-overload]


def read_pulled(folder: Path) -> dict[str, Any]:
    """Read what `generate --pull` recorded of the files in a folder; {} for other files."""
    path = folder / PULLED
    return read_config(path, Pulled) if path.is_file() else {}
