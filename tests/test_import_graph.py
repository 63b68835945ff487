"""Who may import whom, read off the source of every module, and how long modules may be.

ui ──▶ gen ──▶ pipelines, rerank        train ──▶ everything; nobody imports train
rerank ──▶ pipelines.checkpoints, pipelines.runtime, pipelines.images: no more of pipelines
families ──▶ diffusion, dalle, unclip, stock ──▶ drafts, checkpoints ──▶ runtime
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "ui": {"gen"},
    "gen": {"pipelines", "rerank"},
    "pipelines": set(),
    "rerank": {"pipelines"},  # those of RERANK_MAY_IMPORT alone
    "train": {"ui", "gen", "pipelines", "rerank"},
}
RERANK_MAY_IMPORT = ("rerank", "pipelines.checkpoints", "pipelines.runtime", "pipelines.images")
WINGS = ("pipelines.dalle", "pipelines.diffusion", "pipelines.stock", "pipelines.unclip")
SHORT = ("gen", "pipelines", "rerank", "ui", "train")
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "xformers",
    "gradio",
    "ray",
}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {name_of(path): path for folder in MAY_IMPORT for path in modules(folder)}


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs on import: not the bodies of functions, not what only type checkers read."""
    return walk(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def walk(node: ast.AST, skipped: tuple[type[ast.AST], ...] = ()) -> Iterator[ast.AST]:
    """All that runs some time, also in functions, but not what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, skipped):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from walk(child, skipped)


@cache
def arrows() -> dict[str, set[str]]:
    """The modules of the project that each one imports, at any time."""
    graph = {}
    for name, path in PATHS.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[name] = {module_of(imported) for imported in imports(walk(tree))} - {name, ""}
    return graph


def module_of(name: str) -> str:
    """The module of an imported name; empty for other people's."""
    while name and name not in PATHS:
        name = name.rpartition(".")[0]
    return name


def circles(graph: dict[str, set[str]]) -> set[str]:
    """The modules that lead back to themselves, and those between them."""
    left = dict(graph)
    while ends := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ends:
            del left[name]
    while starts := left.keys() - {t for targets in left.values() for t in targets}:
        for name in starts:
            del left[name]
    return set(left)


def loaded_by(statement: str) -> set[str]:
    """The modules of the project that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name for name in done.stdout.split() if name.split(".")[0] in MAY_IMPORT}


def is_in(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


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
                "images",
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
        allowed = {"models.py": HEAVY, "cluster.py": {"ray"}}.get(path.name, set())
        assert heavy <= allowed, f"{path.name} imports {heavy - allowed}"


def test_no_circles_even_within_functions() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}
    assert not circles(arrows())


@pytest.mark.parametrize("wing", WINGS)
def test_wings_import_neither_each_other_nor_the_families(wing: str) -> None:
    others = {*WINGS, "pipelines.families"} - {wing}
    for name, targets in arrows().items():
        if is_in(name, wing):
            wrong = {t for t in targets if any(is_in(t, other) for other in others)}
            assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize(
    ("package", "below"),
    [
        ("pipelines.runtime", {"pipelines.loading"}),
        ("pipelines.checkpoints", {"pipelines.runtime", "pipelines.loading"}),
    ],
)
def test_checkpoints_and_runtime_know_no_wing(package: str, below: set[str]) -> None:
    for name, targets in arrows().items():
        if is_in(name, package):
            wrong = {t for t in targets if not any(is_in(t, p) for p in {package, *below})}
            assert not wrong, f"{name} imports {wrong}"


@pytest.mark.slow
def test_rerank_knows_no_pipeline() -> None:
    for name, targets in arrows().items():
        if is_in(name, "rerank"):
            wrong = {t for t in targets if not any(is_in(t, p) for p in RERANK_MAY_IMPORT)}
            assert not wrong, f"{name} imports {wrong}"
    loaded = loaded_by("import rerank, rerank.reranker") - {"pipelines"}
    assert all(any(is_in(name, package) for package in RERANK_MAY_IMPORT) for name in loaded)


@pytest.mark.slow
def test_a_wing_brings_no_other_along() -> None:
    """The package alone is light; its pipeline brings itself and what lies under it."""
    light = loaded_by("import pipelines.diffusion, pipelines.diffusion.samplers")
    assert light <= {"pipelines", "pipelines.diffusion", "pipelines.diffusion.samplers"}
    loaded = loaded_by("from pipelines.diffusion import LatentDiffusion")
    foreign = {name for name in loaded if not is_in(name, "pipelines.diffusion")}
    print(f"LatentDiffusion loads {len(loaded)} modules, {len(foreign)} of them not its own")
    # With their packages; decoding and denoising were its own, before other wings drew so.
    assert len(foreign) <= 24
    assert not {n for n in foreign if is_in(n, "pipelines.dalle") or is_in(n, "pipelines.stock")}
    assert "pipelines.families" not in foreign


@pytest.mark.parametrize("package", ["pipelines", "gen", "rerank", "ui"])
def test_what_packages_promise_is_there(package: str) -> None:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


@pytest.mark.parametrize("folder", SHORT)
def test_files_and_functions_stay_short(folder: str) -> None:
    for path in modules(folder):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 450, f"{path.relative_to(ROOT)} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.relative_to(ROOT)}: {node.name}() is too long"


def test_few_files_are_nearly_too_long() -> None:
    paths = [path for folder in SHORT for path in modules(folder)]
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in paths]
    assert len([length for length in lengths if length > 400]) <= 4
