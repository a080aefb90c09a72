"""Names of files and people, which come from outside, as they are shown in terminals and on pages."""

from collections.abc import Iterable

#: Signs that steer a terminal or turn the order of writing.
_STEERING: dict[int, int | str] = {
    **{sign: 0x2400 + sign for sign in range(32) if chr(sign) not in "\n\t"},
    **dict.fromkeys([*range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
}


def visible(text: str, *, one_line: bool = False) -> str:
    """Text with another sign for each that would steer a terminal, and for line breaks where they would forge a line."""
    return (text.replace("\n", "\u240a") if one_line else text).translate(_STEERING)


def some(names: Iterable[str]) -> str:
    """The first three of several names, each once, and how many more there are."""
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
