"""Other commands in running containers, their output, their end and their processes."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from contextlib import contextmanager

import pytest

IMAGE = "localhost/test/box"
SLEEP = ("sleep", "60")


@contextmanager
def detached(world, name, *words):
    """A detached container."""
    result = world.ctrt("run", "-d", "--name", name, *words)
    assert (result.returncode, result.stdout) == (0, f"{name}\n"), result.stderr
    try:
        yield name
    finally:
        world.ctrt("rm", "--force", name)


def inside(world, *words, stdin=""):
    result = world.ctrt("exec", *words, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fields(status):
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def test_a_command_has_the_container_s_rights_and_no_more(world):
    with detached(world, "one", "-e", "A=1", "-w", "/etc", "--cap-drop", "KILL", IMAGE, *SLEEP):
        first, other = (
            fields(inside(world, "one", "cat", f"/proc/{process}/status"))
            for process in ("1", "self")
        )
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
            assert other[name] == first[name]
        assert other["Uid"].split() == first["Uid"].split() == ["0"] * 4
        assert inside(world, "one", "sh", "-c", "echo $A; pwd; hostname") == "1\n/etc\none\n"
        for kind in ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup"):
            script = f"test $(readlink /proc/1/ns/{kind}) = $(readlink /proc/self/ns/{kind})"
            inside(world, "one", "sh", "-c", script)


def test_status_streams_and_options(world):
    with detached(world, "one", IMAGE, *SLEEP):
        result = world.ctrt("exec", "one", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 7)
        assert inside(world, "-e", "B=two words", "-w", "/proc", "one", "sh", "-c", "echo $B; pwd")
        assert inside(world, "-i", "one", "cat", stdin="typed") == "typed"
        assert inside(world, "one", "cat", stdin="typed") == ""
        assert world.ctrt("exec", "one", "nowhere").returncode == 127
        # What a command has left does not outlive the container.
        inside(world, "one", "sh", "-c", "sleep 50 >/dev/null 2>&1 & echo left")


def test_another_user(root_world):
    with detached(root_world, "one", IMAGE, *SLEEP):
        made = "mkdir -p /etc; echo me:x:7:8:me:/home/me:/bin/sh"
        inside(root_world, "one", "sh", "-c", f"{made} > /etc/passwd; echo more:x:9:me >/etc/group")
        found = inside(root_world, "-u", "me", "one", "sh", "-c", "id -u; id -g; id -G; echo $HOME")
        assert found == "7\n8\n8 9\n/home/me\n"
        status = fields(inside(root_world, "-u", "5", "one", "cat", "/proc/self/status"))
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        result = root_world.ctrt("exec", "-u", "nobody-else", "one", "true")
        assert (result.returncode, "no user 'nobody-else'" in result.stderr) == (125, True)


def test_links_of_a_container_lead_nowhere_else(root_world):
    """Its /etc/passwd is read as the container sees it."""
    with detached(root_world, "one", IMAGE, *SLEEP):
        inside(root_world, "one", "sh", "-c", "mkdir -p /etc; ln -s /proc/1/root/etc/passwd /etc/x")
        inside(root_world, "one", "ln", "-sf", "../../../../../../etc/shadow", "/etc/passwd")
        result = root_world.ctrt("exec", "-u", "daemon", "one", "true")
        assert "no user 'daemon'" in result.stderr


def test_a_terminal(world):
    with detached(world, "one", IMAGE, *SLEEP):
        text = at_terminal(
            world, "exec", "-it", "one", "sh", "-c", "tty; stty size; read a; exit 4"
        )
        assert "/dev/pts/" in text[0]
        assert "24 90" in text[0]
        assert text[1] == 4


def test_run_has_a_terminal_too(root_world):
    text, status = at_terminal(
        root_world, "run", "-it", IMAGE, "sh", "-c", "tty; read a; echo got $a"
    )
    assert "/dev/pts/0" in text or "/dev/console" in text
    assert "got typed" in text
    assert status == 0


def at_terminal(world, *words):
    """Run ctrt at a terminal, and answer with a line when it has written one: (text, status)."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    process = subprocess.Popen(
        world.words(str(world.bin / "ctrt"), *words),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=world.environment(),
        start_new_session=True,
    )
    os.close(theirs)
    text = b""
    answered = False
    end = time.monotonic() + 20
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    data = os.read(ours, 4096)
                except OSError:
                    break
                if not data:
                    break
                text += data
            if not answered and text.endswith(b"\n"):
                os.write(ours, b"typed\n")
                answered = True
        return text.decode(errors="replace"), process.wait(timeout=10)
    finally:
        os.close(ours)
        process.kill()


@pytest.mark.parametrize("words", [(), ("one",), ("nothing", "true"), ("--usr=0", "one", "true")])
def test_a_mistake_is_one_sentence(root_world, words):
    result = root_world.ctrt("exec", *words)
    assert result.returncode == 125
    assert result.stderr.startswith("ctrt: ")
    assert result.stderr.count("\n") == 1


def test_the_plan_of_a_command(root_world):
    with detached(root_world, "one", IMAGE, *SLEEP):
        plan = inside(root_world, "--plan", "one", "true")
        assert "setns(" in plan
        assert 'execve("true")' in plan


# --- output and end ---------------------------------------------------------------------------


def test_output_is_kept_after_the_end(subordinate_world):
    world = subordinate_world
    script = "echo first; echo second >&2; echo third; exit 3"
    with detached(world, "said", IMAGE, "sh", "-c", script):
        assert world.ctrt("wait", "said").stdout == "3\n"
        assert world.ctrt("logs", "said").stdout == "first\nsecond\nthird\n"
        assert world.ctrt("logs", "--tail", "2", "said").stdout == "second\nthird\n"
        assert world.ctrt("logs", "-n", "0", "said").stdout == ""
        assert world.ctrt("logs", "-n", "9", "said").stdout == "first\nsecond\nthird\n"
        assert re.search(r"said .*ended with 3", world.ctrt("ps", "--all").stdout)
        assert "said" not in world.ctrt("ps").stdout
    assert world.ctrt("logs", "said").returncode == 125
    assert "said" not in world.ctrt("ps", "--all").stdout


def test_output_is_followed_to_the_end(world):
    script = "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo last; exit 1"
    with detached(world, "told", IMAGE, "sh", "-c", script):
        follower = subprocess.Popen(
            world.words(str(world.bin / "ctrt"), "logs", "--follow", "told"),
            stdout=subprocess.PIPE,
            env=world.environment(),
            text=True,
        )
        assert follower.stdout.readline() == "first\n"
        inside(world, "told", "touch", "/go")
        assert follower.communicate(timeout=20)[0] == "last\n"
        assert follower.returncode == 0
        assert world.ctrt("wait", "told").stdout == "1\n"


def test_a_killed_container_s_status(root_world):
    with detached(root_world, "ended", IMAGE, *SLEEP):
        root_world.ctrt("stop", "-t", "0", "ended")
        assert root_world.ctrt("wait", "ended").stdout == "137\n"


def test_the_same_name_again_begins_a_new_record(root_world):
    for number in ("1", "2"):
        assert root_world.ctrt("run", "-d", "--name", "again", IMAGE, "echo", number).stdout
        assert root_world.ctrt("wait", "again").stdout == "0\n"
    assert root_world.ctrt("logs", "again").stdout == "2\n"
    assert root_world.ctrt("ps", "-a").stdout.count("again ") == 1
    root_world.ctrt("rm", "again")


def test_a_start_that_fails_leaves_no_record(root_world):
    assert root_world.ctrt("run", "-d", "--name", "never", IMAGE, "nowhere").returncode == 127
    assert root_world.ctrt("logs", "never").returncode == 125
    with detached(root_world, "kept", IMAGE, "sh", "-c", "echo mine; sleep 60"):
        assert root_world.ctrt("run", "-d", "--name", "kept", IMAGE, "true").returncode == 125
        assert root_world.ctrt("logs", "kept").stdout == "mine\n"


def test_what_runs_is_not_forgotten_without_force(root_world):
    with detached(root_world, "busy", IMAGE, *SLEEP):
        result = root_world.ctrt("rm", "busy")
        assert (result.returncode, "busy is running" in result.stderr) == (125, True)
        assert "busy" in root_world.ctrt("ps").stdout


# --- top --------------------------------------------------------------------------------------


def test_top_numbers_processes_inside_and_outside(world):
    script = "sleep 61 & sleep 62; true"
    with detached(world, "seen", IMAGE, "sh", "-c", script):
        rows = [line.split(None, 5) for line in world.ctrt("top", "seen").stdout.splitlines()]
        assert rows[0] == ["PID", "OUTSIDE", "USER", "CAPABILITIES", "COMMAND"]
        commands = {}
        for row in rows[1:]:
            assert row[2:5] == ["root", "default", "(11)"]
            commands[row[5]] = (row[0], row[1])
        assert commands[f"sh -c {script}"][0] == "1"
        assert {"sleep 61", "sleep 62"} <= set(commands)
        for text, (_, outside) in commands.items():
            with open(f"/proc/{outside}/cmdline") as file:
                assert file.read().replace("\0", " ").strip() == text
        listed = [line.split() for line in world.ctrt("top").stdout.splitlines()]
        assert ["seen", "ctrt", "3"] in [row[:3] for row in listed]


def test_top_of_what_is_not_there(root_world):
    result = root_world.ctrt("top", "nothing")
    assert (result.returncode, result.stderr.count("\n")) == (125, 1)
