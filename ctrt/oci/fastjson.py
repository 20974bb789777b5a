"""JSON without the price of the json package.

Importing `json` costs 7 ms, most of it for regular expressions that its C accelerator does
not need. The start of a container reads a few small documents, so it uses the accelerator
(`_json`) directly. Where an interpreter has none, or a changed one, `json` does the work.

Stricter than `json`: bytes must be UTF-8, and NaN and Infinity are refused (RFC 8259), as are
numbers that are too large for what they are read into.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_SPACE = " \t\n\r"


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value - value:
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _unknown(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no JSON form")


class _Context:
    """What `_json.make_scanner` reads its settings from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}  # noqa: RUF012  # read by the scanner, never by us


_scan: Callable[[str, int], tuple[Any, int]] | None
_encode: Callable[[Any, int], tuple[str, ...]] | None
try:
    import _json

    _scan = _json.make_scanner(_Context())  # type: ignore[arg-type]
    _encode = _json.make_encoder(
        None, _unknown, _json.encode_basestring_ascii, None, ":", ",", False, False, False
    )
    if _encode([{"a": 1}], 0) is None or _scan("[1]", 0) != ([1], 3):
        raise ValueError
except (ImportError, AttributeError, TypeError, ValueError):
    _scan = _encode = None


def loads(text: bytes | str) -> Any:
    """Read one JSON document; ValueError says what is wrong and where (line and column)."""
    if not isinstance(text, str):
        text = str(text, "utf-8")
    if _scan is None:
        return _slow(text)
    start, end = 0, len(text)
    while start < end and text[start] in _SPACE:
        start += 1
    try:
        value, stop = _scan(text, start)
    except (StopIteration, SystemError):
        # The scanner finds its exception class only when json is loaded; json says it again.
        return _slow(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    except ValueError as error:
        # As Python says it of an integer with thousands of digits.
        if "digits" in str(error):
            raise ValueError("a number in it has too many digits") from None
        raise
    while stop < end and text[stop] in _SPACE:
        stop += 1
    return value if stop == end else _slow(text)


def dumps(value: object) -> str:
    """Write a value as JSON on one line, in ASCII, with keys in the order that they have."""
    if _encode is None:
        import json

        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return "".join(_encode(value, 0))


def indented(value: object, step: str = "  ", depth: int = 0) -> str:
    """Write a value as JSON for people to read, `step` deeper at each level."""
    inner = "\n" + step * (depth + 1)
    if isinstance(value, dict) and value:
        parts = [f"{dumps(k)}: {indented(v, step, depth + 1)}" for k, v in value.items()]
        return "{" + inner + ("," + inner).join(parts) + "\n" + step * depth + "}"
    if isinstance(value, list | tuple) and value:
        parts = [indented(v, step, depth + 1) for v in value]
        return "[" + inner + ("," + inner).join(parts) + "\n" + step * depth + "]"
    return dumps(value)


def _slow(text: str) -> Any:
    import json

    return json.loads(text, parse_constant=_constant, parse_float=_float)
