"""The process of a runtime configuration, checked with the rest of it or by itself.

It is apart from `spec.py`, which has all other tables, because `exec` needs no more than this.
Source: config.md of the OCI runtime specification, "process".
"""

from __future__ import annotations

from ctrt.oci.checking import (
    INT32,
    UINT32,
    UINT64,
    Bad,
    absolute,
    boolean,
    checked,
    cpu_list,
    integer,
    is_not,
    known,
    list_of,
    object_of,
    one_of,
    run,
    string,
    strings,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.oci.checking import Check, Document


def check(document: object, *, name: str = "process.json") -> Document:
    """Check a process by itself, as `exec --process` takes it. Raises SpecError."""
    found = checked(TABLE, document, name)
    run(rules, found, name)
    return found


def environment(value: Any) -> None:
    """Strings NAME=VALUE."""
    strings(value)
    for index, entry in enumerate(value):
        if "=" not in entry[1:]:
            raise is_not(entry, "of the form NAME=VALUE", index)


known(environment, "a list of strings NAME=VALUE")

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
_FIELDS: dict[str, Check] = {
    "terminal": boolean,
    "consoleSize": object_of({"height": UINT64, "width": UINT64}, ("height", "width")),
    "user": object_of(
        {
            "uid": UINT32,
            "gid": UINT32,
            "umask": integer(0, 0o777, "a number from 0 to 511 (octal 777)"),
            "additionalGids": list_of(UINT32),
            "username": string,
        }
    ),
    "args": list_of(string, filled=True),
    "commandLine": string,
    "env": environment,
    "cwd": absolute,
    "capabilities": object_of(
        dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable", "ambient"),
            strings,
        )
    ),
    "rlimits": list_of(
        object_of(
            {"type": one_of(_RLIMITS), "soft": UINT64, "hard": UINT64},
            ("type", "soft", "hard"),
        )
    ),
    "noNewPrivileges": boolean,
    "apparmorProfile": string,
    "selinuxLabel": string,
    "oomScoreAdj": integer(-1000, 1000, "a number from -1000 to 1000"),
    "scheduler": object_of(
        {
            "policy": one_of(_POLICIES),
            "nice": integer(-20, 19, "a number from -20 to 19"),
            "priority": INT32,
            "flags": list_of(one_of(_SCHEDULER_FLAGS)),
            "runtime": UINT64,
            "deadline": UINT64,
            "period": UINT64,
        },
        ("policy",),
    ),
    "ioPriority": object_of(
        {
            "class": one_of(("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")),
            "priority": integer(0, 7, "a number from 0 to 7"),
        },
        ("class",),
    ),
    "execCPUAffinity": object_of({"initial": cpu_list, "final": cpu_list}),
}
TABLE = object_of(_FIELDS, ("args", "cwd"))


def rules(process: Document) -> None:
    """Those of a process, in a configuration or by itself."""
    if not process["args"][0]:
        raise Bad("is empty: it names the program", "args", 0)
    seen = set()
    for index, limit in enumerate(process.get("rlimits", ())):
        if limit["type"] in seen:
            raise Bad(f"is {limit['type']} a second time", "rlimits", index, "type")
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            raise Bad(
                f"is {limit['soft']}, above the hard limit {limit['hard']}",
                *("rlimits", index, "soft"),
            )
    scheduler = process.get("scheduler")
    if scheduler:
        policy = scheduler["policy"]
        if scheduler.get("priority"):
            if policy not in ("SCHED_FIFO", "SCHED_RR"):
                raise Bad(
                    f"goes with SCHED_FIFO and SCHED_RR, not with {policy}",
                    *("scheduler", "priority"),
                )
            if not 1 <= scheduler["priority"] <= 99:
                raise is_not(
                    scheduler["priority"], "a number from 1 to 99", "scheduler", "priority"
                )
        for name in ("runtime", "deadline", "period"):
            if scheduler.get(name) and policy != "SCHED_DEADLINE":
                raise Bad(f"goes with SCHED_DEADLINE, not with {policy}", "scheduler", name)
