"""The verbs that show and change: list, ps, events, features, spec, update, checkpoint, restore."""

from __future__ import annotations

import os

from ctrt.cli.runtime.verbs import enter_bundle, make_options, one, print_line, root_of
from ctrt.errors import CtrtError
from ctrt.oci import fastjson
from ctrt.runtime import existing
from ctrt.runtime.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.cli.runtime.options import Words
    from ctrt.runtime.checkpoint import Wishes


def _format(words: Words) -> str:
    chosen: str = words["format"] or "table"
    if chosen not in ("table", "json"):
        raise CtrtError(f"invalid format option {chosen!r}: it is table or json", status=1)
    return chosen


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)


def containers(words: Words) -> int:
    """`list`: containers and their states."""
    records = Record.all(root_of(words), existing.warn)
    if words["quiet"]:
        for record in records:
            print(record.id)
        return 0
    states = []
    for record in records:
        try:
            states.append(existing.describe_more(record))
        except FileNotFoundError:
            continue  # it has just been deleted
    if _format(words) == "json":
        print(fastjson.dumps(states))
        return 0
    rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    rows += [
        (s["id"], str(s["pid"]), s["status"], s["bundle"], s["created"], s["owner"] or "#0")
        for s in states
    ]
    print(_columns(rows))
    return 0


def ps(words: Words) -> int:
    """`ps`: a container's processes, as pids or as ps(1) shows them."""
    if not words.operands:
        raise CtrtError("ps takes a container ID", status=1)
    form = _format(words)
    identifier, *flags = words.operands
    record = Record.find(root_of(words), identifier)
    pids = existing.processes(record)
    if form == "json":
        print(fastjson.dumps(pids))
        return 0
    import subprocess

    shown = subprocess.run(
        ["ps", *(flags or ["-ef"])],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **os.environ},
    )
    if shown.returncode:
        raise CtrtError(f"ps failed: {shown.stderr.strip().partition(chr(10))[0]}", status=1)
    head, *lines = shown.stdout.splitlines()
    try:
        column = head.split().index("PID")
    except ValueError:
        raise CtrtError("ps shows no column PID with these options", status=1) from None
    print(head)
    wanted = {str(pid) for pid in pids}
    for line in lines:
        if line.split()[column] in wanted:
            print(line)
    return 0


def events(words: Words) -> int:
    """`events`: what a container uses, once or again and again, and when memory ran out."""
    seconds = _duration(words["interval"] or "5s")
    if seconds <= 0:
        raise CtrtError("duration interval must be greater than 0", status=1)
    root, identifier = root_of(words), one(words)
    record = Record.find(root, identifier)
    if not record.pid:
        raise CtrtError(f"container with id {identifier} is not running", status=1)
    group = existing.group(record)
    if words["stats"]:
        _tell("stats", identifier, group.stats())
        return 0
    import select
    import time

    from ctrt.runtime import cgroup_events

    pidfd = record.pidfd()
    memory = cgroup_events.watch(group.v2, group.v1)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if memory:
        poll.register(memory.descriptor, memory.mask)
    next_time = 0.0
    while True:
        if time.monotonic() >= next_time:
            _tell("stats", identifier, group.stats())
            next_time = time.monotonic() + seconds
        ready = dict(poll.poll(max(0, next_time - time.monotonic()) * 1000))
        if memory and memory.descriptor in ready:
            for _ in range(memory.news()):
                _tell("oom", identifier)
        if pidfd in ready:
            return 0


def _tell(kind: str, identifier: str, data: dict[str, Any] | None = None) -> None:
    event: dict[str, Any] = {"type": kind, "id": identifier}
    print_line(fastjson.dumps(event if data is None else {**event, "data": data}))


def _duration(text: str) -> float:
    """A duration as Go writes it (1m30s, 500ms), in seconds."""
    units = {"ms": 0.001, "us": 1e-6, "h": 3600.0, "m": 60.0, "s": 1.0}
    seconds, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((u for u in units if rest[digits:].startswith(u)), None)
        if not digits or unit is None:
            raise CtrtError(f"--interval: {text!r} is no duration such as 5s or 500ms", status=1)
        seconds += float(rest[:digits]) * units[unit]
        rest = rest[digits + len(unit) :]
    return seconds


# --- update ------------------------------------------------------------------------------------

_UPDATES = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-shares": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "cpu-idle": ("cpu", "idle"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
    "l3-cache-schema": ("intelRdt", "l3CacheSchema"),
    "mem-bw-schema": ("intelRdt", "memBwSchema"),
}


def update(words: Words) -> int:
    """`update`: other limits for a container that runs."""
    from ctrt.oci import checking, spec

    identifier = one(words)
    record = Record.find(root_of(words), identifier, lock=True)
    try:
        if not record.pid:
            raise CtrtError("cannot update a stopped container: container not running", status=1)
        resources: dict[str, Any] = {}
        path = words["resources"]
        if path:
            name = "resources" if path == "-" else path
            try:
                with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
                    data = file.read()
            except OSError as error:
                raise CtrtError(f"--resources: {path}: {error.strerror}", status=1) from None
            resources = spec.resources(checking.parse(data, name=name), name=name)
        else:
            for flag, (part, key) in _UPDATES.items():
                if words.has(flag):
                    value = words[flag]
                    if part == "memory":
                        value = _bytes(flag, value)
                    if part == "pids":
                        value = value or 1  # whoever asks for none here wants no further one
                    resources.setdefault(part, {})[key] = value
            resources = spec.resources(resources, name="update")
        if "intelRdt" in resources:
            raise CtrtError("intelRdt: this machine has no Intel RDT to set", status=1)
        from ctrt.runtime import updating

        updating.update(record, resources)
    finally:
        record.release()
    return 0


def _bytes(flag: str, text: str) -> int:
    """A size: a number of bytes, or with k, m, g or t; -1 is no limit."""
    number, factor = text.strip().lower().removesuffix("b"), 1
    if number and number[-1] in "kmgt":
        factor = 1024 ** ("kmgt".index(number[-1]) + 1)
        number = number[:-1]
    try:
        return int(number) * factor
    except ValueError:
        raise CtrtError(
            f"--{flag}: {text!r} is no size such as 1000000, 512m or 2g", status=1
        ) from None


# --- what this runtime is -----------------------------------------------------------------------


def features(_words: Words) -> int:
    """`features`: what this runtime and the kernel can do (features.md of the specification)."""
    from ctrt.cli.runtime.about import features as known

    print(fastjson.indented(known()))
    return 0


def spec(words: Words) -> int:
    """`spec`: a config.json to begin with, in the bundle's directory."""
    from ctrt.cli.runtime.about import example

    enter_bundle(words)
    if os.path.exists("config.json"):
        raise CtrtError("file config.json exists: remove it first", status=1)
    with open("config.json", "w") as file:
        file.write(fastjson.indented(example(rootless=words["rootless"] is True), "\t") + "\n")
    return 0


def _criu(words: Words) -> str:
    import shutil

    found = shutil.which(words["criu"] or "criu", path=os.environ.get("PATH") or "/usr/sbin:/sbin")
    found = found or shutil.which("criu", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin")
    if found is None:
        raise CtrtError(
            f"{words.verb} needs criu, which is not installed here (package criu)", status=1
        )
    return found


def _wishes(words: Words) -> Wishes:
    """The flags that both verbs have."""
    from ctrt.runtime import checkpoint as saving

    images = os.path.abspath(words["image-path"] or "checkpoint")
    made = saving.Wishes(_criu(words), images, os.path.abspath(words["work-path"] or images))
    for name in (
        *("tcp-established", "ext-unix-sk", "shell-job", "file-locks", "auto-dedup"),
        *("tcp-skip-in-flight", "link-remap"),
    ):
        if words[name]:
            # criu itself calls that one by its end.
            made.flags.append((name.removeprefix("tcp-") if "skip" in name else name, ""))
    made.flags += [(n, words[n]) for n in ("lsm-profile", "lsm-mount-context") if words[n]]
    if words["lazy-pages"]:
        made.flags.append(("lazy-pages", ""))
    for name in words["empty-ns"] or ():
        if name != "network":
            raise CtrtError(
                f"--empty-ns: {name!r} cannot be made empty, only network can", status=1
            )
        made.flags.append(("empty-ns", "net"))
    mode = words["manage-cgroups-mode"]
    # The restored processes are born in the cgroup that the configuration says, and soft means:
    # only what criu itself has made.
    if mode not in (None, "ignore", "soft"):
        raise CtrtError(
            f"--manage-cgroups-mode: {mode!r} is not offered: cgroups are made here, so it is "
            "always ignore, or soft",
            status=1,
        )
    return made


def checkpoint(words: Words) -> int:
    """`checkpoint`: save a container's processes with criu."""
    from ctrt.runtime import checkpoint as saving

    identifier = one(words)
    Record.find(root_of(words), identifier)
    made = _wishes(words)
    made.leave_running, made.pre_dump = bool(words["leave-running"]), bool(words["pre-dump"])
    if words["parent-path"]:
        made.flags.append(("prev-images-dir", _parent(made.images, words["parent-path"])))
    if made.pre_dump or words["parent-path"]:
        made.flags.append(("track-mem", ""))
    if words["page-server"]:
        address, colon, port = words["page-server"].rpartition(":")
        if not colon or not port.isdecimal():
            raise CtrtError(
                f"--page-server: {words['page-server']!r} is not ADDRESS:PORT", status=1
            )
        made.flags += [("page-server", ""), ("address", address), ("port", port)]
    if words["status-fd"] is not None:
        made.flags.append(("status-fd", str(words["status-fd"])))
    saving.checkpoint(root_of(words), identifier, made)
    return 0


def _parent(images: str, path: str) -> str:
    """Where an earlier image is, as the new one will name it."""
    if os.path.isabs(path):
        raise CtrtError(
            f"--parent-path: {path!r} is absolute, and must be relative to --image-path: "
            "the images are to be found again wherever both are moved",
            status=1,
        )
    # It is a link in the image's directory, which is made now at the latest.
    os.makedirs(images, mode=0o700, exist_ok=True)
    if not os.path.isdir(f"{images}/{path}"):
        raise CtrtError(f"--parent-path: {images}/{path} is no directory", status=1)
    return path


def restore(words: Words) -> int:
    """`restore`: make a container from saved processes with criu."""
    from ctrt.cli.runtime import foreground

    identifier, made = one(words), make_options(words)
    made.detach = bool(words["detach"])
    root, wishes = root_of(words), _wishes(words)
    return foreground.restore(root, identifier, enter_bundle(words), made, wishes)
