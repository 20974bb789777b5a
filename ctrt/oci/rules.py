"""The rules that join properties of a runtime configuration, which the tables cannot say."""

from __future__ import annotations

from ctrt.oci import process
from ctrt.oci.checking import Bad, below, is_not, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctrt.oci.checking import Document

_MOST_NODES = 1024
"""Linux is built for so many memory nodes at most: NODES_SHIFT in mm/Kconfig."""


def config_rules(config: Document) -> None:
    """Those of a whole config.json."""
    _version(config["ociVersion"])
    if "process" in config:
        below(process.rules, config["process"], "process")
    linux = config.get("linux", {})
    namespaces = _namespace_rules(linux)
    for name in ("hostname", "domainname"):
        if config.get(name):
            if "uts" not in namespaces:
                raise Bad("is set, but linux.namespaces has no uts namespace", name)
            if len(config[name].encode()) > 64:
                raise Bad("is longer than the 64 bytes that the kernel takes", name)
    for index, mount in enumerate(config.get("mounts", ())):
        below(_mount_rules, mount, "mounts", index)
    below(lambda linux: _linux_rules(linux, namespaces), linux, "linux")


def _version(text: str) -> None:
    numbers = text.partition("+")[0].partition("-")[0].split(".")
    if len(numbers) != 3 or not all(n.isdecimal() and n.isascii() for n in numbers):
        raise is_not(text, 'a version such as "1.2.0"', "ociVersion")
    if int(numbers[0]) != 1:
        raise Bad(f"is {shown(text)}, but only versions 1.x are known here", "ociVersion")


def _namespace_rules(linux: Document) -> dict[str, str]:
    """Namespace types to paths ("" is a new one)."""
    namespaces: dict[str, str] = {}
    for index, entry in enumerate(linux.get("namespaces", ())):
        kind, path = entry["type"], entry.get("path", "")
        if kind in namespaces:
            raise Bad(f"is {shown(kind)} a second time", "linux", "namespaces", index, "type")
        if path and path[0] != "/":
            raise is_not(path, "an absolute path", "linux", "namespaces", index, "path")
        namespaces[kind] = path
    return namespaces


def _mapping_rules(mappings: list[Document], name: str) -> None:
    for side, words in (("containerID", "in the container"), ("hostID", "on the host")):
        ranges = sorted((entry[side], entry["size"], i) for i, entry in enumerate(mappings))
        end, owner = 0, -1
        for start, size, index in ranges:
            if size == 0:
                raise Bad("is 0, but a range has at least one id", name, index, "size")
            if start + size > 2**32:
                raise Bad("ends above the last id, 4294967295", name, index)
            if start < end:
                raise Bad(f"overlaps {name}[{owner}] {words}", name, index)
            end, owner = start + size, index


def _mount_rules(mount: Document) -> None:
    mapped = [name for name in ("uidMappings", "gidMappings") if mount.get(name)]
    for name in mapped:
        _mapping_rules(mount[name], name)
    if len(mapped) == 1:
        missing = "gidMappings" if mapped[0] == "uidMappings" else "uidMappings"
        raise Bad(f"goes with {missing}, which is missing", mapped[0])
    options = mount.get("options", ())
    bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
    if mapped and not bind:
        raise Bad("is for bind mounts only", mapped[0])
    if bind and not mount.get("source"):
        raise Bad("is missing; it must be the path that is bind-mounted", "source")


def _linux_rules(linux: Document, namespaces: dict[str, str]) -> None:
    _user_rules(linux, namespaces)
    if linux.get("timeOffsets") and namespaces.get("time") != "":
        raise Bad("is set, but namespaces has no new time namespace", "timeOffsets")
    if linux.get("netDevices") and "network" not in namespaces:
        raise Bad(
            "is set, but namespaces has no network namespace: "
            "unable to move network devices without a NET namespace",
            "netDevices",
        )
    _device_rules(linux.get("devices", ()))
    for name, value in linux.get("sysctl", {}).items():
        _sysctl_rules(name, value, namespaces)
    for name in ("maskedPaths", "readonlyPaths"):
        if linux.get(name) and "mount" not in namespaces:
            raise Bad("is set, but namespaces has no mount namespace", name)
    if "resources" in linux:
        below(resource_rules, linux["resources"], "resources")
    if "seccomp" in linux:
        below(seccomp_rules, linux["seccomp"], "seccomp")
    rdt = linux.get("intelRdt", {})
    name = rdt.get("closID", "")
    if "/" in name or name in (".", ".."):
        raise is_not(name, "the name of a directory", "intelRdt", "closID")
    schema = rdt.get("memBwSchema", "")
    if schema and (not schema.startswith("MB:") or "\n" in schema):
        raise is_not(schema, 'one line that starts with "MB:"', "intelRdt", "memBwSchema")
    if linux.get("personality", {}).get("flags"):
        raise Bad("has flags, of which none is defined", "personality", "flags")
    below(_memory_policy_rules, linux.get("memoryPolicy", {}), "memoryPolicy")


def _memory_policy_rules(policy: Document) -> None:
    if not policy:
        return
    if "mode" not in policy:
        raise Bad("is missing, which is an invalid memory policy mode", "mode")
    nodes = policy.get("nodes", "").strip()
    for part in nodes.split(",") if nodes else ():
        if int(part.rpartition("-")[2]) >= _MOST_NODES:
            raise Bad(
                f"has the invalid memory policy node {part.strip()}, which no machine has", "nodes"
            )
    nodeless = policy["mode"] in ("MPOL_DEFAULT", "MPOL_LOCAL")
    if nodeless and nodes:
        raise Bad(
            f"does not go with {policy['mode']}: set_mempolicy(2) would say invalid argument",
            "nodes",
        )
    if not nodeless and policy["mode"] != "MPOL_PREFERRED" and not nodes:
        raise Bad(f"is missing; {policy['mode']} needs nodes", "nodes")


def _user_rules(linux: Document, namespaces: dict[str, str]) -> None:
    for name in ("uidMappings", "gidMappings"):
        mappings = linux.get(name, [])
        if mappings and "user" not in namespaces:
            raise Bad("is set, but namespaces has no user namespace", name)
        other = "gidMappings" if name == "uidMappings" else "uidMappings"
        if not mappings and namespaces.get("user") == "" and linux.get(other):
            raise Bad("is missing; a new user namespace needs at least one mapping", name)
        _mapping_rules(mappings, name)


def _device_rules(devices: Iterable[Document]) -> None:
    for index, device in enumerate(devices):
        if device["type"] == "p":
            continue
        for name in ("major", "minor"):
            if device.get(name, -1) < 0:
                words = "is missing" if name not in device else f"is {device[name]}"
                raise Bad(
                    f'{words}; a device of type "{device["type"]}" needs it',
                    *("devices", index, name),
                )


_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in (
        "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced msg_next_id sem_next_id "
        "shm_next_id auto_msgmni"
    ).split()
)


def sysctl_namespace(name: str) -> str:
    """The kind of namespace that a kernel parameter belongs to.

    Raises ValueError, whose words follow on the name, for one of the whole kernel.
    """
    if "/" in name and ("." not in name or name.index("/") < name.index(".")):
        dotted = name.replace(".", "\0").replace("/", ".")
    else:
        dotted = name
    parts = dotted.split(".")
    if not all(parts) or any(part in ("\0", "\0\0") or "\n" in part for part in parts):
        raise ValueError("is not the name of a kernel parameter")
    if parts[0] == "net":
        return "network"
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        return "ipc"
    if dotted in ("kernel.domainname", "kernel.hostname"):
        return "uts"
    if parts[0] == "user":
        return "user"
    raise ValueError(
        "is a parameter of the whole kernel; only those of namespaces can be set "
        "(net.*, fs.mqueue.*, user.*, kernel.shm*, kernel.msg*, kernel.sem)"
    )


def _sysctl_rules(name: str, value: str, namespaces: dict[str, str]) -> None:
    """A parameter must be one of the container's own namespaces."""
    try:
        need = sysctl_namespace(name)
    except ValueError as error:
        raise Bad(str(error), "sysctl", name) from None
    if name.replace("/", ".") == "kernel.hostname":
        raise Bad("is not for sysctl: the property hostname sets it", "sysctl", name)
    if need not in namespaces:
        raise Bad(
            f"belongs to the {need} namespace, which is the host's here: "
            f"namespaces has no {need} namespace",
            *("sysctl", name),
        )
    if "\n" in value:
        raise is_not(value, "one line", "sysctl", name)


def resource_rules(resources: Document) -> None:
    """Those of limits, in a configuration or by themselves."""
    cpu = resources.get("cpu", {})
    if cpu.get("burst") and 0 < cpu.get("quota", 0) < cpu["burst"]:
        raise Bad(f"is {cpu['burst']}, above the quota {cpu['quota']}", "cpu", "burst")
    memory = resources.get("memory", {})
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if limit > 0 and 0 < swap < limit:
        raise Bad(
            f"is {swap}, below memory.limit {limit}: it is the limit of memory and swap together",
            *("memory", "swap"),
        )
    for index, entry in enumerate(resources.get("blockIO", {}).get("weightDevice", ())):
        if "weight" not in entry and "leafWeight" not in entry:
            raise Bad("needs weight or leafWeight", "blockIO", "weightDevice", index)
    for name, entry in resources.get("rdma", {}).items():
        if "hcaHandles" not in entry and "hcaObjects" not in entry:
            raise Bad("needs hcaHandles or hcaObjects", "rdma", name)


_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


def seccomp_rules(profile: Document) -> None:
    """Those of a seccomp profile, in a configuration or by itself."""
    if "defaultErrnoRet" in profile and profile["defaultAction"] not in _WITH_ERRNO:
        raise Bad(f"does not go with {profile['defaultAction']}", "defaultErrnoRet")
    if profile.get("listenerMetadata") and not profile.get("listenerPath"):
        raise Bad("is set, but listenerPath is not", "listenerMetadata")
    if profile["defaultAction"] == "SCMP_ACT_NOTIFY":
        raise Bad(
            'is "SCMP_ACT_NOTIFY": the runtime itself could not finish the start; '
            "name the calls to notify in syscalls",
            "defaultAction",
        )
    for index, rule in enumerate(profile.get("syscalls", ())):
        action = rule["action"]
        if rule.get("errnoRet") and action not in _WITH_ERRNO:
            raise Bad(f"does not go with {action}", "syscalls", index, "errnoRet")
        if action == "SCMP_ACT_NOTIFY":
            if "write" in rule["names"]:
                raise Bad(
                    'has "write", but SCMP_ACT_NOTIFY cannot be used for the write syscall: '
                    "the runtime needs it to hand over",
                    *("syscalls", index, "names"),
                )
            if not profile.get("listenerPath"):
                raise Bad(
                    "is missing; it must be the socket of the agent that syscalls"
                    f"[{index}] (SCMP_ACT_NOTIFY) notifies",
                    "listenerPath",
                )
