"""Entering a process that nobody of ours has started, known by its pid alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ctrt.engine import Engine
from ctrt.errors import CtrtError
from ctrt.linux import calls
from ctrt.runtime import executor


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(str(tmp_path_factory.mktemp("entering") / "store"))
    yield engine
    engine.destroy()


@pytest.fixture
def root(tmp_path):
    """A directory with a shell and a directory to work in."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox")
    for name in ("bin", "work"):
        (tmp_path / name).mkdir()
    shutil.copy(busybox, tmp_path / "bin" / "busybox")
    (tmp_path / "bin" / "sh").symlink_to("busybox")
    return tmp_path


@contextmanager
def sleeping(*words, name="sleep"):
    """A process that has come so far as to sleep."""
    with subprocess.Popen(words, env={"PATH": os.environ["PATH"], "COLOR": "red"}) as process:
        try:
            end = time.monotonic() + 10
            command = b"".join(word.encode() + bytes(1) for word in (*name.split(), "600"))
            while Path(f"/proc/{process.pid}/cmdline").read_bytes() != command:
                assert time.monotonic() < end
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def inside(engine, target, *words):
    prepared = engine.prepare_exec(engine.find(str(target)), list(words))
    return engine.start(prepared).collect().check().text()


def test_a_root_and_a_directory_of_its_own(engine, root):
    """Where an ordinary user's unshare(1) leads: a chroot, one id, and no setgroups(2)."""
    words = ("chroot", root, "/bin/sh", "-c", "cd /work; exec busybox sleep 600")
    with sleeping("unshare", "-Urm", *words, name="busybox sleep") as process:
        found = engine.find(str(process.pid))
        assert (found.chroot, found.keeps_groups) == (True, True)
        script = "pwd; echo $COLOR; busybox id -u; cd /; echo *; cd ..; echo *"
        said = inside(engine, process.pid, "/bin/sh", "-c", script)
        assert said.split() == ["/work", "red", "0", "bin", "work", "bin", "work"]


def test_a_pid_is_believed_with_its_start_time_only(engine):
    with sleeping("unshare", "-n", "sleep", "600") as process:
        found = engine.find(str(process.pid))
        assert inside(engine, process.pid, "ls", "/sys/class/net/lo").strip()
        found.start_time += 1  # as if another process had got the number meanwhile
        with pytest.raises(CtrtError, match="ended"):
            engine.start(engine.prepare_exec(found, ["true"]))
        found = engine.find(str(process.pid))
    with pytest.raises(CtrtError, match=r"No such process|ended"):
        engine.start(engine.prepare_exec(found, ["true"]))
    with pytest.raises(CtrtError, match=f"there is no process {process.pid}"):
        engine.find(str(process.pid))


def test_who_is_nowhere_else_is_not_entered(engine):
    with (
        sleeping("sleep", "600") as process,
        pytest.raises(CtrtError, match="it is in the namespaces that you are in"),
    ):
        engine.find(str(process.pid))


def test_a_user_namespace_without_ids_is_not_entered(engine):
    with (
        sleeping("unshare", "-U", "sleep", "600") as process,
        pytest.raises(CtrtError, match="its user namespace has no id map yet"),
    ):
        engine.find(str(process.pid))


def first_below(process):
    """The pid of a process's only child, when that sleeps."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if found and Path(f"/proc/{found[0]}/cmdline").read_bytes().startswith(b"sleep"):
            return int(found[0])
        time.sleep(0.01)
    raise AssertionError("nothing sleeps")


def test_what_is_started_next_is_not_in_the_entered_pid_namespace(engine):
    """The launcher's children are born elsewhere just as long as one enters."""
    words = ("unshare", "-p", "--fork", "--kill-child", "sleep", "600")
    asked = ("readlink", "/proc/self/ns/pid_for_children")
    own = os.readlink("/proc/self/ns/pid")
    with (
        subprocess.Popen(words) as above,
        sleeping("unshare", "-n", "sleep", "600") as beside,
    ):
        try:
            there = os.readlink(f"/proc/{first_below(above)}/ns/pid")
            shown = "import os; print(os.getpid())"
            assert int(inside(engine, first_below(above), "python3", "-c", shown)) < 100
            assert there != own
            assert inside(engine, beside.pid, *asked).strip() == own
        finally:
            above.kill()


def test_a_refused_join_leaves_no_process(monkeypatch):
    """The process is made first and joins then: where that fails, it is gone and was waited for."""

    def refused(descriptor, flags):
        raise calls.KernelError(1, "setns")

    def children():
        return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()

    with sleeping("unshare", "-n", "sleep", "600") as process:
        before = children()
        plan = (
            ("container", "outside", (("open_process", process.pid, 0, "target"),)),
            ("clone", "outside", (("clone", 0, None, (("target", 0),), None),)),
            ("program", "inside", (("exec", ("true",), ()),)),
        )
        monkeypatch.setattr(calls, "setns", refused)
        with pytest.raises(executor.StartError, match="setns: Operation not permitted"):
            executor.execute(plan, {"stdin": 0, "stdout": 1, "stderr": 2})
        assert children() == before
