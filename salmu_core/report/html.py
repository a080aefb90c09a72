"""How every HTML page of salmu is made: values from data and plugins are escaped and turn no text, and a missing name is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from salmu_core.files.names import visible


def html_template(
    package: str, name: str, filters: Mapping[str, Callable[..., Any]], folder: str = "templates"
) -> jinja2.Template:
    """The template `folder/name` of a package.

    Args:
        filters: by the name they have in the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,  # what is markup was made here
    )
    environment.filters.update(filters)
    return environment.get_template(name)


def decimals(places: int) -> Callable[[float | None], str]:
    """A filter that writes a number with so many decimals, and a dash for none."""
    return lambda value: "–" if value is None else f"{value:.{places}f}"
