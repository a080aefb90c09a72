"""Core can be read in an afternoon: its size, the length of files and functions, and no import that goes in a circle."""

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "salmu_core"
MOST_LINES, MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION, MOST_LONG_FUNCTIONS, MOST_FILES_ON_TOP = 21_550, 350, 60, 5, 12
#: Functions that are longer, and why they are left whole.
LONG = {
    "runner.fit.fit": "the training loop, which is to be read from top to bottom",
    "runner.recording.make_record": "one constructor: a line for each field of a record",
    "comparison.verdict.judge": "the rules of a verdict in the order in which they are checked",
}
#: Modules that name each other's types in annotations and import nothing when they run: the contract speaks of what is handed out
#: by the parts that rest on it.
TYPES_ONLY = {"data.pairs", "hookspecs", "method"}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(CORE).with_suffix("").parts).removesuffix(".__init__")


TREES = {name_of(file): (file, ast.parse(file.read_text(encoding="utf-8"))) for file in sorted(CORE.rglob("*.py"))}


def imports(tree: ast.Module, *, types: bool) -> set[str]:
    """Modules of core that are imported anywhere in a module, inside of functions too.

    Args:
        types: those for type checking only count as well.
    """
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left_out |= {inner for statement in node.body for inner in ast.walk(statement)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in left_out and (node.module or "").startswith("salmu_core"):
            home = node.module.removeprefix("salmu_core").lstrip(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}".lstrip(".")
                found.add(inner if inner in TREES else home)
    return found - {""}


def circles(arrows: dict[str, set[str]]) -> set[str]:
    """Modules from which a way leads back to themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += arrows.get(module, ())
        return seen

    return {module for module in arrows if module in reached(module)}


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


def test_core_is_no_larger_than_this():
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file, _ in TREES.values()) <= MOST_LINES
    assert len(list(CORE.glob("*.py"))) <= MOST_FILES_ON_TOP


@pytest.mark.parametrize("module", TREES)
def test_no_file_is_longer_than_this(module):
    file, _ = TREES[module]
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_FILE


def test_few_functions_are_long_and_each_for_a_reason():
    long = {
        f"{module}.{node.name}"
        for module, (_, tree) in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert long == set(LONG)
    assert len(long) <= MOST_LONG_FUNCTIONS


def test_nothing_that_runs_is_imported_in_a_circle():
    # The package itself resolves public names when they are first used; a module that needs its version is no circle.
    assert circles({module: imports(tree, types=False) for module, (_, tree) in TREES.items() if module}) == set()


def test_types_go_in_a_circle_only_through_the_contract():
    arrows = {module: imports(tree, types=module not in TYPES_ONLY) for module, (_, tree) in TREES.items() if module}
    assert circles(arrows) == set()
