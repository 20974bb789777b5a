"""Containers on disk: who runs, and what a crash has left.

Each container has a directory below ROOT/containers with its journal (`executor.Journal`),
its state and the pid of its first process. Somebody looks after it as long as its lock is held.
"""

from __future__ import annotations

import os

from ctrt.runtime.executor import Journal

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
    import fcntl

    from ctrt.oci import fastjson

    found = []
    for name in _names(containers):
        directory = f"{containers}/{name}"
        try:
            with open(f"{directory}/lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            continue  # nobody holds it
        except BlockingIOError:
            pass
        except OSError:
            continue
        try:
            with open(f"{directory}/state", encoding="utf-8") as file:
                state = fastjson.loads(file.read())
            with open(f"{directory}/pid") as file:
                state["pid"] = int(file.read())
        except (OSError, ValueError):
            continue  # it is just starting or ending
        found.append(state)
    return found


def _names(containers: str) -> list[str]:
    try:
        return sorted(os.listdir(containers))
    except FileNotFoundError:
        return []
