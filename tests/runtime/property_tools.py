"""A program that tells from inside what the kernel keeps of it, and readers of cgroups."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bundles import Runtime, until

# Each line is a name and the kernel's answers; what only a system call tells, /proc does not.
_SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
struct attributes {
    unsigned size, policy; unsigned long long flags; int nice; unsigned priority;
    unsigned long long runtime, deadline, period;
};
int main(void) {
    char text[256] = "";
    long serial = syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3 /* session */, 0);
    syscall(SYS_keyctl, 6 /* DESCRIBE */, serial, text, sizeof text);
    printf("keyring %ld %s\n", serial, text);
    int mode = -1; unsigned long nodes[16] = {0};
    syscall(SYS_get_mempolicy, &mode, nodes, 1024L, 0L, 0L);
    printf("memory %d %lu\n", mode, nodes[0]);
    struct attributes a; memset(&a, 0, sizeof a);
    syscall(SYS_sched_getattr, 0, &a, sizeof a, 0);
    printf("scheduler %u %llu %d %u %llu %llu %llu\n", a.policy, a.flags, a.nice, a.priority,
           a.runtime, a.deadline, a.period);
    long io = syscall(SYS_ioprio_get, 1, 0);
    printf("io %ld %ld\n", io >> 13, io & 0x1fff);
    printf("personality %d\n", personality(0xffffffff));
    printf("seccomp %d\n", prctl(PR_GET_SECCOMP));
    return 0;
}
"""


def compiled_probe(directory: Path) -> Path:
    """The program, made in a directory."""
    source, program = directory / "probe.c", directory / "probe"
    source.write_text(_SOURCE)
    subprocess.run(["cc", "-static", "-o", program, source], check=True)
    return program


def give_probe(config: dict[str, Any], program: Path) -> None:
    """Let a configuration have the program as /tmp/probe."""
    config["mounts"].append(
        {
            "destination": "/tmp/probe",
            "type": "bind",
            "source": str(program),
            "options": ["bind", "ro"],
        }
    )


def answers(text: str) -> dict[str, list[str]]:
    """What the program printed, by name."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}


def seen(
    runtime: Runtime, name: str, program: Path, change: Callable[[dict[str, Any]], object]
) -> tuple[int, dict[str, list[str]]]:
    """A container's first process, and what another one that it makes is told by the kernel."""

    def both_changes(config: dict[str, Any]) -> None:
        change(config)
        give_probe(config, program)

    runtime.config("sh", "-c", "/tmp/probe; exec sleep 1000", change=both_changes)
    runtime.quiet("run", "--detach", name)
    until(lambda: "seccomp" in runtime.stdout, "what the program is told")
    return runtime.pid(name), answers(runtime.stdout)


def groups(pid: int | str) -> dict[str, Path]:
    """The directories of a process's cgroups by controller; v2's has the name ""."""
    tops: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fstype, _, options = after.split(" ", 2)
        if fstype == "cgroup2":
            tops[""] = before.split()[4]
        elif fstype == "cgroup":
            for name in options.split(","):
                tops[name] = before.split()[4]
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in tops:
                found[name] = Path(tops[name] + path)
    return found


def status_of(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def refusal(runtime: Runtime, name: str) -> str:
    """The one sentence with which a container is refused; nothing is left of it."""
    log = runtime.home / "refusal"
    done = runtime.call("--log", str(log), "run", name, check=False)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert not runtime.root.exists() or list(runtime.root.iterdir()) == []
    return line.removeprefix("ctrt-runtime: ")
