"""When a process began: with it a pid names one process for good, and not the next of that number.

A module of its own because the runtime asks it at every start, and needs nothing else of
`ctrt.linux.processes`.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: existing.py


def start_time(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 if it is gone or a zombie.

    Source: proc_pid_stat(5).
    """
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fields = os.read(descriptor, 4096).rpartition(b")")[2].split()
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
