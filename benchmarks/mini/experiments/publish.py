"""Commit-ready results from a comparison's records, and the README's table and picture from those results.

    uv run salmu compare --seeds 0,1,2 --out results/published
    uv run python benchmarks/mini/experiments/publish.py results/published

Writes `benchmarks/mini/results/leaderboard.{json,md}` and puts the table between the README's markers. With Chromium
installed it also takes the picture of the HTML report.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from salmu_core.files import write_text

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "mini" / "results"
START, END = "<!-- leaderboard: benchmarks/mini/results/leaderboard.md -->\n", "<!-- end of leaderboard -->\n"


def first_table(markdown: str) -> str:
    """The leaderboard of a `leaderboard.md`, without the tables below it."""
    lines = markdown.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return "\n".join(lines[start:end]) + "\n"


def with_table(readme: str, table: str) -> str:
    """The README with `table` between its markers."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    command = "`uv run salmu compare --seeds 0,1,2` on two CPU cores (mean ± standard deviation over training seeds):"
    return f"{before}{START}{command}\n\n{table}{END}{after}"


def take_picture(page: Path, picture: Path) -> bool:
    """A PNG of the report's first screen; False where there is no Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return False
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += [f"--user-data-dir={profile}", "--virtual-time-budget=15000", "--window-size=1440,1500"]
        subprocess.run(
            [browser, *flags, f"--screenshot={picture}", page.resolve().as_uri()], check=True, capture_output=True
        )
    return True


@click.command()
@click.argument("comparison", type=click.Path(path_type=Path, exists=True))
def main(comparison: Path) -> None:
    """Publish the results below COMPARISON."""
    for name in ("leaderboard.json", "leaderboard.md"):
        write_text(RESULTS / name, (comparison / name).read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    table = first_table((RESULTS / "leaderboard.md").read_text(encoding="utf-8"))
    write_text(readme, with_table(readme.read_text(encoding="utf-8"), table))
    picture = ROOT / "docs" / "images" / "report.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    print(
        "picture taken" if take_picture(comparison / "report.html", picture) else "no Chromium: the picture is left as it is"
    )


if __name__ == "__main__":
    main()
