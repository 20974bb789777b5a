"""Seeing: what the running system is, as frozen values that a drawing or a test can take.

`scan()` looks at the whole system, `snapshot()` at one process and those that share its
namespaces, `capabilities()` at what one process may do. `difference()` compares two of them, and
`rules` has the kernel's rules of capabilities as functions. Nothing here starts or changes
anything, and what may not be read is an `Unknown` with its reason, not a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctrt.observe._capabilities import CapabilitySets, capabilities
from ctrt.observe._inner import Inner, Names, Objects, Offset
from ctrt.observe._mounts import covered, tree
from ctrt.observe._snapshot import Fellow, Snapshot, UserNamespace, snapshot
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from ctrt.observe import rules
    from ctrt.observe._cgroups import (
        Cgroup,
        Hierarchy,
        Pressure,
        cgroup,
        cgroup_branch,
        cgroup_root,
        cgroup_tree,
        hierarchies,
        hierarchy,
        members,
        seen_from_inside,
    )
    from ctrt.observe._difference import Change, difference
    from ctrt.observe._forwards import Forward
    from ctrt.observe._ids import Id, compose, id_map, translate_id
    from ctrt.observe._inside import inside
    from ctrt.observe._mounts import (
        HostPath,
        IdMapping,
        Member,
        Mounted,
        PeerGroup,
        holding,
        id_mappings,
        locked,
        mounted,
        peer_groups,
        reached,
        translate,
    )
    from ctrt.observe._network import Address, Link, Listener, Network, Route, RuleTable, networks
    from ctrt.observe._owners import Owner, Pod, of_cgroup, owner_of, owners
    from ctrt.observe._published import Published, published
    from ctrt.observe._reach import Reach, credentials, executable, reach, roots
    from ctrt.observe._scan import scan
    from ctrt.observe._stack import Station, program, stack
    from ctrt.observe._system import Holder, MountTable, Process, Space, System, Unseen
    from ctrt.observe._timeline import (
        Event,
        Timeline,
        is_recording,
        record,
        recorded,
        replay,
        watch,
    )

# What a look at one process does not need is loaded when it is asked for.
_LATER = {
    "_cgroups": (
        "Cgroup Hierarchy Pressure cgroup cgroup_branch cgroup_root cgroup_tree hierarchies "
        "hierarchy members seen_from_inside"
    ),
    "_difference": "Change difference",
    "_forwards": "Forward",
    "_ids": "Id compose id_map translate_id",
    "_inside": "inside",
    "_mounts": (
        "HostPath IdMapping Member Mounted PeerGroup holding id_mappings locked mounted "
        "peer_groups reached translate"
    ),
    "_network": "Address Link Listener Network Route RuleTable networks",
    "_owners": "Owner Pod of_cgroup owner_of owners",
    "_published": "Published published",
    "_reach": "Reach credentials executable reach roots",
    "_scan": "scan",
    "_stack": "Station program stack",
    "_system": "Holder MountTable Process Space System Unseen",
    "_timeline": "Event Timeline is_recording record recorded replay watch",
}
_WHERE = {name: module for module, names in _LATER.items() for name in names.split()}

__all__ = [
    "Address",
    "CapabilitySets",
    "Cgroup",
    "Change",
    "Event",
    "Fellow",
    "Forward",
    "Hierarchy",
    "Holder",
    "HostPath",
    "Id",
    "IdMapping",
    "Inner",
    "Link",
    "Listener",
    "Member",
    "MountTable",
    "Mounted",
    "Names",
    "Network",
    "Objects",
    "Offset",
    "Owner",
    "PeerGroup",
    "Pod",
    "Pressure",
    "Process",
    "Published",
    "Reach",
    "Route",
    "RuleTable",
    "Snapshot",
    "Space",
    "Station",
    "System",
    "Timeline",
    "Unknown",
    "Unseen",
    "UserNamespace",
    "capabilities",
    "cgroup",
    "cgroup_branch",
    "cgroup_root",
    "cgroup_tree",
    "compose",
    "covered",
    "credentials",
    "difference",
    "executable",
    "hierarchies",
    "hierarchy",
    "holding",
    "id_map",
    "id_mappings",
    "inside",
    "is_recording",
    "locked",
    "members",
    "mounted",
    "networks",
    "of_cgroup",
    "owner_of",
    "owners",
    "peer_groups",
    "program",
    "published",
    "reach",
    "reached",
    "record",
    "recorded",
    "replay",
    "roots",
    "rules",
    "scan",
    "seen_from_inside",
    "snapshot",
    "stack",
    "translate",
    "translate_id",
    "tree",
    "watch",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "rules":
        return import_module("ctrt.observe.rules")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ctrt.observe.{_WHERE[name]}"), name)
