"""The mount table of a process, as the kernel tells it: /proc/PID/mountinfo.

A line becomes a frozen `Mount`. Its order, its numbers and its words are the kernel's; what
follows from several of them together (which mount hides which, who shares with whom across
namespaces) is the business of `ctrt.observe`.

Source: proc_pid_mountinfo(5); mount_namespaces(7) for the optional fields.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from ctrt.linux.values import NamedTuple

LARGEST = 64 << 20
"""No mount table is read beyond this many bytes (fs.mount-max allows 100,000 mounts)."""


class Mount(NamedTuple):
    """One line of mountinfo.

    `shared` is the peer group that the mount is a member of, `master` the one it receives
    from, `propagate_from` the nearest visible group above its master; 0 where there is none.
    `line` is the line itself, without its newline.
    """

    id: int
    parent: int
    device: str
    root: str
    target: str
    options: tuple[str, ...]
    shared: int
    master: int
    propagate_from: int
    unbindable: bool
    fstype: str
    source: str
    super_options: tuple[str, ...]
    line: str

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount: by itself or by its file system."""
        return "ro" in self.options or "ro" in self.super_options

    @property
    def propagation(self) -> str:
        """How mount events travel, in the words of mount(8): "private", "shared+slave", ..."""
        if self.unbindable:
            return "unbindable"
        words = [word for word, group in (("shared", self.shared), ("slave", self.master)) if group]
        return "+".join(words) or "private"


def unescape(text: str) -> str:
    r"""Undo the octal escapes that the kernel writes for space, tab, newline and backslash.

    The escaped bytes are all ASCII, so this is right whatever the encoding of the name.
    """
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    parts = [head]
    for piece in rest:
        digits = piece[:3]
        if len(digits) == 3 and all(digit in "01234567" for digit in digits) and digits < "400":
            parts.append(chr(int(digits, 8)) + piece[3:])
        else:
            parts.append("\\" + piece)
    return "".join(parts)


def parse_line(line: str) -> Mount:
    """One line of mountinfo as a `Mount`; ValueError quotes the line if it is not one.

    Optional fields that have no meaning here are left out, as proc_pid_mountinfo(5) demands.
    """
    try:
        before, after = line.split(" - ", 1)
        number, parent, device, root, target, options, *optional = before.split(" ")
        # The source may be empty (two spaces in a row), so only the single space separates.
        fstype, source, super_options = after.split(" ", 2)
        shared = master = propagate_from = 0
        unbindable = False
        for field in optional:
            tag, _, group = field.partition(":")
            if tag == "shared":
                shared = int(group)
            elif tag == "master":
                master = int(group)
            elif tag == "propagate_from":
                propagate_from = int(group)
            elif tag == "unbindable":
                unbindable = True
        if "\\" in line:
            root, target, fstype = unescape(root), unescape(target), unescape(fstype)
            source, super_options = unescape(source), unescape(super_options)
        return Mount._make(
            (
                int(number),
                int(parent),
                device,
                root,
                target,
                tuple(options.split(",")),
                shared,
                master,
                propagate_from,
                unbindable,
                fstype,
                source,
                tuple(super_options.split(",")),
                line,
            )
        )
    except ValueError:
        raise ValueError(f"not a line of mountinfo: {line!r}") from None


def parse(text: str) -> tuple[Mount, ...]:
    """All lines of a mountinfo file, in the kernel's order."""
    return tuple(parse_line(line) for line in text.split("\n") if line)


def read(pid: int | str = "self") -> tuple[Mount, ...]:
    """The mounts that a process sees, from its root directory downward.

    The kernel lets everybody read it, unless /proc is mounted with hidepid. Raises
    `ctrt.linux.processes.Gone` when the process has ended, OSError for a table beyond `LARGEST`.
    """
    from ctrt.linux.processes import read_file

    data = read_file(f"/proc/{pid}/mountinfo", LARGEST)
    table = _tables.get(data)
    if table is None:
        table = parse(os.fsdecode(data))
        if len(data) < _KEPT_LONGEST:
            if len(_tables) >= _KEPT:
                _tables.clear()
            _tables[data] = table
    return table


_KEPT, _KEPT_LONGEST = 512, 1 << 16
_tables: dict[bytes, tuple[Mount, ...]] = {}
"""Whoever looks again mostly finds the same text, and then the same mounts."""
