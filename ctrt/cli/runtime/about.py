"""What the runtime says of itself, and the configuration that it offers to begin with."""

from __future__ import annotations

import os

from ctrt.linux import capabilities, tasks
from ctrt.linux.calls import NAMESPACE_FLAGS
from ctrt.runtime.records import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HOOKS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
_ACTIONS = "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG NOTIFY TRACE TRAP".split()
_OPERATORS = "EQ GE GT LE LT MASKED_EQ NE".split()
_ARCHITECTURES = (
    "AARCH64 ARM LOONGARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC "
    "PPC64 PPC64LE RISCV64 S390 S390X X32 X86 X86_64"
).split()


def features() -> dict[str, Any]:
    """The document of `features` (features.md and features-linux.md of the specification)."""
    from ctrt.runtime.planner.mounts import known_options

    def enabled(yes: bool) -> dict[str, bool]:
        return {"enabled": yes}

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": list(_HOOKS),
        "mountOptions": known_options(),
        "potentiallyUnsafeConfigAnnotations": [
            "org.systemd.property.",
            "org.criu.config",
            "run.oci.keep_original_groups",
            "run.oci.pidfd_receiver",
        ],
        "linux": {
            "namespaces": sorted(NAMESPACE_FLAGS),
            "capabilities": sorted(capabilities.NAMES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": True,
                "systemdUser": True,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": [f"SCMP_ACT_{name}" for name in _ACTIONS],
                "operators": [f"SCMP_CMP_{name}" for name in _OPERATORS],
                "archs": [f"SCMP_ARCH_{name}" for name in _ARCHITECTURES],
                "knownFlags": sorted(tasks.FILTER_FLAGS),
                "supportedFlags": sorted(tasks.FILTER_FLAGS),
            },
            "apparmor": enabled(True),
            "selinux": enabled(True),
            "intelRdt": enabled(False),
            "memoryPolicy": {
                "modes": list(tasks.MEMORY_POLICIES),
                "flags": list(tasks.MEMORY_FLAGS),
            },
            "mountExtensions": {"idmap": enabled(True)},
            "netDevices": enabled(True),
        },
    }


_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_NO = ["nosuid", "noexec", "nodev"]


def example(*, rootless: bool) -> dict[str, Any]:
    """A configuration to begin with, as runc's `spec` writes it."""
    sets = ("bounding", "effective", "permitted")
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": [
                *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
                *(() if rootless else ("gid=5",)),
            ],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*_NO, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _NO},
    ]
    if rootless:
        # Without a network namespace of its own a container cannot have a sysfs of its own.
        mounts.append(
            {
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", *_NO, "ro"],
            }
        )
    else:
        mounts.append(
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_NO, "ro"]}
        )
    # The host's that come with /sys would be writable: its "ro" is for /sys itself.
    mounts.append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*_NO, "relatime", "ro"],
        }
    )
    kinds = ["pid", "ipc", "uts", "mount"]
    # With cgroup v1 what looks for a container's cgroup from inside finds its path, as with runc.
    kinds += ["cgroup"] if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else []
    kinds += ["user"] if rootless else ["network"]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": [
            *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
            *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware"),
            "/proc/scsi",
        ],
        "readonlyPaths": [
            *("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
        ],
    }
    if rootless:
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": dict.fromkeys(sets, _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "ctrt",
        "mounts": mounts,
        "linux": linux,
    }
