"""The layout of the package: every room imports only from rooms before it, and nothing imports in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The way of the data. A room imports from its own line and from lines above it.
LAYERS = (
    ("errors", "base", "verdict"),
    ("models",),
    ("coupling",),
    ("inspection",),
    ("pruning",),
    ("subjects",),
    ("evaluation",),
    ("serving",),
    ("checks",),
    ("certification",),
    ("report",),
    ("verification",),
    ("suites",),
    ("cli", "pytest_plugin"),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
LOOSE = {"__init__", "__main__", "errors", "verdict"}
# A file tells one idea; what is longer than this tells two.
LINES = 350


def _modules() -> dict[str, Path]:
    paths = (ROOT / "moeverify").rglob("*.py")
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


MODULES = _modules()


def _imports(module: str, *, types: bool) -> set[str]:
    """Modules of ours that ``module`` imports anywhere in its text; ``types``: for annotations alone as well."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in guarded and not types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES and name != module}


def _room(module: str) -> str | None:
    return module.split(".")[1] if "." in module else None


def test_few_modules_lie_loose_at_the_top():
    loose = {path.stem for path in (ROOT / "moeverify").glob("*.py")}
    assert loose <= LOOSE
    rooms = {path.name for path in (ROOT / "moeverify").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(RANK)


def test_no_file_is_too_long_to_be_one_idea():
    folders = ("moeverify", "tests", "synthetic_models", "wild_models", "benchmarks", "examples")
    lengths = {path: len(path.read_text("utf-8").splitlines()) for f in folders for path in (ROOT / f).rglob("*.py")}
    assert len(lengths) > 500
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LINES} == {}


def test_no_room_imports_from_one_after_it():
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        for other in sorted(_imports(module, types=True))
        if _room(module) in RANK and _room(other) in RANK and RANK[_room(other)] > RANK[_room(module)]
    ]
    assert upward == []


def test_no_import_is_circular_not_even_for_annotations():
    imports = {module: _imports(module, types=True) for module in MODULES}
    # What nothing leads into can be taken away, until circles are all that is left.
    while free := {module for module, others in imports.items() if not others & set(imports)}:
        imports = {module: others for module, others in imports.items() if module not in free}
    assert {module: sorted(others & set(imports)) for module, others in imports.items()} == {}


def test_evidence_of_checks_shares_no_code_with_the_pruner():
    reached = {module for module in MODULES if module.startswith("moeverify.checks.evidence")}
    assert reached
    waiting = list(reached)
    while waiting:
        new = _imports(waiting.pop(), types=True) - reached
        reached |= new
        waiting += new
    assert sorted(module for module in reached if module.startswith("moeverify.pruning")) == []


def test_checks_import_the_pruner_for_what_it_claims_alone():
    """A check may know what a subject hands over; it computes nothing with the pruner's code."""
    direct = {
        (module.removeprefix("moeverify.checks."), other)
        for module in MODULES
        if module.startswith("moeverify.checks")
        for other in _imports(module, types=False)
        if other.startswith("moeverify.pruning")
    }
    assert direct == set()
