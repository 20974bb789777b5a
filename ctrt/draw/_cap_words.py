"""What each capability is for, in a few words, and the family it is shown with.

Source: capabilities(7).
"""

from __future__ import annotations

from ctrt.linux.capabilities import NAMES

_FAMILIES = {
    "files": "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID LEASE LINUX_IMMUTABLE MKNOD SETFCAP",
    "identity": "SETGID SETUID SETPCAP",
    "processes": "KILL SYS_PTRACE SYS_NICE SYS_RESOURCE SYS_PACCT IPC_LOCK IPC_OWNER "
    "CHECKPOINT_RESTORE",
    "network": "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW",
    "system": "SYS_ADMIN SYS_CHROOT SYS_MODULE SYS_RAWIO SYS_BOOT SYS_TIME SYS_TTY_CONFIG SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND",
    "watching": "AUDIT_WRITE AUDIT_CONTROL AUDIT_READ MAC_OVERRIDE MAC_ADMIN PERFMON BPF",
}

FAMILIES = tuple(
    (family, tuple(NAMES.index("CAP_" + name) for name in names.split()))
    for family, names in _FAMILIES.items()
)
"""Families with the bits of their members."""

MEANINGS = (
    "change the owner of any file",
    "read, write and search whatever the permissions say",
    "read files and search directories whatever the permissions say",
    "do what only the owner of a file may do",
    "keep the set-user-ID and set-group-ID bits when a file changes",
    "send signals to any process",
    "change to any group id",
    "change to any user id",
    "change the capability sets and the bounding set",
    "set the append-only and immutable attributes",
    "bind to ports below 1024",
    "broadcast and listen to multicasts",
    "configure interfaces, addresses, routes and firewalls",
    "use raw and packet sockets",
    "lock memory",
    "use System V IPC objects of others",
    "load and unload kernel modules",
    "do raw input and output",
    "use chroot(2) and join mount namespaces",
    "trace and read any process",
    "switch process accounting",
    "mount, set the host name, and very much else",
    "reboot, and load a new kernel",
    "raise priorities and set scheduling policies",
    "exceed resource limits and quotas",
    "set the clock",
    "configure terminals",
    "make device nodes",
    "take leases on any file",
    "write records to the audit log",
    "configure auditing",
    "set capabilities on files",
    "override mandatory access control",
    "configure mandatory access control",
    "read the kernel log and kernel addresses",
    "set timers that wake the machine",
    "keep the machine from suspending",
    "read the audit log",
    "use performance events",
    "load BPF programs",
    "checkpoint and restore processes",
)
"""In the order of the bits."""
