"""Another process in a running container, as the kernel sees it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive, namespaces, until

SLEEP = ("sleep", "1000")


def _process(**changes: Any) -> dict[str, Any]:
    return {"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0}, **changes}


@pytest.fixture
def running(both: Runtime) -> Runtime:
    both.config(*SLEEP)
    both.quiet("run", "--detach", "one")
    return both


def test_exec_joins_every_namespace_and_gives_its_status(running: Runtime) -> None:
    script = "for name in /proc/self/ns/*; do readlink $name; done; exit 5"
    done = running.call("exec", "one", "sh", "-c", script, check=False)
    assert done.returncode == 5
    pid = running.pid("one")
    expected = {os.readlink(f"/proc/{pid}/ns/{name}") for name in os.listdir(f"/proc/{pid}/ns")}
    assert set(done.stdout.split()) == expected


def test_root_of_a_user_namespace_enters_a_container_that_has_none_of_its_own(
    runtime: Runtime,
) -> None:
    """As podman calls it for an ordinary user: there is no way back to the first pid namespace."""
    runtime.config(*SLEEP, change=lambda config: config["process"].update(oomScoreAdj=500))
    line = shlex.join(runtime.words("--cgroup-manager", "disabled"))
    script = (
        f"{line} run --detach one </dev/null >/dev/null 2>&1 && "
        f"{line} exec one sh -c 'cat /proc/self/oom_score_adj; readlink /proc/self/ns/pid'; "
        f"{line} delete --force one"
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(
        command, cwd=runtime.bundle, capture_output=True, text=True, timeout=60, check=False
    )
    score, namespace = done.stdout.split() or ["", done.stderr]
    assert score == "500"
    assert namespace != os.readlink("/proc/self/ns/pid")


def test_exec_takes_the_streams_of_its_caller(running: Runtime) -> None:
    done = running.call("exec", "one", "sh", "-c", "cat; echo error >&2", stdin="typed")
    assert (done.stdout, done.stderr) == ("typed", "error\n")


def test_exec_detached_leaves_a_process_of_the_container(running: Runtime) -> None:
    pid_file = running.home / "pid"
    running.quiet("exec", "--detach", "--pid-file", str(pid_file), "one", "sleep", "1001")
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001001\0"
    assert namespaces(pid) == namespaces(running.pid("one"))
    assert (
        Path(f"/proc/{pid}/cgroup").read_text()
        == Path(f"/proc/{running.pid('one')}/cgroup").read_text()
    )
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    running.call("delete", "--force", "one")
    until(lambda: not alive(pid), "the process to end with its container")


def test_a_process_document_says_who_it_is(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", "one")
    document = _process(
        args=["sleep", "1002"],
        cwd="/tmp",
        env=["PATH=/bin", "NAME=value"],
        user={"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o027},
        capabilities={name: ["CAP_CHOWN"] for name in ("bounding", "inheritable", "permitted")},
        noNewPrivileges=True,
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        oomScoreAdj=500,
    )
    path = runtime.home / "process.json"
    path.write_text(json.dumps(document))
    runtime.quiet(
        *("exec", "--process", str(path), "-d", "--pid-file", str(runtime.home / "pid"), "one")
    )
    pid = int((runtime.home / "pid").read_text())
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == ["7"] * 4
    assert status["Gid"].split() == ["8"] * 4
    assert status["Groups"].split() == ["9", "10"]
    assert status["Umask"] == "0027"
    assert int(status["CapBnd"], 16) == 1
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert os.readlink(f"/proc/{pid}/cwd") == "/tmp"
    assert b"NAME=value\0" in Path(f"/proc/{pid}/environ").read_bytes()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "open files" in line).split()[3:5] == [
        "100",
        "200",
    ]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"


@pytest.mark.parametrize(
    ("own", "named", "found"),
    [(None, None, "0022"), (0o077, None, "0077"), (0o077, 0o027, "0027"), (0o077, 0, "0000")],
)
def test_the_umask_is_the_containers_unless_another_is_named(
    runtime: Runtime, own: int | None, named: int | None, found: str
) -> None:
    runtime.config(
        *SLEEP,
        change=lambda config: config["process"]["user"].update({"umask": own} if own else {}),
    )
    runtime.quiet("run", "--detach", "one")
    user = {"uid": 0, "gid": 0, **({} if named is None else {"umask": named})}
    path = runtime.home / "process.json"
    path.write_text(
        json.dumps(_process(args=["sh", "-c", "umask"], cwd="/", user=user, env=["PATH=/bin"]))
    )
    assert runtime.call("exec", "--process", str(path), "one").stdout == f"{found}\n"
    if named is None:
        assert runtime.call("exec", "one", "sh", "-c", "umask").stdout == f"{found}\n"


def test_options_change_the_containers_own_process(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", "one")
    done = runtime.call(
        *("exec", "--user", "3:4", "--cwd", "/tmp", "-e", "A=b", "--additional-gids", "5"),
        *("one", "sh", "-c", "id -u; id -g; id -G; pwd; echo $A $TERM"),
    )
    assert done.stdout.split() == ["3", "4", "4", "5", "/tmp", "b", "xterm"]
    added = runtime.call(
        *("exec", "--cap", "CAP_SYS_PTRACE", "one", "grep", "CapBnd", "/proc/self/status")
    )
    assert int(added.stdout.split()[1], 16) & 1 << 19


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonesuch"], 'exec: "nonesuch": executable file not found in $PATH'),
        (["/nonesuch"], "no such file or directory"),
        (["/etc/passwd"], "permission denied"),
    ],
)
def test_a_command_that_cannot_run_is_told(running: Runtime, words: list[str], told: str) -> None:
    for detach in ([], ["--detach"]):
        done = running.call("exec", *detach, "one", *words, check=False)
        assert (done.returncode, told in done.stderr) == (255, True), done.stderr


def test_exec_needs_a_running_container(runtime: Runtime) -> None:
    runtime.config("true")
    runtime.quiet("run", "--detach", "one")
    runtime.await_status("one", "stopped")
    done = runtime.call("exec", "one", "true", check=False)
    assert (done.returncode, "stopped container" in done.stderr) == (255, True)
    missing = runtime.call("exec", "two", "true", check=False)
    assert (missing.returncode, "does not exist" in missing.stderr) == (255, True)


def test_exec_in_a_created_container_comes_before_its_program(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("create", "one")
    assert runtime.call("exec", "one", "hostname").stdout == "box\n"
    assert runtime.status("one") == "created"


def test_signals_are_passed_on(running: Runtime) -> None:
    script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        running.words("exec", "one", "sh", "-c", script),
        stdout=subprocess.PIPE,
        text=True,
        env=running.environment,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        command.send_signal(signal.SIGTERM)
        assert command.stdout.read() == "got\n"
        assert command.wait(10) == 3


def test_ps_lists_every_process(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", "one")
    runtime.quiet("exec", "-d", "--pid-file", str(runtime.home / "pid"), "one", "sleep", "1003")
    pids = [runtime.pid("one"), int((runtime.home / "pid").read_text())]
    assert sorted(json.loads(runtime.call("ps", "--format", "json", "one").stdout)) == pids
    assert sorted(json.loads(runtime.call("ps", "one", "--format=json").stdout)) == pids
    table = runtime.call("ps", "one").stdout.splitlines()
    assert "PID" in table[0]
    assert [int(line.split()[1]) for line in table[1:]] == pids
