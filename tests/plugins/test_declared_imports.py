"""What a package imports it also declares, so that it works in an environment that holds nothing else."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")), ROOT / "benchmarks/mini", ROOT / "benchmarks/salmubench"]  # fmt: skip
HOMES = importlib.metadata.packages_distributions()


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[(@]", name.strip(), maxsplit=1)[0]).lower()


def project_of(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


WORKSPACE = {plain(project_of(folder)["name"]): folder for folder in PROJECTS}


def along(name: str) -> set[str]:
    """What a distribution of others always brings along."""
    try:
        asked = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {plain(line) for line in asked if "extra ==" not in line}


def declared(folder: Path, *, extras: bool) -> set[str]:
    """Distributions that a project asks for itself, and those that packages of this repository bring along."""
    project = project_of(folder)
    asked = list(project.get("dependencies", []))
    if extras:
        asked += [line for group in project.get("optional-dependencies", {}).values() for line in group]
    names = {plain(line) for line in asked} | {plain(project["name"])}
    for name in names - {plain(project["name"])}:
        names |= declared(WORKSPACE[name], extras=False) if name in WORKSPACE else along(name)
    return names


def imported(file: Path) -> dict[str, bool]:
    """Top-level modules -> are they imported whenever the file is? Those for type checking alone are left out."""
    found: dict[str, bool] = {}

    def visit(nodes, always: bool) -> None:
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    top = name.partition(".")[0]
                    found[top] = found.get(top, False) or always
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse, always)
            else:
                optional = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try)
                visit(ast.iter_child_nodes(node), always and not optional)

    visit(ast.parse(file.read_text(encoding="utf-8")).body, True)
    return found


def sources(folder: Path) -> list[Path]:
    if folder == ROOT:
        return sorted((ROOT / "salmu_core").rglob("*.py"))
    return sorted(
        file for place in folder.glob("salmu*") for file in ([place] if place.suffix == ".py" else place.rglob("*.py"))
    )


#: Modules of this repository, which an editable installation does not list.
OWN = {
    file.relative_to(base).parts[0].removesuffix(".py"): name for name, base in WORKSPACE.items() for file in sources(base)
}
#: Used where the user has them, and said so there (pyarrow: packages that read parquet ask for it); pytest loads what it finds.
IF_THERE = {"transformers", "pyarrow", "pytest"}


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_a_package_declares_what_it_imports(folder):
    needed, possible = declared(folder, extras=False), declared(folder, extras=True)
    files, faults = sources(folder), []
    assert files or "bypass-selection = true" in (folder / "pyproject.toml").read_text(encoding="utf-8")  # it holds no code
    for file in files:
        for module, always in imported(file).items():
            if module in sys.stdlib_module_names or module in IF_THERE:
                continue
            homes = {OWN[module]} if module in OWN else {plain(name) for name in HOMES.get(module, [module])}
            # An import in a function may be of an extra, or of another package of this repository that is asked for by name.
            known = needed if always else possible | WORKSPACE.keys()
            if not homes & known:
                faults.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not faults, "\n".join(faults)
