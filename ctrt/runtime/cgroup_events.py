"""The moments at which the kernel ended a process of a cgroup because memory ran out.

In v2 the file memory.events counts them, and poll(2) tells of a new count. In v1 an eventfd(2) is
told, once memory.oom_control and it are named in cgroup.event_control.
Source: the kernel's admin-guide/cgroup-v2.rst, and admin-guide/cgroup-v1/memory.rst, section 10.
"""

from __future__ import annotations

import os
import select

from ctrt.linux import cgroups


class OutOfMemory:
    """A descriptor for poll(2), with the events to look for, until `close`."""

    def __init__(self, directory: str, *, v2: bool) -> None:
        self._directory = directory
        self._v2 = v2
        if v2:
            self.descriptor = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            self.mask = select.POLLPRI
            self._seen = self._count()
            return
        self.mask = select.POLLIN
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            cgroups.write(f"{directory}/cgroup.event_control", f"{self.descriptor} {control}")
        except OSError:
            os.close(self.descriptor)
            raise
        finally:
            os.close(control)

    def _count(self) -> int:
        # Every reading makes poll(2) wait for the next change.
        return _kills(os.pread(self.descriptor, 4096, 0).decode())

    def news(self) -> int:
        """How often it happened since the last question."""
        try:
            if self._v2:
                before, self._seen = self._seen, self._count()
                return self._seen - before
            count = os.eventfd_read(self.descriptor)
        except OSError:
            return 0
        # The end of a cgroup of v1 is told in the same way.
        return count if os.path.exists(f"{self._directory}/memory.oom_control") else 0

    def close(self) -> None:
        """Stop looking."""
        os.close(self.descriptor)


def _kills(text: str) -> int:
    """The count in memory.events of v2, or memory.oom_control of v1."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill":
            return int(number)
    return 0


def killed(v2: str | None, v1: dict[str, str]) -> int:
    """How many processes of a container's cgroup were ended; 0 where nobody counts them."""
    directory, name = (v1["memory"], "oom_control") if "memory" in v1 else (v2, "events")
    return _kills(cgroups.read(f"{directory}/memory.{name}")) if directory else 0


def watch(v2: str | None, v1: dict[str, str]) -> OutOfMemory | None:
    """Look out in a container's cgroup; None where it has none with a memory controller."""
    directory, unified = (v1["memory"], False) if "memory" in v1 else (v2, True)
    if not directory:
        return None
    try:
        return OutOfMemory(directory, v2=unified)
    except OSError:
        return None
