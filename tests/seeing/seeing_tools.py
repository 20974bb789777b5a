"""Situations made with plain tools, for the tests of what is seen of them."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
SHELL = ("sh", "-c", "echo ready; read line")
USER = "nobody"  # exists everywhere, and owns nothing


@contextlib.contextmanager
def running(*command, **options):
    """A command that says "ready" when it is; its pid, and the end of all it started."""
    # A session of its own, so that the whole group can be ended by the number we know.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        **options,
    )
    try:
        line = process.stdout.readline()
        assert line == b"ready\n", (command, line)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.stdin.close()
        process.stdout.close()
        process.wait()


def child(pid):
    """The first child of a process: what `unshare --fork` has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


@contextlib.contextmanager
def unshared(*options, command=SHELL, **more):
    """The pid of a command in new namespaces."""
    with running("unshare", *options, *command, **more) as pid:
        yield child(pid) if {"-f", "--fork"} & set(options) else pid


def python(script, *arguments):
    """The command that runs a script with the project to import from."""
    begin = f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
    # Debian's own Python, which ordinary users and other roots may run.
    return ("/usr/bin/python3", "-B", "-c", begin + script, *arguments)


def answer(*command):
    """What a command prints, as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def as_user(*command, user=USER):
    """The command, run as an ordinary user."""
    return ("setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups",
            *command)  # fmt: skip


def remove(place):
    """A directory that podman has used: its own clean-up may still be at it, and mount again."""
    for _ in range(100):
        if not named_in_a_command(str(place)):
            break
        time.sleep(0.1)
    for _ in range(50):
        overlay = f"{place}/podman/overlay"
        subprocess.run(["umount", "-R", "-l", overlay], capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)
        if not os.path.exists(place):
            return
        time.sleep(0.1)
    raise AssertionError(f"{place} could not be removed")


def named_in_a_command(words):
    """Whether a process has these words in its command line."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
    return False


def inode(pid, kind):
    """The number of a process's namespace, as stat(2) tells it."""
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def found(system, number):
    """The namespace with an inode number; None when the scan did not find it."""
    return next((s for s in system.spaces.values() if s.key.inode == number), None)


assert sys.version_info >= (3, 11)
