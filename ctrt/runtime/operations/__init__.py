"""The operations that a plan's calls name: what each does, with the kernel's words.

An operation is a function of the start's `Context` and the call's members. It runs where its step
runs; the operations inside must import nothing, since the child may have lost the right to read
Python's files. Paths of a container are resolved below its root by openat2(2), or by descriptor.

`waiting.py` adds those of a process that waits to be started, as only the OCI runtime has it.
"""

from __future__ import annotations

import sys

from ctrt.runtime.operations import host, mounts, namespaces, process
from ctrt.runtime.operations.context import OWN, Context, place, resolve
from ctrt.runtime.operations.host import remove_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = tuple[Any, ...]
    Wire = tuple[tuple[str, str, tuple[Call, ...]], ...]

__all__ = ["OPERATIONS", "OWN", "Context", "load", "place", "remove_below", "resolve", "undo"]

_ELSEWHERE = {
    "cgroup_": "ctrt.runtime.cgroup_operations",
    "console": "ctrt.runtime.console",
    "hooks": "ctrt.runtime.hooks",
    "pause": "ctrt.runtime.stepping",
    "seccomp_": "ctrt.runtime.seccomp_notify",
    **dict.fromkeys(
        "attach_link bind_cgroup bind_inside bind_link idmap keep_namespace label_top like_target "
        "move_device move_root node_outside open_id_maps open_inside slave".split(),
        "ctrt.runtime.operations.special",
    ),
    **dict.fromkeys(
        "affinity io_priority label memory_policy oom_score open_label personality rights rlimits "
        "scheduler".split(),
        "ctrt.runtime.operations.traits",
    ),
}
"""Modules of operations that few plans have, by their names or how these begin."""


class _Operations(dict[str, "Callable[..., Any]"]):
    """The operations by name; a module is imported when one of its own is asked for first."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        module = _ELSEWHERE.get(name) or _ELSEWHERE[name.partition("_")[0] + "_"]
        __import__(module)
        self.update(sys.modules[module].OPERATIONS)
        return self[name]


OPERATIONS = _Operations()
OPERATIONS |= {
    "attach": mounts.attach,
    "attach_root": mounts.attach_root,
    "attributes": mounts.attributes,
    "attributes_below": mounts.attributes_below,
    "become": process.become,
    "bind": mounts.bind,
    "capabilities": process.capability_sets,
    "change_root": mounts.change_root,
    "chdir": mounts.chdir,
    "chown": host.chown,
    "clone": namespaces.clone,
    "copy_tree": mounts.copy_tree,
    "deny_setgroups": namespaces.deny_setgroups,
    "die_with_parent": process.die_with_parent,
    "domainname": namespaces.domainname,
    "exec": process.execute,
    "file_system": mounts.file_system,
    "home": process.home,
    "hostname": namespaces.hostname,
    "join": namespaces.join,
    "keyring": process.keyring,
    "limit_bounding": process.limit_bounding,
    "loopback_up": namespaces.loopback_up,
    "make_below": mounts.make_below,
    "map_ids": namespaces.map_ids,
    "mask": mounts.mask,
    "mkdir": host.mkdir,
    "no_new_privileges": process.no_new_privileges,
    "node": mounts.node,
    "not_dumpable": process.not_dumpable,
    "open_directory": host.open_directory,
    "open_namespace": namespaces.open_namespace,
    "open_process": namespaces.open_process,
    "open_source": mounts.open_source,
    "overlay": mounts.overlay,
    "own_descriptors": process.own_descriptors,
    "own_stdio": process.own_stdio,
    "pivot": mounts.pivot,
    "private_parent": mounts.private_parent,
    "propagation": mounts.propagation,
    "read_only": mounts.read_only,
    "read_only_root": mounts.read_only_root,
    "remove_tree": host.remove_tree,
    "seccomp": process.seccomp,
    "session": process.session,
    "signals": process.signals,
    "sources_as_caller": mounts.sources_as_caller,
    "stdio": process.stdio,
    "symlinks": mounts.symlinks,
    "sysctl": namespaces.sysctl,
    "time_offsets": namespaces.time_offsets,
    "trace": process.trace,
    "umask": process.umask,
    "unshare": namespaces.unshare,
    "unmount_above": host.unmount_above,
    "write": host.write,
}


def load(plan: Wire) -> None:
    """Import what the operations of a plan need: inside, it would be too late."""
    for _, _, calls in plan:
        for call in calls:
            OPERATIONS[call[0]]


def undo(calls: tuple[Call, ...]) -> None:
    """Take back what a plan did; see `undoing.take_back`."""
    from ctrt.runtime.undoing import take_back

    take_back(calls, OPERATIONS, Context({}))
