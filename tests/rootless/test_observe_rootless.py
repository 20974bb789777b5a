"""What an ordinary user sees: their own containers in full, others' not at all, and why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

USER = "nobody"  # exists everywhere, and owns nothing
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Runs as the user: makes a container with unshare(1), and prints what it looks like.
SCRIPT = """
import json, os, signal, subprocess, sys
sys.path.insert(0, sys.argv[1])
from ctrt import draw
from ctrt.errors import CtrtError
from ctrt.observe import Unknown, capabilities, snapshot

def look(*options):
    process = subprocess.Popen(
        ["unshare", *options, "sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )
    try:
        assert process.stdout.readline() == b"ready\\n"
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            pid = int(file.read().split()[0])
        found = snapshot(pid)
        return {
            "differing": found.differing,
            "maps": [[list(line) for line in user.uid_map] for user in found.users],
            "owners": [user.owner_uid for user in found.users],
            "text": draw.container(found).text(),
            "effective": capabilities(pid).effective,
        }
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

first = look("-UinpmrC", "-f", "--mount-proc")
second = look("-UinpmrC", "-f", "--mount-proc")
other = snapshot(1)
print(json.dumps({
    "uid": os.getuid(),
    "container": first,
    "same": first == second,
    "hidden": [isinstance(space, Unknown) and space.reason for space in other.namespaces.values()],
    "hidden_text": draw.container(other).text(200),
}))
"""


def interpreter():
    """A Python that the user may run: this one may lie in root's home."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        asked = (
            "runuser",
            "-u",
            USER,
            "--",
            path,
            "-I",
            "-c",
            "import sys; print(sys.version_info)",
        )
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip("no Python that an ordinary user may run")


@pytest.fixture(scope="module")
def seen():
    if os.geteuid() == 0:
        command = ["runuser", "-u", USER, "--", interpreter(), "-B"]
    else:
        command = [shutil.which("python3"), "-B"]
    done = subprocess.run(
        [*command, "-c", SCRIPT, ROOT],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_their_own_container_in_full(seen):
    container = seen["container"]
    assert container["differing"] == ["user", "pid", "mnt", "net", "ipc", "cgroup"]
    assert container["maps"][1] == [[0, seen["uid"], 1]]
    assert container["owners"][1] == seen["uid"]
    assert container["effective"].bit_count() >= 38  # all that the kernel knows


def test_the_picture(seen):
    text = seen["container"]["text"]
    assert text.startswith("Container sh\n\nuser[host]\n└─ user[1] ")
    assert f"ids 0 → {seen['uid']} outside" in text or f"uid 0 → {seen['uid']}" in text
    assert "pid 1 inside" in text
    assert "shared with the host: uts, time" in text


def test_the_same_again(seen):
    assert seen["same"]


def test_a_process_of_root_cannot_be_read_and_the_reason_is_given(seen):
    reason = "no permission to look into that process"
    assert seen["hidden"] == [reason] * 8
    assert reason in seen["hidden_text"]
    assert "user[?]" in seen["hidden_text"]
