import subprocess
import sys

import pytest

import rerank

HEAVY = "{'torch', 'transformers', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules)"


@pytest.mark.parametrize(
    "statement",
    ["import rerank, rerank.model.specs", "from rerank import cli, flags; flags.build_parser()"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str) -> None:
    code = f"import sys; {statement}; print({HEAVY} or 'none')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "none\n"


def test_public_names_are_there() -> None:
    for name in rerank.__all__:
        assert getattr(rerank, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Rerankr'"):
        rerank.Rerankr  # noqa: B018
