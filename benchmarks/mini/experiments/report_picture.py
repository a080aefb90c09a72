"""Pictures of a comparison's HTML report, for the README and docs/reports.md.

    uv run salmu compare METHOD ... --out results/pictures
    uv run python benchmarks/mini/experiments/report_picture.py results/pictures [--run NAME]

Needs Chromium; the table of the README is made by `head_to_head_report.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[3] / "tests" / "support"))

from chromium import Chromium, find_chromium

IMAGES = Path(__file__).parents[3] / "docs" / "images"


def take_pictures(page: Path, folder: Path, run: str | None = None) -> list[Path]:
    """PNGs of the first screen (light, and dark on a phone) and of two parts of one run up close; the run is the first one whose title
    begins with `run`, else the one that the page opens with."""
    pictures = {
        folder / "report.png": (1440, 1500, False, ""),
        folder / "report-up-close.png": (1280, 1200, True, "#up-close"),
        folder / "report-associations.png": (1280, 1250, False, "#close-maps"),
        folder / "report-phone.png": (390, 844, True, ""),
    }
    for picture, (width, height, dark, section) in pictures.items():
        with Chromium(width, height, dark=dark) as browser:
            browser.open(page)
            if run is not None:
                found = browser.run(
                    "((wanted) => { const list = document.getElementById('run');"
                    " const option = [...list.options].find((option) => option.text.startsWith(wanted));"
                    " if (!option) return false;"
                    " list.value = option.value; list.dispatchEvent(new Event('change')); return true; "
                    f"}})({run!r})"
                )
                if not found:
                    raise click.ClickException(f"No run of '{page}' has a title that begins with '{run}'.")
            browser.draw_everything()
            if section:
                browser.run(f"document.querySelector('{section}').scrollIntoView()")
            browser.picture(picture)
    return list(pictures)


@click.command()
@click.argument("comparison", type=click.Path(path_type=Path, exists=True))
@click.option("--run", help="The run to show up close: how its title begins.")
@click.option("--out", type=click.Path(path_type=Path), default=IMAGES, help="Where to put the pictures.")
def main(comparison: Path, run: str | None, out: Path) -> None:
    """Take pictures of the report below COMPARISON."""
    if find_chromium() is None:
        raise click.ClickException("There is no Chromium: the pictures are left as they are.")
    out.mkdir(parents=True, exist_ok=True)
    for picture in take_pictures(comparison / "report.html", out, run):
        print(picture)


if __name__ == "__main__":
    main()
