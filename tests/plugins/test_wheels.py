"""Wheels: one for every package, and a clean environment that holds nothing but what they brought."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def members() -> dict[str, dict]:
    """Distribution -> its pyproject.toml, of every package beside core."""
    files = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("benchmarks/*/pyproject.toml")]
    content = [tomllib.loads(file.read_text(encoding="utf-8")) for file in sorted(files)]
    return {item["project"]["name"]: item for item in content}


def test_the_zoo_names_every_package_and_nothing_else_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras["zoo"]) == set(members()) - {"salmu-zoo"}
    assert "salmu[zoo,trackers]" in extras["all"]
    [zoo] = members()["salmu-zoo"]["project"]["dependencies"]
    assert zoo.startswith("salmu[zoo]")


#: What builds the wheels, here and in the first stage of the container file.
BUILD = ["uv", "build", "--all-packages", "--wheel", "--out-dir"]


def test_the_container_file_does_what_is_tried_here():
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    first, second = (place for place, line in enumerate(lines) if line.startswith("FROM "))
    assert f"RUN {' '.join(BUILD)} /wheels" in lines[first:second]
    assert "COPY --from=wheels /wheels /wheels" in lines[second:]
    assert any("pip install --no-cache-dir /wheels/*.whl" in line for line in lines[second:])
    assert not any(line.startswith("COPY . ") for line in lines[second:])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "results"} <= set(ignored)


@pytest.mark.skipif(not os.environ.get("SALMU_TEST_VENV"), reason="takes minutes: set SALMU_TEST_VENV=1")
@pytest.mark.skipif(not shutil.which("uv"), reason="builds with uv")
def test_wheels_of_all_packages_work_in_a_clean_environment(tmp_path):
    """Built files alone: outside the checkout, without its paths."""
    wheels = tmp_path / "wheels"
    subprocess.run([*BUILD, str(wheels)], check=True, cwd=ROOT)
    built = {path.name.split("-")[0].replace("_", "-") for path in wheels.glob("*.whl")}
    assert built == {"salmu", *members()}
    subprocess.run(["uv", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    own = [str(path) for path in sorted(wheels.glob("*.whl"))]
    subprocess.run(["uv", "pip", "install", "--python", str(python), *own], check=True)
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "SALMU_PLUGINS")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"SALMU_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}

    def salmu(*words: str) -> str:
        done = subprocess.run(
            [str(python), "-m", "salmu_core", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import salmu_core; print(salmu_core.__file__)"
    place = subprocess.run([str(python), "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert str(tmp_path / "env") in place
    methods = {item["name"] for item in json.loads(salmu("list-methods", "--json"))}
    assert {"slug", "delete", "gradient-ascent"} <= methods
    assert "problem" not in salmu("doctor").lower().replace("no problem", "")
    # Templates and data files are in the wheels: a report, a scaffold, a board's workflow, the shipped pair.
    salmu("compare", "gradient-ascent", "--benchmark", "toy", "--audits", "none", "--out", "results")
    assert (tmp_path / "results" / "report.html").is_file()
    [run] = (tmp_path / "results" / "runs").glob("gradient-ascent-*")
    salmu("submit", str(run), "--out", "board/submissions")
    salmu("board", "board", "--start")
    salmu("new-plugin", "fresh")
    salmu("build", "mini")
    salmu("run", "none", "--benchmark", "mini", "--out", "mini")
