"""Options of create, run and exec that have no property in the configuration."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive
from property_tools import groups, status_of

NAME = f"property-entering-{os.getpid()}"
SLEEP = ("sleep", "1000")


class PidfdSocket:
    """The socket that a process's descriptor comes to."""

    def __init__(self, runtime: Runtime) -> None:
        self.path = str(runtime.home / "pidfd.sock")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self._socket.listen(1)

    def receive(self) -> int:
        self._socket.settimeout(10)
        connection, _ = self._socket.accept()
        _, descriptors, _, _ = socket.recv_fds(connection, 4096, 4)
        connection.close()
        self._socket.close()
        os.unlink(self.path)
        (descriptor,) = descriptors
        return descriptor


def _pid_of(descriptor: int) -> int:
    """The process of a pidfd, as the kernel tells it: pidfd_open(2)."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


@pytest.mark.parametrize("words", [["create"], ["run", "--detach"]], ids=["create", "run"])
def test_a_pidfd_of_the_first_process_comes_over_the_socket(
    both: Runtime, words: list[str]
) -> None:
    both.config(*SLEEP)
    channel = PidfdSocket(both)
    both.quiet(*words, "--pidfd-socket", channel.path, NAME)
    descriptor = channel.receive()
    try:
        assert _pid_of(descriptor) == both.pid(NAME)
        assert not select.select([descriptor], [], [], 0)[0]
        both.call("delete", "--force", NAME)
        assert select.select([descriptor], [], [], 10)[0], "it tells of the end"
    finally:
        os.close(descriptor)


def test_a_pidfd_of_another_process_comes_over_the_socket(both: Runtime) -> None:
    both.config(*SLEEP)
    both.quiet("run", "--detach", NAME)
    channel = PidfdSocket(both)
    pid_file = both.home / "pid"
    both.quiet(
        *("exec", "--detach", "--pidfd-socket", channel.path, "--pid-file", str(pid_file)),
        *(NAME, "sleep", "1001"),
    )
    descriptor = channel.receive()
    try:
        pid = int(pid_file.read_text())
        assert _pid_of(descriptor) == pid
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001001\0"
    finally:
        os.close(descriptor)


def test_without_its_socket_nothing_is_left(both: Runtime) -> None:
    both.config(*SLEEP)
    assert both.quiet("create", "--pidfd-socket", "/no/socket", NAME, check=False) == 1
    assert "/no/socket: No such file or directory" in both.stderr
    assert list(both.root.iterdir()) == []
    both.quiet("run", "--detach", NAME)
    pid = both.pid(NAME)
    done = both.call("exec", "--pidfd-socket", "/no/socket", NAME, "true", check=False)
    assert done.returncode == 255
    assert "/no/socket: No such file or directory" in done.stderr
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""


# --- exec --cgroup -----------------------------------------------------------------------------


def _detached(runtime: Runtime, *words: str) -> int:
    """The pid of another process that sleeps in the container."""
    pid_file = runtime.home / "pid"
    runtime.quiet(*("exec", "--detach", "--pid-file", str(pid_file), *words, NAME, "sleep", "1001"))
    return int(pid_file.read_text())


def test_exec_goes_to_a_cgroup_below_the_container_s(runtime: Runtime) -> None:
    runtime.config(*SLEEP, change=lambda c: c["linux"].update(resources={"pids": {"limit": 50}}))
    runtime.quiet("run", "--detach", NAME)
    first = groups(runtime.pid(NAME))
    own = {name: path for name, path in first.items() if NAME in str(path)}
    made = {path / "below" for path in own.values()}
    for directory in made:
        directory.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (directory / "cpuset.mem_exclusive").exists():  # cgroup v1: a new one has none
                (directory / file).write_text((directory.parent / file).read_text())
    pid = _detached(runtime, "--cgroup", "below")
    found = groups(pid)
    assert {name: found[name] for name in own} == {name: own[name] / "below" for name in own}
    inside = runtime.call("exec", "--cgroup", "/below/", NAME, "cat", "/proc/self/cgroup").stdout
    assert sum(line.endswith("/below") for line in inside.splitlines()) == len(own)
    outside = _detached(runtime)
    assert groups(outside) == first, "without the option it is the container's own"
    runtime.call("delete", "--force", NAME)
    assert not [directory for directory in made if directory.exists()]
    assert not alive(pid)


def test_exec_goes_to_a_cgroup_of_one_controller(runtime: Runtime) -> None:
    runtime.config(*SLEEP, change=lambda c: c["linux"].update(resources={"pids": {"limit": 50}}))
    runtime.quiet("run", "--detach", NAME)
    first = groups(runtime.pid(NAME))
    if "pids" not in first or NAME not in str(first["pids"]):
        pytest.skip("the controller pids is not in cgroup v1 here")
    (first["pids"] / "below").mkdir()
    found = groups(_detached(runtime, "--cgroup", "pids:below"))
    assert found == {**first, "pids": first["pids"] / "below"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("../other", "is not below the container's cgroup"),
        ("a/../../b", "is not below the container's cgroup"),
        ("not-there", "not-there"),
    ],
)
def test_exec_goes_to_no_other_cgroup(runtime: Runtime, value: str, told: str) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", NAME)
    done = runtime.call("exec", "--cgroup", value, NAME, "true", check=False)
    assert done.returncode == 255
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


# --- exec: the rest -----------------------------------------------------------------------------


def test_exec_takes_privileges_away(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = False

    both.config(*SLEEP, change=change)
    both.quiet("run", "--detach", NAME)
    assert status_of(_detached(both))["NoNewPrivs"] == "0"
    assert status_of(_detached(both, "--no-new-privs"))["NoNewPrivs"] == "1"
    inside = both.call("exec", "--no-new-privs", NAME, "grep", "NoNewPrivs", "/proc/self/status")
    assert inside.stdout.split() == ["NoNewPrivs:", "1"]


def test_exec_adds_capabilities_and_groups(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", NAME)
    before = status_of(runtime.pid(NAME))
    pid = _detached(
        runtime, "--cap", "CAP_SYS_PTRACE", "--cap", "CAP_SYSLOG", "--additional-gids", "77"
    )
    found = status_of(pid)
    added = 1 << 19 | 1 << 34
    for line in ("CapBnd", "CapEff", "CapPrm"):
        assert int(found[line], 16) == int(before[line], 16) | added
    assert found["Groups"].split() == ["77"]


def test_exec_gives_another_user_what_may_be_inherited(runtime: Runtime) -> None:
    """Of a program of another user only the ambient set is left after its exec."""

    def change(config: dict[str, Any]) -> None:
        sets = config["process"].setdefault("capabilities", {})
        sets["inheritable"] = ["CAP_SYSLOG"]
        sets["bounding"] = [*sets.get("bounding", ()), "CAP_SYSLOG"]

    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "--detach", NAME)
    pid = _detached(runtime, "--user", "1000", "--cap", "CAP_SYSLOG", "--cap", "CAP_SYS_PTRACE")
    found = status_of(pid)
    assert int(found["CapAmb"], 16) == int(found["CapEff"], 16) == 1 << 34


def test_exec_refuses_labels_that_this_kernel_cannot_give(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", NAME)
    cases = []
    if not os.path.exists("/sys/module/apparmor"):
        cases.append((["--apparmor", "box"], "apparmor not supported"))
    if not os.path.exists("/sys/fs/selinux/enforce"):
        cases.append((["--process-label", "a:b:c:s0"], "selinux is disabled or not supported"))
    for words, told in cases:
        done = runtime.call("exec", *words, NAME, "true", check=False)
        assert done.returncode == 255
        assert told in done.stderr


def test_exec_in_a_paused_container_only_when_asked(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", NAME)
    runtime.call("pause", NAME)
    refused = runtime.call("exec", NAME, "true", check=False)
    assert refused.returncode == 255
    assert "cannot exec in a paused container (use --ignore-paused to override)" in refused.stderr
    asked = subprocess.Popen(
        runtime.words("exec", "--ignore-paused", NAME, "sh", "-c", "exit 7"),
        stdin=subprocess.DEVNULL, env=runtime.environment,
    )  # fmt: skip
    with pytest.raises(subprocess.TimeoutExpired):
        asked.wait(0.5)  # it is frozen as the others are
    runtime.call("resume", NAME)
    assert asked.wait(20) == 7


# --- annotations ----------------------------------------------------------------------------------


def test_annotations_are_told_and_change_nothing(both: Runtime) -> None:
    """Those for systemd count where systemd makes the cgroup; here nothing asks for it."""
    annotations = {
        "org.example.key": "value",
        "org.systemd.property.TimeoutStopUSec": "uint64 5000000",
        "run.oci.unknown": "",
    }

    def change(config: dict[str, Any]) -> None:
        config["annotations"] = annotations
        config["hooks"] = {
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {both.home}/told"]}]
        }

    both.config(*SLEEP, change=change)
    both.quiet("run", "--detach", NAME)
    assert both.state(NAME)["annotations"] == annotations
    assert json.loads((both.home / "told").read_text())["annotations"] == annotations
    with contextlib.suppress(FileNotFoundError):
        (both.home / "told").unlink()
