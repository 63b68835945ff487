"""`generate-ui` in a process of its own, on the models of this one."""

import json
import os
import sys
import urllib.request
from http.client import HTTPResponse
from typing import TextIO

import pytest

from ui.cli import main


def served(words: list[str]) -> tuple[int, TextIO]:
    """The command in a process of its own: its number, and what it prints."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write_end, 1)
        sys.stdout = os.fdopen(1, "w")
        os._exit(main(words))
    os.close(write_end)
    return child, os.fdopen(read_end)


def post(port: int, path: str, body: object) -> HTTPResponse:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return urllib.request.urlopen(request, timeout=120)
