"""The kernel's rules of capabilities, as functions: who holds what where, and what execve makes.

`holds` is the rule of user_namespaces(7): whether a process has a capability in a user
namespace, and by which clause. `execve` is the transformation of capabilities(7): what the ids
and the five sets are after a program was executed. Both are pure: they take what was observed
(or what somebody wants to try) and agree with the kernel, which the tests ask thousands of times.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from ctrt.errors import CtrtError
from ctrt.linux.capabilities import NAMES, mask
from ctrt.linux.namespaces import Key
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from ctrt.observe._system import System

NOROOT = 1 << 0
NO_SETUID_FIXUP = 1 << 2
KEEP_CAPS = 1 << 4
NO_CAP_AMBIENT_RAISE = 1 << 6
SECUREBITS = {
    NOROOT: "noroot",
    NOROOT << 1: "noroot-locked",
    NO_SETUID_FIXUP: "no-setuid-fixup",
    NO_SETUID_FIXUP << 1: "no-setuid-fixup-locked",
    KEEP_CAPS: "keep-caps",
    KEEP_CAPS << 1: "keep-caps-locked",
    NO_CAP_AMBIENT_RAISE: "no-cap-ambient-raise",
    NO_CAP_AMBIENT_RAISE << 1: "no-cap-ambient-raise-locked",
}
"""By their bits (linux/securebits.h), with the words of capsh(1) and setpriv(1)."""

ALL = (1 << len(NAMES)) - 1
_RULE = "user_namespaces(7)"
_EXEC = "capabilities(7)"


class Answer(NamedTuple):
    """Whether a capability is held in a user namespace, and why.

    `holds` is None when something that decides it could not be read. `clause` is one of
    "member", "owner", "ancestor", "lacking", "not above" and "unknown".
    """

    holds: bool | None
    clause: str
    sentence: str
    man: str = _RULE


class FileCapabilities(NamedTuple):
    """The attribute security.capability of a file: capabilities(7), "File capabilities".

    `effective` is a single bit for the whole file. `version` is 1, 2 or 3; only version 3 has
    a `rootid`: the file is privileged only where that user id is root (0 for the others).
    """

    version: int
    permitted: int
    inheritable: int
    effective: bool
    rootid: int


class Credentials(NamedTuple):
    """Who a process is, in the ids of its own user namespace, where root is 0.

    `groups` are the supplementary ones. Sets are bit masks.
    """

    uid: int
    euid: int
    suid: int
    gid: int
    egid: int
    sgid: int
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    securebits: int = 0
    no_new_privs: bool = False
    groups: tuple[int, ...] = ()


class Program(NamedTuple):
    """What execve(2) looks at in a file.

    `owner` and `group` are in the ids of the process's user namespace, None for one that it
    has no number for. `nosuid` says that the mount has that flag, is of another mount
    namespace, or that its file system belongs to a user namespace that is not above.
    """

    owner: int | None = 0
    group: int | None = 0
    set_uid: bool = False
    set_gid: bool = False
    capabilities: FileCapabilities | None = None
    nosuid: bool = False


class Change(NamedTuple):
    """One rule that had a part in the outcome, in words."""

    sentence: str
    man: str = _EXEC


class Outcome(NamedTuple):
    """What execve(2) makes: `after` is None when it is refused, with `error` as its errno."""

    after: Credentials | None
    error: int
    changes: tuple[Change, ...]


def number(capability: str | int) -> int:
    """The bit number of a capability by name or number; CtrtError when there is none."""
    if isinstance(capability, int):
        return capability
    try:
        return mask([capability]).bit_length() - 1
    except ValueError:
        raise CtrtError(
            f"there is no capability {capability!r}; `man 7 capabilities` lists them"
        ) from None


def holds(system: System, pid: int, capability: str | int, space: Key) -> Answer:
    """Say whether a process holds a capability in a namespace, and by which clause.

    `space` is a user namespace, or another one, whose owner is meant then. What else may refuse
    (seccomp, LSMs) is not looked at. Source: user_namespaces(7), "Capabilities".
    """
    bit = number(capability)
    name = NAMES[bit] if bit < len(NAMES) else f"capability {bit}"
    process = system.processes.get(pid)
    if process is None:
        raise CtrtError(f"there is no process {pid}: it has ended, or never was")
    status, own = process.status, process.namespace("user")
    if status is None or isinstance(status, Unknown):
        return _unknown("what that process may do", status or Unknown("the scan had no details"))
    if isinstance(own, Unknown):
        return _unknown("the user namespace of that process", own)
    target = system.spaces[space]
    at: Key | Unknown | None = space
    if target.kind != "user":
        at = target.owner
    above_own = {user.key for user in system.ancestors(own)} - {own}
    has = bool(status.effective >> bit & 1)
    below = False
    while True:
        if at is None:
            return _not_above(name)
        if isinstance(at, Unknown):
            return _unknown("what is above that namespace", at)
        user = system.spaces[at]
        if at == own:
            where = "an ancestor of that user namespace" if below else "that user namespace"
            if has:
                return Answer(
                    True,
                    "ancestor" if below else "member",
                    f"yes: it is in {where} and has {name} in its effective set",
                )
            return Answer(
                False,
                "lacking",
                f"no: it is in {where}, but {name} is not in its effective set",
            )
        if at in above_own:
            return _not_above(name)
        if user.parent == own:
            if isinstance(user.owner_uid, Unknown) or user.owner_uid is None:
                return _unknown("who made that user namespace", user.owner_uid or Unknown(""))
            if user.owner_uid == status.uids[1]:
                return Answer(
                    True,
                    "owner",
                    "yes: it is in the parent of "
                    f"{'an ancestor of ' if below else ''}that user namespace, and its "
                    f"effective user id {status.uids[1]} made it, which gives every capability",
                )
        below = True
        at = user.parent


def _not_above(name: str) -> Answer:
    return Answer(
        False,
        "not above",
        f"no: its own user namespace is not above that one, so {name} does not reach there",
    )


def _unknown(what: str, why: Unknown) -> Answer:
    return Answer(None, "unknown", f"{what} could not be read: {why.reason}")


def file_capabilities(path: str) -> FileCapabilities | None:
    """The file capabilities of a file, as this process sees them; None when it has none.

    The kernel shows version 3 as version 2 to those for whom its rootid is 0.
    Raises CtrtError when the file cannot be asked.
    """
    try:
        data = os.getxattr(path, "security.capability")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        reason = (error.strerror or str(error)).lower()
        raise CtrtError(f"{path}: its capabilities cannot be read: {reason}") from None
    return parse_file_capabilities(data)


def parse_file_capabilities(data: bytes) -> FileCapabilities:
    """The bytes of the attribute, little-endian: linux/capability.h, struct vfs_ns_cap_data."""
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) // 4 * 4, 4)]
    version = words[0] >> 24 if words else 0
    if len(data) != {1: 12, 2: 20, 3: 24}.get(version):
        raise CtrtError("the attribute security.capability is none that this version knows")
    permitted, inheritable = words[1], words[2]
    if version > 1:
        permitted |= words[3] << 32
        inheritable |= words[4] << 32
    rootid = words[5] if version == 3 else 0
    return FileCapabilities(version, permitted, inheritable, bool(words[0] & 1), rootid)


def format_file_capabilities(found: FileCapabilities) -> bytes:
    """The bytes of the attribute: what `parse_file_capabilities` reads."""
    words = [found.version << 24 | found.effective, found.permitted & 0xFFFFFFFF]
    words.append(found.inheritable & 0xFFFFFFFF)
    if found.version > 1:
        words += [found.permitted >> 32, found.inheritable >> 32]
    if found.version == 3:
        words.append(found.rootid)
    return b"".join(word.to_bytes(4, "little") for word in words)


def execve(
    before: Credentials, program: Program, *, roots: frozenset[int] = frozenset({0})
) -> Outcome:
    """What the ids and sets are after a program was executed: capabilities(7), execve(2).

    `roots` are the user ids, in the numbers of the file's rootid, that are root in the
    process's user namespace or one above it; a file with another rootid has no capabilities
    for this process. A tracer of the process, and a file system root shared with another
    process, which can take privileges away, are not looked at.

    As the kernel has it since Linux 6.16: a change of ids is one of the *effective* ones. The
    kernels before took a real id other than the effective one for a change too, and cleared
    the ambient set then.
    """
    changes: list[Change] = []
    euid, egid = before.euid, before.egid
    elevated = not before.no_new_privs and not program.nosuid
    if program.set_uid or program.set_gid or program.capabilities is not None:
        if before.no_new_privs and (program.set_uid or program.set_gid):
            changes.append(Change("no_new_privs: set-user-ID and set-group-ID are ignored"))
        if program.nosuid:
            changes.append(
                Change("nosuid: set-user-ID, set-group-ID and file capabilities are ignored")
            )
    mapped = program.owner is not None and program.group is not None
    if elevated and mapped:
        if program.set_uid and program.owner is not None:
            euid = program.owner
            changes.append(
                Change(f"set-user-ID: the effective user id becomes {euid}", "execve(2)")
            )
        if program.set_gid and program.group is not None:
            egid = program.group
            changes.append(
                Change(f"set-group-ID: the effective group id becomes {egid}", "execve(2)")
            )
    elif elevated and (program.set_uid or program.set_gid):
        changes.append(
            Change("the owner has no id in this user namespace: set-user-ID is ignored", _RULE)
        )

    permitted, has_file, effective = 0, False, False
    found = program.capabilities
    if found is not None and not program.nosuid:
        if found.rootid not in roots:
            changes.append(
                Change(
                    f"the file's capabilities are for where user id {found.rootid} is root, "
                    "and so not for this process"
                )
            )
        else:
            has_file, effective = True, found.effective
            permitted = (found.permitted & before.bounding) | (
                found.inheritable & before.inheritable
            )
            changes.append(
                Change(
                    "P'(permitted) = (P(inheritable) & F(inheritable)) | "
                    "(F(permitted) & P(bounding))"
                )
            )
            if effective and found.permitted & ~permitted & ALL:
                changes.append(
                    Change(
                        "refused: the file's effective bit is set, and it would not get all of "
                        "its permitted capabilities"
                    )
                )
                return Outcome(None, errno.EPERM, tuple(changes))

    if not before.securebits & NOROOT:
        if has_file and euid == 0 and before.uid != 0:
            changes.append(
                Change("set-user-ID root with file capabilities: those of the file count")
            )
        else:
            if euid == 0 or before.uid == 0:
                permitted = before.bounding | before.inheritable
                changes.append(
                    Change(
                        "root: the file counts as having all capabilities, P'(permitted) = "
                        "P(inheritable) | P(bounding)"
                    )
                )
            if euid == 0:
                effective = True
    elif euid == 0 or before.uid == 0:
        changes.append(Change("securebit noroot: user id 0 gives no capabilities"))

    changed = euid != before.euid or not _in_group(egid, before)
    if (changed or permitted & ~before.permitted) and before.no_new_privs:
        euid, egid = before.uid, before.gid
        permitted &= before.permitted
        changes.append(Change("no_new_privs: nothing is gained that it did not have before"))
    ambient = before.ambient
    if ambient and (has_file or changed):
        ambient = 0
        changes.append(
            Change("the ambient set is cleared: the file is privileged, or an id has changed")
        )
    permitted |= ambient
    if ambient:
        changes.append(Change("the ambient set is kept, and added to the permitted one"))
    after = before._replace(
        euid=euid,
        suid=euid,
        egid=egid,
        sgid=egid,
        permitted=permitted,
        effective=permitted if effective else ambient,
        ambient=ambient,
        securebits=before.securebits & ~KEEP_CAPS,
    )
    if before.securebits & KEEP_CAPS:
        changes.append(Change("securebit keep-caps is cleared"))
    lost = before.permitted & ~after.permitted
    if lost and not has_file and euid != 0 and before.uid != 0:
        changes.append(
            Change(
                "no capability stays in the permitted set: the user is not root, the file has "
                "none, and what is not ambient is lost"
            )
        )
    return Outcome(after, 0, tuple(changes))


def _in_group(gid: int, who: Credentials) -> bool:
    """Whether a group is among those of a process: its effective one and the supplementary."""
    return gid == who.egid or gid in who.groups
