"""Numbers in words, the same in every room."""

from __future__ import annotations


def plural(count: int, word: str) -> str:
    """ "1 mount", "2 mounts"."""  # noqa: D210
    return f"{count} {word}" + ("" if count == 1 else "s")


def size_text(number: int) -> str:
    """A number of bytes for a person."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def visible(text: str) -> str:
    """The text without what would move a cursor, hide, or not encode: those come from outside."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
