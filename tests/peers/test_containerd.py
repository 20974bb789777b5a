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
from peers_engines import RUNTIMES, busybox_archive, runtime_path

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

    def ctr(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", self.address, "--namespace", "peers", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
        return subprocess.CompletedProcess(
            words, done.returncode, done.stdout.decode(), done.stderr.decode()
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
    assert "memory" in containerd.check("tasks", "metrics", box)


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
