"""Signals by name and by number, as signal(7) and kill(1) know them.

Without the module `signal`, whose enumerations cost several milliseconds: `_signal` is built in.
"""

from __future__ import annotations

import _signal

REAL_TIME_FIRST = 34
"""SIGRTMIN as glibc, runc, crun and podman have it: of the kernel's, from 32 on, two are the C
library's own. (musl keeps three, and calls the next one SIGRTMIN.)"""
LAST = 64
"""SIGRTMAX."""


def number(text: str) -> int | None:
    """The number, 1 to 64, of what names a signal; None where nothing does.

    `15`, `TERM`, `SIGTERM` in any case, and `RTMIN`, `RTMIN+1`, `RTMAX-1`, `RTMAX`.
    """
    if text.isascii() and text.isdecimal():
        found = int(text) if len(text) < 5 else 0
        return found if 1 <= found <= LAST else None
    short = text.upper().removeprefix("SIG")
    for base, first, sign in (("RTMIN", REAL_TIME_FIRST, 1), ("RTMAX", LAST, -1)):
        offset = short.removeprefix(base)
        if offset == short:
            continue
        if not offset:
            return first
        digits = offset[1:]
        if offset[0] != "+-"[sign < 0] or not (digits.isascii() and digits.isdecimal()):
            return None
        found = first + sign * int(digits[:4])
        return found if REAL_TIME_FIRST <= found <= LAST else None
    # Beside the signals that module has SIG_DFL and its like.
    known = None if short.startswith("_") else getattr(_signal, f"SIG{short}", None)
    return int(known) if isinstance(known, int) else None


def name(found: int) -> str:
    """What a signal is called: "SIGTERM", "SIGRTMIN+1"; "" for what is none."""
    if found == LAST:
        return "SIGRTMAX"
    if REAL_TIME_FIRST <= found < LAST:
        above = found - REAL_TIME_FIRST
        return "SIGRTMIN" + (f"+{above}" if above else "")
    # Of two names of one signal (SIGABRT and SIGIOT, SIGCHLD and SIGCLD) the usual one.
    unusual = ("SIGIOT", "SIGCLD", "SIGPOLL")
    return next(
        (
            word
            for word, value in vars(_signal).items()
            if value == found and word[:3] == "SIG" and word[3:4] != "_" and word not in unusual
        ),
        "",
    )
