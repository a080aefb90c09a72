"""What the check says about identities: who is there, who is in both tables, and who is only written in two ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from salmu_core.layout import Finding
from salmu_deletion.own_data.cells import loose, shape
from salmu_deletion.own_data.tables import Table


def people_of_one(name: str, table: Table) -> list[Finding]:
    """Whose rows a table has.

    Args:
        name: "forget" or "retain".
    """
    if table.identities is None:
        if name == "retain":
            return []
        return [
            Finding(
                "warning",
                "forget: no column says whose pair a row is, so every picture counts as a person of its own.",
                "Say which with --columns identity=COLUMN: intervals and the never-learned comparison rest on it.",
                "no identities",
            )
        ]
    known = Counter(identity for identity in table.identities if identity is not None)
    nobody = len(table) - sum(known.values())
    if not known:
        return [Finding("fact", f"{name}: {len(table)} rows, no identity in any of them.", None, "rows")]
    sizes = sorted(known.values())
    middle = sizes[len(sizes) // 2]
    each = f"{middle} rows each" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]} rows each, typically {middle}"
    others = f", and {nobody} rows of nobody known" if nobody else ""
    found = [Finding("fact", f"{name}: {len(table)} rows of {len(known)} identities ({each}){others}.", None, "rows")]
    if name == "forget" and nobody:
        found.append(
            Finding(
                "warning",
                f"forget: {nobody} rows have no identity; every picture of theirs counts as a person of its own.",
                None,
                "no identity",
            )
        )
    return found


def people_of_both(forget: Table, retain: Table) -> list[Finding]:
    """Who of forget is in retain too. A person whom the tables write in two ways counts as two, of whom one is kept."""
    findings = written_in_two_ways({"forget": forget, "retain": retain})
    of_forget = {identity for identity in forget.identities or () if identity is not None}
    of_retain = {identity for identity in retain.identities or () if identity is not None}
    both = of_forget & of_retain
    if both:
        findings.append(
            Finding(
                "fact",
                f"{len(both)} identities of forget are in retain too: what is kept of them is measured.",
                None,
                "both",
            )
        )
    elif of_forget and of_retain:
        # Rows of other people only are what most requests have. Identities of another kind are a table that was joined wrongly.
        strange = not {shape(identity) for identity in of_forget} & {shape(identity) for identity in of_retain}
        findings.append(
            Finding(
                "warning" if strange else "fact",
                f"Nobody of forget is in retain: its {len(of_retain)} identities count as other people"
                + (", and they are written in another way than those of forget." if strange else "."),
                "Where they are the same people, write identities alike in both tables." if strange else None,
                "nobody in both",
            )
        )
    return findings


def written_in_two_ways(tables: Mapping[str, Table]) -> list[Finding]:
    """Identities that are one but for what `loose` leaves out: case, accents, apostrophes, blanks, leading zeros."""
    ways: dict[str, dict[str, str]] = {}  # loose form -> identity -> where it stands first
    for name, table in tables.items():
        for row, identity in enumerate(table.identities or ()):
            if identity is not None:
                ways.setdefault(loose(identity), {}).setdefault(identity, f"row {row + 1} of {name}")
    alike = [places for places in ways.values() if len(places) > 1]
    if not alike:
        return []
    return [
        Finding(
            "warning",
            f"{len(alike)} identities are written in several ways, as in {' and '.join(list(alike[0].values())[:2])} (case, accents,"
            " signs, blanks or leading zeros): each counts as a person of its own.",
            "Where they are the same people, write them alike: otherwise one of them is forgotten and the other kept.",
            "identities written in two ways",
        )
    ]
