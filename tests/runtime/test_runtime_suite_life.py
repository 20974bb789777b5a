"""What callers and test suites of runtimes look at, beside what the specification says."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive, host_pids, until

SLEEP = ("sleep", "1000")


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["kill", "one", "KILL"], ["delete", "one"]])
def test_processes_that_outlive_the_first_are_ended(runtime: Runtime, words: list[str]) -> None:
    """Without a pid namespace of its own a container's first process is no init."""
    runtime.config(*SLEEP, change=host_pids)
    runtime.quiet("run", "--detach", "one")
    for _ in range(3):
        runtime.quiet("exec", "--detach", "one", *SLEEP)
    os.kill(runtime.pid("one"), signal.SIGKILL)
    runtime.await_status("one", "stopped")
    left = json.loads(runtime.call("ps", "--format", "json", "one").stdout)
    assert len(left) == 3
    refused = runtime.call("kill", "one", "TERM", check=False)
    assert (refused.returncode, "container not running" in refused.stderr) == (1, True)
    runtime.call(*words)
    until(lambda: not any(map(alive, left)), "all processes to end")


def test_signals_to_all_of_a_stopped_container_reach_nobody(runtime: Runtime) -> None:
    runtime.config("true")
    runtime.quiet("run", "--keep", "one")
    assert runtime.call("kill", "one", "0", check=False).returncode == 1
    runtime.call("kill", "--all", "one", "0")
    assert runtime.call("ps", "one").stdout.split()[:2] == ["UID", "PID"]


# --- the root file system ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [("nowhere", "No such file or directory"), ("config.json", "is not a directory")],
)
def test_a_root_that_is_no_directory_is_told(runtime: Runtime, path: str, words: str) -> None:
    runtime.config("true", change=lambda config: config["root"].update(path=path))
    for verb in ("create", "run"):
        done = runtime.call(verb, "one", check=False)
        assert (done.returncode, "invalid rootfs" in done.stderr) == (1, True)
        assert f"{runtime.bundle}/{path}" in done.stderr
        assert words in done.stderr
    assert runtime.call("list", "--quiet").stdout == ""


def test_a_root_is_found_from_the_bundle(runtime: Runtime) -> None:
    copy = runtime.bundle / "files"
    subprocess.run(["cp", "-a", runtime.rootfs, copy], check=True)
    link = runtime.home / "link"
    link.symlink_to(runtime.bundle)
    for path in ("files", "./files/../files", f"../{runtime.bundle.name}/files"):
        runtime.config(
            "echo", "ran", change=lambda config, path=path: config["root"].update(path=path)
        )
        assert runtime.call("run", "--bundle", str(link), "one").stdout == "ran\n"
    # The bundle may be the root file system itself.
    runtime.config("echo", "ran", change=lambda config: config["root"].update(path="."))
    (runtime.bundle / "config.json").rename(copy / "config.json")
    assert runtime.call("run", "--bundle", str(copy), "one").stdout == "ran\n"


# --- cgroups of another process ------------------------------------------------------------------


def _limited(path: str, **resources: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = path
        config["linux"]["resources"] = resources

    return change


@pytest.fixture
def path() -> str:
    return f"/ctrt-suite-{os.getpid()}-{time.monotonic_ns()}"


def _cgroup(pid: int | str, controller: str) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path
    raise AssertionError(f"no {controller}")


def _directory(controller: str, path: str) -> Path:
    """A cgroup's directory, with cgroup v1 or v2."""
    v1 = Path(f"/sys/fs/cgroup/{controller}{path}")
    return v1 if v1.parent.parent.is_dir() and v1.exists() else Path(f"/sys/fs/cgroup{path}")


def test_a_cgroup_below_one_that_nobody_has_equipped(runtime: Runtime, path: str) -> None:
    """With cgroup v1 a new cpuset has neither processors nor memory, and takes no process."""
    above = Path(f"/sys/fs/cgroup/cpuset{path}")
    if not above.parent.is_dir():
        pytest.skip("the controller cpuset is not with cgroup v1 here")
    above.mkdir()
    try:
        runtime.config(*SLEEP, change=_limited(f"{path}/below", pids={"limit": 50}))
        runtime.quiet("run", "--detach", "one")
        assert _cgroup(runtime.pid("one"), "cpuset") == f"{path}/below"
        runtime.call("delete", "--force", "one")
    finally:
        for directory in Path("/sys/fs/cgroup").glob(f"*{path}"):
            directory.rmdir()


def test_a_frozen_cgroup_of_another_is_refused_and_left_alone(runtime: Runtime, path: str) -> None:
    frozen = Path(f"/sys/fs/cgroup/freezer{path}")
    if not frozen.parent.is_dir():
        pytest.skip("the controller freezer is not with cgroup v1 here")
    frozen.mkdir()
    try:
        (frozen / "freezer.state").write_text("FROZEN")
        runtime.config(*SLEEP, change=_limited(path, pids={"limit": 50}))
        for verb in (["run", "--detach"], ["create"]):
            assert runtime.quiet(*verb, "one", check=False) == 1
            assert "cgroup unexpectedly frozen" in runtime.stderr
            assert (frozen / "freezer.state").read_text() == "FROZEN\n"
    finally:
        (frozen / "freezer.state").write_text("THAWED")
        frozen.rmdir()
    assert not [*Path("/sys/fs/cgroup").glob(f"*{path}")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("..", " .. is not a sub cgroup path"),
        ("a/../..", " a/../.. is not a sub cgroup path"),
        ("nowhere", "/nowhere/cgroup.procs: no such file or directory"),
        ("whatever:/", "unknown controller"),
    ],
)
def test_a_cgroup_that_is_none_of_the_container_s(
    runtime: Runtime, path: str, value: str, words: str
) -> None:
    runtime.config(*SLEEP, change=_limited(path, pids={"limit": 50}))
    runtime.quiet("run", "--detach", "one")
    done = runtime.call("exec", "--cgroup", value, "one", "true", check=False)
    assert (done.returncode, words in done.stderr) == (255, True)


def test_another_process_goes_to_a_cgroup_below(runtime: Runtime, path: str) -> None:
    runtime.config(*SLEEP, change=_limited(path, pids={"limit": 50}))
    runtime.quiet("run", "--detach", "one")
    own = _directory("pids", path)
    (own / "below").mkdir()
    v1 = not (own / "cgroup.controllers").exists()
    value = "pids:below" if v1 else "below"
    pid_file = runtime.home / "pid"
    words = ["--detach", "--pid-file", str(pid_file), "--cgroup", value, "one", *SLEEP]
    runtime.quiet("exec", *words)
    pid = pid_file.read_text()
    assert (own / "below" / "cgroup.procs").read_text().split() == [pid]
    runtime.quiet("exec", "--detach", "--pid-file", str(pid_file), "--cgroup", "/", "one", *SLEEP)
    assert pid_file.read_text() in (own / "cgroup.procs").read_text().split()
    runtime.call("delete", "--force", "one")
    assert not own.exists()


def test_a_cgroup_in_use_is_not_shared(runtime: Runtime, path: str) -> None:
    runtime.config(*SLEEP, change=_limited(path, pids={"limit": 50}))
    runtime.quiet("run", "--detach", "one")
    for verb in (["create"], ["run", "--detach"]):
        assert runtime.quiet(*verb, "two", check=False) == 1
        assert "container's cgroup is not empty" in runtime.stderr
    assert runtime.status("one") == "running"


def test_a_cgroup_of_another_s_keeps_its_processes_and_what_is_below(
    runtime: Runtime, path: str
) -> None:
    """Whoever made it: where a start is refused for it, nothing of it is taken back."""
    above = Path("/sys/fs/cgroup/pids")
    cgroup = Path(f"{above if above.is_dir() else above.parent}{path}")
    (cgroup / "below").mkdir(parents=True)
    child = subprocess.Popen(["sleep", "1000"])
    try:
        (cgroup / "below" / "cgroup.procs").write_text(str(child.pid))
        runtime.config(*SLEEP, change=_limited(path, pids={"limit": 50}))
        assert runtime.quiet("create", "one", check=False) == 1
        assert "container's cgroup is not empty" in runtime.stderr
        assert os.listdir(runtime.root) == []
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        assert (cgroup / "below" / "cgroup.procs").read_text().split() == [str(child.pid)]
    finally:
        child.kill()
        child.wait()
        for directory in (cgroup / "below", cgroup):
            until(lambda d=directory: not (d / "cgroup.procs").read_text(), "it to be empty")
            directory.rmdir()


# --- limits that come later ----------------------------------------------------------------------


def test_limits_come_to_a_container_that_was_made_without(runtime: Runtime, path: str) -> None:
    change = _limited(path)
    runtime.config("sh", "-c", "sleep 1000 & sleep 1000 & wait", change=change)
    runtime.quiet("run", "--detach", "one")
    until(lambda: len(json.loads(runtime.call("ps", "-f", "json", "one").stdout)) == 3, "all")
    runtime.call("update", "--pids-limit", "9", "--memory", "64M", "one")
    memory = _directory("memory", path)
    limit = memory / "memory.limit_in_bytes"
    limit = limit if limit.exists() else memory / "memory.max"
    assert limit.read_text().strip() == "67108864"
    own = _directory("pids", path)
    assert (own / "pids.max").read_text().strip() == "9"
    assert (own / "pids.current").read_text().strip() == "3"
    # Those who come later are in it, too, and nothing is left of it at the end.
    pid_file = runtime.home / "pid"
    runtime.quiet("exec", "--detach", "--pid-file", str(pid_file), "one", *SLEEP)
    assert _cgroup(pid_file.read_text(), "pids" if own.joinpath("tasks").exists() else "") == path
    directories = [_directory(controller, path) for controller in ("pids", "memory")]
    runtime.call("delete", "--force", "one")
    assert not any(directory.exists() for directory in directories)


def test_no_further_process_is_a_limit_of_one(runtime: Runtime, path: str) -> None:
    """In an update 0 is a limit, as runc has it since version 1.4; it used to change nothing."""
    runtime.config(*SLEEP, change=_limited(path, pids={"limit": 50}))
    runtime.quiet("run", "--detach", "one")
    runtime.call("update", "--pids-limit", "0", "one")
    assert (_directory("pids", path) / "pids.max").read_text() == "1\n"
    runtime.call("update", "--pids-limit", "-1", "one")
    assert (_directory("pids", path) / "pids.max").read_text() == "max\n"


def test_memory_that_is_too_little_to_start_with_is_told(runtime: Runtime, path: str) -> None:
    for limit in (4, 200_000):
        runtime.config("true", change=_limited(path, memory={"limit": limit}))
        done = runtime.call("run", "one", check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "container init was OOM-killed (memory limit too low?)" in done.stderr
        assert not _directory("memory", path).exists()
    assert os.listdir(runtime.root) == []


def test_an_update_is_noted_beside_the_container(runtime: Runtime, path: str) -> None:
    runtime.config(*SLEEP, change=_limited(path, pids={"limit": 50}, cpu={"shares": 100}))
    runtime.quiet("run", "--detach", "one")
    document = runtime.home / "resources.json"
    document.write_text(json.dumps({"pids": {"limit": 20}, "cpu": {"quota": 50000}}))
    runtime.call("update", "-r", str(document), "one")
    runtime.call("update", "one", "--cpu-period", "50000")
    runtime.call("update", "--resources=-", "one", stdin='{"memory": {"limit": 67108864}}')
    noted = json.loads((runtime.root / "one" / "config.json").read_text())["linux"]["resources"]
    assert noted["pids"]["limit"] == 20
    assert noted["cpu"] == {"shares": 100, "quota": 50000, "period": 50000}
    assert noted["memory"]["limit"] == 67108864
    assert (_directory("pids", path) / "pids.max").read_text().strip() == "20"


def test_events_tell_that_memory_ran_out(runtime: Runtime, path: str) -> None:
    memory = {"limit": 16 << 20, "swap": 16 << 20}
    runtime.config(*SLEEP, change=_limited(path, memory=memory))
    runtime.quiet("run", "--detach", "one")
    events = subprocess.Popen(
        runtime.words("events", "--interval", "100ms", "one"),
        stdout=subprocess.PIPE,
        text=True,
        env=runtime.environment,
    )
    assert events.stdout
    first = json.loads(events.stdout.readline())
    assert (first["type"], first["id"], "data" in first) == ("stats", "one", True)
    eat = 'text=$(dd if=/dev/zero bs=1M count=64 | tr "\\0" x)'
    assert runtime.call("exec", "one", "sh", "-c", eat, check=False).returncode != 0
    told = next(line for line in events.stdout if '"oom"' in line)
    assert told == '{"type":"oom","id":"one"}\n'
    runtime.call("delete", "--force", "one")
    assert events.wait(10) == 0
    events.stdout.close()


# --- what is told --------------------------------------------------------------------------------


def test_debugging_tells_every_step_before_it_is_done(both: Runtime) -> None:
    both.config("echo", "ran")
    told = both.call("--debug", "run", "one")
    lines = [line for line in told.stderr.splitlines() if "level=debug" in line]
    assert told.stdout == "ran\n"
    assert any("clone3(CLONE_NEW" in line for line in lines)
    assert any("inside: exec:" in line for line in lines)
    marks = ["nsexec container setup", "child process in init()", "init: closing the pipe"]
    moments = [next(i for i, line in enumerate(lines) if mark in line) for mark in marks]
    assert moments == sorted(moments), "what runc's log says comes in its order"
    log = both.home / "log"
    told = both.call("--log", str(log), "--log-format", "json", "--debug", "run", "one")
    assert (told.stdout, told.stderr) == ("ran\n", "")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert {entry["level"] for entry in entries} == {"debug"}
    assert any("clone3(CLONE_NEW" in entry["msg"] for entry in entries)


def test_debugging_an_exec_tells_its_steps(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", "one")
    told = runtime.call("--debug", "exec", "one", "true").stderr
    assert "level=debug" in told
    assert "outside: container: open_process(" in told
    assert "inside: exec: execve(" in told
    assert "setns_init: about to exec" in told


def test_features_name_every_option_that_a_mount_takes(runtime: Runtime) -> None:
    options = json.loads(runtime.call("features").stdout)["mountOptions"]
    assert options == sorted(options)
    assert {"rbind", "rro", "rprivate", "ridmap", "copy-symlink", "lazytime"} <= set(options)
    runtime.config("true")
    # None of them is taken for data of a file system.
    own = [o for o in options if o not in ("mand", "nomand", "idmap", "ridmap", "copy-symlink")]
    kinds = ("shared", "slave", "private", "unbindable", "bind", "emount", "o")
    exclusive = [option for option in own if option.lstrip("r") not in kinds]
    mount = {"type": "tmpfs", "source": "tmpfs", "destination": "/tmp", "options": exclusive}
    runtime.config("true", change=lambda config: config["mounts"].append(mount))
    runtime.call("run", "one")


# --- terminals -----------------------------------------------------------------------------------


def test_a_terminal_has_the_size_of_the_controlling_one(runtime: Runtime) -> None:
    """Though none of the caller's streams is a terminal."""
    runtime.config("sh", "-c", "stty size; tty",
                   change=lambda config: config["process"].update(terminal=True))  # fmt: skip
    line = shlex.join(runtime.words("run", "one"))
    master, slave = pty.openpty()
    command = f"stty rows 31 cols 97; {line} < /dev/null > ../said 2>&1"
    subprocess.run(
        ["setsid", "--ctty", "--wait", "sh", "-c", command],
        stdin=slave,
        cwd=runtime.bundle,
        env=runtime.environment,
        check=True,
        timeout=20,
    )
    os.close(slave)
    os.close(master)
    assert (runtime.home / "said").read_text().split() == ["31", "97", "/dev/pts/0"]


# --- the directory of the containers -------------------------------------------------------------


def test_directories_of_others_are_left_alone(runtime: Runtime) -> None:
    """--root may name a directory that has more in it than containers."""
    runtime.config("true")
    runtime.quiet("run", "--keep", "one")
    foreign = runtime.root / "foreign"
    foreign.mkdir()
    (foreign / "letter").write_text("dear\n")
    (foreign / "state.json").write_text('{"id": "foreign", "init_process_pid": 1}\n')
    (runtime.root / "file").write_text("text\n")
    (runtime.root / "empty").mkdir()
    assert runtime.call("list", "--quiet").stdout == "one\n"
    for name in ("foreign", "file"):
        for words in (["state", name], ["start", name], ["delete", name], ["kill", name, "KILL"]):
            done = runtime.call(*words, check=False)
            assert (done.returncode, "does not exist" in done.stderr) == (1, True)
        runtime.call("delete", "--force", name)
        done = runtime.call("create", name, check=False)
        assert (done.returncode, "already exists" in done.stderr) == (1, True)
    assert sorted(entry.name for entry in foreign.iterdir()) == ["letter", "state.json"]
    (runtime.root / "file").unlink()
    for entry in foreign.iterdir():
        entry.unlink()
    foreign.rmdir()


def test_only_an_id_can_be_deleted_by_force(runtime: Runtime) -> None:
    runtime.call("delete", "--force", "nobody")
    for name in ("..", "a/b", "/etc"):
        done = runtime.call("delete", "--force", name, check=False)
        assert (done.returncode, "invalid container ID format" in done.stderr) == (1, True)


# --- who it is -----------------------------------------------------------------------------------


def _without_root(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    for name, host in (("uidMappings", 100000), ("gidMappings", 200000)):
        config["linux"][name] = [{"containerID": 1000, "hostID": host, "size": 1}]
    config["process"]["user"] = {"uid": 1000, "gid": 1000}


def test_a_user_namespace_needs_no_root(runtime: Runtime) -> None:
    runtime.config(*SLEEP, change=_without_root)
    runtime.quiet("run", "--detach", "one")
    pid = runtime.pid("one")
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["1000", "100000", "1"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert (status["Uid"].split()[0], status["Gid"].split()[0]) == ("100000", "200000")
    assert runtime.call("exec", "one", "id", "-u").stdout == "1000\n"


def test_the_caller_s_processors_are_not_the_container_s(runtime: Runtime) -> None:
    every = sorted(os.sched_getaffinity(0))
    if len(every) < 2:
        pytest.skip("there is one processor only")
    first = ["taskset", "--cpu-list", str(every[0])]
    show = ("grep", "Cpus_allowed_list", "/proc/self/status")

    def call(*words: str) -> str:
        line = [*first, *runtime.words(*words)]
        done = subprocess.run(
            line, capture_output=True, text=True, check=True, cwd=runtime.bundle, timeout=30
        )
        return done.stdout.split()[1]

    wanted = Path("/proc/self/status").read_text().partition("Cpus_allowed_list:")[2].split()[0]
    runtime.config(*show)
    assert call("run", "one") == wanted
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", "one")
    assert call("exec", "one", *show) == wanted


def test_nodes_that_no_machine_has_are_told(runtime: Runtime) -> None:
    policy = {"mode": "MPOL_BIND", "nodes": "0-9876543210"}
    runtime.config("true", change=lambda config: config["linux"].update(memoryPolicy=policy))
    done = runtime.call("run", "one", check=False)
    assert (done.returncode, "linux.memoryPolicy.nodes" in done.stderr) == (1, True)
    assert "no machine has" in done.stderr


def test_a_hook_s_signal_is_named(runtime: Runtime) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "kill -SYS $$"]}
    runtime.config("true", change=lambda config: config.update(hooks={"startContainer": [hook]}))
    done = runtime.call("run", "one", check=False)
    assert done.returncode == 1
    assert "error running startContainer hook #0" in done.stderr
    assert "bad system call" in done.stderr


def test_processes_are_found_without_a_cgroup(rootless: Runtime) -> None:
    rootless.config("sh", "-c", "sleep 1000 & exec sleep 1000")
    words = ["--cgroup-manager", "disabled"]
    rootless.quiet(*words, "run", "--detach", "one")

    def pids() -> list[int]:
        found: list[int] = json.loads(rootless.call("ps", "--format", "json", "one").stdout)
        return found

    until(lambda: len(pids()) == 2, "both processes")
    first = rootless.pid("one")
    (other,) = set(pids()) - {first}
    assert os.readlink(f"/proc/{other}/ns/pid") == os.readlink(f"/proc/{first}/ns/pid")
    assert str(other) in rootless.call("ps", "one").stdout
    rootless.call("kill", "--all", "one", "KILL")
    until(lambda: not alive(other) and not alive(first), "both to end")


def test_a_user_that_is_not_mapped_is_told(rootless: Runtime) -> None:
    rootless.config("id", change=lambda config: config["process"]["user"].update(uid=1000))
    done = rootless.call("run", "one", check=False)
    assert done.returncode == 1
    assert "user 1000 or group 0 is not mapped in the user namespace" in done.stderr
