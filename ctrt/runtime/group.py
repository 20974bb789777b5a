"""The cgroup of a container that exists: counted, frozen, killed, removed.

It is apart from `cgroup.py`, which makes it, because `delete` is one of the commands that engines
call for every container.
"""

from __future__ import annotations

from ctrt.errors import CtrtError
from ctrt.linux import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]

_SIGKILL = 9


class Group:
    """The cgroup of a container, from the `state` of its plan. Methods raise CtrtError.

    One with an empty state, of a container that has no cgroup of its own, has no processes.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.v2: str | None = state.get("v2")
        self.v1: dict[str, str] = state.get("v1") or {}
        self.mark: str = state.get("mark") or ""
        self.systemd: dict[str, Any] | None = state.get("systemd")

    def v1_directories(self) -> tuple[str, ...]:
        """The directories in v1's hierarchies, each once."""
        return tuple(dict.fromkeys(self.v1.values()))

    def _tracking(self) -> str | None:
        """A directory that has all processes."""
        if self.v2:
            return self.v2
        return self.v1.get("freezer") or next(iter(self.v1.values()), None)

    def _freezer(self) -> str:
        directory = self.v2 or self.v1.get("freezer")
        if directory is None:
            raise CtrtError(
                "the container cannot be paused: it has no cgroup of its own with a freezer",
                status=1,
            )
        return directory

    def processes(self) -> list[int]:
        """The pids of all processes, as seen here."""
        directory = self._tracking()
        return cgroups.processes(directory) if directory else []

    def freeze(self) -> None:
        """Stop all processes; returns when they have stopped."""
        self._set_frozen(True)

    def thaw(self) -> None:
        """Let all processes go on."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        directory = self._freezer()
        try:
            cgroups.freeze(directory, frozen)
        except OSError as error:
            verb = "paused" if frozen else "resumed"
            raise CtrtError(f"the container cannot be {verb}: {words(error)}", status=1) from None

    def frozen(self) -> bool:
        """Whether the processes are stopped."""
        directory = self.v2 or self.v1.get("freezer")
        return bool(directory) and cgroups.is_frozen(directory or "")

    def kill(self, signal: int = _SIGKILL) -> None:
        """Signal every process. SIGKILL ends them all, also those made meanwhile."""
        directory = self._tracking()
        if directory is None:
            return
        try:
            if signal != _SIGKILL:
                cgroups.signal(directory, signal)
                return
            if self.v1.get("freezer") and cgroups.is_frozen(self.v1["freezer"]):
                cgroups.freeze(self.v1["freezer"], False)  # the frozen do not die in v1
            cgroups.kill(directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CtrtError(f"the container cannot be killed: {words(error)}", status=1) from None

    def attach(self, pid: int) -> None:
        """Put another process in."""
        for directory in (*self.v1_directories(), *([self.v2] if self.v2 else [])):
            try:
                cgroups.write(f"{directory}/cgroup.procs", str(pid))
            except OSError as error:
                raise CtrtError(f"process {pid} cannot join the cgroup: {words(error)}") from None

    def rescue(self) -> None:
        """Take the processes out of cgroup v1 freezers of others, where they cannot even die."""
        for pid in self.processes():
            try:
                with open("/sys/fs/cgroup/freezer/cgroup.procs", "w") as file:
                    file.write(str(pid))
            except OSError:
                pass  # there is no such freezer, or the process has ended

    def remove(self) -> None:
        """Kill what is left, and remove the cgroup with all below it."""
        from ctrt.runtime.cgroup_operations import OPERATIONS

        remove = OPERATIONS["cgroup_remove"]
        try:
            for directory in (*([self.v2] if self.v2 else []), *self.v1_directories()):
                remove(None, directory, self.mark)
            if self.systemd:
                OPERATIONS["cgroup_stop_scope"](None, self.systemd["unit"], self.systemd["user"])
        except OSError as error:
            raise CtrtError(f"the cgroup cannot be removed: {words(error)}", status=1) from None

    def update(self, resources: Config) -> None:
        """Set other limits. What resources do not name stays as it is."""
        from ctrt.runtime import cgroup

        cgroup.update(self, resources)

    def stats(self) -> dict[str, Any]:
        """What the container uses, in the form of runc's `events --stats`."""
        from ctrt.runtime.cgroup_stats import collect

        return collect(self.v2, self.v1)


def words(error: OSError) -> str:
    """What the kernel said, and of which file."""
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror or error)
