"""The code blocks and command lines of the documentation, for tests that check them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n\s*)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_INLINE = re.compile(r"`(salmu [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        mark: the comment on the line before it, such as `tested in tests/test_push.py`.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Everything that people read: README, docs, the cards of plugins and benchmarks."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return found + sorted([*ROOT.glob("plugins/*/README.md"), *ROOT.glob("benchmarks/*/README.md")])


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """The page's blocks in these languages; "" is a block that names none."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        if found["language"] in languages:
            line = text.count("\n", 0, found.start("text"))
            yield Block(page, line, found["language"], found["text"], found["mark"] or "")


def command_lines(block: Block) -> Iterator[list[str]]:
    """The arguments of every call of `salmu` in a block of shell lines."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    for line in text.splitlines():
        if "salmu" not in line:  # formulas and file names stand in blocks, too
            continue
        for inner in re.findall(r"\$\((salmu [^)]*)\)", line):
            yield shlex.split(inner)[1:]
        yield from _calls(line)


def inline_commands(page: Path) -> Iterator[list[str]]:
    """The same of `salmu ...` in running text: names of commands and flags, often without what they need."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for line in _INLINE.findall(text):
        if "..." not in line and "…" not in line and "|" not in line:
            yield shlex.split(line)[1:]


def _calls(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>()")
    lexer.whitespace_split = True
    call: list[str] = []
    for token in [*lexer, ";"]:
        if token and set(token) <= set("&|;<>()"):
            yield from _arguments(call)
            call = []
        else:
            call.append(token)


def _arguments(call: list[str]) -> Iterator[list[str]]:
    while call and re.fullmatch(r"[A-Z_]+=.*", call[0]):
        call = call[1:]
    if call[:2] == ["uv", "run"]:
        call = call[2:]
    if call[:1] == ["salmu"]:
        yield call[1:]
    elif call[:2] == ["accelerate", "launch"] and "salmu_core" in call:
        yield call[call.index("salmu_core") + 1 :]
