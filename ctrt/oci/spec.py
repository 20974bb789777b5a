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

from ctrt.errors import CtrtError
from ctrt.oci import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Check = Callable[[Any], None]
    Document = dict[str, Any]


class SpecError(CtrtError):
    """A document that is not what the runtime specification says; `path` is the place in it."""

    def __init__(self, sentence: str, path: str) -> None:
        super().__init__(sentence)
        self.path = path


def load(data: bytes, *, name: str = "config.json", notes: list[str] | None = None) -> Document:
    """Read and check a configuration; `name` is what errors call it. Raises SpecError.

    What is not quite as the specification has it, but is taken by runc, is put right: relative
    destinations of mounts become absolute, and names in other letters' case those that are meant.
    A sentence about each is added to `notes`.
    """
    config = _checked(_CONFIG, parse(data, name=name), name)
    if notes is not None:
        notes += [
            f"{name}: {_shown(other)} is taken for {_shown(meant)}"
            for other, meant in dict.fromkeys(_renamed)
        ]
    _run(_rules, config, name)
    for index, mount in enumerate(config.get("mounts", ())):
        if mount["destination"][0] != "/":
            if notes is not None:
                notes.append(
                    f"mounts[{index}].destination {_shown(mount['destination'])} is relative; "
                    "it is taken from the container's root"
                )
            mount["destination"] = "/" + mount["destination"]
    return config


def process(document: object, *, name: str = "process.json") -> Document:
    """Check a process by itself, as `exec --process` takes it. Raises SpecError."""
    checked = _checked(_PROCESS, document, name)
    _run(_process_rules, checked, name)
    return checked


def resources(document: object, *, name: str = "resources.json") -> Document:
    """Check resources by themselves, as `update --resources` takes them. Raises SpecError."""
    checked = _checked(_RESOURCES, document, name)
    _run(_resource_rules, checked, name)
    return checked


def seccomp(document: object, *, name: str = "seccomp.json") -> Document:
    """Check a seccomp profile by itself. Raises SpecError."""
    checked = _checked(_SECCOMP, document, name)
    _run(_seccomp_rules, checked, name)
    return checked


def parse(data: bytes, *, name: str) -> Any:
    """Read JSON whose strings can all be given to the kernel. Raises SpecError."""
    try:
        document = fastjson.loads(data)
        # An escaped half of a surrogate pair is JSON, but no text.
        if b"\\ud" in data or b"\\uD" in data:
            fastjson.dumps(document)
            _encodable(document)
    except RecursionError:
        raise SpecError(f"{name}: JSON is nested too deeply", "") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{name} is not UTF-8 (byte {error.start})", "") from None
    except UnicodeEncodeError:
        raise SpecError(f"{name} has half of a surrogate pair in a string", "") from None
    except ValueError as error:
        raise SpecError(f"{name} is not JSON: {error}", "") from None
    return document


# --- the machinery ----------------------------------------------------------------------------


_renamed: list[tuple[str, str]] = []
"""Names of the document in another case, and what they were taken for."""


class _Bad(Exception):  # noqa: N818  (it becomes a SpecError)
    """What is wrong with a value; the places are added on the way out."""

    def __init__(self, words: str, *places: str | int) -> None:
        super().__init__(words)
        self.words = words
        self.places: list[str | int] = list(reversed(places))


def _path(places: list[str | int]) -> str:
    """The places, innermost first, as `mounts[3].options[0]`."""
    text = ""
    for place in reversed(places):
        if isinstance(place, int):
            text += f"[{place}]"
        elif place.isidentifier():
            text += f".{place}" if text else place
        else:
            text += f"[{_shown(place)}]"
    return text


def _checked(check: Check, document: Any, name: str) -> Document:
    _renamed.clear()
    _run(check, document, name)
    return document  # type: ignore[no-any-return]


def _run(check: Check, document: Any, name: str) -> None:
    try:
        check(document)
    except _Bad as bad:
        path = _path(bad.places)
        place = f"{name}: {path}" if path else f"{name}"
        raise SpecError(f"{place} {bad.words}", path) from None


def _shown(value: object) -> str:
    """A value as a person sees it in JSON, not longer than a line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = fastjson.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]}..." + ('"' if text[0] == '"' else "")


def _is_not(value: object, words: str, *places: str | int) -> _Bad:
    return _Bad(f"is {_shown(value)}, not {words}", *places)


def _distance(one: str, other: str) -> int:
    """How many letters to change, add, leave out or swap: Damerau and Levenshtein."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one):
        last, before, row = before, row, [i + 1]
        for j, wanted in enumerate(other):
            cost = min(before[j] + (letter != wanted), before[j + 1] + 1, row[j] + 1)
            if i and j and letter == other[j - 1] and one[i - 1] == wanted:
                cost = min(cost, last[j - 1] + 1)
            row.append(cost)
    return row[-1]


def _near(value: str, names: Iterable[str]) -> str:
    """The hint "; did you mean X?" where one of the names is close, else nothing."""
    if not 1 < len(value) <= 64:
        return ""
    lower = value.lower()
    best, found = 3, ""
    for name in names:
        candidate = name.lower()
        distance = _distance(lower, candidate)
        tail = candidate.rpartition("_")[2]
        if len(lower) > 2:
            # The beginning or the end of a long name, mistyped or not.
            distance = min(distance, _distance(lower, candidate[: len(lower)]))
            distance = min(distance, _distance(lower, tail))
        if distance < best and distance <= len(lower) // 3:
            best, found = distance, name
    return f'; did you mean "{found}"?' if found else ""


def _known(check: Check, words: str) -> Check:
    check.words = words  # type: ignore[attr-defined]
    return check


def _string(value: Any) -> None:
    if type(value) is not str:
        raise _is_not(value, "a string")
    if "\0" in value:
        raise _Bad(f"is {_shown(value)}, which has a null byte")


_known(_string, "a string")


def _filled(value: Any) -> None:
    _string(value)
    if not value:
        raise _Bad("is empty")


_known(_filled, "a string")


def _absolute(value: Any) -> None:
    _string(value)
    if value[:1] != "/":
        raise _is_not(value, "an absolute path")


_known(_absolute, "an absolute path")


def _absolute_or_none(value: Any) -> None:
    """A path whose absence callers write as an empty string, too."""
    if value != "":
        _absolute(value)


_known(_absolute_or_none, "an absolute path")


def _boolean(value: Any) -> None:
    if value is not True and value is not False:
        raise _is_not(value, "true or false")


_known(_boolean, "true or false")


def _integer(low: int, high: int, words: str) -> Check:
    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _is_not(value, words)

    return _known(check, words)


def _one_of(names: Iterable[str], *, also: Iterable[str] = (), kind: str = "") -> Check:
    """One of some words; those of `also` are taken, but not told of.

    `kind` is what callers that know runc look for: "an invalid KIND".
    """
    names = tuple(names)
    allowed = frozenset((*names, *also))
    words = "one of " + ", ".join(names)

    def check(value: Any) -> None:
        if type(value) is not str or value not in allowed:
            bad = _is_not(value, words)
            if kind:
                bad.words = f"is {_shown(value)}, an invalid {kind}, not {words}"
            if type(value) is str:
                bad.words += _near(value, names)
            raise bad

    return _known(check, words)


def _list(item: Check, *, filled: bool = False) -> Check:
    words = "a list"

    def check(value: Any) -> None:
        if type(value) is not list:
            raise _is_not(value, words)
        if filled and not value:
            raise _Bad("is empty")
        index = 0
        try:
            for entry in value:
                item(entry)
                index += 1
        except _Bad as bad:
            bad.places.append(index)
            raise

    return _known(check, words)


def _strings(value: Any) -> None:
    """A list of strings, in one go: a seccomp profile has hundreds."""
    if type(value) is not list:
        raise _is_not(value, "a list")
    for entry in value:
        if type(entry) is not str or "\0" in entry:
            try:
                _string(entry)
            except _Bad as bad:
                bad.places.append(next(i for i, e in enumerate(value) if e is entry))
                raise


_known(_strings, "a list of strings")


def _map(item: Check, key: Check | None = None) -> Check:
    words = "an object"

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise _is_not(value, words)
        name = ""
        try:
            for name, entry in value.items():
                if key is not None:
                    key(name)
                elif not name:
                    raise _Bad("is a name of no letters")
                item(entry)
        except _Bad as bad:
            bad.places.append(name)
            raise

    return _known(check, words)


def _object(fields: dict[str, Check], required: tuple[str, ...] = ()) -> Check:
    words = "an object"
    of = fields.get
    in_lower_case: dict[str, str] = {}

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise _is_not(value, words)
        others = None
        name = ""
        try:
            for name, entry in value.items():
                field = of(name)
                if field is None or entry is None:
                    others = [*(others or ()), name]
                else:
                    field(entry)
        except _Bad as bad:
            bad.places.append(name)
            raise
        if others:
            others_of(value, others)
        for name in required:
            if name not in value:
                near = "".join(_near(name, [other for other in value if other not in fields]))
                hint = near.replace("did you mean", "was it meant by") if near else ""
                must = getattr(fields[name], "words", "set")
                raise _Bad(f"is missing; it must be {must}{hint}", name)

    def others_of(value: Document, names: list[str]) -> None:
        """Leave out what is null, and give their names to what has them in another case."""
        if not in_lower_case:
            in_lower_case.update((name.lower(), name) for name in fields)
        for name in names:
            known = in_lower_case.get(name.lower())
            if value[name] is None:
                del value[name]
            elif known is not None:
                value[known] = value.pop(name)
                _renamed.append((name, known))
                try:
                    fields[known](value[known])
                except _Bad as bad:
                    bad.places.append(name)
                    raise

    return _known(check, words)


def _encodable(value: Any) -> None:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for name, entry in value.items():
            name.encode()
            _encodable(entry)
    elif isinstance(value, list):
        for entry in value:
            _encodable(entry)


def _cpu_list(value: Any) -> None:
    """Numbers and ranges, "0-3,7": the List format of cpuset(7); empty is allowed."""
    _string(value)
    for part in value.split(",") if value.strip() else ():
        first, dash, last = part.strip().partition("-")
        numbers = (first, last) if dash else (first,)
        if not all(n.isdecimal() and n.isascii() and len(n) < 20 for n in numbers) or (
            dash and int(first) > int(last)
        ):
            raise _is_not(value, 'a list of numbers and ranges such as "0-3,7"')


_known(_cpu_list, "a list of numbers and ranges")

_UINT16 = _integer(0, 0xFFFF, "a number from 0 to 65535")
_UINT32 = _integer(0, 0xFFFFFFFF, "a number from 0 to 4294967295")
_UINT64 = _integer(0, 2**64 - 1, "a number from 0 to 18446744073709551615")
_INT32 = _integer(-(2**31), 2**31 - 1, "a number of 32 bits")
_INT64 = _integer(-(2**63), 2**63 - 1, "a number of 64 bits")

_MOST_NODES = 1024
"""Linux is built for so many memory nodes at most: NODES_SHIFT in mm/Kconfig."""

# --- the tables: process and hooks ------------------------------------------------------------


def _page_size(value: Any) -> None:
    """A size of huge pages, "2MB": hugetlb.PAGESIZE.limit_in_bytes."""
    _string(value)
    number, unit = value[:-2], value[-2:]
    if unit not in ("KB", "MB", "GB") or not number.isdecimal() or number[0] == "0":
        raise _is_not(value, 'a size such as "2MB" or "1GB"')


_known(_page_size, 'a size such as "2MB"')


def _environment(value: Any) -> None:
    _strings(value)
    for index, entry in enumerate(value):
        if "=" not in entry[1:]:
            raise _is_not(entry, "of the form NAME=VALUE", index)


_known(_environment, "a list of strings NAME=VALUE")

_RLIMITS = tuple(
    "RLIMIT_" + name
    for name in (
        "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME "
        "SIGPENDING STACK"
    ).split()
)
_POLICIES = tuple("SCHED_" + name for name in "OTHER FIFO RR BATCH ISO IDLE DEADLINE".split())
_SCHEDULER_FLAGS = tuple(
    "SCHED_FLAG_" + name
    for name in (
        "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX"
    ).split()
)
_PROCESS_FIELDS: dict[str, Check] = {
    "terminal": _boolean,
    "consoleSize": _object({"height": _UINT64, "width": _UINT64}, ("height", "width")),
    "user": _object(
        {
            "uid": _UINT32,
            "gid": _UINT32,
            "umask": _integer(0, 0o777, "a number from 0 to 511 (octal 777)"),
            "additionalGids": _list(_UINT32),
            "username": _string,
        }
    ),
    "args": _list(_string, filled=True),
    "commandLine": _string,
    "env": _environment,
    "cwd": _absolute,
    "capabilities": _object(
        dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable", "ambient"),
            _strings,
        )
    ),
    "rlimits": _list(
        _object(
            {"type": _one_of(_RLIMITS), "soft": _UINT64, "hard": _UINT64},
            ("type", "soft", "hard"),
        )
    ),
    "noNewPrivileges": _boolean,
    "apparmorProfile": _string,
    "selinuxLabel": _string,
    "oomScoreAdj": _integer(-1000, 1000, "a number from -1000 to 1000"),
    "scheduler": _object(
        {
            "policy": _one_of(_POLICIES),
            "nice": _integer(-20, 19, "a number from -20 to 19"),
            "priority": _INT32,
            "flags": _list(_one_of(_SCHEDULER_FLAGS)),
            "runtime": _UINT64,
            "deadline": _UINT64,
            "period": _UINT64,
        },
        ("policy",),
    ),
    "ioPriority": _object(
        {
            "class": _one_of(("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")),
            "priority": _integer(0, 7, "a number from 0 to 7"),
        },
        ("class",),
    ),
    "execCPUAffinity": _object({"initial": _cpu_list, "final": _cpu_list}),
}
_PROCESS = _object(_PROCESS_FIELDS, ("args", "cwd"))


def _hook_arguments(value: Any) -> None:
    _strings(value)
    if value and not value[0]:
        raise _Bad("is empty: it names the program", 0)


_known(_hook_arguments, "a list of strings")

_HOOK = _object(
    {
        "path": _absolute,
        "args": _hook_arguments,
        "env": _environment,
        "timeout": _integer(1, 2**63 - 1, "a number of seconds greater than 0"),
    },
    ("path",),
)
_HOOKS = _object(
    dict.fromkeys(
        "prestart createRuntime createContainer startContainer poststart poststop".split(),
        _list(_HOOK),
    )
)

# --- the tables: linux ------------------------------------------------------------------------

_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
_MAPPINGS = _list(
    _object(
        {"containerID": _UINT32, "hostID": _UINT32, "size": _UINT32},
        ("containerID", "hostID", "size"),
    )
)
_MAJOR = _integer(-1, 2**63 - 1, "a device number")
_RATES = _list(
    _object({"major": _MAJOR, "minor": _MAJOR, "rate": _UINT64}, ("major", "minor", "rate"))
)


def _access(value: Any) -> None:
    """Letters of which r, w and m count, as runc reads it: callers wrote "rwa", too."""
    _string(value)
    if value and not set(value) & set("rwm"):
        raise _is_not(value, "made of r (read), w (write) and m (mknod)")


_known(_access, "made of r, w and m")


def _file_name(value: Any) -> None:
    _string(value)
    if not value or "/" in value or value in (".", ".."):
        raise _Bad(f"is named {_shown(value)}, which is not the name of a cgroup file")


_RESOURCES = _object(
    {
        "unified": _map(_string, _file_name),
        "devices": _list(
            _object(
                {
                    "allow": _boolean,
                    "type": _one_of(("a", "c", "b"), also=("",)),
                    "major": _MAJOR,
                    "minor": _MAJOR,
                    "access": _access,
                },
                ("allow",),
            )
        ),
        "pids": _object({"limit": _INT64}),
        "memory": _object(
            {
                **dict.fromkeys("limit reservation swap kernel kernelTCP".split(), _INT64),
                "swappiness": _integer(0, 100, "a number from 0 to 100"),
                "disableOOMKiller": _boolean,
                "useHierarchy": _boolean,
                "checkBeforeUpdate": _boolean,
            }
        ),
        "cpu": _object(
            {
                "shares": _UINT64,
                "quota": _INT64,
                "burst": _UINT64,
                "period": _UINT64,
                "realtimeRuntime": _INT64,
                "realtimePeriod": _UINT64,
                "cpus": _cpu_list,
                "mems": _cpu_list,
                "idle": _integer(0, 1, "0 or 1"),
            }
        ),
        "blockIO": _object(
            {
                "weight": _UINT16,
                "leafWeight": _UINT16,
                "weightDevice": _list(
                    _object(
                        {
                            "major": _MAJOR,
                            "minor": _MAJOR,
                            "weight": _UINT16,
                            "leafWeight": _UINT16,
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
        "hugepageLimits": _list(
            _object({"pageSize": _page_size, "limit": _UINT64}, ("pageSize", "limit"))
        ),
        "network": _object(
            {
                "classID": _UINT32,
                "priorities": _list(
                    _object({"name": _filled, "priority": _UINT32}, ("name", "priority"))
                ),
            }
        ),
        "rdma": _map(_object({"hcaHandles": _UINT32, "hcaObjects": _UINT32})),
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

_ACTION = _one_of(
    "SCMP_ACT_" + name
    for name in "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY".split()
)
_ERRNO = _integer(0, 0xFFFF, "a number from 0 to 65535")
_SECCOMP = _object(
    {
        "defaultAction": _ACTION,
        "defaultErrnoRet": _ERRNO,
        "architectures": _list(_one_of(ARCHITECTURES)),
        "flags": _list(
            _one_of(
                "SECCOMP_FILTER_FLAG_" + name
                for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")
            )
        ),
        "listenerPath": _absolute_or_none,
        "listenerMetadata": _string,
        "syscalls": _list(
            _object(
                {
                    "names": _list(_filled, filled=True),
                    "action": _ACTION,
                    "errnoRet": _ERRNO,
                    "args": _list(
                        _object(
                            {
                                "index": _integer(0, 5, "a number from 0 to 5"),
                                "value": _UINT64,
                                "valueTwo": _UINT64,
                                "op": _one_of(
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
    _string(value)
    if not 0 < len(value.encode()) < 16 or value in (".", "..") or any(c in value for c in "/: \t"):
        raise _is_not(value, "the name of a network interface (1 to 15 bytes, no /, : or space)")


_known(_interface, "the name of a network interface")

_LINUX = _object(
    {
        "namespaces": _list(_object({"type": _one_of(_NAMESPACES), "path": _string}, ("type",))),
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": _map(
            _object(
                {
                    "secs": _INT64,
                    "nanosecs": _integer(0, 999_999_999, "a number from 0 to 999999999"),
                }
            ),
            _one_of(("monotonic", "boottime")),
        ),
        "devices": _list(
            _object(
                {
                    "type": _one_of(("c", "b", "u", "p")),
                    "path": _absolute,
                    "major": _MAJOR,
                    "minor": _MAJOR,
                    "fileMode": _UINT32,
                    "uid": _UINT32,
                    "gid": _UINT32,
                },
                ("type", "path"),
            )
        ),
        "netDevices": _map(_object({"name": _interface}), _interface),
        "cgroupsPath": _string,
        "resources": _RESOURCES,
        "rootfsPropagation": _one_of(
            ("shared", "slave", "private", "unbindable"),
            also=("", "rshared", "rslave", "rprivate", "runbindable"),
        ),
        "seccomp": _SECCOMP,
        "sysctl": _map(_string),
        "maskedPaths": _list(_absolute),
        "readonlyPaths": _list(_absolute),
        "mountLabel": _string,
        "intelRdt": _object(
            {
                "closID": _string,
                "schemata": _strings,
                "l3CacheSchema": _string,
                "memBwSchema": _string,
                "enableCMT": _boolean,
                "enableMBM": _boolean,
                "enableMonitoring": _boolean,
            }
        ),
        "memoryPolicy": _object(
            {
                "mode": _one_of(
                    (
                        "MPOL_" + name
                        for name in (
                            "DEFAULT BIND INTERLEAVE WEIGHTED_INTERLEAVE PREFERRED PREFERRED_MANY "
                            "LOCAL"
                        ).split()
                    ),
                    kind="memory policy mode",
                ),
                "nodes": _cpu_list,
                "flags": _list(
                    _one_of(
                        (
                            "MPOL_F_" + name
                            for name in ("NUMA_BALANCING", "RELATIVE_NODES", "STATIC_NODES")
                        ),
                        kind="memory policy flag",
                    )
                ),
            }
        ),
        "personality": _object(
            {"domain": _one_of(("LINUX", "LINUX32")), "flags": _strings}, ("domain",)
        ),
    }
)
_CONFIG = _object(
    {
        "ociVersion": _string,
        "root": _object({"path": _filled, "readonly": _boolean}, ("path",)),
        "mounts": _list(
            _object(
                {
                    "destination": _filled,
                    "type": _string,
                    "source": _string,
                    "options": _strings,
                    "uidMappings": _MAPPINGS,
                    "gidMappings": _MAPPINGS,
                },
                ("destination",),
            )
        ),
        "process": _PROCESS,
        "hostname": _string,
        "domainname": _string,
        "hooks": _HOOKS,
        "annotations": _map(_string),
        "linux": _LINUX,
    },
    ("ociVersion", "root"),
)

# --- the rules that join properties -----------------------------------------------------------


def _rules(config: Document) -> None:
    _version(config["ociVersion"])
    if "process" in config:
        _below(_process_rules, config["process"], "process")
    linux = config.get("linux", {})
    namespaces = _namespace_rules(linux)
    for name in ("hostname", "domainname"):
        if config.get(name):
            if "uts" not in namespaces:
                raise _Bad("is set, but linux.namespaces has no uts namespace", name)
            if len(config[name].encode()) > 64:
                raise _Bad("is longer than the 64 bytes that the kernel takes", name)
    for index, mount in enumerate(config.get("mounts", ())):
        _below(_mount_rules, mount, "mounts", index)
    _below(lambda linux: _linux_rules(linux, namespaces), linux, "linux")


def _below(rules: Check, value: Any, *places: str | int) -> None:
    try:
        rules(value)
    except _Bad as bad:
        bad.places += reversed(places)
        raise


def _version(text: str) -> None:
    numbers = text.partition("+")[0].partition("-")[0].split(".")
    if len(numbers) != 3 or not all(n.isdecimal() and n.isascii() for n in numbers):
        raise _is_not(text, 'a version such as "1.2.0"', "ociVersion")
    if int(numbers[0]) != 1:
        raise _Bad(f"is {_shown(text)}, but only versions 1.x are known here", "ociVersion")


def _process_rules(process: Document) -> None:
    if not process["args"][0]:
        raise _Bad("is empty: it names the program", "args", 0)
    seen = set()
    for index, limit in enumerate(process.get("rlimits", ())):
        if limit["type"] in seen:
            raise _Bad(f"is {limit['type']} a second time", "rlimits", index, "type")
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            raise _Bad(
                f"is {limit['soft']}, above the hard limit {limit['hard']}",
                *("rlimits", index, "soft"),
            )
    scheduler = process.get("scheduler")
    if scheduler:
        policy = scheduler["policy"]
        if scheduler.get("priority"):
            if policy not in ("SCHED_FIFO", "SCHED_RR"):
                raise _Bad(
                    f"goes with SCHED_FIFO and SCHED_RR, not with {policy}",
                    *("scheduler", "priority"),
                )
            if not 1 <= scheduler["priority"] <= 99:
                raise _is_not(
                    scheduler["priority"], "a number from 1 to 99", "scheduler", "priority"
                )
        for name in ("runtime", "deadline", "period"):
            if scheduler.get(name) and policy != "SCHED_DEADLINE":
                raise _Bad(f"goes with SCHED_DEADLINE, not with {policy}", "scheduler", name)


def _namespace_rules(linux: Document) -> dict[str, str]:
    """Namespace types to paths ("" is a new one)."""
    namespaces: dict[str, str] = {}
    for index, entry in enumerate(linux.get("namespaces", ())):
        kind, path = entry["type"], entry.get("path", "")
        if kind in namespaces:
            raise _Bad(f"is {_shown(kind)} a second time", "linux", "namespaces", index, "type")
        if path and path[0] != "/":
            raise _is_not(path, "an absolute path", "linux", "namespaces", index, "path")
        namespaces[kind] = path
    return namespaces


def _mapping_rules(mappings: list[Document], name: str) -> None:
    for side, words in (("containerID", "in the container"), ("hostID", "on the host")):
        ranges = sorted((entry[side], entry["size"], i) for i, entry in enumerate(mappings))
        end, owner = 0, -1
        for start, size, index in ranges:
            if size == 0:
                raise _Bad("is 0, but a range has at least one id", name, index, "size")
            if start + size > 2**32:
                raise _Bad("ends above the last id, 4294967295", name, index)
            if start < end:
                raise _Bad(f"overlaps {name}[{owner}] {words}", name, index)
            end, owner = start + size, index


def _mount_rules(mount: Document) -> None:
    mapped = [name for name in ("uidMappings", "gidMappings") if mount.get(name)]
    for name in mapped:
        _mapping_rules(mount[name], name)
    if len(mapped) == 1:
        missing = "gidMappings" if mapped[0] == "uidMappings" else "uidMappings"
        raise _Bad(f"goes with {missing}, which is missing", mapped[0])
    options = mount.get("options", ())
    bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
    if mapped and not bind:
        raise _Bad("is for bind mounts only", mapped[0])
    if bind and not mount.get("source"):
        raise _Bad("is missing; it must be the path that is bind-mounted", "source")


def _linux_rules(linux: Document, namespaces: dict[str, str]) -> None:
    _user_rules(linux, namespaces)
    if linux.get("timeOffsets") and namespaces.get("time") != "":
        raise _Bad("is set, but namespaces has no new time namespace", "timeOffsets")
    if linux.get("netDevices") and "network" not in namespaces:
        raise _Bad(
            "is set, but namespaces has no network namespace: "
            "unable to move network devices without a NET namespace",
            "netDevices",
        )
    _device_rules(linux.get("devices", ()))
    for name, value in linux.get("sysctl", {}).items():
        _sysctl_rules(name, value, namespaces)
    for name in ("maskedPaths", "readonlyPaths"):
        if linux.get(name) and "mount" not in namespaces:
            raise _Bad("is set, but namespaces has no mount namespace", name)
    if "resources" in linux:
        _below(_resource_rules, linux["resources"], "resources")
    if "seccomp" in linux:
        _below(_seccomp_rules, linux["seccomp"], "seccomp")
    rdt = linux.get("intelRdt", {})
    name = rdt.get("closID", "")
    if "/" in name or name in (".", ".."):
        raise _is_not(name, "the name of a directory", "intelRdt", "closID")
    schema = rdt.get("memBwSchema", "")
    if schema and (not schema.startswith("MB:") or "\n" in schema):
        raise _is_not(schema, 'one line that starts with "MB:"', "intelRdt", "memBwSchema")
    if linux.get("personality", {}).get("flags"):
        raise _Bad("has flags, of which none is defined", "personality", "flags")
    _below(_memory_policy_rules, linux.get("memoryPolicy", {}), "memoryPolicy")


def _memory_policy_rules(policy: Document) -> None:
    if not policy:
        return
    if "mode" not in policy:
        raise _Bad("is missing, which is an invalid memory policy mode", "mode")
    nodes = policy.get("nodes", "").strip()
    for part in nodes.split(",") if nodes else ():
        if int(part.rpartition("-")[2]) >= _MOST_NODES:
            raise _Bad(
                f"has the invalid memory policy node {part.strip()}, which no machine has", "nodes"
            )
    nodeless = policy["mode"] in ("MPOL_DEFAULT", "MPOL_LOCAL")
    if nodeless and nodes:
        raise _Bad(
            f"does not go with {policy['mode']}: set_mempolicy(2) would say invalid argument",
            "nodes",
        )
    if not nodeless and policy["mode"] != "MPOL_PREFERRED" and not nodes:
        raise _Bad(f"is missing; {policy['mode']} needs nodes", "nodes")


def _user_rules(linux: Document, namespaces: dict[str, str]) -> None:
    for name in ("uidMappings", "gidMappings"):
        mappings = linux.get(name, [])
        if mappings and "user" not in namespaces:
            raise _Bad("is set, but namespaces has no user namespace", name)
        other = "gidMappings" if name == "uidMappings" else "uidMappings"
        if not mappings and namespaces.get("user") == "" and linux.get(other):
            raise _Bad("is missing; a new user namespace needs at least one mapping", name)
        _mapping_rules(mappings, name)


def _device_rules(devices: Iterable[Document]) -> None:
    for index, device in enumerate(devices):
        if device["type"] == "p":
            continue
        for name in ("major", "minor"):
            if device.get(name, -1) < 0:
                words = "is missing" if name not in device else f"is {device[name]}"
                raise _Bad(
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
        raise _Bad(str(error), "sysctl", name) from None
    if name.replace("/", ".") == "kernel.hostname":
        raise _Bad("is not for sysctl: the property hostname sets it", "sysctl", name)
    if need not in namespaces:
        raise _Bad(
            f"belongs to the {need} namespace, which is the host's here: "
            f"namespaces has no {need} namespace",
            *("sysctl", name),
        )
    if "\n" in value:
        raise _is_not(value, "one line", "sysctl", name)


def _resource_rules(resources: Document) -> None:
    cpu = resources.get("cpu", {})
    if cpu.get("burst") and 0 < cpu.get("quota", 0) < cpu["burst"]:
        raise _Bad(f"is {cpu['burst']}, above the quota {cpu['quota']}", "cpu", "burst")
    memory = resources.get("memory", {})
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if limit > 0 and 0 < swap < limit:
        raise _Bad(
            f"is {swap}, below memory.limit {limit}: it is the limit of memory and swap together",
            *("memory", "swap"),
        )
    for index, entry in enumerate(resources.get("blockIO", {}).get("weightDevice", ())):
        if "weight" not in entry and "leafWeight" not in entry:
            raise _Bad("needs weight or leafWeight", "blockIO", "weightDevice", index)
    for name, entry in resources.get("rdma", {}).items():
        if "hcaHandles" not in entry and "hcaObjects" not in entry:
            raise _Bad("needs hcaHandles or hcaObjects", "rdma", name)


_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


def _seccomp_rules(profile: Document) -> None:
    if "defaultErrnoRet" in profile and profile["defaultAction"] not in _WITH_ERRNO:
        raise _Bad(f"does not go with {profile['defaultAction']}", "defaultErrnoRet")
    if profile.get("listenerMetadata") and not profile.get("listenerPath"):
        raise _Bad("is set, but listenerPath is not", "listenerMetadata")
    if profile["defaultAction"] == "SCMP_ACT_NOTIFY":
        raise _Bad(
            'is "SCMP_ACT_NOTIFY": the runtime itself could not finish the start; '
            "name the calls to notify in syscalls",
            "defaultAction",
        )
    for index, rule in enumerate(profile.get("syscalls", ())):
        action = rule["action"]
        if rule.get("errnoRet") and action not in _WITH_ERRNO:
            raise _Bad(f"does not go with {action}", "syscalls", index, "errnoRet")
        if action == "SCMP_ACT_NOTIFY":
            if "write" in rule["names"]:
                raise _Bad(
                    'has "write", but SCMP_ACT_NOTIFY cannot be used for the write syscall: '
                    "the runtime needs it to hand over",
                    *("syscalls", index, "names"),
                )
            if not profile.get("listenerPath"):
                raise _Bad(
                    "is missing; it must be the socket of the agent that syscalls"
                    f"[{index}] (SCMP_ACT_NOTIFY) notifies",
                    "listenerPath",
                )
