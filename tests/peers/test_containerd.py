"""containerd's shim on a runtime: a daemon of our own, and `ctr` with --runc-binary."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from peers_engines import RUNTIMES, busybox_archive, on_terminal, runtime_path

IMAGE = "localhost/peers/box:latest"
CONFIGURATION = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{folder}/sock"
[debug]
level = "warn"
"""


class Containerd(NamedTuple):
    """A running daemon."""

    folder: Path
    address: str

    def words(self, *words: str) -> tuple[str, ...]:
        return ("ctr", "--address", self.address, "--namespace", "peers", *words)

    def ctr(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*words), input=stdin, capture_output=True, timeout=60, check=False
        )
        return subprocess.CompletedProcess(
            words, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def on_terminal(self, *words: str, typed: str) -> str:
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb"}
        return on_terminal(
            self.words(*words), typed=typed, environment=environment, folder=self.folder
        )

    def check(self, *words: str, stdin: bytes = b"") -> str:
        done = self.ctr(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    folder = Path(tempfile.mkdtemp(prefix="ctrt-ctrd-", dir="/var/tmp"))
    (folder / "config.toml").write_text(CONFIGURATION.format(folder=folder))
    log = (folder / "log").open("wb")
    # The path of the shim's socket has room for 100 characters: it is in /run/containerd/s.
    daemon = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "containerd", "--config", folder / "config.toml"],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    made = Containerd(folder, f"{folder}/sock")
    try:
        end = time.monotonic() + 30
        while made.ctr("version").returncode != 0:
            assert daemon.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        layout = folder / "layout"
        words = ["umoci", "init", "--layout", layout]
        subprocess.run(words, check=True, capture_output=True)
        image = ["--image", f"{layout}:latest"]
        subprocess.run(["umoci", "new", *image], check=True, capture_output=True)
        tree = folder / "tree"
        tree.mkdir()
        subprocess.run(["tar", "-x", "-C", tree], input=busybox_archive(), check=True)
        subprocess.run(["umoci", "insert", *image, tree, "/"], check=True, capture_output=True)
        archive = folder / "box.tar"
        subprocess.run(["tar", "-c", "-C", layout, "-f", archive, "."], check=True)
        made.check("images", "import", "--index-name", IMAGE, str(archive))
        yield made
    finally:
        for task in made.ctr("tasks", "ls", "-q").stdout.split():
            made.ctr("tasks", "delete", "--force", task)
        for container in made.ctr("containers", "ls", "-q").stdout.split():
            made.ctr("containers", "delete", container)
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(10)
        daemon.kill()
        daemon.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", params=RUNTIMES)
def binary(request: pytest.FixtureRequest) -> str:
    world: Any = request.getfixturevalue("root_world")
    return runtime_path(request.param, world.bin)


def name() -> str:
    return f"peer-{uuid.uuid4().hex[:8]}"


def run_words(binary: str, *words: str) -> tuple[str, ...]:
    return ("run", "--runc-binary", binary, "--snapshotter", "native", *words)


@pytest.fixture(scope="module")
def box(containerd: Containerd, binary: str) -> Iterator[str]:
    made = name()
    containerd.check(*run_words(binary, "-d", "--memory-limit", str(64 << 20), IMAGE, made,
                                "sleep", "1000"))  # fmt: skip
    yield made
    containerd.ctr("tasks", "kill", "--signal", "KILL", made)
    containerd.ctr("tasks", "delete", "--force", made)
    containerd.check("containers", "delete", made)


def pid_of(containerd: Containerd, box: str) -> int:
    lines = [line.split() for line in containerd.check("tasks", "ls").splitlines()]
    return next(int(line[1]) for line in lines if line[0] == box)


def status_of(containerd: Containerd, box: str) -> str:
    lines = [line.split() for line in containerd.check("tasks", "ls").splitlines()]
    return next(line[2] for line in lines if line[0] == box)


def test_run_prints_and_ends_with_the_status(containerd: Containerd, binary: str) -> None:
    words = run_words(binary, "--rm", IMAGE, name(), "sh", "-c", "echo out; echo err >&2; exit 7")
    done = containerd.ctr(*words)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_run_of_a_missing_program_says_so(containerd: Containerd, binary: str) -> None:
    made = name()
    done = containerd.ctr(*run_words(binary, "--rm", IMAGE, made, "missing"))
    assert done.returncode != 0
    assert "missing" in done.stderr
    assert "not found" in done.stderr
    containerd.ctr("containers", "delete", made)


def test_a_task_is_a_process_in_its_namespaces(containerd: Containerd, box: str) -> None:
    pid = pid_of(containerd, box)
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    for kind in ("pid", "mnt", "net", "uts", "ipc"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert f"/peers/{box}" in Path(f"/proc/{pid}/cgroup").read_text()


def test_exec(containerd: Containerd, box: str) -> None:
    done = containerd.ctr("tasks", "exec", "--exec-id", "one", box, "sh", "-c", "cat; exit 4",
                          stdin=b"through")  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "through")
    done = containerd.ctr("tasks", "exec", "--exec-id", "two", "--cwd", "/etc", box, "pwd")
    assert done.stdout == "/etc\n"


def test_ps_shows_the_processes(containerd: Containerd, box: str) -> None:
    assert str(pid_of(containerd, box)) in containerd.check("tasks", "ps", box)


def test_pause_and_resume(containerd: Containerd, box: str) -> None:
    containerd.check("tasks", "pause", box)
    assert status_of(containerd, box) == "PAUSED"
    containerd.check("tasks", "resume", box)
    assert status_of(containerd, box) == "RUNNING"


def test_metrics_read_the_cgroup(containerd: Containerd, box: str) -> None:
    lines = [line.split() for line in containerd.check("tasks", "metrics", box).splitlines()]
    found = {line[0]: line[1] for line in lines if len(line) == 2}
    assert int(found["memory.limit_in_bytes"]) == 64 << 20
    assert 0 < int(found["memory.usage_in_bytes"]) < 64 << 20
    assert int(found["cpuacct.usage"]) > 0


SHOW = """
until [ "$(stty size 2>/dev/null)" ]; do sleep 0.1; done
stty size; tty; echo ready; read line; echo got $line
"""


def test_run_on_a_terminal(containerd: Containerd, binary: str) -> None:
    words = run_words(binary, "--rm", "--tty", IMAGE, name(), "sh", "-c", SHOW)
    shown = containerd.on_terminal(*words, typed="typed\n")
    assert "/dev/pts/0" in shown
    assert "33 101" in shown
    assert "got typed" in shown


def test_exec_on_a_terminal(containerd: Containerd, box: str) -> None:
    words = ("tasks", "exec", "--exec-id", name(), "--tty", box, "sh", "-c", SHOW)
    shown = containerd.on_terminal(*words, typed="typed\n")
    assert "/dev/pts/" in shown
    assert "got typed" in shown


def test_a_process_that_is_execed_in_the_background_is_killed(
    containerd: Containerd, box: str
) -> None:
    made = name()
    containerd.check("tasks", "exec", "--detach", "--exec-id", made, box, "sleep", "2345")
    listed = containerd.check("tasks", "ps", box)
    (pid,) = (
        line.split()[0]
        for line in listed.splitlines()[1:]
        if Path(f"/proc/{line.split()[0]}/cmdline").read_bytes() == b"sleep\0002345\0"
    )
    containerd.check("tasks", "kill", "--signal", "KILL", "--exec-id", made, box)
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert status_of(containerd, box) == "RUNNING"


def test_what_the_options_of_run_do(containerd: Containerd, binary: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("of the host\n")
    script = """
        pwd; echo $GIVEN; cat /given/file; grep -E 'CapEff|Seccomp:' /proc/self/status
        touch /bin/x 2>&1; touch /given/x 2>&1; stat -c %t:%T /dev/loop-control
        readlink /proc/self/ns/net; readlink /proc/self/ns/uts
    """
    given = f"type=bind,src={tmp_path},dst=/given,options=rbind:ro"
    words = run_words(
        binary, "--rm", "--cwd", "/etc", "--env", "GIVEN=this", "--mount", given, "--read-only",
        "--cap-add", "CAP_SYS_NICE", "--cap-drop", "CAP_KILL", "--seccomp",
        "--device", "/dev/loop-control", "--net-host", "--with-ns", "uts:/proc/self/ns/uts",
        IMAGE, name(), "sh", "-c", script,
    )  # fmt: skip
    lines = containerd.check(*words).splitlines()
    assert lines[:3] == ["/etc", "this", "of the host"]
    effective, seccomp = (line.split()[1] for line in lines[3:5])
    assert int(effective, 16) & (1 << 5 | 1 << 23) == 1 << 23
    assert seccomp == "2"
    assert all("Read-only file system" in line for line in lines[5:7])
    number = os.stat("/dev/loop-control").st_rdev
    assert lines[7] == f"{os.major(number):x}:{os.minor(number):x}"
    assert lines[8:] == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "uts")]


def test_limits_are_in_the_kernel(containerd: Containerd, binary: str) -> None:
    made = name()
    limits = ("--cpus", "0.5", "--cpu-shares", "300", "--memory-limit", str(48 << 20))
    containerd.check(*run_words(binary, "-d", *limits, IMAGE, made, "sleep", "1000"))
    try:
        found = {}
        for line in Path(f"/proc/{pid_of(containerd, made)}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in filter(None, controllers.split(",")):
                found[controller] = Path(f"/sys/fs/cgroup/{controller}{path}")
            if not controllers:
                found[""] = Path(f"/sys/fs/cgroup{path}")
        if "memory" in found:
            assert (found["memory"] / "memory.limit_in_bytes").read_text() == f"{48 << 20}\n"
            assert (found["cpu"] / "cpu.cfs_quota_us").read_text() == "50000\n"
            assert (found["cpu"] / "cpu.shares").read_text() == "300\n"
        else:
            assert (found[""] / "memory.max").read_text() == f"{48 << 20}\n"
            assert (found[""] / "cpu.max").read_text().split()[0] == "50000"
    finally:
        containerd.ctr("tasks", "kill", "--signal", "KILL", made)
        containerd.ctr("tasks", "delete", "--force", made)
        containerd.check("containers", "delete", made)


def test_kill_and_delete(containerd: Containerd, binary: str) -> None:
    made = name()
    containerd.check(*run_words(binary, "-d", IMAGE, made, "sleep", "1000"))
    pid = pid_of(containerd, made)
    containerd.check("tasks", "kill", "--signal", "KILL", made)
    end = time.monotonic() + 10
    while status_of(containerd, made) != "STOPPED":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
    containerd.check("tasks", "delete", made)
    containerd.check("containers", "delete", made)
    assert made not in containerd.check("containers", "ls", "-q")
