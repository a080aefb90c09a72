"""Draws the diagrams of the docs: `uv run python docs/site/diagrams.py` writes `docs/images/*.svg`; a test says when one is stale.

Each has its own background, which follows the system's light or dark, so it reads on any page. They are schemes: no length in them is
a measurement.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "images"
_STYLE = """
.paper{fill:#fff;stroke:#d5d8df}.ink{fill:#1f2430}.soft{fill:#5b6272}.line{stroke:#5b6272;fill:none}
.forget{fill:#f3c9bd}.keep{fill:#c5e3d0}.plain{fill:#e7e9ef}.forget-line{stroke:#b2452a;fill:none}.keep-line{stroke:#237a4b;fill:none}
.bad{fill:#b2452a}.good{fill:#237a4b}.track{fill:#e7e9ef}
@media (prefers-color-scheme:dark){.paper{fill:#1d2029;stroke:#3a3f4d}.ink{fill:#eceef4}.soft{fill:#aab1c2}.line{stroke:#aab1c2}
.forget{fill:#6a3426}.keep{fill:#22543a}.plain{fill:#343946}.forget-line{stroke:#f0927a}.keep-line{stroke:#7fd0a2}
.bad{fill:#f0927a}.good{fill:#7fd0a2}.track{fill:#343946}}
""".strip()


class Drawing:
    """Shapes on a sheet of given size; text is 15 units high unless said otherwise."""

    def __init__(self, title: str, width: int, height: int) -> None:
        self._title, self._size = title, (width, height)
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A filled rectangle."""
        self._parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{kind}"/>')

    def text(
        self, x: float, y: float, words: str, kind: str = "ink", size: int = 15, anchor: str = "start", bold: bool = False
    ) -> None:
        """A line of text; y is its baseline."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], kind: str = "line", dashed: bool = False) -> None:
        """A line with a head in its own colour."""
        (x1, y1), (x2, y2) = start, end
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        dx, dy = (x2 - x1) / length * 9, (y2 - y1) / length * 9
        head = f"M{x2 - dx - dy / 2:.1f} {y2 - dy + dx / 2:.1f}L{x2:g} {y2:g}L{x2 - dx + dy / 2:.1f} {y2 - dy - dx / 2:.1f}"
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" class="{kind}" stroke-width="2"{dash}/>')
        self._parts.append(f'<path d="{head}" class="{kind}" stroke-width="2"/>')

    def dot(self, x: float, y: float, kind: str) -> None:
        """A point."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" class="{kind}"/>')

    def svg(self) -> str:
        """The file's text."""
        width, height = self._size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img"'
            f' font-family="system-ui, sans-serif"><title>{escape(self._title)}</title><style>{_STYLE}</style>'
            f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="10" class="paper"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def splits() -> str:
    """Which pairs of whom are in which split."""
    d = Drawing("Splits: what is to be forgotten, what must stay, and who sees it", 480, 372)
    d.text(20, 32, "Pairs that tie a face to private facts", bold=True)
    d.text(20, 64, "some people", "soft", 14)
    d.box(170, 44, 290, 32, "forget")
    d.text(315, 65, "all facts: forget", anchor="middle", size=14)
    d.text(20, 106, "some people", "soft", 14)
    d.box(170, 86, 140, 32, "forget")
    d.text(240, 107, "forget", anchor="middle", size=14)
    d.box(318, 86, 142, 32, "keep")
    d.text(389, 107, "holdout_association", anchor="middle", size=13)
    d.text(20, 148, "other people", "soft", 14)
    d.box(170, 128, 290, 32, "keep")
    d.text(315, 149, "all facts: holdout_identity", anchor="middle", size=14)
    d.text(20, 196, "Pairs with ordinary captions (retain)", bold=True)
    d.text(20, 228, "forgotten people", "soft", 14)
    d.box(170, 208, 290, 32, "keep")
    d.text(315, 229, "retain_joint", anchor="middle", size=14)
    d.text(20, 270, "strangers", "soft", 14)
    d.box(170, 250, 190, 32, "keep")
    d.text(265, 271, "retain_disjoint", anchor="middle", size=14)
    d.box(368, 250, 92, 32, "keep")
    d.text(414, 271, "fragile_set", anchor="middle", size=14)
    d.box(20, 306, 16, 16, "forget")
    d.text(44, 319, "has to go", "soft", 14)
    d.box(150, 306, 16, 16, "keep")
    d.text(174, 319, "has to stay", "soft", 14)
    d.text(20, 350, "A method sees forget and retain, never the holdouts.", "soft", 14)
    return d.svg()


def targets() -> str:
    """Forgetting has Clean's value as its goal, all else Compromised's."""
    d = Drawing("Two targets: Clean for what is forgotten, Compromised for all else", 480, 350)
    d.arrow((62, 296), (452, 296))
    d.arrow((62, 296), (62, 34))
    d.text(452, 322, "forgotten", anchor="end")
    d.text(74, 40, "holdouts kept")
    d.text(118, 64, "Compromised", bold=True)
    d.text(118, 82, "where methods start", "soft", 13)
    d.dot(100, 98, "bad")
    d.dot(400, 256, "soft")
    d.text(448, 284, "Clean: never learned the holdouts", "soft", 13, "end")
    d.dot(400, 98, "good")
    d.text(400, 80, "the goal", "good", anchor="middle", bold=True)
    d.arrow((114, 98), (386, 98), "keep-line")
    d.arrow((112, 106), (388, 249), "forget-line", dashed=True)
    d.text(216, 196, "over-generalised:", "bad", 13, "end")
    d.text(216, 213, "all sensitive pairs", "bad", 13, "end")
    return d.svg()


def failure_modes() -> str:
    """Which of three things each failure mode lacks."""
    d = Drawing("Three failure modes, and a selective method", 480, 366)
    for column, words in enumerate(("forgotten", "holdouts kept", "general")):
        d.text(216 + 98 * column, 32, words, "soft", 13, "middle")
    rows = (
        ("ineffective", "it still knows", (0.25, 0.95, 0.97)),
        ("catastrophic", "it forgot everything", (0.95, 0.3, 0.25)),
        ("over-generalised", "it forgot others, too", (0.95, 0.15, 0.97)),
        ("selective", "only what was asked", (0.95, 0.95, 0.97)),
    )
    for number, (name, words, shares) in enumerate(rows):
        y = 52 + 72 * number
        d.text(20, y + 22, name, bold=True)
        d.text(20, y + 41, words, "soft", 13)
        for column, share in enumerate(shares):
            x = 174 + 98 * column
            d.box(x, y + 12, 84, 22, "track")
            d.box(x, y + 12, 84 * share, 22, "good" if share > 0.5 else "bad")
    d.text(20, 348, "A scheme: lengths are no measurements.", "soft", 13)
    return d.svg()


def flow() -> str:
    """One direction from a command to a report."""
    d = Drawing("From a command to a report", 480, 330)
    steps = (
        ("RunSpec", "method, options, seed, budget, benchmark"),
        ("run", "check names; load; unlearn; embed once; score"),
        ("record.json", "everything a reader needs, without PyTorch"),
        ("compare", "gaps to Clean and Compromised, verdicts, ties"),
        ("report", "terminal, Markdown, JSON, HTML"),
    )
    for number, (name, words) in enumerate(steps):
        y = 18 + 62 * number
        d.box(20, y, 440, 42, "plain")
        d.text(34, y + 27, name, bold=True)
        d.text(146, y + 27, words, "soft", 13)
        if number + 1 < len(steps):
            d.arrow((70, y + 44), (70, y + 60))
    return d.svg()


DIAGRAMS = {"splits.svg": splits, "targets.svg": targets, "failure-modes.svg": failure_modes, "flow.svg": flow}

if __name__ == "__main__":
    for file, draw in DIAGRAMS.items():
        (IMAGES / file).write_text(draw(), encoding="utf-8")
