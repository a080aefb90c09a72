"""What MkDocs calls while it builds the site: adds the cards as pages, fills the generated references, turns links.

Generated pages have a line `<!-- made for the site: NAME -->` in `docs/`. They are made anew at every build; for who reads
the folder without the site, `docs/generate.py` writes the same there (names of Python without their whole docstrings).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import catalogue
from commands import command_reference
from hook_reference import hook_reference
from mkdocs.structure.files import File, Files
from pages import ROOT, cards, with_links_of_the_site
from python_reference import python_reference

_MADE = {
    "commands": command_reference,
    "hooks": hook_reference,
    "python": python_reference,
    "methods": catalogue.methods,
    "metrics": catalogue.metrics,
    "audits": catalogue.audits,
    "benchmarks": catalogue.benchmarks,
}
_MARK = re.compile(r"<!-- made for the site: (\w+) -->\n.*?<!-- end -->", re.S)
_CARDS = {"Catalogue": ("plugins/", "benchmarks/"), "About": ("CONTRIBUTING.md", "CHANGELOG.md")}


def on_config(config: Any) -> Any:
    """Give every card a place in the navigation."""
    for section in config.nav:
        [(title, items)] = section.items()
        found = [path.as_posix() for path in cards() if path.as_posix().startswith(_CARDS.get(title, ("-",)))]
        if title == "Catalogue":
            items.append({"Packages": [{_title(place): place} for place in found]})
        elif found:
            items.extend({Path(place).stem.capitalize(): place} for place in found)
    return config


def _title(place: str) -> str:
    """`plugins/salmu-slug/README.md` is salmu-slug; results are told apart by their name."""
    path = Path(place)
    if path.name == "README.md":
        return path.parent.name
    return f"{path.parts[1]}: {path.stem.replace('_', ' ').replace('-', ' ')}"


def on_files(files: Files, config: Any) -> Files:
    """Add the cards: they lie outside `docs/`."""
    for path in cards():
        files.append(File.generated(config, path.as_posix(), content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill what is generated, then turn links."""
    text = _MARK.sub(lambda mark: _MADE[mark.group(1)](), markdown)
    return with_links_of_the_site(text, page.file.src_uri, {file.src_uri for file in files})
