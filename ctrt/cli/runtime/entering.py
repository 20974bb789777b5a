"""`exec`: another process in a running container."""

from __future__ import annotations

from ctrt.cli.runtime.verbs import make_options, root_of
from ctrt.errors import CtrtError
from ctrt.linux import ospath
from ctrt.runtime import entering, existing
from ctrt.runtime.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.cli.runtime.options import Words

_STDIO = (0, 1, 2)


def execute(words: Words) -> int:
    """Carry out `exec`: 0 when detached, else the exit status of the process."""
    identifier, *arguments = words.operands
    made = make_options(words)
    made.detach = bool(words["detach"])
    path = words["process"] and ospath.absolute(words["process"])
    record = Record.find(root_of(words), identifier)
    now = existing.status(record)
    if now == "stopped":
        raise CtrtError("cannot exec in a stopped container: container not running")
    if now == "paused" and not words["ignore-paused"]:
        raise CtrtError("cannot exec in a paused container (use --ignore-paused to override)")
    process = _document(path) if path else _process(words, record.config(), arguments)
    from ctrt.cli.runtime import foreground

    awake = -1 if made.detach else foreground.listen()
    started = entering.enter(record, process, made, stdio=_STDIO, cgroups=words["cgroup"] or ())
    if made.detach:
        return 0
    return foreground.attend(started, awake, foreground.receive(made))


def _document(path: str) -> dict[str, Any]:
    from ctrt.oci import checking
    from ctrt.oci import process as processes

    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise CtrtError(f"--process: {path}: {error.strerror}") from None
    return processes.check(checking.parse(data, name=path), name=path)


def _process(words: Words, config: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The container's own process, with what the options change."""
    if not arguments:
        raise CtrtError("process args cannot be empty: exec takes a command, or --process FILE")
    process: dict[str, Any] = {"cwd": "/", **(config.get("process") or {}), "args": arguments}
    process["terminal"] = bool(words["tty"])
    process.pop("consoleSize", None)
    if words["cwd"]:
        process["cwd"] = words["cwd"]
    if words["env"]:
        process["env"] = [*(process.get("env") or ()), *words["env"]]
    if words["apparmor"]:
        process["apparmorProfile"] = words["apparmor"]
    if words["process-label"]:
        process["selinuxLabel"] = words["process-label"]
    if words["no-new-privs"]:
        process["noNewPrivileges"] = True
    if words["cap"]:
        sets = dict(process.get("capabilities") or {})
        for name in ("bounding", "effective", "permitted"):
            sets[name] = [*(sets.get(name) or ()), *words["cap"]]
        # What the configuration lets be inherited is kept by a program of any user, too.
        kept = [name for name in words["cap"] if name in (sets.get("inheritable") or ())]
        sets["ambient"] = [*(sets.get("ambient") or ()), *kept]
        process["capabilities"] = sets
    user = dict(process.get("user") or {})
    if words["user"]:
        uid, colon, gid = words["user"].partition(":")
        user["uid"] = _id(uid, "--user")
        if colon:
            user["gid"] = _id(gid, "--user")
    if words["additional-gids"]:
        user["additionalGids"] = [
            *(user.get("additionalGids") or ()),
            *(_id(gid, "--additional-gids") for gid in words["additional-gids"]),
        ]
    process["user"] = user
    from ctrt.oci import process as processes

    return processes.check(process, name="exec")


def _id(text: str, flag: str) -> int:
    if not text.isdecimal():
        raise CtrtError(f"{flag}: {text!r} is no number; ids are looked up by the engine")
    return int(text)
