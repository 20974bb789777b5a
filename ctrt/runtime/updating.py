"""Other limits for an OCI container: `update`."""

from __future__ import annotations

from ctrt.runtime.existing import group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.records import Record


def update(record: Record, resources: dict[str, Any]) -> None:
    """Set other limits of a container's cgroup, and note them in its configuration."""
    config = record.config()
    memory = resources.get("memory") or {}
    if memory.get("limit") and "checkBeforeUpdate" not in memory:
        own = ((config.get("linux") or {}).get("resources") or {}).get("memory") or {}
        check = bool(own.get("checkBeforeUpdate"))
        resources = {**resources, "memory": {**memory, "checkBeforeUpdate": check}}
    _join_hierarchies(record, resources)
    group(record).update(resources)
    from ctrt.oci import fastjson

    linux = config.setdefault("linux", {})
    linux["resources"] = _merged(linux.get("resources") or {}, resources)
    record.write("config.json", fastjson.dumps(config).encode())


def _join_hierarchies(record: Record, resources: dict[str, Any]) -> None:
    """Make the cgroups of v1 that limits need and the container, made without limits, lacks."""
    from ctrt.linux import cgroups
    from ctrt.runtime import cgroup_operations, limits

    state, own = record.state["cgroup"], group(record)
    if not state or own.systemd:
        return
    layout = cgroups.layout()
    made = {}
    for controller in limits.asked(resources):
        top = layout.v1.get(controller)
        if top and controller not in own.v1 and layout.writable(top + state["path"]):
            made[controller] = top + state["path"]
    if not made:
        return
    # Written down first, for whoever deletes the container if this is as far as it comes.
    state["v1"] = {**own.v1, **made}
    record.save()
    for controller, directory in made.items():
        make = cgroup_operations.OPERATIONS["cgroup_make"]
        make(None, directory, layout.v1[controller], state["mark"])
    moved: set[int] = set()
    # Again until there are no new ones: some may fork meanwhile.
    while new := set(own.processes()) - moved:
        moved |= new
        for pid in new:
            for directory in dict.fromkeys(made.values()):
                try:
                    cgroups.write(f"{directory}/cgroup.procs", str(pid))
                except ProcessLookupError:
                    pass  # it has just ended


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A document with those values of another that it names."""
    found = dict(old)
    for key, value in new.items():
        before = found.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            found[key] = _merged(before, value)
        else:
            found[key] = value
    return found
