r"""Rich output from inside: an escape sequence that any language can print.

    ESC ] ctrt;data:TYPE[;base64],DATA BEL

It is a data URL in an operating system command, which a terminal that does not know it leaves
out. Without `base64` the data is text as it stands, which must hold neither ESC nor BEL; the end
may also be `ESC \`. Only a cell with `--display` looks for it: what else a program prints is
text, whatever it holds. HTML that is let in this way is trusted as the cell itself is.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = b"\x1b]ctrt;data:"
MOST_BYTES = 32 << 20
"""The longest sequence that is taken."""
MOST_LEVELS = 100
"""How deeply JSON may be nested: what writes and reads messages gives up at some depth."""

_BINARY = ("image/png", "image/jpeg", "image/gif", "image/webp")
_PICTURE = "application/vnd.ctrt.graph.v1+json"
_JSON = ("application/json", _PICTURE)
_TEXT = ("text/html", "text/markdown", "text/latex", "text/plain", "image/svg+xml")
TYPES = (*_TEXT, *_BINARY, *_JSON)

PROGRAM_NAME = "ctrt-display"
PROGRAM_PATH = f"/usr/local/bin/{PROGRAM_NAME}"
PROGRAM = r"""#!/bin/sh
# ctrt-display TYPE [FILE]: show a file, or standard input, as rich output of the notebook's cell.
# It prints ESC ] ctrt;data:TYPE;base64,DATA BEL; a cell with --display understands it.
case ${1-} in
    html | markdown | plain | latex) type=text/$1 ;;
    svg) type=image/svg+xml ;;
    png | jpeg | gif | webp) type=image/$1 ;;
    json) type=application/json ;;
    */*) type=$1 ;;
    *)
        echo "usage: ctrt-display html|svg|png|jpeg|json|markdown|MIME-TYPE [FILE]" >&2
        exit 2
        ;;
esac
if command -v base64 >/dev/null 2>&1; then
    data=$(base64 <"${2:-/dev/stdin}") || exit
    # Without the line ends that base64(1) makes.
    set -f
    IFS='
'
    printf '\033]ctrt;data:%s;base64,' "$type"
    printf '%s' $data
    printf '\007'
else
    data=$(cat "${2:-/dev/stdin}") || exit
    printf '\033]ctrt;data:%s,%s\007' "$type" "$data"
fi
"""
"""A shell program that prints the sequence; a cell with `--display` finds it in its container."""


class Shown:
    """A sequence as the forms that a notebook displays."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        self.bundle = bundle


class Refused:
    """A sequence that is none of ours after all, and why, in one sentence."""

    def __init__(self, why: str) -> None:
        self.why = why


class Channel:
    """Splits a program's output into its text and what it wants to show."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._searched = 0
        self._skipping = False

    def feed(self, data: bytes, *, final: bool = False) -> Iterator[bytes | Shown | Refused]:
        """Take more output; give back what is complete, in order."""
        held = self._held
        held += data
        while held:
            if not self._skipping and not held.startswith(OPEN):
                start = held.find(OPEN)
                if start < 0:
                    start = len(held) - (0 if final else _partial(held))
                if start == 0:
                    return
                yield bytes(held[:start])
                del held[:start]
                continue
            # What was searched before is not searched again, save for an ESC that ended it.
            end, after = _end(held, max(self._searched - 1, 0 if self._skipping else len(OPEN)))
            self._searched = len(held)
            if end >= 0:
                if not self._skipping:
                    yield _read(bytes(held[len(OPEN) : end]))
                del held[:after]
                self._searched, self._skipping = 0, False
            elif self._skipping:
                self._searched = 1
                del held[:-1]
                return
            elif len(held) > MOST_BYTES:
                yield Refused(f"it is longer than {MOST_BYTES >> 20} MiB")
                self._skipping = True
            elif final:
                yield Refused("the output ended in the middle of it")
                return
            else:
                return


def _end(data: bytearray, start: int) -> tuple[int, int]:
    """Where a sequence ends, and where what follows begins; (-1, -1) if it does not end here."""
    bell = data.find(b"\x07", start)
    string = data.find(b"\x1b\\", start, len(data) if bell < 0 else bell)
    if string >= 0:
        return string, string + 2
    return (bell, bell + 1) if bell >= 0 else (-1, -1)


def _partial(data: bytearray) -> int:
    """How many bytes at the end may be the beginning of a sequence."""
    for size in range(min(len(OPEN) - 1, len(data)), 0, -1):
        if data.endswith(OPEN[:size]):
            return size
    return 0


def _read(sequence: bytes) -> Shown | Refused:
    head, comma, data = sequence.partition(b",")
    kind, _, coding = head.decode("ascii", "replace").partition(";")
    if not comma:
        return Refused("it has no comma before the data")
    if coding not in ("", "base64"):
        return Refused(f"its coding is {coding!r}, and there is only base64")
    if kind not in TYPES:
        import difflib

        near = difflib.get_close_matches(kind, TYPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TYPES)}"
        return Refused(f"its type is {kind!r}; {hint}")
    try:
        if coding:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        if kind in _BINARY:
            value: Any = base64.b64encode(data).decode()
        elif kind in _JSON:
            value = _json(data)
        else:
            value = data.decode("utf-8", "replace")
    except binascii.Error as error:
        return Refused(f"its data is not base64: {error}")
    except ValueError as error:
        return Refused(f"its data is not JSON: {error}")
    plain = value if kind == "text/plain" else f"<{kind}>"
    return Shown({"text/plain": plain, kind: value})


def loads(data: bytes) -> Any:
    """What JSON says (RFC 8259). Raises ValueError."""
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _json(data: bytes) -> Any:
    """What JSON says, if a message can hold it. Raises ValueError.

    Python reads NaN, which is not JSON, and half of a surrogate pair, which is not text.
    """
    value = loads(data)
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MOST_LEVELS):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, (dict, list))]
    if level:
        raise ValueError(f"it has more than {MOST_LEVELS} levels")
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return value
