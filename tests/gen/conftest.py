"""Fakes for the tests of gen."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_models


@pytest.fixture
def studio(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """The engine's models replaced by fakes, which tests may look at and break."""
    folder = tmp_path_factory.mktemp("studio")
    return fake_models.Studio(folder, monkeypatch.setattr, monkeypatch.setitem)
