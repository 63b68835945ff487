"""Who may import whom, read off the source of every module.

ui ──▶ gen ──▶ pipelines, rerank        train ──▶ everything; nobody imports train
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "ui": {"gen"},
    "gen": {"pipelines", "rerank"},
    "pipelines": set(),
    "rerank": set(),
    "train": {"ui", "gen", "pipelines", "rerank"},
}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "xformers", "gradio"}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs on import: not the bodies of functions, not what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_no_other_arrows(folder: str) -> None:
    for path in modules(folder):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imports(ast.walk(tree)):
            top = name.split(".")[0]
            allowed = top not in MAY_IMPORT or top == folder or top in MAY_IMPORT[folder]
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_product_is_looked_at() -> None:
    assert {folder for folder in MAY_IMPORT if modules(folder)} >= {"gen", "pipelines", "rerank"}


@pytest.mark.parametrize(
    "module",
    [
        *[path.relative_to(ROOT).as_posix() for path in modules("gen")],
        "pipelines/__init__.py",
        "pipelines/checkpoints/specs.py",
        "pipelines/diffusion/samplers.py",
        "rerank/__init__.py",
        *[
            f"rerank/{name}.py"
            for name in (
                "claims/claims",
                "cli",
                "extras",
                "flags",
                "pictures",
                "ranking",
                "claims/sentences",
            )
        ],
        "rerank/model/specs.py",
        "rerank/claims/claims.py",
        "rerank/claims/sentences.py",
        "rerank/claims/vocabulary.py",
    ],
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    assert not HEAVY & {name.split(".")[0] for name in imports(at_import(tree))}


def test_only_the_models_reach_for_the_networks() -> None:
    for path in modules("gen"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        heavy = HEAVY & {name.split(".")[0] for name in imports(ast.walk(tree))}
        assert not heavy or path.name == "models.py", f"{path.name} imports {heavy}"
