"""Containers on disk: who runs, and what a crash has left.

Each container has a directory below ROOT/containers with its journal (`journal.Journal`).
Somebody looks after it as long as the journal's lock is held.
"""

from __future__ import annotations

import fcntl
import os

from ctrt.runtime.journal import Journal, read_journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def recover(containers: str) -> list[str]:
    """Undo what crashed processes left below a directory; what could not be undone, in words.

    The caller must be single-threaded: undoing can need a user namespace.
    """
    failures = []
    for name in _names(containers):
        journal = Journal.left(f"{containers}/{name}")
        if journal is None:
            continue
        try:
            journal.end()
        except OSError as error:
            failures.append(f"{name}: {error}")
    return failures


def running(containers: str) -> list[dict[str, Any]]:
    """The states of the containers that somebody looks after, with their "pid"."""
    from ctrt.oci import fastjson

    found = []
    for name in _names(containers):
        try:
            descriptor = os.open(f"{containers}/{name}/journal", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                pid, _, text = read_journal(descriptor)
            except (OSError, ValueError, EOFError, TypeError):
                continue
            if pid:
                found.append({**fastjson.loads(text), "pid": pid})
        finally:
            os.close(descriptor)
    return found


def _names(containers: str) -> list[str]:
    try:
        return sorted(os.listdir(containers))
    except FileNotFoundError:
        return []
