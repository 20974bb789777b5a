"""What the steps of a plan leave behind: read from their calls, in the words of a picture."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux import calls as k
from ctrt.linux.capabilities import NAMES
from ctrt.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ctrt.runtime.plan import Step

    Call = tuple[Any, ...]

# The specification's words for namespaces, where the kernel's are others.
_KINDS = {"mount": "mnt", "network": "net"}
_HASH = re.compile(r"-[0-9a-f]{8}$")


class Made(NamedTuple):
    """What some steps make: kinds of namespaces, names of cgroups, and the rest in words."""

    spaces: tuple[str, ...]
    cgroups: tuple[str, ...]
    words: tuple[str, ...]

    def text(self) -> str:
        """The same in one line."""
        parts = list(self.words)
        if self.cgroups:
            parts.insert(0, ", ".join(f"cgroup {name}" for name in self.cgroups))
        if self.spaces:
            parts.insert(0, f"new {' '.join(self.spaces)}")
        return "; ".join(parts)


def made(steps: Sequence[Step]) -> Made:
    """What steps that are shown as one leave behind."""
    calls = [call for step in steps for call in step.calls]
    flags = 0
    for name, *a in calls:
        if name in ("clone", "unshare"):
            flags |= a[0]
    spaces = tuple(
        _KINDS.get(word, word) for word, flag in k.NAMESPACE_FLAGS.items() if flags & flag
    )
    cgroups = tuple(
        _HASH.sub("", os.path.basename(a[0]))
        for name, *a in calls
        if name == "open_directory" and a[1] == "cgroup"
    )
    targets = [a[1] for name, *a in calls if name == "attach"]
    targets += [a[0] for name, *a in calls if name == "node"]
    words = [_enumerated(targets)] if targets else []
    maps = {a[0]: a[1] for name, *a in calls if name == "map_ids"}
    if maps.get("uid") == maps.get("gid"):
        maps = {"id": maps["uid"]} if maps else {}
    words += [f"{kind}s {_extents(extents)}" for kind, extents in maps.items()]
    for call in calls:
        words += _words(call)
    return Made(spaces, cgroups, tuple(dict.fromkeys(words)))


def _words(call: Call) -> list[str]:
    """What a single call leaves behind, where it is worth a word."""
    name, *a = call
    if name in _PLAIN:
        return [_PLAIN[name]]
    if name == "join" or (name == "clone" and len(a) > 2 and a[2]):
        joined = a[0] if name == "join" else a[2]
        words = [str(word).removeprefix("join-") for word, _ in joined]
        return [f"in the {_enumerated([_KINDS.get(word, word) for word in words])} of another"]
    if name == "overlay":
        return [f"{plural(len(a[0]), 'layer')} as one tree, and one to write to"]
    if name in ("mask", "read_only"):
        kind = "hidden" if name == "mask" else "read-only"
        return [f"{kind}: {_enumerated(list(a[0]))}"]
    if name == "bind_cgroup":
        return ["1 mount, not yet attached"]
    if name == "sources_as_caller":
        return [f"{plural(len(a[0]), 'source')} of mounts, opened"]
    if name == "propagation":
        kind = next((word for flag, word in _TYPES.items() if a[1] & flag), "")
        return [f"every mount is {kind}"] if kind and a[0] == "/" else []
    if name == "sysctl":
        return [f"{key.replace('/', '.')} = {value}" for key, value in a[0]]
    if name == "time_offsets":
        return [f"{clock} {seconds:+d} s" for clock, seconds, _ in a[0]]
    if name in ("hostname", "domainname"):
        return [str(a[0])]
    if name == "symlinks":
        return [plural(len(a[1]), "link")]
    if name == "become":
        return [f"user {a[0]}, group {a[1]}"]
    if name == "limit_bounding":
        return [f"bounding set: {a[0].bit_count()} of {len(NAMES)}"]
    if name == "capabilities":
        return [f"effective: {a[3].bit_count()}, ambient: {a[6].bit_count()}"]
    if name == "seccomp":
        return [f"a filter of {len(a[0]) // 8} instructions"]
    if name == "rlimits":
        return [", ".join(limit.removeprefix("RLIMIT_").lower() for limit, _, _ in a[0])]
    if name == "hooks":
        return [", ".join(os.path.basename(hook[0]) for hook in a[1])]
    if name == "move_device":
        return [f"{a[1]}, which was {a[0]}"]
    if name == "exec":
        return [" ".join(a[0])]
    if name == "chdir" and a[0] != "/":
        return [f"in {a[0]}"]
    if name == "mkdir" and os.path.basename(a[0]) == "upper":
        return ["a place to write to"]
    return []


_PLAIN = {
    "attach_root": "/",
    "pivot": "a new root; the old one is gone",
    "move_root": "a new root over the old one",
    "read_only_root": "/ is read-only",
    "loopback_up": "lo is up",
    "no_new_privileges": "no_new_privs is on",
    "keyring": "a session keyring",
    "console": "a terminal",
    "stdio": "three descriptors",
    "session": "a session",
    "oom_score": "a rank for the out-of-memory killer",
    "trace": "stops before its first instruction",
}
_TYPES = {
    k.MS_PRIVATE: "private",
    k.MS_SLAVE: "slave",
    k.MS_SHARED: "shared",
    k.MS_UNBINDABLE: "unbindable",
}


def _extents(extents: Sequence[tuple[int, int, int]]) -> str:
    """Ranges of ids: inside, and what they are outside."""
    return ", ".join(
        (f"{inside}–{inside + count - 1}" if count > 1 else f"{inside}") + f" → {outside}"
        for inside, outside, count in extents
    )


def _enumerated(names: list[str]) -> str:
    """Names in a row, with the number of those that are left out."""
    most = 4
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
