"""The names of capabilities, and the sets that the calling thread can change.

Sets are bit masks (int), as in /proc/PID/status; names are as in capabilities(7), in upper
case with the CAP_ prefix. Bits that have no name yet are written as numbers.
"""

from __future__ import annotations

from ctrt.linux import calls

NAMES: tuple[str, ...] = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP "
        "LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER "
        "SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
        "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
        "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
        "CHECKPOINT_RESTORE"
    ).split()
)
"""In the order of their bits; source: linux/capability.h."""

_BITS = {name: bit for bit, name in enumerate(NAMES)}


def last() -> int:
    """The highest capability that the running kernel knows: /proc/sys/kernel/cap_last_cap."""
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except (OSError, ValueError):
        return len(NAMES) - 1


def mask(names: list[str] | tuple[str, ...]) -> int:
    """The bit mask of some names ("CAP_KILL", "kill"); ValueError names the first unknown one."""
    bits = 0
    for name in names:
        upper = name.upper()
        bit = _BITS.get(upper if upper.startswith("CAP_") else "CAP_" + upper)
        if bit is None:
            raise ValueError(f"there is no capability {name!r}")
        bits |= 1 << bit
    return bits


def names(bits: int) -> list[str]:
    """The names of a bit mask, in the order of their bits."""
    return [
        NAMES[bit] if bit < len(NAMES) else str(bit)
        for bit in range(bits.bit_length())
        if bits >> bit & 1
    ]


def limit_bounding(bits: int) -> None:
    """Drop from the bounding set all that is not in `bits`: PR_CAPBSET_DROP of prctl(2)."""
    for bit in range(last() + 1):
        if not bits >> bit & 1:
            calls.prctl(calls.PR_CAPBSET_DROP, bit)


def set_ambient(bits: int) -> None:
    """Make the ambient set `bits`: PR_CAP_AMBIENT of prctl(2)."""
    calls.prctl(calls.PR_CAP_AMBIENT, calls.PR_CAP_AMBIENT_CLEAR_ALL)
    for bit in range(bits.bit_length()):
        if bits >> bit & 1:
            calls.prctl(calls.PR_CAP_AMBIENT, calls.PR_CAP_AMBIENT_RAISE, bit)
