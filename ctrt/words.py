"""Numbers in words, the same in every room."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


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


def since(stamp: str | None) -> str:
    """How long ago an RFC 3339 time was, as podman and docker say it; "" for none."""
    import time
    from datetime import datetime

    # Python reads up to six digits of a second, Go writes nine.
    whole, point, rest = (stamp or "").replace("Z", "+00:00").partition(".")
    zone = rest.lstrip("0123456789")
    try:
        then = datetime.fromisoformat(whole + zone if point else whole).timestamp()
    except (ValueError, OverflowError):
        return ""
    seconds = max(0, int(time.time() - then))
    for size, word, limit in ((1, "second", 60), (60, "minute", 60), (3600, "hour", 48),
                              (86400, "day", 14), (604800, "week", 9), (2592000, "month", 24),
                              (31536000, "year", 1 << 60)):  # fmt: skip
        if seconds // size < limit:
            return f"{plural(seconds // size, word)} ago"
    return ""


def one_line(command: Sequence[str], most: int = 60) -> str:
    """A command for a table: its first line, cut after so many characters."""
    text = " ".join(command).strip()
    line = text.split("\n", 1)[0]
    return f"{line[: most - 1].rstrip()}…" if line != text or len(line) > most else line


def visible(text: str) -> str:
    """The text without what would move a cursor, hide, or not encode: those come from outside."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def in_order(name: str) -> list[tuple[int, str]]:
    """What names are sorted by, so that box-2 comes before box-10."""
    import re

    parts = re.split(r"(\d{1,18})", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part]
