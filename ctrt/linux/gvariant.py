"""Values of D-Bus as people write them: true, 5, uint64 5000000, 'text', ['a', 'b'].

The part of GVariant's text format that properties of systemd's units need: basic values, with the
name of a type where it is not the default one, and lists of them.
Source: GVariant Text Format (GLib), D-Bus specification.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The name of a type: its signature, the least and the greatest value.
_NUMBERS = {
    "byte": ("y", 0, 2**8 - 1),
    "int16": ("n", -(2**15), 2**15 - 1),
    "uint16": ("q", 0, 2**16 - 1),
    "int32": ("i", -(2**31), 2**31 - 1),
    "uint32": ("u", 0, 2**32 - 1),
    "int64": ("x", -(2**63), 2**63 - 1),
    "uint64": ("t", 0, 2**64 - 1),
}
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}


def parse(text: str) -> tuple[str, Any]:
    """A value, with its D-Bus signature before it. Raises ValueError that says what is wrong."""
    signature, value, rest = _value(text.strip())
    if rest.strip():
        raise ValueError(f"{rest.strip()!r} is left over")
    return signature, value


def _value(text: str) -> tuple[str, Any, str]:
    """A value at the beginning of a text: its signature, it, and what follows."""
    if not text:
        raise ValueError("a value is missing")
    if text[0] in "'\"":
        return _string(text)
    if text[0] == "[":
        return _list(text[1:].lstrip())
    if text.startswith("@as"):
        _, items, rest = _list(text[3:].lstrip().removeprefix("[").lstrip(), "s")
        return "as", items, rest
    end = next((i for i, letter in enumerate(text) if letter in ",] \t"), len(text))
    word, rest = text[:end], text[end:]
    if word in ("true", "false"):
        return "b", word == "true", rest
    if word in _NUMBERS or word == "double":
        found, value, after = _value(rest.lstrip())
        if word == "double" and found in "id":
            return "d", float(value), after
        signature, low, high = _NUMBERS.get(word, ("", 0, 0))
        if found not in "ix" or type(value) is not int or not low <= value <= high:
            raise ValueError(f"{rest.strip()!r} is no {word}")
        return signature, value, after
    return _number(word), _as_number(word), rest


def _as_number(word: str) -> int | float:
    try:
        return int(word, 0)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no value; text stands in quotes") from None


def _number(word: str) -> str:
    """The signature of a number without a type: int32, and what is too large for that int64."""
    number = _as_number(word)
    if isinstance(number, float):
        return "d"
    return "i" if -(2**31) <= number < 2**31 else "x"


def _string(text: str) -> tuple[str, str, str]:
    quote, found, at = text[0], "", 1
    while at < len(text):
        letter = text[at]
        if letter == quote:
            return "s", found, text[at + 1 :]
        if letter == "\\":
            at += 1
            letter = _ESCAPES.get(text[at : at + 1], "")
            if not letter:
                raise ValueError(f"{text[at - 1 : at + 1]!r} is no escape")
        found += letter
        at += 1
    raise ValueError(f"the quote {quote} is not closed")


def _list(text: str, kind: str = "") -> tuple[str, list[Any], str]:
    """What follows on an opening bracket; all members are of one type."""
    items: list[Any] = []
    while not text.startswith("]"):
        signature, value, text = _value(text)
        kind = kind or signature
        if signature != kind:
            raise ValueError("members of a list are of one type")
        items.append(value)
        text = text.lstrip()
        if text.startswith(","):
            text = text[1:].lstrip()
        elif not text.startswith("]"):
            raise ValueError("the bracket [ is not closed")
    if not kind:
        raise ValueError("an empty list needs its type before it: @as []")
    return f"a{kind}", items, text[1:]
