"""Which files of the repository are pages of the site, and where their links lead there.

Pages keep the places that they have in the repository: `docs/concepts.md` is `concepts.md`, `plugins/salmu-slug/README.md` keeps its
whole path. So most links between them hold as they stand, and the same files read well without the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def cards() -> list[Path]:
    """The cards of plugins and benchmarks, and what the pages refer to besides: relative to the root of the repository."""
    found = [
        *ROOT.glob("plugins/*/README.md"),
        *ROOT.glob("benchmarks/*/README.md"),
        *ROOT.glob("benchmarks/*/results/*.md"),
    ]
    found += [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    return sorted(path.relative_to(ROOT) for path in found)


def site_path(path: str) -> str:
    """Where a file of the repository lies on the site."""
    return path.removeprefix("docs/")


def repository_path(page: str) -> str:
    """Where a page of the site lies in the repository."""
    return page if (ROOT / page).exists() and not (ROOT / "docs" / page).exists() else f"docs/{page}"


def with_links_of_the_site(text: str, page: str, pages: set[str]) -> str:
    """The page with its links turned into those of the site.

    Args:
        text: Markdown as it stands in the repository.
        page: its place on the site.
        pages: the places of all files of the site. A link to another file of the repository becomes its bare words: the site
            knows no address of the repository.
    """
    here = posixpath.dirname(repository_path(page))

    def turned(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link.group(0)
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(here, path))
        if path == "README.md":
            path = "docs/index.md"
        place = site_path(path)
        if place in pages:
            leads_to = posixpath.relpath(place, posixpath.dirname(page) or ".")
            return f"{mark}[{words}]({leads_to}{'#' + anchor if anchor else ''})"
        if (ROOT / path).exists():
            return words if words.startswith("`") or "/" in words else f"{words} (`{path}`)"
        return link.group(0)  # MkDocs says that it leads nowhere

    return _outside_fences(text, lambda part: _LINK.sub(turned, part))


def _outside_fences(text: str, change: object) -> str:
    """Change what is no code block: code may hold brackets of its own."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else change(part) for part in parts)  # type: ignore[operator]
