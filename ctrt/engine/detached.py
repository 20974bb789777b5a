"""What detached containers leave for others to read: their output, and how they ended.

ROOT/detached/NAME~RANDOM has "output" (both streams as they came), "state" (what the container is,
as JSON) and, after the end, "status" (the exit status, in decimal). A record stays when the
container is gone, so that a crash can be read about; the oldest of too many go by themselves.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEPT = 20
"""How many records of ended containers stay."""


class Record:
    """The record of one detached container."""

    __slots__ = ("directory", "name")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.name = os.path.basename(directory).partition("~")[0]

    @property
    def output(self) -> str:
        """The file of its output."""
        return f"{self.directory}/output"

    @property
    def status_file(self) -> str:
        """The file that its exit status is written to."""
        return f"{self.directory}/status"

    @property
    def status(self) -> int | None:
        """Its exit status as the shell has it; None while it runs, or if nobody saw the end."""
        try:
            with open(self.status_file) as file:
                return int(file.read())
        except (OSError, ValueError):
            return None

    def state(self) -> dict[str, Any]:
        """What was written down about the container."""
        from ctrt.oci import fastjson

        with open(f"{self.directory}/state", encoding="utf-8") as file:
            found: dict[str, Any] = fastjson.loads(file.read())
        return found

    def remove(self) -> None:
        """Forget it."""
        import shutil

        shutil.rmtree(self.directory, ignore_errors=True)


def begin(root: str, name: str, state: str) -> tuple[Record, str]:
    """Make the record of a container that is about to start, and name it in the state."""
    from ctrt.oci import fastjson

    record = Record(f"{root}/detached/{name}~{os.urandom(4).hex()}")
    state = fastjson.dumps({**fastjson.loads(state), "record": os.path.basename(record.directory)})
    os.makedirs(record.directory, mode=0o700)
    with open(f"{record.directory}/state", "w", encoding="utf-8") as file:
        file.write(state)
    return record, state


def of_state(root: str, state: dict[str, Any]) -> Record | None:
    """The record of a running container; None if its output is not kept."""
    return Record(f"{root}/detached/{state['record']}") if state.get("record") else None


def records(root: str) -> list[Record]:
    """All records, the newest first."""
    found = []
    try:
        with os.scandir(f"{root}/detached") as scan:
            for entry in scan:
                if os.path.exists(f"{entry.path}/output"):
                    found.append((os.stat(f"{entry.path}/state").st_mtime_ns, entry.path))
    except FileNotFoundError:
        pass  # there is none, or another process is just removing one
    return [Record(path) for _, path in sorted(found, reverse=True)]


def newest(root: str, name: str) -> Record | None:
    """The latest record of a container of that name."""
    return next((record for record in records(root) if record.name == name), None)


def prune(root: str, running: set[str], started: Record) -> None:
    """Remove what is too old: earlier records of a started one's name, and the oldest of all."""
    ended = 0
    for record in records(root):
        if record.directory == started.directory:
            continue
        if record.name == started.name:
            record.remove()
        elif record.name not in running:
            ended += 1
            if ended > KEPT:
                record.remove()
