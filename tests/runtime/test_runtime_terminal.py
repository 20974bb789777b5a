"""Terminals: the container's own, with its master at the caller's."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, until


def _terminal(config: dict[str, Any]) -> None:
    config["process"]["terminal"] = True
    config["process"]["consoleSize"] = {"height": 30, "width": 100}


def _read(master: int, wanted: str, seconds: float = 10) -> str:
    text = ""
    while wanted not in text:
        assert select.select([master], [], [], seconds)[0], f"no {wanted!r} in {text!r}"
        try:
            text += os.read(master, 4096).decode()
        except OSError:
            raise AssertionError(f"no {wanted!r} in {text!r}") from None
    return text


class Console:
    """The socket that a terminal's master comes to, as conmon has one."""

    def __init__(self, runtime: Runtime) -> None:
        self.path = str(runtime.home / "console.sock")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self._socket.listen(1)

    def master(self) -> int:
        self._socket.settimeout(10)
        connection, _ = self._socket.accept()
        data, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        assert data
        connection.close()
        self._socket.close()
        return descriptors[0]


def test_the_master_comes_over_the_socket(both: Runtime) -> None:
    both.config("sh", "-c", "tty; stty size; ls -l /proc/self/fd/0; read line; echo \"<$line>\"",
                change=_terminal)  # fmt: skip
    console = Console(both)
    both.quiet("create", "--console-socket", console.path, "one")
    master = console.master()
    both.call("start", "one")
    text = _read(master, "/0")
    assert "/dev/pts/0" in text
    text += _read(master, "30 100") if "30 100" not in text else ""
    pid = both.pid("one")
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert stat[4] != "0"  # it has a controlling terminal
    assert os.stat(f"/proc/{pid}/root/dev/console").st_rdev == os.stat(f"/proc/{pid}/fd/0").st_rdev
    os.write(master, b"typed\n")
    _read(master, "<typed>")
    os.close(master)


def test_a_terminal_needs_somebody_who_looks_after_it(runtime: Runtime) -> None:
    runtime.config("true", change=_terminal)
    assert runtime.quiet("create", "one", check=False) == 1
    assert "console socket" in runtime.stderr
    runtime.config("true")
    assert runtime.quiet("create", "--console-socket", "/none", "one", check=False) == 1
    assert not runtime.root.exists() or os.listdir(runtime.root) == []


class OnTerminal:
    """The command in the foreground of a terminal of ours."""

    def __init__(self, runtime: Runtime, *words: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            runtime.words(*words),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=runtime.environment,
            cwd=runtime.bundle,
            start_new_session=True,
        )
        os.close(slave)

    def resize(self, height: int, width: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def end(self) -> int:
        status = self.process.wait(10)
        os.close(self.master)
        return status


def test_run_joins_the_terminals(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    both.config("sh", change=change)
    shown = OnTerminal(both, "run", "one")
    os.write(shown.master, b"stty size; tty; echo a-$((40+2))-b\n")
    text = _read(shown.master, "a-42-b")
    assert "40 120" in text
    assert "/dev/pts/0" in text
    shown.resize(50, 130)
    until(lambda: _size(shown.master, b"stty size\n") == "50 130", "the new size")
    os.write(shown.master, b"sh -c 'echo c-$((40+3))-d; exec sleep 1000'\n")
    _read(shown.master, "c-43-d")
    os.write(shown.master, b"\x03")  # an interrupt typed here is one in the container
    os.write(shown.master, b"exit 7\n")
    assert shown.end() == 7


def _size(master: int, typed: bytes) -> str:
    os.write(master, typed)
    text = _read(master, "stty size\r\n")
    while "\r\n" not in text.partition("stty size\r\n")[2]:
        text += os.read(master, 4096).decode()
    return text.partition("stty size\r\n")[2].partition("\r\n")[0]


def test_exec_joins_the_terminals(both: Runtime) -> None:
    both.config("sleep", "1000")
    both.quiet("run", "-d", "one")
    shown = OnTerminal(both, "exec", "-t", "one", "sh")
    os.write(shown.master, b"tty; stty size; echo a-$((40+2))-b\n")
    text = _read(shown.master, "a-42-b")
    assert "/dev/pts/0" in text
    assert "40 120" in text
    os.write(shown.master, b"exit 3\n")
    assert shown.end() == 3


def test_exec_sends_its_master_over_a_socket(both: Runtime) -> None:
    both.config("sleep", "1000")
    both.quiet("run", "-d", "one")
    console = Console(both)
    document = {
        "args": ["sh", "-c", "tty; stty size; read line"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "terminal": True,
        "consoleSize": {"height": 20, "width": 70},
    }
    path = both.home / "process.json"
    path.write_text(json.dumps(document))
    both.quiet(
        *("exec", "--process", str(path), "--tty", "--console-socket", console.path),
        *("--detach", "--pid-file", str(both.home / "pid"), "one"),
    )
    master = console.master()
    assert "20 70" in _read(master, "20 70")
    pid = int((both.home / "pid").read_text())
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/pts/0"
    os.write(master, b"\n")
    os.close(master)


@pytest.mark.parametrize("typed", ["echo one\n", ""])
def test_a_terminal_without_one_here_shows_its_output(runtime: Runtime, typed: str) -> None:
    runtime.config("sleep", "1000")
    runtime.quiet("run", "-d", "one")
    done = runtime.call("exec", "-t", "one", "sh", "-c", "tty; exit 4", stdin=typed, check=False)
    assert done.returncode == 4
    assert "/dev/pts/0\n" in done.stdout
