"""Record the templates that the tests of dynamicprompts read, as a plugin of pytest.

`benchmarks.templates` says how it is run. They are written to templates.json; those that the
library reads by itself, as lines of its wildcards, and those in other signs than its own, are not.
"""

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from dynamicprompts.parser import parse as module
from dynamicprompts.parser.config import default_parser_config

_original = module.parse
_recorded: dict[str, None] = {}


def _recording(prompt: str, parser_config: Any = default_parser_config) -> Any:
    frame: FrameType | None = sys._getframe(1)
    within = False
    while frame is not None:
        code = frame.f_code
        within |= "/dynamicprompts/samplers/" in code.co_filename or "_command" in code.co_name
        frame = frame.f_back
    if not within and parser_config == default_parser_config:
        _recorded[prompt] = None
    return _original(prompt, parser_config)


for _module in [*sys.modules.values()]:
    if getattr(_module, "parse", None) is _original:
        _module.parse = _recording  # type: ignore[attr-defined]


def pytest_sessionfinish() -> None:
    """Write the templates."""
    Path("templates.json").write_text(json.dumps([*_recorded], indent=0), encoding="utf-8")
