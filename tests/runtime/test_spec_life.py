"""Words of the command line that suites of other runtimes use, and what they do."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive, until


def test_a_configuration_of_another_name(both: Runtime) -> None:
    both.config("echo", "from elsewhere")
    (both.bundle / "other").mkdir()
    (both.bundle / "config.json").rename(both.bundle / "other/set.json")
    both.quiet("run", "--config", "other/set.json", "one")
    assert both.stdout == "from elsewhere\n"
    both.quiet("create", "-f", str(both.bundle / "other/set.json"), "two")
    state = both.state("two")
    assert (state["status"], state["bundle"]) == ("created", str(both.bundle))
    done = both.call("run", "--config", "none.json", "three", check=False)
    assert done.returncode == 1
    assert "JSON specification file none.json not found" in done.stderr


def test_a_relative_configuration_is_the_callers_not_the_bundles(runtime: Runtime) -> None:
    runtime.config("echo", "the bundle's")
    (runtime.bundle / "other").mkdir()
    text = (runtime.bundle / "config.json").read_text()
    (runtime.bundle / "here.json").write_text(text.replace("the bundle's", "the caller's"))
    runtime.quiet("run", "--bundle", str(runtime.bundle / "other"), "-f", "here.json", "one")
    assert runtime.stdout == "the caller's\n"


def test_a_container_that_was_never_started_is_deleted(both: Runtime) -> None:
    both.config("sleep", "1000")
    both.quiet("create", "one")
    pid = both.pid("one")
    both.call("delete", "one")
    assert not alive(pid)
    assert both.call("state", "one", check=False).returncode == 1
    both.quiet("run", "--detach", "two")
    refused = both.call("delete", "two", check=False)
    assert refused.returncode == 1
    assert "cannot delete container two that is not stopped: running" in refused.stderr
    assert both.status("two") == "running"


def test_several_containers_by_a_regular_expression(runtime: Runtime) -> None:
    runtime.config("sleep", "1000")
    pids = {}
    for name in ("web-1", "web-2", "db-1"):
        runtime.quiet("run", "--detach", name)
        pids[name] = runtime.pid(name)
    runtime.call("kill", "--regex", "^web-", "KILL")
    until(lambda: not alive(pids["web-1"]) and not alive(pids["web-2"]), "both to end")
    assert alive(pids["db-1"])
    runtime.call("delete", "--force", "--regex", "1$")
    assert runtime.call("list", "--quiet").stdout.split() == ["web-2"]
    assert not alive(pids["db-1"])
    refused = runtime.call("delete", "--regex", "*", check=False)
    assert refused.returncode == 1
    assert "'*' is no regular expression" in refused.stderr


@pytest.mark.skipif(
    not os.access("/sys/fs/cgroup/freezer/cgroup.procs", os.W_OK),
    reason="this machine has no freezer of cgroup v1",
)
def test_a_container_that_another_has_frozen_is_deleted(runtime: Runtime) -> None:
    frozen = Path(f"/sys/fs/cgroup/freezer/test-{os.getpid()}")
    runtime.config("sleep", "1000")
    runtime.quiet("run", "--detach", "one")
    pid = runtime.pid("one")
    frozen.mkdir()
    try:
        (frozen / "cgroup.procs").write_text(str(pid))
        (frozen / "freezer.state").write_text("FROZEN")
        runtime.call("delete", "--force", "one")
        assert not alive(pid)
    finally:
        (frozen / "freezer.state").write_text("THAWED")
        frozen.rmdir()


def test_a_pidfd_goes_where_the_annotation_says(both: Runtime) -> None:
    path = both.home / "receiver.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen(1)
        server.settimeout(20)

        def change(config: dict[str, Any]) -> None:
            config["annotations"] = {"run.oci.pidfd_receiver": str(path)}

        both.config("sleep", "1000", change=change)
        both.quiet("run", "--detach", "one")
        connection, _ = server.accept()
        with connection:
            _, (pidfd,), _, _ = socket.recv_fds(connection, 100, 4)
    try:
        pid = both.pid("one")
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            assert f"Pid:\t{pid}\n" in file.read()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        until(lambda: not alive(pid), "the process to end")
    finally:
        os.close(pidfd)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "this/is/none"), "invalid character `/` in the ID"),
        (("run", ".hidden"), "invalid container ID format"),
        (("--log=floppy:/x", "list"), "'floppy' is no kind of log"),
    ],
)
def test_words_that_are_refused(runtime: Runtime, words: tuple[str, ...], told: str) -> None:
    runtime.config("true")
    done = runtime.call(*words, check=False)
    assert done.returncode == 1
    assert told in done.stderr


def test_a_terminal_without_anybody_to_look_after_it(both: Runtime) -> None:
    both.config("true", change=lambda config: config["process"].update(terminal=True))
    done = both.call("run", "--detach", "one", check=False)
    assert done.returncode == 1
    assert "use --console-socket" in done.stderr


def test_a_log_with_its_kind(runtime: Runtime) -> None:
    log = runtime.home / "log"
    done = runtime.call("--log-format=json", f"--log=file:{log}", "state", "none", check=False)
    assert done.returncode == 1
    assert json.loads(log.read_text())["msg"] == "container does not exist: none"


def test_flags_that_change_nothing_here(runtime: Runtime) -> None:
    runtime.config("echo", "as ever")
    runtime.quiet("run", "--no-subreaper", "one")
    assert runtime.stdout == "as ever\n"


def test_a_container_without_a_process_is_created_and_cannot_be_started(both: Runtime) -> None:
    """runtime.md, Start: process is optional until then."""
    both.config("true", change=lambda config: config.pop("process"))
    both.quiet("create", "one")
    assert both.status("one") == "created"
    done = both.call("start", "one", check=False)
    assert done.returncode == 1
    assert "its configuration has no process, and a start needs one" in done.stderr
    assert "Traceback" not in done.stderr
    both.await_status("one", "stopped")
    both.call("delete", "one")
    assert both.quiet("run", "two", check=False) == 1
    assert "has no process" in both.stderr
    assert os.listdir(both.root) == []


def test_a_paused_container_is_not_started(both: Runtime) -> None:
    both.config("true")
    both.quiet("create", "one")
    if both.call("pause", "one", check=False).returncode:
        pytest.skip("it has no cgroup of its own here")
    done = both.call("start", "one", check=False)
    assert (done.returncode, "cannot start a container in the paused state" in done.stderr) == (
        1,
        True,
    )
    both.call("resume", "one")
    both.call("start", "one")


def test_an_exec_of_nothing_is_no_exec_that_failed(runtime: Runtime) -> None:
    """The exit status 255 is for a process that could not be started."""
    assert runtime.call("exec", check=False).returncode == 1
    assert runtime.call("exec", "--nonsense", "one", "true", check=False).returncode == 1
    assert runtime.call("exec", "one", "true", check=False).returncode == 255
