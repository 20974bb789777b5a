"""OCI bundles in a test machine: its root file system of busybox, and a configuration to vary."""

from __future__ import annotations

import json
import uuid
from typing import Any

from vm_image import ROOTFS
from vm_machine import Machine, Result

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID"]


def config(*args: str, **process: Any) -> dict[str, Any]:
    """A configuration as engines write it for root: all namespaces but the user's."""
    usual = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": ROOTFS},
        "hostname": "box",
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "noNewPrivileges": True,
            **process,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": usual},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": usual},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*usual, "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": [*usual, "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": kind} for kind in ("pid", "mount", "network", "uts", "ipc", "cgroup")
            ],
            "resources": {},
        },
    }  # fmt: skip


def rootless(*args: str, **process: Any) -> dict[str, Any]:
    """The same for the ordinary user of the machine, with its subordinate ids."""
    made = config(*args, **process)
    made["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        made["linux"][kind] = [
            {"containerID": 0, "hostID": 1000, "size": 1},
            {"containerID": 1, "hostID": 100000, "size": 65536},
        ]
    return made


class Bundle:
    """One container of one runtime, by the runtime's own words."""

    def __init__(
        self, machine: Machine, runtime: str, document: dict[str, Any], *,
        flags: str = "", user: str | None = None,
    ) -> None:  # fmt: skip
        self.machine, self.user = machine, user
        self.id = f"box-{uuid.uuid4().hex[:8]}"
        self.path = f"/tmp/{self.id}" if user is None else f"/home/{user}/{self.id}"
        self.command = f"{runtime} {flags}"
        machine.put(f"{self.path}/config.json", json.dumps(document))
        if user is not None:
            machine.check(f"chown {user}: {self.path}")

    def say(self, words: str, **options: Any) -> Result:
        """`runtime WORDS`, where `ID` stands for the container's."""
        line = f"cd {self.path} && {self.command} {words.replace('ID', self.id)}"
        return self.machine.run(line, user=self.user, **options)

    def run(self, **options: Any) -> str:
        """Run it to its end: what it printed. It must end well."""
        result = self.say("run ID", **options)
        assert result.status == 0, result
        return result.out

    def start(self) -> int:
        """Create and start it; the pid of its first process on the machine."""
        for words in ("create --pid-file pid ID </dev/null >out 2>&1", "start ID"):
            result = self.say(words)
            assert result.status == 0, (words, result, self.machine.run(f"cat {self.path}/out"))
        return int(self.machine.check(f"cat {self.path}/pid"))

    def state(self) -> dict[str, Any]:
        result = self.say("state ID")
        assert result.status == 0, result
        found = json.loads(result.out)
        assert isinstance(found, dict)
        return found

    def delete(self) -> None:
        result = self.say("delete --force ID")
        assert result.status == 0, result
