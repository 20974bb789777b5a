"""The runtime configuration (config.json), checked before anything is started.

A document is checked against tables that say of each property what it may be, then against the
rules that join properties. What is wrong is one sentence: the place, what was found there and
what is allowed. Properties that the tables do not know are ignored, as the specification
demands; members that are null count as absent, as every runtime in Go takes them.

The tables are functions made once, at import: reading one configuration costs less than a
millisecond, and nothing but the JSON scanner is imported. Source: config.md and config-linux.md of
the OCI runtime specification, 1.0 to 1.3.
"""

from __future__ import annotations

from ctrt.oci import process, rules
from ctrt.oci.checking import (
    INT64,
    UINT16,
    UINT32,
    UINT64,
    Bad,
    absolute,
    absolute_or_none,
    boolean,
    checked,
    cpu_list,
    filled,
    integer,
    is_not,
    known,
    list_of,
    map_of,
    object_of,
    one_of,
    parse,
    renamed,
    run,
    shown,
    string,
    strings,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.oci.checking import Document


def load(data: bytes, *, name: str = "config.json", notes: list[str] | None = None) -> Document:
    """Read and check a configuration; `name` is what errors call it. Raises SpecError.

    What is not quite as the specification has it, but is taken by runc, is put right: relative
    destinations of mounts become absolute, and names in other letters' case those that are meant.
    A sentence about each is added to `notes`.
    """
    config = checked(_CONFIG, parse(data, name=name), name)
    if notes is not None:
        notes += [
            f"{name}: {shown(other)} is taken for {shown(meant)}"
            for other, meant in dict.fromkeys(renamed)
        ]
    run(rules.config_rules, config, name)
    for index, mount in enumerate(config.get("mounts", ())):
        if mount["destination"][0] != "/":
            if notes is not None:
                notes.append(
                    f"mounts[{index}].destination {shown(mount['destination'])} is relative; "
                    "it is taken from the container's root"
                )
            mount["destination"] = "/" + mount["destination"]
    return config


def resources(document: object, *, name: str = "resources.json") -> Document:
    """Check resources by themselves, as `update --resources` takes them. Raises SpecError."""
    found = checked(_RESOURCES, document, name)
    run(rules.resource_rules, found, name)
    return found


def seccomp(document: object, *, name: str = "seccomp.json") -> Document:
    """Check a seccomp profile by itself. Raises SpecError."""
    found = checked(_SECCOMP, document, name)
    run(rules.seccomp_rules, found, name)
    return found


# --- the tables: hooks -----------------------------------------------------------------------


def _page_size(value: Any) -> None:
    """A size of huge pages, "2MB": hugetlb.PAGESIZE.limit_in_bytes."""
    string(value)
    number, unit = value[:-2], value[-2:]
    if unit not in ("KB", "MB", "GB") or not number.isdecimal() or number[0] == "0":
        raise is_not(value, 'a size such as "2MB" or "1GB"')


known(_page_size, 'a size such as "2MB"')


def _hook_arguments(value: Any) -> None:
    strings(value)
    if value and not value[0]:
        raise Bad("is empty: it names the program", 0)


known(_hook_arguments, "a list of strings")

_HOOK = object_of(
    {
        "path": absolute,
        "args": _hook_arguments,
        "env": process.environment,
        "timeout": integer(1, 2**63 - 1, "a number of seconds greater than 0"),
    },
    ("path",),
)
_HOOKS = object_of(
    dict.fromkeys(
        "prestart createRuntime createContainer startContainer poststart poststop".split(),
        list_of(_HOOK),
    )
)

# --- the tables: linux ------------------------------------------------------------------------

_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
_MAPPINGS = list_of(
    object_of(
        {"containerID": UINT32, "hostID": UINT32, "size": UINT32},
        ("containerID", "hostID", "size"),
    )
)
_MAJOR = integer(-1, 2**63 - 1, "a device number")
_RATES = list_of(
    object_of({"major": _MAJOR, "minor": _MAJOR, "rate": UINT64}, ("major", "minor", "rate"))
)


def _access(value: Any) -> None:
    """Letters of which r, w and m count, as runc reads it: callers wrote "rwa", too."""
    string(value)
    if value and not set(value) & set("rwm"):
        raise is_not(value, "made of r (read), w (write) and m (mknod)")


known(_access, "made of r, w and m")


def _file_name(value: Any) -> None:
    string(value)
    if not value or "/" in value or value in (".", ".."):
        raise Bad(f"is named {shown(value)}, which is not the name of a cgroup file")


_RESOURCES = object_of(
    {
        "unified": map_of(string, _file_name),
        "devices": list_of(
            object_of(
                {
                    "allow": boolean,
                    "type": one_of(("a", "c", "b"), also=("",)),
                    "major": _MAJOR,
                    "minor": _MAJOR,
                    "access": _access,
                },
                ("allow",),
            )
        ),
        "pids": object_of({"limit": INT64}),
        "memory": object_of(
            {
                **dict.fromkeys("limit reservation swap kernel kernelTCP".split(), INT64),
                "swappiness": integer(0, 100, "a number from 0 to 100"),
                "disableOOMKiller": boolean,
                "useHierarchy": boolean,
                "checkBeforeUpdate": boolean,
            }
        ),
        "cpu": object_of(
            {
                "shares": UINT64,
                "quota": INT64,
                "burst": UINT64,
                "period": UINT64,
                "realtimeRuntime": INT64,
                "realtimePeriod": UINT64,
                "cpus": cpu_list,
                "mems": cpu_list,
                "idle": integer(0, 1, "0 or 1"),
            }
        ),
        "blockIO": object_of(
            {
                "weight": UINT16,
                "leafWeight": UINT16,
                "weightDevice": list_of(
                    object_of(
                        {
                            "major": _MAJOR,
                            "minor": _MAJOR,
                            "weight": UINT16,
                            "leafWeight": UINT16,
                        },
                        ("major", "minor"),
                    )
                ),
                "throttleReadBpsDevice": _RATES,
                "throttleWriteBpsDevice": _RATES,
                "throttleReadIOPSDevice": _RATES,
                "throttleWriteIOPSDevice": _RATES,
            }
        ),
        "hugepageLimits": list_of(
            object_of({"pageSize": _page_size, "limit": UINT64}, ("pageSize", "limit"))
        ),
        "network": object_of(
            {
                "classID": UINT32,
                "priorities": list_of(
                    object_of({"name": filled, "priority": UINT32}, ("name", "priority"))
                ),
            }
        ),
        "rdma": map_of(object_of({"hcaHandles": UINT32, "hcaObjects": UINT32})),
    }
)

ARCHITECTURES = tuple(
    "SCMP_ARCH_" + name
    for name in (
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 "
        "PPC64LE S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)
"""What seccomp.architectures may name."""

_ACTION = one_of(
    "SCMP_ACT_" + name
    for name in "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY".split()
)
_ERRNO = integer(0, 0xFFFF, "a number from 0 to 65535")
_SECCOMP = object_of(
    {
        "defaultAction": _ACTION,
        "defaultErrnoRet": _ERRNO,
        "architectures": list_of(one_of(ARCHITECTURES)),
        "flags": list_of(
            one_of(
                "SECCOMP_FILTER_FLAG_" + name
                for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")
            )
        ),
        "listenerPath": absolute_or_none,
        "listenerMetadata": string,
        "syscalls": list_of(
            object_of(
                {
                    "names": list_of(filled, filled=True),
                    "action": _ACTION,
                    "errnoRet": _ERRNO,
                    "args": list_of(
                        object_of(
                            {
                                "index": integer(0, 5, "a number from 0 to 5"),
                                "value": UINT64,
                                "valueTwo": UINT64,
                                "op": one_of(
                                    "SCMP_CMP_" + name
                                    for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
                                ),
                            },
                            ("index", "value", "op"),
                        )
                    ),
                },
                ("names", "action"),
            )
        ),
    },
    ("defaultAction",),
)


def _interface(value: Any) -> None:
    string(value)
    if not 0 < len(value.encode()) < 16 or value in (".", "..") or any(c in value for c in "/: \t"):
        raise is_not(value, "the name of a network interface (1 to 15 bytes, no /, : or space)")


known(_interface, "the name of a network interface")

_LINUX = object_of(
    {
        "namespaces": list_of(object_of({"type": one_of(_NAMESPACES), "path": string}, ("type",))),
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": map_of(
            object_of(
                {
                    "secs": INT64,
                    "nanosecs": integer(0, 999_999_999, "a number from 0 to 999999999"),
                }
            ),
            one_of(("monotonic", "boottime")),
        ),
        "devices": list_of(
            object_of(
                {
                    "type": one_of(("c", "b", "u", "p")),
                    "path": absolute,
                    "major": _MAJOR,
                    "minor": _MAJOR,
                    "fileMode": UINT32,
                    "uid": UINT32,
                    "gid": UINT32,
                },
                ("type", "path"),
            )
        ),
        "netDevices": map_of(object_of({"name": _interface}), _interface),
        "cgroupsPath": string,
        "resources": _RESOURCES,
        "rootfsPropagation": one_of(
            ("shared", "slave", "private", "unbindable"),
            also=("", "rshared", "rslave", "rprivate", "runbindable"),
        ),
        "seccomp": _SECCOMP,
        "sysctl": map_of(string),
        "maskedPaths": list_of(absolute),
        "readonlyPaths": list_of(absolute),
        "mountLabel": string,
        "intelRdt": object_of(
            {
                "closID": string,
                "schemata": strings,
                "l3CacheSchema": string,
                "memBwSchema": string,
                "enableCMT": boolean,
                "enableMBM": boolean,
                "enableMonitoring": boolean,
            }
        ),
        "memoryPolicy": object_of(
            {
                "mode": one_of(
                    (
                        "MPOL_" + name
                        for name in (
                            "DEFAULT BIND INTERLEAVE WEIGHTED_INTERLEAVE PREFERRED PREFERRED_MANY "
                            "LOCAL"
                        ).split()
                    ),
                    kind="memory policy mode",
                ),
                "nodes": cpu_list,
                "flags": list_of(
                    one_of(
                        (
                            "MPOL_F_" + name
                            for name in ("NUMA_BALANCING", "RELATIVE_NODES", "STATIC_NODES")
                        ),
                        kind="memory policy flag",
                    )
                ),
            }
        ),
        "personality": object_of(
            {"domain": one_of(("LINUX", "LINUX32")), "flags": strings}, ("domain",)
        ),
    }
)
_CONFIG = object_of(
    {
        "ociVersion": string,
        "root": object_of({"path": filled, "readonly": boolean}, ("path",)),
        "mounts": list_of(
            object_of(
                {
                    "destination": filled,
                    "type": string,
                    "source": string,
                    "options": strings,
                    "uidMappings": _MAPPINGS,
                    "gidMappings": _MAPPINGS,
                },
                ("destination",),
            )
        ),
        "process": process.TABLE,
        "hostname": string,
        "domainname": string,
        "hooks": _HOOKS,
        "annotations": map_of(string),
        "linux": _LINUX,
    },
    ("ociVersion", "root"),
)
