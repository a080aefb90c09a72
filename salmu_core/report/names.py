"""Names in a terminal."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.containers import Lines
from rich.text import Text


class Name(Text):
    """A text that is broken after hyphens too, as names of methods have them, before it is broken within a word."""

    def wrap(self, console: Console, width: int, **how: Any) -> Lines:
        """The lines, for rich."""
        lines = textwrap.wrap(self.plain, max(1, width), break_long_words=False)
        if not lines or any(cell_len(line) > width for line in lines):
            return super().wrap(console, width, **how)
        return Lines(Text(line, style=self.style) for line in lines)
