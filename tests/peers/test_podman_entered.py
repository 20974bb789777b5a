"""`ctrt exec` in podman's containers, as root and as the user whose containers they are."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peers_engines import IMAGE, Podman

KINDS = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")


@pytest.fixture(scope="module")
def world(podman: Podman, request: pytest.FixtureRequest) -> Any:
    """The user of podman, who has ctrt, too."""
    return request.getfixturevalue("subordinate_world" if podman.rootless else "root_world")


@pytest.fixture(scope="module")
def box(podman: Podman) -> Iterator[str]:
    yield from made(
        podman, "-e", "COLOR=red", "-w", "/tmp", "--hostname", "theirs", "--cap-drop", "KILL"
    )


def made(podman: Podman, *options: str) -> Iterator[str]:
    name = f"entered-{uuid.uuid4().hex[:8]}"
    podman.check("run", "-d", "--name", name, "--network", "none", *options, IMAGE, "sleep", "1000")
    try:
        yield name
    finally:
        podman("rm", "--force", "--time", "0", name)


def pid_of(podman: Podman, box: str) -> int:
    return int(podman.check("inspect", "--format", "{{.State.Pid}}", box))


def inside(world: Any, target: str, *command: str, options: tuple[str, ...] = ()) -> str:
    done = world.ctrt("exec", *options, target, *command)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def fields(status: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def wait_for(answer: Callable[[], Any]) -> Any:
    end = time.monotonic() + 10
    while not (found := answer()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_what_it_is_from_inside(podman: Podman, world: Any, box: str) -> None:
    script = "id -u; id -g; hostname; pwd; echo $COLOR; echo $HOME"
    out = inside(world, f"podman:{box}", "sh", "-c", script)
    assert out.split() == ["0", "0", "theirs", "/tmp", "red", "/root"]
    assert "127.0.0.1" in inside(world, f"podman:{box}", "ip", "addr", "show", "lo")
    first, own = (
        fields(inside(world, f"podman:{box}", "cat", f"/proc/{process}/status"))
        for process in ("1", "self")
    )
    assert [own[name] for name in SETS] == [first[name] for name in SETS]
    assert own["Groups"].split() in ([], ["0"])
    mounts = [
        inside(world, f"podman:{box}", "cat", f"/proc/{process}/mountinfo")
        for process in ("1", "self")
    ]
    assert mounts[0] == mounts[1]


def test_what_it_is_from_outside(podman: Podman, world: Any, box: str) -> None:
    ours = 4000 + os.getpid() % 1000  # a command line that no other process has
    words = world.words(str(world.bin / "ctrt"), "exec", f"podman:{box}", "sleep", str(ours))
    with subprocess.Popen(words, env=world.environment(), stderr=subprocess.DEVNULL) as running:
        try:
            there = f"/proc/{pid_of(podman, box)}"
            process = wait_for(lambda: _sleeping(ours))
            for kind in KINDS:
                assert os.readlink(f"{process}/ns/{kind}") == os.readlink(f"{there}/ns/{kind}")
            assert os.stat(f"{process}/root").st_ino == os.stat(f"{there}/root").st_ino
            groups = [Path(place, "cgroup").read_text() for place in (process, there)]
            if not podman.rootless:
                assert groups[0] == groups[1]
            descriptors = os.listdir(f"{process}/fd")
            assert sorted(descriptors) == ["0", "1", "2"]
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 128 + signal.SIGTERM
    assert _sleeping(ours) is None


def _sleeping(seconds: int) -> str | None:
    for number in filter(str.isdecimal, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if command == b"sleep\0%d\0" % seconds:
            return f"/proc/{number}"
    return None


def test_by_its_pid_with_another_user_and_on_a_terminal(
    podman: Podman, world: Any, box: str
) -> None:
    pid = str(pid_of(podman, box))
    options = ("-u", "12:13", "-w", "/etc", "-e", "MORE=yes")
    script = "id -u; id -g; pwd; echo $MORE$COLOR; grep CapEff /proc/self/status"
    out = inside(world, pid, "sh", "-c", script, options=options)
    assert out.split() == ["12", "13", "/etc", "yesred", "CapEff:", "0" * 16]
    assert inside(world, pid, "tty", options=("-t",)).strip().startswith("/dev/pts/")


def test_rights_that_were_given_up_stay_so(podman: Podman, world: Any) -> None:
    for box in made(podman, "--security-opt", "no-new-privileges", "--user", "12", "-e", "HOME=/x"):
        told = fields(inside(world, f"podman:{box}", "cat", "/proc/self/status"))
        first = fields(inside(world, f"podman:{box}", "cat", "/proc/1/status"))
        assert told["NoNewPrivs"] == first["NoNewPrivs"] == "1"
        assert told["CapBnd"] == told["CapEff"] == first["CapBnd"]
        assert told["Uid"].split()[0] == "0"
        assert inside(world, f"podman:{box}", "sh", "-c", "echo $HOME") == "/root\n"


def test_the_plan_says_what_is_joined_and_what_is_not(podman: Podman, world: Any, box: str) -> None:
    done = world.ctrt("exec", "--plan", f"podman:{box}", "true")
    assert "setns(target)" in done.stdout
    assert f"note: the seccomp filter of podman:{box} is not inherited" in done.stdout
    assert done.stderr == ""
    said = world.ctrt("exec", f"podman:{box}", "true").stderr
    assert said.startswith(f"ctrt: the seccomp filter of podman:{box} is not inherited")


def test_files_go_in_and_out(podman: Podman, world: Any, box: str) -> None:
    (world.home / "given").write_text("given\n")
    assert world.ctrt("cp", "given", f"podman:{box}:/tmp/given").returncode == 0
    assert inside(world, f"podman:{box}", "cat", "/tmp/given") == "given\n"
    assert world.ctrt("cp", f"podman:{box}:/tmp/given", "taken").returncode == 0
    assert (world.home / "taken").read_text() == "given\n"


def refused(world: Any, target: str) -> str:
    done = world.ctrt("exec", target, "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.count("\n") == 1
    return str(done.stderr)


def test_what_may_not_be_entered(podman: Podman, world: Any, box: str) -> None:
    said = refused(world, f"podman:{box}-x")
    assert "there is no running container" in said
    assert box in said
    assert "none of its kind is running" in refused(world, "incus:none")
    assert "there is no process 4194305" in refused(world, "4194305")
    assert "it is in the namespaces that you are in" in refused(world, "host")
    if podman.rootless:
        assert "process 1 is root's" in refused(world, "1")


def test_a_paused_one_is_not_waited_for(podman: Podman, world: Any) -> None:
    if podman.rootless:
        pytest.skip("an ordinary user has no cgroup here to pause one in")
    for box in made(podman):
        podman.check("pause", box)
        assert "it is paused" in refused(world, f"podman:{box}")
        podman.check("unpause", box)
        assert inside(world, f"podman:{box}", "echo", "on") == "on\n"
