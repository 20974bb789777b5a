"""Filters of the configuration: what a program meets, and what the kernel shows from outside."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, until
from property_tools import refusal, status_of

NAME = f"property-seccomp-{os.getpid()}"
SLEEP = ("sleep", "1000")
Change = Callable[[dict[str, Any]], object]
pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the numbers below are those of x86_64"
)


def filtered(*rules: dict[str, Any], default: str = "ALLOW", **more: Any) -> Change:
    profile = {"defaultAction": f"SCMP_ACT_{default}", "syscalls": list(rules), **more}
    return lambda config: config["linux"].update(seccomp=profile)


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": f"SCMP_ACT_{action}", **more}


def say(runtime: Runtime, script: str, change: Change) -> tuple[int, str]:
    runtime.config("sh", "-c", script, change=change)
    done = runtime.call("run", NAME, check=False)
    return done.returncode, done.stdout + done.stderr


MKDIR = "mkdir /tmp/made 2>&1; rmdir /tmp/made 2>/dev/null"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (rule("ERRNO", "mkdir", "mkdirat"), "Operation not permitted"),
        (rule("ERRNO", "mkdir", "mkdirat", errnoRet=28), "No space left on device"),
        (rule("TRACE", "mkdir", "mkdirat", errnoRet=1), "Function not implemented"),
        (rule("LOG", "mkdir", "mkdirat"), ""),
        (rule("ERRNO", "a_call_of_2040", "mkdir", "mkdirat"), "Operation not permitted"),
    ],
    ids=["errno", "chosen", "trace", "log", "unknown"],
)
def test_actions_inside(both: Runtime, made: dict[str, Any], words: str) -> None:
    _, said = say(both, MKDIR, filtered(made))
    assert said == (f"mkdir: can't create directory '/tmp/made': {words}\n" if words else "")


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_actions_that_end_the_process(both: Runtime, action: str) -> None:
    script = "mkdir /tmp/made; echo $?"
    _, said = say(both, script, filtered(rule(action, "mkdir", "mkdirat")))
    assert "159" in said.splitlines(), "128 and SIGSYS"


def test_the_default_action_and_its_errno(both: Runtime) -> None:
    """Everything is allowed by name but one call, which meets the default."""
    text = Path("/usr/share/containers/seccomp.json")
    if not text.exists():
        pytest.skip("containers-common is not installed: its list of calls is used")
    names = {
        name
        for entry in json.loads(text.read_text())["syscalls"]
        if entry["action"] == "SCMP_ACT_ALLOW"
        for name in entry["names"]
    }
    allowed = rule("ALLOW", *sorted(names - {"mkdir", "mkdirat"}))
    _, said = say(both, MKDIR, filtered(allowed, default="ERRNO", defaultErrnoRet=122))
    assert said == "mkdir: can't create directory '/tmp/made': Disk quota exceeded\n"


@pytest.mark.parametrize(
    ("comparison", "refused"),
    [
        ({"op": "SCMP_CMP_EQ", "value": 0o700}, [False, True, False]),
        ({"op": "SCMP_CMP_NE", "value": 0o700}, [True, False, True]),
        ({"op": "SCMP_CMP_GT", "value": 0o700}, [False, False, True]),
        ({"op": "SCMP_CMP_GE", "value": 0o700}, [False, True, True]),
        ({"op": "SCMP_CMP_LT", "value": 0o700}, [True, False, False]),
        ({"op": "SCMP_CMP_LE", "value": 0o700}, [True, True, False]),
        ({"op": "SCMP_CMP_MASKED_EQ", "value": 0o200, "valueTwo": 0o200}, [False, True, True]),
    ],
    ids=["eq", "ne", "gt", "ge", "lt", "le", "masked"],
)
def test_arguments_inside(
    runtime: Runtime, comparison: dict[str, Any], refused: list[bool]
) -> None:
    """The mode that chmod(2) is given, its second argument."""
    made = [rule("ERRNO", "chmod", args=[{"index": 1, **comparison}])]
    script = "touch /tmp/f; for m in 500 700 755; do chmod $m /tmp/f 2>/dev/null; echo $?; done"
    _, said = say(runtime, script, filtered(*made))
    assert [line == "1" for line in said.splitlines()] == refused


def test_the_filter_is_seen_from_outside_and_is_every_process_s(both: Runtime) -> None:
    both.config(*SLEEP, change=filtered(rule("ERRNO", "mkdir", "mkdirat")))
    both.quiet("run", "--detach", NAME)
    found = status_of(both.pid(NAME))
    assert (found["Seccomp"], found["Seccomp_filters"]) == ("2", "1")
    inside = both.call(
        "exec", NAME, "sh", "-c", f"grep Seccomp: /proc/self/status; {MKDIR}", check=False
    )
    assert inside.stdout.splitlines()[0].split() == ["Seccomp:", "2"]
    assert "Operation not permitted" in inside.stdout + inside.stderr


# --- flags and architectures ----------------------------------------------------------------------

# The flags of a process's newest filter, of which the kernel tells LOG: ptrace(2).
_METADATA = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
pid = int(sys.argv[1])
SEIZE, INTERRUPT, DETACH, GET_METADATA = 0x4206, 0x4207, 17, 0x420d
assert libc.ptrace(SEIZE, pid, None, None) == 0, os.strerror(ctypes.get_errno())
assert libc.ptrace(INTERRUPT, pid, None, None) == 0
os.waitpid(pid, 0x40000000)
data = (ctypes.c_uint64 * 2)(0, 0)
if libc.ptrace(GET_METADATA, pid, ctypes.sizeof(data), ctypes.byref(data)) < 0:
    print("errno", ctypes.get_errno())
else:
    print(data[1])
libc.ptrace(DETACH, pid, None, None)
"""
LOG = 2


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ([], 0),
        (["LOG"], LOG),
        (["TSYNC"], 0),
        (["SPEC_ALLOW"], 0),
        (["TSYNC", "LOG", "SPEC_ALLOW"], LOG),
    ],
    ids=["none", "log", "tsync", "spec_allow", "all"],
)
def test_flags(runtime: Runtime, flags: list[str], kept: int) -> None:
    names = [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]
    runtime.config(*SLEEP, change=filtered(rule("ERRNO", "mkdir"), flags=names))
    runtime.quiet("run", "--detach", NAME)
    pid = runtime.pid(NAME)
    assert status_of(pid)["Seccomp_filters"] == "1"
    words = [sys.executable, "-c", _METADATA, str(pid)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    if said[0] == "errno":
        pytest.skip(f"this kernel tells no flags: {os.strerror(int(said[1]))}")
    assert int(said[0]) == kept


_CALLS = r"""
#include <stdio.h>
#include <sys/stat.h>
#include <errno.h>
int main(void) {
    /* getpid(2) by the 32-bit way in, and by the 64-bit one */
    long small;
    __asm__ volatile("int $0x80" : "=a"(small) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
    printf("%ld\n", (long)(int)small);
    return 0;
}
"""


def test_architectures(runtime: Runtime, tmp_path: Path) -> None:
    """getpid(2) by the calls of 32-bit programs: one that is not named meets SIGSYS."""
    (tmp_path / "calls.c").write_text(_CALLS)
    program = runtime.home / "calls"
    subprocess.run(["cc", "-static", "-o", program, tmp_path / "calls.c"], check=True)

    def change(*architectures: str) -> Change:
        def both_changes(config: dict[str, Any]) -> None:
            entry = {"destination": "/tmp/calls", "type": "bind", "source": str(program)}
            config["mounts"].append({**entry, "options": ["bind"]})
            names = [f"SCMP_ARCH_{name}" for name in architectures]
            made = rule("ERRNO", "getpid", errnoRet=44)
            filtered(made, architectures=names)(config)

        return both_changes

    _, said = say(runtime, "/tmp/calls", change("X86_64", "X86"))
    if said == "-38\n":
        pytest.skip("this kernel runs no 32-bit programs")
    assert said == "-44\n"
    _, said = say(runtime, "/tmp/calls; echo $?", change("X86_64"))
    assert "159" in said.splitlines(), "128 and SIGSYS"


# --- the agent -------------------------------------------------------------------------------

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_MKDIR_NUMBER = 83


@pytest.mark.parametrize("flags", [[], ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]])
def test_an_agent_is_sent_the_descriptor_and_decides(both: Runtime, flags: list[str]) -> None:
    import fcntl

    path = both.home / "agent.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen(1)
        server.settimeout(20)
        change = filtered(
            rule("NOTIFY", "mkdir"),
            listenerPath=str(path),
            listenerMetadata="of the test",
            flags=flags,
        )
        both.config("sh", "-c", f"{MKDIR}; sleep 1000", change=change)
        both.quiet("create", NAME)
        connection, _ = server.accept()
        with connection:
            data, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
            while part := connection.recv(65536):
                data += part
    (notify,) = descriptors
    try:
        state = json.loads(data)
        assert state["fds"] == ["seccompFd"]
        assert state["metadata"] == "of the test"
        assert state["pid"] == state["state"]["pid"] == both.pid(NAME)
        assert (state["state"]["id"], state["state"]["status"]) == (NAME, "creating")
        both.call("start", NAME)
        notification = bytearray(80)
        fcntl.ioctl(notify, _RECEIVE, notification)
        identifier, pid, _, number = struct.unpack_from("<QIIi", notification)
        assert number == _MKDIR_NUMBER
        assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{both.pid(NAME)}/ns/pid")
        response = struct.pack("<QqiI", identifier, 0, -28, 0)
        fcntl.ioctl(notify, _SEND, response)
        until(lambda: both.stdout, "the answer to reach the program")
    finally:
        os.close(notify)


def test_without_its_agent_there_is_no_container(both: Runtime) -> None:
    path = f"{both.home}/nobody.sock"
    both.config("true", change=filtered(rule("NOTIFY", "mkdir"), listenerPath=path))
    words = refusal(both, NAME)
    assert "the seccomp agent does not listen" in words
    assert path in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (filtered(rule("NOTIFY", "mkdir")), "linux.seccomp.listenerPath is missing"),
        (
            filtered(listenerMetadata="x"),
            "linux.seccomp.listenerMetadata is set, but listenerPath is not",
        ),
        (
            filtered(default="NOTIFY", listenerPath="/x"),
            'linux.seccomp.defaultAction is "SCMP_ACT_NOTIFY"',
        ),
        (
            filtered(rule("NOTIFY", "write"), listenerPath="/x"),
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            filtered(flags=["SECCOMP_FILTER_FLAG_NEW_LISTENER"]),
            "linux.seccomp.flags[0]",
        ),
    ],
    ids=["path", "metadata", "default", "write", "flag"],
)
def test_what_an_agent_cannot_have_is_refused(runtime: Runtime, change: Change, words: str) -> None:
    runtime.config("true", change=change)
    assert words in refusal(runtime, NAME)


@pytest.mark.parametrize("kept", [False, True])
def test_a_created_container_waits_under_a_filter_that_allows_little(
    both: Runtime, kept: bool
) -> None:
    """Without no_new_privs the filter is in force already while it waits."""
    refused = rule("ERRNO", "close_range", "pidfd_open", "rt_sigaction", "openat2", "dup2")
    strict = filtered(refused)

    def change(config: dict[str, Any]) -> None:
        strict(config)
        config["process"]["noNewPrivileges"] = kept

    both.config("echo", "ran", change=change)
    both.quiet("create", NAME)
    output = both.stdout
    assert both.status(NAME) == "created"
    both.call("start", NAME)
    both.await_status(NAME, "stopped")
    assert output + both.stdout == "ran\n"
    both.call("delete", NAME)


def test_a_hook_of_the_container_has_its_filter(both: Runtime) -> None:
    strict = filtered(rule("ERRNO", "mkdir", "mkdirat", "pidfd_open"))

    def change(config: dict[str, Any]) -> None:
        strict(config)
        config["process"]["noNewPrivileges"] = True
        hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo heard; mkdir /tmp/made"]}
        config["hooks"] = {"startContainer": [hook]}

    both.config("true", change=change)
    done = both.call("run", NAME, check=False)
    assert done.returncode == 1
    assert "error running startContainer hook #0: /bin/sh: exit status 1, it said: heard" in (
        done.stderr
    )
    assert "Operation not permitted" in done.stderr
