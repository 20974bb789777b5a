"""A container's life: what the kernel shows after each verb."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive, host_pids, namespaces, until

SLEEP = ("sleep", "1000")


def test_created_waits_in_its_namespaces_and_start_makes_it_the_program(both: Runtime) -> None:
    both.config(*SLEEP)
    both.quiet("create", "one")
    pid = both.pid("one")
    assert both.status("one") == "created"
    ours, theirs = namespaces("self"), namespaces(pid)
    assert {kind for kind in ours if ours[kind] != theirs[kind]} >= {"ipc", "mnt", "net", "pid"}
    assert b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    both.call("start", "one")
    assert both.status("one") == "running"
    assert both.pid("one") == pid
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\0"
    assert os.path.samefile(f"/proc/{pid}/root/bin/busybox", both.rootfs / "bin" / "busybox")


def test_state_is_the_specifications(runtime: Runtime) -> None:
    def annotate(config: dict[str, Any]) -> None:
        config["annotations"] = {"org.example.key": "value"}

    runtime.config(*SLEEP, change=annotate)
    runtime.quiet("create", "one")
    state = runtime.state("one")
    assert state["ociVersion"] == "1.0.2"
    assert state["id"] == "one"
    assert state["status"] == "created"
    assert state["bundle"] == str(runtime.bundle)
    assert state["annotations"] == {"org.example.key": "value"}
    assert state["rootfs"] == str(runtime.rootfs)
    assert state["owner"] == "root"
    assert state["created"].endswith("Z")


def test_start_is_for_created_containers_only(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("run", "--detach", "one")
    again = runtime.call("start", "one", check=False)
    assert (again.returncode, "already running" in again.stderr) == (1, True)
    runtime.call("kill", "one", "KILL")
    runtime.await_status("one", "stopped")
    stopped = runtime.call("start", "one", check=False)
    assert (stopped.returncode, "has stopped" in stopped.stderr) == (1, True)
    missing = runtime.call("start", "two", check=False)
    assert (missing.returncode, "does not exist" in missing.stderr) == (1, True)


def test_delete_is_for_stopped_containers_and_takes_all_back(both: Runtime) -> None:
    both.config(*SLEEP)
    both.quiet("create", "one")
    both.call("start", "one")
    refused = both.call("delete", "one", check=False)
    assert (refused.returncode, "not stopped" in refused.stderr) == (1, True)
    both.call("kill", "one", "9")
    both.await_status("one", "stopped")
    assert both.state("one")["pid"] == 0
    both.call("delete", "one")
    assert os.listdir(both.root) == []
    gone = both.call("state", "one", check=False)
    assert (gone.returncode, "container does not exist" in gone.stderr) == (1, True)


def test_forced_delete_ends_every_process(both: Runtime) -> None:
    both.config("sh", "-c", "sleep 1001 & (setsid sleep 1002 &) ; sleep 1003")
    both.quiet("run", "-d", "one")
    pid = both.pid("one")
    space = namespaces(pid)["pid"]

    def inside() -> list[int]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/ns/pid") == space and alive(int(name)):
                    found.append(int(name))
            except OSError:
                pass
        return found

    until(lambda: len(inside()) >= 3, "the processes of the container")
    both.call("delete", "--force", "one")
    assert inside() == []
    assert os.listdir(both.root) == []
    both.call("delete", "--force", "one")


def test_a_created_container_can_be_deleted_by_force(both: Runtime) -> None:
    both.config(*SLEEP)
    both.quiet("create", "one")
    pid = both.pid("one")
    both.call("delete", "-f", "one")
    until(lambda: not alive(pid), "the waiting process to end")


def test_an_id_is_used_once(runtime: Runtime) -> None:
    runtime.config(*SLEEP)
    runtime.quiet("create", "one")
    pid = runtime.pid("one")
    assert runtime.quiet("create", "one", check=False) == 1
    assert "container with given ID already exists" in runtime.stderr
    assert runtime.pid("one") == pid
    assert alive(pid)


@pytest.mark.parametrize("name", ["", "../one", "a/b", ".", "..", "a b", "ü"])
def test_an_id_is_no_path(runtime: Runtime, name: str) -> None:
    runtime.config(*SLEEP)
    assert runtime.quiet("create", name, check=False) == 1
    assert "container ID" in runtime.stderr
    assert not runtime.root.exists()


def test_a_link_is_no_container(runtime: Runtime) -> None:
    """Neither to another container, which would have two names, nor to anything else."""
    runtime.config(*SLEEP)
    runtime.quiet("create", "one")
    aims = {"same": "one", "lost": "nowhere", "empty": str(runtime.home / "empty")}
    (runtime.home / "empty").mkdir()
    for name, aim in aims.items():
        (runtime.root / name).symlink_to(aim)
    for name in aims:
        for verb in (["state"], ["start"], ["kill"], ["delete"], ["delete", "--force"]):
            done = runtime.call(*verb, name, check=False)
            assert done.returncode == 1, (name, verb)
            assert done.stderr == (
                f"ctrt-runtime: {runtime.root}/{name} is a symbolic link, not the directory of a "
                "container\n"
            )
        assert runtime.quiet("create", name, check=False) == 1
        assert "container with given ID already exists" in runtime.stderr
    assert runtime.call("list", "-q").stdout == "one\n"
    assert runtime.status("one") == "created"
    for name, aim in aims.items():
        assert os.readlink(runtime.root / name) == aim
        (runtime.root / name).unlink()
    assert (runtime.home / "empty").is_dir()


@pytest.mark.parametrize("words", [["SIGTERM"], ["TERM"], ["15"], ["term"], []])
def test_kill_takes_numbers_and_names(runtime: Runtime, words: list[str]) -> None:
    runtime.config("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    runtime.quiet("run", "-d", "one")
    until(lambda: runtime.stdout, "the trap")
    pid = runtime.pid("one")
    runtime.call("kill", "one", *words)
    until(lambda: not alive(pid), "the end")


def test_kill_of_what_does_not_run_says_so(runtime: Runtime) -> None:
    runtime.config("true")
    runtime.quiet("run", "-d", "one")
    runtime.await_status("one", "stopped")
    late = runtime.call("kill", "one", "9", check=False)
    assert (late.returncode, "container not running" in late.stderr) == (1, True)
    missing = runtime.call("kill", "two", "9", check=False)
    assert (missing.returncode, "does not exist" in missing.stderr) == (1, True)
    wrong = runtime.call("kill", "one", "NOSUCH", check=False)
    assert (wrong.returncode, "unknown signal" in wrong.stderr) == (1, True)


def test_kill_all_reaches_every_process(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        host_pids(config)
        config["mounts"][0] = {
            "destination": "/proc",
            "type": "bind",
            "source": "/proc",
            "options": ["rbind"],
        }
        config["linux"].pop("maskedPaths")
        config["linux"].pop("readonlyPaths")

    runtime.config("sh", "-c", "sleep 1004 & echo $!; wait", change=change)
    runtime.quiet("run", "-d", "one")
    until(lambda: runtime.stdout, "the second process")
    second = int(runtime.stdout)
    assert alive(second)
    runtime.call("kill", "--all", "one", "KILL")
    until(lambda: not alive(second), "the second process to end")


def test_pid_file_names_the_process_of_the_host(both: Runtime) -> None:
    both.config(*SLEEP)
    both.quiet("create", "--pid-file", str(both.home / "pid"), "one")
    text = (both.home / "pid").read_text()
    assert text == str(both.pid("one"))


def test_a_pid_that_is_anothers_is_not_the_containers(runtime: Runtime) -> None:
    runtime.config("true")
    runtime.quiet("run", "-d", "one")
    runtime.await_status("one", "stopped")
    other = subprocess.Popen(["sleep", "1000"])
    try:
        path = runtime.root / "one" / "state.json"
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "pid": other.pid}))
        assert runtime.status("one") == "stopped"
        assert runtime.call("kill", "one", "9", check=False).returncode == 1
        runtime.call("delete", "--force", "one")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_container_that_waits_holds_none_of_its_caller_s_descriptors(both: Runtime) -> None:
    """Its caller's caller may wait for the end of a pipe, which would come only with the start."""
    both.config(*SLEEP)
    reader, low = os.pipe()
    file = os.open("/etc/hostname", os.O_RDONLY)
    kept = fcntl.fcntl(file, fcntl.F_DUPFD, 60)
    writer = fcntl.fcntl(low, fcntl.F_DUPFD, kept + 1)
    os.close(low)
    try:
        both.quiet("create", "--preserve-fds", str(kept - 2), "one", pass_fds=(writer, kept))
        os.close(writer)
        assert os.read(reader, 1) == b"", "nobody has the other end any more"
        held = {int(name) for name in os.listdir(f"/proc/{both.pid('one')}/fd")}
        places = [
            os.readlink(f"/proc/{both.pid('one')}/fd/{number}") for number in held - {0, 1, 2}
        ]
        state = str(both.root / "one")
        assert sorted(places) == ["/etc/hostname", f"{state}/start", f"{state}/started"]
    finally:
        for number in (reader, file, kept):
            os.close(number)
    both.quiet("start", "one")


def test_a_container_that_waits_can_be_ended_by_the_usual_signal(both: Runtime) -> None:
    """As the first of its pid namespace it would not be, if it had not asked for that."""
    both.config(*SLEEP)
    both.quiet("create", "one")
    pid = both.pid("one")
    both.call("kill", "one", "TERM")
    until(lambda: not alive(pid), "the end")
    both.await_status("one", "stopped")
    both.call("delete", "one")


def test_streams_are_the_callers_and_nothing_else_leaks(both: Runtime) -> None:
    both.config("sh", "-c", "cat; ls /proc/self/fd | tr '\\n' ' '; echo error >&2")
    leak = os.open("/etc/hostname", os.O_RDONLY)
    (both.home / "in").write_text("typed\n")
    try:
        os.set_inheritable(leak, True)
        with open(both.home / "in") as stdin:
            both.quiet("run", "one", stdin=stdin, pass_fds=(leak,))
    finally:
        os.close(leak)
    # ls itself has the directory open as 3
    assert both.stdout == "typed\n0 1 2 3 "
    assert both.stderr == "error\n"


def test_descriptors_are_preserved_when_asked_for(both: Runtime) -> None:
    def preserve(n: int) -> tuple[int, str]:
        read, write = os.pipe()
        line = f'exec 3<&{read} 4>&{write} 5</dev/null; exec "$@"'
        words = ["bash", "-c", line, "bash", *both.words("run", "--preserve-fds", str(n), "one")]
        done = subprocess.run(
            words,
            pass_fds=(read, write),
            capture_output=True,
            text=True,
            env=both.environment,
            cwd=both.bundle,
            check=False,
        )
        os.close(write)
        with os.fdopen(read) as file:
            return done.returncode, done.stdout + done.stderr + file.read()

    both.config("sh", "-c", "echo hello >&4; ls /proc/self/fd | tr '\\n' ' '")
    status, said = preserve(2)
    assert (status, said) == (0, "0 1 2 3 4 5 hello\n")
    # Of more, those that are open.
    status, said = preserve(9)
    assert (status, said[:12], said[-6:]) == (0, "0 1 2 3 4 5 ", "hello\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nonesuch"], 'exec: "nonesuch": executable file not found in $PATH'),
        (["/bin/nonesuch"], "no such file or directory"),
        (["/etc/passwd"], "permission denied"),
        (["/etc"], "permission denied"),
    ],
)
def test_a_program_that_cannot_run_is_told_by_create(
    both: Runtime, args: list[str], words: str
) -> None:
    both.config(*args)
    assert both.quiet("create", "one", check=False) == 1
    assert words in both.stderr
    assert both.stderr.count("\n") == 1
    assert os.listdir(both.root) == []


def test_a_working_directory_that_is_a_file_is_told(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = "/etc/passwd"

    runtime.config(*SLEEP, change=change)
    assert runtime.quiet("create", "one", check=False) == 1
    assert "/etc/passwd" in runtime.stderr
    assert os.listdir(runtime.root) == []


def test_run_ends_as_its_program_ends(both: Runtime) -> None:
    both.config("sh", "-c", "exit 42")
    assert both.quiet("run", "one", check=False) == 42
    both.config("sh", "-c", "kill -9 $$; sleep 1")
    assert both.quiet("run", "one", check=False) in (0, 137)
    assert os.listdir(both.root) == []


def test_run_keeps_the_container_when_asked(runtime: Runtime) -> None:
    runtime.config("true")
    runtime.quiet("run", "--keep", "one")
    assert runtime.status("one") == "stopped"


def test_run_passes_signals_on(both: Runtime) -> None:
    both.config(
        "sh", "-c", "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    )
    with subprocess.Popen(
        both.words("run", "one"),
        stdout=subprocess.PIPE,
        text=True,
        env=both.environment,
        cwd=both.bundle,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.stdout.readline() == "got\n"
        assert running.wait(10) == 9
    assert os.listdir(both.root) == []


def test_nothing_of_the_runtime_stays_with_a_running_container(both: Runtime) -> None:
    both.config(*SLEEP)
    both.quiet("run", "-d", "one")
    pid = both.pid("one")
    assert os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "busybox"
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert "python" not in Path(f"/proc/{pid}/maps").read_text()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children == []


def test_pause_stops_the_clock_of_every_process(runtime: Runtime) -> None:
    runtime.config("sh", "-c", "while :; do :; done")
    runtime.quiet("run", "-d", "one")
    pid = runtime.pid("one")

    def ticks() -> int:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[11])

    before = ticks()
    until(lambda: ticks() > before, "the loop to use time")
    runtime.call("pause", "one")
    assert runtime.status("one") == "paused"
    frozen = ticks()
    time.sleep(0.1)
    assert ticks() == frozen
    assert runtime.call("pause", "one", check=False).returncode == 1
    assert "paused" in runtime.call("exec", "one", "true", check=False).stderr
    runtime.call("resume", "one")
    assert runtime.status("one") == "running"
    until(lambda: ticks() > frozen, "the loop to go on")
    refused = runtime.call("resume", "one", check=False)
    assert (refused.returncode, "not paused" in refused.stderr) == (1, True)
    runtime.call("pause", "one")
    runtime.call("delete", "--force", "one")
    until(lambda: not alive(pid), "the end of a paused container")


def test_the_log_has_what_went_wrong(runtime: Runtime) -> None:
    log = runtime.home / "log"
    runtime.call("--log-format=json", "--log", str(log), "start", "none", check=False)
    line = json.loads(log.read_text())
    assert line["level"] == "error"
    assert "does not exist" in line["msg"]
    assert line["time"][10] == "T"
    assert line["time"].endswith("Z")
    log.unlink()
    runtime.call("--log", str(log), "start", "none", check=False)
    assert 'level=error msg="container does not exist: none"' in log.read_text()


@pytest.mark.parametrize("length", [300, 5000, 70_000, 120_000])
def test_a_program_of_a_very_long_name_is_told_of(both: Runtime, length: int) -> None:
    """What is wrong inside comes out whole, and the sentence stays one that can be read."""
    both.config("x" * length)
    done = both.call("run", "long", check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "unable to start container process: exec" in line
    assert "executable file not found in $PATH" in line or "name too long" in line
    assert len(line) < 2500
    assert not both.root.exists() or os.listdir(both.root) == []
    both.config("sleep", "1000")
    both.quiet("run", "--detach", "one")
    done = both.call("exec", "one", "y" * length, check=False)
    assert done.returncode == 255
    assert "executable file not found in $PATH" in done.stderr or "name too long" in done.stderr
