"""How wide a text is, before anybody has drawn it.

The viewer's fonts are not known here. The widths are those of DejaVu Sans, the widest of the
usual fonts, so that a text may come out narrower than its place but does not leave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Hundredths of the font size, for the characters from space to tilde.
_WIDTHS = (
    32, 41, 46, 84, 64, 95, 78, 28, 39, 39, 50, 84, 32, 37, 32, 34,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 34, 34, 84, 84, 84, 54,
    100, 69, 69, 70, 77, 64, 58, 78, 76, 30, 30, 66, 56, 87, 75, 79,
    61, 79, 70, 64, 62, 74, 69, 99, 69, 62, 69, 39, 34, 39, 84, 50,
    50, 62, 64, 55, 64, 62, 36, 64, 64, 28, 28, 58, 28, 98, 64, 62,
    64, 64, 42, 53, 40, 64, 60, 82, 60, 60, 53, 64, 34, 64, 84,
)  # fmt: skip
_BOLD = 1.11
_MONO = 0.61
_OTHER = 1.0
_A_LIST = 2  # with more members than these it loses the last ones, not its middle


def cells(text: str) -> int:
    """The columns that a text takes in a terminal: two for wide characters, none for marks."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def width(text: str, size: float, *, bold: bool = False, mono: bool = False) -> float:
    """The width of a text in the units of `size`, rather too large than too small."""
    if mono:
        return cells(text) * size * _MONO
    total = sum(
        _WIDTHS[ord(char) - 32] / 100 if " " <= char <= "~" else _OTHER * cells(char)
        for char in text
    )
    return total * size * (_BOLD if bold else 1)


def fit(text: str, room: float, size: float, *, bold: bool = False, mono: bool = False) -> str:
    """The text, with its middle left out if it is too wide: both ends of a path tell most.

    A list loses its last members instead.
    """
    return _shortened(text, lambda words: width(words, size, bold=bold, mono=mono) <= room)


def wrapped(text: str, room: float, size: float, most: int) -> list[str]:
    """The text in at most that many lines; what is too long for the last loses its middle."""
    lines: list[str] = []
    words = text.split(" ")
    while words and len(lines) < most - 1:
        line = words.pop(0)
        while words and width(f"{line} {words[0]}", size) <= room:
            line += f" {words.pop(0)}"
        lines.append(fit(line, room, size))
    return [*lines, fit(" ".join(words), room, size)] if words else lines


def clip(text: str, columns: int) -> str:
    """The same for a terminal."""
    return _shortened(text, lambda words: cells(words) <= columns)


def _shortened(text: str, fits: Callable[[str], bool]) -> str:
    if fits(text):
        return text
    listed = text.split(", ")
    if len(listed) > _A_LIST:
        kept = _most(len(listed) - 1, lambda kept: fits(_without_last(listed, kept)))
        if kept:
            return _without_last(listed, kept)
    kept = _most(len(text) - 1, lambda kept: fits(_without_middle(text, kept)))
    return _without_middle(text, kept)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to a limit that fits, by halves; 0 where none does."""
    least, most = 0, limit
    while least < most:
        middle = (least + most + 1) // 2
        if fits(middle):
            least = middle
        else:
            most = middle - 1
    return least


def _without_last(listed: list[str], kept: int) -> str:
    return ", ".join((*listed[:kept], "…"))


def _without_middle(text: str, kept: int) -> str:
    head = kept // 2
    return text[:head] + "…" + text[len(text) - (kept - head) :]
