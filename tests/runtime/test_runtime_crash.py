"""A command of the runtime that is killed leaves nothing that the next one does not take back."""

from __future__ import annotations

import glob
import marshal
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive, host_pids, until

SLEEP = ("sleep", "1000")
CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/*")


@pytest.fixture(autouse=True, scope="module")
def _no_parent_left() -> Iterator[None]:
    """The cgroup that the containers' cgroups are in is the engine's to remove, here the test's."""
    yield
    for path in {path for top in CGROUPS for path in glob.glob(f"{top}/ctrt-tests")}:
        try:
            os.rmdir(path)
        except OSError:
            pass  # another test is at work there, or it is the same directory by another name


def _cgroups(name: str) -> list[str]:
    return [path for top in CGROUPS for path in glob.glob(f"{top}/ctrt-tests/{name}")]


def _in_cgroups(name: str, config: dict[str, Any]) -> None:
    config["linux"]["cgroupsPath"] = f"/ctrt-tests/{name}"
    config["linux"]["resources"] = {"pids": {"limit": 50}}


def _of(runtime: Runtime, name: str) -> list[int]:
    """The processes of a container and of the commands that make it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            cgroup = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if str(runtime.root).encode() in arguments or f"/{name}\n" in cgroup:
            found.append(int(pid))
    return [pid for pid in found if alive(pid)]


def _start(runtime: Runtime, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        runtime.words(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=runtime.environment,
        cwd=runtime.bundle,
    )


def _nothing_left(runtime: Runtime, name: str) -> None:
    until(lambda: not _of(runtime, name), "the processes to end")
    assert not runtime.root.exists() or os.listdir(runtime.root) == []
    assert _cgroups(name) == []
    with open("/proc/self/mountinfo") as file:
        assert str(runtime.home) not in file.read()


@pytest.mark.parametrize("last", ["delete", "create"])
def test_create_killed_at_any_moment(runtime: Runtime, last: str) -> None:
    name = f"crash-{os.getpid()}-{last}"
    runtime.config(*SLEEP, change=lambda config: _in_cgroups(name, config))
    began = time.monotonic()
    runtime.quiet("create", name)
    whole = time.monotonic() - began
    runtime.call("delete", "--force", name)
    _nothing_left(runtime, name)
    rounds = 24
    for turn in range(rounds):
        killed = _start(runtime, "create", name)
        time.sleep(whole * (turn + 1) / rounds)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        if last == "create" and runtime.quiet("create", name, check=False):
            assert "already exists" in runtime.stderr  # it had come to its end
        runtime.call("delete", "--force", name)
        _nothing_left(runtime, name)


VERBS = {
    "start": ("start", "NAME"),
    "kill": ("kill", "NAME", "9"),
    "delete": ("delete", "--force", "NAME"),
    "run": ("run", "NAME"),
    "exec": ("exec", "NAME", "sleep", "1000"),
    "pause": ("pause", "NAME"),
    "update": ("update", "--pids-limit", "20", "NAME"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_other_verbs_killed_at_any_moment(runtime: Runtime, verb: str) -> None:
    name = f"crash-{os.getpid()}-{verb}"
    runtime.config(*SLEEP, change=lambda config: _in_cgroups(name, config))
    words = [word.replace("NAME", name) for word in VERBS[verb]]
    rounds = 8
    for turn in range(rounds):
        if verb != "run":
            runtime.quiet("create", name)
        if verb in ("exec", "pause", "update"):
            runtime.call("start", name)
        killed = _start(runtime, *words)
        time.sleep(0.08 * (turn + 1) / rounds)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        if verb in ("exec", "update"):
            assert runtime.status(name) == "running"
        runtime.call("delete", "--force", name)
        _nothing_left(runtime, name)


def test_the_process_dies_with_a_create_that_is_killed(runtime: Runtime) -> None:
    home = runtime.home

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {
            "createRuntime": [
                {
                    "path": "/bin/sh",
                    "args": [
                        "sh",
                        "-c",
                        f"echo $$ > {home}/hook; cat > {home}/told; exec sleep 1000",
                    ],
                }
            ]
        }

    runtime.config(*SLEEP, change=change)
    killed = _start(runtime, "create", "one")
    state = runtime.home / "told"
    until(lambda: state.exists() and state.read_text().endswith("}"), "the hook")
    import json

    pid = json.loads(state.read_text())["pid"]
    assert alive(pid)
    missing = runtime.call("state", "one", check=False)
    assert "does not exist" in missing.stderr
    assert alive(pid)  # who only looks takes nothing from a create that is at work
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    until(lambda: not alive(pid), "the container's process to end")
    runtime.call("delete", "--force", "one")
    os.kill(int((runtime.home / "hook").read_text()), signal.SIGKILL)  # it is its own master
    assert os.listdir(runtime.root) == []


@pytest.mark.parametrize("files", [("journal", "start"), (".journal.12345",), ()], ids=len)
def test_list_takes_back_what_is_left(runtime: Runtime, files: tuple[str, ...]) -> None:
    left = runtime.root / "left"
    left.mkdir(parents=True)
    for name in files:
        (left / name).write_bytes(b"not whole")
    assert runtime.call("list", "-q").stdout == ""
    assert os.listdir(runtime.root) == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[]", b"{}", b'{"start_time": 1, "pid": 1}'], ids=repr
)
def test_a_container_whose_state_is_broken_is_told_of_and_taken_back(
    runtime: Runtime, data: bytes
) -> None:
    """As after a loss of power: the other containers are there, and nothing is left of this one."""
    name = f"crash-{os.getpid()}-broken"
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", "whole")
    runtime.config(*SLEEP, change=lambda config: _in_cgroups(name, config))
    runtime.quiet("run", "--detach", name)
    pid = runtime.pid(name)
    (runtime.root / name / "state.json").write_bytes(data)
    assert runtime.call("list", "-q").stdout.split() == ["whole"]
    log = runtime.home / "log"
    listed = runtime.call("--log", str(log), "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["ID", "whole"]
    assert f"the state.json of container {name} is broken" in log.read_text()
    for words in (("state",), ("delete",), ("kill",), ("exec",), ("start",)):
        more = ("true",) if words == ("exec",) else ()
        done = runtime.call(*words, name, *more, check=False)
        assert done.returncode
        (line,) = done.stderr.splitlines()
        assert line == (
            f"ctrt-runtime: the state.json of container {name} is broken; `delete --force` takes "
            "back what was made for it"
        )
    assert runtime.quiet("create", name, check=False) == 1
    assert alive(pid)
    runtime.call("delete", "--force", name)
    until(lambda: not alive(pid), "the container's process to end")
    runtime.call("delete", "--force", "whole")
    _nothing_left(runtime, name)


def test_a_broken_state_of_somebody_else_s_is_left_alone(runtime: Runtime) -> None:
    other = runtime.root / "other"
    other.mkdir(parents=True)
    (other / "state.json").write_text("{")
    assert runtime.call("list", "-q").stdout == ""
    runtime.call("delete", "--force", "other")
    assert (other / "state.json").read_text() == "{"
    (other / "state.json").unlink()
    other.rmdir()


@pytest.mark.parametrize("below", ["y/" * 3000, "y/" + "z" * 256])
def test_a_cgroup_that_no_kernel_can_make_is_refused_before_any_part_of_it_is_made(
    runtime: Runtime, below: str
) -> None:
    path = f"/ctrt-tests/long-{os.getpid()}/{below}"
    limits = {"pids": {"limit": 50}}
    runtime.config(*SLEEP, change=lambda c: c["linux"].update(cgroupsPath=path, resources=limits))
    assert runtime.quiet("create", "long", check=False) == 1
    assert runtime.stderr == (
        "ctrt-runtime: linux.cgroupsPath: file name too long: no cgroup can have it\n"
    )
    assert not runtime.root.exists() or os.listdir(runtime.root) == []
    assert _cgroups(f"long-{os.getpid()}") == []


@pytest.mark.parametrize("verb", ["delete", "kill"])
def test_processes_are_known_by_their_mounts_where_nothing_else_tells(
    rootless: Runtime, verb: str
) -> None:
    """Without a pid namespace and without a cgroup, what exec added ends with the container."""

    rootless.config(*SLEEP, change=host_pids)
    rootless.quiet("--cgroup-manager", "disabled", "run", "--detach", "one")
    rootless.quiet("exec", "--detach", "--pid-file", f"{rootless.bundle}/pid", "one", *SLEEP)
    pids = [rootless.pid("one"), int((rootless.bundle / "pid").read_text())]
    assert all(alive(pid) for pid in pids)
    assert rootless.call("ps", "--format", "json", "one").stdout == f"[{pids[0]},{pids[1]}]\n"
    words = ("delete", "--force", "one") if verb == "delete" else ("kill", "one", "KILL")
    rootless.call(*words)
    until(lambda: not any(alive(pid) for pid in pids), "all processes to end")
    rootless.call("delete", "--force", "one")


def test_a_scope_that_systemd_could_not_make_leaves_nothing(runtime: Runtime) -> None:
    """Where systemd is not running, there is none to ask to take it back either."""
    runtime.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={runtime.home}/no-bus"
    path = f"system.slice:ctrt:crash-{os.getpid()}"
    runtime.config(*SLEEP, change=lambda config: config["linux"].update(cgroupsPath=path))
    for verb in ("create", "run"):
        assert runtime.quiet("--systemd-cgroup", verb, "one", check=False) == 1
        (line,) = runtime.stderr.splitlines()
        assert f'StartTransientUnit("ctrt-crash-{os.getpid()}.scope")' in line
        assert "jeepney" in line or "is systemd running here?" in line
        assert os.listdir(runtime.root) == []
        assert runtime.call("list", "-q").stdout == ""


def test_what_cannot_be_taken_back_does_not_hide_the_others(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("create", "whole")
    left = runtime.root / "left"
    (left / "notify" / "deeper").mkdir(parents=True)
    (left / "journal").write_bytes(marshal.dumps((), 2))
    log = runtime.home / "log"
    assert runtime.call("--log", str(log), "list", "-q").stdout == "whole\n"
    assert "what is left of container left cannot be taken back: " in log.read_text()
    shutil.rmtree(left)
    runtime.call("delete", "--force", "whole")
