"""The README's picture of a comparison's HTML report.

    uv run salmu compare --seeds 0,1,2 --out results/published
    uv run python benchmarks/mini/experiments/report_picture.py results/published

Needs Chromium; the table of the README is made by `head_to_head_report.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).parents[3]


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
    """Take a picture of the report below COMPARISON."""
    picture = ROOT / "docs" / "images" / "report.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    print(
        "picture taken" if take_picture(comparison / "report.html", picture) else "no Chromium: the picture is left as it is"
    )


if __name__ == "__main__":
    main()
