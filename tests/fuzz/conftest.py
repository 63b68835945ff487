"""Make the modules of this folder importable by its tests."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
collect_ignore = [] if find_spec("atheris") else ["test_atheris.py"]  # an extra for long runs
